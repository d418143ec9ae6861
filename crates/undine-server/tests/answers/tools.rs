//! Tools over HTTP: calls in one piece and in streams, and what `tool_choice` enforces.

use crate::support::client::{ask, ask_stream, post};
use crate::support::{Setup, encode, encode_oddly};
use serde_json::{Value, json};
use undine_server::{AnswerOptions, ToolCallFormat};

const PATH: &str = "/v1/chat/completions";

fn tools() -> Value {
    let tool = |name: &str, properties: Value, required: Value| {
        json!({"type": "function", "function": {"name": name, "parameters":
            {"type": "object", "properties": properties, "required": required}}})
    };
    json!([
        tool(
            "get_weather",
            json!({"city": {"type": "string"}, "days": {"type": "integer"}}),
            json!(["city"])
        ),
        tool("now", json!({}), json!([])),
        tool("light", json!({"on": {"type": "boolean"}}), json!(["on"])),
    ])
}

fn body(extra: &Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "hi"}], "tools": tools(), "temperature": 0, "max_tokens": 300,
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Names and arguments of the calls of a message; ids and types are checked here.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
    let mut ids: Vec<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), calls.len(), "ids differ");
    let read = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().unwrap().starts_with("call_"));
        let function = &call["function"];
        let arguments = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        (function["name"].as_str().unwrap().to_owned(), arguments)
    };
    calls.iter().map(read).collect()
}

/// The message that the chunks of a stream add up to, its finish reason with it.
fn joined(chunks: &[Value]) -> (Value, Value) {
    let mut message = json!({"content": "", "reasoning": "", "tool_calls": []});
    let mut finish = Value::Null;
    for choice in chunks.iter().map(|chunk| &chunk["choices"][0]) {
        let delta = &choice["delta"];
        for field in ["content", "reasoning"] {
            let text =
                message[field].as_str().unwrap().to_owned() + delta[field].as_str().unwrap_or_default();
            message[field] = text.into();
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let calls = message["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert_eq!(call["function"]["arguments"], "", "a call begins with its name");
                calls.push(json!({"id": call["id"], "type": call["type"], "function": call["function"]}));
                continue;
            }
            assert!(call.get("id").is_none() && call["function"].get("name").is_none(), "{call}");
            let arguments = &mut calls[index]["function"]["arguments"];
            *arguments = (arguments.as_str().unwrap().to_owned()
                + call["function"]["arguments"].as_str().unwrap())
            .into();
        }
        finish = choice["finish_reason"].clone();
    }
    (message, finish)
}

#[test]
fn calls_in_one_piece_and_in_parts() {
    let said = "Let me see.<|tool_call_start|>[get_weather(city=\"Zürich\", days=3), now()]<|tool_call_end|>";
    let want =
        vec![("get_weather".to_owned(), json!({"city": "Zürich", "days": 3})), ("now".to_owned(), json!({}))];
    for tokens in [encode(said), encode_oddly("Let me see.").into_iter().chain(encode(&said[11..])).collect()]
    {
        let server = Setup::saying(&[tokens]).start();
        for extra in [
            json!({}),
            json!({"tool_choice": "auto"}),
            json!({"skip_special_tokens": false}),
            json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools()}}}),
        ] {
            let answer = ask(server.address, PATH, &body(&extra));
            let choice = &answer["choices"][0];
            assert_eq!(choice["message"]["content"], "Let me see.", "{extra}");
            assert_eq!(choice["finish_reason"], "tool_calls", "{extra}");
            assert_eq!(calls(&choice["message"]), want, "{extra}");
            let (message, finish) = joined(&ask_stream(server.address, PATH, &body(&extra)));
            assert_eq!(message["content"], choice["message"]["content"]);
            assert_eq!((calls(&message), finish), (want.clone(), json!("tool_calls")), "{extra}");
        }
    }
}

#[test]
fn nothing_but_calls_is_no_content() {
    let server = Setup::saying(&[encode("<|tool_call_start|>[now()]<|tool_call_end|>")]).start();
    let answer = ask(server.address, PATH, &body(&json!({})));
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], calls(message).len()), (&Value::Null, 1));
    let answer = ask(server.address, PATH, &body(&json!({"tools": null})));
    assert_eq!(answer["choices"][0]["message"]["content"], "[now()]", "without tools it is text");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
}

#[test]
fn none_forbids_calls_and_keeps_the_prompt() {
    let call = encode("<|tool_call_start|>[now()]<|tool_call_end|>");
    let server = Setup::saying(&[call]).start();
    let with = |choice: &str| {
        let extra = json!({"tool_choice": choice, "return_token_ids": true, "skip_special_tokens": false});
        ask(server.address, PATH, &body(&extra))
    };
    let (none, auto) = (with("none"), with("auto"));
    assert_eq!(none["prompt_token_ids"], auto["prompt_token_ids"]);
    let choice = &none["choices"][0];
    let content = choice["message"]["content"].as_str().unwrap();
    assert!(!content.contains("<|tool_call_start|>"), "{content}");
    assert_ne!(choice["finish_reason"], "tool_calls");
    assert!(choice["message"].get("tool_calls").is_none());
}

#[test]
fn a_required_call_comes_whatever_the_model_says() {
    // The model wants to talk, and goes on to call what it may not.
    let server = Setup::saying(&[
        encode("No. I will not."),
        encode("<|tool_call_start|>[now(), now(), now()]<|tool_call_end|>"),
    ])
    .start();
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let only = |name: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named(name)]}});
    for (choice, name, arguments) in [
        (named("now"), "now", &["{}"][..]),
        (named("light"), "light", &["{\"on\":true}", "{\"on\":false}"]),
        (only("light"), "light", &["{\"on\":true}", "{\"on\":false}"]),
    ] {
        // Once for each script.
        for _ in 0..2 {
            let extra = json!({"tool_choice": choice, "parallel_tool_calls": false});
            let answer = ask(server.address, PATH, &body(&extra));
            let choice = &answer["choices"][0];
            let made = calls(&choice["message"]);
            assert_eq!(made.len(), 1, "{choice}");
            assert_eq!(made[0].0, name, "{choice}");
            assert!(arguments.contains(&made[0].1.to_string().as_str()), "{choice}");
            assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        }
    }
    let answer = ask(server.address, PATH, &body(&json!({"tool_choice": "required", "max_tokens": 200})));
    let names =
        tools().as_array().unwrap().iter().map(|tool| tool["function"]["name"].clone()).collect::<Vec<_>>();
    if answer["choices"][0]["finish_reason"] == "tool_calls" {
        assert!(calls(&answer["choices"][0]["message"]).iter().all(|(name, _)| names.contains(&json!(name))));
    }
}

#[test]
fn calls_stay_text_where_they_are_not_read() {
    let said = "<|tool_call_start|>[now()]<|tool_call_end|>";
    let answers = AnswerOptions { tool_calls: ToolCallFormat::None, ..AnswerOptions::default() };
    let server = Setup { answers, ..Setup::saying(&[encode(said)]) }.start();
    let answer = ask(server.address, PATH, &body(&json!({})));
    assert_eq!(answer["choices"][0]["message"]["content"], said);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let response = post(server.address, PATH, &body(&json!({"tool_choice": "required"})));
    assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("tool_choice")));
}

#[test]
fn a_call_that_is_cut_off_is_no_call() {
    let server = Setup::saying(&[encode("<|tool_call_start|>[get_weather(city=\"Paris\", days=3)]")]).start();
    let answer = ask(server.address, PATH, &body(&json!({"max_tokens": 8})));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(calls(&choice["message"]).is_empty(), "{choice}");
}

#[test]
fn a_template_without_tools_says_so() {
    let template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}";
    let server = Setup { template, ..Setup::default() }.start();
    let response = post(server.address, PATH, &body(&json!({})));
    assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("tools")));
}
