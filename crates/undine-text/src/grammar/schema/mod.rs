//! Schemas from everywhere as the grammar library takes them: what says nothing is dropped, what it spells in
//! another way is translated, and what no grammar can enforce is left out and named.
//!
//! Invariant: a fitted schema allows everything that the given one allows, and no less than `left_out` says.
//! Two things are narrower: zeros before a number in a text (`decimals`), and tags that have a default, which
//! are required (`alternatives`).
//! Its references lead to its own definitions, which have plain names.
//!
//! The library (llguidance 1.9) refuses a schema as a whole for one keyword that it does not know, cannot see
//! that alternatives behind references differ, and does not unescape what a reference names.

mod alternatives;
mod decimals;
mod fit;
mod kinds;
mod multiples;
mod names;
mod references;
mod relax;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value as Json, json};

pub use relax::{outline, relax};

/// Most places that are named; after them it is said how many more there are.
const LEFT_OUT_MAX: usize = 24;
/// Most further places that are counted.
const MORE_MAX: usize = 1 << 16;
/// Longest place, in characters.
const PLACE_CHARS: usize = 200;
/// Where the definitions of a fitted schema are.
pub const DEFINITIONS: &str = "$defs";

/// A schema that the library takes, or nearly: see [`relax`].
#[derive(Clone, PartialEq, Debug)]
pub struct Fitted {
    /// Without its definitions.
    pub schema: Json,
    pub definitions: Map<String, Json>,
    pub left_out: LeftOut,
}

/// What of a schema is not enforced: places and keywords such as `properties.tags.uniqueItems`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LeftOut(pub Vec<String>, More);

/// The places beyond those that are named, by their hashes: one that is found twice counts once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct More(HashSet<u64>);

impl LeftOut {
    pub fn add(&mut self, place: &str, keyword: &str) {
        let dot = if place.is_empty() || keyword.is_empty() { "" } else { "." };
        let text = format!("{place}{dot}{keyword}");
        // Names of properties are anybody's.
        let mut text = text.replace(char::is_control, "?");
        if text.is_empty() {
            text.push_str("the whole schema");
        }
        if let Some((end, _)) = text.char_indices().nth(PLACE_CHARS) {
            text.truncate(end);
        }
        if self.0.contains(&text) {
            return;
        }
        if self.0.len() < LEFT_OUT_MAX {
            self.0.push(text);
            return;
        }
        let More(more) = &mut self.1;
        if more.len() < MORE_MAX {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            more.insert(hasher.finish());
        }
        self.0.truncate(LEFT_OUT_MAX);
        self.0.push(format!("and {} more", more.len()));
    }
}

/// Fits a schema whose size has been checked.
pub fn fit(schema: &Json) -> Fitted {
    let mut fitting = Fitting {
        root: schema,
        definitions: Map::new(),
        names: HashMap::new(),
        place: String::new(),
        left_out: LeftOut::default(),
    };
    let schema = fitting.schema(schema);
    Fitted { schema, definitions: fitting.definitions, left_out: fitting.left_out }
}

/// A fitted schema or a part of it, with the definitions that it needs.
pub fn with_definitions(schema: &Json, definitions: &Map<String, Json>) -> Json {
    let mut needed = Map::new();
    collect(schema, definitions, &mut needed);
    let mut whole = schema.clone();
    if let (Some(object), false) = (whole.as_object_mut(), needed.is_empty()) {
        object.insert(DEFINITIONS.to_owned(), Json::Object(needed));
    }
    whole
}

/// Finds the definitions that a schema leads to.
fn collect(schema: &Json, definitions: &Map<String, Json>, needed: &mut Map<String, Json>) {
    match schema {
        Json::Object(object) => {
            let name = object.get("$ref").and_then(Json::as_str).and_then(|target| target.rsplit('/').next());
            if let Some(name) = name
                && !needed.contains_key(name)
                && let Some(definition) = definitions.get(name)
            {
                needed.insert(name.to_owned(), definition.clone());
                collect(definition, definitions, needed);
            }
            object.values().for_each(|part| collect(part, definitions, needed));
        }
        Json::Array(list) => list.iter().for_each(|part| collect(part, definitions, needed)),
        _ => {}
    }
}

/// The schema that allows everything.
pub fn anything() -> Json {
    json!({})
}

struct Fitting<'a> {
    root: &'a Json,
    definitions: Map<String, Json>,
    /// The names of definitions, by what they were made of.
    names: HashMap<*const Json, String>,
    /// Where the schema in work is.
    place: String,
    left_out: LeftOut,
}

impl<'a> Fitting<'a> {
    /// Does something one step further into the schema.
    fn within<T>(&mut self, step: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.place.len();
        if !self.place.is_empty() {
            self.place.push('.');
        }
        self.place.push_str(&super::measure::excerpt(step));
        let done = work(self);
        self.place.truncate(length);
        done
    }

    fn leave_out(&mut self, keyword: &str) {
        self.left_out.add(&self.place, keyword);
    }
}

#[cfg(test)]
mod tests;
