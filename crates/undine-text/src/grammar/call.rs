//! The rules for calls: `[name(argument=value, ..), ..]`, with the names a request declares and values its
//! schemas allow.
//!
//! Arguments come in the order of the schema, those not required may be left out, others than the declared
//! ones are not written. Values are Python literals. What Python's spelling has no rules for here (lengths,
//! patterns, ranges, references, alternatives) is written as JSON by llguidance's rules for schemas, which
//! the parser of calls reads just as well; a tool whose arguments depend on each other is called in the JSON
//! variant as a whole.
//!
//! Tools carry schemas from everywhere, and a valid call with a doubtful argument is better than none: what
//! of a schema cannot be enforced is left out and named, unless the tool is strict.

use serde_json::{Map, Value as Json, json};

use super::Parallel;
use super::lark::{compiles, spaced, string};
use super::schema::{DEFINITIONS, Fitted, LeftOut, fit, outline, relax};
use crate::tools::{Tool, is_name_char};
use crate::{TextError, exact};

/// Values within values for which Python rules are made; deeper ones, and free ones beyond this depth, are
/// scalars.
const DEPTH_MAX: usize = 6;

/// Terminals and rules that every list of calls shares.
const COMMON: &str = r#"
SEPARATOR: /, ?/
COLON: /: ?/
KEY: /"([^"\\\x00-\x1f\x7f]|\\["\\nrt]){1,64}"/
INTEGER: /-?(0|[1-9][0-9]{0,17})/
NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?/
"#;

/// What Python writes in several ways.
const PYTHON_WORDS: &str = r#"
STRING: /"([^"\\\x00-\x1f\x7f]|\\["\\nrt])*"/ | /'([^'\\\x00-\x1f\x7f]|\\['\\nrt])*'/
BOOLEAN: "True" | "False" | "true" | "false"
NULL: "None" | "null"
"#;

/// The same in JSON.
const JSON_WORDS: &str = r#"
STRING: /"([^"\\\x00-\x1f\x7f]|\\["\\nrt])*"/
BOOLEAN: "true" | "false"
NULL: "null"
"#;

/// Keywords that there are rules for.
const SHAPE: [&str; 4] = ["items", "properties", "required", "additionalProperties"];

/// The rule `calls` and what it needs, and what of each tool it leaves out. Of the schemas of the tools named
/// in `outlined` it keeps the outlines.
pub fn lark(
    tools: &[&Tool],
    parallel: Parallel,
    outlined: &[String],
) -> Result<(String, Vec<LeftOut>), TextError> {
    let mut rules = Rules::new(Spelling::Python);
    let mut calls = Vec::with_capacity(tools.len());
    let mut left_out = Vec::with_capacity(tools.len());
    for tool in tools {
        let mut fitted = fit(tool.parameters());
        if outlined.iter().any(|name| name == tool.name()) {
            fitted = outline(&fitted);
        }
        calls.push(rules.tool(tool.name(), fitted)?);
        left_out.push(std::mem::take(&mut rules.left_out));
    }
    let list = match parallel {
        Parallel::Allowed => r#""[" call (SEPARATOR call)* "]""#,
        Parallel::One => r#""[" call "]""#,
    };
    Ok((
        format!("calls: {list}\ncall: {}\n{}{COMMON}{PYTHON_WORDS}", calls.join(" | "), rules.text),
        left_out,
    ))
}

/// A grammar for the JSON that a schema allows, with constants as literal text; `None` if it says more than
/// there are rules for.
pub fn json_lark(schema: &Fitted) -> Option<String> {
    let mut rules = Rules::new(Spelling::Json);
    rules.definitions = schema.definitions.clone();
    let start = rules.python(&schema.schema, "", 0).ok()??;
    rules.left_out.0.is_empty().then(|| format!("start: {start}\n{}{COMMON}{JSON_WORDS}", rules.text))
}

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Python,
    Json,
}

/// Rules made so far, as text.
struct Rules {
    text: String,
    count: usize,
    /// The rules for any value, by depth, once they are needed.
    any: Vec<String>,
    /// Those of the tool in work.
    definitions: Map<String, Json>,
    left_out: LeftOut,
    spelling: Spelling,
}

impl Rules {
    fn new(spelling: Spelling) -> Self {
        let (text, any, definitions) = (String::new(), Vec::new(), Map::new());
        Self { text, count: 0, any, definitions, left_out: LeftOut::default(), spelling }
    }

    /// A rule with a name of its own.
    fn add(&mut self, body: &str) -> String {
        let name = format!("r{}", self.count);
        self.count += 1;
        self.text.push_str(&format!("{name}: {body}\n"));
        name
    }

    fn tool(&mut self, tool: &str, parameters: Fitted) -> Result<String, TextError> {
        let Fitted { schema: parameters, definitions, left_out } = parameters;
        self.definitions = definitions;
        self.left_out = left_out;
        let Some(object) = Object::read(&parameters) else { return self.json_call(tool, &parameters) };
        let named_only = matches!(object.extra, Extra::Unsaid | Extra::No);
        if !named_only && object.properties.is_empty() {
            return self.json_call(tool, &parameters);
        }
        let mut arguments = Vec::with_capacity(object.properties.len());
        for (name, schema, required) in object.properties {
            let value = self.value(schema, &format!("properties.{name}"), 0)?;
            let spelled = if name.is_empty() || !name.chars().all(is_name_char) {
                string(&format!("{}=", Json::from(name)))
            } else {
                string(&format!("{name}="))
            };
            arguments.push((format!("{spelled} {value}"), required));
        }
        let arguments = self.sequence(&arguments);
        let call = format!("{} {arguments} \")\"", string(&format!("{tool}(")));
        // Arguments that no property names are possible in JSON only.
        let call = if named_only { call } else { format!("{call} | {}", self.json_call(tool, &parameters)?) };
        Ok(self.add(&call))
    }

    /// `{"name": .., "arguments": ..}`.
    fn json_call(&mut self, name: &str, parameters: &Json) -> Result<String, TextError> {
        let mut parameters = relax(parameters, &self.definitions, "", &mut self.left_out, compiles);
        let mut call = json!({
            "type": "object",
            "properties": {"name": {"const": name}},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        });
        if let Some(object) = parameters.as_object_mut() {
            object.entry("type").or_insert_with(|| Json::from("object"));
            if let Some(definitions) = object.shift_remove(DEFINITIONS) {
                call[DEFINITIONS] = definitions;
            }
        }
        call["properties"]["arguments"] = parameters;
        Ok(self.add(&format!("%json {}", spaced(&call)?)))
    }

    /// A rule for JSON of a schema, as far as grammars can enforce it.
    fn json(&mut self, schema: &Json, place: &str) -> Result<String, TextError> {
        let schema = relax(schema, &self.definitions, place, &mut self.left_out, compiles);
        Ok(self.add(&format!("%json {}", spaced(&schema)?)))
    }

    /// A rule for a list of parts in order, with separators; those not required may be missing.
    fn sequence(&mut self, parts: &[(String, Required)]) -> String {
        // From the last part on: what follows when something came before, and when nothing did.
        let mut after = r#""""#.to_owned();
        let mut first = after.clone();
        for (part, required) in parts.iter().rev() {
            let part = self.add(part);
            let (after_body, first_body) = match required {
                Required::Yes => (format!("SEPARATOR {part} {after}"), format!("{part} {after}")),
                Required::No => {
                    (format!("SEPARATOR {part} {after} | {after}"), format!("{part} {after} | {first}"))
                }
            };
            first = self.add(&first_body);
            after = self.add(&after_body);
        }
        first
    }

    /// An expression for the values a schema allows.
    fn value(&mut self, schema: &Json, place: &str, depth: usize) -> Result<String, TextError> {
        match self.python(schema, place, depth)? {
            Some(rule) => Ok(rule),
            None => self.json(schema, place),
        }
    }

    /// The same in Python's spelling; `None` if the schema says more than there are rules for.
    fn python(&mut self, schema: &Json, place: &str, depth: usize) -> Result<Option<String>, TextError> {
        let object = match schema {
            Json::Object(object) => object,
            Json::Bool(true) => return Ok(Some(self.any(depth))),
            _ => return Ok(None),
        };
        if let Some(values) = fixed_values(object, self.spelling) {
            return Ok(values.map(|values| self.add(&values.join(" | "))));
        }
        let kinds: Vec<&str> = match object.get("type") {
            None if says_only(object, &[]) => return Ok(Some(self.any(depth))),
            Some(Json::String(kind)) => vec![kind],
            Some(Json::Array(kinds)) if !kinds.is_empty() => kinds.iter().filter_map(Json::as_str).collect(),
            _ => return Ok(None),
        };
        if !says_only(object, &SHAPE) {
            return Ok(None);
        }
        let mut alternatives = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let rule = match kind {
                "string" => "STRING".to_owned(),
                "integer" => "INTEGER".to_owned(),
                "number" => "NUMBER".to_owned(),
                "boolean" => "BOOLEAN".to_owned(),
                "null" => "NULL".to_owned(),
                "array" if depth < DEPTH_MAX && object.get("items") != Some(&Json::Bool(false)) => {
                    let items = object.get("items").unwrap_or(&Json::Bool(true));
                    let item = self.value(items, &format!("{place}.items"), depth + 1)?;
                    self.add(&format!(r#""[" ({item} (SEPARATOR {item})*)? "]""#))
                }
                "object" if depth < DEPTH_MAX => match self.dict(schema, place, depth)? {
                    Some(rule) => rule,
                    None => return Ok(None),
                },
                _ => return Ok(None),
            };
            alternatives.push(rule);
        }
        Ok(Some(format!("({})", alternatives.join(" | "))))
    }

    fn dict(&mut self, schema: &Json, place: &str, depth: usize) -> Result<Option<String>, TextError> {
        let Some(object) = Object::read(schema) else { return Ok(None) };
        if object.properties.is_empty() {
            return match object.extra {
                Extra::Unsaid | Extra::Any => {
                    let any = self.any(depth + 1);
                    Ok(Some(
                        self.add(&format!(r#""{{" (KEY COLON {any} (SEPARATOR KEY COLON {any})*)? "}}""#)),
                    ))
                }
                Extra::No => Ok(Some(r#""{}""#.to_owned())),
                Extra::Schema => Ok(None),
            };
        }
        if object.extra == Extra::Schema {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(object.properties.len());
        for (name, schema, required) in object.properties {
            let value = self.value(schema, &format!("{place}.properties.{name}"), depth + 1)?;
            entries.push((format!("{} COLON {value}", string(&Json::from(name).to_string())), required));
        }
        let entries = self.sequence(&entries);
        Ok(Some(self.add(&format!(r#""{{" {entries} "}}""#))))
    }

    /// Any value, to a depth.
    fn any(&mut self, depth: usize) -> String {
        if self.any.is_empty() {
            let mut rule = self.add("STRING | NUMBER | BOOLEAN | NULL");
            self.any.push(rule.clone());
            for _ in 0..DEPTH_MAX {
                rule = self.add(&format!(
                    r#"STRING | NUMBER | BOOLEAN | NULL | "[" ({rule} (SEPARATOR {rule})*)? "]" | "{{" (KEY COLON {rule} (SEPARATOR KEY COLON {rule})*)? "}}""#
                ));
                self.any.push(rule.clone());
            }
        }
        self.any[DEPTH_MAX.saturating_sub(depth)].clone()
    }
}

/// Whether a part must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Required {
    Yes,
    No,
}

/// What a schema says of properties it does not name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Unsaid,
    Any,
    No,
    Schema,
}

/// The schema of an object that says nothing that rules cannot.
struct Object<'a> {
    properties: Vec<(&'a str, &'a Json, Required)>,
    extra: Extra,
}

impl<'a> Object<'a> {
    fn read(schema: &'a Json) -> Option<Self> {
        let object = schema.as_object()?;
        let is_object = object.get("type").is_none_or(|kind| {
            kind == "object" || kind.as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "object"))
        });
        if !is_object || !says_only(object, &SHAPE) {
            return None;
        }
        let empty = Vec::new();
        let required = match object.get("required") {
            None => &empty,
            Some(required) => required.as_array()?,
        };
        let properties: Vec<_> = match object.get("properties") {
            None => Vec::new(),
            Some(properties) => properties
                .as_object()?
                .iter()
                // What may not be there is not written.
                .filter(|(_, schema)| **schema != false)
                .map(|(name, schema)| {
                    let is_required = required.iter().any(|other| other == name);
                    (name.as_str(), schema, if is_required { Required::Yes } else { Required::No })
                })
                .collect(),
        };
        let named = |name: &Json| properties.iter().any(|(other, ..)| name == other);
        if !required.iter().all(named) {
            return None;
        }
        let extra = match object.get("additionalProperties") {
            None => Extra::Unsaid,
            Some(Json::Bool(true)) => Extra::Any,
            Some(Json::Bool(false)) => Extra::No,
            Some(_) => Extra::Schema,
        };
        Some(Self { properties, extra })
    }
}

/// Whether a schema has no keywords but its type and these.
fn says_only(schema: &Map<String, Json>, known: &[&str]) -> bool {
    schema.keys().all(|key| key == "type" || known.contains(&key.as_str()))
}

/// The values of `enum` or `const` as alternatives; the inner `None` if there are other restrictions beside
/// them.
fn fixed_values(schema: &Map<String, Json>, spelling: Spelling) -> Option<Option<Vec<String>>> {
    let values = match (schema.get("enum"), schema.get("const")) {
        (Some(Json::Array(values)), None) => values.clone(),
        (None, Some(value)) => vec![value.clone()],
        (None, None) => return None,
        _ => return Some(None),
    };
    let fits = |value: &Json| match schema.get("type").map(|kind| (kind.as_str(), value)) {
        None => true,
        Some((Some("string"), value)) => value.is_string(),
        Some((Some("integer"), value)) => value.is_i64() || value.is_u64() || is_whole(value),
        Some((Some("number"), value)) => value.is_number() || exact::digits(value).is_some(),
        Some((Some("boolean"), value)) => value.is_boolean(),
        Some(_) => false,
    };
    if values.is_empty() || !says_only(schema, &["enum", "const"]) || !values.iter().all(fits) {
        return Some(None);
    }
    let mut alternatives = Vec::with_capacity(values.len());
    for value in &values {
        match value {
            value if spelling == Spelling::Json => alternatives.push(string(&exact::to_string(value))),
            Json::Bool(true) => alternatives.push(r#""True" | "true""#.to_owned()),
            Json::Bool(false) => alternatives.push(r#""False" | "false""#.to_owned()),
            Json::Null => alternatives.push(r#""None" | "null""#.to_owned()),
            Json::String(text) if !text.contains(['\'', '\\']) && !text.contains(char::is_control) => {
                alternatives.push(format!(
                    "{} | {}",
                    string(&value.to_string()),
                    string(&format!("'{text}'"))
                ));
            }
            value => alternatives.push(string(&exact::to_string(value))),
        }
    }
    Some(Some(alternatives))
}

/// Whether it is a whole number beyond 64 bits.
fn is_whole(value: &Json) -> bool {
    exact::digits(value).is_some_and(|digits| !digits.contains(['.', 'e', 'E']))
}
