//! What agents rely on, with random weights: calls and formats hold whatever the model says, and the second
//! turn finds the first one in the cache.

use std::path::Path;

use serde_json::{Value, json};
use undine_tests::data;

use crate::server::Server;

const PATH: &str = "/v1/chat/completions";
/// Seeds tried, each of which says something else.
const SEEDS: u64 = 6;
/// Tokens of thinking allowed.
const BUDGET: u64 = 8;
/// Tokens that are known and computed again all the same.
const REPLAYED_MAX: u64 = 32;
/// Tokens of the words that close a thought, at most, in a vocabulary of 1024.
const CLOSING_TOKENS: u64 = 60;

/// Begins every answer with `<think>`.
const THINKING: &str = "lfm2.5-2.6b";
/// Knows no thoughts.
const ANSWERING: &str = "lfm2";

/// An oracle checkpoint that has a token for `<think>`, and a template.
fn serve(template: &str) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(data("oracle").join("dense")).expect("a folder") {
        let from = entry.expect("an entry").path();
        let to = folder.path().join(from.file_name().expect("a name"));
        std::fs::copy(&from, &to).expect("copies");
    }
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("reads");
    let text = text.replace("<|cot_start|>", "<think>").replace("<|cot_end|>", "</think>");
    std::fs::write(&path, text).expect("writes");
    let template = format!("../undine-text/tests/templates/{template}.jinja");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join(template);
    let server = Server::start_at(folder.path(), &["--chat-template", template.to_str().expect("UTF-8")]);
    (folder, server)
}

fn tools() -> Value {
    let tool = |name: &str, properties: Value| {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object",
            "properties": properties, "required": properties.as_object().expect("an object").keys().collect::<Vec<_>>()}}})
    };
    json!([
        tool("light", json!({"on": {"type": "boolean"}, "room": {"enum": ["kitchen", "hall"]}})),
        tool("stop", json!({})),
    ])
}

fn body(seed: u64, extra: &Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "hi"}], "temperature": 1.0, "seed": seed, "max_tokens": 400,
        "thinking_token_budget": BUDGET,
    });
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

/// Text, thoughts, calls and how it ended, of a stream.
fn joined(chunks: &[Value]) -> (String, String, Vec<(Value, String)>, Value) {
    let (mut content, mut reasoning, mut calls, mut finish) =
        (String::new(), String::new(), Vec::new(), Value::Null);
    for choice in chunks.iter().map(|chunk| &chunk["choices"][0]) {
        let delta = &choice["delta"];
        content.push_str(delta["content"].as_str().unwrap_or_default());
        reasoning.push_str(delta["reasoning"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            if call.get("id").is_some() {
                calls.push((function["name"].clone(), String::new()));
            }
            let (_, arguments) = calls.last_mut().expect("a call begins with its name");
            arguments.push_str(function["arguments"].as_str().expect("a string"));
        }
        finish = choice["finish_reason"].clone();
    }
    (content, reasoning, calls, finish)
}

#[test]
fn required_calls_are_valid_and_streams_agree() {
    let (_folder, server) = serve(THINKING);
    let named = json!({"type": "function", "function": {"name": "light"}});
    for seed in 0..SEEDS {
        for choice in [json!("required"), named.clone()] {
            let extra = json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false});
            let body = body(seed, &extra);
            let answer = server.ask(PATH, &body);
            let given = &answer["choices"][0];
            assert_eq!(given["finish_reason"], "tool_calls", "{given}");
            let message = &given["message"];
            let calls = message["tool_calls"].as_array().expect("calls");
            assert_eq!(calls.len(), 1, "{given}");
            let function = &calls[0]["function"];
            let text = function["arguments"].as_str().expect("a string");
            let arguments: Value = serde_json::from_str(text).expect("JSON");
            if function["name"] == "light" {
                assert!(arguments["on"].is_boolean(), "{given}");
                assert!(["kitchen", "hall"].iter().any(|room| arguments["room"] == *room), "{given}");
            } else {
                assert_eq!((&function["name"], arguments), (&json!("stop"), json!({})), "{given}");
                assert_eq!(choice, "required");
            }
            let thought = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64();
            assert!(thought.is_some_and(|tokens| tokens <= BUDGET + CLOSING_TOKENS), "{answer}");

            let (content, reasoning, streamed, finish) = joined(&server.ask_stream(PATH, &body));
            assert_eq!(content, message["content"].as_str().unwrap_or_default());
            assert_eq!(reasoning, message["reasoning"].as_str().unwrap_or_default());
            assert_eq!(streamed, [(function["name"].clone(), text.to_owned())]);
            assert_eq!(finish, "tool_calls");
        }
    }
}

#[test]
fn schemas_hold_after_the_thought() {
    let (_folder, server) = serve(THINKING);
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["size", "flags"],
        "properties": {"size": {"enum": ["small", "large"]}, "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    });
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}});
    for seed in 0..SEEDS {
        let answer = server.ask(PATH, &body(seed, &format));
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let text = choice["message"]["content"].as_str().unwrap_or_else(|| panic!("{choice}"));
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {choice}"));
        assert!(["small", "large"].iter().any(|size| value["size"] == *size), "{choice}");
        let flags = value["flags"].as_array().unwrap_or_else(|| panic!("{choice}"));
        assert!(flags.len() <= 3 && flags.iter().all(Value::is_boolean), "{choice}");
        let (content, reasoning, _, finish) = joined(&server.ask_stream(PATH, &body(seed, &format)));
        assert_eq!((content.as_str(), finish), (text, json!("stop")));
        assert_eq!(reasoning, choice["message"]["reasoning"].as_str().unwrap_or_default());
    }
}

/// The prompt of the second turn is the first turn, token for token, and what follows. Without thoughts:
/// those of random weights are not UTF-8, and such text never comes back as it was.
#[test]
fn a_turn_of_calls_is_found_in_the_cache() {
    let (_folder, server) = serve(ANSWERING);
    for seed in 0..SEEDS {
        let extra = json!({"tools": tools(), "tool_choice": "required", "parallel_tool_calls": false, "return_token_ids": true});
        let first = server.ask(PATH, &body(seed, &extra));
        let choice = &first["choices"][0];
        let mut known = first["prompt_token_ids"].as_array().expect("ids").clone();
        // The template has its own word for the end.
        let (_, said) = choice["token_ids"].as_array().and_then(|ids| ids.split_last()).expect("ids");
        known.extend_from_slice(said);
        let message = &choice["message"];
        let result =
            json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"});
        let mut second = body(seed, &extra);
        second["messages"] = json!([second["messages"][0], message, result]);
        let answer = server.ask(PATH, &second);
        let prompt = answer["prompt_token_ids"].as_array().expect("ids");
        assert_eq!(prompt[..known.len()], known, "seed {seed}: {message}");
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
        // The last token of the answer was never computed, and a few rows rebuild a state.
        assert!(cached + REPLAYED_MAX >= known.len() as u64, "seed {seed}: {cached} of {}", known.len());
    }
}
