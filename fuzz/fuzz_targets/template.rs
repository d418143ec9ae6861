//! The source of a chat template: refused, or it renders a chat with tools to the same text each time, or
//! says why not.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use undine_fuzz::helpers::{TEMPLATES, here, is_contained};
use undine_text::{Cancel, ChatInput, ChatTemplate};

static TOOLS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let parameters =
        json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    vec![
        json!({"type": "function", "function": {"name": "weather", "description": "d", "parameters": parameters}}),
    ]
});
static MESSAGES: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let call = json!({"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}});
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "Weather?"}]}),
        json!({"role": "assistant", "content": "", "thinking": "t", "tool_calls": [call]}),
        json!({"role": "tool", "content": "sun", "tool_call_id": "1"}),
    ]
});

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let kwargs = serde_json::Map::new();
    let input = ChatInput { messages: &MESSAGES, tools: Some(&TOOLS), add_generation_prompt: true, kwargs: &kwargs };
    let apart = ChatTemplate::isolated(source, "<s>", "</s>", &TEMPLATES, &Cancel::default())
        .and_then(|template| template.render(&input));
    if apart.as_ref().is_err_and(is_contained) {
        return;
    }
    // Also what was refused, as the ways to the refusal are of interest.
    let here = || here(|| ChatTemplate::new(source, "<s>", "</s>")?.render(&input));
    // The time of day is the one thing that may differ.
    assert!(source.contains("strftime_now") || apart.ok() == here().ok(), "two renderings differ");
});
