//! Numbers of a request reach the prompt with the digits that Python's json and Jinja's tojson give them.

use crate::support::Setup;
use crate::support::client::{ask, request};
use serde_json::{Value, json};

const TEMPLATE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}\
{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{{ call.function.arguments }}{% endfor %}{% endfor %}{{ n }}";

/// A number of a request, as `tojson` and as `str` write it.
const NUMBERS: [(&str, &str, &str); 14] = [
    ("123456789012345678901234567890", "123456789012345678901234567890", "123456789012345678901234567890"),
    ("-9223372036854775809", "-9223372036854775809", "-9223372036854775809"),
    ("18446744073709551616", "18446744073709551616", "18446744073709551616"),
    ("9007199254740993", "9007199254740993", "9007199254740993"),
    ("-0", "0", "0"),
    ("-0.0", "-0.0", "-0.0"),
    ("1.50", "1.5", "1.5"),
    ("1e5", "100000.0", "100000.0"),
    ("1E400", "Infinity", "inf"),
    ("-1e400", "-Infinity", "-inf"),
    ("1e-7", "1e-07", "1e-07"),
    ("1e22", "1e+22", "1e+22"),
    ("0.1234567890123456789", "0.12345678901234568", "0.12345678901234568"),
    ("5e-324", "5e-324", "5e-324"),
];

fn prompt(address: std::net::SocketAddr, body: &str) -> String {
    let response = request(address, "POST", "/tokenize", &[("content-type", "application/json")], body);
    assert_eq!(response.status, 200, "{body}: {}", response.body);
    let tokens = response.json()["tokens"].clone();
    let prompt = ask(address, "/detokenize", &json!({"tokens": tokens}));
    prompt["prompt"].as_str().unwrap().to_owned()
}

#[test]
fn digits_reach_the_prompt_as_python_writes_them() {
    let server = Setup { template: TEMPLATE, ..Setup::default() }.start();
    for (number, json, text) in NUMBERS {
        let call = |arguments: &str| {
            format!(
                r#"{{"add_special_tokens": false, "messages": [{{"role": "assistant", "content": "", "tool_calls": [{{"id": "1", "type": "function", "function": {{"name": "f", "arguments": {arguments}}}}}]}}]}}"#
            )
        };
        let shown = format!("f{{\"x\": [{json}]}}{{'x': [{text}]}}");
        // As an object, and as the text that OpenAI's clients send.
        let object = format!("{{\"x\": [{number}]}}");
        for arguments in [object.clone(), Value::from(object.as_str()).to_string()] {
            assert_eq!(prompt(server.address, &call(&arguments)), shown, "{arguments}");
        }
        let tool = format!(
            r#"{{"add_special_tokens": false, "messages": [{{"role": "user", "content": "q"}}], "chat_template_kwargs": {{"n": {number}}},
             "tools": [{{"type": "function", "function": {{"name": "f", "parameters": {{"type": "object", "properties": {{"x": {{"enum": [{number}]}}}}}}}}}}]}}"#
        );
        let shown = format!(
            "[{{\"type\": \"function\", \"function\": {{\"name\": \"f\", \"parameters\": {{\"type\": \"object\", \"properties\": {{\"x\": {{\"enum\": [{json}]}}}}}}}}}}]q{text}"
        );
        assert_eq!(prompt(server.address, &tool), shown, "{number}");
    }
}

#[test]
fn results_of_tools_are_written_as_python_writes_them() {
    let server = Setup { template: TEMPLATE, ..Setup::default() }.start();
    for (number, json, _) in NUMBERS {
        let body = format!(
            r#"{{"add_special_tokens": false, "messages": [{{"role": "tool", "tool_call_id": "1", "content": {{"x": {number}}}}}]}}"#
        );
        assert_eq!(prompt(server.address, &body), format!("{{\"x\": {json}}}"), "{number}");
    }
}

#[test]
fn settings_take_odd_numbers_as_before() {
    let server = Setup::default().start();
    let ask = |field: &str| {
        let body =
            format!(r#"{{"messages": [{{"role": "user", "content": "hi"}}], "max_tokens": 1, {field}}}"#);
        let json = [("content-type", "application/json")];
        request(server.address, "POST", "/v1/chat/completions", &json, &body)
    };
    for field in
        [r#""temperature": -0"#, r#""logit_bias": {"1": -0}"#, r#""temperature": 0.30000000000000000000"#]
    {
        assert_eq!(ask(field).status, 200, "{field}");
    }
    for (field, found) in [
        (r#""temperature": 123456789012345678901234567890"#, "expected a number from"),
        (r#""seed": 123456789012345678901234567890"#, "seed"),
        (r#""temperature": 1e400"#, "the number 1e400"),
    ] {
        let response = ask(field);
        assert_eq!(response.status, 400, "{field}");
        assert!(response.body.contains(found), "{field}: {}", response.body);
    }
}

#[test]
fn bounds_that_cannot_be_enforced_to_the_digit_are_named() {
    let server = Setup::default().start();
    for (schema, place) in [
        (r#"{"properties": {"n": {"maximum": 9007199254740993}}}"#, "properties.n.maximum"),
        (r#"{"properties": {"n": {"minimum": 123456789012345678901234567890}}}"#, "properties.n.minimum"),
    ] {
        let body = format!(
            r#"{{"messages": [{{"role": "user", "content": "hi"}}], "max_tokens": 1, "response_format": {{"type": "json_schema", "json_schema": {{"name": "s", "strict": true, "schema": {schema}}}}}}}"#
        );
        let json = [("content-type", "application/json")];
        let response = request(server.address, "POST", "/v1/chat/completions", &json, &body);
        assert_eq!(response.status, 400, "{schema}: {}", response.body);
        assert!(response.body.contains(place), "{}", response.body);
    }
}
