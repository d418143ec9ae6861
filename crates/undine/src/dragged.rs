//! Picture files dragged into a terminal, which types their paths: quoted, with backslashes, or as `file://`
//! URLs.

use std::path::{Path, PathBuf};

/// Endings of names of pictures that are read.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
const URL: &str = "file://";

/// What was typed, without the paths of pictures, and these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Typed {
    /// The rest, without white space around it.
    pub text: String,
    /// In order.
    pub pictures: Vec<PathBuf>,
}

/// Takes the paths of pictures that exist out of a line. Only absolute paths, which are what a terminal
/// types, and those that begin with `./`, `../` or `~/` are looked at: a name alone may be part of a
/// sentence.
pub fn split(line: &str, exists: impl Fn(&Path) -> bool) -> Typed {
    let (mut text, mut pictures) = (String::new(), Vec::new());
    let mut rest = line;
    let mut at_word = true;
    while let Some(first) = rest.chars().next() {
        let word = if at_word { word(rest) } else { None };
        match word.filter(|word| is_explicit(&word.path) && is_picture(&word.path) && exists(&word.path)) {
            Some(word) => {
                pictures.push(word.path);
                rest = rest[word.len..].trim_start_matches(' ');
            }
            None => {
                text.push(first);
                at_word = first.is_whitespace();
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    Typed { text: text.trim().to_owned(), pictures }
}

/// The path that somebody means who types it as the only thing: as a terminal would, or as it is.
pub fn path(typed: &str) -> PathBuf {
    let whole = word(typed).filter(|word| word.len == typed.len());
    at_home(whole.map_or_else(|| PathBuf::from(typed), |word| word.path))
}

fn at_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// A path at the beginning of a text, and the bytes it was typed with.
struct Word {
    path: PathBuf,
    len: usize,
}

fn word(text: &str) -> Option<Word> {
    let quote = text.chars().next().filter(|sign| matches!(sign, '\'' | '"'));
    let (name, len) = match quote {
        Some(quote) => {
            let name = &text[1..1 + text[1..].find(quote)?];
            (name.to_owned(), name.len() + 2)
        }
        None => unescaped(text),
    };
    if text[len..].chars().next().is_some_and(|next| !next.is_whitespace()) {
        return None;
    }
    let path = match name.strip_prefix(URL) {
        // Of another host's files there are none here.
        Some(place) => percent_decoded(place.strip_prefix("localhost").unwrap_or(place))?,
        None => name,
    };
    Some(Word { path: at_home(PathBuf::from(path)), len })
}

/// A word in which a backslash takes the meaning from the character after it, and its bytes.
fn unescaped(text: &str) -> (String, usize) {
    let (mut name, mut is_escaped) = (String::new(), false);
    for (at, sign) in text.char_indices() {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' => {
                is_escaped = true;
                continue;
            }
            _ if sign.is_whitespace() => return (name, at),
            _ => {}
        }
        name.push(sign);
    }
    (name, text.len())
}

/// `None` if it is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

fn is_explicit(path: &Path) -> bool {
    path.is_absolute() || path.starts_with(".") || path.starts_with("..")
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_pictures_are_taken_out_of_a_line() {
        let there = ["/a.png", "/my cat.JPG", "/it's.webp", "/é b.gif", "/d/a.png", "./b.png", "../c d.png"];
        let exists = |path: &Path| there.iter().any(|other| Path::new(other) == path);
        let cases: [(&str, &str, &[&str]); 18] = [
            ("", "", &[]),
            ("what is /a.png", "what is", &["/a.png"]),
            ("/a.png", "", &["/a.png"]),
            ("/a.png what is it?", "what is it?", &["/a.png"]),
            ("'/my cat.JPG' and \"/a.png\" ", "and", &["/my cat.JPG", "/a.png"]),
            ("/my\\ cat.JPG /it\\'s.webp", "", &["/my cat.JPG", "/it's.webp"]),
            ("file:///my%20cat.JPG", "", &["/my cat.JPG"]),
            ("file://localhost/%C3%A9%20b.gif", "", &["/é b.gif"]),
            ("compare /a.png  with 'file:///d/a.png'.", "compare with 'file:///d/a.png'.", &["/a.png"]),
            ("what is ./b.png and '../c d.png'", "what is and", &["./b.png", "../c d.png"]),
            ("/b.png is missing", "/b.png is missing", &[]),
            ("a.png and x/a.png", "a.png and x/a.png", &[]),
            ("file://other/a.png", "file://other/a.png", &[]),
            ("/a.png.", "/a.png.", &[]),
            ("'/a.png", "'/a.png", &[]),
            ("file:///%ff.png %zz", "file:///%ff.png %zz", &[]),
            ("/system x", "/system x", &[]),
            ("two\n/a.png\nlines", "two\n\nlines", &["/a.png"]),
        ];
        for (line, text, pictures) in cases {
            let pictures = pictures.iter().map(PathBuf::from).collect();
            assert_eq!(split(line, exists), Typed { text: text.to_owned(), pictures }, "{line:?}");
        }
    }

    #[test]
    fn a_path_alone_is_taken_as_it_is_meant() {
        for (typed, expected) in [
            ("a.png", "a.png"),
            ("my cat.png", "my cat.png"),
            ("my\\ cat.png", "my cat.png"),
            ("'my cat.png'", "my cat.png"),
            ("file:///my%20cat.png", "/my cat.png"),
            ("100%.png", "100%.png"),
        ] {
            assert_eq!(path(typed), Path::new(expected), "{typed:?}");
        }
        assert!(!path("~/a.png").starts_with("~") || std::env::home_dir().is_none());
    }
}
