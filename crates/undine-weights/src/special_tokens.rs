//! Special tokens: their ids from all places that name them, and their texts as templates may use them.
//!
//! A tokenizer's configuration names tokens by text and is right about them; ids in other files are asked
//! where it says nothing. An id that is none is told and ignored: it does not keep a model from running.

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use undine_core::{SpecialTokens, TokenId, Vocabulary};

use crate::config_gguf::Metadata;
use crate::config_hf::{json_boolean, json_integer, json_number, shorten};
use crate::limits::{EOS_MAX, SPECIAL_TEXTS_MAX};
use crate::value::Value;

/// Texts of tokens that end a generation, whatever else a file says.
const END_TEXTS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];
/// The text of the token that begins a sequence.
pub(crate) const BOS_TEXT: &str = "<|startoftext|>";
/// Keys of ids in GGUF, and what their tokens are called in templates.
const GGUF_NAMES: [(&str, &str); 7] = [
    ("bos_token_id", "bos_token"),
    ("eos_token_id", "eos_token"),
    ("padding_token_id", "pad_token"),
    ("unknown_token_id", "unk_token"),
    ("seperator_token_id", "sep_token"),
    ("cls_token_id", "cls_token"),
    ("mask_token_id", "mask_token"),
];

/// Special tokens, and their texts by the names that templates know them by.
pub(crate) struct Special {
    pub tokens: SpecialTokens,
    pub texts: Map<String, Json>,
}

/// An id, or what stands in the place of one.
enum Stated {
    Id(TokenId),
    /// Null, -1, and the -1 of unsigned numbers.
    Nothing,
    Odd,
}

impl Stated {
    fn of(number: Option<f64>, integer: Option<u64>) -> Self {
        match (integer, number) {
            (Some(id), _) if id == u64::from(u32::MAX) || id == u64::MAX => Self::Nothing,
            (Some(id), _) => id.try_into().map_or(Self::Odd, Self::Id),
            (None, Some(-1.0)) => Self::Nothing,
            _ => Self::Odd,
        }
    }
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

/// Reads those of a GGUF file. `vocab` is the number of rows of the embedding table.
pub(crate) fn of_gguf(
    metadata: &Metadata<'_>,
    vocabulary: &Vocabulary,
    vocab: usize,
    repairs: &mut Vec<String>,
) -> Special {
    let mut ids = |name: &str| -> Vec<TokenId> {
        let key = format!("tokenizer.ggml.{name}");
        let entries: Vec<Value> = match metadata.get(&key) {
            None => Vec::new(),
            Some(Value::Array(ids)) => (0..ids.len().min(EOS_MAX)).filter_map(|i| ids.get(i)).collect(),
            Some(one) => vec![one.clone()],
        };
        let mut odd = None;
        let mut found = Vec::new();
        for value in entries {
            match Stated::of(value.as_f64(), value.as_u64()) {
                Stated::Id(id) => found.push(id),
                Stated::Nothing => {}
                Stated::Odd => odd = odd.or(Some(value)),
            }
        }
        if let Some(value) = odd {
            repairs.push(format!("{key} is {}, expected a token id; it was ignored.", shorten(&value)));
        }
        found
    };
    let named = GGUF_NAMES.map(|(key, name)| (name, ids(key)));
    let of = |name: &str| named.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, ids)| ids);
    let mut tokens = SpecialTokens {
        bos: of("bos_token").first().copied(),
        eos: Vec::new(),
        pad: of("pad_token").first().copied(),
        add_bos: None,
    };
    let ends = ["eot_token_id", "eom_token_id", "eos_token_ids"].map(&mut ids);
    for id in of("eos_token").iter().chain(ends.iter().flatten()) {
        add_eos(&mut tokens, Some(*id));
    }
    let mut texts = Map::new();
    if let Vocabulary::Gguf { tokens: all, .. } = vocabulary {
        let find = |text: &str| all.iter().position(|token| token == text).map(|id| id as TokenId);
        END_TEXTS.iter().for_each(|text| add_eos(&mut tokens, find(text)));
        tokens.bos = tokens.bos.or_else(|| find(BOS_TEXT));
        for (name, ids) in &named {
            let text = ids.first().and_then(|&id| all.get(id as usize)).filter(|text| !text.is_empty());
            texts.extend(text.map(|text| ((*name).to_owned(), Json::from(text.as_str()))));
        }
    }
    let key = "tokenizer.ggml.add_bos_token";
    tokens.add_bos = metadata.boolean(key).unwrap_or_else(|error| {
        repairs.push(format!("{error}; it was ignored."));
        None
    });
    drop_out_of_range(&mut tokens, vocab, repairs);
    Special { tokens, texts }
}

/// The part of tokenizer.json that names special tokens.
#[derive(Deserialize)]
pub(crate) struct TokenizerFile {
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

impl TokenizerFile {
    /// The id of an added token.
    pub(crate) fn find(&self, text: &str) -> Option<TokenId> {
        Some(self.added_tokens.iter().find(|token| token.content == text)?.id)
    }

    /// Added tokens by id.
    pub(crate) fn added(&self) -> impl Iterator<Item = (TokenId, &str)> {
        self.added_tokens.iter().map(|token| (token.id, token.content.as_str()))
    }
}

/// The JSON files of a folder that name special tokens, each with its name.
pub(crate) struct Sources<'a> {
    /// Files with ids, in order of their word.
    pub with_ids: [(&'static str, &'a Json); 3],
    /// Files with texts, in order of their word: tokenizer_config.json, special_tokens_map.json,
    /// processor_config.json.
    pub with_texts: [&'a Json; 3],
    pub tokenizer: Option<&'a TokenizerFile>,
}

/// Reads those of a folder. `vocab` is the number of rows of the embedding table.
pub(crate) fn of_folder(sources: &Sources<'_>, vocab: usize, repairs: &mut Vec<String>) -> Special {
    let find = |text: &str| sources.tokenizer?.find(text);
    let texts = texts(&sources.with_texts);
    let named = |name: &str| find(texts.get(name)?.as_str()?);
    let mut tokens = SpecialTokens { bos: named("bos_token"), pad: named("pad_token"), ..Default::default() };
    for (file, source) in sources.with_ids {
        let mut ids = |key: &str| token_ids(file, key, source, repairs);
        ids("eos_token_id").into_iter().for_each(|id| add_eos(&mut tokens, Some(id)));
        tokens.bos = tokens.bos.or(ids("bos_token_id").first().copied());
        tokens.pad = tokens.pad.or(ids("pad_token_id").first().copied());
    }
    add_eos(&mut tokens, named("eos_token"));
    END_TEXTS.iter().for_each(|text| add_eos(&mut tokens, find(text)));
    tokens.bos = tokens.bos.or_else(|| find(BOS_TEXT));
    let processor = sources.tokenizer.and_then(|tokenizer| tokenizer.post_processor.as_ref());
    let begins = [texts.get("bos_token").and_then(Json::as_str), Some(BOS_TEXT)];
    let [tokenizer_config, ..] = sources.with_texts;
    tokens.add_bos = boolean(tokenizer_config, "add_bos_token", repairs)
        .or_else(|| processor.map(|processor| starts_with_special(processor, &begins)));
    drop_out_of_range(&mut tokens, vocab, repairs);
    Special { tokens, texts }
}

/// Ids under `key`: one, a list, or nothing.
fn token_ids(file: &str, key: &str, source: &Json, repairs: &mut Vec<String>) -> Vec<TokenId> {
    let entries = match source.get(key) {
        None => &[],
        Some(Json::Array(ids)) => ids.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let (mut found, mut odd) = (Vec::new(), None);
    for value in entries.iter().take(EOS_MAX).filter(|value| !value.is_null()) {
        match Stated::of(json_number(value), json_integer(value).map(|id| id as u64)) {
            Stated::Id(id) => found.push(id),
            Stated::Nothing => {}
            Stated::Odd => odd = odd.or(Some(value)),
        }
    }
    if let Some(value) = odd {
        let value = shorten(value);
        repairs.push(format!("{file}: {key} is {value}, expected a token id; it was ignored."));
    }
    found
}

fn boolean(config: &Json, key: &str, repairs: &mut Vec<String>) -> Option<bool> {
    let value = config.get(key).filter(|value| !value.is_null())?;
    let read = json_boolean(value);
    if read.is_none() {
        let found = shorten(value);
        repairs.push(format!(
            "tokenizer_config.json: {key} is {found}, expected true or false; it was ignored."
        ));
    }
    read
}

/// The text of a token in tokenizer_config.json: a string, or an object with its content.
fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// All named texts: `bos_token` and whatever else ends in `_token`, the lists of additional ones, and those
/// that have names of their own. The first file that has a name is right.
fn texts(files: &[&Json]) -> Map<String, Json> {
    let mut texts = Map::new();
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value
            && texts.len() < SPECIAL_TEXTS_MAX
            && !texts.contains_key(name)
        {
            texts.insert(name.to_owned(), value);
        }
    };
    let text = |value: &Json| token_text(value).map(Json::from);
    let list = |values: &[Json]| -> Json { values.iter().take(SPECIAL_TEXTS_MAX).filter_map(text).collect() };
    for (key, value) in files.iter().filter_map(|file| file.as_object()).flatten() {
        match (key.as_str(), value) {
            ("additional_special_tokens" | "extra_special_tokens", Json::Array(values)) => {
                put("additional_special_tokens", Some(list(values)));
            }
            ("extra_special_tokens" | "model_specific_special_tokens", Json::Object(named)) => {
                named.iter().for_each(|(name, value)| put(name, text(value)));
            }
            (name, value) if name.ends_with("_token") => put(name, text(value)),
            _ => {}
        }
    }
    texts
}

/// Whether a post-processor of tokenizer.json puts one of `texts` in front of a single text.
fn starts_with_special(processor: &Json, texts: &[Option<&str>]) -> bool {
    if let Some(Json::Array(processors)) = processor.get("processors") {
        return processors.iter().any(|processor| starts_with_special(processor, texts));
    }
    let first = processor.get("single").and_then(|single| single.get(0));
    let id = first.and_then(|first| first.get("SpecialToken")?.get("id")?.as_str());
    id.is_some_and(|id| texts.contains(&Some(id)))
}
