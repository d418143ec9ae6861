//! Numbers of a request with all their digits.
//!
//! `serde_json` keeps a number as 64 bits: a whole one beyond becomes a double, `-0` becomes `-0.0`, `1e400`
//! is no JSON at all. (Its own way to keep digits, `arbitrary_precision`, breaks every enum that serde reads
//! by a tag, and `tokenizer.json` is full of them.) So these few numbers are read as objects with one key,
//! which everything that asks for numbers here knows.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

/// The key of an object that stands for a number. Nothing else of this name comes through [`from_slice`]
/// unchanged.
const KEY: &str = "\u{1}number";

/// Decimal digits of a whole number; Python's own bound for texts.
pub const DIGITS_MAX: usize = 4300;

/// Parses JSON like `serde_json::from_slice`, numbers with all their digits.
pub fn from_slice(json: &[u8]) -> serde_json::Result<Json> {
    serde_json::from_slice(&marked(json))
}

/// The same, with digits kept within some fields of the outermost object only: elsewhere numbers are read as
/// numbers.
pub fn from_body(json: &[u8], fields: &[&str]) -> serde_json::Result<Json> {
    let marked = marked(json);
    let mut value = serde_json::from_slice(&marked)?;
    if let (Cow::Owned(_), Json::Object(map)) = (&marked, &mut value) {
        let others = map.iter_mut().filter(|(name, _)| !fields.contains(&name.as_str()));
        others.for_each(|(_, field)| forget(field));
    }
    Ok(value)
}

/// A value with its numbers as doubles, for a library that knows nothing else.
pub fn forgotten(value: &Json) -> Json {
    let mut value = value.clone();
    forget(&mut value);
    value
}

/// Numbers as doubles. Infinite ones stay as they are.
fn forget(value: &mut Json) {
    if let Some(digits) = digits(value) {
        let number = if digits == "-0" { Ok(0.into()) } else { serde_json::from_str(digits) };
        if let Ok(number) = number {
            *value = Json::Number(number);
        }
        return;
    }
    match value {
        Json::Array(items) => items.iter_mut().for_each(forget),
        Json::Object(fields) => fields.values_mut().for_each(forget),
        _ => {}
    }
}

/// JSON in which numbers beyond 64 bits are objects: what a parser of its own type is given.
pub fn marked(json: &[u8]) -> Cow<'_, [u8]> {
    let mut marked = Vec::new();
    let mut done = 0;
    each_odd(json, |range| {
        marked.extend_from_slice(&json[done..range.start]);
        marked.extend_from_slice(b"{\"\\u0001number\":\"");
        marked.extend_from_slice(&json[range.clone()]);
        marked.extend_from_slice(b"\"}");
        done = range.end;
    });
    if done == 0 {
        return Cow::Borrowed(json);
    }
    marked.extend_from_slice(&json[done..]);
    Cow::Owned(marked)
}

/// How many numbers of a JSON text are read as objects.
pub fn count(json: &[u8]) -> usize {
    let mut count = 0;
    each_odd(json, |_| count += 1);
    count
}

/// The same for a text.
pub fn from_str(json: &str) -> serde_json::Result<Json> {
    from_slice(json.as_bytes())
}

/// The digits of a number that `serde_json` has no type for.
pub fn digits(value: &Json) -> Option<&str> {
    let Json::Object(fields) = value else { return None };
    of_fields(fields)
}

/// The same of an object's fields.
pub fn of_fields(fields: &Map<String, Json>) -> Option<&str> {
    if fields.len() != 1 {
        return None;
    }
    let text = fields.get(KEY)?.as_str()?;
    is_odd(text.as_bytes()).then_some(text)
}

/// JSON text of a value, with the digits of its numbers.
pub fn to_string(value: &Json) -> String {
    let mut out = String::new();
    push(value, &mut out);
    out
}

fn push(value: &Json, out: &mut String) {
    match value {
        Json::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                push(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            if let Some(digits) = of_fields(fields) {
                return out.push_str(digits);
            }
            out.push('{');
            for (index, (key, field)) in fields.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push(':');
                push(field, out);
            }
            out.push('}');
        }
        value => out.push_str(&value.to_string()),
    }
}

/// Finds the numbers that `serde_json` would change or refuse, in their order.
fn each_odd(json: &[u8], mut found: impl FnMut(std::ops::Range<usize>)) {
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_text(json, at),
            b'-' | b'0'..=b'9' => {
                let length = json[at..].iter().take_while(|byte| is_of_number(**byte)).count();
                let end = at + length;
                if is_odd(&json[at..end]) {
                    found(at..end);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
}

fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')
}

fn end_of_text(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Whether a number of JSON is none of `serde_json`. What is no number is not odd: the parser will say what
/// is wrong.
fn is_odd(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let Some(first) = digits.first() else { return false };
    if digits.iter().all(u8::is_ascii_digit) {
        let whole = digits.len() == 1 || *first != b'0';
        let fits = || std::str::from_utf8(text).is_ok_and(|text| text.parse::<i64>().is_ok());
        return whole && digits.len() <= DIGITS_MAX && (text == b"-0" || (digits.len() > 18 && !fits()));
    }
    // Infinity, as Python reads it. Most exponents are short.
    let has_exponent = digits.iter().any(|byte| matches!(byte, b'e' | b'E'));
    let may_be_large = has_exponent || digits.len() > 300;
    may_be_large
        && is_float(digits)
        && std::str::from_utf8(digits).is_ok_and(|text| text.parse::<f64>().is_ok_and(f64::is_infinite))
}

/// Whether digits with a fraction or an exponent are as JSON writes them.
fn is_float(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_kept_where_64_bits_have_no_room() {
        for (text, is_odd) in [
            ("0", false),
            ("-0", true),
            ("-0.0", false),
            ("9223372036854775807", false),
            ("9223372036854775808", true),
            ("-9223372036854775808", false),
            ("-9223372036854775809", true),
            ("123456789012345678901234567890", true),
            ("1e5", false),
            ("1E400", true),
            ("-1e400", true),
            ("1e-400", false),
            ("0.1", false),
        ] {
            let value = from_str(&format!("[{text}, \"{text}\"]")).unwrap();
            assert_eq!(digits(&value[0]), is_odd.then_some(text), "{text}");
            assert_eq!(value[1], Json::from(text));
            if is_odd {
                assert_eq!(to_string(&value), format!("[{text},\"{text}\"]"));
            }
        }
        for wrong in ["[00]", "[-]", "[1e]", "[01e400]", "[1.e400]", "[-00]", "[99999999999999999999.]"] {
            assert_eq!(from_str(wrong).is_err(), serde_json::from_str::<Json>(wrong).is_err(), "{wrong}");
        }
        assert!(from_str(&"9".repeat(DIGITS_MAX)).is_ok_and(|value| digits(&value).is_some()));
    }

    #[test]
    fn an_object_that_looks_like_a_number_is_one_only_with_its_digits() {
        let value = from_str("{\"\\u0001number\": \"12\"}").unwrap();
        assert_eq!(digits(&value), None);
        let value = from_str("{\"\\u0001number\": \"not a number\"}").unwrap();
        assert_eq!(digits(&value), None);
    }
}
