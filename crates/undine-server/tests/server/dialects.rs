//! Requests in the words of other servers: what they mean here, and what is told of the rest.

use crate::support::Setup;
use crate::support::client::{JSON, ask, get, post, request};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const IGNORED: &str = "x-undine-ignored-fields";

fn chat(more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_form_holds_whoever_names_it() {
    let server = Setup::default().start();
    let schema = json!({"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"]});
    for form in [
        json!({"format": schema}),
        json!({"format": {"schema": schema}}),
        json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
        json!({"grammar": {"type": "json", "value": schema}}),
        json!({"json_schema": schema}),
        json!({"output_format": {"type": "json_schema", "schema": schema}}),
        json!({"grammar": {"type": "regex", "value": "\\{\"a\": 7\\}"}}),
    ] {
        let answer = post(server.address, CHAT, &chat(&form));
        assert_eq!((answer.status, answer.header(IGNORED)), (200, None), "{form}");
        let json = answer.json();
        let content = json["choices"][0]["message"]["content"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(content).unwrap(), json!({"a": 7}), "{form}: {content}");
    }
}

#[test]
fn strict_is_heeded_where_people_write_it() {
    let server = Setup::default().start();
    let schema = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let mut strict = schema.clone();
    strict["strict"] = true.into();
    for form in [
        json!({"type": "json_schema", "json_schema": strict}),
        json!({"type": "json_schema", "json_schema": schema, "strict": true}),
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": strict}}),
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}, "strict": true}),
        strict.clone(),
    ] {
        let answer = post(server.address, CHAT, &chat(&json!({"response_format": form})));
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && message.contains("properties.a.uniqueItems"), "{form}: {message}");
    }
}

#[test]
fn what_a_message_has_too_much_is_named() {
    let server = Setup::default().start();
    for (messages, ignored) in [
        (json!([{"role": "user", "content": "a", "foo": 1}]), Some("messages[0].foo")),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a", "max_pixels": 5}]}]),
            Some("messages[0].content[0].max_pixels"),
        ),
        (json!([{"role": "user", "content": "a", "name": "me", "foo": null}]), None),
    ] {
        let answer = post(server.address, CHAT, &chat(&json!({"messages": messages})));
        assert_eq!((answer.status, answer.header(IGNORED)), (200, ignored), "{messages}");
    }
}

#[test]
fn an_open_last_message_is_continued() {
    let server = Setup::default().start();
    let prompt = |last: Value, more: Value| {
        let mut body = chat(&more);
        body["messages"] = json!([{"role": "user", "content": "hi"}, last]);
        body["return_token_ids"] = true.into();
        ask(server.address, CHAT, &body)["prompt_token_ids"].clone()
    };
    let last = json!({"role": "assistant", "content": "He"});
    let want = prompt(last.clone(), json!({"continue_final_message": true}));
    assert_ne!(want, prompt(last, json!({})));
    for flag in ["prefix", "partial"] {
        let last = json!({"role": "assistant", "content": "He", flag: true});
        assert_eq!(prompt(last, json!({})), want, "{flag}");
    }
}

#[test]
fn addresses_without_v1_are_served() {
    let server = Setup::default().start();
    ask(server.address, "/chat/completions", &chat(&json!({"max_tokens": 1})));
    ask(server.address, "/completions", &json!({"prompt": "x", "max_tokens": 1}));
    assert_eq!(get(server.address, "/models").json(), get(server.address, "/v1/models").json());
    assert_eq!(get(server.address, "/models/vendor/mock").json()["id"], "vendor/mock");
}

#[test]
fn a_wrong_path_is_told_the_right_one() {
    let server = Setup::default().start();
    for (path, words) in [
        ("/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("/v1/chat/completons", "did you mean /v1/chat/completions?"),
        ("/v1/model", "did you mean /v1/models?"),
        ("/tokenise", "did you mean /tokenize?"),
        ("/api/chat", "Ollama's own API is not served"),
        ("/v1/embeddings", "computes no embeddings"),
        ("/v1/responses", "use POST /v1/chat/completions"),
        ("/v1/messages", "use POST /v1/chat/completions"),
        ("/v1", "POST /v1/chat/completions"),
        ("/", "POST /v1/chat/completions"),
        ("/wp-login.php", "GET /openapi.json lists"),
    ] {
        let answer = request(server.address, "POST", path, &[JSON], "{}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 404 && message.contains(words), "{path}: {message}");
    }
}

#[test]
fn a_count_of_alternatives_is_refused_with_the_limit_that_holds() {
    let server = Setup::default().start();
    for (logprobs, words) in [(-1, "from 0 on, found -1"), (100, "from 0 to 20, found 100")] {
        let body = json!({"prompt": "x", "logprobs": logprobs});
        let message = post(server.address, "/v1/completions", &body).json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(words), "{message}");
    }
}
