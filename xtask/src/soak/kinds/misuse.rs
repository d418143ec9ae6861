//! Requests that must be refused, each for its own reason.

use std::io::{BufReader, Write};

use serde_json::{Value, json};

use crate::soak::client::{Client, Judgement, Kind, Outcome, is_full, refused};
use crate::soak::http::{Manner, read_answer};

/// A body that is longer than any server takes.
const TOO_LONG: u64 = 1 << 40;
/// Depth of a body.
const DEPTH: usize = 100_000;
/// Values of a body.
const VALUES: usize = 200_000;

pub fn kinds() -> Vec<Kind> {
    vec![
        Kind { name: "bad JSON", act: bad_json },
        Kind { name: "deep JSON", act: deep_json },
        Kind { name: "wide JSON", act: wide_json },
        Kind { name: "wrong fields", act: wrong_fields },
        Kind { name: "bad form", act: bad_form },
        Kind { name: "unknown path", act: unknown_path },
        Kind { name: "wrong key", act: wrong_key },
        Kind { name: "foreign host", act: foreign_host },
        Kind { name: "wrong content type", act: content_type },
        Kind { name: "body too long", act: too_long },
        Kind { name: "no HTTP", act: no_http },
    ]
}

fn bad_json(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let whole = body.to_string();
    let mut cut = client.random.usize(0..whole.len());
    while !whole.is_char_boundary(cut) {
        cut -= 1;
    }
    refused(client.target.post(path, &whole[..cut]))
}

fn deep_json(client: &mut Client) -> Judgement {
    let body = format!("{{\"prompt\": {}", ["[", "{\"a\":"][client.random.usize(0..2)].repeat(DEPTH));
    refused(client.target.post("/v1/completions", &body))
}

fn wide_json(client: &mut Client) -> Judgement {
    let value = ["{\"a\":1}", "[[]]", "null", "{\"role\":\"user\"}"][client.random.usize(0..4)];
    let body = format!("{{\"messages\": [{value}{}]}}", format!(",{value}").repeat(VALUES));
    refused(client.target.post("/v1/chat/completions", &body))
}

fn wrong_fields(client: &mut Client) -> Judgement {
    let cases: [(&str, Value); 9] = [
        ("/v1/completions", json!({"prompt": "x", "temperature": "hot"})),
        ("/v1/completions", json!({"prompt": [99_999_999]})),
        ("/v1/completions", json!({"prompt": "x", "max_tokens": 1_000_000})),
        ("/v1/completions", json!({"prompt": "x", "model": "another"})),
        ("/v1/chat/completions", json!({"messages": []})),
        ("/v1/chat/completions", json!({"messages": [{"role": "fish", "content": "x"}]})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}], "n": 0})),
        ("/tokenize", json!({})),
        ("/detokenize", json!({"tokens": [99_999_999]})),
    ];
    let (path, body) = &cases[client.random.usize(0..cases.len())];
    refused(client.target.post(path, &body.to_string()))
}

fn bad_form(client: &mut Client) -> Judgement {
    let cases = [
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "fish"}}}}),
        json!({"guided_regex": "(((["}),
        json!({"guided_grammar": "root ::= missing"}),
        json!({"guided_json": {"not": {"type": "string"}}}),
    ];
    let mut body = cases[client.random.usize(0..cases.len())].clone();
    body["messages"] = json!([{"role": "user", "content": "x"}]);
    refused(client.target.post("/v1/chat/completions", &body.to_string()))
}

fn unknown_path(client: &mut Client) -> Judgement {
    let (method, path) =
        [("GET", "/v1/nothing"), ("DELETE", "/v1/models"), ("GET", "/tokenize"), ("POST", "/%00/..")]
            [client.random.usize(0..4)];
    refused(client.target.exchange(method, path, Manner::default(), ""))
}

fn wrong_key(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let manner = Manner { key: Some("another"), ..Manner::default() };
    refused(client.target.exchange("POST", path, manner, &body.to_string()))
}

/// What a page on the web makes of a local server whose name it has rebound; here it has the key too, so that
/// only the name can be what is refused.
fn foreign_host(client: &mut Client) -> Judgement {
    let manner = Manner { host: Some("rebound.example"), ..Manner::default() };
    refused(client.target.exchange("GET", "/v1/models", manner, ""))
}

fn content_type(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let manner = Manner { content_type: "text/plain", ..Manner::default() };
    refused(client.target.exchange("POST", path, manner, &body.to_string()))
}

/// Told before any of it is sent.
fn too_long(client: &mut Client) -> Judgement {
    let target = client.target;
    let head = target.head("POST", "/tokenize", Manner::default());
    let answer = target.connect().and_then(|mut stream| {
        write!(stream, "{head}connection: close\r\ncontent-length: {TOO_LONG}\r\n\r\n")?;
        read_answer(&mut BufReader::new(stream))
    });
    refused(answer)
}

fn no_http(client: &mut Client) -> Judgement {
    let bytes: Vec<u8> = (0..client.random.usize(1..4000)).map(|_| client.random.u8(..)).collect();
    let Ok(mut stream) = client.target.connect() else { return Err("cannot connect".to_owned()) };
    // The server may hang up at the first byte.
    if stream.write_all(&bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write)).is_err() {
        return Ok(Outcome::Left);
    }
    match read_answer(&mut BufReader::new(stream)) {
        Ok(answer) if answer.status < 400 => Err(format!("{} to noise", answer.status)),
        Ok(answer) if is_full(&answer) => Ok(Outcome::Full),
        Ok(_) => Ok(Outcome::Refused),
        Err(_) => Ok(Outcome::Left),
    }
}
