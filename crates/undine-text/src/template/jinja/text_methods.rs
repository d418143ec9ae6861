//! Methods of texts.

use std::sync::Arc;

use super::calls::{Given, required};
use super::eval::{Interpreter, Stop};
use super::methods::integer;
use super::ops::ITEMS_MAX;
use super::text::{self, Side, is_space};
use super::value::Value;
use super::{format, print};

pub const NAMES: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

type Answer = Result<Value, String>;

/// Calls a method; `owner` is the text with its promise about HTML.
pub fn call(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    text: &Arc<str>,
    name: &'static str,
    given: Given,
) -> Result<Value, Stop> {
    interpreter.charge_text(text.len())?;
    let changed = match name {
        "lower" => text.to_lowercase(),
        "upper" => text.to_uppercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss"),
        "capitalize" => text::capitalized(text),
        "title" => text::titled(text),
        "swapcase" => text::swapped(text),
        "format" | "format_map" => return Ok(format_with(interpreter, owner, text, name, given)?),
        _ if name.starts_with("is") => {
            given.none(name)?;
            return Ok(Value::Bool(asks(text, name)));
        }
        _ => return Ok(with_arguments(interpreter, owner, text, name, given)?),
    };
    given.none(name)?;
    Ok(interpreter.like(owner, changed)?)
}

fn format_with(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    text: &str,
    name: &str,
    mut given: Given,
) -> Answer {
    if name == "format_map" {
        let [mapping] = given.bind(name, ["mapping"])?;
        let Some(Value::Dict(dict)) = mapping else { return Err("format_map needs a mapping".to_owned()) };
        let named =
            dict.map.iter().filter_map(|(key, value)| Some((key.0.as_text()?.clone(), value.clone())));
        given = Given { positional: Vec::new(), named: named.collect() };
    }
    let text = format::braces(interpreter, text, &given)?;
    interpreter.like(owner, text)
}

fn with_arguments(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    text: &Arc<str>,
    name: &'static str,
    given: Given,
) -> Answer {
    match name {
        "strip" | "lstrip" | "rstrip" => strip(interpreter, owner, text, name, given),
        "split" | "rsplit" => split(interpreter, owner, text, name, given),
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            let keep = keep.is_some_and(|keep| keep.is_true());
            let lines = text::lines(text)
                .map(|(line, end)| if keep { format!("{line}{end}") } else { line.to_owned() });
            parts(interpreter, owner, lines)
        }
        "partition" | "rpartition" => partition(interpreter, owner, text, name, given),
        "find" | "rfind" | "index" | "rindex" | "count" => find(text, name, given),
        "startswith" | "endswith" => begins_or_ends(interpreter, text, name, given),
        "removeprefix" | "removesuffix" => {
            let [part] = given.bind(name, ["part"])?;
            let part = text_of(part, name)?;
            let rest =
                if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
            interpreter.like(owner, rest.unwrap_or(text).to_owned())
        }
        "replace" => replace(interpreter, owner, text, given),
        "join" => {
            let [items] = given.bind(name, ["iterable"])?;
            let items = interpreter.items(&required(items, name, "iterable")?)?;
            let mut out = String::new();
            for (index, item) in items.iter().enumerate() {
                let item = item.as_text().ok_or_else(|| {
                    format!("sequence item {index}: expected str instance, {} found", item.type_name())
                })?;
                out.push_str(if index > 0 { text } else { "" });
                out.push_str(item);
                interpreter.charge(1)?;
                print::check_length(&out)?;
            }
            interpreter.like(owner, out)
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(interpreter, owner, text, name, given),
        _ => {
            let [width] = given.bind(name, ["tabsize"])?;
            let width = width.map_or(Ok(8), |width| integer(&width))?;
            let width = usize::try_from(width).unwrap_or(0);
            let tabs = text.matches('\t').count();
            interpreter.charge_text(text.len().saturating_add(width.saturating_mul(tabs)))?;
            interpreter.like(owner, text::without_tabs(text, width))
        }
    }
}

fn text_of(value: Option<Value>, method: &str) -> Result<Arc<str>, String> {
    let value = required(value, method, "text")?;
    let kind = value.type_name();
    value.as_text().cloned().ok_or_else(|| format!("{method}: expected a str, found {kind}"))
}

/// Several texts as a list.
fn parts(interpreter: &mut Interpreter<'_>, owner: &Value, texts: impl Iterator<Item = String>) -> Answer {
    let mut items = Vec::new();
    for text in texts {
        interpreter.charge(1)?;
        items.push(interpreter.like(owner, text)?);
        if items.len() > ITEMS_MAX {
            interpreter.charge_items(items.len())?;
        }
    }
    Value::list(items)
}

fn strip(interpreter: &mut Interpreter<'_>, owner: &Value, text: &str, name: &str, given: Given) -> Answer {
    let [signs] = given.bind(name, ["chars"])?;
    let signs = match signs {
        None | Some(Value::None) => None,
        signs => Some(text_of(signs, name)?),
    };
    let goes = |character: char| match &signs {
        None => is_space(character),
        Some(signs) => signs.contains(character),
    };
    let rest = if name == "rstrip" { text } else { text.trim_start_matches(goes) };
    let rest = if name == "lstrip" { rest } else { rest.trim_end_matches(goes) };
    interpreter.like(owner, rest.to_owned())
}

fn split(interpreter: &mut Interpreter<'_>, owner: &Value, text: &str, name: &str, given: Given) -> Answer {
    let [separator, times] = given.bind(name, ["sep", "maxsplit"])?;
    let separator = match separator {
        None | Some(Value::None) => None,
        separator => Some(text_of(separator, name)?),
    };
    if separator.as_deref() == Some("") {
        return Err("empty separator".to_owned());
    }
    let times = times.map_or(Ok(-1), |times| integer(&times))?;
    // One part more than a list may have is enough to refuse it.
    let times = usize::try_from(times).unwrap_or(usize::MAX).min(ITEMS_MAX + 1);
    let separator = separator.as_deref();
    let split = if name == "split" { text::split } else { text::split_from_end };
    parts(interpreter, owner, split(text, separator, times).into_iter().map(str::to_owned))
}

fn partition(
    interpreter: &mut Interpreter<'_>,
    owner: &Value,
    text: &str,
    name: &str,
    given: Given,
) -> Answer {
    let [separator] = given.bind(name, ["sep"])?;
    let separator = text_of(separator, name)?;
    if separator.is_empty() {
        return Err("empty separator".to_owned());
    }
    let found =
        if name == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
    let texts = match found {
        Some((before, after)) => [before, &*separator, after],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    let mut items = Vec::new();
    for text in texts {
        items.push(interpreter.like(owner, text.to_owned())?);
    }
    Value::tuple(items)
}

/// The places between two bounds, as Python reads them.
pub fn bounds(
    start: Option<Value>,
    stop: Option<Value>,
    length: usize,
) -> Result<std::ops::Range<usize>, String> {
    let place = |value: Option<Value>, otherwise: usize| -> Result<usize, String> {
        match value {
            None | Some(Value::None) => Ok(otherwise),
            Some(value) => {
                let index = integer(&value)?;
                let index = if index < 0 { index.saturating_add(length as i64).max(0) } else { index };
                Ok(usize::try_from(index).unwrap_or(0))
            }
        }
    };
    Ok(place(start, 0)?..place(stop, length)?.min(length))
}

fn find(text: &str, name: &str, given: Given) -> Answer {
    let [part, start, stop] = given.bind(name, ["sub", "start", "end"])?;
    let part = text_of(part, name)?;
    let length = text.chars().count();
    let range = bounds(start, stop, length)?;
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let searched = (range.start <= range.end).then(|| &text[byte(range.start)..byte(range.end)]);
    if name == "count" {
        let count = match (searched, part.is_empty()) {
            (None, _) => 0,
            (Some(searched), true) => searched.chars().count() + 1,
            (Some(searched), false) => searched.matches(&*part).count(),
        };
        return Ok(Value::Int(count as i64));
    }
    let found = searched.and_then(|searched| {
        let at = if name.starts_with('r') { searched.rfind(&*part) } else { searched.find(&*part) };
        at.map(|at| (range.start + searched[..at].chars().count()) as i64)
    });
    match found {
        Some(at) => Ok(Value::Int(at)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err("substring not found".to_owned()),
    }
}

fn begins_or_ends(interpreter: &mut Interpreter<'_>, text: &str, name: &str, given: Given) -> Answer {
    let [parts, start, stop] = given.bind(name, ["prefix", "start", "end"])?;
    let parts = match required(parts, name, "prefix")? {
        Value::Tuple(items) => items.to_vec(),
        part => vec![part],
    };
    interpreter.charge_items(parts.len())?;
    let length = text.chars().count();
    let range = bounds(start, stop, length)?;
    if range.start > range.end {
        return Ok(Value::Bool(false));
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    let searched = if range == (0..length) { text } else { &text[byte(range.start)..byte(range.end)] };
    for part in parts {
        let part = text_of(Some(part), name)?;
        if if name == "startswith" { searched.starts_with(&*part) } else { searched.ends_with(&*part) } {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn replace(interpreter: &mut Interpreter<'_>, owner: &Value, text: &str, given: Given) -> Answer {
    let [old, new, times] = given.bind("replace", ["old", "new", "count"])?;
    let (old, new) = (text_of(old, "replace")?, text_of(new, "replace")?);
    let times = times.map_or(Ok(-1), |times| integer(&times))?;
    let replaced = replaced(interpreter, text, &old, &new, usize::try_from(times).ok())?;
    interpreter.like(owner, replaced)
}

/// A text with another for some part, at most so many times.
pub fn replaced(
    interpreter: &mut Interpreter<'_>,
    text: &str,
    old: &str,
    new: &str,
    times: Option<usize>,
) -> Result<String, String> {
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let places = times.map_or(places, |times| times.min(places));
    interpreter.charge_text(text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, places))
}

fn pad(interpreter: &mut Interpreter<'_>, owner: &Value, text: &str, name: &str, given: Given) -> Answer {
    let [width, fill] = given.bind(name, ["width", "fillchar"])?;
    let width = usize::try_from(integer(&required(width, name, "width")?)?).unwrap_or(0);
    interpreter.charge_text(text.len().saturating_add(width.saturating_mul(4)))?;
    if name == "zfill" {
        let sign = text.chars().next().filter(|sign| matches!(sign, '-' | '+'));
        let digits = &text[usize::from(sign.is_some())..];
        let padded = text::padded(digits, width.saturating_sub(usize::from(sign.is_some())), '0', Side::Left);
        return interpreter.like(owner, sign.map(String::from).unwrap_or_default() + &padded);
    }
    let fill = match fill {
        None => ' ',
        fill => {
            let fill = text_of(fill, name)?;
            let mut signs = fill.chars();
            match (signs.next(), signs.next()) {
                (Some(sign), None) => sign,
                _ => return Err("The fill character must be exactly one character long".to_owned()),
            }
        }
    };
    let side = match name {
        "center" => Side::Both,
        "ljust" => Side::Right,
        _ => Side::Left,
    };
    interpreter.like(owner, text::padded(text, width, fill, side))
}

/// The questions that texts answer.
fn asks(text: &str, name: &str) -> bool {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let has_case = || text.chars().any(text::is_cased);
    let superscript =
        |character: char| matches!(character, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨');
    match name {
        "isalnum" => all(char::is_alphanumeric),
        // Numbers with the form of letters are no letters: `char::is_alphabetic` has circled letters and
        // Roman numbers.
        "isalpha" => all(|character| character.is_alphabetic() && !character.is_numeric()),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => {
            !text.is_empty() && text.chars().all(|character| is_decimal(character) || superscript(character))
        }
        "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            let word = |character: char| character.is_alphanumeric() || character == '_';
            !text.is_empty() && text.chars().all(word) && !text.starts_with(char::is_numeric)
        }
        "islower" => has_case() && !text.chars().any(char::is_uppercase),
        "isupper" => has_case() && !text.chars().any(char::is_lowercase),
        "isprintable" => text.chars().all(print::is_printable),
        "isspace" => all(is_space),
        _ => is_titled(text),
    }
}

/// Digits of the scripts: those of one block of ten each.
fn is_decimal(character: char) -> bool {
    const ZEROS: [char; 12] = ['0', '٠', '۰', '߀', '०', '০', '੦', '૦', '୦', '௦', '๐', '０'];
    ZEROS.iter().any(|&zero| (u32::from(zero)..u32::from(zero) + 10).contains(&u32::from(character)))
}

fn is_titled(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for character in text.chars() {
        let upper = character.is_uppercase();
        if upper && inside || character.is_lowercase() && !inside {
            return false;
        }
        inside = text::is_cased(character);
        any |= inside;
    }
    any
}
