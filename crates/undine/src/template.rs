//! The chat template that a checkpoint is talked to with: the one place that decides, for every command.

use serde_json::Map;
use undine_core::TokenId;
use undine_text::{Cancel, ChatTemplate, SpecialText, Tokenizer, Training, own, training};
use undine_weights::Checkpoint;

use crate::error::Error;
use crate::helpers;

/// Tokens around every message of LFM2's own templates. A vocabulary has them whether the model was trained
/// to chat or not.
const MARKERS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// Where the template of a checkpoint comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The model's files.
    Files,
    /// This program: the files of a chat model bring none.
    Own,
}

/// Sources of the template for conversations without tools and, if that is another, with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sources<'a> {
    /// Without tools.
    pub plain: &'a str,
    /// With tools.
    pub with_tools: Option<&'a str>,
    /// Where both are from.
    pub origin: Origin,
}

/// The sources of a checkpoint's template; `None` for a model that completes text.
pub fn sources<'a>(checkpoint: &'a Checkpoint, tokenizer: &Tokenizer) -> Option<Sources<'a>> {
    let templates = checkpoint.chat_templates();
    if let Some(plain) = templates.plain() {
        return Some(Sources { plain, with_tools: templates.with_tools(), origin: Origin::Files });
    }
    let names = [checkpoint.file_name(), checkpoint.name()];
    let is_base = names.into_iter().find_map(training) == Some(Training::Base);
    let has_markers = MARKERS.iter().all(|marker| tokenizer.token_id(marker).is_some());
    let plain = names
        .into_iter()
        .find(|name| name.to_ascii_lowercase().contains("lfm2"))
        .map_or(own::LFM2, own::of_name);
    (has_markers && !is_base).then_some(Sources { plain, with_tools: None, origin: Origin::Own })
}

/// What is to be said where a model is talked to with a template that is not its own, in one line.
pub fn note(checkpoint: &Checkpoint, sources: Option<Sources<'_>>) -> Option<String> {
    sources.filter(|sources| sources.origin == Origin::Own).map(|_| {
        format!(
            "note: {} brings no chat template; LFM2's own is used, as for every chat model of the family \
             (`run --raw` completes text instead, `serve --chat-template FILE` uses another)",
            checkpoint.file_name()
        )
    })
}

/// Compiles the template of a checkpoint.
pub fn compile(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    sources: Sources<'_>,
) -> Result<ChatTemplate, Error> {
    let template = compile_source(checkpoint, tokenizer, sources.plain)?;
    match sources.with_tools {
        Some(source) => Ok(template.with_tools(compile_source(checkpoint, tokenizer, source)?)),
        None => Ok(template),
    }
}

/// Compiles any template for a checkpoint, with the special tokens that its tokenizer names.
pub fn compile_source(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    source: &str,
) -> Result<ChatTemplate, Error> {
    let text =
        |id: Option<&TokenId>| id.map_or_else(String::new, |&id| tokenizer.decode(&[id], SpecialText::Keep));
    let mut variables = checkpoint.special_texts().clone();
    let named = |variables: &mut Map<_, serde_json::Value>, name: &str, id: Option<&TokenId>| {
        let known = variables.remove(name).and_then(|value| value.as_str().map(str::to_owned));
        known.unwrap_or_else(|| text(id))
    };
    let bos = named(&mut variables, "bos_token", tokenizer.bos().as_ref());
    let eos = named(&mut variables, "eos_token", tokenizer.eos().first());
    let template = match helpers::for_templates()? {
        Some(helpers) => ChatTemplate::isolated(source, &bos, &eos, &helpers, &Cancel::default())?,
        None => ChatTemplate::new(source, &bos, &eos)?,
    };
    Ok(template.with_variables(variables))
}
