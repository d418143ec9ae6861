//! Whether a value as written is one that a schema allows. Then it is left alone: a grammar may have made it,
//! and what looks wrong to one alternative is right to another.
//!
//! What is looked at is what tells alternatives apart: kinds, `enum`, `const`, properties and items and how
//! many there are, lengths, bounds and patterns. The rest of JSON Schema is taken as fulfilled.

use std::cell::Cell;

use regex::RegexBuilder;
use serde_json::Value as Json;

use super::coerce::{Kind, PATTERNS_MAX, Schema};
use super::literal::{Literal, Value};
use crate::exact;

/// Schemas entered on the way down, with the values in them.
const DEPTH_MAX: usize = 64;

/// Parts of schemas that are looked at for one argument.
const STEPS_MAX: u32 = 20_000;
/// What a pattern counts as, which has to be compiled.
const PATTERN_STEPS: u32 = 100;
/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Alternatives that are tried within alternatives.
const ALTERNATIVES_DEPTH_MAX: u32 = 32;

/// How much may be looked at for one argument: alternatives within alternatives are more than can be tried.
pub struct Effort {
    left: Cell<u32>,
    depth: Cell<u32>,
}

impl Effort {
    /// For an argument.
    pub fn new() -> Self {
        Self { left: Cell::new(STEPS_MAX), depth: Cell::new(0) }
    }

    /// Whether it was not enough: what was looked at last is not known to be wrong.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    fn spend(&self) {
        self.left.set(0);
    }

    /// Whether there are so many steps left; takes them.
    fn take(&self, steps: u32) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(steps));
        left > steps
    }

    /// Tries an alternative, if that is not too deep.
    pub fn try_one<T>(&self, alternative: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.depth.get() == ALTERNATIVES_DEPTH_MAX || !self.take(1) {
            return None;
        }
        self.depth.set(self.depth.get() + 1);
        let result = alternative();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

/// Whether a pattern is found in a text. `None` if it is in another dialect, or too large.
pub fn is_match(pattern: &str, text: &str) -> Option<bool> {
    let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build().ok()?;
    Some(compiled.is_match(text))
}

/// Whether the schema allows the value; `false` also if that would take too long to find out, which spends
/// the effort.
pub fn fits(value: &Value, schema: Schema<'_>, effort: &Effort) -> bool {
    Look { effort, depth: DEPTH_MAX, way: None }.at(value, schema)
}

#[derive(Clone, Copy)]
struct Look<'e> {
    effort: &'e Effort,
    depth: usize,
    /// The schemas of this value that it came through: one that leads back to itself allows nothing by that.
    way: Option<&'e Way<'e>>,
}

struct Way<'w> {
    node: &'w Json,
    before: Option<&'w Way<'w>>,
}

impl Way<'_> {
    fn leads_through(&self, node: &Json) -> bool {
        std::ptr::eq(self.node, node) || self.before.is_some_and(|before| before.leads_through(node))
    }
}

impl Look<'_> {
    fn at(self, value: &Value, schema: Schema<'_>) -> bool {
        let Some(node) = schema.node() else { return true };
        if self.way.is_some_and(|way| way.leads_through(node)) {
            return false;
        }
        if self.depth == 0 {
            self.effort.spend();
        }
        if !self.effort.take(1) {
            return false;
        }
        let Json::Object(keywords) = node else { return *node != Json::Bool(false) };
        // OpenAPI's.
        if value.literal == Literal::Null && keywords.get("nullable") == Some(&Json::Bool(true)) {
            return true;
        }
        let way = Way { node, before: self.way };
        let below = Look { depth: self.depth - 1, way: Some(&way), ..self };
        let inside = Look { way: None, ..below };
        let list = |name: &str| keywords.get(name).and_then(Json::as_array);
        let part = |part| below.at(value, schema.at(Some(part)));
        // A reference that leads nowhere allows everything, as it does elsewhere.
        let target = keywords.get("$ref").and_then(Json::as_str).and_then(|name| schema.target(name));
        target.is_none_or(part)
            && keywords.get("type").map_or_else(
                // Whoever declares properties means an object.
                || !keywords.contains_key("properties") || matches!(value.literal, Literal::Dict(_)),
                |names| is_of_kind(value, names),
            )
            && list("enum").is_none_or(|values| values.iter().any(|wanted| is(value, wanted)))
            && keywords.get("const").is_none_or(|wanted| is(value, wanted))
            && list("allOf").is_none_or(|parts| parts.iter().all(part))
            && list("anyOf").is_none_or(|parts| parts.iter().any(part))
            && list("oneOf").is_none_or(|parts| parts.iter().any(part))
            && match &value.literal {
                Literal::Number(text) => is_within(text, node),
                Literal::String(text) => self.is_text_of(text, node),
                Literal::List(values) => inside.items(values, schema, node),
                Literal::Dict(entries) => inside.entries(entries, schema, node),
                Literal::Null | Literal::Bool(_) => true,
            }
    }

    /// A pattern in another dialect is taken as fulfilled.
    fn is_text_of(self, text: &str, node: &Json) -> bool {
        let pattern = node.get("pattern").and_then(Json::as_str);
        is_counted(text.chars().count(), node, ["minLength", "maxLength"])
            && pattern.is_none_or(|pattern| {
                self.effort.take(PATTERN_STEPS) && is_match(pattern, text).unwrap_or(true)
            })
    }

    fn items(self, values: &[Value], schema: Schema<'_>, node: &Json) -> bool {
        is_counted(values.len(), node, ["minItems", "maxItems"])
            && values.iter().enumerate().all(|(index, value)| self.at(value, schema.own_item(index)))
    }

    fn entries(self, entries: &[(String, Value)], schema: Schema<'_>, node: &Json) -> bool {
        let has = |name: &Json| entries.iter().any(|(key, _)| name == key.as_str());
        let patterns = node.get("patternProperties").and_then(Json::as_object).map_or(0, |all| all.len());
        let steps = PATTERN_STEPS.saturating_mul(patterns.min(PATTERNS_MAX) as u32);
        is_counted(entries.len(), node, ["minProperties", "maxProperties"])
            && node.get("required").and_then(Json::as_array).is_none_or(|names| names.iter().all(has))
            && entries.iter().all(|(key, value)| {
                (steps == 0 || self.effort.take(steps)) && self.at(value, schema.own_property(key))
            })
    }
}

fn is_of_kind(value: &Value, names: &Json) -> bool {
    let kind = Kind::of_literal(&value.literal);
    // 5.0 is an integer to a schema, but not to most who read one: it is made one.
    let is_whole = !matches!(&value.literal, Literal::Number(text) if text.contains(['.', 'e', 'E']));
    let is = |name: &Json| match name.as_str().and_then(Kind::from_name) {
        Some(Kind::Integer) => kind == Kind::Integer && is_whole,
        Some(Kind::Number) => matches!(kind, Kind::Integer | Kind::Number),
        Some(other) => other == kind,
        None => true,
    };
    match names {
        Json::Array(names) => names.iter().any(is),
        name => is(name),
    }
}

/// Whether a value is the same as one of a schema.
fn is(value: &Value, wanted: &Json) -> bool {
    match (&value.literal, wanted) {
        (Literal::Null, Json::Null) => true,
        (Literal::Bool(value), Json::Bool(wanted)) => value == wanted,
        (Literal::String(value), Json::String(wanted)) => value == wanted,
        (Literal::Number(value), Json::Number(wanted)) => {
            *value == wanted.to_string() || number(value) == wanted.as_f64()
        }
        (Literal::Number(value), Json::Object(fields)) => exact::of_fields(fields) == Some(value),
        (Literal::List(values), Json::Array(wanted)) => {
            values.len() == wanted.len() && values.iter().zip(wanted).all(|(value, wanted)| is(value, wanted))
        }
        (Literal::Dict(entries), Json::Object(wanted)) => {
            let has =
                |(key, value): &(String, Value)| wanted.get(key).is_some_and(|wanted| is(value, wanted));
            entries.len() == wanted.len() && entries.iter().all(has)
        }
        _ => false,
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// A bound as a float; exact ones are kept by their digits.
fn bound(node: &Json, name: &str) -> Option<f64> {
    let value = node.get(name)?;
    value.as_f64().or_else(|| number(exact::of_fields(value.as_object()?)?))
}

fn is_within(text: &str, node: &Json) -> bool {
    let Some(value) = number(text) else { return true };
    let holds = |name, holds: fn(f64, f64) -> bool| bound(node, name).is_none_or(|bound| holds(value, bound));
    holds("minimum", |value, bound| value >= bound)
        && holds("maximum", |value, bound| value <= bound)
        && holds("exclusiveMinimum", |value, bound| value > bound)
        && holds("exclusiveMaximum", |value, bound| value < bound)
}

fn is_counted(count: usize, node: &Json, [least, most]: [&str; 2]) -> bool {
    let count = count as f64;
    bound(node, least).is_none_or(|least| count >= least)
        && bound(node, most).is_none_or(|most| count <= most)
}
