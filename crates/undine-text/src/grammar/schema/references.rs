//! Where references within a schema lead.

use serde_json::{Value as Json, json};

use super::{DEFINITIONS, Fitting};
use crate::grammar::measure::percent_decoded;

/// References followed on the way to what they mean.
const FOLLOWED_MAX: usize = 16;
/// Longest name of a definition.
const NAME_CHARS: usize = 40;
/// The keywords that refer to another schema.
pub const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

impl<'a> Fitting<'a> {
    /// A reference to a definition of its own; `None` if it leads nowhere within the schema.
    pub fn reference(&mut self, target: &str) -> Option<Json> {
        let value = self.target(target)?;
        let key: *const Json = value;
        let name = match self.names.get(&key) {
            Some(name) => name.clone(),
            None => {
                let steps: Vec<&str> = target.split(['#', '/']).filter(|step| !step.is_empty()).collect();
                let name = self.new_name(steps.last().copied().unwrap_or("root"));
                self.names.insert(key, name.clone());
                // What is defined is not where it is used.
                let place = std::mem::take(&mut self.place);
                let fitted = self.within(&steps.join("."), |fitting| fitting.schema(value));
                self.place = place;
                self.definitions.insert(name.clone(), fitted);
                name
            }
        };
        Some(json!({"$ref": format!("#/{DEFINITIONS}/{name}")}))
    }

    /// A name for a definition, as like its own as can be written plainly: places are told with it.
    fn new_name(&self, own: &str) -> String {
        let plain: String =
            own.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(NAME_CHARS).collect();
        let is_free = |name: &str| !name.is_empty() && self.names.values().all(|other| other != name);
        if is_free(&plain) {
            return plain;
        }
        let mut numbered = (1..).map(|number: usize| format!("{plain}_{number}"));
        numbered.find(|name| is_free(name)).expect("numbers do not end before names do")
    }

    /// A schema, or what its reference means if it is nothing else.
    pub fn resolved(&self, schema: &'a Json) -> &'a Json {
        let mut schema = schema;
        for _ in 0..FOLLOWED_MAX {
            let target = schema.get("$ref").and_then(Json::as_str).and_then(|target| self.target(target));
            match target {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// `#`, `#/` and a JSON pointer, `#anchor`, or an `$id` within the schema with or without one of them.
    pub fn target(&self, reference: &str) -> Option<&'a Json> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let own_id = self.root.get("$id").and_then(Json::as_str);
        // A name alone is meant beside the whole schema's own.
        let beside =
            own_id.and_then(|id| id.rsplit_once('/')).map(|(folder, _)| format!("{folder}/{document}"));
        let is_own = |id: &str| {
            let id = id.split('#').next().unwrap_or(id);
            id == document || beside.as_deref() == Some(id)
        };
        let base = if document.is_empty() || own_id.is_some_and(is_own) {
            self.root
        } else {
            find(self.root, &|schema| schema.get("$id").and_then(Json::as_str).is_some_and(is_own))?
        };
        let fragment = percent_decoded(fragment);
        if fragment.is_empty() || fragment.starts_with('/') {
            // A slash alone is the whole for many, though a pointer to what has no name.
            return base.pointer(&fragment).or_else(|| Some(base).filter(|_| fragment == "/"));
        }
        find(base, &|schema| {
            ["$anchor", "$dynamicAnchor"].iter().any(|key| schema.get(*key) == Some(&Json::from(&*fragment)))
        })
    }
}

/// The first part of a schema that fits.
fn find<'a>(schema: &'a Json, fits: &dyn Fn(&Json) -> bool) -> Option<&'a Json> {
    if fits(schema) {
        return Some(schema);
    }
    match schema {
        Json::Object(object) => object.values().find_map(|part| find(part, fits)),
        Json::Array(list) => list.iter().find_map(|part| find(part, fits)),
        _ => None,
    }
}
