//! GBNF, the grammar notation of llama.cpp and of `guided_grammar`, rewritten as Lark.
//!
//! What is rewritten: rules `name ::= ..` with `root` as the first, strings, character classes, `.`, groups,
//! `|`, `?`, `*`, `+`, `{m,n}` and comments. Every rule keeps its meaning; only the spelling changes.

use super::lark::string;
use crate::TextError;

/// A part of a grammar.
#[derive(Clone, PartialEq, Debug)]
enum Token {
    Name(String),
    Define,
    /// Already Lark.
    Lark(String),
}

/// The grammar as Lark; `None` if it has no `::=` and so is Lark already.
pub fn to_lark(grammar: &str) -> Result<Option<String>, TextError> {
    if !grammar.contains("::=") {
        return Ok(None);
    }
    let tokens = tokens(grammar)?;
    let mut lark = String::new();
    for (index, token) in tokens.iter().enumerate() {
        let defines = tokens.get(index + 1) == Some(&Token::Define);
        match token {
            Token::Name(name) => {
                if defines && !lark.is_empty() {
                    lark.push('\n');
                }
                lark.push_str(&rule_name(name));
            }
            Token::Define => lark.push(':'),
            Token::Lark(text) => lark.push_str(text),
        }
        lark.push(' ');
    }
    if !tokens.windows(2).any(|pair| pair == [Token::Name("root".to_owned()), Token::Define]) {
        return Err(error("it has no rule named root"));
    }
    lark.push('\n');
    Ok(Some(lark))
}

fn error(why: &str) -> TextError {
    TextError::Grammar(format!("the GBNF grammar cannot be read: {why}"))
}

/// Lark's rules are lower case and begin with `start`. Bytes of other characters are spelled out, so that two
/// names stay two.
fn rule_name(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    let mut lark = "g-".to_owned();
    for character in name.chars() {
        match character {
            'a'..='z' | '0'..='9' | '-' => lark.push(character),
            other => lark.push_str(&format!("_{:x}_", u32::from(other))),
        }
    }
    lark
}

fn tokens(grammar: &str) -> Result<Vec<Token>, TextError> {
    let mut tokens = Vec::new();
    let mut rest = grammar;
    while let Some(first) = rest.chars().next() {
        let bytes = match first {
            _ if first.is_whitespace() => first.len_utf8(),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            ':' if rest.starts_with("::=") => {
                tokens.push(Token::Define);
                3
            }
            '"' => {
                let end = closing(rest, '"').ok_or_else(|| error("a string does not end"))?;
                tokens.push(Token::Lark(string(&unescape(&rest[1..end])?)));
                end + 1
            }
            '[' => {
                let end = closing(rest, ']').ok_or_else(|| error("a character class does not end"))?;
                tokens.push(Token::Lark(format!("/{}/", rest[..=end].replace('/', "\\/"))));
                end + 1
            }
            '.' => {
                tokens.push(Token::Lark("/(?s:.)/".to_owned()));
                1
            }
            '{' => {
                let end = closing(rest, '}').ok_or_else(|| error("a repetition does not end"))?;
                tokens.push(Token::Lark(rest[..=end].to_owned()));
                end + 1
            }
            '(' | ')' | '|' | '*' | '+' | '?' => {
                tokens.push(Token::Lark(first.to_string()));
                1
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && !"_-".contains(c));
                let end = end.unwrap_or(rest.len());
                tokens.push(Token::Name(rest[..end].to_owned()));
                end
            }
            other => return Err(error(&format!("{other:?} is not expected there"))),
        };
        rest = &rest[bytes..];
    }
    Ok(tokens)
}

/// Where the text that begins with an opening character is closed.
fn closing(text: &str, close: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| {
        let ends = character == close && !escaped;
        escaped = character == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn unescape(text: &str) -> Result<String, TextError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first != '\\' {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let escape = rest[1..].chars().next().ok_or_else(|| error("a string ends in a backslash"))?;
        let (character, digits) = match escape {
            'n' => ('\n', 0),
            't' => ('\t', 0),
            'r' => ('\r', 0),
            'x' => (hex(rest, 2)?, 2),
            'u' => (hex(rest, 4)?, 4),
            'U' => (hex(rest, 8)?, 8),
            other => (other, 0),
        };
        out.push(character);
        rest = &rest[1 + escape.len_utf8() + digits..];
    }
    Ok(out)
}

fn hex(text: &str, digits: usize) -> Result<char, TextError> {
    let code = text.get(2..2 + digits).and_then(|code| u32::from_str_radix(code, 16).ok());
    code.and_then(char::from_u32).ok_or_else(|| error("an escape has too few digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewriting() {
        let gbnf = "root ::= answer \"\\n\" # comment\nanswer ::= (\"yes\" | no) [a-z/]{1,3} .\nno ::= \"no\"\n  | \"\\x6eope\"";
        let lark = "start : g-answer \"\\n\" \ng-answer : ( \"yes\" | g-no ) /[a-z\\/]/ {1,3} /(?s:.)/ \ng-no : \"no\" | \"nope\" \n";
        assert_eq!(to_lark(gbnf).unwrap().unwrap(), lark);
        assert_eq!(to_lark("start: \"a\"").unwrap(), None);
        for broken in ["a ::= \"b\"", "root ::= \"b", "root ::= [a", "root ::= &", "root ::= \"\\x1\""] {
            assert!(to_lark(broken).is_err(), "{broken}");
        }
    }
}
