//! The text of a template as tokens, with the white space around tags as `trim_blocks` and `lstrip_blocks`
//! leave it.

use std::sync::Arc;

use num_bigint::BigInt;

use super::ast::Constant;
use super::number::{self, DIGITS_MAX};
use super::text::is_space;

#[derive(Clone, PartialEq, Debug)]
pub enum Token {
    Data(String),
    BlockBegin,
    BlockEnd,
    PrintBegin,
    PrintEnd,
    Name(Arc<str>),
    Text(String),
    Int(Number),
    Float(f64),
    Op(&'static str),
    End,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Number {
    Small(i64),
    Big(Arc<BigInt>),
}

impl Number {
    pub fn constant(self) -> Constant {
        match self {
            Self::Small(number) => Constant::Int(number),
            Self::Big(number) => Constant::Big(number),
        }
    }
}

/// The longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// Splits a template; an error says the line.
pub fn tokens(source: &str) -> Result<Vec<(Token, u32)>, String> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, line_starts: true, tokens: Vec::new() };
    lexer.root().map_err(|text| format!("line {}: {text}", lexer.line))?;
    let line = lexer.line;
    let mut tokens = lexer.tokens;
    tokens.push((Token::End, line));
    Ok(tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// What was read last ended with a line.
    line_starts: bool,
    tokens: Vec<(Token, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Block,
    Print,
    Comment,
    Raw,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    /// Goes over so many bytes.
    fn take(&mut self, bytes: usize) -> &'s str {
        let text = &self.source[self.at..self.at + bytes];
        self.at += bytes;
        self.line += text.bytes().filter(|&byte| byte == b'\n').count() as u32;
        self.line_starts = text.ends_with('\n');
        text
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    fn root(&mut self) -> Result<(), String> {
        loop {
            let rest = self.rest();
            let found = rest.match_indices('{').find_map(|(at, _)| {
                let tag = match rest.as_bytes().get(at + 1)? {
                    b'%' => Tag::Block,
                    b'{' => Tag::Print,
                    b'#' => Tag::Comment,
                    _ => return None,
                };
                Some((at, tag))
            });
            let Some((at, mut tag)) = found else {
                if !rest.is_empty() {
                    let text = self.take(rest.len());
                    self.push(Token::Data(text.to_owned()));
                }
                return Ok(());
            };
            let after = &rest[at + 2..];
            let mut begin = 2 + usize::from(after.starts_with(['-', '+']));
            if tag == Tag::Block
                && let Some(bytes) = raw_begin(&rest[at + begin..])
            {
                tag = Tag::Raw;
                begin += bytes;
            }
            self.data(at, after, tag);
            self.take(begin);
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Raw => self.raw()?,
                Tag::Block => {
                    self.push(Token::BlockBegin);
                    self.inside(Tag::Block)?;
                }
                Tag::Print => {
                    self.push(Token::PrintBegin);
                    self.inside(Tag::Print)?;
                }
            }
        }
    }

    /// Emits the text before a tag, less the white space that the tag takes. `sign` begins with the tag's
    /// sign.
    fn data(&mut self, bytes: usize, sign: &str, tag: Tag) {
        let line_starts = self.line_starts;
        let line = self.line;
        let text = self.take(bytes);
        let kept = if sign.starts_with('-') {
            text.trim_end_matches(is_space)
        } else if !sign.starts_with('+') && tag != Tag::Print {
            let start = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = text[start..].chars().all(is_space);
            if blank && (start > 0 || line_starts) { &text[..start] } else { text }
        } else {
            text
        };
        if !kept.is_empty() {
            self.tokens.push((Token::Data(kept.to_owned()), line));
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        if self.rest().is_empty() {
            // Jinja misses the end only where something follows.
            return Ok(());
        }
        let end = self.rest().find("#}").ok_or("the end of a comment, \"#}\", is missing")?;
        // The sign of the end belongs to the comment; `{#-#}` has one sign for both.
        let text = self.take(end);
        self.after_end(text.chars().next_back(), "#}");
        Ok(())
    }

    /// Takes the end of a tag, and what its sign says of the white space after it.
    fn after_end(&mut self, sign: Option<char>, end: &str) {
        let rest = &self.rest()[end.len()..];
        let space = match sign {
            Some('-') => rest.len() - rest.trim_start_matches(is_space).len(),
            Some('+') => 0,
            _ => usize::from(rest.starts_with('\n')),
        };
        self.take(end.len() + space);
    }

    fn raw(&mut self) -> Result<(), String> {
        let rest = self.rest();
        if rest.is_empty() {
            return Ok(());
        }
        let found = rest.match_indices("{%").find_map(|(at, _)| {
            let after = &rest[at + 2..];
            let word = after.strip_prefix(['-', '+']).unwrap_or(after).trim_start_matches(is_space);
            let tail = word.strip_prefix("endraw")?.trim_start_matches(is_space);
            let sign = tail.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let tail = &tail[usize::from(sign.is_some())..];
            tail.starts_with("%}").then(|| (at, after, sign, rest.len() - tail.len()))
        });
        let (at, after, sign, end) = found.ok_or("\"endraw\" is missing")?;
        self.data(at, after, Tag::Raw);
        self.take(end - at);
        self.after_end(sign, "%}");
        Ok(())
    }

    fn inside(&mut self, tag: Tag) -> Result<(), String> {
        let mut open = Vec::new();
        loop {
            let rest = self.rest();
            if open.is_empty() && self.ends(tag) {
                return Ok(());
            }
            let Some(first) = rest.chars().next() else { return Err("a tag does not end".to_owned()) };
            if is_space(first) {
                self.take(first.len_utf8());
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphabetic() || first == '_' {
                let word = |next: char| !(next.is_alphanumeric() || next == '_');
                let name = self.take(rest.find(word).unwrap_or(rest.len()));
                self.push(Token::Name(name.into()));
            } else if matches!(first, '"' | '\'') {
                self.text(first)?;
            } else {
                let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator));
                let operator = operator.ok_or_else(|| format!("unexpected {first:?}"))?;
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return Err(format!("unexpected {operator:?}"));
                    }
                    _ => {}
                }
                self.take(operator.len());
                self.push(Token::Op(operator));
            }
        }
    }

    /// Takes the end of a tag if it is here.
    fn ends(&mut self, tag: Tag) -> bool {
        let rest = self.rest();
        let (end, token) = if tag == Tag::Print { ("}}", Token::PrintEnd) } else { ("%}", Token::BlockEnd) };
        let sign = rest.chars().next().filter(|sign| *sign == '-' || (*sign == '+' && tag == Tag::Block));
        if !rest[usize::from(sign.is_some())..].starts_with(end) {
            return false;
        }
        self.push(token);
        self.take(usize::from(sign.is_some()));
        match (tag, sign) {
            (Tag::Print, None) => {
                self.take(end.len());
            }
            _ => self.after_end(sign, end),
        }
        true
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let after_dot = matches!(self.tokens.last(), Some((Token::Op("."), _)));
        if let Some((radix, digits)) = prefixed(rest) {
            let text = self.take(2 + digits);
            return self.integer(&text[2..], radix);
        }
        let whole = digits(rest);
        let fraction = match rest[whole..].strip_prefix('.') {
            Some(after) if !after_dot && digits(after) > 0 => 1 + digits(after),
            _ => 0,
        };
        let exponent = if after_dot { 0 } else { exponent(&rest[whole + fraction..]) };
        let text = self.take(whole + fraction + exponent);
        if fraction + exponent == 0 {
            return self.integer(text, 10);
        }
        let number = text.replace('_', "").parse().map_err(|_| format!("{text} is no number"))?;
        self.push(Token::Float(number));
        Ok(())
    }

    fn integer(&mut self, text: &str, radix: u32) -> Result<(), String> {
        let digits = text.replace('_', "");
        if digits.len() > DIGITS_MAX {
            return Err(number::too_long());
        }
        let number = match i64::from_str_radix(&digits, radix) {
            Ok(number) => Number::Small(number),
            Err(_) => {
                let big = BigInt::parse_bytes(digits.as_bytes(), radix);
                Number::Big(Arc::new(big.ok_or_else(|| format!("{text} is no number"))?))
            }
        };
        self.push(Token::Int(number));
        Ok(())
    }

    fn text(&mut self, quote: char) -> Result<(), String> {
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find_map(|(at, character)| {
            let ends = character == quote && !escaped;
            escaped = character == '\\' && !escaped;
            ends.then_some(at)
        });
        let end = end.ok_or("a text does not end")?;
        let line = self.line;
        let text = self.take(end + 1);
        self.tokens.push((Token::Text(unescaped(&text[1..end])?), line));
        Ok(())
    }
}

/// The length of `raw %}` or `raw -%}` with the white space that it takes.
fn raw_begin(text: &str) -> Option<usize> {
    let after = text.trim_start_matches(is_space).strip_prefix("raw")?.trim_start_matches(is_space);
    let rest = match after.strip_prefix("-%}") {
        Some(rest) => rest.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(text.len() - rest.len())
}

/// The length of decimal digits with single underscores between them.
fn digits(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut length = 0;
    while let Some(byte) = bytes.get(length) {
        let between = *byte == b'_' && length > 0 && bytes.get(length + 1).is_some_and(u8::is_ascii_digit);
        if !byte.is_ascii_digit() && !between {
            break;
        }
        length += 1;
    }
    length
}

/// The length of an exponent, 0 if there is none.
fn exponent(text: &str) -> usize {
    let Some(after) = text.strip_prefix(['e', 'E']) else { return 0 };
    let sign = usize::from(after.starts_with(['+', '-']));
    match digits(&after[sign..]) {
        0 => 0,
        digits => 1 + sign + digits,
    }
}

/// The radix of `0x…`, `0o…` or `0b…` and the length of what follows.
fn prefixed(text: &str) -> Option<(u32, usize)> {
    let radix = match text.get(..2)?.to_ascii_lowercase().as_str() {
        "0x" => 16,
        "0o" => 8,
        "0b" => 2,
        _ => return None,
    };
    let digits = text[2..].chars().take_while(|digit| digit.is_digit(radix) || *digit == '_').count();
    (digits > 0).then_some((radix, digits))
}

/// Python's escapes of a text; an unknown one stays as it is.
fn unescaped(text: &str) -> Result<String, String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(sign) = rest.chars().next() else { return Err("a text ends with a backslash".to_owned()) };
        let mut length = sign.len_utf8();
        match sign {
            '\n' => {}
            '\\' | '\'' | '"' => result.push(sign),
            'n' => result.push('\n'),
            't' => result.push('\t'),
            'r' => result.push('\r'),
            'a' => result.push('\u{7}'),
            'b' => result.push('\u{8}'),
            'f' => result.push('\u{c}'),
            'v' => result.push('\u{b}'),
            '0'..='7' => {
                length = rest.chars().take(3).take_while(|digit| digit.is_digit(8)).count();
                result.push(code_point(&rest[..length], 8)?);
            }
            'x' | 'u' | 'U' => {
                let digits = match sign {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                length = 1 + digits;
                let digits = rest.get(1..length).ok_or_else(|| format!("\\{sign} needs {digits} digits"))?;
                result.push(code_point(digits, 16)?);
            }
            'N' => return Err("\\N{name} is not supported; write the character".to_owned()),
            _ => {
                result.push('\\');
                result.push(sign);
            }
        }
        rest = &rest[length..];
    }
    result.push_str(rest);
    Ok(result)
}

fn code_point(digits: &str, radix: u32) -> Result<char, String> {
    let number = u32::from_str_radix(digits, radix).ok();
    number.and_then(char::from_u32).ok_or_else(|| format!("\\{digits} is no character"))
}
