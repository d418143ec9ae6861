//! Loading, failing, many clients, clients that leave, and the end.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::support::client::{JSON, ask, get, post, receive, send};
use crate::support::mock::{FAILING_TOKEN, MockExecutor, PANICKING_TOKEN};
use crate::support::{PATIENCE, Server, Setup, wait_until};
use serde_json::{Value, json};
use undine_core::ExecutorError;
use undine_engine::EngineConfig;
use undine_server::{ServerConfig, ServerError};

const PATH: &str = "/v1/completions";

fn slow(step_ms: u64) -> Setup {
    let mock = MockExecutor { step_time: Duration::from_millis(step_ms), ..MockExecutor::default() };
    Setup { mock, ..Setup::default() }
}

/// An answer nobody waits for to the end.
fn long() -> Value {
    json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true})
}

#[test]
fn while_loading_everything_is_503() {
    let (go, gate) = mpsc::channel::<()>();
    let setup = Setup::default();
    let load = Box::new(move || {
        gate.recv().unwrap();
        Ok(setup.loaded())
    });
    let server = Server::start(load, ServerConfig::default());
    for response in [
        get(server.address, "/health"),
        get(server.address, "/v1/models"),
        post(server.address, PATH, &long()),
    ] {
        assert_eq!(response.status, 503);
        assert_eq!(response.json()["error"]["code"], "model_loading");
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert_eq!(get(server.address, "/version").status, 200);
    go.send(()).unwrap();
    server.wait_for_health(200);
    ask(server.address, PATH, &json!({"prompt": "x"}));
}

#[test]
fn a_failed_load_ends_the_server() {
    let load = || -> Result<_, undine_server::LoadError> { Err("no such file: model.gguf".into()) };
    let error = Server::start(Box::new(load), ServerConfig::default());
    let error = join_by_itself(error).unwrap_err();
    assert!(matches!(&error, ServerError::Load(_)) && error.to_string().contains("model.gguf"), "{error}");

    let load = || {
        let mut loaded = Setup::default().loaded();
        loaded.factory = Box::new(|| Err(ExecutorError("no device".to_owned())));
        Ok(loaded)
    };
    let error = join_by_itself(Server::start(Box::new(load), ServerConfig::default())).unwrap_err();
    assert!(error.to_string().contains("no device"), "{error}");

    let error =
        join_by_itself(Server::start(Box::new(|| panic!("a bug")), ServerConfig::default())).unwrap_err();
    assert!(matches!(error, ServerError::LoadPanicked), "{error}");

    let load = || {
        let mut loaded = Setup::default().loaded();
        loaded.model.names.clear();
        Ok(loaded)
    };
    let error = join_by_itself(Server::start(Box::new(load), ServerConfig::default())).unwrap_err();
    assert!(matches!(error, ServerError::NoModelName), "{error}");
}

#[test]
fn changed_files_end_requests_and_the_server() {
    for request in [None, Some(long())] {
        let changed = Arc::new(AtomicBool::new(false));
        let (setup, has_changed) = (slow(20), Arc::clone(&changed));
        let load = move || {
            let mut loaded = setup.loaded();
            let check = move || match has_changed.load(Ordering::Relaxed) {
                true => Err("/models/x.gguf: it was written to".to_owned()),
                false => Ok(()),
            };
            loaded.files = Some(Arc::new(check));
            Ok(loaded)
        };
        let server = Server::start(Box::new(load), ServerConfig::default());
        server.wait_for_health(200);
        let stream = request.map(|request| {
            let stream = send(server.address, "POST", PATH, &[JSON], &request.to_string());
            wait_until(|| server.load() == 1);
            stream
        });
        changed.store(true, Ordering::Relaxed);
        if let Some(stream) = stream {
            let answer = receive(stream);
            let message = answer.json()["error"]["message"].to_string();
            assert!(answer.status == 500 && message.contains("was changed"), "{} {message}", answer.status);
            assert!(!message.contains("/models"), "paths of the server are not told: {message}");
        }
        let error = join_by_itself(server).unwrap_err();
        assert!(matches!(&error, ServerError::FilesChanged(_)), "{error}");
        assert!(error.to_string().contains("/models/x.gguf"), "{error}");
    }
}

/// Waits for the server to end without being told to.
fn join_by_itself(mut server: Server) -> Result<(), ServerError> {
    wait_until(|| server.has_ended());
    server.result()
}

#[test]
fn sixteen_clients_get_what_one_would() {
    let server = Setup::default().start();
    let body =
        |i: usize| json!({"prompt": [1, 40 + i], "max_tokens": 20, "temperature": 1.2, "seed": i, "n": 2});
    let alone: Vec<Value> = (0..16).map(|i| ask(server.address, PATH, &body(i))["choices"].clone()).collect();
    let address = server.address;
    let clients: Vec<_> = (0..16)
        .map(|i| {
            std::thread::spawn(move || {
                (0..5).map(|_| ask(address, PATH, &body(i))["choices"].clone()).collect::<Vec<_>>()
            })
        })
        .collect();
    for (i, client) in clients.into_iter().enumerate() {
        for choices in client.join().unwrap() {
            assert_eq!(choices, alone[i]);
        }
    }
    wait_until(|| server.load() == 0);
}

#[test]
fn a_client_that_leaves_frees_its_sequence() {
    let server = slow(10).start();
    let mut streamed = long();
    streamed["stream"] = true.into();
    let mut waiting = long();
    waiting["n"] = json!(8);
    // Answered in one piece, streamed, and more sequences than can run.
    for body in [long(), streamed, waiting] {
        let connection = send(server.address, "POST", PATH, &[JSON], &body.to_string());
        wait_until(|| server.load() == body["n"].as_u64().unwrap_or(1));
        if body["stream"] == true {
            let mut line = String::new();
            let mut reader = BufReader::new(&connection);
            while !line.starts_with("data: ") {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
        }
        let start = Instant::now();
        drop(connection);
        wait_until(|| server.load() == 0);
        assert!(start.elapsed() < Duration::from_secs(2), "an answer takes four seconds");
    }
}

#[test]
fn a_stop_string_frees_the_sequence() {
    let server = slow(5).start();
    let answer = ask(server.address, PATH, &json!({"prompt": [1, 40], "max_tokens": 8, "temperature": 0}));
    let stop: String = answer["choices"][0]["text"].as_str().unwrap().chars().take(2).collect();
    let start = Instant::now();
    ask(server.address, PATH, &json!({"prompt": [1, 40], "max_tokens": 390, "temperature": 0, "stop": stop}));
    wait_until(|| server.load() == 0);
    assert!(start.elapsed() < Duration::from_secs(1), "the rest would take two seconds");
}

#[test]
fn a_full_queue_is_503() {
    let engine = EngineConfig { max_num_seqs: 1, max_waiting: 2, ..Setup::default().engine };
    let server = Setup { engine, ..slow(10) }.start();
    let running = send(server.address, "POST", PATH, &[JSON], &long().to_string());
    wait_until(|| server.load() == 1);
    let waiting = send(server.address, "POST", PATH, &[JSON], &long().to_string());
    wait_until(|| server.load() == 2);
    let mut more = long();
    more["n"] = json!(2);
    let refused = post(server.address, PATH, &more);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("queue_full")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // All or none: the one that fitted is gone again.
    wait_until(|| server.load() == 2);
    drop((running, waiting));
    wait_until(|| server.load() == 0);
    ask(server.address, PATH, &json!({"prompt": "x"}));
}

#[test]
fn a_burst_within_one_step_waits_in_the_queue() {
    let engine = EngineConfig { max_waiting: 512, ..Setup::default().engine };
    let server = Setup { engine, ..slow(100) }.start();
    // The first one keeps the engine busy while the others arrive.
    let body = json!({"prompt": "x", "max_tokens": 1}).to_string();
    let first = send(server.address, "POST", PATH, &[JSON], &long().to_string());
    wait_until(|| server.load() == 1);
    let burst: Vec<_> = (0..400).map(|_| send(server.address, "POST", PATH, &[JSON], &body)).collect();
    // All are taken in after the step; whoever is refused knows it then, and the others wait for their turn.
    wait_until(|| server.load() > 300);
    let has_answer = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let has_answer = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).unwrap();
        has_answer
    };
    let answers = burst.iter().filter(|stream| has_answer(stream)).map(receive);
    let refused = answers.filter(|answer| answer.status != 200).count();
    assert_eq!(refused, 0, "the queue has room for all");
    drop((first, burst));
    wait_until(|| server.load() == 0);
}

#[test]
fn a_failed_device_fails_everyone() {
    for (token, words) in [(FAILING_TOKEN, "out of ink"), (PANICKING_TOKEN, "panicked")] {
        let server = slow(10).start();
        let mut streamed = long();
        streamed["stream"] = true.into();
        let stream = send(server.address, "POST", PATH, &[JSON], &streamed.to_string());
        let whole = send(server.address, "POST", PATH, &[JSON], &long().to_string());
        wait_until(|| server.load() == 2);
        let culprit = post(server.address, PATH, &json!({"prompt": [1, token]}));
        assert_eq!(culprit.status, 500, "{}", culprit.body);
        assert_eq!(receive(whole).status, 500);
        let events = receive(stream).events();
        assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
        server.wait_for_health(503);
        let health = get(server.address, "/health").json();
        assert!(health["error"]["message"].as_str().unwrap().contains(words), "{health}");
        assert_eq!(post(server.address, PATH, &long()).status, 503);
        assert!(server.join().is_ok());
    }
}

#[test]
fn running_answers_are_finished_before_the_end() {
    let mut server = slow(5).start();
    let address = server.address;
    let whole = send(
        address,
        "POST",
        PATH,
        &[JSON],
        &json!({"prompt": "x", "max_tokens": 100, "ignore_eos": true}).to_string(),
    );
    wait_until(|| server.load() == 1);
    server.begin_shutdown();
    // Load balancers see that they should go elsewhere, and so does a client that comes too late.
    server.wait_for_health(503);
    let late = post(address, PATH, &json!({"prompt": "x"}));
    assert_eq!((late.status, &late.json()["error"]["code"]), (503, &json!("shutting_down")));
    assert_eq!(get(address, "/metrics").status, 200);
    let response = receive(whole);
    assert_eq!((response.status, &response.json()["usage"]["completion_tokens"]), (200, &json!(100)));
    assert!(server.join().is_ok());
}

#[test]
fn the_drain_is_bounded() {
    let config = ServerConfig { drain_timeout: Duration::from_millis(100), ..ServerConfig::default() };
    let server = Setup { config, ..slow(20) }.start();
    let mut body = long();
    body["stream"] = true.into();
    let stream = send(server.address, "POST", PATH, &[JSON], &body.to_string());
    wait_until(|| server.load() == 1);
    let start = Instant::now();
    assert!(server.join().is_ok());
    assert!(start.elapsed() < Duration::from_secs(4), "the answer would take eight seconds");
    drop(stream);
}

#[test]
fn a_shutdown_does_not_wait_for_the_load() {
    let load = || {
        std::thread::sleep(PATIENCE);
        Ok(Setup::default().loaded())
    };
    let server = Server::start(Box::new(load), ServerConfig::default());
    server.wait_for_health(503);
    let start = Instant::now();
    assert!(server.join().is_ok());
    assert!(start.elapsed() < PATIENCE / 2);
}
