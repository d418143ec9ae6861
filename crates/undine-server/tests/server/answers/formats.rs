//! Structured output over HTTP: what the model wants to say does not matter.

use crate::support::client::{ask, ask_stream, post};
use crate::support::{Setup, encode, templates};
use serde_json::{Value, json};

/// Requests for a chat and a completion that differ in nothing else.
fn both(extra: &Value) -> [(&'static str, Value); 2] {
    let with = |mut body: Value| {
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    [
        (
            "/v1/chat/completions",
            with(
                json!({"messages": [{"role": "user", "content": "x"}], "temperature": 0, "max_tokens": 200}),
            ),
        ),
        ("/v1/completions", with(json!({"prompt": "x", "temperature": 0, "max_tokens": 200}))),
    ]
}

fn text_of(choice: &Value) -> String {
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
    text.unwrap_or_else(|| panic!("{choice}")).to_owned()
}

#[test]
fn every_format_holds_in_chats_and_completions() {
    let server = Setup::saying(&[encode("I would rather say something else.")]).start();
    let schema = json!({
        "type": "object", "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
        "required": ["ok", "size"], "additionalProperties": false,
    });
    let is_object = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        value["ok"].is_boolean() && ["small", "large"].iter().any(|size| value["size"] == *size)
    };
    let is_choice = |text: &str| ["red", "green"].contains(&text);
    let is_digits = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(Value, Check<'_>); 8] = [
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
            &is_object,
        ),
        (json!({"response_format": {"type": "json_object", "schema": schema}}), &is_object),
        (json!({"structured_outputs": {"json": schema}}), &is_object),
        (json!({"guided_json": schema.to_string()}), &is_object),
        (json!({"structured_outputs": {"choice": ["red", "green"]}}), &is_choice),
        (json!({"guided_choice": ["red", "green"]}), &is_choice),
        (json!({"guided_regex": "[0-9]{3}"}), &is_digits),
        (json!({"guided_grammar": "start: \"red\" | \"green\""}), &is_choice),
    ];
    for (extra, check) in cases {
        for (path, body) in both(&extra) {
            let answer = ask(server.address, path, &body);
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "stop", "{path} {extra}: {choice}");
            assert!(check(&text_of(choice)), "{path} {extra}: {choice}");
            let chunks = ask_stream(server.address, path, &body);
            let parts = chunks.iter().map(|chunk| &chunk["choices"][0]);
            let text: String = parts
                .filter_map(|part| part["delta"]["content"].as_str().or(part["text"].as_str()))
                .collect();
            assert_eq!(text, text_of(choice), "{path} {extra}");
        }
    }
}

/// Nobody is refused for what no grammar can follow, unless all of it was demanded.
#[test]
fn schemas_are_relaxed_unless_they_are_strict() {
    let server = Setup::saying(&[encode("I would rather say something else.")]).start();
    let schema = json!({"type": "object", "properties": {"tags": {"type": "array", "items": {"enum": ["a"]}, "maxItems": 2, "uniqueItems": true}},
        "required": ["tags"]});
    for (format, strict) in [
        (json!({"type": "json_schema", "json_schema": {"schema": schema}}), false),
        (json!({"type": "json_schema", "json_schema": {"schema": schema, "strict": true}}), true),
        (json!({"type": "json_schema", "schema": schema}), false),
        (json!({"schema": schema}), false),
        (schema.clone(), false),
    ] {
        for (path, body) in both(&json!({"response_format": format})) {
            let answer = post(server.address, path, &body);
            if strict {
                let error = answer.json()["error"].clone();
                assert_eq!(
                    (answer.status, &error["param"]),
                    (400, &json!("response_format.json_schema.schema"))
                );
                assert!(
                    error["message"].as_str().unwrap().contains("properties.tags.uniqueItems"),
                    "{error}"
                );
                continue;
            }
            assert_eq!(
                answer.header("x-undine-relaxed-schemas"),
                Some("properties.tags.uniqueItems"),
                "{format}"
            );
            let text = text_of(&answer.json()["choices"][0]);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(value["tags"].as_array().unwrap().iter().all(|tag| tag == "a"), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_compiled_is_refused_with_the_reason() {
    let server = Setup::default().start();
    for (extra, param) in [
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"strict": true, "schema": {"type": "objekt"}}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar"),
        (json!({"guided_json": true, "guided_choice": ["a"]}), "guided_choice"),
    ] {
        for (path, body) in both(&extra) {
            let response = post(server.address, path, &body);
            let error = &response.json()["error"];
            assert_eq!((response.status, &error["param"]), (400, &json!(param)), "{path} {extra}: {error}");
        }
    }
    let blind = Setup { text: false, ..Setup::default() }.start();
    let body = json!({"prompt": [40], "guided_choice": ["a"]});
    let response = post(blind.address, "/v1/completions", &body);
    assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("guided_choice")));
}

#[test]
fn the_format_begins_after_the_thought() {
    let setup = Setup::saying(&[encode("<think>hm</think>never")]);
    let server = Setup { template: templates::LFM2_5, ..setup }.start();
    let extra = json!({"guided_choice": ["red", "green"]});
    let [(path, body), _] = both(&extra);
    let answer = ask(server.address, path, &body);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning"], "hm");
    assert!(["red", "green"].iter().any(|text| message["content"] == *text), "{message}");
}
