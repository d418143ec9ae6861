//! Turns of a chat, one after the other: what a client says stands between bytes that occur in no text, and
//! the answers come back as the server gave them, or changed by what is said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use undine_fuzz::api::TEXT;

/// Turns of one input.
const TURNS_MAX: usize = 6;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": parameters}}]);
    let mut messages: Vec<Value> = Vec::new();
    for said in undine_fuzz::parts(bytes).take(TURNS_MAX) {
        match serde_json::from_slice::<Value>(said) {
            // A message of the client's own, perhaps in place of the answer before.
            Ok(message @ Value::Object(_)) => {
                if message["role"] == "assistant" {
                    messages.pop();
                }
                messages.push(message);
            }
            _ => messages.push(json!({"role": "user", "content": String::from_utf8_lossy(said)})),
        }
        let body = json!({"messages": messages, "tools": tools, "max_tokens": 40});
        let answer = TEXT.post("/v1/chat/completions", body.to_string().as_bytes());
        if answer.status != 200 {
            return;
        }
        let answer: Value = serde_json::from_slice(&answer.body).expect("post looked");
        messages.push(answer["choices"][0]["message"].clone());
    }
});
