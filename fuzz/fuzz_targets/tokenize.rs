//! The bodies of `/tokenize` and `/detokenize`: what the one gives, the other takes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use undine_fuzz::api::TEXT;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    TEXT.post("/detokenize", bytes);
    let answer = TEXT.post("/tokenize", bytes);
    if answer.status != 200 {
        return;
    }
    let tokens: Value = serde_json::from_slice(&answer.body).expect("post looked");
    let asked: Value = serde_json::from_slice(bytes).expect("it was understood");
    let back = TEXT.post("/detokenize", json!({"tokens": tokens["tokens"]}).to_string().as_bytes());
    assert_eq!(back.status, 200, "{}", String::from_utf8_lossy(&back.body));
    if let Some(prompt) = asked["prompt"].as_str() {
        let back: Value = serde_json::from_slice(&back.body).expect("post looked");
        let text = back["prompt"].as_str().expect("a text");
        assert!(text.ends_with(prompt), "{prompt:?} became {text:?}");
    }
});
