//! tokenizer.json as the token, kind and merge lists that GGUF keeps, and back.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use undine_core::{TokenId, Vocabulary};

use crate::Error;
use crate::vocabulary::PRE_LFM2;

/// The split pattern of every LFM2 vocabulary; GGUF knows it only by the name `lfm2`.
const PATTERN_LFM2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token kinds of GGUF.
const KIND_NORMAL: i32 = 1;
const KIND_CONTROL: i32 = 3;
const KIND_USER_DEFINED: i32 = 4;
const KIND_UNUSED: i32 = 5;

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pre_tokenizer: Json,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, TokenId>,
    merges: Vec<Merge>,
}

/// Older files write a merge as one string, newer ones as a pair.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair([String; 2]),
}

/// Converts the bytes of a tokenizer.json for an embedding of `vocab` rows.
///
/// # Errors
/// If it is not the byte-level BPE with the split pattern of LFM2, because GGUF could not say so.
pub(crate) fn gguf_vocabulary(bytes: &[u8], vocab: usize) -> Result<Vocabulary, Error> {
    let file: TokenizerFile = serde_json::from_slice(bytes)
        .map_err(|error| Error::Json { file: "tokenizer.json".to_owned(), reason: error.to_string() })?;
    if file.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(Error::Write(format!("the tokenizer is {:?}, expected BPE", file.model.kind)));
    }
    let mut patterns = Vec::new();
    split_patterns(&file.pre_tokenizer, &mut patterns);
    if patterns != [PATTERN_LFM2] {
        let reason =
            format!("the tokenizer splits text by {patterns:?}; GGUF has a name for LFM2's pattern only");
        return Err(Error::Write(reason));
    }
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; vocab];
    let mut place = |id: TokenId, text: String, kind: i32| match tokens.get_mut(id as usize) {
        Some(token) => {
            *token = Some((text, kind));
            Ok(())
        }
        None => Err(Error::Write(format!("token {text:?} has id {id}, but the embedding has {vocab} rows"))),
    };
    file.model.vocab.into_iter().try_for_each(|(text, id)| place(id, text, KIND_NORMAL))?;
    for AddedToken { id, content, special } in file.added_tokens {
        place(id, content, if special { KIND_CONTROL } else { KIND_USER_DEFINED })?;
    }
    let named = |(id, token): (usize, Option<(String, i32)>)| {
        token.unwrap_or_else(|| (format!("[PAD{id}]"), KIND_UNUSED))
    };
    let (tokens, kinds) = tokens.into_iter().enumerate().map(named).unzip();
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Text(text) => text,
        Merge::Pair([left, right]) => format!("{left} {right}"),
    });
    Ok(Vocabulary::Gguf { tokens, kinds, merges: merges.collect(), pre: PRE_LFM2.to_owned() })
}

/// Writes the lists of a GGUF file as a tokenizer.json; `bos` is put in front of every text if it is given.
///
/// # Errors
/// If the vocabulary splits text in another way than LFM2's, because the lists do not say how.
pub(crate) fn tokenizer_json(
    (tokens, kinds): (&[String], &[i32]),
    merges: &[String],
    pre: &str,
    bos: Option<TokenId>,
) -> Result<Vec<u8>, Error> {
    if pre != PRE_LFM2 {
        let reason = format!("tokenizer.ggml.pre is {pre:?}; only {PRE_LFM2:?} can become a tokenizer.json");
        return Err(Error::Unsupported(reason));
    }
    let known = || tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| **kind != KIND_UNUSED);
    let vocab: Map<String, Json> = known().map(|(id, (text, _))| (text.clone(), id.into())).collect();
    let added = known().filter(|(_, (_, kind))| [KIND_CONTROL, KIND_USER_DEFINED].contains(kind));
    let added: Vec<Json> = added
        .map(|(id, (text, kind))| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == KIND_CONTROL,
            })
        })
        .collect();
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let begin = bos.and_then(|id| Some((id, tokens.get(id as usize)?)));
    let post_processor = begin.map_or(Json::Null, |(id, text)| {
        let special = json!({"SpecialToken": {"id": text, "type_id": 0}});
        json!({
            "type": "TemplateProcessing",
            "single": [special, sequence("A")],
            "pair": [special, sequence("A"), sequence("B")],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
        })
    });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN_LFM2}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        // By its name the pre-tokenizer takes a word that is a token whole, without merging.
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab,
            "merges": merges.iter().map(|merge| merge.split_once(' ').map_or(json!(merge), |pair| json!(pair))).collect::<Vec<_>>(),
        },
    });
    Ok(file.to_string().into_bytes())
}

/// Collects the regular expressions of a pre-tokenizer, in order.
fn split_patterns(value: &Json, patterns: &mut Vec<String>) {
    if let Some(pattern) = value.get("pattern").and_then(|pattern| pattern.get("Regex")?.as_str()) {
        patterns.push(pattern.to_owned());
    }
    for part in value.get("pretokenizers").and_then(Json::as_array).into_iter().flatten() {
        split_patterns(part, patterns);
    }
}
