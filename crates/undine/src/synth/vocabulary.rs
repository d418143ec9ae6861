//! A made-up byte-level vocabulary of the true size, with the special tokens at their true ids, so that a
//! file of random weights loads and answers (nonsense) everywhere.
//!
//! The words are all strings of up to four characters in a fixed order, each but the first level made by one
//! merge.

use std::collections::HashSet;

use undine_text::byte_alphabet;
use undine_weights::{Array, Value};

use super::shapes::{Shape, SpecialLayout};

/// Kinds of tokens, GGUF's numbers.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// First id of the special tokens in the vocabulary of 128,000.
const EXTENDED_BASE: usize = 124_893;
/// Special tokens by their distance from the first.
const SPECIAL: [&str; 14] = [
    "<|pad|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|fim_pre|>",
    "<|fim_mid|>",
    "<|fim_suf|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_list_start|>",
    "<|tool_list_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool_response_start|>",
    "<|tool_response_end|>",
];
const BOS: usize = 1;
const EOS: usize = 7;
const PAD: usize = 0;
/// First id of the tokens of images in the vocabulary of 65,536, and their distance from the first special
/// token in the larger.
const IMAGE: usize = 396;
const IMAGE_EXTENDED: usize = 14;
/// Rows and columns of tiles that have a token.
const TILES: usize = 10;
/// First ids of `<think>` and `</think>` in the vocabulary of 65,536. In the larger one they are not known,
/// and left out.
const THINK: usize = 64_400;

/// The layout all LFM2 templates share, without tools.
const TEMPLATE: &str = concat!(
    "{{ bos_token }}{% for message in messages %}",
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
);

/// The tokenizer's metadata for a shape.
pub fn metadata(shape: &Shape) -> Vec<(String, Value)> {
    let base = match shape.special_ids {
        SpecialLayout::First => 0,
        SpecialLayout::Extended => EXTENDED_BASE,
    };
    let mut tokens: Vec<Option<String>> = vec![None; shape.vocab];
    let mut kinds = vec![NORMAL; shape.vocab];
    let image = if base == 0 { IMAGE } else { base + IMAGE_EXTENDED };
    let mut special: Vec<(usize, String, i32)> =
        SPECIAL.iter().enumerate().map(|(i, &text)| (base + i, text.to_owned(), CONTROL)).collect();
    special.extend(image_tokens().into_iter().enumerate().map(|(i, text)| (image + i, text, CONTROL)));
    if shape.special_ids == SpecialLayout::First {
        special.extend(
            ["<think>", "</think>"]
                .into_iter()
                .zip(THINK..)
                .map(|(text, id)| (id, text.to_owned(), USER_DEFINED)),
        );
    }
    for (id, text, kind) in special {
        if let Some(place) = tokens.get_mut(id) {
            *place = Some(text);
            kinds[id] = kind;
        }
    }
    let mut words = Words::new();
    let mut merges = Vec::new();
    for place in tokens.iter_mut().filter(|place| place.is_none()) {
        let (text, merge) = words.next_word();
        merges.extend(merge);
        *place = Some(text);
    }
    let tokens = tokens.into_iter().map(|token| token.expect("every place was filled")).collect();
    let text = |value: &str| Value::String(value.to_owned());
    let id = |offset: usize| Value::U32((base + offset) as u32);
    let pairs = [
        ("model", text("gpt2")),
        ("pre", text("lfm2")),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", Value::Array(Array::I32(kinds))),
        ("merges", Value::Array(Array::String(merges))),
        ("bos_token_id", id(BOS)),
        ("eos_token_id", id(EOS)),
        ("padding_token_id", id(PAD)),
        ("add_bos_token", Value::Bool(true)),
        ("add_eos_token", Value::Bool(false)),
        ("add_space_prefix", Value::Bool(false)),
    ];
    let mut pairs: Vec<_> =
        pairs.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    pairs.push(("tokenizer.chat_template".to_owned(), text(TEMPLATE)));
    pairs
}

/// The special tokens of images in the order of their ids.
fn image_tokens() -> Vec<String> {
    let tile = |i: usize| format!("<|img_row_{}_col_{}|>", i / TILES + 1, i % TILES + 1);
    let after = ["<|img_thumbnail|>", "<|image_start|>", "<|image_end|>"].map(str::to_owned);
    std::iter::once("<image>".to_owned()).chain((0..TILES * TILES).map(tile)).chain(after).collect()
}

/// Endless words: all bytes, then every known word with every letter after it, shortest first.
struct Words {
    /// Words so far; `next` is the one being extended.
    words: Vec<String>,
    known: HashSet<String>,
    next: usize,
    letter: u8,
}

impl Words {
    fn new() -> Self {
        Self { words: Vec::new(), known: HashSet::new(), next: 0, letter: b'a' }
    }

    /// The next word and the merge that makes it.
    fn next_word(&mut self) -> (String, Option<String>) {
        if let Ok(byte) = u8::try_from(self.words.len()) {
            // Letters first, so that the shortest words are words.
            let text = byte_alphabet::char_of(byte).to_string();
            self.known.insert(text.clone());
            self.words.push(text.clone());
            return (text, None);
        }
        loop {
            let start = self.words[self.next].clone();
            let letter = char::from(self.letter);
            if self.letter == b'z' {
                self.letter = b'a';
                self.next += 1;
            } else {
                self.letter += 1;
            }
            let text = format!("{start}{letter}");
            if is_word(&start) && self.known.insert(text.clone()) {
                self.words.push(text.clone());
                return (text, Some(format!("{start} {letter}")));
            }
        }
    }
}

/// Whether a text is letters, with or without a space in front: what a pre-tokenizer leaves in one piece.
fn is_word(text: &str) -> bool {
    let letters = text.strip_prefix(byte_alphabet::char_of(b' ')).unwrap_or(text);
    letters.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use undine_core::{SpecialTokens, Vocabulary};
    use undine_text::{Bos, SpecialText, Tokenizer};

    use super::*;
    use crate::synth::shapes;

    #[test]
    fn text_survives_the_made_up_vocabularies() {
        for name in ["tiny", "LFM2-350M", "LFM2.5-2.6B"] {
            let shape = shapes::find(name).expect("carried");
            let pairs = metadata(&shape);
            let array = |key: &str| match pairs.iter().find(|(name, _)| name.ends_with(key)) {
                Some((_, Value::Array(array))) => array.clone(),
                other => panic!("{key}: {other:?}"),
            };
            let strings = |key| array(key).as_strings().expect("strings").to_vec();
            let Array::I32(kinds) = array("token_type") else { panic!("token types") };
            let vocabulary = Vocabulary::Gguf {
                tokens: strings("tokens"),
                kinds,
                merges: strings("merges"),
                pre: "lfm2".to_owned(),
            };
            let tokenizer = Tokenizer::new(&vocabulary, &SpecialTokens::default())
                .expect("builds")
                .expect("has a vocabulary");
            assert_eq!(tokenizer.vocab_size(), shape.vocab);
            let text = "Größe, the quick brown fox\n\t日本語 <|im_end|>";
            let ids = tokenizer.encode(text, Bos::Omit);
            assert_eq!(tokenizer.decode(&ids, SpecialText::Keep), text, "{name}");
            let end = tokenizer.token_id("<|im_end|>").expect("a special token");
            assert_eq!(end % 124_893, 7);
            let image = tokenizer.token_id("<|image_end|>").expect("a special token");
            assert!([499, 125_010].contains(&image), "{name}: {image}");
            assert!(ids.contains(&end));
        }
    }
}
