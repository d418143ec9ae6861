//! What a template computes with: Python's values, as far as templates can make them.
//!
//! Lists and dicts never change: the sandbox of transformers forbids it. So nothing contains itself, and the
//! depth of a container is known when it is made.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};
use num_bigint::BigInt;

use super::ast::{Constant, Macro};
use super::frames::Frame;
use super::functions::Function;
use super::loops::Loop;
use super::number::Num;
use super::order;

/// Levels of lists, dicts and other things that hold values.
pub const DEPTH_MAX: u16 = 250;

#[derive(Clone, Debug)]
pub enum Value {
    Undefined(Missing),
    None,
    Bool(bool),
    Int(i64),
    /// A whole number that is not an `i64`.
    Big(Arc<BigInt>),
    Float(f64),
    Text(Arc<str>),
    /// A text that has been escaped for HTML.
    Markup(Arc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Object(Rc<Object>),
}

/// Why there is no value.
#[derive(Clone, Debug)]
pub enum Missing {
    Name(Arc<str>),
    /// Of what type, which attribute.
    Attribute(&'static str, Arc<str>),
    /// A sentence.
    Because(&'static str),
}

#[derive(Debug)]
pub struct Items {
    items: Vec<Value>,
    depth: u16,
}

#[derive(Debug)]
pub struct Dict {
    pub map: IndexMap<Key, Value>,
    depth: u16,
}

/// A value that can be a key: equal numbers are one key.
#[derive(Clone, Debug)]
pub struct Key(pub Value);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    Keys,
    Values,
    Items,
}

#[derive(Debug)]
pub enum Object {
    Range {
        start: i64,
        stop: i64,
        step: i64,
    },
    View(View, Rc<Dict>),
    /// What a generator has yet to give, and what Python calls it.
    Stream(RefCell<VecDeque<Value>>, &'static str, u16),
    Namespace(RefCell<IndexMap<Arc<str>, Value>>),
    Cycler {
        items: Rc<Items>,
        at: Cell<usize>,
    },
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    Macro(Arc<Macro>, Rc<Frame>),
    Loop(Loop),
    /// A method of a value.
    Method(Value, &'static str),
    Function(Function),
}

pub fn too_deep() -> String {
    format!("lists and dicts nest deeper than {DEPTH_MAX} levels")
}

fn depth_of<'v>(values: impl Iterator<Item = &'v Value>) -> Result<u16, String> {
    let depth = 1 + values.map(Value::depth).max().unwrap_or(0);
    if depth > DEPTH_MAX { Err(too_deep()) } else { Ok(depth) }
}

impl Items {
    pub fn new(items: Vec<Value>) -> Result<Rc<Self>, String> {
        let depth = depth_of(items.iter())?;
        Ok(Rc::new(Self { items, depth }))
    }

    /// Levels of containers, itself included.
    pub fn depth(&self) -> u16 {
        self.depth
    }
}

impl std::ops::Deref for Items {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.items
    }
}

impl Dict {
    pub fn new(map: IndexMap<Key, Value>) -> Result<Rc<Self>, String> {
        let depth = depth_of(map.values().chain(map.keys().map(|Key(key)| key)))?;
        Ok(Rc::new(Self { map, depth }))
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }
}

impl Value {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    pub fn list(items: Vec<Self>) -> Result<Self, String> {
        Items::new(items).map(Self::List)
    }

    pub fn tuple(items: Vec<Self>) -> Result<Self, String> {
        Items::new(items).map(Self::Tuple)
    }

    pub fn object(object: Object) -> Self {
        Self::Object(Rc::new(object))
    }

    /// What Python makes at once as a generator or an iterator of this name.
    pub fn stream(items: Vec<Self>, name: &'static str) -> Result<Self, String> {
        let depth = depth_of(items.iter())?;
        Ok(Self::object(Object::Stream(RefCell::new(items.into()), name, depth)))
    }

    fn depth(&self) -> u16 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) => dict.depth,
            Self::Object(object) => match &**object {
                Object::View(_, dict) => dict.depth,
                Object::Stream(_, _, depth) => *depth,
                Object::Cycler { items, .. } => items.depth,
                Object::Joiner { separator, .. } => 1 + separator.depth(),
                Object::Loop(state) => state.depth,
                Object::Method(value, _) => 1 + value.depth(),
                // What these hold is held elsewhere too, see `Interpreter::owned`.
                Object::Namespace(_) | Object::Macro(..) | Object::Range { .. } | Object::Function(_) => 0,
            },
            _ => 0,
        }
    }

    pub fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Big(_) => true,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Dict(dict) => !dict.map.is_empty(),
            Self::Object(object) => match &**object {
                Object::Range { .. } => object.range_length() > 0,
                Object::View(_, dict) => !dict.map.is_empty(),
                Object::Loop(state) => !state.items.is_empty(),
                _ => true,
            },
        }
    }

    /// The name of its type, as Jinja's messages have it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Big(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Object(object) => match &**object {
                Object::Range { .. } => "range",
                Object::View(View::Keys, _) => "dict_keys",
                Object::View(View::Values, _) => "dict_values",
                Object::View(View::Items, _) => "dict_items",
                Object::Stream(_, name, _) => name,
                Object::Namespace(_) => "Namespace",
                Object::Cycler { .. } => "Cycler",
                Object::Joiner { .. } => "Joiner",
                Object::Macro(..) => "Macro",
                Object::Loop(_) => "LoopContext",
                Object::Method(..) => "builtin_function_or_method",
                Object::Function(_) => "function",
            },
        }
    }
}

impl Object {
    /// How many numbers a range has.
    pub fn range_length(&self) -> usize {
        let Self::Range { start, stop, step } = *self else { return 0 };
        let (distance, step) = if step > 0 {
            (i128::from(stop) - i128::from(start), i128::from(step))
        } else {
            (i128::from(start) - i128::from(stop), -i128::from(step))
        };
        usize::try_from((distance + step - 1) / step).unwrap_or(0)
    }

    /// The number at a place of a range that has it.
    pub fn range_item(&self, index: usize) -> Value {
        match *self {
            Self::Range { start, step, .. } => {
                Value::Int(start.saturating_add(step.saturating_mul(index as i64)))
            }
            _ => Value::None,
        }
    }
}

impl From<&Constant> for Value {
    fn from(constant: &Constant) -> Self {
        match constant {
            Constant::None => Self::None,
            Constant::Bool(flag) => Self::Bool(*flag),
            Constant::Int(number) => Self::Int(*number),
            Constant::Big(number) => Self::Big(Arc::clone(number)),
            Constant::Float(number) => Self::Float(*number),
            Constant::Text(text) => Self::Text(Arc::clone(text)),
        }
    }
}

impl Missing {
    pub fn message(&self) -> String {
        match self {
            Self::Name(name) => format!("'{name}' is undefined"),
            Self::Attribute("NoneType", name) => format!("'None' has no attribute '{name}'"),
            Self::Attribute(owner, name) => format!("'{owner} object' has no attribute '{name}'"),
            Self::Because(text) => (*text).to_owned(),
        }
    }
}

impl Key {
    /// An error if the value is no key in Python.
    pub fn new(value: Value) -> Result<Self, String> {
        let hashable = match &value {
            Value::List(_) | Value::Dict(_) => false,
            Value::Tuple(items) => items.iter().all(|item| Self::new(item.clone()).is_ok()),
            _ => true,
        };
        if hashable { Ok(Self(value)) } else { Err(format!("unhashable type: '{}'", value.type_name())) }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        order::equal(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            // As a `str` hashes, so that it can be looked up by one.
            Value::Text(text) | Value::Markup(text) => text.hash(state),
            Value::Tuple(items) => items.iter().for_each(|item| Self(item.clone()).hash(state)),
            value => {
                // Equal numbers are equal doubles.
                if let Some(number) = Num::of(value) {
                    (number.float() + 0.0).to_bits().hash(state);
                }
            }
        }
    }
}

impl Equivalent<Key> for str {
    fn equivalent(&self, key: &Key) -> bool {
        key.0.as_text().is_some_and(|text| **text == *self)
    }
}
