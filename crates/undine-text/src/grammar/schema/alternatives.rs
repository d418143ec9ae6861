//! `anyOf`, `oneOf`, `allOf`: a grammar can follow `oneOf` where no value fits two alternatives, for then it
//! is `anyOf`.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::Fitting;
use super::fit::Said;
use super::kinds::{Kind, kind_of};

/// Alternatives and parts entered to see whether two schemas exclude each other.
const DEPTH_MAX: usize = 8;
/// Alternatives that are compared with each other.
const COMPARED_MAX: usize = 256;

impl<'a> Fitting<'a> {
    pub fn combination(
        &mut self,
        keyword: &str,
        value: &'a Json,
        schema: &'a Map<String, Json>,
        out: &mut Map<String, Json>,
    ) -> Said {
        let Json::Array(parts) = value else { return Said::LeftOut };
        if parts.is_empty() {
            return if keyword == "allOf" { Said::Done } else { Said::LeftOut };
        }
        let mut fitted = self.within(keyword, |fitting| fitting.listed(parts));
        if keyword == "allOf" {
            for part in fitted.as_array().cloned().unwrap_or_default() {
                self.conjoin(part, out);
            }
            return Said::Done;
        }
        let tag = schema.get("discriminator").and_then(tag_of);
        // Where one alternative does not have it, it tells none apart.
        let tag = tag.filter(|tag| parts.iter().all(|part| self.declares(part, tag, DEPTH_MAX)));
        if let (Some(tag), Json::Array(fitted)) = (tag, &mut fitted) {
            fitted.iter_mut().for_each(|fitted| require(tag, fitted));
        }
        let is_exact = keyword == "anyOf" || self.exclude_each_other(parts, tag);
        self.conjoin(json!({"anyOf": fitted}), out);
        if is_exact { Said::Done } else { Said::LeftOut }
    }

    /// Whether every object of a schema can have a property, by its own word or that of its parts.
    fn declares(&self, part: &'a Json, tag: &str, depth: usize) -> bool {
        let part = self.resolved(part);
        let parts = |keyword: &str| part.get(keyword).and_then(Json::as_array);
        let deeper = |part: &'a Json| depth > 0 && self.declares(part, tag, depth - 1);
        part.get("properties").is_some_and(|properties| properties.get(tag).is_some())
            || parts("allOf").is_some_and(|parts| parts.iter().any(deeper))
            || ["anyOf", "oneOf"].iter().any(|keyword| {
                parts(keyword).is_some_and(|parts| !parts.is_empty() && parts.iter().all(deeper))
            })
    }

    fn exclude_each_other(&self, parts: &'a [Json], tag: Option<&str>) -> bool {
        parts.len() <= COMPARED_MAX
            && parts.iter().enumerate().all(|(index, one)| {
                parts[index + 1..].iter().all(|other| self.are_disjoint(one, other, tag, DEPTH_MAX))
            })
    }

    /// Whether no value fits both. `tag` is a property that both require.
    fn are_disjoint(&self, one: &'a Json, other: &'a Json, tag: Option<&str>, depth: usize) -> bool {
        let (one, other) = (self.resolved(one), self.resolved(other));
        if *one == false || *other == false {
            return true;
        }
        if depth == 0 || may_share_null(one, other) {
            return false;
        }
        let deeper = |one: &'a Json, other: &'a Json| self.are_disjoint(one, other, tag, depth - 1);
        for (schema, against) in [(one, other), (other, one)] {
            for keyword in ["anyOf", "oneOf"] {
                let parts = schema.get(keyword).and_then(Json::as_array);
                if parts.is_some_and(|parts| parts.iter().all(|part| deeper(part, against))) {
                    return true;
                }
            }
            let parts = schema.get("allOf").and_then(Json::as_array);
            if parts.is_some_and(|parts| parts.iter().any(|part| deeper(part, against))) {
                return true;
            }
        }
        let values = (values_of(one), values_of(other));
        match values {
            (Some(one), Some(other)) => {
                one.iter().all(|value| !other.iter().any(|other| are_same(value, other)))
            }
            _ => {
                let (kinds, others) = (kinds_of(one), kinds_of(other));
                let apart = |kinds: BTreeSet<&str>, others: BTreeSet<&str>| kinds.is_disjoint(&others);
                kinds.zip(others).is_some_and(|(kinds, others)| apart(kinds, others))
                    || self.are_disjoint_objects(one, other, tag, depth)
            }
        }
    }

    /// Whether objects of both have a property that cannot be both.
    fn are_disjoint_objects(&self, one: &'a Json, other: &'a Json, tag: Option<&str>, depth: usize) -> bool {
        let is_object =
            |schema: &Json| kinds_of(schema).is_some_and(|kinds| kinds.iter().eq(["object"].iter()));
        if !is_object(one) || !is_object(other) {
            return false;
        }
        let property =
            |schema: &'a Json, name: &str| schema.get("properties").and_then(|parts| parts.get(name));
        let forbids = |schema: &Json, name: &str| {
            property_is_absent(schema, name) && schema.get("additionalProperties") == Some(&Json::Bool(false))
        };
        let names = |schema: &'a Json| schema.get("required").and_then(Json::as_array).into_iter().flatten();
        let names = names(one).chain(names(other)).filter_map(Json::as_str).chain(tag);
        for name in names {
            let forbidden = (is_required(one, name) && forbids(other, name))
                || (is_required(other, name) && forbids(one, name));
            if forbidden {
                return true;
            }
            if let (Some(one), Some(other)) = (property(one, name), property(other, name))
                && self.are_disjoint(one, other, None, depth - 1)
            {
                return true;
            }
        }
        false
    }
}

/// The property by which alternatives are told apart is there, although its schema has a default for it:
/// beside whatever the alternative is made of.
fn require(tag: &str, fitted: &mut Json) {
    if !is_required(fitted, tag)
        && let Some(fitted) = fitted.as_object_mut()
        && let Json::Array(required) = fitted.entry("required").or_insert_with(|| json!([]))
    {
        required.push(tag.into());
    }
}

/// Whether `nullable` may make null a value of both, which their other keywords do not show.
fn may_share_null(one: &Json, other: &Json) -> bool {
    let is_nullable = |schema: &Json| schema.get("nullable") == Some(&Json::Bool(true));
    let may_be_null =
        |schema: &Json| is_nullable(schema) || kinds_of(schema).is_none_or(|kinds| kinds.contains("null"));
    (is_nullable(one) && may_be_null(other)) || (is_nullable(other) && may_be_null(one))
}

/// OpenAPI's `discriminator`.
fn tag_of(discriminator: &Json) -> Option<&str> {
    discriminator.get("propertyName").and_then(Json::as_str)
}

fn is_required(schema: &Json, name: &str) -> bool {
    schema
        .get("required")
        .and_then(Json::as_array)
        .is_some_and(|names| names.iter().any(|other| other == name))
}

fn property_is_absent(schema: &Json, name: &str) -> bool {
    schema.get("patternProperties").is_none()
        && schema.get("properties").is_none_or(|properties| properties.get(name).is_none())
}

fn values_of(schema: &Json) -> Option<Vec<&Json>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Json::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

/// The types that a schema allows, as far as it says; numbers are one type.
fn kinds_of(schema: &Json) -> Option<BTreeSet<&'static str>> {
    let read = |name: &Json| match kind_of(name.as_str()?)? {
        Kind::Known("integer") => Some("number"),
        Kind::Known(kind) => Some(kind),
        Kind::Any => None,
    };
    match (schema.get("type"), values_of(schema)) {
        (Some(Json::Array(names)), _) => names.iter().map(read).collect(),
        (Some(name), _) => read(name).map(|kind| BTreeSet::from([kind])),
        (None, Some(values)) => Some(values.into_iter().map(kind_of_value).collect()),
        (None, None) => None,
    }
}

fn kind_of_value(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// Numbers are compared as numbers, wherever they are: 1 is 1.0.
fn are_same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            let has_same = |(name, value)| other.get(name).is_some_and(|other| are_same(value, other));
            one.len() == other.len() && one.iter().all(has_same)
        }
        _ => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => one == other,
            _ => one == other,
        },
    }
}
