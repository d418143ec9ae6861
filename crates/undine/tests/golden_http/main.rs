//! The numbers transformers computed, through the whole house: binary, HTTP, engine, CPU. And the promise
//! that they do not depend on what else the server is doing, nor on how a prompt is cut into steps.

mod agents;
mod images;
mod server;

use std::io::{BufRead, BufReader};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use undine_core::TokenId;
use undine_tests::{Expected, data};

use server::Server;

const CASES: [&str; 2] = ["dense", "moe"];
/// Absolute tolerance on log-probabilities. Logits agree within 2e-3, so a log-softmax, which is a logit less
/// the logarithm of a sum of them, agrees within 4e-3; the rest is rounding of JSON's numbers.
const TOLERANCE: f64 = 5e-3;
/// Alternatives asked for.
const TOP: usize = 5;
/// Requests at once.
const CONCURRENT: usize = 8;
/// Rows in one step that cut the prompt of 97 tokens into many chunks.
const CHUNKED: [&str; 2] = ["--max-num-batched-tokens", "16"];
/// How soon an abandoned sequence must be gone; its answer would take much longer.
const FREED_WITHIN: Duration = Duration::from_secs(5);

/// What transformers computed for one checkpoint.
struct Reference {
    prompt: Vec<TokenId>,
    generated: Vec<TokenId>,
    /// `[prompt][vocabulary]`
    logprobs: Vec<Vec<f64>>,
}

impl Reference {
    fn open(case: &str) -> Self {
        let expected = Expected::open(&data("oracle").join(case));
        let prompt = expected.tokens("input_ids");
        let logits = expected.floats("logits");
        let logprobs = logits.chunks_exact(logits.len() / prompt.len()).map(log_softmax).collect();
        Self { prompt, generated: expected.tokens("generated_ids"), logprobs }
    }

    /// The request for the scores of the prompt and an answer of this length.
    fn scored(&self, max_tokens: usize) -> Value {
        json!({
            "prompt": self.prompt, "echo": true, "logprobs": TOP, "prompt_logprobs": TOP, "max_tokens": max_tokens,
            "temperature": 0, "ignore_eos": true, "return_tokens_as_token_ids": true, "return_token_ids": true,
        })
    }

    /// Checks the scores of `token` and of the alternatives beside it, after the prompt up to `place`.
    fn check(&self, place: usize, token: TokenId, scores: &[(TokenId, f64)], what: &str) {
        let want = &self.logprobs[place];
        let mut sorted = want.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let has = |id: TokenId| scores.iter().any(|&(other, _)| other == id);
        assert!(has(token), "{what}: token {token} at {place} has no score");
        assert!((TOP..=TOP + 1).contains(&scores.len()), "{what}: {scores:?} at {place}");
        for &(id, found) in scores {
            let difference = (found - want[id as usize]).abs();
            assert!(difference < TOLERANCE, "{what}: token {id} at {place} differs by {difference}");
            let is_top = want[id as usize] > sorted[TOP - 1] - 2.0 * TOLERANCE;
            assert!(is_top || id == token, "{what}: token {id} at {place} is not among the best {TOP}");
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

fn token_of(name: &str) -> TokenId {
    name.strip_prefix("token_id:").and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{name}"))
}

/// Checks the echoed scores of a choice, the prompt's in vLLM's form, and the greedy tokens.
fn check_choice(reference: &Reference, choice: &Value, max_tokens: usize, what: &str) {
    let logprobs = &choice["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap_or_else(|| panic!("{what}: {choice}")).clone();
    let (tokens, chosen, top) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
    let known: Vec<TokenId> =
        reference.prompt.iter().chain(&reference.generated[..max_tokens]).copied().collect();
    let found: Vec<TokenId> = tokens.iter().map(|name| token_of(name.as_str().expect("a name"))).collect();
    assert_eq!(found, known, "{what}");
    assert_eq!((chosen.len(), top.len()), (known.len(), known.len()), "{what}");
    assert!(chosen[0].is_null() && top[0].is_null(), "{what}: the first token follows nothing");
    // The reference ends with the row after the prompt's last token.
    for place in 1..known.len().min(reference.prompt.len() + 1) {
        let alternatives = top[place].as_object().expect("an object").iter();
        let scores: Vec<(TokenId, f64)> =
            alternatives.map(|(name, value)| (token_of(name), value.as_f64().expect("a number"))).collect();
        reference.check(place - 1, known[place], &scores, what);
        assert_eq!(chosen[place], top[place][tokens[place].as_str().expect("a name")], "{what}");
    }
    check_prompt_logprobs(reference, choice, what);
    assert_eq!(choice["prompt_token_ids"], json!(reference.prompt), "{what}");
    assert_eq!(choice["token_ids"], json!(reference.generated[..max_tokens]), "{what}");
    assert_eq!(choice["finish_reason"], "length", "{what}");
}

fn check_prompt_logprobs(reference: &Reference, choice: &Value, what: &str) {
    let scores = choice["prompt_logprobs"].as_array().unwrap_or_else(|| panic!("{what}: {choice}"));
    assert_eq!(scores.len(), reference.prompt.len(), "{what}");
    assert!(scores[0].is_null(), "{what}");
    for (place, entry) in scores.iter().enumerate().skip(1) {
        let echoed = &choice["logprobs"]["top_logprobs"][place];
        let entries = entry.as_object().expect("an object");
        assert_eq!(entries.len(), echoed.as_object().expect("an object").len(), "{what}: place {place}");
        for (id, score) in entries {
            assert_eq!(score["logprob"], echoed[format!("token_id:{id}")], "{what}: token {id} at {place}");
            let token: usize = id.parse().expect("an id");
            let row = &reference.logprobs[place - 1];
            // Alternatives closer than the tolerance may change places.
            let above = |margin: f64| row.iter().filter(|&&other| other > row[token] + margin).count() as u64;
            let rank = score["rank"].as_u64().expect("a rank");
            let possible = above(2.0 * TOLERANCE) + 1..=above(-2.0 * TOLERANCE).max(1);
            assert!(possible.contains(&rank), "{what}: token {id} at {place}: rank {rank}, not {possible:?}");
        }
    }
}

#[test]
fn log_probabilities_and_greedy_tokens_are_the_references() {
    for case in CASES {
        let reference = Reference::open(case);
        let server = Server::start(case, &[]);
        for max_tokens in [0, 1, reference.generated.len()] {
            let answer = server.complete(&reference.scored(max_tokens));
            check_choice(
                &reference,
                &answer["choices"][0],
                max_tokens,
                &format!("{case}, {max_tokens} tokens"),
            );
            let usage = &answer["usage"];
            assert_eq!(usage["prompt_tokens"], reference.prompt.len());
            assert_eq!(usage["completion_tokens"], max_tokens);
        }
    }
}

#[test]
fn company_and_chunks_change_no_digit() {
    for case in CASES {
        let reference = Reference::open(case);
        let body = reference.scored(reference.generated.len());
        let alone = Server::start(case, &[]).complete(&body)["choices"].clone();
        for flags in [&[] as &[&str], &CHUNKED] {
            let server = Server::start(case, flags);
            let together: Vec<Value> = thread::scope(|scope| {
                let ask = |_| scope.spawn(|| server.complete(&body)["choices"].clone());
                let asked: Vec<_> = (0..CONCURRENT).map(ask).collect();
                asked.into_iter().map(|thread| thread.join().expect("an answer")).collect()
            });
            for (i, choices) in together.iter().enumerate() {
                assert_eq!(*choices, alone, "{case} {flags:?}, request {i}");
            }
        }
    }
}

#[test]
fn a_stream_is_the_whole_in_parts() {
    let reference = Reference::open("dense");
    let server = Server::start("dense", &CHUNKED);
    let mut body = reference.scored(reference.generated.len());
    // Not available in streams, as in vLLM.
    body["prompt_logprobs"] = Value::Null;
    let whole = server.complete(&body)["choices"][0].clone();
    let mut parts = json!({"text": "", "token_ids": [], "logprobs": {}});
    let chunks = server.stream(&body);
    assert!(chunks.len() > reference.generated.len() / 2, "{} chunks", chunks.len());
    for chunk in &chunks {
        let part = &chunk["choices"][0];
        let text = part["text"].as_str().expect("text");
        parts["text"] = (parts["text"].as_str().expect("text").to_owned() + text).into();
        append(&mut parts["token_ids"], &part["token_ids"]);
        for (name, list) in part["logprobs"].as_object().into_iter().flatten() {
            append(&mut parts["logprobs"][name], list);
        }
        parts["finish_reason"] = part["finish_reason"].clone();
    }
    for name in ["text", "token_ids", "logprobs", "finish_reason"] {
        assert_eq!(parts[name], whole[name], "{name}");
    }
    assert_eq!(chunks[0]["choices"][0]["prompt_token_ids"], whole["prompt_token_ids"]);
}

/// Appends the entries of a list, if there is one.
fn append(list: &mut Value, more: &Value) {
    let Some(more) = more.as_array() else { return };
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().expect("a list").extend(more.iter().cloned());
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    let server = Server::start("dense", &[]);
    for stream in [true, false] {
        let body = json!({
            "prompt": [1, 40], "max_tokens": 100_000, "ignore_eos": true, "temperature": 0, "stream": stream,
        });
        let connection = server.send("POST", "/v1/completions", &body.to_string());
        server.wait_for_load(1);
        if stream {
            let mut lines = BufReader::new(&connection).lines().map(|line| line.expect("a line"));
            assert!(lines.any(|line| line.starts_with("data: ")), "nothing came before the client left");
        }
        drop(connection);
        let took = server.wait_for_load(0);
        assert!(took < FREED_WITHIN, "stream {stream}: the sequence was there for {took:?}");
    }
}
