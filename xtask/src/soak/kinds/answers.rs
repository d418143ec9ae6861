//! Ordinary questions: whole and streamed, many at once, with numbers; some whose answer is known.

use serde_json::{Value, json};

use crate::soak::client::{Client, Judgement, Kind, Outcome, excerpt, is_full};

/// Words of a long prompt: most of the context.
const LONG_WORDS: usize = 500;

pub fn kinds() -> Vec<Kind> {
    vec![
        Kind { name: "whole", act: whole },
        Kind { name: "stream", act: stream },
        Kind { name: "known", act: known },
        Kind { name: "known again", act: known },
        Kind { name: "choices", act: choices },
        Kind { name: "many prompts", act: many_prompts },
        Kind { name: "log-probabilities", act: logprobs },
        Kind { name: "prompt log-probabilities", act: prompt_logprobs },
        Kind { name: "stop strings", act: stop_strings },
        Kind { name: "long prompt", act: long_prompt },
        Kind { name: "chat of several turns", act: turns },
        Kind { name: "token ids", act: token_ids },
    ]
}

/// An answer has choices and says how many tokens they took.
fn is_whole(answer: &Value) -> Result<(), String> {
    let has_choices = answer["choices"].as_array().is_some_and(|choices| !choices.is_empty());
    let has_usage = answer["usage"]["completion_tokens"].is_u64();
    (has_choices && has_usage).then_some(()).ok_or_else(|| "not a whole answer".to_owned())
}

fn whole(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    client.ask(path, &body, is_whole)
}

fn stream(client: &mut Client) -> Judgement {
    let (path, mut body) = client.request();
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let Some(answer) = client.post(path, &body)? else { return Ok(Outcome::Full) };
    is_whole_stream(&answer.body)
        .map(|()| Outcome::Right)
        .map_err(|what| format!("{what}: {}", excerpt(&answer.body)))
}

/// A stream is JSON, without an error, to its end.
pub fn is_whole_stream(body: &str) -> Result<(), String> {
    let Some(events) = body.strip_suffix("data: [DONE]\n\n") else {
        return Err("a stream that breaks off".to_owned());
    };
    for event in events.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: ")) {
        let json: Value =
            serde_json::from_str(event).map_err(|_| format!("an event that is no JSON: {event}"))?;
        if !json["error"].is_null() {
            return Err(format!("a stream with an error: {event}"));
        }
    }
    Ok(())
}

fn known(client: &mut Client) -> Judgement {
    let known = &client.truth.known[client.random.usize(0..client.truth.known.len())];
    client.ask(known.path, &known.body, |answer| match answer["choices"] == known.choices {
        true => Ok(()),
        false => Err(format!("another answer than {}", known.choices)),
    })
}

fn choices(client: &mut Client) -> Judgement {
    let (path, mut body) = client.request();
    body["n"] = client.random.u32(2..=4).into();
    let count = body["n"].as_u64();
    client.ask(path, &body, |answer| {
        match answer["choices"].as_array().map(|list| list.len() as u64) == count {
            true => Ok(()),
            false => Err("another number of choices".to_owned()),
        }
    })
}

fn many_prompts(client: &mut Client) -> Judgement {
    let prompts: Vec<String> = (0..client.random.usize(2..=12)).map(|_| client.text()).collect();
    let body = json!({"prompt": prompts, "max_tokens": client.random.u32(1..=8)});
    client.ask("/v1/completions", &body, |answer| match answer["choices"].as_array().map(Vec::len) {
        Some(count) if count == prompts.len() => Ok(()),
        _ => Err("not one choice for each prompt".to_owned()),
    })
}

fn logprobs(client: &mut Client) -> Judgement {
    let messages = json!([{"role": "user", "content": client.text()}]);
    let body = json!({"messages": messages, "max_tokens": 12, "logprobs": true, "top_logprobs": 5});
    client.ask("/v1/chat/completions", &body, is_whole)
}

fn prompt_logprobs(client: &mut Client) -> Judgement {
    let body = json!({"prompt": client.text(), "max_tokens": 4, "logprobs": 3, "prompt_logprobs": 2, "echo": client.random.bool()});
    client.ask("/v1/completions", &body, is_whole)
}

fn stop_strings(client: &mut Client) -> Judgement {
    let body =
        json!({"prompt": client.text(), "max_tokens": 32, "stop": ["e", "水", "ab"], "ignore_eos": true});
    client.ask("/v1/completions", &body, |answer| {
        let text = answer["choices"][0]["text"].as_str().unwrap_or_default();
        if text.contains(['e', '水']) {
            Err("text beyond a stop string".to_owned())
        } else {
            is_whole(answer)
        }
    })
}

fn long_prompt(client: &mut Client) -> Judgement {
    let words = client.random.usize(LONG_WORDS / 2..LONG_WORDS);
    let body = json!({"prompt": client.words(words), "max_tokens": 4});
    let Some(answer) = client.post("/v1/completions", &body)? else { return Ok(Outcome::Full) };
    match answer.status {
        200 => Ok(Outcome::Right),
        // It may be too long: how many tokens words make is the model's affair.
        400 if answer.body.contains("context") => Ok(Outcome::Refused),
        status => Err(format!("{status} to a long prompt: {}", excerpt(&answer.body))),
    }
}

fn turns(client: &mut Client) -> Judgement {
    let mut messages = vec![json!({"role": "system", "content": "Be brief."})];
    for _ in 0..client.random.usize(2..=3) {
        messages.push(json!({"role": "user", "content": client.words(8)}));
        let body = json!({"messages": messages, "max_tokens": 12});
        let Some(answer) = client.post("/v1/chat/completions", &body)? else { return Ok(Outcome::Full) };
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        is_whole(&json).map_err(|what| format!("{what}: {} {}", answer.status, excerpt(&answer.body)))?;
        let content = json["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        messages.push(json!({"role": "assistant", "content": content}));
    }
    Ok(Outcome::Right)
}

fn token_ids(client: &mut Client) -> Judgement {
    let prompt: Vec<u32> = (0..client.random.usize(1..200)).map(|_| client.random.u32(300..900)).collect();
    let answer =
        client.target.post("/v1/completions", &json!({"prompt": prompt, "max_tokens": 6}).to_string());
    match answer {
        Ok(answer) if is_full(&answer) => Ok(Outcome::Full),
        Ok(answer) if answer.status == 200 => Ok(Outcome::Right),
        // A small vocabulary does not have them.
        Ok(answer) if answer.status == 400 && answer.body.contains("token ids below") => Ok(Outcome::Refused),
        Ok(answer) => Err(format!("{} to token ids: {}", answer.status, excerpt(&answer.body))),
        Err(error) => Err(format!("token ids: {error}")),
    }
}
