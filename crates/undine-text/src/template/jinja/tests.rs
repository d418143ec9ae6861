//! Jinja's tests: what comes after `is`.

use super::ast::Comparison;
use super::calls::{Given, required};
use super::eval::{Interpreter, Stop};
use super::number::Num;
use super::value::{Object, Value};
use super::{filters, text};

pub type Test = fn(&mut Interpreter<'_>, &Value, Given) -> Result<bool, Stop>;

type Answer = Result<bool, Stop>;

const TESTS: [(&str, Test); 38] = [
    ("!=", |i, v, g| compared(i, v, g, Comparison::NotEqual)),
    ("<", |i, v, g| compared(i, v, g, Comparison::Less)),
    ("<=", |i, v, g| compared(i, v, g, Comparison::LessEqual)),
    ("==", |i, v, g| compared(i, v, g, Comparison::Equal)),
    (">", |i, v, g| compared(i, v, g, Comparison::Greater)),
    (">=", |i, v, g| compared(i, v, g, Comparison::GreaterEqual)),
    ("boolean", |_, v, g| plain(g, matches!(v, Value::Bool(_)))),
    ("callable", |_, v, g| plain(g, is_callable(v))),
    ("defined", |_, v, g| plain(g, !v.is_undefined())),
    ("divisibleby", divisibleby),
    ("eq", |i, v, g| compared(i, v, g, Comparison::Equal)),
    ("equalto", |i, v, g| compared(i, v, g, Comparison::Equal)),
    ("escaped", |_, v, g| plain(g, matches!(v, Value::Markup(_)))),
    ("even", |i, v, g| plain(g, rest(i, v, 2)?.is_zero())),
    ("false", |_, v, g| plain(g, matches!(v, Value::Bool(false)))),
    ("filter", |_, v, g| plain(g, v.as_text().is_some_and(|name| filters::find(name).is_some()))),
    ("float", |_, v, g| plain(g, matches!(v, Value::Float(_)))),
    ("ge", |i, v, g| compared(i, v, g, Comparison::GreaterEqual)),
    ("greaterthan", |i, v, g| compared(i, v, g, Comparison::Greater)),
    ("gt", |i, v, g| compared(i, v, g, Comparison::Greater)),
    ("in", |i, v, g| compared(i, v, g, Comparison::In)),
    ("integer", |_, v, g| plain(g, matches!(v, Value::Int(_) | Value::Big(_)))),
    ("iterable", |_, v, g| plain(g, is_iterable(v))),
    ("le", |i, v, g| compared(i, v, g, Comparison::LessEqual)),
    ("lessthan", |i, v, g| compared(i, v, g, Comparison::Less)),
    ("lower", |_, v, g| plain(g, cased(v, char::is_uppercase)?)),
    ("lt", |i, v, g| compared(i, v, g, Comparison::Less)),
    ("mapping", |_, v, g| plain(g, matches!(v, Value::Dict(_)))),
    ("ne", |i, v, g| compared(i, v, g, Comparison::NotEqual)),
    ("none", |_, v, g| plain(g, matches!(v, Value::None))),
    ("number", |_, v, g| plain(g, Num::of(v).is_some())),
    ("odd", |i, v, g| plain(g, matches!(rest(i, v, 2)?, Num::Int(1)) || is_one(&rest(i, v, 2)?))),
    ("sameas", sameas),
    ("sequence", |_, v, g| plain(g, is_sequence(v))),
    ("string", |_, v, g| plain(g, v.as_text().is_some())),
    ("test", |_, v, g| plain(g, v.as_text().is_some_and(|name| find(name).is_some()))),
    ("true", |_, v, g| plain(g, matches!(v, Value::Bool(true)))),
    ("upper", |_, v, g| plain(g, cased(v, char::is_lowercase)?)),
];

pub fn find(name: &str) -> Option<Test> {
    if name == "undefined" {
        return Some(|_, value, given| plain(given, value.is_undefined()));
    }
    TESTS.iter().find(|(known, _)| *known == name).map(|(_, test)| *test)
}

fn plain(given: Given, answer: bool) -> Answer {
    given.none("a test")?;
    Ok(answer)
}

fn compared(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    given: Given,
    comparison: Comparison,
) -> Answer {
    let [other] = given.bind("a test", ["other"])?;
    let other = required(other, "a test", "other")?;
    Ok(interpreter.compare(comparison, value, &other)?)
}

fn is_callable(value: &Value) -> bool {
    match value {
        Value::Undefined(_) => true,
        Value::Object(object) => matches!(
            **object,
            Object::Macro(..)
                | Object::Method(..)
                | Object::Function(_)
                | Object::Joiner { .. }
                | Object::Loop(_)
        ),
        _ => false,
    }
}

fn is_iterable(value: &Value) -> bool {
    match value {
        Value::Undefined(_) | Value::Text(_) | Value::Markup(_) => true,
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
        Value::Object(object) => {
            matches!(**object, Object::Range { .. } | Object::View(..) | Object::Stream(..) | Object::Loop(_))
        }
        _ => false,
    }
}

/// What has a length and items.
fn is_sequence(value: &Value) -> bool {
    match value {
        Value::Undefined(_) | Value::Text(_) | Value::Markup(_) => true,
        Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
        Value::Object(object) => matches!(**object, Object::Range { .. }),
        _ => false,
    }
}

fn rest(interpreter: &mut Interpreter<'_>, value: &Value, divisor: i64) -> Result<Num, Stop> {
    let rest = interpreter.binary(super::ast::Operator::Mod, value, &Value::Int(divisor))?;
    Num::of(&rest).ok_or_else(|| "not all arguments converted during string formatting".to_owned().into())
}

fn is_one(number: &Num) -> bool {
    matches!(number, Num::Float(number) if *number == 1.0)
}

fn divisibleby(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [divisor] = given.bind("divisibleby", ["num"])?;
    let divisor = required(divisor, "divisibleby", "num")?;
    let rest = interpreter.binary(super::ast::Operator::Mod, value, &divisor)?;
    Ok(Num::of(&rest).is_some_and(|rest| rest.is_zero()))
}

/// `str(value).islower()` and its twin: letters, and none of the other kind.
fn cased(value: &Value, other: fn(char) -> bool) -> Result<bool, String> {
    let text = super::print::string(value)?;
    Ok(text.chars().any(text::is_cased) && !text.chars().any(other))
}

/// The same object. Python keeps small numbers and constants once; other numbers and texts are new each time.
fn sameas(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [other] = given.bind("sameas", ["other"])?;
    let other = required(other, "sameas", "other")?;
    Ok(match (value, &other) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Text(a), Value::Text(b)) | (Value::Markup(a), Value::Markup(b)) => a == b,
        (Value::List(a), Value::List(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Tuple(a), Value::Tuple(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Object(a), Value::Object(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Big(a), Value::Big(b)) => std::sync::Arc::ptr_eq(a, b),
        _ => false,
    })
}
