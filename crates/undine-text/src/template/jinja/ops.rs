//! Operators between values of any kind.

use std::rc::Rc;

use super::ast::{Comparison, Operator};
use super::number::{self, Num};
use super::order;
use super::print::{self, BYTES_MAX};
use super::value::{Items, Object, Value};
use super::{Interpreter, format};

/// Items that a list may have.
pub const ITEMS_MAX: usize = 1 << 20;

const SIGNS: [(Operator, &str); 7] = [
    (Operator::Add, "+"),
    (Operator::Sub, "-"),
    (Operator::Mul, "*"),
    (Operator::Div, "/"),
    (Operator::FloorDiv, "//"),
    (Operator::Mod, "%"),
    (Operator::Pow, "** or pow()"),
];

impl Interpreter<'_> {
    pub fn binary(&mut self, operator: Operator, a: &Value, b: &Value) -> Result<Value, String> {
        if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
            return number::arithmetic(operator, &a, &b).map(Num::value);
        }
        if let (Operator::Mod, Some(text)) = (operator, a.as_text()) {
            let text = format::percent(text, b)?;
            return self.like(a, text);
        }
        for side in [a, b] {
            if let Value::Undefined(missing) = side {
                return Err(missing.message());
            }
        }
        match operator {
            Operator::Add => self.add(a, b),
            Operator::Mul => match (a, b) {
                (Value::Int(_) | Value::Bool(_) | Value::Big(_), _) => self.repeat(b, a),
                _ => self.repeat(a, b),
            },
            _ => None,
        }
        .unwrap_or_else(|| {
            let sign = SIGNS.iter().find(|(known, _)| *known == operator).map_or("?", |(_, sign)| sign);
            let (a, b) = (a.type_name(), b.type_name());
            Err(format!("unsupported operand type(s) for {sign}: '{a}' and '{b}'"))
        })
    }

    fn add(&mut self, a: &Value, b: &Value) -> Option<Result<Value, String>> {
        match (a, b) {
            (Value::Text(a), Value::Text(b)) => {
                let length = a.len() + b.len();
                Some(self.charge_text(length).map(|()| Value::text([&**a, &**b].concat())))
            }
            (Value::Text(_) | Value::Markup(_), Value::Text(_) | Value::Markup(_)) => {
                let mut text = String::new();
                push_escaped(a, &mut text);
                push_escaped(b, &mut text);
                Some(self.charge_text(text.len()).map(|()| Value::Markup(text.into())))
            }
            (Value::List(a), Value::List(b)) => Some(self.joined(a, b).and_then(Value::list)),
            (Value::Tuple(a), Value::Tuple(b)) => Some(self.joined(a, b).and_then(Value::tuple)),
            _ => None,
        }
    }

    fn joined(&mut self, a: &Rc<Items>, b: &Rc<Items>) -> Result<Vec<Value>, String> {
        self.charge_items(a.len() + b.len())?;
        Ok(a.iter().chain(b.iter()).cloned().collect())
    }

    fn repeat(&mut self, value: &Value, times: &Value) -> Option<Result<Value, String>> {
        let times = match Num::of(times)? {
            Num::Int(times) => usize::try_from(times).unwrap_or(0),
            Num::Big(_) => usize::MAX,
            Num::Float(_) => return None,
        };
        let result = match value {
            Value::Text(text) | Value::Markup(text) => {
                let length = text.len().saturating_mul(times);
                self.charge_text(length).and_then(|()| self.like(value, text.repeat(times)))
            }
            Value::List(items) | Value::Tuple(items) => {
                let length = items.len().saturating_mul(times);
                self.charge_items(length).and_then(|()| {
                    let repeated =
                        std::iter::repeat_n(items, times).flat_map(|items| items.iter()).cloned().collect();
                    if matches!(value, Value::List(_)) {
                        Value::list(repeated)
                    } else {
                        Value::tuple(repeated)
                    }
                })
            }
            _ => return None,
        };
        Some(result)
    }

    pub fn compare(&mut self, comparison: Comparison, a: &Value, b: &Value) -> Result<bool, String> {
        let ordered = |sign: &str, want: fn(std::cmp::Ordering) -> bool| {
            order::compare(a, b, sign).map(|order| order.is_some_and(want))
        };
        match comparison {
            Comparison::Equal => Ok(order::equal(a, b)),
            Comparison::NotEqual => Ok(!order::equal(a, b)),
            Comparison::Less => ordered("<", std::cmp::Ordering::is_lt),
            Comparison::LessEqual => ordered("<=", std::cmp::Ordering::is_le),
            Comparison::Greater => ordered(">", std::cmp::Ordering::is_gt),
            Comparison::GreaterEqual => ordered(">=", std::cmp::Ordering::is_ge),
            Comparison::In => self.contains(b, a),
            Comparison::NotIn => self.contains(b, a).map(|found| !found),
        }
    }

    pub fn contains(&mut self, container: &Value, value: &Value) -> Result<bool, String> {
        match container {
            Value::Text(text) | Value::Markup(text) => match value.as_text() {
                Some(part) => {
                    self.charge(text.len() as u64 / 64)?;
                    Ok(text.contains(&**part))
                }
                None => {
                    Err(format!("'in <string>' requires string as left operand, not {}", value.type_name()))
                }
            },
            Value::Dict(dict) => Ok(dict.map.contains_key(&super::value::Key::new(value.clone())?)),
            Value::Object(object) => match &**object {
                Object::View(super::value::View::Keys, dict) => {
                    Ok(dict.map.contains_key(&super::value::Key::new(value.clone())?))
                }
                _ => self.is_among(container, value),
            },
            _ => self.is_among(container, value),
        }
    }

    fn is_among(&mut self, container: &Value, value: &Value) -> Result<bool, String> {
        let items = self
            .items(container)
            .map_err(|_| format!("argument of type '{}' is not iterable", container.type_name()))?;
        self.charge(items.len() as u64)?;
        Ok(items.iter().any(|item| order::equal(item, value)))
    }

    pub fn negative(&mut self, value: &Value) -> Result<Value, String> {
        let number = Num::of(value).ok_or_else(|| bad_operand("-", value))?;
        number::negated(&number).map(Num::value)
    }

    pub fn positive(&mut self, value: &Value) -> Result<Value, String> {
        Num::of(value).map(Num::value).ok_or_else(|| bad_operand("+", value))
    }

    /// A text with the same promise about HTML as another.
    pub fn like(&mut self, model: &Value, text: String) -> Result<Value, String> {
        self.charge_text(text.len())?;
        Ok(if matches!(model, Value::Markup(_)) { Value::Markup(text.into()) } else { Value::text(text) })
    }

    /// Pays for a text of so many bytes that is being made.
    pub fn charge_text(&mut self, bytes: usize) -> Result<(), String> {
        if bytes > BYTES_MAX {
            return Err(format!("a text would be longer than {BYTES_MAX} bytes"));
        }
        self.charge(bytes as u64 / 256)
    }

    /// Pays for a list of so many items that is being made.
    pub fn charge_items(&mut self, items: usize) -> Result<(), String> {
        if items > ITEMS_MAX {
            return Err(format!("a list would have more than {ITEMS_MAX} items"));
        }
        self.charge(items as u64 / 8)
    }
}

fn bad_operand(sign: &str, value: &Value) -> String {
    match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("bad operand type for unary {sign}: '{}'", value.type_name()),
    }
}

/// A text for HTML: as it is if it has been escaped, else escaped.
pub fn push_escaped(value: &Value, out: &mut String) {
    match value {
        Value::Markup(text) => out.push_str(text),
        Value::Text(text) => {
            for character in text.chars() {
                match character {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '"' => out.push_str("&#34;"),
                    '\'' => out.push_str("&#39;"),
                    _ => out.push(character),
                }
            }
        }
        value => {
            let text = print::string(value).unwrap_or_default();
            push_escaped(&Value::text(text), out);
        }
    }
}
