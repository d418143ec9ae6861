//! The address of an image in a chat request: `data:` with the image, or where it is. Nothing is fetched, as
//! the one host that images may come from does not exist.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(url) = std::str::from_utf8(bytes) else { return };
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let message = json!({"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]});
    let body = json!({"model": "mock", "messages": [message], "max_tokens": 1});
    undine_fuzz::api::SEEING.post("/v1/chat/completions", body.to_string().as_bytes());
});
