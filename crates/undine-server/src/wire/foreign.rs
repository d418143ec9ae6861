//! Fields by which llama.cpp's, Ollama's, SGLang's, Hugging Face's, Anthropic's, Qwen's and OpenRouter's
//! dialects say what this one says with others.
//!
//! They are translated before anything is read. A field of this dialect wins over its translation.

use serde_json::{Map, Value, json};

use crate::wire::error::ApiResult;
use crate::wire::fields::Fields;

/// Other names for the same.
const RENAMED: &[(&str, &str)] = &[
    ("repeat_penalty", "repetition_penalty"),
    ("n_predict", "max_tokens"),
    ("num_predict", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("min_new_tokens", "min_tokens"),
];

/// What both generating endpoints have.
pub(crate) fn translate(fields: &mut Fields) {
    // Ollama's: what it does not know there is not known here either.
    if let Some(Value::Object(options)) = fields.take_foreign_if("options", Value::is_object) {
        options.into_iter().for_each(|(name, value)| fields.give(&name, value));
    }
    for (foreign, own) in RENAMED {
        if let Some(value) = fields.take_foreign(foreign) {
            fields.give(own, value);
        }
    }
    for (foreign, own) in [("grammar", "grammar"), ("ebnf", "grammar"), ("regex", "regex")] {
        let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        if let Some(text) = fields.take_foreign_if(foreign, is_text) {
            fields.give("structured_outputs", json!({ own: text }));
        }
    }
    if let Some(schema) = fields
        .take_foreign_if("json_schema", |schema| schema.as_object().is_some_and(|schema| !schema.is_empty()))
    {
        fields.give("structured_outputs", json!({"json": schema}));
    }
    // Every answer has a cache of its own then.
    if fields.take_foreign("cache_prompt") == Some(Value::Bool(false)) {
        fields.give(
            "cache_salt",
            format!("{:016x}{:016x}", crate::prompt::random(), crate::prompt::random()).into(),
        );
    }
}

/// What only chats have: how long the model thinks, and whether its thoughts are told.
pub(crate) fn translate_chat(fields: &mut Fields) -> ApiResult<()> {
    let mut switch = fields.take_foreign("enable_thinking");
    match fields.take_foreign("think") {
        Some(effort @ Value::String(_)) => fields.give("reasoning_effort", effort),
        think => switch = switch.or(think),
    }
    for foreign in ["thinking_budget", "reasoning_budget"] {
        if let Some(budget) = fields.take_foreign(foreign) {
            fields.give("thinking_token_budget", budget);
        }
    }
    if let Some(Value::Object(mut thinking)) = fields.take_foreign_if("thinking", Value::is_object) {
        switch = match thinking.get("type").and_then(Value::as_str) {
            Some("disabled") => Some(false.into()),
            Some("enabled") => Some(true.into()),
            _ => switch,
        };
        if let Some(budget) = thinking.remove("budget_tokens") {
            fields.give("thinking_token_budget", budget);
        }
    }
    if let Some(Value::Object(mut reasoning)) = fields.take_foreign_if("reasoning", Value::is_object) {
        if let Some(effort) = reasoning.remove("effort").filter(|effort| !effort.is_null()) {
            fields.give("reasoning_effort", effort);
        }
        if let Some(budget) = reasoning.remove("max_tokens").filter(|budget| !budget.is_null()) {
            fields.give("thinking_token_budget", budget);
        }
        if reasoning.get("enabled") == Some(&Value::Bool(false)) {
            switch = Some(false.into());
        }
        if reasoning.get("exclude") == Some(&Value::Bool(true)) {
            fields.give("include_reasoning", false.into());
        }
    }
    if let Some(switch) = switch {
        let mut kwargs = fields.object("chat_template_kwargs")?.unwrap_or_else(Map::new);
        kwargs.entry("enable_thinking").or_insert(switch);
        fields.give("chat_template_kwargs", Value::Object(kwargs));
    }
    Ok(())
}

/// SGLang's switches, which its router sends with every request. It can only be chosen whether reasoning is
/// told apart.
pub(crate) fn splits_reasoning(fields: &mut Fields) -> bool {
    fields.take_foreign("stream_reasoning");
    // llama.cpp's word for it.
    let format = fields.take_foreign("reasoning_format");
    fields.take_foreign("separate_reasoning") != Some(Value::Bool(false))
        && format.is_none_or(|format| format != "none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chat::ChatRequest;
    use crate::wire::completion::CompletionRequest;

    fn chat(more: &Value) -> ChatRequest {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ChatRequest::parse(body.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{more}: {}", error.message))
    }

    #[test]
    fn foreign_fields_say_what_their_own_ones_say() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        for (foreign, own) in [
            (json!({"repeat_penalty": 1.1}), json!({"repetition_penalty": 1.1})),
            (json!({"n_predict": 5}), json!({"max_tokens": 5})),
            (json!({"n_predict": -1}), json!({})),
            (json!({"max_new_tokens": 5}), json!({"max_tokens": 5})),
            (json!({"num_predict": 5}), json!({"max_tokens": 5})),
            (
                json!({"options": {"num_predict": 5, "repeat_penalty": 1.1, "temperature": 0.5}, "temperature": 0}),
                json!({"max_tokens": 5, "repetition_penalty": 1.1, "temperature": 0}),
            ),
            (json!({"ebnf": "root ::= \"a\""}), json!({"structured_outputs": {"grammar": "root ::= \"a\""}})),
            (json!({"regex": "a+"}), json!({"structured_outputs": {"regex": "a+"}})),
            (json!({"think": false}), json!({"chat_template_kwargs": {"enable_thinking": false}})),
            (json!({"think": "low"}), json!({"reasoning_effort": "low"})),
            (json!({"thinking_budget": 9}), json!({"thinking_token_budget": 9})),
            (json!({"reasoning_budget": -1}), json!({"thinking_token_budget": -1})),
            (json!({"max_tokens": -1}), json!({"max_tokens": null})),
            (json!({"max_completion_tokens": -1, "max_tokens": 3}), json!({})),
            (json!({"min_new_tokens": 5}), json!({"min_tokens": 5})),
            (json!({"n_predict": 5, "max_tokens": 7}), json!({"max_tokens": 7})),
            (
                json!({"grammar": "root ::= \"a\""}),
                json!({"structured_outputs": {"grammar": "root ::= \"a\""}}),
            ),
            (json!({"json_schema": schema}), json!({"structured_outputs": {"json": schema}})),
            (json!({"enable_thinking": false}), json!({"chat_template_kwargs": {"enable_thinking": false}})),
            (
                json!({"enable_thinking": false, "chat_template_kwargs": {"enable_thinking": true, "a": 1}}),
                json!({"chat_template_kwargs": {"enable_thinking": true, "a": 1}}),
            ),
            (
                json!({"thinking": {"type": "disabled"}}),
                json!({"chat_template_kwargs": {"enable_thinking": false}}),
            ),
            (
                json!({"thinking": {"type": "enabled", "budget_tokens": 99}}),
                json!({"chat_template_kwargs": {"enable_thinking": true}, "thinking_token_budget": 99}),
            ),
            (json!({"reasoning": {"effort": "low"}}), json!({"reasoning_effort": "low"})),
            (json!({"reasoning": {"effort": null, "max_tokens": 9}}), json!({"thinking_token_budget": 9})),
            (json!({"reasoning": {"exclude": true}}), json!({"include_reasoning": false})),
            (json!({"cache_prompt": true}), json!({})),
            // An empty form asks for nothing.
            (json!({"grammar": "", "json_schema": {}, "reasoning": {}}), json!({})),
        ] {
            assert_eq!(chat(&foreign), chat(&own), "{foreign}");
        }
        assert!(!chat(&json!({"separate_reasoning": false})).conversation.split);
        assert!(!chat(&json!({"reasoning_format": "none"})).conversation.split);
        assert_eq!(chat(&json!({"options": {"num_ctx": 9}})).common.ignored, ["num_ctx"]);
        let salts = [(); 2].map(|()| chat(&json!({"cache_prompt": false})).common.cache_salt);
        assert!(salts[0].is_some() && salts[0] != salts[1]);
    }

    #[test]
    fn what_nobody_knows_is_told_unless_it_says_nothing() {
        let neutral = json!({"a": null, "b": false, "c": 0, "d": "", "e": [], "f": {}, "separate_reasoning": true,
            "stream_reasoning": true, "return_hidden_states": false, "no_stop_trim": false});
        assert_eq!(chat(&neutral).common.ignored, [""; 0]);
        assert_eq!(chat(&json!({"mirostat": 2, "typical_p": 0.5})).common.ignored, ["mirostat", "typical_p"]);
        assert_eq!(
            chat(&json!({"thinking": "a lot", "grammar": {"a": 1}})).common.ignored,
            ["thinking", "grammar"]
        );
        let body = json!({"prompt": "a", "max_tokens": -1, "top_a": 0.5});
        let request = CompletionRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.common.ignored, ["top_a"]);
        assert!(request.max_tokens == u32::MAX && !request.max_tokens_given);
    }
}
