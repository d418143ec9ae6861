//! Numbers of schemas that the grammar library would change: it computes in doubles, and casts them to 64
//! bits.

use serde_json::Value as Json;

use super::measure::excerpt;
use crate::exact;

/// Whole numbers up to here are doubles.
const EXACT_MAX: u64 = 1 << 53;

/// Keywords whose value is a bound.
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
/// Keywords whose value has schemas under names of its own.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords that say nothing about which values are allowed.
const SILENT: [&str; 3] = ["default", "examples", "example"];

/// Refuses a schema with a number that would be enforced as another.
pub fn check(schema: &Json) -> Result<(), String> {
    match find(schema) {
        None => Ok(()),
        Some(number) => Err(format!(
            "expected numbers of at most {EXACT_MAX} (2^53), which grammars can enforce to the digit, found {}",
            excerpt(&number)
        )),
    }
}

/// The first such number.
fn find(schema: &Json) -> Option<String> {
    match schema {
        Json::Object(fields) => fields.iter().find_map(|(key, value)| match (key.as_str(), value) {
            (name, Json::Object(schemas)) if NAMED.contains(&name) => schemas.values().find_map(find),
            (name, value) if BOUNDS.contains(&name) || matches!(name, "const" | "enum") => inexact(value),
            (name, _) if SILENT.contains(&name) => None,
            (_, value) => find(value),
        }),
        Json::Array(items) => items.iter().find_map(find),
        _ => None,
    }
}

/// The first number in a value that is not enforced to the digit.
fn inexact(value: &Json) -> Option<String> {
    if let Some(digits) = exact::digits(value) {
        return (digits != "-0").then(|| digits.to_owned());
    }
    match value {
        Json::Number(number) => {
            let exact = match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => whole.unsigned_abs() <= EXACT_MAX,
                (None, Some(float)) => float.abs() <= EXACT_MAX as f64,
                (None, None) => false,
            };
            (!exact).then(|| number.to_string())
        }
        Json::Array(items) => items.iter().find_map(inexact),
        Json::Object(fields) => fields.values().find_map(inexact),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_be_others_are_found() {
        for (schema, found) in [
            (r#"{"const": 9007199254740993}"#, Some("9007199254740993")),
            (r#"{"const": 9007199254740992}"#, None),
            (r#"{"const": -9007199254740993}"#, Some("-9007199254740993")),
            (r#"{"properties": {"x": {"enum": [1, 18446744073709551615]}}}"#, Some("18446744073709551615")),
            (r#"{"properties": {"const": {"type": "integer"}}}"#, None),
            (r#"{"properties": {"maximum": {"maximum": 1e300}}}"#, Some("1e+300")),
            (
                r#"{"anyOf": [{"const": 1}, {"minimum": 123456789012345678901234567890}]}"#,
                Some("123456789012345678901234567890"),
            ),
            (r#"{"const": 1e400}"#, Some("1e400")),
            (r#"{"const": {"a": [9007199254740993]}}"#, Some("9007199254740993")),
            (r#"{"default": 9007199254740993, "const": -0, "minimum": 0.5}"#, None),
            (r#"{"multipleOf": 9007199254740994}"#, Some("9007199254740994")),
        ] {
            let error = check(&exact::from_str(schema).unwrap()).err();
            assert_eq!(error.is_some(), found.is_some(), "{schema}: {error:?}");
            if let (Some(error), Some(found)) = (error, found) {
                assert!(error.contains(found), "{schema}: {error}");
            }
        }
    }
}
