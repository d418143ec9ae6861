//! Keys are tenants: none finds out what another one asked, and none keeps another one waiting.

use std::time::Duration;

use crate::support::client::{JSON, Response, request, send};
use crate::support::{Server, Setup, wait_until};
use serde_json::{Value, json};
use undine_engine::EngineConfig;
use undine_server::{CacheSharing, SchedulingPolicy, ServerConfig};

const PATH: &str = "/v1/completions";

fn setup(keys: &[&str], cache_sharing: CacheSharing) -> Setup {
    let api_keys = keys.iter().map(ToString::to_string).collect();
    let mut setup =
        Setup { config: ServerConfig { api_keys, cache_sharing, ..Default::default() }, ..Setup::default() };
    setup.mock.replay = Some(2);
    setup
}

/// Asks with a key, if it is not empty.
fn ask_as(server: &Server, key: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {key}");
    let mut headers = vec![JSON];
    if !key.is_empty() {
        headers.push(("authorization", authorization.as_str()));
    }
    request(server.address, "POST", PATH, &headers, &body.to_string())
}

#[test]
fn a_key_and_a_salt_find_what_is_theirs() {
    use CacheSharing::{AcrossKeys, WithinKey};
    // Who asks, with which salt, and whether the prompt is known to them.
    type Asked = (&'static str, Option<&'static str>, bool);
    let of_keys: &[Asked] = &[
        ("one", None, false),
        ("one", None, true),
        ("two", None, false),
        ("two", None, true),
        ("one", Some("a"), false),
        ("one", Some("b"), false),
        ("one", Some("a"), true),
        ("two", Some("a"), false),
    ];
    let shared: &[Asked] = &[
        ("one", None, false),
        ("two", None, true),
        ("two", Some("a"), false),
        ("one", Some("a"), true),
        ("one", Some("b"), false),
    ];
    let of_one_key: &[Asked] = &[("one", None, false), ("one", None, true), ("one", Some("a"), false)];
    let of_none: &[Asked] =
        &[("", None, false), ("", None, true), ("", Some("a"), false), ("", Some("a"), true)];
    let cases = [
        (&["one", "two"][..], WithinKey, of_keys),
        (&["one", "two"], AcrossKeys, shared),
        (&["one"], WithinKey, of_one_key),
        (&[], WithinKey, of_none),
    ];
    for (keys, sharing, asked) in cases {
        let server = setup(keys, sharing).start();
        let prompt: Vec<u32> = (0..100).map(|i| 20 + i).collect();
        for (i, (key, salt, known)) in asked.iter().enumerate() {
            let body =
                json!({"prompt": [&prompt], "n": 2, "max_tokens": 1, "ignore_eos": true, "cache_salt": salt});
            let answer = ask_as(&server, key, &body).json();
            let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            assert_eq!(cached > 50, *known, "{keys:?} {sharing:?}, request {i}: {answer}");
            assert!(*known || cached == 0, "{keys:?} {sharing:?}, request {i}: {answer}");
        }
    }
}

/// One key takes every seat and fills the queue with answers that go on for long. The other one's request is
/// accepted and answered while all of them go on.
#[test]
fn a_key_that_takes_everything_keeps_nobody_waiting() {
    let mut setup = setup(&["one", "two"], CacheSharing::WithinKey);
    setup.engine = EngineConfig { max_num_seqs: 2, max_waiting: 2, ..setup.engine };
    setup.mock.step_time = Duration::from_millis(20);
    let server = setup.start();
    let long = json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true, "temperature": 0}).to_string();
    let headers = [JSON, ("authorization", "Bearer one")];
    let mut streams = Vec::new();
    for load in 1..=4 {
        streams.push(send(server.address, "POST", PATH, &headers, &long));
        wait_until(|| server.load() == load);
    }
    let short = json!({"prompt": "y", "max_tokens": 2, "ignore_eos": true});
    assert_eq!(ask_as(&server, "one", &short).status, 503, "its queue is full");
    assert_eq!(ask_as(&server, "two", &short).status, 200);
    // The others have not ended; the one that has may still be counted for a moment.
    wait_until(|| server.load() == 4);
    drop(streams);
    wait_until(|| server.load() == 0);
}

#[test]
fn priority_is_honoured_or_refused() {
    for (scheduling, status) in [(SchedulingPolicy::Fcfs, 400), (SchedulingPolicy::Priority, 200)] {
        let load = move || {
            let mut loaded = Setup::default().loaded();
            loaded.model.requests.scheduling = scheduling;
            Ok(loaded)
        };
        let server = Server::start(Box::new(load), ServerConfig::default());
        server.wait_for_health(200);
        for priority in [-3, 5] {
            let body = json!({"prompt": "x", "max_tokens": 1, "priority": priority});
            let answer = ask_as(&server, "", &body);
            assert_eq!(answer.status, status, "{scheduling:?} {priority}");
            if status == 400 {
                let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
                assert!(message.contains("--scheduling-policy priority"), "{message}");
            }
        }
        assert_eq!(ask_as(&server, "", &json!({"prompt": "x", "max_tokens": 1, "priority": 0})).status, 200);
    }
}
