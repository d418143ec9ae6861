//! How large the rules of an answer are, found out before the grammar library sees them: it follows nesting
//! and references with calls within calls, and ends where they do not.
//!
//! What is within these limits may still take longer than anybody wants to wait; that is found out in a
//! helper process.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value as Json;

use super::{AnswerFormat, AnswerRules, measure_text};
use crate::TextError;

/// Levels of a schema in JSON, references followed: a third of them are levels of what the schema describes.
pub const SCHEMA_DEPTH_MAX: usize = 96;
/// Values of a schema in JSON, counted again for each reference that leads deeper into them.
pub const SCHEMA_VALUES_MAX: usize = 200_000;
/// Longest excerpt of a name in a place, in characters.
const NAME_CHARS: usize = 40;

/// Checks all of the rules. An error names the place.
pub fn check(rules: &AnswerRules) -> Result<(), TextError> {
    match &rules.format {
        AnswerFormat::Free | AnswerFormat::JsonObject | AnswerFormat::Choice(_) => {}
        AnswerFormat::JsonSchema(schemas, _) => schema(schemas, "the schema")?,
        AnswerFormat::Regex(regex) => {
            measure_text::regex(regex).map_err(|why| limit("the expression", why))?
        }
        AnswerFormat::Grammar(grammar) => measure_text::grammar(grammar)?,
    }
    for tool in rules.tools.iter().flat_map(|tools| tools.set.tools()) {
        schema(tool.parameters(), &format!("the parameters of {}", excerpt(tool.name())))?;
    }
    Ok(())
}

/// Checks one schema, which is called `name`.
pub fn schema(schema: &Json, name: &str) -> Result<(), TextError> {
    let mut walk =
        Walk { root: schema, visited: HashMap::new(), open: vec![schema], values: 0, path: Vec::new() };
    walk.visit(schema, 0).map_err(|why| limit(&walk.place(name), why))
}

pub fn limit(place: &str, message: String) -> TextError {
    TextError::GrammarLimit { place: place.to_owned(), message }
}

/// A step of a path into a schema.
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Walk<'a> {
    root: &'a Json,
    /// The deepest level at which the target of a reference was visited.
    visited: HashMap<*const Json, usize>,
    /// The targets of references that are being visited, and the schema itself.
    open: Vec<&'a Json>,
    values: usize,
    path: Vec<Step<'a>>,
}

impl<'a> Walk<'a> {
    /// Visits what is `level` levels deep. After an error `path` leads to its cause.
    fn visit(&mut self, value: &'a Json, level: usize) -> Result<(), String> {
        self.values += 1;
        if self.values > SCHEMA_VALUES_MAX {
            return Err(format!(
                "expected at most {SCHEMA_VALUES_MAX} values, references followed, found more"
            ));
        }
        if level > SCHEMA_DEPTH_MAX {
            return Err(format!(
                "expected at most {SCHEMA_DEPTH_MAX} levels, references followed, found more"
            ));
        }
        match value {
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.step(Step::Index(index), item, level)?;
                }
            }
            Json::Object(fields) => {
                for (key, field) in fields {
                    match (key.as_str(), field) {
                        ("$ref" | "$dynamicRef" | "$recursiveRef", Json::String(target)) => {
                            self.follow(key, target, level)?
                        }
                        ("pattern", Json::String(regex)) => {
                            self.path.push(Step::Key(key));
                            measure_text::pattern(regex)?;
                            self.path.pop();
                        }
                        ("patternProperties", Json::Object(patterns)) => {
                            self.path.push(Step::Key(key));
                            for regex in patterns.keys() {
                                measure_text::pattern(regex)?;
                            }
                            self.path.pop();
                            self.step(Step::Key(key), field, level)?;
                        }
                        _ => self.step(Step::Key(key), field, level)?,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn step(&mut self, step: Step<'a>, value: &'a Json, level: usize) -> Result<(), String> {
        self.path.push(step);
        self.visit(value, level + 1)?;
        self.path.pop();
        Ok(())
    }

    /// Goes on where a reference within the schema leads, unless it has been there, as deep or deeper. A
    /// circle is gone round once: what is being visited further up the path is not visited again.
    fn follow(&mut self, key: &'a str, target: &str, level: usize) -> Result<(), String> {
        let Some(value) = self.target(target) else { return Ok(()) };
        if self.open.iter().any(|open| std::ptr::eq(*open, value))
            || self.visited.get(&ptr(value)) > Some(&level)
        {
            return Ok(());
        }
        self.visited.insert(ptr(value), level + 1);
        self.open.push(value);
        self.step(Step::Key(key), value, level)?;
        self.open.pop();
        Ok(())
    }

    /// What a reference within the schema means: `#`, or `#/` and a JSON pointer.
    fn target(&self, reference: &str) -> Option<&'a Json> {
        let pointer = reference.strip_prefix('#')?;
        self.root.pointer(&percent_decoded(pointer))
    }

    fn place(&self, name: &str) -> String {
        let mut place = name.to_owned();
        for step in &self.path {
            let written = match step {
                Step::Key(key) => write!(place, ".{}", excerpt(key)),
                Step::Index(index) => write!(place, "[{index}]"),
            };
            written.expect("texts can be written to");
        }
        shortened(place)
    }
}

fn ptr(value: &Json) -> *const Json {
    value
}

/// The beginning of a name.
pub fn excerpt(name: &str) -> String {
    let mut short: String =
        name.chars().take(NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

/// Both ends of a long place.
fn shortened(place: String) -> String {
    const CHARS: usize = 240;
    let count = place.chars().count();
    if count <= CHARS {
        return place;
    }
    let head: String = place.chars().take(CHARS / 2).collect();
    let tail: String = place.chars().skip(count - CHARS / 2).collect();
    format!("{head} … {tail}")
}

/// A fragment of a URL as text.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The message of a refusal.
    fn refusal(value: &Json) -> Option<String> {
        schema(value, "the schema").err().map(|error| error.to_string())
    }

    fn nested(levels: usize) -> Json {
        (0..levels).fold(json!({"type": "integer"}), |inner, _| json!({"items": inner}))
    }

    #[test]
    fn depth_is_that_of_the_json() {
        // The innermost value is one level deeper than its object.
        assert_eq!(refusal(&nested(SCHEMA_DEPTH_MAX - 1)), None);
        let error = refusal(&nested(SCHEMA_DEPTH_MAX)).unwrap();
        assert!(error.contains("the schema.items.items") && error.contains("96 levels"), "{error}");
        let wide: Vec<Json> = (0..1000).map(|_| nested(20)).collect();
        assert_eq!(refusal(&json!({"anyOf": wide})), None);
    }

    #[test]
    fn references_are_followed_and_circles_are_not() {
        // Each definition is three levels deep and names the next.
        let chain = |count: usize| {
            let mut definitions = serde_json::Map::new();
            for i in 0..count {
                let next =
                    if i + 1 < count { json!({"$ref": format!("#/$defs/d{}", i + 1)}) } else { json!({}) };
                definitions.insert(format!("d{i}"), json!({"allOf": [next]}));
            }
            json!({"$ref": "#/$defs/d0", "$defs": definitions})
        };
        assert_eq!(refusal(&chain(20)), None);
        let error = refusal(&chain(60)).unwrap();
        assert!(error.contains("references followed"), "{error}");
        for circle in [
            json!({"$ref": "#"}),
            json!({"properties": {"next": {"$ref": "#"}}}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}}),
            json!({"$ref": "#/%24defs/a~1b", "$defs": {"a/b": {"items": {"$ref": "#/$defs/a~1b"}}}}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "other.json"}),
            json!({"$ref": 3}),
        ] {
            assert_eq!(refusal(&circle), None, "{circle}");
        }
    }

    #[test]
    fn what_grows_by_references_is_counted() {
        // Every level names the next one twice.
        let mut definitions = serde_json::Map::new();
        for i in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            definitions.insert(format!("d{i}"), json!({"properties": {"a": next, "b": next}}));
        }
        definitions.insert("d40".to_owned(), json!({"type": "string"}));
        // Refused for its depth, after no more than the permitted work.
        assert!(refusal(&json!({"$ref": "#/$defs/d0", "$defs": definitions})).is_some());
        let many: Vec<usize> = (0..=SCHEMA_VALUES_MAX).collect();
        let error = refusal(&json!({"enum": many})).unwrap();
        assert!(error.contains("values") && error.contains("the schema.enum"), "{error}");
    }

    #[test]
    fn expressions_in_schemas_are_measured() {
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        for value in [
            json!({"properties": {"a": {"pattern": deep}}}),
            json!({"patternProperties": {deep.clone(): {}}}),
        ] {
            let error = refusal(&value).unwrap();
            assert!(error.contains("pattern") && error.contains("groups"), "{error}");
        }
        assert_eq!(refusal(&json!({"pattern": "^(a|b)+$"})), None);
    }

    #[test]
    fn places_are_short() {
        let place = format!("a{}z", "b".repeat(1000));
        let short = shortened(place);
        assert!(short.starts_with("ab") && short.ends_with("bz") && short.chars().count() < 300);
        assert_eq!(excerpt("a\u{1b}b"), "a?b");
    }
}
