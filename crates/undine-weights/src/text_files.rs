//! The small files of a folder that concern text, read but not understood.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;

use crate::chat_templates::{ChatTemplates, DEFAULT};
use crate::hf::read;
use crate::limits::{CONFIG_BYTES_MAX, TEMPLATES_MAX, TOKENIZER_BYTES_MAX};
use crate::vocabulary::HfText;
use crate::{Error, json, place};

pub(crate) const GENERATION: &str = "generation_config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const PROCESSOR: &str = "processor_config.json";
const TEMPLATE_JSON: &str = "chat_template.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// The folder of templates beside the default one, and how their names end.
const TEMPLATES: &str = "additional_chat_templates";
const TEMPLATE_END: &str = ".jinja";

/// Where a folder has the template of a name.
pub(crate) fn template_path(name: &str) -> String {
    if name == DEFAULT { TEMPLATE.to_owned() } else { format!("{TEMPLATES}/{name}{TEMPLATE_END}") }
}

/// The bytes of each file that there is.
#[derive(Default)]
pub(crate) struct TextFiles {
    pub generation_config: Option<Vec<u8>>,
    pub tokenizer_config: Option<Vec<u8>>,
    pub tokenizer: Option<Vec<u8>>,
    pub processor: Option<Vec<u8>>,
    special_tokens_map: Option<Vec<u8>>,
    template_json: Option<Vec<u8>>,
    /// Files that are a template each, by its name.
    templates: Vec<(String, Vec<u8>)>,
}

impl TextFiles {
    /// Those of a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let small = |name: &str| read(folder, name, CONFIG_BYTES_MAX);
        let mut templates: Vec<_> =
            small(TEMPLATE)?.map(|bytes| (DEFAULT.to_owned(), bytes)).into_iter().collect();
        let more = folder.join(TEMPLATES);
        for file in place::names(&more).iter().take(TEMPLATES_MAX) {
            if let Some(name) = file.strip_suffix(TEMPLATE_END)
                && let Some(bytes) = read(&more, file, CONFIG_BYTES_MAX)?
            {
                templates.push((name.to_owned(), bytes));
            }
        }
        Ok(Self {
            generation_config: small(GENERATION)?,
            tokenizer_config: small(TOKENIZER_CONFIG)?,
            tokenizer: read(folder, TOKENIZER, TOKENIZER_BYTES_MAX)?,
            processor: small(PROCESSOR)?,
            special_tokens_map: small(SPECIAL_TOKENS)?,
            template_json: small(TEMPLATE_JSON)?,
            templates,
        })
    }

    /// Those among files in memory, by their names in a folder.
    pub(crate) fn take(files: &mut HashMap<&str, Vec<u8>>) -> Self {
        let mut templates: Vec<_> =
            files.remove(TEMPLATE).map(|bytes| (DEFAULT.to_owned(), bytes)).into_iter().collect();
        let name = |path: &str| {
            Some(path.strip_prefix(TEMPLATES)?.strip_prefix('/')?.strip_suffix(TEMPLATE_END)?.to_owned())
        };
        templates.extend(files.iter().filter_map(|(path, bytes)| Some((name(path)?, bytes.clone()))));
        Self {
            generation_config: files.remove(GENERATION),
            tokenizer_config: files.remove(TOKENIZER_CONFIG),
            tokenizer: files.remove(TOKENIZER),
            processor: files.remove(PROCESSOR),
            special_tokens_map: files.remove(SPECIAL_TOKENS),
            template_json: files.remove(TEMPLATE_JSON),
            templates,
        }
    }

    /// Parses them. `config` is that of the model.
    pub(crate) fn parse(self, config: Option<&Json>) -> Result<HfText<'_>, Error> {
        let parsed =
            |name: &str, bytes: Option<Vec<u8>>| bytes.map(|bytes| json::parse(name, &bytes)).transpose();
        let mut chat_templates = ChatTemplates::default();
        for (name, bytes) in self.templates {
            chat_templates.add(&name, &json::text(&template_path(&name), &bytes)?);
        }
        let template_json = parsed(TEMPLATE_JSON, self.template_json)?;
        let of_json = template_json.as_ref().map(|json| json.get("chat_template").unwrap_or(json));
        Ok(HfText {
            config,
            generation_config: parsed(GENERATION, self.generation_config)?,
            tokenizer_config: parsed(TOKENIZER_CONFIG, self.tokenizer_config)?,
            special_tokens_map: parsed(SPECIAL_TOKENS, self.special_tokens_map)?,
            processor: parsed(PROCESSOR, self.processor)?,
            tokenizer: self.tokenizer,
            chat_templates: chat_templates.or(ChatTemplates::of_json(of_json)),
        })
    }
}
