//! Chat templates: the places that files keep them in, and which of several is meant.
//!
//! As transformers reads a folder: `chat_template.jinja` and `additional_chat_templates/` before
//! `chat_template.json`, before what the configurations of processor and tokenizer hold; and as llama.cpp
//! reads a GGUF file.

use serde_json::Value as Json;

use crate::config_gguf::Metadata;
use crate::config_hf::shorten;
use crate::limits::TEMPLATES_MAX;
use crate::value::Value;

/// The name of the template that is meant unless another is asked for.
pub(crate) const DEFAULT: &str = "default";
/// The name of the one for conversations with tools.
const TOOL_USE: &str = "tool_use";
/// The key of the default template in GGUF; others have their name after it.
const GGUF_KEY: &str = "tokenizer.chat_template";

/// The key of a template in GGUF.
pub(crate) fn gguf_key(name: &str) -> String {
    if name == DEFAULT { GGUF_KEY.to_owned() } else { format!("{GGUF_KEY}.{name}") }
}

/// Chat templates by name. None is blank.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChatTemplates(Vec<(String, String)>);

impl ChatTemplates {
    /// The template for conversations without tools, and with them unless there is one for those: `default`,
    /// else the one with tools, else the first.
    pub fn plain(&self) -> Option<&str> {
        let first = || self.0.first().map(|(_, source)| source.as_str());
        self.get(DEFAULT).or_else(|| self.get(TOOL_USE)).or_else(first)
    }

    /// The template for conversations with tools, if that is another.
    pub fn with_tools(&self) -> Option<&str> {
        self.get(TOOL_USE).filter(|source| Some(*source) != self.plain())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, source)| source)
    }

    /// Adds one, unless it is blank or its name is taken. A name may become that of a file, so it must be a
    /// plain one.
    pub(crate) fn add(&mut self, name: &str, source: &str) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let is_new = !name.is_empty() && name.bytes().all(is_plain) && self.get(name).is_none();
        if is_new && !source.trim().is_empty() && self.0.len() < TEMPLATES_MAX {
            self.0.push((name.to_owned(), source.to_owned()));
        }
    }

    /// These; where they are none, or lack the default, what `lower` has.
    pub(crate) fn or(mut self, lower: Self) -> Self {
        if self.is_empty() {
            return lower;
        }
        if let Some(source) = lower.get(DEFAULT) {
            self.add(DEFAULT, source);
        }
        self
    }

    /// The value of `chat_template` in a JSON file: one template, a list of named ones, or an object of them
    /// by name.
    pub(crate) fn of_json(value: Option<&Json>) -> Self {
        let mut found = Self::default();
        match value {
            Some(Json::String(source)) => found.add(DEFAULT, source),
            Some(Json::Object(named)) => {
                let texts = named.iter().filter_map(|(name, source)| Some((name, source.as_str()?)));
                texts.for_each(|(name, source)| found.add(name, source));
            }
            Some(Json::Array(entries)) => {
                let text = |entry: &Json, key: &str| entry.get(key)?.as_str().map(str::to_owned);
                let named =
                    entries.iter().filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?)));
                named.for_each(|(name, source)| found.add(&name, &source));
            }
            _ => {}
        }
        found
    }

    /// Those in the metadata of a GGUF file. A value of another kind is told and ignored.
    pub(crate) fn of_gguf(metadata: &Metadata<'_>, repairs: &mut Vec<String>) -> Self {
        let mut found = Self::default();
        for (key, value) in metadata.with_prefix(GGUF_KEY) {
            let name = match key[GGUF_KEY.len()..].strip_prefix('.') {
                Some(name) => name,
                None if key == GGUF_KEY => DEFAULT,
                // `tokenizer.chat_templates` lists the names.
                None => continue,
            };
            match value {
                Value::String(source) => found.add(name, source),
                other => repairs.push(format!(
                    "{key} is {} {}, expected a string; it was ignored.",
                    other.kind_name(),
                    shorten(other)
                )),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_several_the_right_one_is_meant() {
        for (value, plain, with_tools) in [
            (json!("a"), Some("a"), None),
            (json!(" \n"), None, None),
            (json!(null), None, None),
            (json!(7), None, None),
            (json!({"default": "a", "tool_use": "b"}), Some("a"), Some("b")),
            (json!({"tool_use": "b", "default": "a"}), Some("a"), Some("b")),
            (json!({"tool_use": "b"}), Some("b"), None),
            (json!({"rag": "c", "tool_use": "b"}), Some("b"), None),
            (json!({"rag": "c"}), Some("c"), None),
            (
                json!([{"name": "rag", "template": "c"}, {"name": "default", "template": "a"}]),
                Some("a"),
                None,
            ),
            (
                json!([{"name": "default", "template": ""}, {"name": "tool_use", "template": "b"}]),
                Some("b"),
                None,
            ),
            (json!([{"name": "default"}, 5, "x"]), None, None),
            (json!({"../../default": "a"}), None, None),
        ] {
            let templates = ChatTemplates::of_json(Some(&value));
            assert_eq!((templates.plain(), templates.with_tools()), (plain, with_tools), "{value}");
        }
        let upper = ChatTemplates::of_json(Some(&json!({"tool_use": "b"})));
        let lower = ChatTemplates::of_json(Some(&json!({"default": "a", "tool_use": "x"})));
        let both = upper.or(lower);
        assert_eq!((both.plain(), both.with_tools()), (Some("a"), Some("b")));
    }
}
