//! Fields by which llama.cpp's, Ollama's, SGLang's, Hugging Face's, Anthropic's, Qwen's and OpenRouter's
//! dialects say what this one says with others.
//!
//! They are translated before anything is read. A field of this dialect wins over its translation.

//! Two fields of other dialects that contradict each other are an error, as nobody knows which one is meant.

use serde_json::{Map, Value};

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers, describe, mismatch};

/// Other names for the same.
const RENAMED: &[(&str, &str)] = &[
    ("repeat_penalty", "repetition_penalty"),
    ("n_predict", "max_tokens"),
    ("num_predict", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("max_output_tokens", "max_tokens"),
    ("max_tokens_to_sample", "max_tokens"),
    ("min_new_tokens", "min_tokens"),
    ("random_seed", "seed"),
    ("stop_sequences", "stop"),
];

/// Values by which samplers that are not built do nothing, where that is not 0.
const NEUTRAL: &[(&str, f64)] = &[
    ("typical_p", 1.0),
    ("typical", 1.0),
    ("tfs_z", 1.0),
    ("tfs", 1.0),
    ("top_n_sigma", -1.0),
    ("num_beams", 1.0),
    ("num_return_sequences", 1.0),
    ("guidance_scale", 1.0),
    ("encoder_repetition_penalty", 1.0),
];

/// What both generating endpoints have. The forms of answers are read by themselves.
pub(crate) fn translate(fields: &mut Fields) -> ApiResult<()> {
    // Ollama's: what it does not know there is not known here either.
    if let Some(Value::Object(options)) = fields.take_foreign_if("options", Value::is_object) {
        for (name, value) in options {
            let own =
                RENAMED.iter().find(|(foreign, _)| *foreign == name).map_or(name.as_str(), |(_, own)| own);
            fields.give(own, &format!("options.{name}"), value)?;
        }
    }
    for (foreign, own) in RENAMED {
        let sent = fields.path(foreign);
        if let Some(value) = fields.take_foreign(foreign) {
            fields.give(own, &sent, value)?;
        }
    }
    fields.drop_neutral(NEUTRAL);
    // Every answer has a cache of its own then.
    const CACHE: &str = "cache_prompt";
    if fields.take_foreign(CACHE) == Some(Value::Bool(false)) {
        let salt = format!("{:016x}{:016x}", crate::prompt::random(), crate::prompt::random());
        fields.give("cache_salt", CACHE, salt.into())?;
    }
    Ok(())
}

/// Whether the model shall think, and the field that says so.
#[derive(Default)]
struct Switch(Option<(&'static str, bool)>);

impl Switch {
    fn set(&mut self, path: &'static str, on: bool) -> ApiResult<()> {
        match self.0 {
            Some((other, is_on)) if is_on != on => {
                let message = format!("says something else than `{other}`; send one of the two");
                Err(ApiError::field(path, message))
            }
            Some(_) => Ok(()),
            None => {
                self.0 = Some((path, on));
                Ok(())
            }
        }
    }
}

/// What only chats have: how long the model thinks, and whether its thoughts are told. What nobody knows of
/// it goes to `strangers`.
pub(crate) fn translate_chat(fields: &mut Fields, strangers: &mut Strangers) -> ApiResult<()> {
    const BUDGET: &str = "thinking_token_budget";
    const EFFORT: &str = "reasoning_effort";
    let mut switch = Switch::default();
    match fields.take_foreign("enable_thinking") {
        None => {}
        Some(Value::Bool(on)) => switch.set("enable_thinking", on)?,
        Some(other) => return Err(mismatch("enable_thinking", "true or false", &other)),
    }
    match fields.take_foreign("think") {
        None => {}
        Some(effort @ Value::String(_)) => fields.give(EFFORT, "think", effort)?,
        Some(Value::Bool(on)) => switch.set("think", on)?,
        Some(other) => return Err(mismatch("think", "true, false, low, medium or high", &other)),
    }
    for foreign in ["thinking_budget", "reasoning_budget"] {
        if let Some(budget) = fields.take_foreign(foreign) {
            fields.give(BUDGET, foreign, budget)?;
        }
    }
    if let Some(Value::Bool(on)) = fields.take_foreign_if("thinking", Value::is_boolean) {
        switch.set("thinking", on)?;
    }
    if let Some(thinking) = fields.take_foreign_if("thinking", Value::is_object) {
        let mut thinking = Fields::nested("thinking", thinking)?;
        match thinking.take("type") {
            Some(Value::String(kind)) if kind == "disabled" => switch.set("thinking.type", false)?,
            Some(Value::String(kind)) if kind == "enabled" => switch.set("thinking.type", true)?,
            // As long as the model likes.
            Some(Value::String(kind)) if kind == "adaptive" || kind == "auto" => {}
            Some(other) => {
                let message = format!("expected enabled, disabled or adaptive, found {}", describe(&other));
                return Err(ApiError::field("thinking.type", message));
            }
            None => {}
        }
        if let Some(budget) = thinking.take("budget_tokens") {
            fields.give(BUDGET, "thinking.budget_tokens", budget)?;
        }
        thinking.leave(strangers);
    }
    if let Some(reasoning) = fields.take_foreign_if("reasoning", Value::is_object) {
        let mut reasoning = Fields::nested("reasoning", reasoning)?;
        if let Some(effort) = reasoning.take("effort") {
            fields.give(EFFORT, "reasoning.effort", effort)?;
        }
        if let Some(budget) = reasoning.take("max_tokens") {
            fields.give(BUDGET, "reasoning.max_tokens", budget)?;
        }
        if let Some(on) = reasoning.boolean("enabled")? {
            switch.set("reasoning.enabled", on)?;
        }
        if reasoning.boolean("exclude")? == Some(true) {
            fields.give("include_reasoning", "reasoning.exclude", false.into())?;
        }
        // How thoughts are summed up, which nobody does here: they are told whole.
        reasoning.ignore(&["summary", "generate_summary"]);
        reasoning.leave(strangers);
    }
    if let Some((path, on)) = switch.0 {
        let mut kwargs = fields.object("chat_template_kwargs")?.unwrap_or_else(Map::new);
        kwargs.entry("enable_thinking").or_insert(on.into());
        fields.give("chat_template_kwargs", path, Value::Object(kwargs))?;
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
    use serde_json::json;

    use super::*;
    use crate::wire::chat::ChatRequest;
    use crate::wire::completion::CompletionRequest;

    fn chat(more: &Value) -> ChatRequest {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ChatRequest::parse(body.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("{more}: {}", error.message))
    }

    /// The same without the names that errors would tell.
    fn nameless(mut request: ChatRequest) -> ChatRequest {
        request.common.sent = crate::wire::common::Sent::default();
        request.common.format.iter_mut().for_each(|format| format.path.clear());
        request
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
            (json!({"random_seed": 5, "stop_sequences": ["a"]}), json!({"seed": 5, "stop": ["a"]})),
            (json!({"max_output_tokens": 5, "typical_p": 1, "tfs_z": 1.0}), json!({"max_tokens": 5})),
            (json!({"n_predict": 5, "num_predict": 5.0}), json!({"max_tokens": 5})),
            (json!({"format": "json"}), json!({"response_format": {"type": "json_object"}})),
            (json!({"thinking": false}), json!({"chat_template_kwargs": {"enable_thinking": false}})),
            (
                json!({"reasoning": {"enabled": true}}),
                json!({"chat_template_kwargs": {"enable_thinking": true}}),
            ),
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
            assert_eq!(nameless(chat(&foreign)), nameless(chat(&own)), "{foreign}");
        }
        assert!(!chat(&json!({"separate_reasoning": false})).conversation.split);
        assert!(!chat(&json!({"reasoning_format": "none"})).conversation.split);
        assert_eq!(chat(&json!({"options": {"num_ctx": 9}})).common.ignored, ["options.num_ctx"]);
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
            chat(&json!({"thinking": "a lot", "format": "markdown"})).common.ignored,
            ["thinking", "format"]
        );
        let nested = json!({"thinking": {"depth": 3}, "reasoning": {"effort": "low", "style": "terse"}});
        assert_eq!(chat(&nested).common.ignored, ["thinking.depth", "reasoning.style"]);
        let many: Map<String, Value> = (0..11).map(|i| (format!("x{i}"), 1.into())).collect();
        assert_eq!(chat(&Value::Object(many)).common.ignored.last().unwrap(), "and 3 more");
        let body = json!({"prompt": "a", "max_tokens": -1, "top_a": 0.5});
        let request = CompletionRequest::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(request.common.ignored, ["top_a"]);
        assert!(request.max_tokens == u32::MAX && !request.max_tokens_given);
    }

    #[test]
    fn errors_name_what_was_sent() {
        for (more, want) in [
            (json!({"repeat_penalty": -3}), "`repeat_penalty`: expected a number from 0"),
            (json!({"options": {"repeat_penalty": -3}}), "`options.repeat_penalty`: expected"),
            (json!({"options": {"temperature": 9}}), "`options.temperature`: expected"),
            (json!({"n_predict": -2}), "`n_predict`: expected a whole number from 1 on, found -2"),
            (json!({"min_new_tokens": "x"}), "`min_new_tokens`: expected a whole number"),
            (json!({"stop_sequences": [""]}), "`stop_sequences[0]`: expected a string"),
            (json!({"random_seed": "x"}), "`random_seed`: expected a whole number"),
            (json!({"reasoning": {"effort": "huge"}}), "`reasoning.effort`: expected none"),
            (json!({"reasoning": {"max_tokens": "x"}}), "`reasoning.max_tokens`: expected a whole"),
            (json!({"think": "loud"}), "`think`: expected none"),
            (json!({"enable_thinking": "no"}), "`enable_thinking`: expected true or false"),
            (json!({"thinking": {"type": "foo"}}), "`thinking.type`: expected enabled, disabled"),
            (json!({"thinking": {"budget_tokens": -5}}), "`thinking.budget_tokens`: expected"),
            (
                json!({"n_predict": 5, "num_predict": 7}),
                "`num_predict`: says something else than `n_predict`",
            ),
            (json!({"enable_thinking": true, "think": false}), "`think`: says something else than"),
            (
                json!({"thinking_budget": 5, "reasoning": {"max_tokens": 7}}),
                "`reasoning.max_tokens`: says something else than `thinking_budget`",
            ),
        ] {
            let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let message = ChatRequest::parse(body.to_string().as_bytes()).unwrap_err().message;
            assert!(message.starts_with(want), "{more}: {message}");
        }
    }
}
