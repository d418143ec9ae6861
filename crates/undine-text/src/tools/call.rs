//! Calls in a text that is there as a whole: Pythonic lists, the JSON variant, and the repair of unescaped
//! quotes.

use super::literal::{Literal, Read, Scanner, Unreadable, Value};

/// Ways to read a damaged list that are tried before it is given up.
const REPAIRS_MAX: usize = 2000;
/// Bytes of a damaged list: a longer one is not repaired.
const REPAIR_BYTES_MAX: usize = 64 * 1024;

/// A call as written.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    pub name: String,
    pub arguments: Vec<Argument>,
}

/// An argument as written; without a name it is meant by its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Argument {
    pub name: Option<String>,
    pub value: Value,
}

/// Where a text begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Within {
    /// At the list, its bracket included.
    List,
    /// After the bracket or a comma, before a call.
    Item,
    /// After the parenthesis of a call or one of its commas. The call is read as one without a name.
    Arguments,
}

/// Whether a name of a call or an argument may have it. Wider than Python: hyphens, dots, slashes and colons
/// come with the names of tools, and reserved words are names like others.
pub fn is_name_char(character: char) -> bool {
    character.is_alphanumeric() || "_-.:/$@".contains(character)
}

/// Reads a list to the end of the text. If that fails: the one reading that takes the fewest quotes as text.
pub fn read_calls(text: &str, within: Within) -> Option<Vec<Call>> {
    let (calls, strings) = attempt(text, within, &[]);
    if calls.is_some() || text.len() > REPAIR_BYTES_MAX {
        return calls;
    }
    let mut tries = 0;
    // All ways with one quote more taken as text than in the round before; `strings` bounds what can matter.
    let mut round = vec![(Vec::new(), strings)];
    while !round.is_empty() {
        let mut next = Vec::new();
        let mut found = None;
        for (skips, strings) in round {
            // Only from the last changed string on, so that no way comes twice.
            for index in skips.len().saturating_sub(1)..strings {
                tries += 1;
                if tries > REPAIRS_MAX {
                    return None;
                }
                let mut changed: Vec<usize> = skips.clone();
                changed.resize(index + 1, 0);
                changed[index] += 1;
                let (calls, strings) = attempt(text, within, &changed);
                match (calls, &found) {
                    (Some(_), Some(_)) => return None,
                    (Some(calls), None) => found = Some(calls),
                    (None, _) => next.push((changed, strings)),
                }
            }
        }
        if found.is_some() {
            return found;
        }
        round = next;
    }
    None
}

/// One reading, and how many strings it began.
pub fn attempt(text: &str, within: Within, skips: &[usize]) -> (Option<Vec<Call>>, usize) {
    let mut scanner = Scanner::new(text, skips);
    let calls = read_list(&mut scanner, within).ok();
    let strings = scanner.strings();
    (calls, strings)
}

fn read_list(scanner: &mut Scanner<'_, '_>, within: Within) -> Read<Vec<Call>> {
    let mut calls = Vec::new();
    let bracket = within == Within::List && scanner.take('[');
    if within == Within::Arguments {
        calls.push(Call { name: String::new(), arguments: read_arguments(scanner)? });
        scanner.take(',');
    }
    loop {
        scanner.skip_space();
        if scanner.rest().is_empty() || scanner.rest().starts_with(']') {
            break;
        }
        calls.push(read_item(scanner)?);
        if !scanner.take(',') {
            break;
        }
    }
    // A list that was cut after its last call lacks only this.
    let closed = scanner.take(']');
    scanner.skip_space();
    let unopened = within == Within::List && !bracket;
    if !scanner.rest().is_empty() || calls.is_empty() || (closed && unopened) {
        return Err(Unreadable);
    }
    Ok(calls)
}

fn read_item(scanner: &mut Scanner<'_, '_>) -> Read<Call> {
    scanner.skip_space();
    if scanner.rest().starts_with('{') {
        return json_call(scanner.dict()?);
    }
    let name = scanner.take_run(is_name_char);
    if name.is_empty() {
        return Err(Unreadable);
    }
    scanner.expect('(')?;
    Ok(Call { name: name.to_owned(), arguments: read_arguments(scanner)? })
}

/// The arguments and the parenthesis that closes them.
fn read_arguments(scanner: &mut Scanner<'_, '_>) -> Read<Vec<Argument>> {
    let mut arguments = Vec::new();
    while !scanner.take(')') {
        let argument = read_argument(scanner)?;
        // Python takes none by place after one by name.
        if argument.name.is_none() && arguments.last().is_some_and(|last: &Argument| last.name.is_some()) {
            return Err(Unreadable);
        }
        arguments.push(argument);
        if !scanner.take(',') {
            scanner.expect(')')?;
            break;
        }
    }
    Ok(arguments)
}

/// `name=value`, `"any text"=value`, or a value alone.
pub fn read_argument(scanner: &mut Scanner<'_, '_>) -> Read<Argument> {
    let name = argument_name(scanner.rest());
    if let Some((name, bytes)) = name {
        scanner.advance(bytes);
        return Ok(Argument { name: Some(name), value: scanner.value()? });
    }
    Ok(Argument { name: None, value: scanner.value()? })
}

/// The name of the argument that a text begins with, and the bytes up to its value.
pub fn argument_name(text: &str) -> Option<(String, usize)> {
    let mut scanner = Scanner::new(text, &[]);
    scanner.skip_space();
    let quoted = scanner.rest().starts_with(['"', '\'']);
    let name = if quoted { scanner.string().ok()? } else { scanner.take_run(is_name_char).to_owned() };
    ((quoted || !name.is_empty()) && scanner.take('=')).then(|| (name, scanner.at()))
}

/// `{"name": .., "arguments": {..}}`, with "parameters" for "arguments", or all that under "function".
fn json_call(mut entries: Vec<(String, Value)>) -> Read<Call> {
    if let Some(index) =
        entries.iter().position(|(key, value)| key == "function" && matches!(value.literal, Literal::Dict(_)))
    {
        let Literal::Dict(inner) = entries.swap_remove(index).1.literal else { return Err(Unreadable) };
        entries = inner;
    }
    let mut name = None;
    let mut arguments = None;
    for (key, value) in entries {
        match (key.as_str(), value.literal) {
            ("name", Literal::String(text)) => name = Some(text),
            ("arguments" | "parameters", Literal::Dict(entries)) => arguments = Some(entries),
            ("arguments" | "parameters", Literal::String(text)) => {
                let mut inner = Scanner::new(&text, &[]);
                arguments = Some(inner.dict()?);
                inner.skip_space();
                if !inner.rest().is_empty() {
                    return Err(Unreadable);
                }
            }
            ("arguments" | "parameters", Literal::Null) => arguments = Some(Vec::new()),
            ("id" | "type", _) => {}
            _ => return Err(Unreadable),
        }
    }
    let name = name.filter(|name| !name.is_empty() && name.chars().all(is_name_char)).ok_or(Unreadable)?;
    let arguments = arguments.unwrap_or_default().into_iter();
    let arguments = arguments.map(|(name, value)| Argument { name: Some(name), value }).collect();
    Ok(Call { name, arguments })
}
