//! Calls without the model's own markers: which texts could be such, seen from their beginnings, and which
//! are.
//!
//! Invariant: a text that could be calls is held back; as soon as it could not, it is content like any other.
//! So JSON that is no call is delayed until its first key or name shows it.

use super::ToolSet;
use super::call::{self, Call, Within};

/// What other models put around a call.
pub const TAG: &str = "<tool_call>";
/// See [`TAG`].
pub const TAG_END: &str = "</tool_call>";
/// What opens and closes a block of code.
const FENCE: &str = "```";
/// Longest name of a language after it, in bytes.
const LANGUAGE_BYTES_MAX: usize = 16;
/// The keys of a call as JSON.
const KEYS: [&str; 5] = ["name", "type", "function", "arguments", "parameters"];

/// Those of the object under "function".
const INNER_KEYS: [&str; 3] = ["name", "arguments", "parameters"];

/// Whether a text is the beginning of one that [`read`] takes.
pub fn could_be(text: &str, set: &ToolSet) -> bool {
    let text = text.trim_start();
    if let Some(rest) = text.strip_prefix(FENCE) {
        let language = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        return language <= LANGUAGE_BYTES_MAX && could_be_list(&rest[language..], set);
    }
    FENCE.starts_with(text) || could_be_list(text, set)
}

/// The same, without a fence.
pub fn could_be_list(text: &str, set: &ToolSet) -> bool {
    let text = text.trim_start();
    let inside = text.strip_prefix('[').unwrap_or(text).trim_start();
    match inside.strip_prefix('{') {
        Some(object) => could_be_object(object, set, &KEYS),
        None if text.is_empty() || inside.is_empty() => true,
        // Other brackets are calls as LFM2 models write them.
        None => text.starts_with('[') && could_be_named(inside, set),
    }
}

/// Whether a text is the beginning of a declared name and its parenthesis.
fn could_be_named(text: &str, set: &ToolSet) -> bool {
    let (name, rest) = text.split_at(text.find(|c| !call::is_name_char(c)).unwrap_or(text.len()));
    match rest.trim_start().chars().next() {
        None if rest.is_empty() => is_beginning(name, set),
        None => set.get(name).is_some(),
        Some(next) => next == '(' && set.get(name).is_some(),
    }
}

fn is_beginning(name: &str, set: &ToolSet) -> bool {
    set.tools().iter().any(|tool| tool.name().starts_with(name))
}

/// After the brace of an object: its first keys, up to the one that decides, each of which is one of `keys`.
fn could_be_object(text: &str, set: &ToolSet, keys: &[&str]) -> bool {
    let mut text = text.trim_start();
    loop {
        let Some(rest) = text.strip_prefix('"') else { return text.is_empty() };
        let Some((key, rest)) = rest.split_once('"') else {
            return keys.iter().any(|key| key.starts_with(rest));
        };
        let rest = rest.trim_start();
        if !keys.contains(&key) {
            return false;
        }
        let Some(value) = rest.strip_prefix(':').map(str::trim_start) else { return rest.is_empty() };
        let string = value.strip_prefix('"').map(|text| text.split_once('"').ok_or(text));
        match (key, string) {
            ("name" | "type", None) => return value.is_empty(),
            ("name", Some(Ok((name, _)))) => return set.get(name).is_some(),
            ("name", Some(Err(name))) => return is_beginning(name, set),
            ("type", Some(Err(kind))) => return "function".starts_with(kind),
            ("type", Some(Ok(("function", rest)))) => match rest.trim_start().strip_prefix(',') {
                Some(rest) => text = rest.trim_start(),
                None => return rest.trim_start().is_empty(),
            },
            ("type", Some(Ok(_))) => return false,
            ("function", None) => {
                return value.is_empty()
                    || value
                        .strip_prefix('{')
                        .is_some_and(|object| could_be_object(object, set, &INNER_KEYS));
            }
            ("arguments" | "parameters", None) => return value.is_empty() || value.starts_with('{'),
            _ => return false,
        }
    }
}

/// The texts of the lists of calls that a text consists of, if every name in them is declared.
pub fn read<'a>(text: &'a str, set: &ToolSet) -> Option<Vec<&'a str>> {
    let text = unfenced(text.trim())?;
    let whole = |text| call::read_calls(text, Within::List).filter(|calls| are_declared(calls, set));
    if whole(text).is_some() {
        return Some(vec![text]);
    }
    // One object a line.
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let all = lines.len() > 1 && lines.iter().all(|line| line.starts_with('{') && whole(line).is_some());
    all.then_some(lines)
}

/// What is known of a text that was cut, to be read as the beginning of calls.
pub fn opened(text: &str) -> &str {
    let text = text.trim_start();
    match text.strip_prefix(FENCE) {
        Some(rest) => rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').trim_start(),
        None => text,
    }
}

fn are_declared(calls: &[Call], set: &ToolSet) -> bool {
    calls.iter().all(|call| set.get(&call.name).is_some())
}

/// Without a fence around it; `None` if it is not closed.
fn unfenced(text: &str) -> Option<&str> {
    match text.strip_prefix(FENCE) {
        Some(_) => Some(opened(text.strip_suffix(FENCE)?).trim_end()),
        None => Some(text),
    }
}
