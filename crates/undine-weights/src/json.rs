//! The small JSON and text files of a folder, as careless programs write them: with a byte order mark, with
//! Python's `NaN`.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::Error;

/// What some editors put before the first character of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What Python writes for numbers that JSON does not have, the longest first.
const NOT_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads the JSON of a file called `file`. Numbers that are none become their names as strings, so that
/// whoever needs one of them can say which it is.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Json, Error> {
    let bytes = without_mark(bytes);
    let fail = |reason: String| Error::Json { file: file.to_owned(), reason };
    let error = match serde_json::from_slice(bytes) {
        Ok(json) => return Ok(json),
        Err(error) => error,
    };
    let spelled = std::str::from_utf8(bytes).map(quoted_not_numbers);
    match spelled {
        Ok(Cow::Owned(text)) => serde_json::from_str(&text).map_err(|error| fail(error.to_string())),
        _ => Err(fail(error.to_string())),
    }
}

/// The text of a file called `file`.
pub(crate) fn text(file: &str, bytes: &[u8]) -> Result<String, Error> {
    let text = std::str::from_utf8(without_mark(bytes));
    let fail = |error| Error::Json { file: file.to_owned(), reason: format!("not UTF-8 text: {error}") };
    text.map(str::to_owned).map_err(fail)
}

/// A file's bytes from the first character on.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// The text with quotes around `NaN` and its kind, outside of strings. Borrowed if there is none.
fn quoted_not_numbers(text: &str) -> Cow<'_, str> {
    let mut quoted = String::new();
    let (mut done, mut at) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = after_string(bytes, at),
            b'N' | b'I' | b'-' => {
                match NOT_NUMBERS.iter().find(|name| bytes[at..].starts_with(name.as_bytes())) {
                    Some(name) => {
                        quoted.push_str(&text[done..at]);
                        quoted.push_str(&format!("\"{name}\""));
                        at += name.len();
                        done = at;
                    }
                    None => at += 1,
                }
            }
            _ => at += 1,
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    quoted.push_str(&text[done..]);
    Cow::Owned(quoted)
}

/// The place after the string that begins at `start`.
fn after_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn careless_files_are_read() {
        for (text, expected) in [
            ("\u{feff}{\"a\": 1}", Some(json!({"a": 1}))),
            (
                "{\"a\": NaN, \"b\": [-Infinity, Infinity]}",
                Some(json!({"a": "NaN", "b": ["-Infinity", "Infinity"]})),
            ),
            (
                "{\"a\": \"NaN\", \"b\": \"\\\"NaN\", \"c\": NaN}",
                Some(json!({"a": "NaN", "b": "\"NaN", "c": "NaN"})),
            ),
            ("{\"a\": -1, \"NaN\": 2}", Some(json!({"a": -1, "NaN": 2}))),
            ("{\"a\": NaNs}", None),
            ("{\"a\": \"NaN", None),
            ("{\"a\": \"\\", None),
            ("NaN", Some(json!("NaN"))),
            ("\u{feff}", None),
        ] {
            assert_eq!(parse("f", text.as_bytes()).ok(), expected, "{text:?}");
        }
        let message = parse("config.json", b"{\"a\": }").unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
        assert_eq!(super::text("f", "\u{feff}x".as_bytes()).ok().as_deref(), Some("x"));
    }
}
