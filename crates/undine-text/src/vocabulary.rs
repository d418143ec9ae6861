//! Reads a vocabulary, from `tokenizer.json` or from GGUF metadata, into the one form the tokenizer is built
//! from.
//!
//! Invariant: a [`Parts`] has ids below [`TOKENS_MAX`], and no merge results in a text that is longer than
//! every token.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use undine_core::TokenId;

use crate::TextError;

/// Token ids are below this: eight times the largest LFM2 vocabulary.
pub const TOKENS_MAX: usize = 1 << 20;

/// The split pattern of Llama 3, which LFM2 uses (facts of the published `tokenizer.json` files).
const LLAMA3_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// GGUF pre-tokenizer names that mean [`LLAMA3_PATTERN`], whole-word lookup before merging, and BOS in front.
const LLAMA3_NAMES: [&str; 4] = ["lfm2", "llama-bpe", "llama3", "llama-v3"];
/// The GGUF pre-tokenizer name of GPT-2's own pattern.
const GPT2_NAME: &str = "gpt-2";

/// Steps of splitting that published byte-level vocabularies use. Others stay out: the library panics on some
/// of their settings, and none is needed.
const STEPS: [&str; 4] = ["Sequence", "Split", "ByteLevel", "Digits"];

const GGUF_NORMAL: i32 = 1;
const GGUF_CONTROL: i32 = 3;
const GGUF_USER_DEFINED: i32 = 4;

/// A token that is recognised in text before anything is split.
pub struct Added {
    pub id: TokenId,
    pub token: AddedToken,
}

/// A vocabulary, checked.
pub struct Parts {
    /// Text (in the byte-level alphabet, but for added tokens) to id.
    pub vocab: Vocab,
    /// Pairs of token texts, best first.
    pub merges: Merges,
    /// A word that is a token is taken whole, without merging.
    pub ignore_merges: bool,
    pub pre_tokenizer: PreTokenizerWrapper,
    pub added: Vec<Added>,
    /// What the file says of BOS, where `SpecialTokens` does not.
    pub bos: Option<TokenId>,
    pub add_bos: bool,
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedJson>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedJson {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelJson {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<MergeJson>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// Both spellings of a merge that the library has written over time.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    Line(String),
}

/// Reads a `tokenizer.json`.
pub fn from_hugging_face(bytes: &[u8]) -> Result<Parts, TextError> {
    let file: TokenizerJson =
        serde_json::from_slice(bytes).map_err(|error| TextError::TokenizerJson(error.to_string()))?;
    check_supported(&file)?;
    let pre_tokenizer = serde_json::from_value(file.pre_tokenizer)
        .map_err(|error| TextError::TokenizerJson(format!("pre_tokenizer: {error}")))?;
    let mut vocab: Vocab = file.model.vocab.into_iter().collect();
    let mut added = Vec::with_capacity(file.added_tokens.len());
    let mut seen = HashSet::new();
    for AddedJson { id, token } in file.added_tokens {
        if token.content.is_empty() || !seen.insert(token.content.clone()) {
            continue;
        }
        // An added token need not be in the model's own vocabulary; putting it there gives it its id.
        vocab.insert(token.content.clone(), id);
        added.push(Added { id, token });
    }
    check_ids(&vocab)?;
    let merges = file.model.merges.into_iter().enumerate().map(|(rank, merge)| match merge {
        MergeJson::Pair(left, right) => Ok((left, right)),
        MergeJson::Line(line) => split_merge(rank, &line),
    });
    let merges = check_merges(merges, &vocab)?;
    let bos = template_bos(&file.post_processor);
    let ignore_merges = file.model.ignore_merges;
    Ok(Parts { vocab, merges, ignore_merges, pre_tokenizer, added, bos, add_bos: bos.is_some() })
}

/// Reads the vocabulary of a GGUF file; `tokens` and `kinds` by id.
pub fn from_gguf(tokens: &[String], kinds: &[i32], merges: &[String], pre: &str) -> Result<Parts, TextError> {
    let is_llama3 = LLAMA3_NAMES.contains(&pre);
    let pre_tokenizer = match pre {
        _ if is_llama3 => llama3_pre_tokenizer(),
        GPT2_NAME => ByteLevel::new(false, true, true).into(),
        _ => {
            let known = LLAMA3_NAMES.iter().chain([&GPT2_NAME]).copied().collect::<Vec<_>>().join(", ");
            return Err(TextError::UnknownPreTokenizer { found: pre.to_owned(), known });
        }
    };
    if !kinds.is_empty() && kinds.len() != tokens.len() {
        return Err(TextError::KindCount { tokens: tokens.len(), kinds: kinds.len() });
    }
    let mut vocab = Vocab::with_capacity_and_hasher(tokens.len().min(TOKENS_MAX), Default::default());
    let mut added = Vec::new();
    for (id, text) in tokens.iter().enumerate().take(TOKENS_MAX + 1) {
        // Padding entries may be empty, and broken converters repeat a text: the first id keeps it.
        if text.is_empty() || vocab.contains_key(text) {
            continue;
        }
        let kind = kinds.get(id).copied().unwrap_or(GGUF_NORMAL);
        vocab.insert(text.clone(), id as TokenId);
        if kind == GGUF_CONTROL || kind == GGUF_USER_DEFINED {
            let token = AddedToken::from(text.as_str(), kind == GGUF_CONTROL).normalized(false);
            added.push(Added { id: id as TokenId, token });
        }
    }
    check_ids(&vocab)?;
    let merges = merges.iter().enumerate().map(|(rank, line)| split_merge(rank, line));
    let merges = check_merges(merges, &vocab)?;
    Ok(Parts { vocab, merges, ignore_merges: is_llama3, pre_tokenizer, added, bos: None, add_bos: is_llama3 })
}

/// What splits text as Llama 3 does.
pub fn llama3_pre_tokenizer() -> PreTokenizerWrapper {
    llama3_with(true)
}

/// Offsets, which may be trimmed, are not used here.
fn llama3_with(trim_offsets: bool) -> PreTokenizerWrapper {
    let pattern = SplitPattern::Regex(LLAMA3_PATTERN.to_owned());
    let split =
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("the pattern is a constant");
    let bytes = ByteLevel::new(false, trim_offsets, false);
    Sequence::new(vec![split.into(), bytes.into()]).into()
}

/// Whether text is split with [`LLAMA3_PATTERN`] and nothing else.
pub fn is_llama3(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    [true, false].iter().any(|&trim| *pre_tokenizer == llama3_with(trim))
}

/// Whether text is split with GPT-2's pattern and nothing else.
pub fn is_gpt2(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    [true, false].iter().any(|&trim| *pre_tokenizer == ByteLevel::new(false, trim, true).into())
}

/// Refuses what would be tokenized wrongly. The decoder matters because decoding here is always byte-level.
fn check_supported(file: &TokenizerJson) -> Result<(), TextError> {
    let refuse = |found: String, expected| Err(TextError::Unsupported { found, expected });
    let model = &file.model;
    match model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(kind) => return refuse(format!("model type {kind:?}"), "byte-level \"BPE\""),
    }
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if model.byte_fallback || model.dropout.is_some_and(|rate| rate > 0.0) {
        return refuse("byte_fallback or dropout".to_owned(), "byte-level BPE without either");
    }
    if set(&model.unk_token) || set(&model.continuing_subword_prefix) || set(&model.end_of_word_suffix) {
        return refuse(
            "an unknown token, subword prefix or word suffix".to_owned(),
            "byte-level BPE without them",
        );
    }
    if !file.normalizer.is_null() {
        return refuse(format!("the normalizer {}", kind_of(&file.normalizer)), "no normalizer");
    }
    if !mentions(&file.pre_tokenizer, "ByteLevel") {
        return refuse("a pre-tokenizer without a ByteLevel step".to_owned(), "a ByteLevel step");
    }
    if let Some(step) = unknown_step(&file.pre_tokenizer) {
        return refuse(
            format!("the pre-tokenizer {}", kind_of(step)),
            "Sequence, Split, ByteLevel or Digits",
        );
    }
    if !mentions(&file.decoder, "ByteLevel") {
        return refuse(format!("the decoder {}", kind_of(&file.decoder)), "the decoder ByteLevel");
    }
    Ok(())
}

fn kind_of(step: &Json) -> String {
    step.get("type").map_or_else(|| "(none)".to_owned(), Json::to_string)
}

/// The first pre-tokenizer step that is not one of [`STEPS`].
fn unknown_step(step: &Json) -> Option<&Json> {
    let kind = step.get("type").and_then(Json::as_str);
    if !kind.is_some_and(|kind| STEPS.contains(&kind)) {
        return Some(step);
    }
    step.get("pretokenizers").and_then(Json::as_array)?.iter().find_map(unknown_step)
}

/// Whether a step, or a step inside it, has this type. Depth is limited by the JSON reader.
fn mentions(step: &Json, kind: &str) -> bool {
    match step {
        Json::Object(fields) => {
            fields.get("type").and_then(Json::as_str) == Some(kind)
                || fields.values().any(|field| mentions(field, kind))
        }
        Json::Array(steps) => steps.iter().any(|step| mentions(step, kind)),
        _ => false,
    }
}

/// The id a `TemplateProcessing` step puts in front of a text, if it puts one.
fn template_bos(step: &Json) -> Option<TokenId> {
    if step.get("type").and_then(Json::as_str) == Some("TemplateProcessing") {
        let name = step.pointer("/single/0/SpecialToken/id")?.as_str()?;
        let id = step.get("special_tokens")?.get(name)?.pointer("/ids/0")?.as_u64()?;
        return TokenId::try_from(id).ok();
    }
    step.get("processors")?.as_array()?.iter().find_map(template_bos)
}

fn check_ids(vocab: &Vocab) -> Result<(), TextError> {
    match vocab.values().max() {
        None => Err(TextError::EmptyVocabulary),
        Some(&id) if id as usize >= TOKENS_MAX => {
            Err(TextError::TooManyTokens { id: u64::from(id), limit: TOKENS_MAX })
        }
        Some(_) => Ok(()),
    }
}

fn split_merge(rank: usize, line: &str) -> Result<(String, String), TextError> {
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(TextError::MergeFormat { rank, found: line.to_owned() }),
    }
}

/// The library panics on a merge whose result is longer than every token, so such are refused here.
fn check_merges(
    merges: impl Iterator<Item = Result<(String, String), TextError>>,
    vocab: &Vocab,
) -> Result<Merges, TextError> {
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let mut checked = Merges::with_capacity(merges.size_hint().0);
    for (rank, merge) in merges.enumerate() {
        let (left, right) = merge?;
        if left.len() + right.len() > longest {
            return Err(TextError::MergeUnknown { rank, missing: left + &right });
        }
        checked.push((left, right));
    }
    Ok(checked)
}

/// The first merge with a token that does not exist. The library looks them up too, so this is for when it
/// has found one.
pub fn unknown_merge(parts: &Parts) -> Option<TextError> {
    parts.merges.iter().enumerate().find_map(|(rank, (left, right))| {
        let texts = [left.clone(), right.clone(), format!("{left}{right}")];
        let missing = texts.into_iter().find(|text| !parts.vocab.contains_key(text))?;
        Some(TextError::MergeUnknown { rank, missing })
    })
}
