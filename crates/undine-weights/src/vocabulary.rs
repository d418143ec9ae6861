//! Vocabulary, special tokens, chat template and sampling defaults, from either format.

use serde_json::{Map, Value as Json};
use undine_core::{SpecialTokens, Vocabulary};

use crate::chat_templates::ChatTemplates;
use crate::config_gguf::Metadata;
use crate::config_hf::shorten;
use crate::sampling_defaults::{self, SamplingDefaults};
use crate::special_tokens::{self, BOS_TEXT, Sources, Special, TokenizerFile};
use crate::value::{Array, Value};
use crate::{Error, json};

/// The pre-tokenizer name of both LFM2 vocabularies in GGUF.
pub(crate) const PRE_LFM2: &str = "lfm2";

/// All a checkpoint says about text.
pub(crate) struct TextData {
    pub vocabulary: Vocabulary,
    pub special_tokens: SpecialTokens,
    /// Texts of special tokens by the names that templates know them by.
    pub special_texts: Map<String, Json>,
    pub chat_templates: ChatTemplates,
    pub sampling_defaults: SamplingDefaults,
}

/// Reads the text side of GGUF metadata. `vocab` is the number of rows of the embedding table.
pub(crate) fn gguf(
    metadata: &Metadata<'_>,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Result<TextData, Error> {
    let vocabulary = gguf_vocabulary(metadata, vocab, repairs)?;
    let Special { tokens, texts } = special_tokens::of_gguf(metadata, &vocabulary, vocab, repairs);
    Ok(TextData {
        vocabulary,
        special_tokens: tokens,
        special_texts: texts,
        chat_templates: ChatTemplates::of_gguf(metadata, repairs),
        sampling_defaults: sampling_defaults::of_gguf(metadata, repairs),
    })
}

fn gguf_vocabulary(
    metadata: &Metadata<'_>,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Result<Vocabulary, Error> {
    match metadata.text("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(Vocabulary::None),
        Some("gpt2") => {}
        Some(other) => {
            return Err(Error::Unsupported(format!(
                "tokenizer.ggml.model {other:?}; expected gpt2 (byte-level BPE)"
            )));
        }
    }
    let required = |key: &str| -> Result<Vec<String>, Error> {
        let strings = metadata.strings(key)?;
        Ok(strings.ok_or_else(|| Error::config(key, "the key is required and absent"))?.to_vec())
    };
    let tokens = required("tokenizer.ggml.tokens")?;
    if tokens.is_empty() || tokens.len() > vocab {
        let reason = format!(
            "expected 1 to {vocab} tokens, as many as the embedding has rows, found {}",
            tokens.len()
        );
        return Err(Error::config("tokenizer.ggml.tokens", reason));
    }
    let merges = required("tokenizer.ggml.merges")?;
    let key = "tokenizer.ggml.token_type";
    let kinds = match metadata.get(key) {
        Some(Value::Array(Array::I32(kinds))) => kinds.clone(),
        Some(Value::Array(Array::U32(kinds))) => kinds.iter().map(|&kind| kind as i32).collect(),
        Some(other) => return Err(Error::config(key, format!("expected an array of i32, found {other}"))),
        None => {
            repairs.push(format!("{key} is absent; every token was taken for ordinary text."));
            vec![1; tokens.len()]
        }
    };
    if kinds.len() != tokens.len() {
        let reason = format!("expected one entry for each of {} tokens, found {}", tokens.len(), kinds.len());
        return Err(Error::config(key, reason));
    }
    let pre = pre_tokenizer(metadata, &tokens, repairs)?;
    Ok(Vocabulary::Gguf { tokens, kinds, merges, pre })
}

/// The name of the pre-tokenizer. LFM2's vocabulary has LFM2's, whatever the converter took it for.
fn pre_tokenizer(
    metadata: &Metadata<'_>,
    tokens: &[String],
    repairs: &mut Vec<String>,
) -> Result<String, Error> {
    let key = "tokenizer.ggml.pre";
    let used = "used lfm2, the pre-tokenizer of every LFM2 model";
    match metadata.text(key)? {
        Some(PRE_LFM2) => return Ok(PRE_LFM2.to_owned()),
        None => repairs.push(format!("{key} is absent; {used}.")),
        Some(other) if tokens.iter().any(|token| token == BOS_TEXT) => {
            repairs.push(format!("{key} is {}; {used}.", shorten(&other)));
        }
        // Another family's vocabulary in this shape.
        Some(other) => return Ok(other.to_owned()),
    }
    Ok(PRE_LFM2.to_owned())
}

/// The JSON files of a Hugging Face folder that concern text.
#[derive(Default)]
pub(crate) struct HfText<'a> {
    pub config: Option<&'a Json>,
    pub generation_config: Option<Json>,
    pub tokenizer_config: Option<Json>,
    pub special_tokens_map: Option<Json>,
    pub processor: Option<Json>,
    /// The bytes of tokenizer.json.
    pub tokenizer: Option<Vec<u8>>,
    /// Those of files of their own.
    pub chat_templates: ChatTemplates,
}

/// Reads what tokenizer.json says of special tokens.
pub(crate) fn tokenizer_file(bytes: &[u8]) -> Result<TokenizerFile, Error> {
    let fail = |error: serde_json::Error| Error::Json {
        file: "tokenizer.json".to_owned(),
        reason: error.to_string(),
    };
    serde_json::from_slice(bytes).map_err(fail)
}

/// Reads the text side of a folder. `vocab` is the number of rows of the embedding table.
pub(crate) fn hugging_face(
    files: HfText<'_>,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Result<TextData, Error> {
    let bytes = files.tokenizer.map(|bytes| match json::without_mark(&bytes) {
        text if text.len() == bytes.len() => bytes,
        text => text.to_vec(),
    });
    let tokenizer = bytes.as_deref().map(tokenizer_file).transpose()?;
    let or_null = |file: &'_ Option<Json>| file.clone().unwrap_or_default();
    let config = files.config.unwrap_or(&Json::Null);
    let nested = config.get("text_config").unwrap_or(&Json::Null);
    let (generation, tokenizer_config) =
        (or_null(&files.generation_config), or_null(&files.tokenizer_config));
    let (map, processor) = (or_null(&files.special_tokens_map), or_null(&files.processor));
    let sources = Sources {
        with_ids: [("config.json", config), ("config.json", nested), ("generation_config.json", &generation)],
        with_texts: [&tokenizer_config, &map, &processor],
        tokenizer: tokenizer.as_ref(),
    };
    let Special { tokens, texts } = special_tokens::of_folder(&sources, vocab, repairs);
    let of_json = |file: &Json| ChatTemplates::of_json(file.get("chat_template"));
    Ok(TextData {
        vocabulary: bytes.map_or(Vocabulary::None, Vocabulary::HuggingFace),
        special_tokens: tokens,
        special_texts: texts,
        chat_templates: files.chat_templates.or(of_json(&processor)).or(of_json(&tokenizer_config)),
        sampling_defaults: sampling_defaults::of_generation_config(
            "generation_config.json",
            &generation,
            repairs,
        ),
    })
}
