//! Filters of single values: numbers, defaults, lengths, JSON.

use std::sync::Arc;

use super::super::calls::{Given, required};
use super::super::eval::{Interpreter, Stop, index_of};
use super::super::methods::integer;
use super::super::number::{self, Num};
use super::super::print;
use super::super::value::{Missing, Object, Value};
use super::is_on;
use crate::template::python_json;

type Answer = Result<Value, Stop>;

pub fn abs(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("abs")?;
    let number = Num::of(value).ok_or_else(|| match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("bad operand type for abs(): '{}'", value.type_name()),
    })?;
    Ok(number::absolute(&number)?.value())
}

pub fn attr(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [name] = given.bind("attr", ["name"])?;
    let name = required(name, "attr", "name")?;
    let name = name.as_text().ok_or_else(|| "attr: the name is no text".to_owned())?;
    if value.is_undefined() {
        return Ok(Value::Undefined(Missing::Attribute("Undefined", Arc::clone(name))));
    }
    let found = interpreter.own_attribute(value, name)?;
    Ok(found.unwrap_or_else(|| Value::Undefined(Missing::Attribute(value.type_name(), Arc::clone(name)))))
}

pub fn length(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("length")?;
    let length = match value {
        Value::Undefined(_) => 0,
        Value::Text(text) | Value::Markup(text) => text.chars().count(),
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Dict(dict) => dict.map.len(),
        Value::Object(object) => match &**object {
            Object::Range { .. } => object.range_length(),
            Object::View(_, dict) => dict.map.len(),
            Object::Loop(state) => state.items.len(),
            _ => return Err(format!("object of type '{}' has no len()", value.type_name()).into()),
        },
        _ => return Err(format!("object of type '{}' has no len()", value.type_name()).into()),
    };
    Ok(Value::Int(length as i64))
}

pub fn default(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [other, boolean] = given.bind("default", ["default_value", "boolean"])?;
    let missing = value.is_undefined() || is_on(boolean) && !value.is_true();
    Ok(if missing { other.unwrap_or_else(|| Value::text("")) } else { value.clone() })
}

pub fn string(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("string")?;
    if value.as_text().is_some() {
        return Ok(value.clone());
    }
    let text = print::string(value)?;
    interpreter.charge_text(text.len())?;
    Ok(Value::text(text))
}

pub fn int(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [default, base] = given.bind("int", ["default", "base"])?;
    let default = default.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |base| integer(&base))?;
    let number = match value {
        Value::Undefined(missing) => return Err(missing.message().into()),
        Value::Text(text) | Value::Markup(text) => {
            let whole = u32::try_from(base).ok().and_then(|base| number::parse_int(text, base));
            match whole {
                Some(number) => number.ok(),
                None => number::parse_float(text).and_then(|float| number::truncated(float).ok()),
            }
        }
        value => match Num::of(value) {
            // Python's own error, which is not one of those that the filter takes as "no number".
            Some(Num::Float(float)) if float.is_infinite() => {
                return Err("cannot convert float infinity to integer".to_owned().into());
            }
            Some(Num::Float(float)) => number::truncated(float).ok(),
            number => number,
        },
    };
    Ok(number.map_or(default, Num::value))
}

pub fn float(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [default] = given.bind("float", ["default"])?;
    let number = match value {
        Value::Undefined(missing) => return Err(missing.message().into()),
        Value::Text(text) | Value::Markup(text) => number::parse_float(text),
        value => Num::of(value).map(|number| number.float()),
    };
    Ok(number.map_or(default.unwrap_or(Value::Float(0.0)), Value::Float))
}

pub fn round(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [precision, method] = given.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| integer(&precision))?;
    let method = method.unwrap_or_else(|| Value::text("common"));
    let number = print::number(value).map_err(|_| match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("type {} doesn't define __round__ method", value.type_name()),
    })?;
    let up = match method.as_text().map(|method| &**method) {
        Some("common") => return Ok(number::rounded(&number, precision)?.value()),
        Some("ceil") => true,
        Some("floor") => false,
        _ => return Err("method must be common, ceil or floor".to_owned().into()),
    };
    let unit =
        interpreter.binary(super::super::ast::Operator::Pow, &Value::Int(10), &Value::Int(precision))?;
    let scaled = interpreter.binary(super::super::ast::Operator::Mul, value, &unit)?;
    let whole = match Num::of(&scaled) {
        Some(Num::Float(float)) => number::truncated(if up { float.ceil() } else { float.floor() })?.value(),
        _ => scaled,
    };
    Ok(interpreter.binary(super::super::ast::Operator::Div, &whole, &unit)?)
}

pub fn filesizeformat(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [binary] = given.bind("filesizeformat", ["binary"])?;
    let binary = is_on(binary);
    let bytes = match value.as_text() {
        Some(text) => {
            number::parse_float(text).ok_or_else(|| "could not convert string to float".to_owned())?
        }
        None => print::number(value)?.float(),
    };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::text("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::text(format!("{} Bytes", bytes.trunc())));
    }
    let mut unit = base;
    let last = 'Y';
    for prefix in ['k', 'M', 'G', 'T', 'P', 'E', 'Z', last] {
        unit *= base;
        if bytes < unit || prefix == last {
            let number = base * bytes / unit;
            let (prefix, unit) = if binary { (prefix.to_ascii_uppercase(), "iB") } else { (prefix, "B") };
            return Ok(Value::text(format!("{number:.1} {prefix}{unit}")));
        }
    }
    unreachable!("the last prefix ends the loop")
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub fn tojson(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = given.bind("tojson", parameters)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(indent) => Some(match indent.as_text() {
            Some(text) => text.to_string(),
            None => {
                let spaces = integer(&indent)?.max(0);
                if spaces > python_json::INDENT_MAX as i64 {
                    let limit = python_json::INDENT_MAX;
                    return Err(format!("tojson: indent is at most {limit}, not {spaces}").into());
                }
                " ".repeat(spaces as usize)
            }
        }),
    };
    let mut options = python_json::Options {
        ensure_ascii: is_on(ensure_ascii),
        item: if indent.is_some() { "," } else { ", " }.to_owned(),
        key: ": ".to_owned(),
        indent,
        sort_keys: is_on(sort_keys),
    };
    if let Some(separators) = separators.filter(|given| !matches!(given, Value::None)) {
        let pair = interpreter.items(&separators)?;
        let wrong = || "tojson: separators are two texts".to_owned();
        let [item, key] = &**pair else { return Err(wrong().into()) };
        options.item = item.as_text().ok_or_else(wrong)?.to_string();
        options.key = key.as_text().ok_or_else(wrong)?.to_string();
    }
    let text = python_json::dumps(value, options)?;
    interpreter.charge_text(text.len())?;
    Ok(Value::text(text))
}

/// A count that a filter is given.
pub fn count(value: &Value) -> Result<usize, String> {
    let number = index_of(value)
        .ok_or_else(|| format!("'{}' object cannot be interpreted as an integer", value.type_name()))?;
    Ok(usize::try_from(number).unwrap_or(0))
}
