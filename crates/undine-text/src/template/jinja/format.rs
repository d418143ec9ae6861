//! `'%s' % x` and `'{}'.format(x)`.

use std::sync::Arc;

use super::calls::Given;
use super::eval::Interpreter;
use super::number::{self, Num};
use super::print;
use super::spec::{self, Spec};
use super::value::Value;

/// `text % values`.
pub fn percent(text: &str, values: &Value) -> Result<String, String> {
    let mut given = match values {
        Value::Tuple(items) => items.iter().cloned().collect::<Vec<Value>>(),
        value => vec![value.clone()],
    }
    .into_iter();
    let mut named = false;
    let mut out = String::new();
    let mut rest = text;
    let short = || "not enough arguments for format string".to_owned();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        print::check_length(&out)?;
        rest = &rest[at + 1..];
        let mut value = None;
        if let Some(after) = rest.strip_prefix('(') {
            let (key, after) = after.split_once(')').ok_or("incomplete format key")?;
            let Value::Dict(dict) = values else { return Err("format requires a mapping".to_owned()) };
            value = Some(dict.get(key).cloned().ok_or_else(|| format!("KeyError: '{key}'"))?);
            named = true;
            rest = after;
        }
        let mut spec = Spec::default();
        let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
        for flag in rest[..flags].chars() {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = '+',
                ' ' if spec.sign != '+' => spec.sign = ' ',
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => {}
            }
        }
        rest = &rest[flags..];
        let mut width = |rest: &mut &str| -> Result<Option<usize>, String> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                let number = super::methods::integer(&given.next().ok_or_else(short)?)?;
                return spec::size(number).map(Some);
            }
            spec::digits(rest)
        };
        spec.width = width(&mut rest)?.unwrap_or(0);
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(width(&mut rest)?.unwrap_or(0));
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let kind = rest.chars().next().ok_or("incomplete format")?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => given.next().ok_or_else(short)?,
        };
        one(kind, spec, &value, &mut out)?;
    }
    out.push_str(rest);
    if !named && given.next().is_some() && !matches!(values, Value::Dict(_)) {
        return Err("not all arguments converted during string formatting".to_owned());
    }
    Ok(out)
}

fn one(kind: char, mut spec: Spec, value: &Value, out: &mut String) -> Result<(), String> {
    let right = spec.align.is_none();
    if spec.align == Some('<') {
        spec.zero = false;
    }
    match kind {
        's' | 'r' | 'a' => {
            let text = match kind {
                's' => print::string(value)?,
                'r' => print::repr(value)?,
                _ => print::ascii(value)?,
            };
            spec.zero = false;
            spec.align = Some(if right { '>' } else { '<' });
            spec::push_text(&text, &spec, out)
        }
        'c' => {
            let text = match value {
                Value::Int(code) => u32::try_from(*code).ok().and_then(char::from_u32).map(String::from),
                value => {
                    value.as_text().filter(|text| text.chars().count() == 1).map(|text| text.to_string())
                }
            };
            let text = text.ok_or("%c requires int or char")?;
            spec.zero = false;
            spec.align = Some(if right { '>' } else { '<' });
            spec.precision = None;
            spec::push_text(&text, &spec, out)
        }
        'd' | 'i' | 'u' => {
            let number = print::number(value).map_err(|_| wrong(kind, value))?;
            let number = match number {
                Num::Float(float) => number::truncated(float)?,
                number => number,
            };
            spec.kind = Some('d');
            spec::push_number(&number, &spec, out)
        }
        'o' | 'x' | 'X' => match print::number(value) {
            Ok(number @ (Num::Int(_) | Num::Big(_))) => {
                spec.kind = Some(kind);
                spec::push_number(&number, &spec, out)
            }
            _ => Err(format!("%{kind} format: an integer is required, not {}", value.type_name())),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = print::number(value).map_err(|_| match value {
                Value::Undefined(missing) => missing.message(),
                _ => format!("must be real number, not {}", value.type_name()),
            })?;
            spec.kind = Some(kind);
            spec::push_number(&Num::Float(number.float()), &spec, out)
        }
        _ => Err(format!("unsupported format character '{kind}'")),
    }
}

fn wrong(kind: char, value: &Value) -> String {
    match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("%{kind} format: a real number is required, not {}", value.type_name()),
    }
}

/// `text.format(…)`.
pub fn braces(interpreter: &mut Interpreter<'_>, text: &str, given: &Given) -> Result<String, String> {
    let mut out = String::new();
    let mut next = 0;
    fields(interpreter, text, given, &mut next, 0, &mut out)?;
    Ok(out)
}

/// Levels of braces: a width may be a field itself.
const NESTING_MAX: usize = 2;

fn fields(
    interpreter: &mut Interpreter<'_>,
    text: &str,
    given: &Given,
    next: &mut usize,
    level: usize,
    out: &mut String,
) -> Result<(), String> {
    if level > NESTING_MAX {
        return Err("Max string recursion exceeded".to_owned());
    }
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        interpreter.charge(1)?;
        print::check_length(out)?;
        let sign = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(sign) {
            out.push_str(sign);
            rest = after;
            continue;
        }
        if sign == "}" {
            return Err("Single '}' encountered in format string".to_owned());
        }
        let mut open = 1;
        let end = rest.char_indices().find_map(|(at, character)| {
            open += match character {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            (open == 0).then_some(at)
        });
        let end = end.ok_or("expected '}' before end of string")?;
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = match name.split_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (name, None),
        };
        let mut value = field_value(interpreter, name, given, next)?;
        value = match conversion {
            None => value,
            Some("s") => Value::text(print::string(&value)?),
            Some("r") => Value::text(print::repr(&value)?),
            Some("a") => Value::text(print::ascii(&value)?),
            Some(other) => return Err(format!("Unknown conversion specifier '{other}'")),
        };
        let mut full = String::new();
        fields(interpreter, spec, given, next, level + 1, &mut full)?;
        spec::push_formatted(&value, &full, out)?;
    }
    out.push_str(rest);
    Ok(())
}

/// The value that a field such as `0.name[key]` names.
fn field_value(
    interpreter: &mut Interpreter<'_>,
    field: &str,
    given: &Given,
    next: &mut usize,
) -> Result<Value, String> {
    let end = field.find(['.', '[']).unwrap_or(field.len());
    let (name, mut rest) = field.split_at(end);
    let place = if name.is_empty() {
        *next += 1;
        Some(*next - 1)
    } else {
        name.parse::<usize>().ok()
    };
    let mut value = match place {
        Some(place) => given
            .positional
            .get(place)
            .cloned()
            .ok_or_else(|| format!("Replacement index {place} out of range for positional args tuple"))?,
        None => {
            let found = given.named.iter().find(|(known, _)| **known == *name);
            found.map(|(_, value)| value.clone()).ok_or_else(|| format!("KeyError: '{name}'"))?
        }
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let name: Arc<str> = after[..end].into();
            value = interpreter.attribute(&value, &name)?;
            rest = &after[end..];
        } else {
            let (key, after) = rest[1..].split_once(']').ok_or("Missing ']' in format string")?;
            let key = key.parse::<i64>().map_or_else(|_| Value::text(key), Value::Int);
            value = interpreter.item(&value, &key)?;
            rest = after;
        }
    }
    Ok(value)
}
