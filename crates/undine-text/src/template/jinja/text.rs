//! Texts as Python cuts them.

/// What Python counts as white space.
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// `str.split()`: at white space, or at a separator; at most so many times.
pub fn split<'t>(text: &'t str, separator: Option<&str>, times: usize) -> Vec<&'t str> {
    let Some(separator) = separator else {
        let mut parts = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while !rest.is_empty() {
            if parts.len() == times {
                parts.push(rest);
                break;
            }
            let end = rest.find(is_space).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = rest[end..].trim_start_matches(is_space);
        }
        return parts;
    };
    text.splitn(times.saturating_add(1), separator).collect()
}

/// `str.rsplit()`: the same from the end.
pub fn split_from_end<'t>(text: &'t str, separator: Option<&str>, times: usize) -> Vec<&'t str> {
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(times.saturating_add(1), separator).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                if parts.len() == times {
                    parts.push(rest);
                    break;
                }
                let word = |at: usize| at + rest[at..].chars().next().map_or(0, char::len_utf8);
                let start = rest.rfind(is_space).map_or(0, word);
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end_matches(is_space);
            }
            parts
        }
    };
    parts.reverse();
    parts
}

/// `str.splitlines()`, with the ends of the lines or without.
pub fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_end = |character| {
            matches!(
                character,
                '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
            )
        };
        let end = rest.find(is_end).unwrap_or(rest.len());
        let ending = match rest[end..].chars().next() {
            Some('\r') if rest[end..].starts_with("\r\n") => 2,
            Some(character) => character.len_utf8(),
            None => 0,
        };
        let line = (&rest[..end], &rest[end..end + ending]);
        rest = &rest[end + ending..];
        Some(line)
    })
}

/// Signs that have a large and a small form.
pub fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase() || is_title(character)
}

/// The four signs that are a large letter with a small one, and those of their kind in Greek.
fn is_title(character: char) -> bool {
    matches!(character, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | 'ᾈ'..='ᾏ' | 'ᾘ'..='ᾟ' | 'ᾨ'..='ᾯ' | 'ᾼ' | 'ῌ' | 'ῼ')
}

/// A letter as a word begins with it.
pub fn push_title(character: char, out: &mut String) {
    let digraph = match character {
        'Ǆ' | 'ǅ' | 'ǆ' => Some('ǅ'),
        'Ǉ' | 'ǈ' | 'ǉ' => Some('ǈ'),
        'Ǌ' | 'ǋ' | 'ǌ' => Some('ǋ'),
        'Ǳ' | 'ǲ' | 'ǳ' => Some('ǲ'),
        _ => None,
    };
    if let Some(digraph) = digraph {
        return out.push(digraph);
    }
    let mut large = character.to_uppercase();
    out.extend(large.next());
    // What becomes several letters has one large one: ß, ﬁ.
    large.for_each(|rest| out.extend(rest.to_lowercase()));
}

/// `str.capitalize()`.
pub fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let mut out = String::with_capacity(text.len());
    if let Some(first) = characters.next() {
        push_title(first, &mut out);
    }
    out.push_str(&characters.as_str().to_lowercase());
    out
}

/// `str.title()`.
pub fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            out.extend(character.to_lowercase());
        } else {
            push_title(character, &mut out);
        }
        inside = is_cased(character);
    }
    out
}

/// `str.swapcase()`.
pub fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
    }
    out
}

/// `str.expandtabs()`.
pub fn without_tabs(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if width > 0 => {
                let spaces = width - column % width;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\t' => {}
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    out
}

/// Where the spaces go that make a text wider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
    Both,
}

/// A text filled up to a width.
pub fn padded(text: &str, width: usize, fill: char, side: Side) -> String {
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        // As `str.center` has it: the odd one goes left where the width is odd.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    fill(left).chain(text.chars()).chain(fill(missing - left)).collect()
}
