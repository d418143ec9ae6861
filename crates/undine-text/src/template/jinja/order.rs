//! Equality and order as Python has them.

use std::cmp::Ordering;
use std::rc::Rc;

use super::number::Num;
use super::value::{Object, Value, View};

pub fn equal(a: &Value, b: &Value) -> bool {
    if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
        return a.compare(&b) == Some(Ordering::Equal);
    }
    if let (Some(a), Some(b)) = (a.as_text(), b.as_text()) {
        return a == b;
    }
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            Rc::ptr_eq(a, b) || a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| equal(a, b))
        }
        (Value::Dict(a), Value::Dict(b)) => {
            Rc::ptr_eq(a, b)
                || a.map.len() == b.map.len()
                    && a.map.iter().all(|(key, a)| b.map.get(key).is_some_and(|b| equal(a, b)))
        }
        (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b) || equal_objects(a, b),
        _ => false,
    }
}

fn equal_objects(a: &Object, b: &Object) -> bool {
    match (a, b) {
        (Object::Range { .. }, Object::Range { .. }) => {
            let length = a.range_length();
            length == b.range_length()
                && [0, length.saturating_sub(1)]
                    .iter()
                    .all(|&at| at >= length || equal(&a.range_item(at), &b.range_item(at)))
        }
        (Object::View(View::Keys, a), Object::View(View::Keys, b)) => {
            a.map.len() == b.map.len() && a.map.keys().all(|key| b.map.contains_key(key))
        }
        _ => false,
    }
}

/// `None` for two values where one of them is not a number.
pub fn compare(a: &Value, b: &Value, operator: &str) -> Result<Option<Ordering>, String> {
    if let (Some(a), Some(b)) = (Num::of(a), Num::of(b)) {
        return Ok(a.compare(&b));
    }
    if let (Some(a), Some(b)) = (a.as_text(), b.as_text()) {
        return Ok(Some(a.cmp(b)));
    }
    match (a, b) {
        (Value::Undefined(missing), _) | (_, Value::Undefined(missing)) => Err(missing.message()),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            match a.iter().zip(b.iter()).find(|(a, b)| !equal(a, b)) {
                Some((a, b)) => compare(a, b, operator),
                None => Ok(Some(a.len().cmp(&b.len()))),
            }
        }
        _ => Err(format!(
            "'{operator}' not supported between instances of '{}' and '{}'",
            a.type_name(),
            b.type_name()
        )),
    }
}

/// Sorts as Python does: stable, by `<` alone, which may fail or be no order at all.
pub fn sorted<T>(mut items: Vec<T>, key: &impl Fn(&T) -> &Value) -> Result<Vec<T>, String> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut result = Vec::with_capacity(items.len() + right.len());
    let mut left = sorted(items, key)?.into_iter().peekable();
    let mut right = sorted(right, key)?.into_iter().peekable();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let later_first = compare(key(b), key(a), "<")? == Some(Ordering::Less);
        result.extend(if later_first { right.next() } else { left.next() });
    }
    result.extend(left);
    result.extend(right);
    Ok(result)
}
