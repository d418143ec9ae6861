//! Filters of lists and dicts.

use std::rc::Rc;

use indexmap::IndexMap;

use super::super::ast::Operator;
use super::super::calls::{Given, required};
use super::super::eval::{Interpreter, Stop, pairs};
use super::super::value::{Dict, Key, Missing, Object, Value};
use super::super::{order, print, tests};
use super::values::count;
use super::{Case, Getter, case, find, is_on};

type Answer = Result<Value, Stop>;

pub fn list(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("list")?;
    Ok(Value::List(interpreter.items(value)?))
}

pub fn first(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("first")?;
    let first = match value {
        // The rest stays in the generator.
        Value::Object(object) => match &**object {
            Object::Stream(items, ..) => items.borrow_mut().pop_front(),
            _ => interpreter.items(value)?.first().cloned(),
        },
        Value::Text(text) | Value::Markup(text) => {
            text.chars().next().map(|first| Value::text(first.to_string()))
        }
        _ => interpreter.items(value)?.first().cloned(),
    };
    Ok(first.unwrap_or(Value::Undefined(Missing::Because("No first item, sequence was empty."))))
}

pub fn last(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("last")?;
    let last = match value {
        Value::Text(text) | Value::Markup(text) => {
            text.chars().next_back().map(|last| Value::text(last.to_string()))
        }
        _ => reversible(interpreter, value)?.last().cloned(),
    };
    Ok(last.unwrap_or(Value::Undefined(Missing::Because("No last item, sequence was empty."))))
}

/// The items of what Python can go over from its end.
fn reversible(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
) -> Result<Rc<super::super::value::Items>, String> {
    match value {
        Value::Object(object) if !matches!(**object, Object::Range { .. } | Object::View(..)) => {
            Err(format!("'{}' object is not reversible", value.type_name()))
        }
        Value::Undefined(_) => interpreter.items(value),
        _ => {
            interpreter.items(value).map_err(|_| format!("'{}' object is not reversible", value.type_name()))
        }
    }
}

pub fn random(_: &mut Interpreter<'_>, _: &Value, _: Given) -> Answer {
    Err("the filter 'random' is not supported: a prompt must be the same each time".to_owned().into())
}

pub fn reverse(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("reverse")?;
    if let Some(text) = value.as_text() {
        let text = text.chars().rev().collect();
        return Ok(interpreter.like(value, text)?);
    }
    let items = interpreter.items(value).map_err(|_| "argument must be iterable".to_owned())?;
    let reversed: Vec<Value> = items.iter().rev().cloned().collect();
    let name = match value {
        Value::List(_) => "list_reverseiterator",
        Value::Dict(_) => "dict_reversekeyiterator",
        Value::Object(object) => match &**object {
            Object::Range { .. } => "range_iterator",
            Object::View(..) => "dict_reverseitemiterator",
            _ => return Ok(Value::list(reversed)?),
        },
        _ => "reversed",
    };
    Ok(Value::stream(reversed, name)?)
}

pub fn items(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("items")?;
    match value {
        Value::Undefined(_) => Ok(Value::stream(Vec::new(), "generator")?),
        Value::Dict(dict) => Ok(Value::stream(pairs(dict)?, "generator")?),
        _ => Err("Can only get item pairs from a mapping.".to_owned().into()),
    }
}

pub fn join(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [separator, attribute] = given.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or(Ok(String::new()), |separator| print::string(&separator))?;
    let getter = Getter::new(attribute, None, Case::Kept);
    let mut out = String::new();
    for (index, item) in interpreter.items(value)?.iter().enumerate() {
        let item = getter.get(interpreter, item)?;
        out.push_str(if index > 0 { &separator } else { "" });
        let before = out.len();
        print::push_str(&item, &mut out)?;
        interpreter.charge((out.len() - before) as u64 / 256)?;
        if out.len() > print::BYTES_MAX {
            interpreter.charge_text(out.len())?;
        }
    }
    Ok(Value::text(out))
}

/// Items with what they are compared by.
fn with_keys(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    getter: &Getter,
) -> Result<Vec<(Value, Value)>, Stop> {
    let items = interpreter.items(value)?;
    items.iter().map(|item| Ok((getter.get(interpreter, item)?, item.clone()))).collect()
}

fn sort_by_keys(
    interpreter: &mut Interpreter<'_>,
    mut keyed: Vec<(Value, Value)>,
    reverse: Option<Value>,
) -> Result<Vec<(Value, Value)>, Stop> {
    interpreter.charge_items(keyed.len().saturating_mul(8))?;
    // What is equal keeps its order, backwards too.
    let reverse = is_on(reverse);
    if reverse {
        keyed.reverse();
    }
    let mut keyed = order::sorted(keyed, &|(key, _): &(Value, Value)| key)?;
    if reverse {
        keyed.reverse();
    }
    Ok(keyed)
}

fn values(keyed: Vec<(Value, Value)>) -> Answer {
    Ok(Value::list(keyed.into_iter().map(|(_, item)| item).collect())?)
}

pub fn sort(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [reverse, sensitive, attribute] = given.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let case = case(sensitive);
    let attributes = match attribute.as_ref().and_then(Value::as_text) {
        Some(names) if names.contains(',') => names.split(',').map(|name| Some(Value::text(name))).collect(),
        _ => vec![attribute],
    };
    let getters: Vec<Getter> =
        attributes.into_iter().map(|attribute| Getter::new(attribute, None, case)).collect();
    let items = interpreter.items(value)?;
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.iter() {
        let mut keys = Vec::new();
        for getter in &getters {
            keys.push(getter.get(interpreter, item)?);
        }
        keyed.push((Value::list(keys)?, item.clone()));
    }
    values(sort_by_keys(interpreter, keyed, reverse)?)
}

pub fn dictsort(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [sensitive, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = value else {
        return Err(format!("'{}' object has no attribute 'items'", value.type_name()).into());
    };
    let place = match by.as_ref().and_then(Value::as_text).map(|by| &**by) {
        None | Some("key") => 0,
        Some("value") => 1,
        Some(_) => return Err("You can only sort by either \"key\" or \"value\"".to_owned().into()),
    };
    let getter = Getter::new(Some(Value::Int(place)), None, case(sensitive));
    let keyed = with_keys(interpreter, &Value::list(pairs(dict)?)?, &getter)?;
    values(sort_by_keys(interpreter, keyed, reverse)?)
}

pub fn groupby(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [attribute, default, sensitive] =
        given.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let attribute = required(attribute, "groupby", "attribute")?;
    let getter = Getter::new(Some(attribute.clone()), default.clone(), case(sensitive));
    let keyed = with_keys(interpreter, value, &getter)?;
    let keyed = sort_by_keys(interpreter, keyed, None)?;
    let real = Getter::new(Some(attribute), default, Case::Kept);
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in keyed {
        match groups.last_mut().filter(|(last, _)| order::equal(last, &key)) {
            Some((_, items)) => items.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    let mut result = Vec::new();
    for (_, items) in groups {
        let key = real.get(interpreter, &items[0])?;
        result.push(Value::tuple(vec![key, Value::list(items)?])?);
    }
    Ok(Value::list(result)?)
}

pub fn unique(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [sensitive, attribute] = given.bind("unique", ["case_sensitive", "attribute"])?;
    let getter = Getter::new(attribute, None, case(sensitive));
    let mut seen = IndexMap::new();
    for (key, item) in with_keys(interpreter, value, &getter)? {
        seen.entry(Key::new(key)?).or_insert(item);
    }
    Ok(Value::stream(seen.into_values().collect(), "generator")?)
}

pub fn min(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    extreme(interpreter, value, given.bind("min", ["case_sensitive", "attribute"])?, "<")
}

pub fn max(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    extreme(interpreter, value, given.bind("max", ["case_sensitive", "attribute"])?, ">")
}

fn extreme(
    interpreter: &mut Interpreter<'_>,
    value: &Value,
    [sensitive, attribute]: [Option<Value>; 2],
    sign: &str,
) -> Answer {
    let getter = Getter::new(attribute, None, case(sensitive));
    let mut keyed = with_keys(interpreter, value, &getter)?.into_iter();
    let Some(mut best) = keyed.next() else {
        return Ok(Value::Undefined(Missing::Because("No aggregated item, sequence was empty.")));
    };
    let want = if sign == "<" { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
    for next in keyed {
        if order::compare(&next.0, &best.0, sign)? == Some(want) {
            best = next;
        }
    }
    Ok(best.1)
}

pub fn sum(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [attribute, start] = given.bind("sum", ["attribute", "start"])?;
    let getter = Getter::new(attribute, None, Case::Kept);
    let mut total = start.unwrap_or(Value::Int(0));
    if total.as_text().is_some() {
        return Err("sum() can't sum strings [use ''.join(seq) instead]".to_owned().into());
    }
    for (item, _) in with_keys(interpreter, value, &getter)? {
        total = interpreter.binary(Operator::Add, &total, &item)?;
    }
    Ok(total)
}

pub fn batch(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [size, fill] = given.bind("batch", ["linecount", "fill_with"])?;
    let size = count(&required(size, "batch", "linecount")?)?;
    let items = interpreter.items(value)?;
    // Python's count never meets a size of 0: all items are one batch.
    let size = if size == 0 { items.len().max(1) } else { size };
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let mut batches = Vec::new();
    for chunk in items.chunks(size) {
        let mut batch = chunk.to_vec();
        if let Some(fill) = &fill {
            interpreter.charge_items(size)?;
            batch.resize(size, fill.clone());
        }
        batches.push(Value::list(batch)?);
    }
    Ok(Value::stream(batches, "generator")?)
}

pub fn slice(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [slices, fill] = given.bind("slice", ["slices", "fill_with"])?;
    let slices = count(&required(slices, "slice", "slices")?)?;
    if slices == 0 {
        return Err("integer division or modulo by zero".to_owned().into());
    }
    interpreter.charge_items(slices)?;
    let items = interpreter.items(value)?;
    let (each, larger) = (items.len() / slices, items.len() % slices);
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let mut result = Vec::new();
    let mut rest = &**items;
    for slice in 0..slices {
        let (now, later) = rest.split_at(each + usize::from(slice < larger));
        rest = later;
        let mut now = now.to_vec();
        now.extend(fill.clone().filter(|_| slice >= larger));
        result.push(Value::list(now)?);
    }
    Ok(Value::stream(result, "generator")?)
}

pub fn map(interpreter: &mut Interpreter<'_>, value: &Value, mut given: Given) -> Answer {
    let name = "generator";
    if !value.is_true() {
        return Ok(Value::stream(Vec::new(), name)?);
    }
    let items = interpreter.items(value)?;
    let mut result = Vec::with_capacity(items.len());
    if given.positional.is_empty() && given.named.iter().any(|(name, _)| **name == *"attribute") {
        let [attribute, default] = given.bind("map", ["attribute", "default"])?;
        let getter = Getter::new(attribute, default, Case::Kept);
        for item in items.iter() {
            result.push(getter.get(interpreter, item)?);
        }
    } else {
        if given.positional.is_empty() {
            return Err("map requires a filter argument".to_owned().into());
        }
        let filter = given.positional.remove(0);
        let filter = filter.as_text().and_then(|name| find(name)).ok_or_else(|| {
            format!("there is no filter named {}", print::repr(&filter).unwrap_or_default())
        })?;
        for item in items.iter() {
            let given = Given { positional: given.positional.clone(), named: given.named.clone() };
            interpreter.charge(1)?;
            result.push(filter(interpreter, item, given)?);
        }
    }
    Ok(Value::stream(result, name)?)
}

pub fn select(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    chosen(interpreter, value, given, By::Item, Want::Holds)
}

pub fn reject(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    chosen(interpreter, value, given, By::Item, Want::Fails)
}

pub fn selectattr(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    chosen(interpreter, value, given, By::Attribute, Want::Holds)
}

pub fn rejectattr(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    chosen(interpreter, value, given, By::Attribute, Want::Fails)
}

/// What a choice looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Item,
    Attribute,
}

/// Which items are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Holds,
    Fails,
}

fn chosen(interpreter: &mut Interpreter<'_>, value: &Value, mut given: Given, by: By, want: Want) -> Answer {
    let name = "generator";
    if !value.is_true() {
        return Ok(Value::stream(Vec::new(), name)?);
    }
    let mut getter = Getter::new(None, None, Case::Kept);
    if by == By::Attribute {
        if given.positional.is_empty() {
            return Err("Missing parameter for attribute name".to_owned().into());
        }
        getter = Getter::new(Some(given.positional.remove(0)), None, Case::Kept);
    }
    let test = match given.positional.is_empty() {
        true => None,
        false => {
            let test = given.positional.remove(0);
            let known = test.as_text().and_then(|name| tests::find(name));
            Some(known.ok_or_else(|| {
                format!("there is no test named {}", print::repr(&test).unwrap_or_default())
            })?)
        }
    };
    let mut kept = Vec::new();
    for item in interpreter.items(value)?.iter() {
        interpreter.charge(1)?;
        let seen = getter.get(interpreter, item)?;
        let holds = match test {
            Some(test) => {
                let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                test(interpreter, &seen, given)?
            }
            None => seen.is_true(),
        };
        if holds == (want == Want::Holds) {
            kept.push(item.clone());
        }
    }
    Ok(Value::stream(kept, name)?)
}

/// A dict's pairs in the order of their keys, where these have one.
pub fn in_order(dict: &Rc<Dict>) -> Vec<(Value, Value)> {
    let pairs: Vec<_> = dict.map.iter().map(|(key, value)| (key.0.clone(), value.clone())).collect();
    order::sorted(pairs.clone(), &|(key, _): &(Value, Value)| key).unwrap_or(pairs)
}
