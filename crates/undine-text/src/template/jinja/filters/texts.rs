//! Filters of texts.

use std::fmt::Write;

use super::super::calls::{Given, required};
use super::super::eval::{Interpreter, Stop};
use super::super::methods::integer;
use super::super::ops::push_escaped;
use super::super::text::{self, Side, is_space};
use super::super::text_methods::replaced;
use super::super::value::{Dict, Value};
use super::super::{format as percent, print};
use super::values::count;
use super::{is_on, soft};

type Answer = Result<Value, Stop>;

pub fn lower(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("lower")?;
    let text = soft(value)?.to_lowercase();
    Ok(interpreter.like(value, text)?)
}

pub fn upper(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("upper")?;
    let text = soft(value)?.to_uppercase();
    Ok(interpreter.like(value, text)?)
}

pub fn capitalize(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("capitalize")?;
    let text = text::capitalized(&soft(value)?);
    Ok(interpreter.like(value, text)?)
}

/// Unlike the method, words begin after a space, a hyphen or an opening bracket only.
pub fn title(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("title")?;
    let mut out = String::new();
    let mut begins = true;
    for character in soft(value)?.chars() {
        if begins {
            out.extend(character.to_uppercase());
        } else {
            out.extend(character.to_lowercase());
        }
        begins = is_space(character) || matches!(character, '-' | '(' | '{' | '[' | '<');
    }
    Ok(interpreter.like(value, out)?)
}

pub fn trim(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [signs] = given.bind("trim", ["chars"])?;
    let text = soft(value)?;
    let trimmed = match signs.as_ref().and_then(Value::as_text) {
        None => text.trim_matches(is_space),
        Some(signs) => text.trim_matches(|character| signs.contains(character)),
    };
    Ok(interpreter.like(value, trimmed.to_owned())?)
}

pub fn center(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [width] = given.bind("center", ["width"])?;
    let width = width.map_or(Ok(80), |width| count(&width))?;
    interpreter.charge_text(width)?;
    let text = text::padded(&soft(value)?, width, ' ', Side::Both);
    Ok(interpreter.like(value, text)?)
}

pub fn replace(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [old, new, times] = given.bind("replace", ["old", "new", "count"])?;
    let old = soft(&required(old, "replace", "old")?)?;
    let new = soft(&required(new, "replace", "new")?)?;
    let times = match times {
        None | Some(Value::None) => None,
        Some(times) => usize::try_from(integer(&times)?).ok(),
    };
    let text = replaced(interpreter, &soft(value)?, &old, &new, times)?;
    Ok(interpreter.like(value, text)?)
}

pub fn format(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let text = soft(value)?;
    let values = match (given.positional.is_empty(), given.named.is_empty()) {
        (false, false) => {
            let text = "can't handle positional and keyword arguments at the same time";
            return Err(text.to_owned().into());
        }
        (true, false) => Value::Dict(super::super::calls::named_dict(Default::default(), given.named)?),
        _ => Value::tuple(given.positional)?,
    };
    let text = percent::percent(&text, &values)?;
    Ok(interpreter.like(value, text)?)
}

pub fn indent(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let text = value.as_text().ok_or_else(|| match value {
        Value::Undefined(missing) => missing.message(),
        _ => format!("indent: expected a str, found {}", value.type_name()),
    })?;
    let indent = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_text() {
            Some(text) => text.to_string(),
            None => {
                let width = count(&width)?;
                interpreter.charge_text(width)?;
                " ".repeat(width)
            }
        },
    };
    // With an end of its own each line is seen, the last one too.
    let ended = format!("{text}\n");
    let lines: Vec<&str> = text::lines(&ended).map(|(line, _)| line).collect();
    interpreter.charge_text(text.len().saturating_add(indent.len().saturating_mul(lines.len())))?;
    let blank = is_on(blank);
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        out.push_str(if index > 0 { "\n" } else { "" });
        if index > 0 && (blank || !line.is_empty()) {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    if is_on(first) {
        out.insert_str(0, &indent);
    }
    Ok(interpreter.like(value, out)?)
}

pub fn truncate(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let text = soft(value)?;
    let length = length.map_or(Ok(255), |length| integer(&length))?;
    let leeway =
        leeway.filter(|leeway| !matches!(leeway, Value::None)).map_or(Ok(5), |leeway| integer(&leeway))?;
    let end = end.map_or(Ok("...".into()), |end| soft(&end))?;
    let kept = length - end.chars().count() as i64;
    if kept < 0 || leeway < 0 {
        return Err(format!("truncate: expected length >= {} and leeway >= 0", end.chars().count()).into());
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let cut: String = text.chars().take(kept as usize).collect();
    let cut = if is_on(kill) { &*cut } else { cut.rsplit_once(' ').map_or(&*cut, |(before, _)| before) };
    Ok(interpreter.like(value, format!("{cut}{end}"))?)
}

pub fn wordcount(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("wordcount")?;
    let text = soft(value)?;
    let words = text.split(|character: char| !(character.is_alphanumeric() || character == '_'));
    Ok(Value::Int(words.filter(|word| !word.is_empty()).count() as i64))
}

pub fn wordwrap(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let parameters = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, break_long, end, hyphens] = given.bind("wordwrap", parameters)?;
    let width = width.map_or(Ok(79), |width| count(&width))?;
    if width == 0 {
        return Err("invalid width 0 (must be > 0)".to_owned().into());
    }
    let end = end.filter(|end| !matches!(end, Value::None)).map_or(Ok("\n".into()), |end| soft(&end))?;
    let [break_long, hyphens] = [break_long, hyphens].map(|flag| flag.is_none_or(|flag| flag.is_true()));
    let text = soft(value)?;
    interpreter.charge_text(text.len().saturating_mul(1 + end.len()))?;
    let paragraphs = text::lines(&text).map(|(line, _)| {
        let lines = wrapped(line, width, break_long.then_some(width), &chunks(line, hyphens.then_some('-')));
        lines.join(&*end)
    });
    let out = paragraphs.collect::<Vec<_>>().join(&*end);
    Ok(interpreter.like(value, out)?)
}

/// Words with the hyphens that end their parts, and the spaces between them.
fn chunks(line: &str, hyphen: Option<char>) -> Vec<&str> {
    let space = |character: char| matches!(character, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut previous: Option<char> = None;
    let characters: Vec<(usize, char)> = line.char_indices().collect();
    for (place, &(at, character)) in characters.iter().enumerate() {
        let next = characters.get(place + 1).map(|(_, next)| *next);
        let before = place.checked_sub(2).map(|place| characters[place].1);
        let turns = previous.is_some_and(|previous| space(previous) != space(character));
        // A hyphen between letters ends a part.
        let parts = hyphen.is_some()
            && previous == hyphen
            && before.is_some_and(char::is_alphabetic)
            && character.is_alphabetic()
            && next.is_some_and(|next| next.is_alphabetic() || next == '-');
        if turns || parts {
            chunks.push(&line[start..at]);
            start = at;
        }
        previous = Some(character);
    }
    if start < line.len() {
        chunks.push(&line[start..]);
    }
    chunks
}

/// Lines of at most so many characters; what is longer than a line is broken if that is asked for.
fn wrapped(line: &str, width: usize, break_at: Option<usize>, chunks: &[&str]) -> Vec<String> {
    debug_assert_eq!(chunks.concat(), line);
    let length = |text: &str| text.chars().count();
    // A long one is not counted to its end each time.
    let fits = |text: &str, room: usize| text.chars().nth(room).is_none();
    let mut rest: std::collections::VecDeque<&str> = chunks.iter().copied().collect();
    let mut lines: Vec<String> = Vec::new();
    while !rest.is_empty() {
        if !lines.is_empty() && rest.front().is_some_and(|chunk| chunk.chars().all(is_space)) {
            rest.pop_front();
        }
        let mut parts: Vec<&str> = Vec::new();
        let mut used = 0;
        while let Some(chunk) = rest.pop_front_if(|chunk| fits(chunk, width - used)) {
            used += length(chunk);
            parts.push(chunk);
        }
        if let Some(chunk) = rest.pop_front_if(|chunk| !fits(chunk, width)) {
            match break_at {
                Some(_) => {
                    let free = if width > used { width - used } else { 1 };
                    let at = chunk.char_indices().nth(free).map_or(chunk.len(), |(at, _)| at);
                    parts.push(&chunk[..at]);
                    rest.push_front(&chunk[at..]);
                }
                None if parts.is_empty() => parts.push(chunk),
                None => rest.push_front(chunk),
            }
        }
        if parts.last().is_some_and(|part| part.chars().all(is_space)) {
            parts.pop();
        }
        if !parts.is_empty() {
            lines.push(parts.concat());
        }
    }
    lines
}

pub fn escape(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("escape")?;
    let mut out = String::new();
    push_escaped(value, &mut out);
    Ok(Value::Markup(out.into()))
}

pub fn forceescape(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let text = Value::Text(soft(value)?);
    escape(interpreter, &text, given)
}

pub fn safe(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("safe")?;
    Ok(Value::Markup(soft(value)?))
}

pub fn striptags(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("striptags")?;
    let text = soft(value)?;
    let without = without_between(&without_between(&text, "<!--", "-->"), "<", ">");
    let text = text::split(&without, None, usize::MAX).join(" ");
    let mut out = text;
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", "\u{a0}"),
        ("&amp;", "&"),
    ];
    for (entity, character) in entities {
        out = out.replace(entity, character);
    }
    interpreter.charge_text(out.len())?;
    Ok(Value::text(out))
}

/// A text without what lies between two signs, and these.
fn without_between(text: &str, open: &str, close: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once(open) {
        let Some((_, after)) = tail.split_once(close) else { break };
        out.push_str(before);
        rest = after;
    }
    out + rest
}

pub fn urlencode(interpreter: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    given.none("urlencode")?;
    let pairs = match value {
        Value::Dict(dict) => super::super::eval::pairs(dict)?,
        Value::Text(_) | Value::Markup(_) => Vec::new(),
        value => match interpreter.items(value) {
            Ok(items) => items.to_vec(),
            Err(_) => Vec::new(),
        },
    };
    let mut out = String::new();
    if pairs.is_empty() && !matches!(value, Value::Dict(_) | Value::List(_) | Value::Tuple(_)) {
        push_quoted(&soft(value)?, "/", &mut out);
    }
    for (index, pair) in pairs.iter().enumerate() {
        let pair = interpreter.items(pair)?;
        let [key, value] = &**pair else { return Err("urlencode: expected pairs".to_owned().into()) };
        out.push_str(if index > 0 { "&" } else { "" });
        for (side, end) in [(key, "="), (value, "")] {
            push_quoted(&soft(side)?, "", &mut out);
            out.push_str(end);
        }
    }
    if !pairs.is_empty() {
        out = out.replace("%20", "+");
    }
    Ok(interpreter.like(&Value::text(""), out)?)
}

fn push_quoted(text: &str, kept: &str, out: &mut String) {
    for byte in text.bytes() {
        let character = char::from(byte);
        if byte.is_ascii_alphanumeric()
            || matches!(character, '_' | '.' | '-' | '~')
            || kept.contains(character)
        {
            out.push(character);
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
    }
}

pub fn urlize(_: &mut Interpreter<'_>, _: &Value, _: Given) -> Answer {
    Err("the filter 'urlize' is not supported: a prompt has no use for links in HTML".to_owned().into())
}

pub fn xmlattr(_: &mut Interpreter<'_>, value: &Value, given: Given) -> Answer {
    let [space] = given.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else { return Err("xmlattr needs a mapping".to_owned().into()) };
    let mut out = attributes(dict)?;
    if !out.is_empty() && space.is_none_or(|space| space.is_true()) {
        out.insert(0, ' ');
    }
    Ok(Value::text(out))
}

fn attributes(dict: &Dict) -> Result<String, String> {
    let mut out = String::new();
    for (key, value) in &dict.map {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = print::string(&key.0)?;
        if key.contains(|sign: char| is_space(sign) || matches!(sign, '/' | '>' | '=')) {
            return Err(format!("Invalid character in attribute name: '{key}'"));
        }
        if !out.is_empty() {
            out.push(' ');
        }
        push_escaped(&Value::text(key), &mut out);
        out.push_str("=\"");
        push_escaped(value, &mut out);
        out.push('"');
    }
    Ok(out)
}
