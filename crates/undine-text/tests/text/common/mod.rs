//! Vocabularies for the tests: the oracle model's, and a small one made here.
pub mod walk;

use std::sync::Arc;

use serde_json::Value as Json;
use undine_core::{SpecialTokens, Vocabulary};
use undine_text::{Tokenizer, byte_alphabet};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

pub fn oracle_file(name: &str) -> Vec<u8> {
    let path = format!("{}/../../tests/data/oracle/dense/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn oracle_json(name: &str) -> Json {
    serde_json::from_slice(&oracle_file(name)).unwrap()
}

pub fn build(vocabulary: &Vocabulary, special: &SpecialTokens) -> Tokenizer {
    Tokenizer::new(vocabulary, special).unwrap().expect("not Vocabulary::None")
}

pub fn hugging_face(json: &Json) -> Vocabulary {
    Vocabulary::HuggingFace(serde_json::to_vec(json).unwrap())
}

/// What a GGUF converter writes for a `tokenizer.json`.
pub fn as_gguf(json: &Json) -> Vocabulary {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let ids =
        vocab.values().chain(added.iter().map(|token| &token["id"])).map(|id| id.as_u64().unwrap() as usize);
    let size = ids.max().unwrap() + 1;
    let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut kinds = vec![5; size];
    for (text, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = text.clone();
        kinds[id.as_u64().unwrap() as usize] = NORMAL;
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().to_owned();
        kinds[id] = if token["special"].as_bool().unwrap() { CONTROL } else { USER_DEFINED };
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges =
        merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
    Vocabulary::Gguf { tokens, kinds, merges, pre: "lfm2".to_owned() }
}

/// Id of the end token of [`small`].
pub const END: u32 = 256;

/// 256 single bytes, `<|im_end|>`, `<think>`, `</think>`, and tokens that cross characters and markers.
pub fn small(think_kind: ThinkKind) -> Arc<Tokenizer> {
    let spelled = |bytes: &[u8]| bytes.iter().map(|&byte| byte_alphabet::char_of(byte)).collect::<String>();
    let mut tokens: Vec<String> = (0..=255).map(|byte| spelled(&[byte])).collect();
    let mut kinds = vec![NORMAL; tokens.len()];
    let think_kind = match think_kind {
        ThinkKind::Control => CONTROL,
        ThinkKind::UserDefined => USER_DEFINED,
    };
    for (text, kind) in [("<|im_end|>", CONTROL), ("<think>", think_kind), ("</think>", think_kind)] {
        tokens.push(text.to_owned());
        kinds.push(kind);
    }
    let crossing = ["a<th", "ink>b", "x</", "think>\n\n", "語", "STOP", "aSTO", "é"];
    tokens.extend(crossing.iter().map(|text| spelled(text.as_bytes())));
    tokens.push(spelled(&"語".as_bytes()[1..]));
    tokens.push(spelled(&[0xf0, 0x9f]));
    tokens.push(spelled(&[0x98, 0x80, b'!', 0xe8]));
    kinds.resize(tokens.len(), NORMAL);
    let vocabulary = Vocabulary::Gguf { tokens, kinds, merges: Vec::new(), pre: "lfm2".to_owned() };
    let special = SpecialTokens { eos: vec![END], ..SpecialTokens::default() };
    Arc::new(build(&vocabulary, &special))
}

/// How a vocabulary marks `<think>` and `</think>`: published ones do either.
#[derive(Clone, Copy, Debug)]
pub enum ThinkKind {
    Control,
    UserDefined,
}

/// Single bytes, the control tokens of a model that thinks and calls tools, and tokens that cross the parts
/// of calls and JSON.
pub fn with_tools() -> Arc<Tokenizer> {
    let spelled = |bytes: &[u8]| bytes.iter().map(|&byte| byte_alphabet::char_of(byte)).collect::<String>();
    let mut tokens: Vec<String> = (0..=255).map(|byte| spelled(&[byte])).collect();
    let mut kinds = vec![NORMAL; tokens.len()];
    let markers = [
        ("<|im_end|>", CONTROL),
        ("<|endoftext|>", CONTROL),
        ("<think>", USER_DEFINED),
        ("</think>", USER_DEFINED),
        ("<|tool_call_start|>", CONTROL),
        ("<|tool_call_end|>", CONTROL),
    ];
    for (text, kind) in markers {
        tokens.push(text.to_owned());
        kinds.push(kind);
    }
    let crossing = [
        "[{\"", "\": ", "\":", "\", \"", "\"}", "\"]", ")]", "\")]", ", ", "=\"", "='", "True", "true",
        "None", "null", "12", "007", "0.5", "\\n", "\\\"", "語", "é", "\": {\"", "}]", "[[", "]]", "  ",
        "\n", "name", "city", "abc",
    ];
    tokens.extend(crossing.iter().map(|text| spelled(text.as_bytes())));
    tokens.push(spelled(&"語".as_bytes()[1..]));
    tokens.push(spelled(&[0xf0, 0x9f]));
    kinds.resize(tokens.len(), NORMAL);
    with_ends(tokens, kinds)
}

/// The size of a published vocabulary: the one of [`with_tools`] in small, and made-up words, half of them
/// after a space.
pub fn large() -> Arc<Tokenizer> {
    const TOKENS: usize = 65_536;
    let spelled = |text: &str| text.bytes().map(byte_alphabet::char_of).collect::<String>();
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_alphabet::char_of(byte).to_string()).collect();
    let mut kinds = vec![NORMAL; tokens.len()];
    for marker in ["<|im_end|>", "<|endoftext|>", "<|tool_call_start|>", "<|tool_call_end|>"] {
        tokens.push(marker.to_owned());
        kinds.push(CONTROL);
    }
    let syllables =
        ["an", "er", "ti", "on", "\"", "lo", "ma", "{", "si", "12", "é", "語", ": ", "ver", "in", ", "];
    for index in 0.. {
        let mut word = String::from(if index % 2 == 0 { " " } else { "" });
        let mut rest = index / 2 + 16;
        while rest > 0 {
            word.push_str(syllables[rest % syllables.len()]);
            rest /= syllables.len();
        }
        tokens.push(spelled(&word));
        if tokens.len() == TOKENS {
            break;
        }
    }
    kinds.resize(tokens.len(), NORMAL);
    with_ends(tokens, kinds)
}

fn with_ends(tokens: Vec<String>, kinds: Vec<i32>) -> Arc<Tokenizer> {
    let vocabulary = Vocabulary::Gguf { tokens, kinds, merges: Vec::new(), pre: "lfm2".to_owned() };
    let special = SpecialTokens { eos: vec![END, END + 1], ..SpecialTokens::default() };
    Arc::new(build(&vocabulary, &special))
}
