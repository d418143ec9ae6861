//! One schema, keyword by keyword.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::kinds::{Kind, kind_of};
use super::references::REFERENCES;
use super::{Fitting, anything, decimals, multiples};

/// Formats that the library has rules for. Others are remarks, as the standard has it.
const FORMATS: [&str; 10] =
    ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// What a keyword does in a schema.
pub enum Said {
    /// What the library can enforce, or what says nothing: it has been dealt with.
    Done,
    /// Something that is left out.
    LeftOut,
}

impl<'a> Fitting<'a> {
    /// A schema as the library takes it; `false` stays, because what it means depends on where it is.
    pub fn schema(&mut self, schema: &'a Json) -> Json {
        match schema {
            Json::Object(object) => self.object(object),
            Json::Bool(true) => anything(),
            Json::Bool(false) => Json::Bool(false),
            // A type alone, or a remark where a schema belongs.
            Json::String(name) => match kind_of(name) {
                Some(Kind::Known(kind)) => json!({"type": kind}),
                Some(Kind::Any) => anything(),
                None => self.no_schema(),
            },
            Json::Null | Json::Number(_) | Json::Array(_) => self.no_schema(),
        }
    }

    fn no_schema(&mut self) -> Json {
        self.leave_out("");
        anything()
    }

    fn object(&mut self, schema: &'a Map<String, Json>) -> Json {
        let mut out = Map::new();
        if schema.get("not").is_some_and(says_nothing) {
            return Json::Bool(false);
        }
        for (keyword, value) in schema {
            if let Said::LeftOut = self.keyword(keyword, value, schema, &mut out) {
                self.leave_out(keyword);
            }
        }
        if let Some(names) = schema.get("propertyNames") {
            self.property_names(names, &mut out);
        }
        self.least_properties(&mut out);
        multiples::list(&mut out);
        if schema.get("nullable") == Some(&Json::Bool(true)) {
            return or_null(out);
        }
        Json::Object(out)
    }

    /// `minProperties`, where it cannot be met by writing a name twice: the library knows free names only by
    /// their form, and takes the same one again.
    fn least_properties(&mut self, out: &mut Map<String, Json>) {
        let Some(least) = out.get("minProperties").and_then(Json::as_u64) else { return };
        let required = out.get("required").and_then(Json::as_array).into_iter().flatten();
        let required = required.collect::<HashSet<_>>().len() as u64;
        let patterns = out.get("patternProperties").and_then(Json::as_object);
        let are_declared =
            patterns.is_none_or(Map::is_empty) && out.get("additionalProperties") == Some(&Json::Bool(false));
        if least <= required {
            out.shift_remove("minProperties");
        } else if !are_declared && least > required + 1 {
            out.shift_remove("minProperties");
            self.leave_out("minProperties");
        }
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Json,
        schema: &'a Map<String, Json>,
        out: &mut Map<String, Json>,
    ) -> Said {
        let value = match keyword {
            _ if value.is_null() && keyword != "const" => return Said::Done,
            "type" => {
                self.kind(value, out);
                return Said::Done;
            }
            _ if REFERENCES.contains(&keyword) => {
                let Some(reference) = value.as_str().and_then(|target| self.reference(target)) else {
                    return Said::LeftOut;
                };
                self.conjoin(reference, out);
                return Said::Done;
            }
            "anyOf" | "oneOf" | "allOf" => return self.combination(keyword, value, schema, out),
            "properties"
            | "patternProperties"
            | "items"
            | "prefixItems"
            | "additionalProperties"
            | "unevaluatedProperties"
            | "unevaluatedItems" => return self.parts(keyword, value, schema, out),
            "enum" if value.as_array().is_some_and(|values| !values.is_empty()) => value.clone(),
            "const" => value.clone(),
            "pattern" if value.is_string() => {
                let rewritten = value.as_str().and_then(decimals::without_look_ahead);
                rewritten.map_or_else(|| value.clone(), Json::from)
            }
            "format" => match value.as_str() {
                Some(format) if FORMATS.contains(&format) => value.clone(),
                _ => return Said::Done,
            },
            "required" if value.as_array().is_some_and(|names| names.iter().all(Json::is_string)) => {
                value.clone()
            }
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
                match count(value) {
                    Some(count) => count.into(),
                    None => return Said::LeftOut,
                }
            }
            "minimum" | "maximum" | "multipleOf" if value.is_number() => value.clone(),
            "exclusiveMinimum" | "exclusiveMaximum" if value.is_number() || value.is_boolean() => {
                value.clone()
            }
            _ => return of_no_grammar(keyword, value, schema),
        };
        out.insert(keyword.to_owned(), value);
        Said::Done
    }

    /// Keywords that hold schemas.
    fn parts(
        &mut self,
        keyword: &str,
        value: &'a Json,
        schema: &'a Map<String, Json>,
        out: &mut Map<String, Json>,
    ) -> Said {
        let (keyword, value) = match (keyword, value) {
            ("properties" | "patternProperties", Json::Object(parts)) => {
                (keyword, self.within(keyword, |fitting| fitting.named(parts)))
            }
            // What PHP makes of an object without entries.
            ("properties" | "patternProperties", Json::Array(parts)) if parts.is_empty() => {
                return Said::Done;
            }
            // A tuple as it was written before 2020.
            ("items", Json::Array(parts)) => {
                if let Some(rest) = schema.get("additionalItems") {
                    let rest = self.within("additionalItems", |fitting| fitting.schema(rest));
                    out.insert("items".to_owned(), rest);
                }
                ("prefixItems", self.within(keyword, |fitting| fitting.listed(parts)))
            }
            ("prefixItems", Json::Array(parts)) if parts.is_empty() => return Said::Done,
            ("prefixItems", Json::Array(parts)) => {
                (keyword, self.within(keyword, |fitting| fitting.listed(parts)))
            }
            ("properties" | "patternProperties" | "prefixItems", _) => return Said::LeftOut,
            ("unevaluatedProperties", rest) if says_nothing(rest) => return Said::Done,
            ("unevaluatedProperties", _) if evaluated_elsewhere(schema, "additionalProperties") => {
                return Said::LeftOut;
            }
            ("unevaluatedProperties", rest) => {
                ("additionalProperties", self.within(keyword, |fitting| fitting.schema(rest)))
            }
            // What `contains` has found counts as looked at, too.
            ("unevaluatedItems", rest) => {
                match evaluated_elsewhere(schema, "items") || schema.contains_key("contains") {
                    _ if says_nothing(rest) => return Said::Done,
                    false => ("items", self.within(keyword, |fitting| fitting.schema(rest))),
                    true => return Said::LeftOut,
                }
            }
            (_, rest) => (keyword, self.within(keyword, |fitting| fitting.schema(rest))),
        };
        out.insert(keyword.to_owned(), value);
        Said::Done
    }

    fn named(&mut self, parts: &'a Map<String, Json>) -> Json {
        let fit = |(name, part): (&'a String, &'a Json)| {
            (name.clone(), self.within(name, |fitting| fitting.schema(part)))
        };
        Json::Object(parts.iter().map(fit).collect())
    }

    pub fn listed(&mut self, parts: &'a [Json]) -> Json {
        let fit = |(index, part): (usize, &'a Json)| {
            self.within(&index.to_string(), |fitting| fitting.schema(part))
        };
        Json::Array(parts.iter().enumerate().map(fit).collect())
    }

    /// Adds a schema that has to hold as well. What looks at keywords beside it keeps its own.
    pub fn conjoin(&mut self, schema: Json, out: &mut Map<String, Json>) {
        const ALONE: [&str; 2] = ["$ref", "anyOf"];
        match schema {
            Json::Object(parts)
                if parts
                    .keys()
                    .all(|keyword| ALONE.contains(&keyword.as_str()) && !out.contains_key(keyword)) =>
            {
                out.extend(parts);
            }
            schema => {
                if let Json::Array(all) = out.entry("allOf").or_insert_with(|| json!([])) {
                    all.push(schema);
                }
            }
        }
    }
}

/// Keywords that say nothing, and those that no grammar can follow.
fn of_no_grammar(keyword: &str, value: &Json, schema: &Map<String, Json>) -> Said {
    let has = |keyword: &str| schema.contains_key(keyword);
    let is_restriction = match keyword {
        "uniqueItems" => *value == true && schema.get("maxItems").and_then(count).is_none_or(|most| most > 1),
        "contains" => {
            let least = schema.get("minContains").and_then(count).unwrap_or(1);
            least > 0 || has("maxContains")
        }
        "if" => has("then") || has("else"),
        "not" => *value != false,
        "dependentRequired" | "dependentSchemas" | "dependencies" => {
            value.as_object().is_none_or(|parts| !parts.is_empty())
        }
        // Known ones with a value that makes no sense.
        "enum" | "pattern" | "required" | "minimum" | "maximum" | "multipleOf" | "exclusiveMinimum"
        | "exclusiveMaximum" => true,
        // Remarks, and parts of what has been looked at: `then`, `minContains`, `additionalItems`,
        // `propertyNames`, `discriminator`.
        _ => false,
    };
    if is_restriction { Said::LeftOut } else { Said::Done }
}

/// Whether other keywords see to what is left for an `unevaluated` one, or may do so.
fn evaluated_elsewhere(schema: &Map<String, Json>, keyword: &str) -> bool {
    const APPLICATORS: [&str; 6] = ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if"];
    schema.contains_key(keyword) || APPLICATORS.iter().any(|keyword| schema.contains_key(*keyword))
}

/// Whether a schema allows everything.
fn says_nothing(schema: &Json) -> bool {
    *schema == true || schema.as_object().is_some_and(Map::is_empty)
}

/// A count, which may be written with a fraction of zero.
fn count(value: &Json) -> Option<u64> {
    const WHOLE_MAX: f64 = (1u64 << 53) as f64;
    let whole = |number: &f64| number.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|number| number as u64))
}

/// OpenAPI's `nullable`.
fn or_null(mut schema: Map<String, Json>) -> Json {
    const COMBINATIONS: [&str; 3] = ["$ref", "anyOf", "allOf"];
    if COMBINATIONS.iter().any(|keyword| schema.contains_key(*keyword)) {
        return json!({"anyOf": [schema, {"type": "null"}]});
    }
    if let Some(kinds) = schema.get_mut("type") {
        let mut list = kinds.as_array().cloned().unwrap_or_else(|| vec![kinds.clone()]);
        if !list.iter().any(|kind| kind == "null") {
            list.push("null".into());
        }
        *kinds = list.into();
    }
    if let Some(value) = schema.shift_remove("const") {
        schema.insert("enum".to_owned(), json!([value]));
    }
    if let Some(Json::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Json::Null)
    {
        values.push(Json::Null);
    }
    Json::Object(schema)
}
