//! Rust text as lines of code and lines of comment. Not a parser: it knows comments, strings and characters,
//! no more.

/// One line of a source file.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Line {
    /// The code, with the insides of strings and characters and all comments blanked.
    pub code: String,
    /// The comments.
    pub comment: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// How deep.
    BlockComment(usize),
    /// How many `#` end it; `None` if backslashes escape.
    Text(Option<usize>),
}

/// Splits a file into its lines.
pub fn split(text: &str) -> Vec<Line> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        if rest[0] == '\n' {
            lines.push(Line::default());
            at += 1;
            if state == State::LineComment {
                state = State::Code;
            }
            continue;
        }
        let line = lines.last_mut().expect("there is always a line");
        let (next, taken) = match state {
            State::Code => step_code(rest, line),
            State::LineComment => (state, 1),
            State::BlockComment(depth) => step_block(rest, depth),
            State::Text(hashes) => step_text(rest, hashes),
        };
        if matches!(state, State::LineComment | State::BlockComment(_)) {
            line.comment.extend(&rest[..taken]);
        }
        // Newlines inside an escape stay newlines.
        if state != State::Code && rest[..taken].contains(&'\n') {
            lines.push(Line::default());
        }
        (state, at) = (next, at + taken);
    }
    if text.ends_with('\n') {
        lines.pop();
    }
    lines
}

/// What the characters at the start of `rest` begin, and how many of them were used.
fn step_code(rest: &[char], line: &mut Line) -> (State, usize) {
    let after_word = line.code.ends_with(is_word);
    match rest {
        ['/', '/', ..] => {
            line.comment.push_str("//");
            return (State::LineComment, 2);
        }
        ['/', '*', ..] => {
            line.comment.push_str("/*");
            return (State::BlockComment(1), 2);
        }
        ['r', ..] if !after_word || ends_with_prefix(&line.code) => {
            let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') {
                line.code.push('"');
                return (State::Text(Some(hashes)), 2 + hashes);
            }
        }
        ['"', ..] => {
            line.code.push('"');
            return (State::Text(None), 1);
        }
        ['\'', '\\', _, tail @ ..] => {
            let end = tail.iter().position(|&c| c == '\'').unwrap_or(0);
            line.code.push_str("' '");
            return (State::Code, 3 + end + 1);
        }
        ['\'', _, '\'', ..] => {
            line.code.push_str("' '");
            return (State::Code, 3);
        }
        _ => {}
    }
    line.code.push(rest[0]);
    (State::Code, 1)
}

/// Whether a raw string may follow: the code ends in the `b` or `c` of `br"` or `cr"`.
fn ends_with_prefix(code: &str) -> bool {
    let mut back = code.chars().rev();
    matches!(back.next(), Some('b' | 'c')) && !back.next().is_some_and(is_word)
}

fn step_block(rest: &[char], depth: usize) -> (State, usize) {
    match (rest, depth) {
        (['*', '/', ..], 1) => (State::Code, 2),
        (['*', '/', ..], _) => (State::BlockComment(depth - 1), 2),
        (['/', '*', ..], _) => (State::BlockComment(depth + 1), 2),
        _ => (State::BlockComment(depth), 1),
    }
}

fn step_text(rest: &[char], hashes: Option<usize>) -> (State, usize) {
    match (rest, hashes) {
        (['\\', _, ..], None) => (State::Text(None), 2),
        (['"', ..], None) => (State::Code, 1),
        (['"', tail @ ..], Some(n)) if tail.len() >= n && tail[..n].iter().all(|&c| c == '#') => {
            (State::Code, 1 + n)
        }
        _ => (State::Text(hashes), 1),
    }
}

/// Whether `c` can be part of an identifier.
pub fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Where `word` stands in `code` as a whole word, in bytes.
pub fn word_at(code: &str, word: &str) -> Vec<usize> {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| {
            let joined_before = word.starts_with(is_word) && code[..at].ends_with(is_word);
            let joined_after = word.ends_with(is_word) && code[at + word.len()..].starts_with(is_word);
            !joined_before && !joined_after
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        split(text).into_iter().map(|line| line.code.trim_end().to_owned()).collect()
    }

    #[test]
    fn strings_comments_and_characters_are_not_code() {
        let cases: [(&str, &[&str]); 10] = [
            ("let a = \"{ // \\\" }\"; b", &["let a = \"; b"]),
            ("x /* { /* } */ { */ y", &["x  y"]),
            ("let q = '{'; let l: &'a str = '\\'';", &["let q = ' '; let l: &'a str = ' ';"]),
            ("r#\"a \" { \"# + br\"\\\" + r#fn", &["\" + b\" + r#fn"]),
            ("for\"\" // unsafe {\nb", &["for\"", "b"]),
            ("\"one\\\ntwo\" + c", &["\"", " + c"]),
            ("\"one\ntwo\" + c", &["\"", " + c"]),
            ("/* a\n{ */ b\n", &["", " b"]),
            ("'\\u{1F600}' + 'é' + b'\\n'", &["' ' + ' ' + b' '"]),
            ("", &[""]),
        ];
        for (text, expected) in cases {
            assert_eq!(codes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn comments_are_kept_apart() {
        let lines = split("a // one\n/// two\nb /* three */ c");
        let comments: Vec<&str> = lines.iter().map(|line| line.comment.as_str()).collect();
        assert_eq!(comments, ["// one", "/// two", "/* three */"]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(word_at("unsafe_code unsafe notunsafe (unsafe)", "unsafe"), [12, 30]);
    }
}
