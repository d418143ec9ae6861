//! `propertyNames`: as names or patterns of properties, which grammars can follow.

use serde_json::{Map, Value as Json, json};

use super::{Fitting, anything};
use crate::grammar::PROPERTIES_MAX;

impl<'a> Fitting<'a> {
    pub fn property_names(&mut self, names: &'a Json, out: &mut Map<String, Json>) {
        // Left out as a whole, if it is.
        let left_out = self.left_out.clone();
        let resolved = self.resolved(names);
        let names = self.schema(resolved);
        let understood = self.left_out == left_out && restrict(&names, out);
        self.left_out = left_out;
        if !understood {
            self.leave_out("propertyNames");
        }
    }
}

/// Says it with other keywords, if it can be said.
fn restrict(names: &Json, out: &mut Map<String, Json>) -> bool {
    let Some(names) = names.as_object() else {
        out.insert("maxProperties".to_owned(), 0.into());
        return *names == false;
    };
    let kind = names.get("type");
    if kind.is_some_and(|kind| {
        kind != "string" && !kind.as_array().is_some_and(|kinds| kinds.contains(&"string".into()))
    }) {
        return false;
    }
    let said: Vec<&str> = names.keys().map(String::as_str).filter(|keyword| *keyword != "type").collect();
    match said.as_slice() {
        [] => true,
        ["enum"] => names["enum"].as_array().is_some_and(|values| only(values, out)),
        ["const"] => only(std::slice::from_ref(&names["const"]), out),
        _ if out.contains_key("properties") || out.contains_key("patternProperties") => false,
        ["pattern"] => names["pattern"].as_str().is_some_and(|pattern| matching(pattern, out)),
        _ if said.iter().all(|keyword| ["minLength", "maxLength"].contains(keyword)) => {
            let least = names.get("minLength").and_then(Json::as_u64).unwrap_or(0);
            let most = names.get("maxLength").map(Json::to_string).unwrap_or_default();
            matching(&format!("^[\\s\\S]{{{least},{most}}}$"), out)
        }
        _ => false,
    }
}

/// Properties of these names, and no others.
fn only(values: &[Json], out: &mut Map<String, Json>) -> bool {
    if values.len() > PROPERTIES_MAX || out.contains_key("patternProperties") {
        return false;
    }
    let rest = out.insert("additionalProperties".to_owned(), Json::Bool(false)).unwrap_or_else(anything);
    let properties = out.entry("properties").or_insert_with(|| json!({}));
    let Some(properties) = properties.as_object_mut() else { return false };
    for (name, schema) in properties.iter_mut() {
        if !values.iter().any(|value| value == name.as_str()) {
            *schema = Json::Bool(false);
        }
    }
    if rest != false {
        for name in values.iter().filter_map(Json::as_str) {
            properties.entry(name).or_insert_with(|| rest.clone());
        }
    }
    true
}

/// Properties whose names match, and no others.
fn matching(pattern: &str, out: &mut Map<String, Json>) -> bool {
    let rest = out.insert("additionalProperties".to_owned(), Json::Bool(false)).unwrap_or_else(anything);
    if rest != false {
        out.insert("patternProperties".to_owned(), json!({ pattern: rest }));
    }
    true
}
