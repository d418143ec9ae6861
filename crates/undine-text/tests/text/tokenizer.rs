//! The tokenizer against the reference's ids, both file formats against each other, and hostile vocabularies.

use std::sync::Arc;

use crate::common::{as_gguf, build, hugging_face, oracle_file, oracle_json};
use proptest::prelude::*;
use serde_json::json;
use undine_core::{SpecialTokens, Vocabulary};
use undine_text::{Bos, Detokenizer, SpecialText, TextError, Tokenizer};

fn stated() -> SpecialTokens {
    SpecialTokens { bos: Some(1), eos: vec![7], pad: Some(0), add_bos: None }
}

/// The oracle's tokenizer from `tokenizer.json` and from GGUF. The reference merges every word, a GGUF file
/// named "lfm2" takes whole words first, so the former is set to do the same.
fn twins() -> (Tokenizer, Tokenizer) {
    let mut json = oracle_json("tokenizer.json");
    json["model"]["ignore_merges"] = json!(true);
    (build(&hugging_face(&json), &stated()), build(&as_gguf(&json), &stated()))
}

fn ids(json: &serde_json::Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn reference_ids() {
    let original = build(&Vocabulary::HuggingFace(oracle_file("tokenizer.json")), &stated());
    let (hugging_face, gguf) = twins();
    let cases = oracle_json("expected.json");
    let cases = cases["tokenizer"].as_array().unwrap();
    assert!(cases.len() >= 4);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for tokenizer in [&original, &hugging_face, &gguf] {
            assert_eq!(tokenizer.encode(text, Bos::Add), ids(&case["ids"]), "{text:?}");
            assert_eq!(tokenizer.encode(text, Bos::Omit), ids(&case["ids_without_bos"]), "{text:?}");
            assert_eq!(tokenizer.decode(&ids(&case["ids"]), SpecialText::Skip), text);
            let shown = tokenizer.decode(&ids(&case["ids"]), SpecialText::Keep);
            assert_eq!(shown, format!("<|startoftext|>{text}"));
        }
    }
}

#[test]
fn special_tokens() {
    let (hugging_face, gguf) = twins();
    for tokenizer in [&hugging_face, &gguf] {
        let chat = "<|startoftext|><|im_start|>user\nHi<|im_end|>";
        let ids = tokenizer.encode(chat, Bos::Omit);
        assert_eq!(ids[..2], [1, 6]);
        assert_eq!(ids.last(), Some(&7));
        assert_eq!(tokenizer.encode(chat, Bos::Add), ids, "BOS is not doubled");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Skip), "user\nHi");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Keep), chat);
        assert_eq!(tokenizer.token_id("<|im_end|>"), Some(7));
        assert_eq!(tokenizer.token_id(" the"), tokenizer.encode(" the", Bos::Omit).first().copied());
        assert_eq!(tokenizer.token_id("<|no such token|>"), None);
        assert_eq!(tokenizer.token_bytes(7), b"<|im_end|>");
        assert!(tokenizer.is_special(7) && !tokenizer.is_special(544));
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), &[7][..], 1024));
        assert_eq!(tokenizer.encode("", Bos::Add), [1]);
        assert_eq!(tokenizer.encode("", Bos::Omit), [0; 0]);
    }
}

#[test]
fn ids_outside_the_vocabulary_are_empty() {
    let (tokenizer, _) = twins();
    for id in [1024, u32::MAX] {
        assert_eq!(tokenizer.token_bytes(id), b"");
        assert!(!tokenizer.is_special(id));
        assert_eq!(tokenizer.decode(&[id, 7], SpecialText::Keep), "<|im_end|>");
    }
}

#[test]
fn default_bos() {
    let json = oracle_json("tokenizer.json");
    let mut without = json.clone();
    without["post_processor"] = json!(null);
    let mut inside = json.clone();
    inside["post_processor"] =
        json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, json["post_processor"]]});
    let silent = SpecialTokens::default();
    let table = [
        (hugging_face(&json), None, &silent, Bos::Add),
        (hugging_face(&inside), None, &silent, Bos::Add),
        (hugging_face(&json), Some(false), &silent, Bos::Omit),
        (hugging_face(&without), None, &stated(), Bos::Omit),
        (hugging_face(&without), Some(true), &stated(), Bos::Add),
        (as_gguf(&json), None, &stated(), Bos::Add),
        (as_gguf(&json), Some(false), &stated(), Bos::Omit),
        (as_gguf(&json), Some(true), &silent, Bos::Omit),
    ];
    for (row, (vocabulary, add_bos, special, expected)) in table.into_iter().enumerate() {
        let special = SpecialTokens { add_bos, ..special.clone() };
        assert_eq!(build(&vocabulary, &special).default_bos(), expected, "row {row}");
    }
}

#[test]
fn no_vocabulary() {
    assert!(Tokenizer::new(&Vocabulary::None, &SpecialTokens::default()).unwrap().is_none());
}

fn gguf(tokens: &[&str], kinds: &[i32], merges: &[&str], pre: &str) -> Result<Option<Tokenizer>, TextError> {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let vocabulary = Vocabulary::Gguf {
        tokens: owned(tokens),
        kinds: kinds.to_vec(),
        merges: owned(merges),
        pre: pre.to_owned(),
    };
    Tokenizer::new(&vocabulary, &SpecialTokens::default())
}

/// Tokens, kinds, merges, pre-tokenizer; part of the error.
type HostileGguf =
    (&'static [&'static str], &'static [i32], &'static [&'static str], &'static str, &'static str);

#[test]
fn hostile_gguf() {
    let table: [HostileGguf; 9] = [
        (&["a"], &[], &[], "sentencepiece", "expected one of lfm2, llama-bpe, llama3, llama-v3, gpt-2"),
        (&["a"], &[], &[], "", "unknown pre-tokenizer \"\""),
        (&[], &[], &[], "lfm2", "vocabulary is empty"),
        (&["", ""], &[], &[], "lfm2", "vocabulary is empty"),
        (&["a", "b"], &[1], &[], "lfm2", "2 tokens but 1 token types"),
        (&["a", "b"], &[], &["a b"], "lfm2", "needs token \"ab\""),
        (&["a", "ab"], &[], &["a b"], "lfm2", "needs token \"b\""),
        (&["a", "b", "ab"], &[], &["a b", "ab"], "lfm2", "merge rule 1 is \"ab\""),
        (&["a", "b", "ab"], &[], &["a  b"], "lfm2", "merge rule 0"),
    ];
    for (tokens, kinds, merges, pre, expected) in table {
        let error = gguf(tokens, kinds, merges, pre).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
}

#[test]
fn imperfect_gguf_is_tolerated() {
    // Twice "a", an empty text, an unused and a padding entry, a byte missing, an odd kind.
    let kinds = [1, 1, 1, 5, 1, 3, 77];
    let tokenizer =
        gguf(&["a", "a", "", "[PAD3]", "b", "<|x|>", "c"], &kinds, &[], "llama-bpe").unwrap().unwrap();
    assert_eq!(tokenizer.encode("ab<|x|>zc", Bos::Add), [0, 4, 5, 6]);
    assert_eq!(tokenizer.decode(&[0, 1, 2, 3, 4, 5, 6], SpecialText::Keep), "a[PAD3]b<|x|>c");
    assert_eq!(tokenizer.vocab_size(), 7);
}

#[test]
fn stated_end_tokens_are_control_tokens() {
    let vocabulary = Vocabulary::Gguf {
        tokens: ["a", "<|end|>"].map(str::to_owned).to_vec(),
        kinds: vec![1, 1],
        merges: vec![],
        pre: "lfm2".to_owned(),
    };
    let special = SpecialTokens { eos: vec![1, 900], ..SpecialTokens::default() };
    let tokenizer = build(&vocabulary, &special);
    assert!(tokenizer.is_special(1));
    assert_eq!(tokenizer.encode("a<|end|>", Bos::Omit), [0, 1]);
    let out_of_range = SpecialTokens { bos: Some(2), ..SpecialTokens::default() };
    assert!(matches!(
        Tokenizer::new(&vocabulary, &out_of_range),
        Err(TextError::BosOutOfRange { id: 2, vocab: 2 })
    ));
}

#[test]
fn hostile_tokenizer_json() {
    let good = oracle_json("tokenizer.json");
    let with = |path: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(path).expect(path) = value;
        hugging_face(&json)
    };
    let table = [
        (Vocabulary::HuggingFace(vec![]), "could not be read"),
        (Vocabulary::HuggingFace(b"{}".to_vec()), "model"),
        (Vocabulary::HuggingFace(b"[".repeat(1000)), "could not be read"),
        (with("/model/type", json!("Unigram")), "expected byte-level \"BPE\""),
        (with("/model/byte_fallback", json!(true)), "byte_fallback"),
        (with("/model/unk_token", json!("?")), "unknown token"),
        (with("/normalizer", json!({"type": "NFC"})), "normalizer \"NFC\""),
        (with("/decoder", json!(null)), "decoder"),
        (with("/pre_tokenizer", json!({"type": "Whitespace"})), "ByteLevel"),
        (
            with("/pre_tokenizer/pretokenizers/0", json!({"type": "FixedLength", "length": 0})),
            "pre-tokenizer \"FixedLength\"; expected Sequence, Split, ByteLevel or Digits",
        ),
        (with("/model/merges", json!([["no such token at all, and very long", "b"]])), "needs token"),
        (with("/model/merges", json!([["t", "h"], ["t", "\u{1}"]])), "merge rule 1 needs token \"\\u{1}\""),
        (with("/model/merges", json!(["a"])), "merge rule 0"),
        (with("/model/vocab", json!({"a": 4_000_000_000u32})), "too large"),
        (with("/added_tokens/0/id", json!(u32::MAX)), "too large"),
        (with("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(")), "pre_tokenizer"),
    ];
    for (vocabulary, expected) in table {
        let error = Tokenizer::new(&vocabulary, &stated()).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
}

#[test]
fn odd_added_tokens_are_tolerated() {
    let mut json = oracle_json("tokenizer.json");
    let mut token = json["added_tokens"][0].clone();
    // The same text under a second id far beyond the rest, an empty text, and a text that is a model token
    // too.
    for (id, text) in [(5000, "<|pad|>"), (4000, ""), (1024, "<think>"), (1025, "the")] {
        token["id"] = json!(id);
        token["content"] = json!(text);
        token["special"] = json!(false);
        json["added_tokens"].as_array_mut().unwrap().push(token.clone());
    }
    let tokenizer = build(&hugging_face(&json), &stated());
    assert_eq!(tokenizer.vocab_size(), 1026);
    assert_eq!(tokenizer.encode("<think>the<|pad|>", Bos::Omit), [1024, 1025, 0]);
    assert!(!tokenizer.is_special(1024));
}

/// Text with what breaks tokenizers: white space runs, contractions, digits, every script, special tokens.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => any::<String>(),
        2 => "[ a-zA-Z0-9'.,\\n\\r\\t]{0,12}",
        1 => "\\PC{0,8}",
        1 => proptest::sample::select(vec!["<|im_start|>", "<|im_end|>", "<|startoftext|>", "<|im_", "<think>", "\u{a0}", "٣٤٥", "n't"])
            .prop_map(str::to_owned),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_formats_agree_and_every_text_comes_back(texts in proptest::collection::vec(any_text(), 8)) {
        thread_local!(static TWINS: (Tokenizer, Tokenizer) = twins());
        TWINS.with(|(hugging_face, gguf)| {
            for text in &texts {
                let ids = hugging_face.encode(text, Bos::Omit);
                prop_assert_eq!(&ids, &gguf.encode(text, Bos::Omit), "{:?}", text);
                prop_assert_eq!(&hugging_face.decode(&ids, SpecialText::Keep), text);
                prop_assert_eq!(&gguf.decode(&ids, SpecialText::Keep), text);
            }
            Ok(())
        })?;
    }

    #[test]
    fn detokenizer_equals_decode(ids in proptest::collection::vec(0u32..1030, 0..60)) {
        thread_local!(static TOKENIZER: Arc<Tokenizer> = Arc::new(twins().1));
        check_detokenizer(TOKENIZER.with(Arc::clone), &ids)?;
    }

    /// Single bytes and halves of characters, where almost everything is invalid.
    #[test]
    fn detokenizer_equals_decode_on_bytes(ids in proptest::collection::vec(prop_oneof![0u32..300, 0xe0u32..0x100, 0x80u32..0xc0], 0..60)) {
        thread_local!(static TOKENIZER: Arc<Tokenizer> = crate::common::small(crate::common::ThinkKind::Control));
        check_detokenizer(TOKENIZER.with(Arc::clone), &ids)?;
    }
}

fn check_detokenizer(tokenizer: Arc<Tokenizer>, ids: &[u32]) -> Result<(), TestCaseError> {
    for special in [SpecialText::Keep, SpecialText::Skip] {
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), special);
        let (mut text, mut bytes) = (String::new(), 0);
        for &id in ids {
            detokenizer.push(id, &mut text);
            if special == SpecialText::Keep || !tokenizer.is_special(id) {
                bytes += tokenizer.token_bytes(id).len();
            }
            // A replacement character stands for at most 3 bytes and has 3: nothing else shortens the text.
            prop_assert!(text.len() + 3 >= bytes, "more than an unfinished character is held back");
        }
        detokenizer.finish(&mut text);
        prop_assert_eq!(text, tokenizer.decode(ids, special));
    }
    Ok(())
}

#[test]
fn characters_appear_with_their_last_byte() {
    let tokenizer = crate::common::small(crate::common::ThinkKind::Control);
    let mut detokenizer = Detokenizer::new(tokenizer, SpecialText::Keep);
    let mut steps = Vec::new();
    for byte in "a語\u{1F600}é".bytes().chain([0xe8, b'!', 0xff, 0xf0, 0x9f]) {
        let mut text = String::new();
        detokenizer.push(u32::from(byte), &mut text);
        steps.push(text);
    }
    let mut text = String::new();
    detokenizer.finish(&mut text);
    steps.push(text);
    let expected =
        ["a", "", "", "語", "", "", "", "😀", "", "é", "", "\u{fffd}!", "\u{fffd}", "", "", "\u{fffd}"];
    assert_eq!(steps, expected);
}

/// What a text may be made of, so that every kind of boundary and run comes about.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" "),
        Just("  "),
        Just("\n"),
        Just("\r\n"),
        Just("\n \n"),
        Just("\t"),
        Just("\u{a0}"),
        Just("a"),
        Just("the"),
        Just("'s"),
        Just("'"),
        Just("'LL"),
        Just("12"),
        Just("3456"),
        Just("."),
        Just("...\n"),
        Just("水"),
        Just("。"),
        Just("é"),
        Just("e\u{301}"),
        Just("ⅷ"),
        Just("<|im_end|>"),
        Just("<|im_"),
        Just("<|startoftext|>"),
        Just("🐟"),
        Just("ſ"),
        Just("_x"),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_text_in_slices_has_the_tokens_of_the_whole(text in pieces(), bytes in 1usize..24) {
        let mut gpt2 = oracle_json("tokenizer.json");
        gpt2["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        for json in [oracle_json("tokenizer.json"), gpt2] {
            let whole = build(&hugging_face(&json), &stated()).in_slices_of(usize::MAX);
            let sliced = build(&hugging_face(&json), &stated()).in_slices_of(bytes);
            prop_assert_eq!(sliced.encode(&text, Bos::Add), whole.encode(&text, Bos::Add));
        }
    }
}

#[test]
fn long_texts_are_cut_and_runs_are_told() {
    let (tokenizer, _) = twins();
    for (text, longest) in
        [("one two ".repeat(100_000), 64 << 10), ("7".repeat(200_000), 200_000), (String::new(), 0)]
    {
        let found = tokenizer.longest_slice(&text).unwrap();
        assert!(found <= longest && found + 8 >= longest, "{found} of {longest}");
    }
}
