//! `{% generation %}`, which marks what the assistant wrote.

/// `{% generation %}` marks, for training, what the assistant wrote. Rendered, it is a block that does nothing; an
/// `if true` in its place keeps the white space around the tags as Jinja treats it.
pub fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        match generation_tag(tag) {
            Some((replacement, length)) => {
                result.push_str(&replacement);
                rest = &tag[length..];
            }
            None => {
                result.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    result.push_str(rest);
    result
}

/// The replacement for a generation tag at the start of `text`, and the tag's length.
fn generation_tag(text: &str) -> Option<(String, usize)> {
    let body = text.strip_prefix("{%")?;
    let end = body.find("%}")?;
    let mut word = &body[..end];
    let open = word.chars().next().filter(|sign| matches!(sign, '-' | '+')).map_or("", |_| &word[..1]);
    word = &word[open.len()..];
    let close =
        word.chars().last().filter(|sign| matches!(sign, '-' | '+')).map_or("", |_| &word[word.len() - 1..]);
    word = &word[..word.len() - close.len()];
    let replacement = match word.trim() {
        "generation" => "if true",
        "endgeneration" => "endif",
        _ => return None,
    };
    Some((format!("{{%{open} {replacement} {close}%}}"), "{%".len() + end + "%}".len()))
}
