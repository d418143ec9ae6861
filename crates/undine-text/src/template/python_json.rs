//! JSON as Python's `json.dumps` writes it, which is what the `tojson` filter of Hugging Face chat templates
//! does.
//!
//! The separators, the escapes and the spelling of floats decide over token ids, so they are Python's to the
//! byte.

use std::fmt::Write;

use super::jinja::order;
use super::jinja::value::{Key, Value};
use super::jinja::{number, print};

/// Spaces per level that a template may ask for.
pub const INDENT_MAX: usize = 64;

/// What a template can ask for.
pub struct Options {
    pub ensure_ascii: bool,
    /// The text of one level.
    pub indent: Option<String>,
    /// Between items.
    pub item: String,
    /// Between a key and its value.
    pub key: String,
    pub sort_keys: bool,
}

impl Default for Options {
    fn default() -> Self {
        let (item, key) = (", ".to_owned(), ": ".to_owned());
        Self { ensure_ascii: false, indent: None, item, key, sort_keys: false }
    }
}

/// `json.dumps(value, …)`.
pub fn dumps(value: &Value, options: Options) -> Result<String, String> {
    let mut writer = Writer { out: String::new(), options };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    options: Options,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        if self.out.len() > print::BYTES_MAX {
            return Err(format!("JSON longer than {} bytes", print::BYTES_MAX));
        }
        match value {
            Value::None => self.out.push_str("null"),
            Value::Bool(flag) => self.out.push_str(if *flag { "true" } else { "false" }),
            Value::Int(number) => write!(self.out, "{number}").expect("a String takes everything"),
            Value::Big(number) => write!(self.out, "{number}").expect("a String takes everything"),
            Value::Float(number) => self.float(*number),
            Value::Text(text) | Value::Markup(text) => self.string(text),
            Value::List(items) | Value::Tuple(items) => {
                self.container(['[', ']'], items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            Value::Dict(dict) => {
                let pairs: Vec<(&Key, &Value)> = dict.map.iter().collect();
                let pairs = match self.options.sort_keys {
                    true => order::sorted(pairs, &|(key, _): &(&Key, &Value)| &key.0)?,
                    false => pairs,
                };
                self.container(['{', '}'], &pairs, depth, |writer, (key, value)| {
                    writer.map_key(&key.0)?;
                    let Self { out, options } = writer;
                    out.push_str(&options.key);
                    writer.value(value, depth + 1)
                })?;
            }
            value => return Err(format!("Object of type {} is not JSON serializable", value.type_name())),
        }
        Ok(())
    }

    fn float(&mut self, number: f64) {
        match number {
            _ if number.is_nan() => self.out.push_str("NaN"),
            f64::INFINITY => self.out.push_str("Infinity"),
            f64::NEG_INFINITY => self.out.push_str("-Infinity"),
            _ => number::push_float(number, &mut self.out),
        }
    }

    fn container<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), String>,
    ) -> Result<(), String> {
        self.out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                let Self { out, options } = self;
                out.push_str(&options.item);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.options.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    /// Keys that are not strings take their JSON spelling.
    fn map_key(&mut self, key: &Value) -> Result<(), String> {
        match key {
            Value::Text(text) | Value::Markup(text) => self.string(text),
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_) => {
                self.out.push('"');
                self.value(key, 0)?;
                self.out.push('"');
            }
            key => {
                return Err(format!("keys must be str, int, float, bool or None, not {}", key.type_name()));
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        let mut rest = text;
        let plain =
            |byte: u8, ascii: bool| !matches!(byte, b'"' | b'\\' | 0..=0x1f) && (!ascii || byte < 0x80);
        while !rest.is_empty() {
            // What needs no escape is copied whole.
            let ascii = self.options.ensure_ascii;
            let end = rest.bytes().position(|byte| !plain(byte, ascii)).unwrap_or(rest.len());
            self.out.push_str(&rest[..end]);
            rest = &rest[end..];
            let Some(character) = rest.chars().next() else { break };
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                character => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("a String takes everything");
                    }
                }
            }
            rest = &rest[character.len_utf8()..];
        }
        self.out.push('"');
    }
}
