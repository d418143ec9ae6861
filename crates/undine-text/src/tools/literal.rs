//! Values as models write them: Python literals and JSON, in one grammar that takes both.
//!
//! Strings in either quote (or three of them) with the escapes of both languages and raw control characters,
//! numbers (see `number`), `True`/`true`, `None`/`null`, lists, tuples, dicts; nested, with white space and
//! line breaks anywhere.

use super::number;

/// Values within values: what JSON readers commonly allow.
pub const VALUE_DEPTH_MAX: usize = 128;

/// A value, and how it was spelled.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    pub literal: Literal,
    /// The text it was read from.
    pub text: String,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Literal {
    Null,
    Bool(bool),
    /// In JSON spelling.
    Number(String),
    String(String),
    List(Vec<Value>),
    Dict(Vec<(String, Value)>),
}

/// The text is not what was expected at this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable;

pub type Read<T> = Result<T, Unreadable>;

/// Reads values from a text that is there as a whole.
pub struct Scanner<'a, 's> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// How many quotes the n-th string takes as text before one ends it: the repair of unescaped quotes.
    skips: &'s [usize],
    strings: usize,
}

impl<'a, 's> Scanner<'a, 's> {
    pub fn new(text: &'a str, skips: &'s [usize]) -> Self {
        Self { text, at: 0, depth: 0, skips, strings: 0 }
    }

    /// Strings begun so far.
    pub fn strings(&self) -> usize {
        self.strings
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    pub fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes `character` after white space, if it is next.
    pub fn take(&mut self, character: char) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(character);
        if found {
            self.at += character.len_utf8();
        }
        found
    }

    pub fn expect(&mut self, character: char) -> Read<()> {
        if self.take(character) { Ok(()) } else { Err(Unreadable) }
    }

    /// Takes the longest run of characters that fit; empty if the next one does not.
    pub fn take_run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|character| !fits(character)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    pub fn value(&mut self) -> Read<Value> {
        self.skip_space();
        let start = self.at;
        if self.depth == VALUE_DEPTH_MAX {
            return Err(Unreadable);
        }
        self.depth += 1;
        let literal = match self.rest().chars().next() {
            Some('"' | '\'') => Literal::String(self.string()?),
            Some('[') => Literal::List(self.list('[', ']')?),
            Some('(') => Literal::List(self.list('(', ')')?),
            Some('{') => Literal::Dict(self.dict()?),
            _ => self.word()?,
        };
        self.depth -= 1;
        Ok(Value { literal, text: self.text[start..self.at].to_owned() })
    }

    fn word(&mut self) -> Read<Literal> {
        let word = self.take_run(|character| character.is_ascii_alphanumeric() || "+-._".contains(character));
        match word {
            "True" | "true" => Ok(Literal::Bool(true)),
            "False" | "false" => Ok(Literal::Bool(false)),
            "None" | "null" => Ok(Literal::Null),
            _ => number::canonical(word).map(Literal::Number).ok_or(Unreadable),
        }
    }

    fn list(&mut self, open: char, close: char) -> Read<Vec<Value>> {
        self.expect(open)?;
        let mut values = Vec::new();
        while !self.take(close) {
            values.push(self.value()?);
            if !self.take(',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(values)
    }

    /// A dict; keys that are numbers or words become text, as `json.dumps` does it.
    pub fn dict(&mut self) -> Read<Vec<(String, Value)>> {
        self.expect('{')?;
        let mut entries: Vec<(String, Value)> = Vec::new();
        while !self.take('}') {
            let key = self.value()?;
            let key = match key.literal {
                Literal::String(key) | Literal::Number(key) => key,
                Literal::Bool(key) => key.to_string(),
                Literal::Null => "null".to_owned(),
                Literal::List(_) | Literal::Dict(_) => return Err(Unreadable),
            };
            self.expect(':')?;
            let value = self.value()?;
            // As in both languages, the last of two equal keys counts.
            match entries.iter_mut().find(|(other, _)| *other == key) {
                Some((_, other)) => *other = value,
                None => entries.push((key, value)),
            }
            if !self.take(',') {
                self.expect('}')?;
                break;
            }
        }
        Ok(entries)
    }

    pub fn string(&mut self) -> Read<String> {
        let quote = self.rest().chars().next().filter(|quote| "\"'".contains(*quote)).ok_or(Unreadable)?;
        let mut skips = self.skips.get(self.strings).copied().unwrap_or(0);
        self.strings += 1;
        let triple = [quote; 3].iter().collect::<String>();
        // Without an end for the three, the first two are an empty string, or a repair.
        let close = match self.rest().strip_prefix(&triple) {
            Some(rest) if skips == 0 && rest.contains(&triple) => triple,
            _ => quote.to_string(),
        };
        self.at += close.len();
        let mut string = String::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(&close) {
                self.at += close.len();
                if skips == 0 {
                    return Ok(string);
                }
                skips -= 1;
                string.push_str(&close);
                continue;
            }
            let (unit, bytes) = next_unit(rest).ok_or(Unreadable)?;
            unit.push_to(&mut string);
            self.at += bytes;
        }
    }
}

/// What one character or one escape stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Char(char),
    /// An escaped line break joins the lines.
    Nothing,
    /// An escape that neither language knows stands for itself, backslash included.
    Unknown(char),
}

impl Unit {
    pub fn push_to(self, out: &mut String) {
        match self {
            Unit::Char(character) => out.push(character),
            Unit::Nothing => {}
            Unit::Unknown(character) => out.extend(['\\', character]),
        }
    }
}

/// The first character or escape within a string, and its bytes. `None` if the text ends before that is
/// certain.
pub fn next_unit(text: &str) -> Option<(Unit, usize)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    if first != '\\' {
        return Some((Unit::Char(first), first.len_utf8()));
    }
    let escape = characters.next()?;
    let simple = match escape {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        'a' => '\u{7}',
        '\\' | '"' | '\'' | '/' => escape,
        '\n' => return Some((Unit::Nothing, 2)),
        'x' => return code_point(text, 2),
        'u' => return utf16(text),
        'U' => return code_point(text, 8),
        '0'..='7' => return octal(text),
        _ => return Some((Unit::Unknown(escape), 1 + escape.len_utf8())),
    };
    Some((Unit::Char(simple), 2))
}

/// Up to `digits` hexadecimal digits after the two characters of the escape. `None` while more may come.
fn hex(text: &str, digits: usize) -> Option<Result<u32, ()>> {
    let found = text.get(2..).unwrap_or("");
    let run = found.bytes().take(digits).take_while(u8::is_ascii_hexdigit).count();
    if run < digits {
        return if run == found.len() { None } else { Some(Err(())) };
    }
    Some(u32::from_str_radix(&found[..digits], 16).map_err(|_| ()))
}

fn unknown(text: &str) -> Option<(Unit, usize)> {
    text.chars().nth(1).map(|escape| (Unit::Unknown(escape), 1 + escape.len_utf8()))
}

fn code_point(text: &str, digits: usize) -> Option<(Unit, usize)> {
    match hex(text, digits)? {
        Ok(code) => {
            let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            Some((Unit::Char(character), 2 + digits))
        }
        Err(()) => unknown(text),
    }
}

/// `\uXXXX`, or two of them for a character beyond U+FFFF. Half of such a pair becomes U+FFFD.
fn utf16(text: &str) -> Option<(Unit, usize)> {
    const BYTES: usize = 6;
    let Ok(high) = hex(text, 4)? else { return unknown(text) };
    if !(0xd800..0xdc00).contains(&high) {
        return code_point(text, 4);
    }
    let after = &text[BYTES..];
    let alone = Some((Unit::Char(char::REPLACEMENT_CHARACTER), BYTES));
    if !after.starts_with("\\u") {
        return if "\\u".starts_with(after) { None } else { alone };
    }
    let Ok(low) = hex(after, 4)? else { return alone };
    if !(0xdc00..0xe000).contains(&low) {
        return alone;
    }
    let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    Some((Unit::Char(char::from_u32(code)?), 2 * BYTES))
}

/// `\0` to `\777`, as in Python.
fn octal(text: &str) -> Option<(Unit, usize)> {
    const DIGITS: usize = 3;
    let digits = text[1..].bytes().take(DIGITS).take_while(|digit| (b'0'..b'8').contains(digit)).count();
    if digits < DIGITS && 1 + digits == text.len() {
        return None;
    }
    let code = u32::from_str_radix(&text[1..=digits], 8).ok()?;
    Some((Unit::Char(char::from_u32(code)?), 1 + digits))
}
