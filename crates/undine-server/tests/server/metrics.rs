//! `/metrics` counts what happened: also for requests that were cancelled, refused, preempted or failed.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use crate::support::client::{JSON, ask, get, post, receive, send};
use crate::support::mock::{FAILING_TOKEN, MockExecutor, PANICKING_TOKEN};
use crate::support::{Server, Setup, wait_until};
use serde_json::{Value, json};
use undine_engine::EngineConfig;

const PATH: &str = "/v1/completions";

/// The sum of all samples of `name` whose labels contain every one of `labels`.
fn metric(server: &Server, name: &str, labels: &[&str]) -> f64 {
    let text = get(server.address, "/metrics").body;
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
    });
    let values: Vec<f64> = samples.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(!values.is_empty(), "no {name} {labels:?} in {text}");
    values.iter().sum()
}

fn ended(server: &Server, reason: &str) -> f64 {
    metric(server, "vllm:request_success_total", &[&format!("finished_reason=\"{reason}\"")])
}

/// A server whose prompts are spared what the cache has.
fn caching() -> Setup {
    Setup { mock: MockExecutor { replay: Some(2), ..MockExecutor::default() }, ..Setup::default() }
}

#[test]
fn answers_are_counted() {
    let server = caching().start();
    let start = get(server.address, "/metrics");
    assert_eq!(start.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(
        start.body.contains("model_name=\"mock\"") && start.body.contains("engine=\"0\""),
        "{}",
        start.body
    );
    let (mut prompts, mut tokens, mut sequences) = (0, 0, 0);
    for i in 1..=5 {
        let body = json!({"prompt": "some words", "max_tokens": 3 * i, "n": 2, "ignore_eos": true});
        let usage = ask(server.address, PATH, &body)["usage"].clone();
        sequences += 2;
        prompts += 2 * usage["prompt_tokens"].as_u64().unwrap();
        tokens += usage["completion_tokens"].as_u64().unwrap();
    }
    let count = |name: &str| metric(&server, name, &[]) as u64;
    wait_until(|| count("vllm:generation_tokens_total") == tokens);
    assert_eq!(count("vllm:prompt_tokens_total"), prompts);
    assert_eq!(ended(&server, "length") as u64, sequences);
    for name in ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_decode_time_seconds"]
    {
        assert_eq!(count(&format!("vllm:{name}_count")), sequences, "{name}");
    }
    assert_eq!(count("vllm:inter_token_latency_seconds_count"), tokens - sequences);
    assert_eq!(count("vllm:request_generation_tokens_sum"), tokens);
    assert_eq!(count("vllm:request_prompt_tokens_sum"), prompts);
    assert_eq!((count("vllm:request_params_n_count"), count("vllm:request_params_n_sum")), (5, 10));
    assert_eq!(count("vllm:request_max_num_generation_tokens_sum"), 3 * (1 + 2 + 3 + 4 + 5));
    assert_eq!(count("vllm:num_requests_running") + count("vllm:num_requests_waiting"), 0);
    for name in ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"] {
        assert_eq!(metric(&server, name, &[]), 0.0, "{name}");
    }
    assert_eq!(metric(&server, "http_requests_total", &["completions", "POST", "2xx"]), 5.0);
    // Each computed prompt token is a row, and each generated one but the last of its sequence.
    let computed = metric(&server, "vllm:prompt_tokens_by_source_total", &["local_compute"]) as u64;
    assert!(computed < prompts, "the second choice finds the prompt of the first");
    assert!(count("vllm:iteration_tokens_total_sum") >= computed + tokens - sequences);
}

#[test]
fn every_end_has_its_reason() {
    let mock = MockExecutor { step_time: Duration::from_millis(5), ..MockExecutor::default() };
    let engine = EngineConfig { max_num_seqs: 2, max_waiting: 2, ..Setup::default().engine };
    let server = Setup { mock, engine, ..Setup::default() }.start();
    // A stop string, which the engine never sees.
    let first = ask(server.address, PATH, &json!({"prompt": [1, 40], "max_tokens": 8, "temperature": 0}));
    let stop: String = first["choices"][0]["text"].as_str().unwrap().chars().take(2).collect();
    let body = json!({"prompt": [1, 40], "max_tokens": 300, "temperature": 0, "stop": stop});
    assert_eq!(ask(server.address, PATH, &body)["choices"][0]["finish_reason"], "stop");
    wait_until(|| ended(&server, "stop") == 1.0);

    let long = json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true, "stream": true});
    let mut connections = Vec::new();
    for load in 1..=3 {
        connections.push(send(server.address, "POST", PATH, &[JSON], &long.to_string()));
        wait_until(|| server.load() == load);
    }
    assert_eq!(metric(&server, "vllm:num_requests_running", &[]), 2.0);
    assert_eq!(metric(&server, "vllm:num_requests_waiting", &[]), 1.0);
    assert!(metric(&server, "vllm:kv_cache_usage_perc", &[]) > 0.0);
    let requests = metric(&server, "vllm:request_params_n_count", &[]);
    let mut refused = long.clone();
    refused["n"] = json!(4);
    refused.as_object_mut().unwrap().remove("stream");
    let answer = post(server.address, PATH, &refused);
    // More than the queue could ever hold is the client's mistake; as many as it holds now, a matter of time.
    assert_eq!(answer.status, 400, "{}", answer.body);
    refused["n"] = json!(2);
    assert_eq!(post(server.address, PATH, &refused).status, 503);
    let mut line = String::new();
    let mut reader = BufReader::new(&connections[0]);
    while !line.starts_with("data: ") {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    drop(connections);
    wait_until(|| server.load() == 0 && ended(&server, "abort") == 3.0);
    assert_eq!(metric(&server, "vllm:request_params_n_count", &[]), requests, "a refusal is no request");
    assert_eq!((ended(&server, "length"), ended(&server, "error")), (1.0, 0.0));
    assert_eq!(metric(&server, "vllm:kv_cache_usage_perc", &[]), 0.0);

    let stream = send(server.address, "POST", PATH, &[JSON], &long.to_string());
    wait_until(|| server.load() == 1);
    assert_eq!(post(server.address, PATH, &json!({"prompt": [1, FAILING_TOKEN]})).status, 500);
    receive(stream);
    wait_until(|| ended(&server, "error") == 2.0);
}

/// An engine that is gone computes nothing: whoever looks at the numbers later must not see what ran last.
#[test]
fn a_failed_engine_leaves_nothing_running() {
    for token in [FAILING_TOKEN, PANICKING_TOKEN] {
        let mock = MockExecutor { step_time: Duration::from_millis(5), ..MockExecutor::default() };
        let engine = EngineConfig { max_num_seqs: 2, ..Setup::default().engine };
        let server = Setup { mock, engine, ..Setup::default() }.start();
        let long = json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true, "stream": true}).to_string();
        let stream = send(server.address, "POST", PATH, &[JSON], &long);
        wait_until(|| metric(&server, "vllm:num_requests_running", &[]) == 1.0);
        assert_eq!(post(server.address, PATH, &json!({"prompt": [1, token]})).status, 500);
        receive(stream);
        let gauges = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
        wait_until(|| {
            ended(&server, "error") == 2.0 && gauges.iter().all(|name| metric(&server, name, &[]) == 0.0)
        });
    }
}

#[test]
fn a_hit_counts_and_a_refusal_does_not() {
    let server = caching().start();
    let prompt: Vec<u32> = (0..100).map(|i| 20 + i).collect();
    let body = json!({"prompt": prompt, "max_tokens": 1, "ignore_eos": true});
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(&ask(server.address, PATH, &body)), 0);
    let hits = cached(&ask(server.address, PATH, &body));
    assert!(hits > 50, "{hits}");
    // Refused requests ask the cache nothing.
    assert_eq!(post(server.address, PATH, &json!({"prompt": vec![30; 500]})).status, 400);
    let count = |name: &str| metric(&server, name, &[]) as u64;
    wait_until(|| ended(&server, "length") == 2.0);
    assert_eq!(count("vllm:prefix_cache_queries_total"), 200);
    assert_eq!(count("vllm:prefix_cache_hits_total"), hits);
    assert_eq!(count("vllm:prompt_tokens_cached_total"), hits);
    let source = |name: &str| metric(&server, "vllm:prompt_tokens_by_source_total", &[name]) as u64;
    assert_eq!((source("local_compute"), source("local_cache_hit")), (200 - hits, hits));
}

#[test]
fn preempted_tokens_count_once() {
    // Four sequences of 1,110 tokens do not fit in 256 blocks of 16.
    let engine = EngineConfig { max_model_len: 1500, ..Setup::default().engine };
    let server = Setup { engine, ..Setup::default() }.start();
    let body = json!({"prompt": [1, 30, 31, 32], "max_tokens": 1106, "n": 4, "ignore_eos": true});
    let usage: Value = ask(server.address, PATH, &body)["usage"].clone();
    assert_eq!(usage["completion_tokens"], 4424);
    wait_until(|| ended(&server, "length") == 4.0);
    assert!(metric(&server, "vllm:num_preemptions_total", &[]) > 0.0);
    assert_eq!(metric(&server, "vllm:generation_tokens_total", &[]), 4424.0);
    assert_eq!(metric(&server, "vllm:inter_token_latency_seconds_count", &[]), 4420.0);
    assert_eq!(metric(&server, "vllm:prompt_tokens_total", &[]), 16.0);
    assert_eq!(metric(&server, "vllm:time_to_first_token_seconds_count", &[]), 4.0);
}
