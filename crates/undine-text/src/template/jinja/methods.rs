//! Methods of values. Those that change a list or a dict do not exist: the sandbox of transformers forbids
//! them.

use std::rc::Rc;

use super::calls::{Given, required};
use super::eval::{Interpreter, Stop, index_of};
use super::number::Num;
use super::order;
use super::text_methods;
use super::value::{Dict, Key, Object, Value, View};

const DICT: [&str; 5] = ["get", "items", "keys", "values", "copy"];
const LIST: [&str; 3] = ["index", "count", "copy"];
const TUPLE: [&str; 2] = ["index", "count"];
const LOOP: [&str; 2] = ["cycle", "changed"];
const CYCLER: [&str; 2] = ["next", "reset"];
const INT: [&str; 3] = ["bit_length", "conjugate", "is_integer"];
const FLOAT: [&str; 2] = ["is_integer", "conjugate"];
/// The methods whose arguments may be named.
const KEYWORDS: [&str; 5] = ["split", "rsplit", "splitlines", "expandtabs", "format"];

/// A method's name if the value has it.
pub fn find(value: &Value, name: &str) -> Option<&'static str> {
    let methods: &[&'static str] = match value {
        Value::Text(_) | Value::Markup(_) => &text_methods::NAMES,
        Value::Dict(_) => &DICT,
        Value::List(_) => &LIST,
        Value::Tuple(_) => &TUPLE,
        Value::Int(_) | Value::Big(_) | Value::Bool(_) => &INT,
        Value::Float(_) => &FLOAT,
        Value::Object(object) => match &**object {
            Object::Loop(_) => &LOOP,
            Object::Cycler { .. } => &CYCLER,
            Object::Range { .. } => &TUPLE,
            _ => &[],
        },
        _ => &[],
    };
    methods.iter().find(|known| **known == name).copied()
}

/// Calls a method that the value has.
pub fn call(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    name: &'static str,
    given: Given,
) -> Result<Value, Stop> {
    let builtin = !matches!(owner, Value::Object(_)) && !KEYWORDS.contains(&name);
    if let (true, Some((keyword, _))) = (builtin, given.named.first()) {
        return Err(format!("{name}() takes no keyword arguments, so none named '{keyword}'").into());
    }
    match owner {
        Value::Text(text) | Value::Markup(text) => text_methods::call(interpreter, owner, text, name, given),
        Value::Dict(dict) => Ok(of_dict(dict, name, given)?),
        Value::List(_) | Value::Tuple(_) => Ok(of_list(interpreter, owner, name, given)?),
        Value::Object(object) => match &**object {
            Object::Range { .. } => Ok(of_list(interpreter, owner, name, given)?),
            _ => Ok(of_object(interpreter, object, name, given)?),
        },
        _ => Ok(of_number(owner, name, given)?),
    }
}

fn of_dict(dict: &Rc<Dict>, name: &str, given: Given) -> Result<Value, String> {
    let view = match name {
        "get" => {
            let [key, default] = given.bind("get", ["key", "default"])?;
            let key = Key::new(required(key, "get", "key")?)?;
            return Ok(dict.map.get(&key).cloned().or(default).unwrap_or(Value::None));
        }
        "items" => View::Items,
        "keys" => View::Keys,
        "values" => View::Values,
        _ => {
            given.none(name)?;
            return Ok(Value::Dict(Rc::clone(dict)));
        }
    };
    given.none(name)?;
    Ok(Value::object(Object::View(view, Rc::clone(dict))))
}

fn of_list(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    name: &str,
    given: Given,
) -> Result<Value, String> {
    let items = interpreter.items(owner)?;
    interpreter.charge(items.len() as u64)?;
    match name {
        "count" => {
            let [value] = given.bind(name, ["value"])?;
            let value = required(value, name, "value")?;
            Ok(Value::Int(items.iter().filter(|item| order::equal(item, &value)).count() as i64))
        }
        "index" => {
            let [value, start, stop] = given.bind(name, ["value", "start", "stop"])?;
            let value = required(value, name, "value")?;
            let range = text_methods::bounds(start, stop, items.len())?;
            let found = range.into_iter().find(|&at| order::equal(&items[at], &value));
            found.map(|at| Value::Int(at as i64)).ok_or_else(|| "the value is not in the list".to_owned())
        }
        _ => {
            given.none(name)?;
            Ok(owner.clone())
        }
    }
}

fn of_object(
    interpreter: &mut Interpreter<'_>,
    object: &Object,
    name: &str,
    given: Given,
) -> Result<Value, String> {
    match object {
        Object::Loop(state) if name == "cycle" => {
            let choices = given.positional;
            let length = choices.len().max(1);
            choices
                .into_iter()
                .nth(state.at.get() % length)
                .ok_or_else(|| "no items for cycling given".to_owned())
        }
        Object::Loop(state) => {
            let now = given.positional;
            // Values that hold a loop are not kept by it.
            if now.iter().any(|value| matches!(value, Value::Object(_))) {
                return Err("loop.changed compares texts, numbers, lists and dicts".to_owned());
            }
            interpreter.charge_items(now.len())?;
            let same = state.last.borrow().as_ref().is_some_and(|last| {
                last.len() == now.len() && last.iter().zip(&now).all(|(a, b)| order::equal(a, b))
            });
            state.last.replace(Some(now));
            Ok(Value::Bool(!same))
        }
        Object::Cycler { items, at } => {
            given.none(name)?;
            if name == "reset" {
                at.set(0);
                return Ok(Value::None);
            }
            let now = at.get();
            at.set((now + 1) % items.len());
            Ok(items[now].clone())
        }
        _ => Err(format!("there is no method {name}")),
    }
}

fn of_number(owner: &Value, name: &str, given: Given) -> Result<Value, String> {
    given.none(name)?;
    match (name, Num::of(owner)) {
        ("bit_length", Some(Num::Int(number))) => {
            Ok(Value::Int(i64::from(64 - number.unsigned_abs().leading_zeros())))
        }
        ("bit_length", Some(Num::Big(number))) => Ok(Value::Int(number.bits() as i64)),
        ("is_integer", Some(Num::Float(number))) => {
            Ok(Value::Bool(number.is_finite() && number.fract() == 0.0))
        }
        ("is_integer", Some(_)) => Err("'int' object has no attribute 'is_integer'".to_owned()),
        (_, Some(number)) => Ok(number.value()),
        _ => Err(format!("there is no method {name}")),
    }
}

/// A whole number of an argument.
pub fn integer(value: &Value) -> Result<i64, String> {
    match value {
        Value::Undefined(missing) => Err(missing.message()),
        _ => index_of(value)
            .ok_or_else(|| format!("'{}' object cannot be interpreted as an integer", value.type_name())),
    }
}
