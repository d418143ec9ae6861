//! How deep regular expressions and grammars nest. Both are read as far as brackets and names go; what they
//! mean is the library's business.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::measure::{excerpt, limit, schema};
use super::{REGEX_BYTES_MAX, gbnf};
use crate::TextError;

/// Groups within groups of a regular expression.
pub const REGEX_DEPTH_MAX: usize = 48;
/// Brackets within brackets of a grammar.
pub const BRACKETS_MAX: usize = 48;
/// Rules that lead from one to the next.
pub const RULES_DEPTH_MAX: usize = 256;

/// Checks a regular expression within something else.
pub fn pattern(text: &str) -> Result<(), String> {
    if text.len() > REGEX_BYTES_MAX {
        let found = text.len();
        return Err(format!(
            "expected a regular expression of at most {REGEX_BYTES_MAX} bytes, found {found}"
        ));
    }
    regex(text)
}

/// Checks a regular expression of any length.
pub fn regex(text: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    let mut in_class = 0_usize;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '[' => in_class += 1,
            ']' => in_class = in_class.saturating_sub(1),
            '(' if in_class == 0 => depth += 1,
            ')' if in_class == 0 => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth.max(in_class) > REGEX_DEPTH_MAX {
            return Err(format!("expected at most {REGEX_DEPTH_MAX} groups within groups, found more"));
        }
    }
    Ok(())
}

/// Checks a grammar in Lark or GBNF.
pub fn grammar(text: &str) -> Result<(), TextError> {
    let rewritten = gbnf::to_lark(text)?;
    let parts = parts(rewritten.as_deref().unwrap_or(text))?;
    rules_depth(&parts)
}

/// A part of a grammar in Lark, as far as it tells rules from what they name.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Part<'a> {
    Name(&'a str),
    Colon,
    LineEnd,
    Other,
}

/// Names and colons of a grammar in Lark, if its brackets, expressions and schemas are within the limits.
fn parts(text: &str) -> Result<Vec<Part<'_>>, TextError> {
    let mut parts = Vec::new();
    let mut depth = 0_usize;
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let at = |line: usize| format!("line {line}");
        if first == '\n' {
            parts.push(Part::LineEnd);
        }
        let bytes = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => {
                parts.push(Part::Other);
                quoted(rest, '"')
            }
            '/' => {
                let bytes = quoted(rest, '/');
                pattern(&rest[..bytes]).map_err(|why| limit(&at(line), why))?;
                parts.push(Part::Other);
                bytes
            }
            '%' if rest.starts_with("%json") => json(rest, &at(line))?,
            '(' | '[' | '{' => {
                depth += 1;
                if depth > BRACKETS_MAX {
                    let message =
                        format!("expected at most {BRACKETS_MAX} brackets within brackets, found more");
                    return Err(limit(&at(line), message));
                }
                parts.push(Part::Other);
                1
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                1
            }
            ':' => {
                parts.push(Part::Colon);
                1
            }
            _ if first.is_alphanumeric() || "_?!@".contains(first) => {
                let is_part = |c: char| c.is_alphanumeric() || "_-?!@.".contains(c);
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                parts.push(Part::Name(&rest[..end]));
                end
            }
            _ => first.len_utf8(),
        };
        line += rest[..bytes].matches('\n').count();
        rest = &rest[bytes..];
    }
    Ok(parts)
}

/// Bytes of a quoted text with its quotes; all there are, if it does not end.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Bytes of `%json` and the schema after it, which is checked. One that is no JSON is left to the library.
fn json(text: &str, place: &str) -> Result<usize, TextError> {
    const WORD: &str = "%json";
    let after = &text[WORD.len()..];
    let mut values = serde_json::Deserializer::from_str(after).into_iter::<Json>();
    match values.next() {
        Some(Ok(value)) => {
            let bytes = WORD.len() + values.byte_offset();
            schema(&value, &format!("{place}: the schema"))?;
            Ok(bytes)
        }
        _ => Ok(WORD.len()),
    }
}

/// Follows rules to the rules that they name.
fn rules_depth(parts: &[Part<'_>]) -> Result<(), TextError> {
    let mut rules: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in parts.split(|part| *part == Part::LineEnd) {
        let mut used = line;
        // A rule begins a line and has a colon in it; other lines go on with the rule before.
        if let [Part::Name(name), rest @ ..] = line
            && rest.contains(&Part::Colon)
        {
            rules.push((rule_name(name), Vec::new()));
            used = rest;
        }
        let Some((_, uses)) = rules.last_mut() else { continue };
        uses.extend(used.iter().filter_map(|part| match part {
            Part::Name(name) => Some(rule_name(name)),
            _ => None,
        }));
    }
    let places: HashMap<&str, usize> = rules.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    let place = |name: &&str| places.get(name).copied();
    let edges: Vec<Vec<usize>> =
        rules.iter().map(|(_, uses)| uses.iter().filter_map(place).collect()).collect();
    match too_deep(&edges) {
        Some(rule) => {
            let place = format!("the rule {}", excerpt(rules[rule].0));
            let found = format!(
                "expected at most {RULES_DEPTH_MAX} rules that lead from one to the next, found more"
            );
            Err(limit(&place, found))
        }
        None => Ok(()),
    }
}

/// A rule's name without the signs that say how its text is kept, and without its priority.
fn rule_name(name: &str) -> &str {
    let name = name.trim_start_matches(['?', '!', '@']);
    name.split('.').next().unwrap_or(name)
}

/// A node from which a path without circles is longer than [`RULES_DEPTH_MAX`].
fn too_deep(edges: &[Vec<usize>]) -> Option<usize> {
    /// Not visited yet, on the path, or so deep.
    #[derive(Clone, Copy)]
    enum Depth {
        Unknown,
        Open,
        Known(usize),
    }
    let mut depths = vec![Depth::Unknown; edges.len()];
    for start in 0..edges.len() {
        // Nodes of the path, and how many of their edges have been followed.
        let mut path = vec![(start, 0)];
        while let Some((node, followed)) = path.last_mut() {
            if let (0, Depth::Known(_)) = (*followed, depths[*node]) {
                path.pop();
                continue;
            }
            depths[*node] = Depth::Open;
            match edges[*node].get(*followed) {
                Some(&next) => {
                    *followed += 1;
                    if let Depth::Unknown = depths[next] {
                        path.push((next, 0));
                    }
                }
                None => {
                    let below = edges[*node].iter().map(|&next| match depths[next] {
                        Depth::Known(depth) => depth,
                        Depth::Unknown | Depth::Open => 0,
                    });
                    let depth = below.max().unwrap_or(0) + 1;
                    if depth > RULES_DEPTH_MAX {
                        return Some(*node);
                    }
                    depths[*node] = Depth::Known(depth);
                    path.pop();
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Option<String> {
        grammar(text).err().map(|error| error.to_string())
    }

    /// A chain of so many rules.
    fn chain(rules: usize) -> String {
        let middle = (1..rules).map(|i| format!("r{}: r{i} \"x\"\n", i - 1));
        let last = rules - 1;
        format!("start: r0\n{}r{last}: \"y\"\n", middle.collect::<String>())
    }

    #[test]
    fn groups_of_expressions_are_counted() {
        let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        for (text, fits) in [
            ("(a|b)*".repeat(500), true),
            (nested(REGEX_DEPTH_MAX), true),
            (nested(REGEX_DEPTH_MAX + 1), false),
            ("[".repeat(REGEX_DEPTH_MAX + 1), false),
            (r"\(".repeat(1000), true),
            ("[(]".repeat(1000), true),
            ("a".repeat(REGEX_BYTES_MAX + 1), true),
            ("\\".to_owned(), true),
        ] {
            assert_eq!(regex(&text).is_ok(), fits, "{text}");
        }
        assert!(
            pattern(&"a".repeat(REGEX_BYTES_MAX)).is_ok()
                && pattern(&"a".repeat(REGEX_BYTES_MAX + 1)).is_err()
        );
    }

    #[test]
    fn brackets_and_chains_of_rules_are_counted() {
        let brackets = |depth: usize| format!("start: {}\"a\"{}\n", "(".repeat(depth), ")".repeat(depth));
        let gbnf = |depth: usize| format!("root ::= {}\"a\"{}\n", "(".repeat(depth), ")".repeat(depth));
        let regex = format!("start: \"b\"\n  | /{}a{}/", "(".repeat(100), ")".repeat(100));
        let ladder: String = (0..1000).map(|i| format!("r{i}: r{} | start\n", (i + 1) % 1000)).collect();
        let gbnf_ladder: String = (0..400).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
        for (text, expected) in [
            (brackets(BRACKETS_MAX), None),
            (brackets(BRACKETS_MAX + 1), Some("line 1: expected at most 48 brackets")),
            (gbnf(BRACKETS_MAX + 1), Some("line 1: expected at most 48 brackets")),
            ("start: (\"a\") (\"b\")\n".to_owned(), None),
            (format!("start: \"{}\"", "(".repeat(1000)), None),
            (format!("start: \"a\" // {}", "(".repeat(1000)), None),
            (regex, Some("line 2: expected at most 48 groups")),
            (chain(RULES_DEPTH_MAX - 1), None),
            (chain(RULES_DEPTH_MAX), Some("the rule start: expected at most 256 rules")),
            (format!("start: r0\n{ladder}"), Some("the rule")),
            (format!("root ::= r0\n{gbnf_ladder}r400 ::= \"x\""), Some("the rule")),
            ("start: start | \"a\"\n".to_owned(), None),
            ("start: %json {\"type\": \"object\"}\n".to_owned(), None),
            (
                format!("start: %json {}1{}\n", "[".repeat(100), "]".repeat(100)),
                Some("line 1: the schema[0]"),
            ),
            ("start: %json {".to_owned(), None),
            ("start[stop=\"\"]: TEXT\nTEXT.3: /a+/\n".to_owned(), None),
        ] {
            let found = refusal(&text);
            match expected {
                None => assert_eq!(found, None, "{text}"),
                Some(expected) => assert!(
                    found.as_deref().is_some_and(|found| found.contains(expected)),
                    "{found:?} {text}"
                ),
            }
        }
    }
}
