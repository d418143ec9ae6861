//! Calls of a text that ends in the middle: what is open is closed, after the last part that is whole.

use super::call::{Call, Within, attempt};
use super::literal::{Literal, Scanner, Value};

/// Places to cut a text at that are tried.
const TRIES_MAX: usize = 64;

/// What was open at the end of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Nothing but the list.
    Nothing,
    /// The last call.
    Call,
    /// The text of the last argument of the last call.
    Text,
}

/// Calls, and how the last one ends.
#[derive(Clone, PartialEq, Debug)]
pub struct Cut {
    pub calls: Vec<Call>,
    pub open: Open,
    /// What closes the last argument in JSON, if that is a list or an object that was open.
    pub closers: String,
}

/// A place at which the text could be cut, and what closes it there.
struct Candidate {
    end: usize,
    closers: String,
    open: Open,
    /// Brackets among the closers that close the list and the call.
    around: usize,
}

impl Candidate {
    /// The closers of what is within the last argument, as JSON has them.
    fn inner(&self) -> String {
        let inner = self.closers.chars().count().saturating_sub(self.around);
        let in_json = |closer| match closer {
            ')' => ']',
            '\'' => '"',
            other => other,
        };
        self.closers.chars().take(inner).map(in_json).collect()
    }
}

/// The longest beginning of a list or an object that can be closed, and what closes it in JSON.
pub fn read_value(text: &str) -> Option<(Value, String)> {
    candidates(text, Within::Item).into_iter().rev().take(TRIES_MAX).find_map(|candidate| {
        let closed = format!("{}{}", &text[..candidate.end], candidate.closers);
        let mut scanner = Scanner::new(&closed, &[]);
        let value = scanner.value().ok().filter(|_| scanner.rest().is_empty())?;
        let is_deep = matches!(value.literal, Literal::List(_) | Literal::Dict(_));
        is_deep.then(|| (value, Candidate { around: 0, ..candidate }.inner()))
    })
}

/// Reads the longest beginning that can be closed, if its last call has a name that is known.
pub fn read(text: &str, within: Within, knows: impl Fn(&str) -> bool) -> Option<Cut> {
    candidates(text, within).into_iter().rev().take(TRIES_MAX).find_map(|candidate| {
        let Candidate { end, ref closers, open, .. } = candidate;
        let calls = attempt(&format!("{}{closers}", &text[..end]), within, &[]).0?;
        let is_known = calls.last().is_some_and(|call| open == Open::Nothing || knows(&call.name));
        is_known.then(|| Cut { calls, open, closers: candidate.inner() })
    })
}

/// In order of the text.
fn candidates(text: &str, within: Within) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut closers: Vec<char> = if within == Within::Arguments { vec![')'] } else { Vec::new() };
    // Brackets that are open when nothing but the list is.
    let of_list = usize::from(within == Within::List && text.trim_start().starts_with('['));
    // Deeper brackets are part of a value.
    let is_json = within != Within::Arguments && text.trim_start_matches(['[', ' ', '\n']).starts_with('{');
    let around = of_list + if is_json { 2 } else { 1 };
    let mut string: Option<(char, usize)> = None;
    let mut escape = None;
    for (at, character) in text.char_indices() {
        if let Some((quote, _)) = string {
            match escape.take() {
                Some(_) => {}
                None if character == '\\' => escape = Some(at),
                None if character == quote => string = None,
                None => {}
            }
            continue;
        }
        let state = |closers: &[char]| if closers.len() > of_list { Open::Call } else { Open::Nothing };
        match character {
            '"' | '\'' => string = Some((character, at)),
            '(' | '[' | '{' => {
                closers.push(match character {
                    '(' => ')',
                    '[' => ']',
                    _ => '}',
                });
                found.push(Candidate {
                    end: at + 1,
                    closers: closing(&closers),
                    open: state(&closers),
                    around,
                });
            }
            ',' => {
                found.push(Candidate { end: at, closers: closing(&closers), open: state(&closers), around })
            }
            ')' | ']' | '}' => {
                closers.pop();
                found.push(Candidate {
                    end: at + 1,
                    closers: closing(&closers),
                    open: state(&closers),
                    around,
                });
            }
            _ => {}
        }
    }
    if let Some((quote, _)) = string {
        let end = escape.unwrap_or(text.len());
        let open = if closers.len() == around { Open::Text } else { Open::Call };
        found.push(Candidate { end, closers: format!("{quote}{}", closing(&closers)), open, around });
    }
    found
}

fn closing(closers: &[char]) -> String {
    closers.iter().rev().collect()
}
