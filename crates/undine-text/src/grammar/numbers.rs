//! Numbers of schemas that the grammar library would change: it computes in doubles, and casts them to 64 bits.

use serde_json::{Map, Value as Json};

use super::measure::excerpt;
use crate::{TextError, exact};

/// Whole numbers up to here are doubles.
const EXACT_MAX: u64 = 1 << 53;

/// Keywords whose value is a bound.
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
/// Keywords whose value has schemas under names of its own.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords that say nothing about which values are allowed.
const SILENT: [&str; 3] = ["default", "examples", "example"];

/// Refuses a schema, which is called `name`, with a number that would be enforced as another.
pub fn check(schema: &Json, name: &str) -> Result<(), TextError> {
    let mut path = name.to_owned();
    match find(schema, &mut path) {
        None => Ok(()),
        Some(number) => Err(TextError::Grammar(format!(
            "{path}: expected numbers of at most {EXACT_MAX} (2^53), which grammars can enforce to the digit here, \
             found {}; use text with a pattern, or leave it out",
            excerpt(&number)
        ))),
    }
}

/// The schema without what [`check`] refuses: constants become numbers, bounds go.
pub fn without(schema: &Json) -> Json {
    match schema {
        Json::Object(fields) => Json::Object(without_in(fields)),
        Json::Array(items) => items.iter().map(without).collect(),
        value => value.clone(),
    }
}

fn without_in(fields: &Map<String, Json>) -> Map<String, Json> {
    let mut kept = Map::new();
    for (key, value) in fields {
        match (key.as_str(), value) {
            (name, Json::Object(schemas)) if NAMED.contains(&name) => {
                let schemas = schemas.iter().map(|(name, schema)| (name.clone(), without(schema)));
                kept.insert(key.clone(), Json::Object(schemas.collect()));
            }
            ("const" | "enum", value) if inexact(value).is_some() => {
                if !fields.contains_key("type") && exact::digits(value).is_some() {
                    kept.insert("type".to_owned(), "number".into());
                }
            }
            (name, value) if BOUNDS.contains(&name) && inexact(value).is_some() => {}
            (name, value) if SILENT.contains(&name) || matches!(name, "const" | "enum") => {
                kept.insert(key.clone(), value.clone());
            }
            (_, value) => {
                kept.insert(key.clone(), without(value));
            }
        }
    }
    kept
}

/// The first such number; `path` leads to it.
fn find(schema: &Json, path: &mut String) -> Option<String> {
    let length = path.len();
    let enter = |path: &mut String, step: &str| {
        path.truncate(length);
        path.push_str(step);
    };
    let found = match schema {
        Json::Object(fields) => fields.iter().find_map(|(key, value)| {
            enter(path, &format!(".{}", excerpt(key)));
            match (key.as_str(), value) {
                (name, Json::Object(schemas)) if NAMED.contains(&name) => {
                    let inner = path.len();
                    schemas.iter().find_map(|(name, schema)| {
                        path.truncate(inner);
                        path.push('.');
                        path.push_str(&excerpt(name));
                        find(schema, path)
                    })
                }
                (name, value) if BOUNDS.contains(&name) || matches!(name, "const" | "enum") => inexact(value),
                (name, _) if SILENT.contains(&name) => None,
                (_, value) => find(value, path),
            }
        }),
        Json::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            enter(path, &format!("[{index}]"));
            find(item, path)
        }),
        _ => None,
    };
    if found.is_none() {
        path.truncate(length);
    }
    found
}

/// The first number in a value that is not enforced to the digit.
pub fn inexact(value: &Json) -> Option<String> {
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
    fn numbers_that_would_be_others_are_named() {
        for (schema, place) in [
            (r#"{"const": 9007199254740993}"#, Some("the schema.const")),
            (r#"{"const": 9007199254740992}"#, None),
            (r#"{"const": -9007199254740993}"#, Some("the schema.const")),
            (
                r#"{"properties": {"x": {"enum": [1, 18446744073709551615]}}}"#,
                Some("the schema.properties.x.enum"),
            ),
            (r#"{"properties": {"const": {"type": "integer"}}}"#, None),
            (
                r#"{"properties": {"maximum": {"maximum": 1e300}}}"#,
                Some("the schema.properties.maximum.maximum"),
            ),
            (
                r#"{"anyOf": [{"const": 1}, {"minimum": 123456789012345678901234567890}]}"#,
                Some("the schema.anyOf[1].minimum"),
            ),
            (r#"{"const": 1e400}"#, Some("the schema.const")),
            (r#"{"const": {"a": [9007199254740993]}}"#, Some("the schema.const")),
            (r#"{"default": 9007199254740993, "const": -0, "minimum": 0.5}"#, None),
            (r#"{"multipleOf": 9007199254740994}"#, Some("the schema.multipleOf")),
        ] {
            let value = exact::from_str(schema).unwrap();
            let error = check(&value, "the schema").err().map(|error| error.to_string());
            assert_eq!(error.is_some(), place.is_some(), "{schema}: {error:?}");
            if let (Some(error), Some(place)) = (error, place) {
                assert!(error.contains(place), "{schema}: {error}");
            }
            assert!(check(&without(&value), "the schema").is_ok(), "{schema}");
        }
    }
}
