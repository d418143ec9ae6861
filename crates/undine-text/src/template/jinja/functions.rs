//! The functions that every template has.

use std::cell::Cell;

use indexmap::IndexMap;

use super::calls::{Given, named_dict, required};
use super::eval::{Interpreter, Stop, index_of};
use super::print;
use super::strftime;
use super::value::{Items, Key, Object, Value};

/// Numbers of one range, as Jinja's sandbox has it.
const RANGE_MAX: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

const FUNCTIONS: [(&str, Function); 7] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
];

pub fn find(name: &str) -> Option<Function> {
    FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

impl Function {
    pub fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }
}

pub fn call(interpreter: &mut Interpreter<'_>, function: Function, given: Given) -> Result<Value, Stop> {
    match function {
        Function::Range => Ok(range(given)?),
        Function::Dict => Ok(Value::Dict(named_dict(start(interpreter, given.positional)?, given.named)?)),
        Function::Namespace => {
            let dict = named_dict(start(interpreter, given.positional)?, given.named)?;
            let fields = dict.map.iter();
            let fields = fields.filter_map(|(key, value)| Some((key.0.as_text()?.clone(), value.clone())));
            let fields = fields.collect();
            Ok(interpreter.namespace(fields))
        }
        Function::Cycler => {
            if given.positional.is_empty() {
                return Err("cycler: at least one item has to be provided".to_owned().into());
            }
            let items = Items::new(given.positional)?;
            Ok(Value::object(Object::Cycler { items, at: Cell::new(0) }))
        }
        Function::Joiner => {
            let [separator] = given.bind("joiner", ["sep"])?;
            let separator = separator.unwrap_or_else(|| Value::text(", "));
            // It is a level above what it holds.
            Items::new(vec![separator.clone()])?;
            Ok(Value::object(Object::Joiner { separator, used: Cell::new(false) }))
        }
        Function::RaiseException => {
            let [message] = given.bind("raise_exception", ["message"])?;
            let message = required(message, "raise_exception", "message")?;
            Err(Stop::Raised(print::string(&message)?))
        }
        Function::StrftimeNow => {
            let [format] = given.bind("strftime_now", ["format"])?;
            let format = required(format, "strftime_now", "format")?;
            let format = format.as_text().ok_or_else(|| "strftime_now: the format is no text".to_owned())?;
            Ok(Value::text(strftime::format(format, &jiff::Zoned::now())?))
        }
    }
}

fn range(given: Given) -> Result<Value, String> {
    given.named.first().map_or(Ok(()), |_| Err("range() takes no keyword arguments".to_owned()))?;
    let number = |value: &Value| {
        let kind = value.type_name();
        index_of(value).ok_or_else(|| format!("'{kind}' object cannot be interpreted as an integer"))
    };
    let numbers = given.positional.iter().map(number).collect::<Result<Vec<i64>, String>>()?;
    let (start, stop, step) = match *numbers {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [_, _, 0] => return Err("range() arg 3 must not be zero".to_owned()),
        [start, stop, step] => (start, stop, step),
        _ => return Err("range expected 1 to 3 arguments".to_owned()),
    };
    let range = Object::Range { start, stop, step };
    if range.range_length() > RANGE_MAX {
        return Err(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({RANGE_MAX})."));
    }
    Ok(Value::object(range))
}

/// What `dict(…)` begins with: another dict or pairs.
fn start(interpreter: &mut Interpreter<'_>, positional: Vec<Value>) -> Result<IndexMap<Key, Value>, String> {
    match &*positional {
        [] => Ok(IndexMap::new()),
        [Value::Dict(dict)] => {
            interpreter.charge_items(dict.map.len())?;
            Ok(dict.map.clone())
        }
        [pairs] => {
            let mut map = IndexMap::new();
            for pair in interpreter.items(pairs)?.iter() {
                let pair = interpreter.items(pair)?;
                let [key, value] = &**pair else {
                    return Err("dictionary update sequence element has a length that is not 2".to_owned());
                };
                map.insert(Key::new(key.clone())?, value.clone());
            }
            Ok(map)
        }
        _ => Err(format!("dict expected at most 1 argument, got {}", positional.len())),
    }
}
