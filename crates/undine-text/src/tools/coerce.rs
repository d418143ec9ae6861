//! Values as written, turned into the JSON that the declared schema expects.
//!
//! A value that the schema allows stays as it is ([`super::fits`]); nothing is changed that is not wrong.
//! Where there are alternatives, the first that allows what it would make of the value is meant. Otherwise,
//! in this order:
//! - where text is declared, anything but null becomes the text exactly as written (`007` stays `007`);
//! - where an integer or a number is declared, text that is one becomes it, and `5.0` becomes the integer 5;
//! - where a boolean is declared, text that spells one, 0 and 1 become it;
//! - where null is declared, text that spells it becomes null;
//! - where an object or a list is declared, text that spells one becomes it;
//! - where a list is declared, a single value becomes a list of it.
//!
//! What fits none of these stays as it is: the tool will say what is wrong with it better than silence would.
//! Schemas may use local `$ref`, `anyOf`/`oneOf`/`allOf`, `enum` and `const`.

use serde_json::Value as Json;

use super::fits::{Effort, fits, is_match};
use super::literal::{Literal, Scanner, Value};
use super::number;
use crate::exact;

/// References followed and alternatives entered on the way to one type.
const SCHEMA_DEPTH_MAX: usize = 16;
/// Parts of a schema looked at on the way to one type. Each is looked at once: alternatives that all lead
/// back to where they are would otherwise be more than anybody can count.
const SCHEMA_PARTS_MAX: usize = 256;

/// Patterns of names that are tried for a property.
pub const PATTERNS_MAX: usize = 32;
/// The schema that allows everything, for a property of which nothing is known.
static ANYTHING: Json = Json::Bool(true);

/// The kinds of JSON values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// Of the word in `type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "string" => Kind::String,
            "array" => Kind::Array,
            "object" => Kind::Object,
            _ => return None,
        })
    }

    fn of_json(value: &Json) -> Self {
        match value {
            Json::Null => Kind::Null,
            Json::Bool(_) => Kind::Boolean,
            Json::Number(number) if number.is_i64() || number.is_u64() => Kind::Integer,
            Json::Number(_) => Kind::Number,
            Json::String(_) => Kind::String,
            Json::Array(_) => Kind::Array,
            Json::Object(fields) => match exact::of_fields(fields) {
                Some(digits) if digits.contains(['.', 'e', 'E']) => Kind::Number,
                Some(_) => Kind::Integer,
                None => Kind::Object,
            },
        }
    }

    /// Of a value as written.
    pub fn of_literal(value: &Literal) -> Self {
        match value {
            Literal::Null => Kind::Null,
            Literal::Bool(_) => Kind::Boolean,
            Literal::Number(json) if number::as_integer(json).is_some() => Kind::Integer,
            Literal::Number(_) => Kind::Number,
            Literal::String(_) => Kind::String,
            Literal::List(_) => Kind::Array,
            Literal::Dict(_) => Kind::Object,
        }
    }
}

/// A part of a parameter schema, and the whole that its references mean. `None` allows everything.
#[derive(Clone, Copy)]
pub struct Schema<'a> {
    root: &'a Json,
    node: Option<&'a Json>,
}

impl<'a> Schema<'a> {
    /// The schema of one argument of a tool.
    pub fn of_argument(parameters: &'a Json, name: &str) -> Self {
        let whole = Self { root: parameters, node: Some(parameters) };
        whole.property(name)
    }

    /// The schema that allows everything.
    pub fn any() -> Self {
        Self { root: &Json::Null, node: None }
    }

    /// Whether a string is left as it is, whatever it says: nothing else is allowed, or any text is.
    pub fn keeps_text(self) -> bool {
        const RESTRICTIONS: [&str; 5] = ["enum", "const", "pattern", "minLength", "maxLength"];
        let kinds = self.kinds();
        let any_text = |node: &'a Json| {
            let is_text = match node.get("type") {
                Some(Json::Array(names)) => names.iter().any(|name| name == "string"),
                name => name.is_some_and(|name| name == "string"),
            };
            (is_text && RESTRICTIONS.iter().all(|keyword| node.get(keyword).is_none())).then_some(node)
        };
        kinds.iter().all(|kind| *kind == Kind::String)
            || kinds.contains(&Kind::String) && self.find(&any_text).is_some()
    }

    /// Whether it allows values of a kind, or does not say.
    fn allows_kind(self, kind: Kind) -> bool {
        let kinds = self.kinds();
        kinds.is_empty() || kinds.contains(&kind) || (kind == Kind::Integer && kinds.contains(&Kind::Number))
    }

    fn wants_integer(self) -> bool {
        let kinds = self.kinds();
        kinds.contains(&Kind::Integer) && !kinds.contains(&Kind::Number)
    }

    /// The schema itself.
    pub fn node(self) -> Option<&'a Json> {
        self.node
    }

    /// What a reference in it means.
    pub fn target(self, reference: &str) -> Option<&'a Json> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// Another part of the same whole.
    pub fn at(self, node: Option<&'a Json>) -> Self {
        Self { root: self.root, node }
    }

    fn resolved(self) -> Option<&'a Json> {
        let mut node = self.node?;
        for _ in 0..SCHEMA_DEPTH_MAX {
            let Some(reference) = node.get("$ref").and_then(Json::as_str) else { return Some(node) };
            node = self.target(reference)?;
        }
        None
    }

    fn property(self, name: &str) -> Self {
        let named = |node: &'a Json| property_of(node, name).filter(|property| property.is_object());
        self.at(self.find(&named))
    }

    /// The schema of a property, without looking into other parts of the schema.
    pub fn own_property(self, name: &str) -> Self {
        self.at(self.node.and_then(|node| property_of(node, name)))
    }

    fn item(self, index: usize) -> Self {
        let item = |node: &'a Json| item_of(node, index).filter(|item| item.is_object());
        self.at(self.find(&item))
    }

    /// The schema of an item, without looking into other parts of the schema.
    pub fn own_item(self, index: usize) -> Self {
        self.at(self.node.and_then(|node| item_of(node, index)))
    }

    /// What `get` finds first in the schema or one of its alternatives.
    fn find(self, get: &dyn Fn(&'a Json) -> Option<&'a Json>) -> Option<&'a Json> {
        self.find_in(&mut Seen::default(), SCHEMA_DEPTH_MAX, get)
    }

    fn find_in(
        self,
        seen: &mut Seen<'a>,
        depth: usize,
        get: &dyn Fn(&'a Json) -> Option<&'a Json>,
    ) -> Option<&'a Json> {
        let node = self.resolved().filter(|node| seen.is_new(node))?;
        let here = get(node);
        if here.is_some() || depth == 0 {
            return here;
        }
        let mut parts = alternatives(node).chain(conjuncts(node));
        parts.find_map(|part| self.at(Some(part)).find_in(seen, depth - 1, get))
    }

    /// The kinds the schema allows; empty if it does not say.
    fn kinds(self) -> Vec<Kind> {
        let mut kinds = Vec::new();
        self.collect_kinds(&mut Seen::default(), SCHEMA_DEPTH_MAX, &mut kinds);
        kinds
    }

    fn collect_kinds(self, seen: &mut Seen<'a>, depth: usize, out: &mut Vec<Kind>) {
        let Some(node) = self.resolved().filter(|node| seen.is_new(node)) else { return };
        match node.get("type") {
            Some(Json::String(name)) => return out.extend(Kind::from_name(name)),
            Some(Json::Array(names)) => {
                return out.extend(names.iter().filter_map(Json::as_str).filter_map(Kind::from_name));
            }
            _ => {}
        }
        if let Some(values) = node.get("enum").and_then(Json::as_array) {
            return out.extend(values.iter().map(Kind::of_json));
        }
        if let Some(value) = node.get("const") {
            return out.push(Kind::of_json(value));
        }
        if depth > 0 {
            for part in alternatives(node).chain(conjuncts(node)) {
                self.at(Some(part)).collect_kinds(seen, depth - 1, out);
            }
        }
        if out.is_empty() && node.get("properties").is_some() {
            out.push(Kind::Object);
        }
    }
}

/// The parts of a schema that have been looked at.
#[derive(Default)]
struct Seen<'a>(Vec<&'a Json>);

impl<'a> Seen<'a> {
    /// Whether a part has not been looked at, and may be.
    fn is_new(&mut self, node: &'a Json) -> bool {
        let is_new = self.0.len() < SCHEMA_PARTS_MAX && !self.0.iter().any(|seen| std::ptr::eq(*seen, node));
        if is_new {
            self.0.push(node);
        }
        is_new
    }
}

fn property_of<'a>(node: &'a Json, name: &str) -> Option<&'a Json> {
    let declared = node.get("properties").and_then(|properties| properties.get(name));
    // What a pattern in another dialect, or one too many, says of the name is not known.
    let by_pattern = || {
        let patterns = node.get("patternProperties")?.as_object()?;
        let mut is_known = patterns.len() <= PATTERNS_MAX;
        for (pattern, schema) in patterns.iter().take(PATTERNS_MAX) {
            match is_match(pattern, name) {
                Some(true) => return Some(schema),
                Some(false) => {}
                None => is_known = false,
            }
        }
        (!is_known).then_some(&ANYTHING)
    };
    declared.or_else(by_pattern).or_else(|| node.get("additionalProperties"))
}

fn item_of(node: &Json, index: usize) -> Option<&Json> {
    let nth = |name: &str| node.get(name).and_then(Json::as_array).and_then(|items| items.get(index));
    // Drafts before 2020-12 list the first items in `items`.
    let rest = |name: &str| node.get(name).filter(|items| !items.is_array());
    nth("prefixItems").or_else(|| nth("items")).or_else(|| rest("items")).or_else(|| rest("additionalItems"))
}

fn alternatives(node: &Json) -> impl Iterator<Item = &Json> {
    ["anyOf", "oneOf"].into_iter().filter_map(|key| node.get(key)).filter_map(Json::as_array).flatten()
}

fn conjuncts(node: &Json) -> impl Iterator<Item = &Json> {
    node.get("allOf").and_then(Json::as_array).into_iter().flatten()
}

/// Appends a value as compact JSON.
pub fn push_json(value: &Value, schema: Schema<'_>, out: &mut String) {
    push_fitted(value, schema, &Effort::new(), out);
}

fn push_fitted(value: &Value, schema: Schema<'_>, effort: &Effort, out: &mut String) {
    if schema.node.is_some() && fits(value, schema, effort) {
        return push_as_is(value, Schema::any(), effort, out);
    }
    // Nobody knows that it does not fit.
    if effort.is_spent() && schema.allows_kind(Kind::of_literal(&value.literal)) {
        return push_as_is(value, Schema::any(), effort, out);
    }
    if let Some(made) = by_alternative(value, schema, effort) {
        return out.push_str(&made);
    }
    let kinds = schema.kinds();
    let kind = Kind::of_literal(&value.literal);
    if schema.allows_kind(kind) {
        return push_as_is(value, schema, effort, out);
    }
    if kinds.contains(&Kind::String) && kind != Kind::Null {
        return push_string(&value.text, out);
    }
    if let Some(converted) = convert(value, &kinds) {
        return push_fitted(&converted, schema, effort, out);
    }
    // A list of lists would need to know how deep the value belongs.
    let item = schema.item(0);
    if kinds.contains(&Kind::Array) && kind != Kind::Null && !item.kinds().contains(&Kind::Array) {
        out.push('[');
        push_fitted(value, item, effort, out);
        return out.push(']');
    }
    push_as_is(value, schema, effort, out);
}

/// What the first alternative that allows it makes of the value: those of its own kind come before those
/// that would make another of it.
fn by_alternative(value: &Value, schema: Schema<'_>, effort: &Effort) -> Option<String> {
    let node = schema.resolved()?;
    let kind = Kind::of_literal(&value.literal);
    let is_own = |part: &&Json| schema.at(Some(part)).allows_kind(kind);
    let (own, others): (Vec<&Json>, Vec<&Json>) = alternatives(node).partition(is_own);
    own.into_iter().chain(others).find_map(|part| {
        effort.try_one(|| {
            let part = schema.at(Some(part));
            let mut made = String::new();
            push_fitted(value, part, effort, &mut made);
            let read = Scanner::new(&made, &[]).value().ok()?;
            (fits(&read, part, effort) && fits(&read, schema, effort)).then_some(made)
        })
    })
}

/// A value of a kind the schema allows, from one of a kind it does not.
fn convert(value: &Value, kinds: &[Kind]) -> Option<Value> {
    let allows = |kind| kinds.contains(&kind);
    let literal = match &value.literal {
        Literal::Number(json) if allows(Kind::Boolean) && json == "0" => Literal::Bool(false),
        Literal::Number(json) if allows(Kind::Boolean) && json == "1" => Literal::Bool(true),
        Literal::String(text) => {
            let text = text.trim();
            let mut scanner = Scanner::new(text, &[]);
            let read = scanner.value().ok()?;
            scanner.skip_space();
            let kind = Kind::of_literal(&read.literal);
            let fits = allows(kind) || (kind == Kind::Integer && allows(Kind::Number));
            if !scanner.rest().is_empty() || kind == Kind::String || !fits {
                return None;
            }
            return Some(read);
        }
        _ => return None,
    };
    Some(Value { literal, text: value.text.clone() })
}

fn push_as_is(value: &Value, schema: Schema<'_>, effort: &Effort, out: &mut String) {
    match &value.literal {
        Literal::Null => out.push_str("null"),
        Literal::Bool(true) => out.push_str("true"),
        Literal::Bool(false) => out.push_str("false"),
        Literal::Number(json) => match number::as_integer(json).filter(|_| schema.wants_integer()) {
            Some(integer) => out.push_str(&integer),
            None => out.push_str(json),
        },
        Literal::String(text) => push_string(text, out),
        Literal::List(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_fitted(value, schema.item(index), effort, out);
            }
            out.push(']');
        }
        Literal::Dict(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_string(key, out);
                out.push(':');
                push_fitted(value, schema.property(key), effort, out);
            }
            out.push('}');
        }
    }
}

/// Appends a JSON string with its quotes.
pub fn push_string(text: &str, out: &mut String) {
    out.push('"');
    push_string_part(text, out);
    out.push('"');
}

/// Appends part of the inside of a JSON string.
pub fn push_string_part(text: &str, out: &mut String) {
    let quoted = Json::from(text).to_string();
    out.push_str(&quoted[1..quoted.len() - 1]);
}
