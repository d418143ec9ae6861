//! A tokenizer.json: refused, or it takes a text apart, and with every byte in the vocabulary puts it
//! together again.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use undine_core::{SpecialTokens, Vocabulary};
use undine_text::{Bos, SpecialText, Tokenizer, byte_alphabet};

const TEXT: &str = "Hello, w\u{f6}rld! 12345 <|im_start|>\n\u{8a9e}\u{1f600}  x";

/// Whether no text can get lost: its bytes have tokens, no two tokens one id, and no added token cuts into
/// it.
fn is_complete(file: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(file) else { return false };
    let Some(vocab) = json["model"]["vocab"].as_object() else { return false };
    let ids: HashSet<Option<u64>> = vocab.values().map(Value::as_u64).collect();
    let has = |byte: u8| vocab.contains_key(&byte_alphabet::char_of(byte).to_string());
    let has_added = json["added_tokens"].as_array().is_some_and(|added| !added.is_empty());
    ids.len() == vocab.len() && !has_added && TEXT.bytes().all(has)
}

fuzz_target!(init: undine_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let vocabulary = Vocabulary::HuggingFace(bytes.to_vec());
    let Ok(Some(tokenizer)) = Tokenizer::new(&vocabulary, &SpecialTokens::default()) else { return };
    let ids = tokenizer.encode(TEXT, Bos::Omit);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let text = tokenizer.decode(&ids, SpecialText::Keep);
    assert!(text == TEXT || !is_complete(bytes), "{text:?}");
});
