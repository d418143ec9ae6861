//! Answers of a form, tools, text to tokens and back, pictures, and large bodies.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::soak::client::{Client, Judgement, Kind, Outcome, excerpt, is_full};

/// A picture.
const PICTURE: &[u8] = include_bytes!("../../../../tests/data/oracle/vl/48x40.png");
/// Bytes of a large text, and of a very large one.
const LARGE: usize = 1 << 20;
const VERY_LARGE: usize = 6 << 20;

pub fn kinds() -> Vec<Kind> {
    vec![
        Kind { name: "schema", act: schema },
        Kind { name: "tools", act: tools },
        Kind { name: "regular expression", act: regex },
        Kind { name: "choice", act: choice },
        Kind { name: "grammar", act: grammar },
        Kind { name: "tokenize and back", act: round_trip },
        Kind { name: "tokenize a chat", act: tokenize_chat },
        Kind { name: "tokenize a large text", act: tokenize_large },
        Kind { name: "chat with a large text", act: chat_large },
        Kind { name: "picture", act: picture },
    ]
}

/// The content of a whole chat answer; `None` if it was cut by its length.
fn content(answer: &Value) -> Option<&str> {
    let choice = &answer["choices"][0];
    (choice["finish_reason"] == "stop").then(|| choice["message"]["content"].as_str()).flatten()
}

fn chat(client: &mut Client) -> Value {
    json!({"messages": [{"role": "user", "content": client.text()}], "max_tokens": 64, "temperature": 0.7})
}

fn schema(client: &mut Client) -> Judgement {
    // Another name each time, so that grammars are compiled and not only found.
    let key = format!("k{}", client.random.u16(..));
    let properties = json!({&key: {"enum": ["red", "green"]}, "ok": {"type": "boolean"}});
    let schema = json!({"type": "object", "properties": properties, "required": [&key, "ok"]});
    let mut body = chat(client);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    client.ask("/v1/chat/completions", &body, |answer| {
        let Some(text) = content(answer) else { return Ok(()) };
        let json: Value = serde_json::from_str(text).map_err(|_| "an object that is no JSON".to_owned())?;
        let fits = matches!(json[&key].as_str(), Some("red" | "green")) && json["ok"].is_boolean();
        fits.then_some(()).ok_or_else(|| "an object that the schema does not have".to_owned())
    })
}

fn tools(client: &mut Client) -> Judgement {
    let name = format!("paint_{}", client.random.u16(..));
    let parameters = json!({"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]});
    let mut body = chat(client);
    body["tools"] = json!([{"type": "function", "function": {"name": name, "parameters": parameters}}]);
    body["tool_choice"] = ["auto", "required"][client.random.usize(0..2)].into();
    body["parallel_tool_calls"] = false.into();
    let asked = client.ask("/v1/chat/completions", &body, |answer| {
        let choice = &answer["choices"][0];
        if choice["finish_reason"] != "tool_calls" {
            return Ok(());
        }
        let function = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value =
            serde_json::from_str(function["arguments"].as_str().unwrap_or_default()).unwrap_or_default();
        let fits = function["name"] == name.as_str()
            && matches!(arguments["colour"].as_str(), Some("red" | "green"));
        fits.then_some(()).ok_or_else(|| "a call that the tools do not have".to_owned())
    });
    match asked {
        // The model's template decides.
        Err(told) if told.contains("chat template does not show tools") => Ok(Outcome::Refused),
        judgement => judgement,
    }
}

fn regex(client: &mut Client) -> Judgement {
    let mut body = chat(client);
    body["guided_regex"] = format!("[0-9]{{3}}-[a-f]{{{}}}", client.random.u8(1..=9)).into();
    client.ask("/v1/chat/completions", &body, |answer| match content(answer) {
        Some(text) if !text.chars().all(|c| c.is_ascii_digit() || c == '-' || ('a'..='f').contains(&c)) => {
            Err("text that the expression does not have".to_owned())
        }
        _ => Ok(()),
    })
}

fn choice(client: &mut Client) -> Judgement {
    let choices = ["yes", "no", "perhaps not"];
    let mut body = chat(client);
    body["guided_choice"] = json!(choices);
    client.ask("/v1/chat/completions", &body, |answer| match content(answer) {
        Some(text) if !choices.contains(&text) => Err("none of the choices".to_owned()),
        _ => Ok(()),
    })
}

fn grammar(client: &mut Client) -> Judgement {
    let mut body = chat(client);
    body["guided_grammar"] = json!("root ::= (\"a\" | \"b\") (\"c\" root | \"d\")");
    client.ask("/v1/chat/completions", &body, |answer| match content(answer) {
        Some(text) if !text.ends_with('d') => Err("text that the grammar does not have".to_owned()),
        _ => Ok(()),
    })
}

fn round_trip(client: &mut Client) -> Judgement {
    let text = client.text();
    let body = json!({"prompt": text, "add_special_tokens": false});
    let Some(answer) = client.post("/tokenize", &body)? else { return Ok(Outcome::Full) };
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    client.ask("/detokenize", &json!({"tokens": json["tokens"]}), |answer| {
        match answer["prompt"] == text.as_str() {
            true => Ok(()),
            false => Err(format!("another text than {text:?}")),
        }
    })
}

fn tokenize_chat(client: &mut Client) -> Judgement {
    let body = json!({"messages": [{"role": "user", "content": client.text()}], "return_token_strs": true});
    client.ask("/tokenize", &body, |answer| match answer["count"].as_u64() {
        Some(count) if answer["token_strs"].as_array().is_some_and(|texts| texts.len() as u64 == count) => {
            Ok(())
        }
        _ => Err("counts that differ".to_owned()),
    })
}

/// A text of so many bytes or some more.
fn large(client: &mut Client) -> String {
    let wanted = if client.random.u8(0..8) == 0 { VERY_LARGE } else { LARGE };
    let part = client.words(200) + " ";
    part.repeat(wanted / part.len() + 1)
}

fn tokenize_large(client: &mut Client) -> Judgement {
    let body = json!({"prompt": large(client)});
    client.ask("/tokenize", &body, |answer| match answer["count"].as_u64() {
        Some(count) if answer["tokens"].as_array().is_some_and(|tokens| tokens.len() as u64 == count) => {
            Ok(())
        }
        _ => Err("counts that differ".to_owned()),
    })
}

/// Far more than the context holds.
fn chat_large(client: &mut Client) -> Judgement {
    let body = json!({"messages": [{"role": "user", "content": large(client)}], "max_tokens": 4});
    match client.post("/v1/chat/completions", &body)? {
        None => Ok(Outcome::Full),
        Some(answer) if answer.status == 400 => Ok(Outcome::Refused),
        Some(answer) => {
            Err(format!("{} to a text beyond the context: {}", answer.status, excerpt(&answer.body)))
        }
    }
}

/// A question about a picture.
pub fn picture_question() -> Value {
    let url = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(PICTURE));
    let content =
        json!([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]);
    json!({"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0})
}

fn picture(client: &mut Client) -> Judgement {
    let Some(answer) = client.post("/v1/chat/completions", &picture_question())? else {
        return Ok(Outcome::Full);
    };
    match answer.status {
        200 if client.truth.sees => Ok(Outcome::Right),
        400 if !client.truth.sees => Ok(Outcome::Refused),
        _ if is_full(&answer) => Ok(Outcome::Full),
        status => Err(format!("{status} to a picture: {}", excerpt(&answer.body))),
    }
}
