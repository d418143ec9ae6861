//! What the library refuses although its keywords are known: the place is looked for, and the least that
//! helps is left out.
//!
//! The library says what is wrong, but not where. So parts of the schema are compiled alone, with references
//! that mean anything, until one fails whose own parts do not.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::{DEFINITIONS, Fitted, LeftOut, anything, with_definitions};

/// Most compilations that finding what is wrong may take; then nothing of the schema is kept.
const COMPILATIONS_MAX: usize = 1000;
/// Keywords that are left out together, those that say least first.
const GROUPS: [&[&str]; 18] = [
    &["minProperties", "maxProperties"],
    &["pattern"],
    &["patternProperties"],
    &["format"],
    &["multipleOf"],
    &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
    &["minLength", "maxLength"],
    &["minItems", "maxItems"],
    &["enum"],
    &["const"],
    &["required"],
    &["allOf"],
    &["anyOf"],
    &["$ref"],
    // What is left for others goes with them, or it would forbid them.
    &["patternProperties", "additionalProperties"],
    &["items", "prefixItems"],
    &["properties", "patternProperties", "additionalProperties"],
    &["type"],
];
/// Keywords of which each can be the one for which a grammar is too large for its lexer.
const LEXICAL: [&str; 9] = [
    "pattern",
    "format",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
];

/// Weakens a fitted schema until `compiles` takes it.
pub fn relax(
    schema: &Json,
    definitions: &Map<String, Json>,
    place: &str,
    left_out: &mut LeftOut,
    compiles: impl Fn(&Json) -> Result<(), String>,
) -> Json {
    let mut whole = with_definitions(schema, definitions);
    if compiles(&whole).is_ok() {
        return whole;
    }
    let loose = definitions.keys().map(|name| (name.clone(), anything())).collect();
    let mut search = Search { definitions: loose, compiles, left: COMPILATIONS_MAX };
    // First what is wrong by itself, then what is wrong only together with what is referred to.
    search.each_alone(&mut whole, place, left_out);
    loop {
        search.definitions = whole.get(DEFINITIONS).and_then(Json::as_object).cloned().unwrap_or_default();
        if !search.step(&mut whole, place, left_out) {
            break;
        }
    }
    if (search.compiles)(&whole).is_ok() {
        return whole;
    }
    left_out.add(place, "");
    anything()
}

struct Search<C> {
    definitions: Map<String, Json>,
    compiles: C,
    left: usize,
}

impl<C: Fn(&Json) -> Result<(), String>> Search<C> {
    /// Weakens all definitions and the schema, as long as references mean anything, so that none of them
    /// depends on another.
    fn each_alone(&mut self, whole: &mut Json, place: &str, left_out: &mut LeftOut) {
        let definitions = whole.get_mut(DEFINITIONS).and_then(Json::as_object_mut);
        for (name, definition) in definitions.into_iter().flatten().rev() {
            let place = of_definition(place, name);
            while definition.is_object()
                && !self.fits(definition)
                && self.weaken(definition, &place, left_out)
            {}
        }
        while !self.fits(whole) && self.weaken(whole, place, left_out) {}
    }

    /// Weakens one definition, or the schema if they all fit; `false` if nothing is to be done. What is
    /// defined last is weakened first, for the others lead to it.
    fn step(&mut self, whole: &mut Json, place: &str, left_out: &mut LeftOut) -> bool {
        let definitions = whole.get_mut(DEFINITIONS).and_then(Json::as_object_mut);
        for (name, definition) in definitions.into_iter().flatten().rev() {
            if definition.is_object() && !self.fits(definition) {
                return self.weaken(definition, &of_definition(place, name), left_out);
            }
        }
        !self.fits(whole) && self.weaken(whole, place, left_out)
    }

    /// Whether a part compiles with the definitions there are.
    fn fits(&mut self, part: &Json) -> bool {
        if self.left == 0 {
            return true;
        }
        self.left -= 1;
        let mut part = part.clone();
        if let Some(object) = part.as_object_mut() {
            object.shift_remove(DEFINITIONS);
        }
        (self.compiles)(&with_definitions(&part, &self.definitions)).is_ok()
    }

    /// Finds the innermost parts that do not compile, and leaves something of each out.
    fn weaken(&mut self, schema: &mut Json, place: &str, left_out: &mut LeftOut) -> bool {
        let Some(object) = schema.as_object_mut() else { return false };
        let mut has_weakened = false;
        for (keyword, value) in object.iter_mut() {
            let parts: Vec<(String, &mut Json)> = match (keyword.as_str(), value) {
                ("properties" | "patternProperties", Json::Object(parts)) => {
                    parts.iter_mut().map(|(name, part)| (format!("{keyword}.{name}"), part)).collect()
                }
                ("prefixItems" | "anyOf" | "allOf", Json::Array(parts)) => {
                    parts.iter_mut().enumerate().map(|(at, part)| (format!("{keyword}.{at}"), part)).collect()
                }
                ("items" | "additionalProperties", part) => vec![(keyword.clone(), part)],
                _ => continue,
            };
            for (step, part) in parts {
                if part.is_object() && !self.fits(part) {
                    let dot = if place.is_empty() { "" } else { "." };
                    has_weakened |= self.weaken(part, &format!("{place}{dot}{step}"), left_out);
                }
            }
        }
        has_weakened || self.weaken_own(schema, place, left_out)
    }

    fn weaken_own(&mut self, schema: &mut Json, place: &str, left_out: &mut LeftOut) -> bool {
        let Some(object) = schema.as_object() else { return false };
        for group in GROUPS {
            let found: Vec<&str> =
                group.iter().copied().filter(|keyword| object.contains_key(*keyword)).collect();
            if found.is_empty() {
                continue;
            }
            let weaker = Json::Object(without(object, &found));
            if weaker != *schema && self.fits(&weaker) {
                found.iter().for_each(|keyword| left_out.add(place, keyword));
                *schema = weaker;
                return true;
            }
        }
        // No single one helps.
        let (weaker, missing) = self.least(object);
        match weaker.keys().all(|keyword| keyword == DEFINITIONS) {
            true => left_out.add(place, ""),
            false => missing.iter().for_each(|keyword| left_out.add(place, keyword)),
        }
        *schema = Json::Object(weaker);
        !missing.is_empty()
    }

    /// As many of an object's keywords as compile together, and the others.
    fn least(&mut self, object: &Map<String, Json>) -> (Map<String, Json>, Vec<&'static str>) {
        let mut weaker = object.clone();
        let mut missing: Vec<&str> = Vec::new();
        for group in GROUPS {
            let found: Vec<&str> =
                group.iter().copied().filter(|keyword| weaker.contains_key(*keyword)).collect();
            weaker = without(&weaker, &found);
            missing.extend(found);
            if self.fits(&Json::Object(weaker.clone())) {
                break;
            }
        }
        let mut seen = BTreeSet::new();
        missing.retain(|keyword| seen.insert(*keyword));
        // What was left out on the way may be possible after all, what says most before what says least.
        for keyword in missing.clone().into_iter().rev() {
            let lacks = |name: &&str| object.contains_key(*name) && !weaker.contains_key(*name);
            let is_rest_of = |rest: &str, names: &[&str]| keyword == rest && names.iter().any(lacks);
            if is_rest_of("additionalProperties", &["properties", "patternProperties"])
                || is_rest_of("items", &["prefixItems"])
                || weaker.contains_key(keyword)
            {
                continue;
            }
            let mut fuller = weaker.clone();
            fuller.insert(keyword.to_owned(), object[keyword].clone());
            if self.fits(&Json::Object(fuller.clone())) {
                weaker = fuller;
                missing.retain(|other| *other != keyword);
            }
        }
        (weaker, missing)
    }
}

/// Where a definition is.
fn of_definition(place: &str, name: &str) -> String {
    let dot = if place.is_empty() { "" } else { "." };
    format!("{place}{dot}{DEFINITIONS}.{name}")
}

/// An object without some of its keywords. Names that patterns allow stay allowed where others are not: a
/// schema may become weaker only.
fn without(object: &Map<String, Json>, keywords: &[&str]) -> Map<String, Json> {
    let mut weaker = object.clone();
    weaker.retain(|keyword, _| !keywords.contains(&keyword.as_str()));
    let names = object.get("patternProperties").and_then(Json::as_object);
    let restricts = !keywords.contains(&"additionalProperties")
        && object.get("additionalProperties").is_some_and(|rest| *rest != anything());
    if let (Some(names), true, true) = (names, restricts, keywords.contains(&"patternProperties")) {
        let names: Vec<String> = names.keys().map(|name| format!("(?:{name})")).collect();
        weaker.insert("patternProperties".to_owned(), json!({ names.join("|"): {} }));
    }
    weaker
}

/// A schema without what can make a lexer too large.
pub fn outline(fitted: &Fitted) -> Fitted {
    let mut left_out = fitted.left_out.clone();
    let schema = outlined(&fitted.schema, "", &mut left_out);
    let definition = |(name, part): (&String, &Json)| (name.clone(), outlined(part, name, &mut left_out));
    let definitions = fitted.definitions.iter().map(definition).collect();
    Fitted { schema, definitions, left_out }
}

fn outlined(schema: &Json, place: &str, left_out: &mut LeftOut) -> Json {
    let dot = if place.is_empty() { "" } else { "." };
    match schema {
        Json::Object(object) => {
            let mut out = Map::new();
            for (keyword, value) in object {
                let value = match keyword.as_str() {
                    "enum" | "const" => value.clone(),
                    // A property may be called like a keyword; its schema is an object.
                    lexical if LEXICAL.contains(&lexical) && !value.is_object() => {
                        left_out.add(place, keyword);
                        continue;
                    }
                    _ => outlined(value, &format!("{place}{dot}{keyword}"), left_out),
                };
                out.insert(keyword.clone(), value);
            }
            Json::Object(out)
        }
        Json::Array(list) => {
            let part = |(at, part)| outlined(part, &format!("{place}.{at}"), left_out);
            Json::Array(list.iter().enumerate().map(part).collect())
        }
        other => other.clone(),
    }
}
