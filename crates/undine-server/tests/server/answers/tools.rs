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
        let parts = delta["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        let mut indices: Vec<&Value> = parts.iter().map(|part| &part["index"]).collect();
        indices.dedup();
        assert_eq!(indices.len(), parts.len(), "one entry for each call: {delta}");
        for call in parts {
            let calls = message["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
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

/// Whoever ran the call would run half of it: it says "length" whatever cut it, and its arguments are those
/// so far.
#[test]
fn a_call_that_is_cut_is_the_call_so_far() {
    let said = "Hm.<|tool_call_start|>[get_weather(city=\"Paris in spring\", days=3), light(on=True)]<|tool_call_end|>";
    let tokens = |text: &str| encode(text).len();
    let server = Setup::saying(&[encode(said)]).start();
    for (extra, want) in [
        (json!({"max_tokens": tokens("Hm.<|tool_call_start|>[get_wea")}), vec![]),
        (
            json!({"max_tokens": tokens("Hm.<|tool_call_start|>[get_weather(city=\"Paris in")}),
            vec!["{\"city\":\"Paris in"],
        ),
        (json!({"stop": "in spr"}), vec!["{\"city\":\"Paris "]),
        (json!({"stop": " light"}), vec!["{\"city\":\"Paris in spring\",\"days\":3}"]),
        (json!({"stop": "rue"}), vec!["{\"city\":\"Paris in spring\",\"days\":3}", ""]),
    ] {
        let answer = ask(server.address, PATH, &body(&extra));
        let choice = &answer["choices"][0];
        let arguments = |message: &Value| -> Vec<Value> {
            let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
            calls.iter().map(|call| call["function"]["arguments"].clone()).collect()
        };
        assert_eq!(choice["message"]["content"], "Hm.", "{extra}");
        assert_eq!(arguments(&choice["message"]), want, "{extra}");
        let is_whole = want.last().is_some_and(|json| json.ends_with('}'));
        assert_eq!(choice["finish_reason"], if is_whole { "tool_calls" } else { "length" }, "{extra}");
        let (message, finish) = joined(&ask_stream(server.address, PATH, &body(&extra)));
        assert_eq!((&message["content"], &finish), (&json!("Hm."), &choice["finish_reason"]), "{extra}");
        assert_eq!(arguments(&message), want, "{extra}");
    }
    // What was cut comes back as text, and the chat goes on.
    let broken =
        json!({"id": "call_1", "type": "function", "function": {"name": "light", "arguments": "{\"on\":tr"}});
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": null, "tool_calls": [broken]},
        {"role": "tool", "tool_call_id": "call_1", "content": {"error": "not JSON"}}]);
    assert_eq!(ask(server.address, PATH, &body(&json!({"messages": messages})))["object"], "chat.completion");
}

#[test]
fn calls_in_the_spellings_of_other_models_are_calls() {
    for said in [
        "{\"name\": \"light\", \"arguments\": {\"on\": true}}",
        "```json\n[{\"name\": \"light\", \"parameters\": {\"on\": true}}]\n```",
        "<tool_call>\n{\"name\": \"light\", \"arguments\": {\"on\": true}}\n</tool_call>",
    ] {
        let server = Setup::saying(&[encode(said)]).start();
        let want = vec![("light".to_owned(), json!({"on": true}))];
        let answer = ask(server.address, PATH, &body(&json!({})));
        assert_eq!(calls(&answer["choices"][0]["message"]), want, "{said}");
        let (message, finish) = joined(&ask_stream(server.address, PATH, &body(&json!({}))));
        assert_eq!((calls(&message), &message["content"], finish), (want, &json!(""), json!("tool_calls")));
        let answer = ask(server.address, PATH, &body(&json!({"tools": null})));
        assert_eq!(answer["choices"][0]["message"]["content"], said, "nothing is declared");
    }
}

/// Tools carry schemas from everywhere: they are relaxed, and the response says where.
#[test]
fn what_a_schema_of_a_tool_asks_too_much_is_left_out_and_named() {
    const HEADER: &str = "x-undine-relaxed-schemas";
    let server = Setup::saying(&[encode("<|tool_call_start|>[f(a=[1])]<|tool_call_end|>")]).start();
    let with = |properties: Value, strict: bool| {
        let function = json!({"name": "f", "strict": strict, "parameters": {"type": "object", "properties": properties}});
        body(&json!({"tools": [{"type": "function", "function": function}]}))
    };
    for (properties, left_out) in [
        (json!({"a": {"type": "array", "uniqueItems": true}}), Some("f: properties.a.uniqueItems")),
        (json!({"a": {"type": "array", "uniqueItems": false}}), None),
        (
            json!({"a": {"type": "array", "items": [{"type": "integer"}]}, "b": false, "c": {"format": "money"}}),
            None,
        ),
        (json!({"a": "a list of numbers"}), Some("f: properties.a")),
        (
            json!({"a": {"type": "numbers"}, "b": {"if": {}, "then": {}}}),
            Some("f: properties.a.type, f: properties.b.if"),
        ),
        (json!({"a": {"pattern": "(?<=x)y"}}), Some("f: properties.a.pattern")),
    ] {
        let answer = post(server.address, PATH, &with(properties.clone(), false));
        assert_eq!((answer.status, answer.header(HEADER)), (200, left_out), "{properties}");
        let again = post(server.address, PATH, &with(properties.clone(), false));
        assert_eq!(again.header(HEADER), left_out, "also when it is known: {properties}");
        let strict = post(server.address, PATH, &with(properties.clone(), true));
        let Some(left_out) = left_out else {
            assert_eq!(strict.status, 200, "{properties}");
            continue;
        };
        let error = strict.json()["error"].clone();
        assert_eq!(
            (strict.status, &error["param"]),
            (400, &json!("tools[0].function.parameters")),
            "{properties}"
        );
        for place in left_out.split(", ").filter_map(|place| place.strip_prefix("f: ")) {
            assert!(error["message"].as_str().unwrap().contains(place), "{error}");
        }
    }
}

#[test]
fn a_template_without_tools_says_so() {
    let template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}";
    let server = Setup { template, ..Setup::default() }.start();
    let response = post(server.address, PATH, &body(&json!({})));
    assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("tools")));
}
