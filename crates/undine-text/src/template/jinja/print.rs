//! Values as text: Python's `str` and `repr`.

use std::fmt::Write;

use super::number::{self, Num};
use super::value::{Object, Value, View};

/// Levels that a text of a value may show; values cannot have more, namespaces can hold themselves.
const DEPTH_MAX: usize = 300;
/// Bytes that one value may become.
pub const BYTES_MAX: usize = super::super::RENDERED_BYTES_MAX;

/// Refuses a text that has grown too long.
pub fn check_length(text: &str) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        Err(format!("a text would be longer than {BYTES_MAX} bytes"))
    } else {
        Ok(())
    }
}

/// `str(value)`, appended.
pub fn push_str(value: &Value, out: &mut String) -> Result<(), String> {
    match value {
        Value::Undefined(_) => Ok(()),
        Value::Text(text) | Value::Markup(text) => {
            out.push_str(text);
            Ok(())
        }
        _ => push_repr(value, out, 0),
    }
}

pub fn string(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    push_str(value, &mut out)?;
    Ok(out)
}

pub fn repr(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    push_repr(value, &mut out, 0)?;
    Ok(out)
}

fn push_repr(value: &Value, out: &mut String, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX || out.len() > BYTES_MAX {
        return Err("a value is too large to be written".to_owned());
    }
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Int(number) => write!(out, "{number}").expect("a String takes everything"),
        Value::Big(number) => write!(out, "{number}").expect("a String takes everything"),
        Value::Float(number) => number::push_float(*number, out),
        Value::Text(text) => push_quoted(text, out),
        Value::Markup(text) => {
            out.push_str("Markup(");
            push_quoted(text, out);
            out.push(')');
        }
        Value::List(items) => push_items(["[", "]"], items.iter(), out, depth)?,
        Value::Tuple(items) if items.len() == 1 => push_items(["(", ",)"], items.iter(), out, depth)?,
        Value::Tuple(items) => push_items(["(", ")"], items.iter(), out, depth)?,
        Value::Dict(dict) => {
            let pairs = dict.map.iter().map(|(key, value)| (&key.0, value));
            push_pairs(pairs, out, depth)?;
        }
        Value::Object(object) => push_object(object, out, depth)?,
    }
    Ok(())
}

fn push_items<'v>(
    [open, close]: [&str; 2],
    items: impl Iterator<Item = &'v Value>,
    out: &mut String,
    depth: usize,
) -> Result<(), String> {
    out.push_str(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        push_repr(item, out, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

fn push_pairs<'v>(
    pairs: impl Iterator<Item = (&'v Value, &'v Value)>,
    out: &mut String,
    depth: usize,
) -> Result<(), String> {
    out.push('{');
    for (index, (key, value)) in pairs.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        push_repr(key, out, depth + 1)?;
        out.push_str(": ");
        push_repr(value, out, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

/// What Python writes with an address has none here.
fn push_object(object: &Object, out: &mut String, depth: usize) -> Result<(), String> {
    let sure = "a String takes everything";
    match object {
        Object::Range { start, stop, step: 1 } => write!(out, "range({start}, {stop})").expect(sure),
        Object::Range { start, stop, step } => write!(out, "range({start}, {stop}, {step})").expect(sure),
        Object::View(View::Keys, dict) => {
            push_items(["dict_keys([", "])"], dict.map.keys().map(|key| &key.0), out, depth)?;
        }
        Object::View(View::Values, dict) => {
            push_items(["dict_values([", "])"], dict.map.values(), out, depth)?;
        }
        Object::View(View::Items, dict) => {
            out.push_str("dict_items([");
            for (index, (key, value)) in dict.map.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                push_items(["(", ")"], [&key.0, value].into_iter(), out, depth + 1)?;
            }
            out.push_str("])");
        }
        Object::Stream(_, name, _) => write!(out, "<{name} object>").expect(sure),
        Object::Namespace(fields) => {
            out.push_str("<Namespace ");
            let fields: Vec<_> = fields
                .borrow()
                .iter()
                .map(|(name, value)| (Value::Text(name.clone()), value.clone()))
                .collect();
            push_pairs(fields.iter().map(|(name, value)| (name, value)), out, depth + 1)?;
            out.push('>');
        }
        Object::Cycler { .. } => out.push_str("<jinja2.utils.Cycler object>"),
        Object::Joiner { .. } => out.push_str("<jinja2.utils.Joiner object>"),
        Object::Macro(block, _) => {
            out.push_str("<Macro ");
            push_quoted(&block.name, out);
            out.push('>');
        }
        Object::Loop(state) => {
            write!(out, "<LoopContext {}/{}>", state.index(), state.items.len()).expect(sure);
        }
        Object::Method(value, name) => {
            write!(out, "<built-in method {name} of {} object>", value.type_name()).expect(sure);
        }
        Object::Function(function) => write!(out, "<function {}>", function.name()).expect(sure),
    }
    Ok(())
}

/// A text in Python's quotes: single ones unless only they occur in it.
pub fn push_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == quote => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ if is_printable(character) => out.push(character),
            _ => {
                let code = u32::from(character);
                let escaped = match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                out.push_str(&escaped);
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable` of one character. The library escapes the same ones, and signs that combine
/// where they come first.
pub fn is_printable(character: char) -> bool {
    let mut text = [0; 5];
    text[0] = b'x';
    let length = character.encode_utf8(&mut text[1..]).len();
    let text = std::str::from_utf8(&text[..=length]).expect("made of characters");
    matches!(character, '\\' | '\'' | '"') || text.escape_debug().nth(1) != Some('\\')
}

/// `ascii(value)`: the same with other characters escaped too.
pub fn ascii(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    for character in repr(value)?.chars() {
        match u32::from(character) {
            0..=0x7f => out.push(character),
            code @ 0x80..=0xff => write!(out, "\\x{code:02x}").expect("a String takes everything"),
            code @ 0x100..=0xffff => write!(out, "\\u{code:04x}").expect("a String takes everything"),
            code => write!(out, "\\U{code:08x}").expect("a String takes everything"),
        }
    }
    Ok(out)
}

/// Whether a value is a number, and which.
pub fn number(value: &Value) -> Result<Num, String> {
    Num::of(value).ok_or_else(|| match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("a number is required, not {}", value.type_name()),
    })
}
