//! Vocabulary, special tokens, chat template and sampling defaults, from either format.

use serde::Deserialize;
use serde_json::Value as Json;
use undine_core::{SpecialTokens, TokenId, Vocabulary};

use crate::Error;
use crate::config_gguf::Metadata;
use crate::config_hf::json_integer;
use crate::limits::EOS_MAX;
use crate::value::{Array, Value};

/// Texts of tokens that end a generation, whatever else a file says.
const END_TEXTS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];
/// The text of the token that begins a sequence.
const BOS_TEXT: &str = "<|startoftext|>";
/// The pre-tokenizer name of both LFM2 vocabularies in GGUF.
pub(crate) const PRE_LFM2: &str = "lfm2";

/// The sampling parameters a checkpoint recommends; `None` where it says nothing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct SamplingDefaults {
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keep the k best tokens.
    pub top_k: Option<u32>,
    /// Keep the smallest set of best tokens with at least this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this fraction of the best token's probability.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen.
    pub repetition_penalty: Option<f32>,
}

/// All a checkpoint says about text.
pub(crate) struct TextData {
    pub vocabulary: Vocabulary,
    pub special_tokens: SpecialTokens,
    pub chat_template: Option<String>,
    pub sampling_defaults: SamplingDefaults,
}

/// Adds an end-of-sequence id once; a damaged list cannot grow without bound.
fn add_eos(tokens: &mut SpecialTokens, id: Option<TokenId>) {
    if let Some(id) = id
        && !tokens.eos.contains(&id)
        && tokens.eos.len() < EOS_MAX
    {
        tokens.eos.push(id);
    }
}

/// Drops special ids the embedding table does not have.
fn drop_out_of_range(tokens: &mut SpecialTokens, vocab: usize, repairs: &mut Vec<String>) {
    let mut drop = |role: &str, id: TokenId| {
        let keep = (id as usize) < vocab;
        if !keep {
            repairs
                .push(format!("The {role} token {id} is beyond the vocabulary of {vocab} and was ignored."));
        }
        keep
    };
    tokens.bos = tokens.bos.filter(|&id| drop("beginning-of-sequence", id));
    tokens.pad = tokens.pad.filter(|&id| drop("padding", id));
    tokens.eos.retain(|&id| drop("end-of-sequence", id));
}

/// Reads the text side of GGUF metadata. `vocab` is the number of rows of the embedding table.
pub(crate) fn gguf(
    metadata: &Metadata<'_>,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Result<TextData, Error> {
    let vocabulary = gguf_vocabulary(metadata, vocab, repairs)?;
    let id = |key: &str| -> Result<Option<TokenId>, Error> {
        let key = format!("tokenizer.ggml.{key}");
        let id = metadata.integer(&key)?;
        id.map(|id| id.try_into().map_err(|_| Error::config(key, format!("expected a token id, found {id}"))))
            .transpose()
    };
    let mut tokens = SpecialTokens {
        bos: id("bos_token_id")?,
        eos: Vec::new(),
        pad: id("padding_token_id")?,
        add_bos: metadata.boolean("tokenizer.ggml.add_bos_token")?,
    };
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        add_eos(&mut tokens, id(key)?);
    }
    if let Some(Value::Array(ids)) = metadata.get("tokenizer.ggml.eos_token_ids") {
        let ids = (0..ids.len().min(EOS_MAX)).filter_map(|i| ids.get(i)?.as_u64()?.try_into().ok());
        ids.for_each(|id| add_eos(&mut tokens, Some(id)));
    }
    if let Vocabulary::Gguf { tokens: texts, .. } = &vocabulary {
        let find = |text: &str| texts.iter().position(|token| token == text).map(|id| id as TokenId);
        END_TEXTS.iter().for_each(|text| add_eos(&mut tokens, find(text)));
        tokens.bos = tokens.bos.or_else(|| find(BOS_TEXT));
    }
    drop_out_of_range(&mut tokens, vocab, repairs);
    let number = |key: &str| -> Result<Option<f32>, Error> {
        Ok(metadata.number(&format!("general.sampling.{key}"))?.map(|x| x as f32).filter(|x| x.is_finite()))
    };
    let sampling_defaults = SamplingDefaults {
        temperature: number("temp")?,
        top_k: metadata.integer("general.sampling.top_k")?.and_then(|k| k.try_into().ok()),
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
    };
    let chat_template = metadata.text("tokenizer.chat_template")?.map(str::to_owned);
    Ok(TextData { vocabulary, special_tokens: tokens, chat_template, sampling_defaults })
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
    let pre = match metadata.text("tokenizer.ggml.pre")? {
        Some(PRE_LFM2) => PRE_LFM2.to_owned(),
        Some("llama-bpe") => {
            repairs.push(
                "tokenizer.ggml.pre is llama-bpe; used lfm2, the pre-tokenizer of every LFM2 model."
                    .to_owned(),
            );
            PRE_LFM2.to_owned()
        }
        None => {
            repairs.push(
                "tokenizer.ggml.pre is absent; used lfm2, the pre-tokenizer of every LFM2 model.".to_owned(),
            );
            PRE_LFM2.to_owned()
        }
        Some(other) => other.to_owned(),
    };
    Ok(Vocabulary::Gguf { tokens, kinds, merges, pre })
}

/// The JSON files of a Hugging Face folder that concern text.
#[derive(Default)]
pub(crate) struct HfText<'a> {
    pub config: Option<&'a Json>,
    pub generation_config: Option<Json>,
    pub tokenizer_config: Option<Json>,
    /// The bytes of tokenizer.json.
    pub tokenizer: Option<Vec<u8>>,
    /// chat_template.jinja.
    pub chat_template: Option<String>,
}

/// The part of tokenizer.json that names special tokens.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Option<Json>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
}

/// Reads the text side of a folder. `vocab` is the number of rows of the embedding table.
pub(crate) fn hugging_face(
    files: HfText<'_>,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Result<TextData, Error> {
    let tokenizer: Option<TokenizerFile> =
        match &files.tokenizer {
            None => None,
            Some(bytes) => Some(serde_json::from_slice(bytes).map_err(|error| Error::Json {
                file: "tokenizer.json".to_owned(),
                reason: error.to_string(),
            })?),
        };
    let find = |text: &str| {
        let added = tokenizer.as_ref()?.added_tokens.iter().find(|token| token.content == text)?;
        Some(added.id)
    };
    let config = files.config.unwrap_or(&Json::Null);
    let nested = config.get("text_config").unwrap_or(&Json::Null);
    let generation = files.generation_config.as_ref().unwrap_or(&Json::Null);
    let tokenizer_config = files.tokenizer_config.as_ref().unwrap_or(&Json::Null);
    let named = |key: &str| find(token_text(tokenizer_config.get(key)?)?);

    let mut tokens = SpecialTokens::default();
    for source in [config, nested, generation] {
        let ids = token_ids("eos_token_id", source)?;
        ids.into_iter().for_each(|id| add_eos(&mut tokens, Some(id)));
        tokens.bos = tokens.bos.or(token_ids("bos_token_id", source)?.first().copied());
        tokens.pad = tokens.pad.or(token_ids("pad_token_id", source)?.first().copied());
    }
    add_eos(&mut tokens, named("eos_token"));
    END_TEXTS.iter().for_each(|text| add_eos(&mut tokens, find(text)));
    tokens.bos = tokens.bos.or_else(|| named("bos_token")).or_else(|| find(BOS_TEXT));
    tokens.pad = tokens.pad.or_else(|| named("pad_token"));
    let processor = tokenizer.as_ref().and_then(|tokenizer| tokenizer.post_processor.as_ref());
    tokens.add_bos = tokenizer_config
        .get("add_bos_token")
        .and_then(Json::as_bool)
        .or_else(|| processor.map(|processor| starts_with_special(processor, &bos_texts(tokenizer_config))));
    drop_out_of_range(&mut tokens, vocab, repairs);

    let number =
        |key: &str| generation.get(key).and_then(Json::as_f64).map(|x| x as f32).filter(|x| x.is_finite());
    let sampling_defaults = SamplingDefaults {
        temperature: number("temperature"),
        top_k: generation.get("top_k").and_then(json_integer).and_then(|k| k.try_into().ok()),
        top_p: number("top_p"),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty"),
    };
    let chat_template = files.chat_template.or_else(|| template(tokenizer_config.get("chat_template")?));
    let vocabulary = files.tokenizer.map_or(Vocabulary::None, Vocabulary::HuggingFace);
    Ok(TextData { vocabulary, special_tokens: tokens, chat_template, sampling_defaults })
}

/// Ids under `key`: one, a list, or nothing.
fn token_ids(key: &str, source: &Json) -> Result<Vec<TokenId>, Error> {
    let id = |value: &Json| -> Result<TokenId, Error> {
        let id = json_integer(value).and_then(|id| id.try_into().ok());
        id.ok_or_else(|| Error::config(key, format!("expected a token id, found {value}")))
    };
    match source.get(key) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(ids)) => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

/// The text of a token in tokenizer_config.json: a string, or an object with its content.
fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn bos_texts(tokenizer_config: &Json) -> Vec<String> {
    let named = tokenizer_config.get("bos_token").and_then(token_text).map(str::to_owned);
    named.into_iter().chain([BOS_TEXT.to_owned()]).collect()
}

/// Whether a post-processor of tokenizer.json puts one of `texts` in front of a single text.
fn starts_with_special(processor: &Json, texts: &[String]) -> bool {
    if let Some(Json::Array(processors)) = processor.get("processors") {
        return processors.iter().any(|processor| starts_with_special(processor, texts));
    }
    let first = processor.get("single").and_then(|single| single.get(0));
    let id = first.and_then(|first| first.get("SpecialToken")?.get("id")?.as_str());
    id.is_some_and(|id| texts.iter().any(|text| text == id))
}

/// A chat template: one string, or a list of named ones of which "default" is preferred.
fn template(value: &Json) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let named = value.as_array()?;
    let default = named.iter().find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"));
    Some(default.or(named.first())?.get("template")?.as_str()?.to_owned())
}
