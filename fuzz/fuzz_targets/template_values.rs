//! What a template is given: messages, tools and further variables, in each of the published templates.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use undine_fuzz::helpers::here;
use undine_text::{ChatInput, ChatTemplate};

const SOURCES: [&str; 4] = [
    include_str!("../../crates/undine-text/tests/templates/lfm2.jinja"),
    include_str!("../../crates/undine-text/tests/templates/lfm2.5-1.2b.jinja"),
    include_str!("../../crates/undine-text/tests/templates/lfm2.5-8b-a1b.jinja"),
    include_str!("../../crates/undine-text/tests/templates/lfm2.5-2.6b.jinja"),
];

static TEMPLATES: LazyLock<[ChatTemplate; 4]> = LazyLock::new(|| {
    SOURCES.map(|source| ChatTemplate::new(source, "<s>", "</s>").expect("a published template"))
});

fuzz_target!(init: undine_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    let Ok(mut json) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return };
    let list = |value: Option<Value>| match value {
        Some(Value::Array(list)) => Some(list),
        _ => None,
    };
    let messages = list(json.remove("messages")).unwrap_or_default();
    let tools = list(json.remove("tools"));
    let input =
        ChatInput { messages: &messages, tools: tools.as_deref(), add_generation_prompt: true, kwargs: &json };
    for template in &*TEMPLATES {
        let render = || here(|| template.render(&input).ok());
        assert_eq!(render(), render());
    }
});
