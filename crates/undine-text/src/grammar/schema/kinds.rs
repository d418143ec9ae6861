//! Names of types, in the spellings of those who write schemas by hand.

use serde_json::{Map, Value as Json};

use super::Fitting;

/// What a name of a type means.
pub enum Kind {
    /// JSON Schema's own name for it.
    Known(&'static str),
    /// All types.
    Any,
}

/// Reads the name of a type: JSON Schema's in any case, and what it is called in Python and elsewhere.
pub fn kind_of(name: &str) -> Option<Kind> {
    Some(Kind::Known(match name.to_ascii_lowercase().as_str() {
        "string" | "str" | "text" => "string",
        "integer" | "int" | "long" => "integer",
        "number" | "float" | "double" => "number",
        "boolean" | "bool" => "boolean",
        "object" | "dict" | "map" => "object",
        "array" | "list" | "tuple" => "array",
        "null" | "none" => "null",
        "any" => return Some(Kind::Any),
        _ => return None,
    }))
}

impl Fitting<'_> {
    /// `type`, if it says something.
    pub fn kind(&mut self, value: &Json, out: &mut Map<String, Json>) {
        let names: Vec<&Json> = match value {
            Json::Array(names) => names.iter().collect(),
            name => vec![name],
        };
        let mut kinds = Vec::with_capacity(names.len());
        for name in names {
            match name.as_str().map(kind_of) {
                Some(Some(Kind::Known(kind))) if kinds.contains(&kind) => {}
                Some(Some(Kind::Known(kind))) => kinds.push(kind),
                Some(Some(Kind::Any)) => return,
                Some(None) | None => return self.leave_out("type"),
            }
        }
        match kinds.as_slice() {
            [] => self.leave_out("type"),
            [kind] => drop(out.insert("type".to_owned(), (*kind).into())),
            kinds => drop(out.insert("type".to_owned(), kinds.into())),
        }
    }
}
