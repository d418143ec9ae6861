//! The API without a network.

use std::sync::Arc;
use std::time::Duration;

use crate::support::Setup;
use crate::support::mock::FAILING_TOKEN;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use undine_server::{InProcess, ServerConfig, ServerError};

const PATH: &str = "/v1/completions";

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let value = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    value
}

async fn start(setup: Setup) -> InProcess {
    InProcess::start(Box::new(move || Ok(setup.loaded())), ServerConfig::default()).await.unwrap()
}

#[test]
fn requests_pass_the_same_checks_as_from_a_connection() {
    run(async {
        let api = start(Setup::default()).await;
        for (path, body, status, pointer, expected) in [
            (
                PATH,
                json!({"prompt": "x", "max_tokens": 3, "ignore_eos": true}),
                200,
                "/usage/completion_tokens",
                json!(3),
            ),
            (PATH, json!({"prompt": "x", "temperature": 9}), 400, "/error/param", json!("temperature")),
            (PATH, json!({"prompt": "x", "model": "gpt"}), 404, "/error/code", json!("model_not_found")),
            ("/v1/nothing", json!({}), 404, "/error/code", json!("route_not_found")),
        ] {
            let answer = api.post(path, body.to_string().into_bytes()).await;
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(answer.status, status, "{json}");
            assert_eq!(json.pointer(pointer), Some(&expected), "{json}");
            assert!(!answer.request_id.is_empty());
        }
        let answer = api.post(PATH, json!({"prompt": "x", "top_a": 2}).to_string().into_bytes()).await;
        assert_eq!(answer.remarks, [("x-undine-ignored-fields", "top_a".to_owned())]);
        assert_eq!(api.failure(), None);
        api.stop().await;
    });
}

#[test]
fn what_runs_at_once_is_what_would_run_one_by_one() {
    run(async {
        let api = start(Setup::default()).await;
        let body = |i: u32| {
            json!({"prompt": format!("x{i}"), "max_tokens": 5, "temperature": 0, "ignore_eos": true})
                .to_string()
                .into_bytes()
        };
        let text = |answer: undine_server::Answer| {
            serde_json::from_slice::<Value>(&answer.body).unwrap()["choices"].clone()
        };
        let mut alone = Vec::new();
        for i in 0..20 {
            alone.push(text(api.post(PATH, body(i)).await));
        }
        let api = Arc::new(api);
        let mut running = JoinSet::new();
        for i in 0..20 {
            let (api, body) = (Arc::clone(&api), body(i));
            running.spawn(async move { (i, api.post(PATH, body).await) });
        }
        for (i, answer) in running.join_all().await {
            assert_eq!(text(answer), alone[i as usize], "{i}");
        }
        let api = Arc::into_inner(api).unwrap();
        api.stop().await;
    });
}

#[test]
fn failures_are_told() {
    run(async {
        let load = || -> Result<_, undine_server::LoadError> { Err("no such file: model.gguf".into()) };
        let error = InProcess::start(Box::new(load), ServerConfig::default()).await.err().unwrap();
        assert!(
            matches!(&error, ServerError::Load(_)) && error.to_string().contains("model.gguf"),
            "{error}"
        );

        let api = start(Setup::default()).await;
        let answer = api.post(PATH, json!({"prompt": [1, FAILING_TOKEN]}).to_string().into_bytes()).await;
        assert_eq!(answer.status, 500);
        assert!(api.failure().is_some());
        let answer = api.post(PATH, json!({"prompt": "x"}).to_string().into_bytes()).await;
        assert_eq!(answer.status, 503);
        api.stop().await;
    });
}
