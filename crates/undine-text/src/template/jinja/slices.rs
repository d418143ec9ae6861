//! Items and slices of texts, lists, tuples and ranges, counted in characters and from the end where
//! negative.

use std::sync::Arc;

use super::Interpreter;
use super::value::{Object, Value};

/// The place that an index means in so many items.
pub fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < length)
}

pub fn item(value: &Value, index: i64) -> Option<Value> {
    match value {
        Value::List(items) | Value::Tuple(items) => items.get(place(index, items.len())?).cloned(),
        Value::Text(text) | Value::Markup(text) => {
            let length = if text.is_ascii() { text.len() } else { text.chars().count() };
            let at = place(index, length)?;
            let character =
                if text.is_ascii() { char::from(text.as_bytes()[at]) } else { text.chars().nth(at)? };
            Some(Value::text(character.to_string()))
        }
        Value::Object(object) if matches!(**object, Object::Range { .. }) => {
            Some(object.range_item(place(index, object.range_length())?))
        }
        _ => None,
    }
}

/// First place, how many, and the step between them, as Python's `slice.indices` has it.
fn places([start, stop, step]: [Option<i64>; 3], length: usize) -> Result<(usize, usize, i64), String> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err("slice step cannot be zero".to_owned());
    }
    let length = length as i64;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i64>, otherwise: i64| match bound {
        None => otherwise,
        Some(bound) if bound < 0 => bound.saturating_add(length).clamp(lowest, highest),
        Some(bound) => bound.clamp(lowest, highest),
    };
    let (start, stop) = if step > 0 {
        (bound(start, 0), bound(stop, length))
    } else {
        (bound(start, length - 1), bound(stop, -1))
    };
    let distance = if step > 0 { stop - start } else { start - stop };
    let width = step.unsigned_abs();
    let count = if distance > 0 { (distance as u64 - 1) / width + 1 } else { 0 };
    Ok((start.max(0) as usize, count as usize, step))
}

/// `None` if the value has no slices.
pub fn slice(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    bounds: [Option<i64>; 3],
) -> Result<Option<Value>, String> {
    let walk = |(first, count, step): (usize, usize, i64)| {
        (0..count).map(move |n| (first as i64 + n as i64 * step) as usize)
    };
    Ok(Some(match value {
        Value::List(items) | Value::Tuple(items) => {
            let places = places(bounds, items.len())?;
            interpreter.charge_items(places.1)?;
            let items = walk(places).map(|at| items[at].clone()).collect();
            if matches!(value, Value::List(_)) { Value::list(items)? } else { Value::tuple(items)? }
        }
        Value::Text(text) | Value::Markup(text) => {
            interpreter.charge_text(text.len())?;
            let sliced = text_slice(text, bounds)?;
            interpreter.like(value, sliced)?
        }
        Value::Object(object) => match &**object {
            Object::Range { step, .. } => {
                let (first, count, by) = places(bounds, object.range_length())?;
                let Value::Int(start) = object.range_item(first) else { return Ok(None) };
                let step = step.saturating_mul(by);
                Value::object(Object::Range {
                    start,
                    stop: start.saturating_add(step.saturating_mul(count as i64)),
                    step,
                })
            }
            _ => return Ok(None),
        },
        _ => return Ok(None),
    }))
}

fn text_slice(text: &Arc<str>, bounds: [Option<i64>; 3]) -> Result<String, String> {
    let length = if text.is_ascii() { text.len() } else { text.chars().count() };
    let (first, count, step) = places(bounds, length)?;
    if step == 1 {
        let byte = |at: usize| {
            if text.is_ascii() {
                at
            } else {
                text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
            }
        };
        return Ok(if count == 0 {
            String::new()
        } else {
            text[byte(first)..byte(first + count)].to_owned()
        });
    }
    let characters: Vec<char> = text.chars().collect();
    Ok((0..count).map(|n| characters[(first as i64 + n as i64 * step) as usize]).collect())
}
