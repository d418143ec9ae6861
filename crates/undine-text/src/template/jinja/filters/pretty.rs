//! `pprint`: values in lines of at most 80 characters, as Python's module of that name breaks them.

use super::super::calls::Given;
use super::super::eval::{Interpreter, Stop};
use super::super::print;
use super::super::value::Value;
use super::lists::in_order;

/// Characters of a line.
const WIDTH: usize = 80;

pub fn pprint(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Result<Value, Stop> {
    given.none("pprint")?;
    let mut out = String::new();
    push(value, 0, 0, &mut out)?;
    interpreter.charge_text(out.len())?;
    Ok(Value::text(out))
}

/// Bytes of a line that is surely too long.
const LONG: usize = 8 * WIDTH;

/// Its text in one line, dicts in the order of their keys; lists and dicts end where it is too long.
fn flat(value: &Value, out: &mut String) -> Result<(), String> {
    match value {
        Value::Dict(dict) => {
            out.push('{');
            for (index, (key, value)) in in_order(dict).iter().enumerate() {
                if out.len() > LONG {
                    break;
                }
                out.push_str(if index > 0 { ", " } else { "" });
                flat(key, out)?;
                out.push_str(": ");
                flat(value, out)?;
            }
            out.push('}');
        }
        Value::List(items) | Value::Tuple(items) => {
            let (open, close) = match (value, items.len()) {
                (Value::List(_), _) => ("[", "]"),
                (_, 1) => ("(", ",)"),
                _ => ("(", ")"),
            };
            out.push_str(open);
            for (index, item) in items.iter().enumerate() {
                if out.len() > LONG {
                    break;
                }
                out.push_str(if index > 0 { ", " } else { "" });
                flat(item, out)?;
            }
            out.push_str(close);
        }
        value => out.push_str(&print::repr(value)?),
    }
    print::check_length(out)
}

/// Appends a value whose first line begins at `indent`; `after` characters follow its last line.
fn push(value: &Value, indent: usize, after: usize, out: &mut String) -> Result<(), String> {
    print::check_length(out)?;
    let mut line = String::new();
    flat(value, &mut line)?;
    if line.chars().count() + indent + after <= WIDTH {
        out.push_str(&line);
        return Ok(());
    }
    let inner = indent + 1;
    let separate = |index: usize, out: &mut String| {
        if index > 0 {
            out.push_str(",\n");
            out.extend(std::iter::repeat_n(' ', inner));
        }
    };
    match value {
        Value::Dict(dict) if !dict.map.is_empty() => {
            let pairs = in_order(dict);
            out.push('{');
            for (index, (key, value)) in pairs.iter().enumerate() {
                separate(index, out);
                let mut name = String::new();
                flat(key, &mut name)?;
                out.push_str(&name);
                out.push_str(": ");
                let last = index + 1 == pairs.len();
                push(value, inner + name.chars().count() + 2, if last { after + 1 } else { 1 }, out)?;
            }
            out.push('}');
        }
        Value::List(items) | Value::Tuple(items) if !items.is_empty() => {
            let (open, close) = match (value, items.len()) {
                (Value::List(_), _) => ('[', "]"),
                (_, 1) => ('(', ",)"),
                _ => ('(', ")"),
            };
            out.push(open);
            for (index, item) in items.iter().enumerate() {
                separate(index, out);
                let last = index + 1 == items.len();
                push(item, inner, if last { after + close.len() } else { 1 }, out)?;
            }
            out.push_str(close);
        }
        Value::Text(text) if text.chars().count() > 1 => push_text(text, indent, after, out),
        _ => out.push_str(&line),
    }
    Ok(())
}

/// A long text as several, which Python reads as one.
fn push_text(text: &str, indent: usize, after: usize, out: &mut String) {
    let quoted = |text: &str| {
        let mut out = String::new();
        print::push_quoted(text, &mut out);
        out
    };
    let outermost = indent == 0;
    let (indent, after) = if outermost { (1, after + 1) } else { (indent, after) };
    let room = WIDTH.saturating_sub(indent);
    let mut parts: Vec<String> = Vec::new();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let whole = quoted(line);
        let last = index + 1 == lines.len();
        let room_here = if last { room.saturating_sub(after) } else { room };
        if whole.chars().count() <= room_here {
            parts.push(whole);
            continue;
        }
        let words: Vec<&str> = words_with_spaces(line);
        let mut current = String::new();
        for (at, word) in words.iter().enumerate() {
            let candidate = format!("{current}{word}");
            let ends = last && at + 1 == words.len();
            let room_here = if ends { room.saturating_sub(after) } else { room };
            if quoted(&candidate).chars().count() > room_here {
                if !current.is_empty() {
                    parts.push(quoted(&current));
                }
                (*word).clone_into(&mut current);
            } else {
                current = candidate;
            }
        }
        if !current.is_empty() {
            parts.push(quoted(&current));
        }
    }
    let [first, rest @ ..] = &*parts else { return };
    if rest.is_empty() {
        return out.push_str(first);
    }
    out.push_str(if outermost { "(" } else { "" });
    out.push_str(first);
    for part in rest {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str(part);
    }
    out.push_str(if outermost { ")" } else { "" });
}

/// Words, each with the spaces after it.
fn words_with_spaces(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let end = word + rest[word..].find(|next: char| !next.is_whitespace()).unwrap_or(rest.len() - word);
        let (now, later) = rest.split_at(end);
        words.push(now);
        rest = later;
    }
    words
}
