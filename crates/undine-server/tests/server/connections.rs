//! Connections that are many, idle, slow, half closed or of the wrong kind; requests that are refused by
//! their head.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::client::{JSON, get, post, receive, request, send};
use crate::support::mock::MockExecutor;
use crate::support::{PATIENCE, Server, Setup, wait_until};
use serde_json::json;
use undine_server::{Cors, Credentials, Hosts, ServerConfig};

const PATH: &str = "/v1/completions";
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn slow(config: ServerConfig) -> Server {
    let mock = MockExecutor { step_time: Duration::from_millis(10), ..MockExecutor::default() };
    Setup { mock, config, ..Setup::default() }.start()
}

/// A server with room for so many connections.
fn small(connections_max: usize) -> Server {
    slow(ServerConfig { connections_max, ..ServerConfig::default() })
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends text, and reads what comes until the end.
fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = connect(address);
    drop(stream.write_all(text.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// One answer on a connection that stays open.
fn ask_on(stream: &mut TcpStream) -> String {
    stream.write_all(HEALTH.as_bytes()).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut line).unwrap();
    let mut rest = String::new();
    while rest != "\r\n" {
        rest.clear();
        reader.read_line(&mut rest).unwrap();
    }
    line
}

fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

/// An answer nobody waits for to the end: four seconds.
fn long() -> String {
    json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true}).to_string()
}

#[test]
fn idle_connections_make_room() {
    let server = small(4);
    let mut idle: Vec<_> = (0..4).map(|_| connect(server.address)).collect();
    for stream in &mut idle {
        assert!(ask_on(stream).starts_with("HTTP/1.1 200"));
    }
    for _ in 0..3 {
        assert_eq!(get(server.address, "/v1/models").status, 200);
    }
    assert!(is_closed(&mut idle[0]), "the one that had been idle for longest");
    // Those who never say anything, and those who do not finish their head.
    let _silent: Vec<_> = (0..20).map(|_| connect(server.address)).collect();
    let _slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(server.address);
            drop(stream.write_all(b"GET /health HTTP/1.1\r\nhost:"));
            stream
        })
        .collect();
    assert_eq!(get(server.address, "/health").status, 200);
    // Who has just come is about to ask, but not for long.
    wait_until(|| get(server.address, "/v1/models").status == 200);
}

#[test]
fn while_all_are_answered_probes_are_too() {
    let server = small(2);
    let busy: Vec<_> = (0..2).map(|_| send(server.address, "POST", PATH, &[JSON], &long())).collect();
    wait_until(|| server.load() == 2);
    for path in ["/health", "/metrics", "/load", "/version"] {
        let answer = get(server.address, path);
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{path}");
    }
    for answer in [
        get(server.address, "/v1/models"),
        post(server.address, PATH, &json!({"prompt": "x"})),
        post(server.address, "/nothing", &json!({})),
    ] {
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("too_many_connections")));
        assert_eq!((answer.header("connection"), answer.header("retry-after")), (Some("close"), Some("1")));
    }
    // Extra places are not for waiting in: hundreds of silent ones do not hide the probe.
    let silent: Vec<_> = (0..300).map(|_| connect(server.address)).collect();
    assert_eq!(get(server.address, "/health").status, 200);
    drop((busy, silent));
    wait_until(|| get(server.address, "/v1/models").status == 200);
}

#[test]
fn a_client_has_so_many_requests_at_once() {
    let keys = vec!["first".to_owned(), "second".to_owned()];
    let server =
        slow(ServerConfig { api_keys: keys, requests_per_client_max: Some(2), ..ServerConfig::default() });
    let with = |key: &'static str| [JSON, ("authorization", key)];
    let first = with("Bearer first");
    let busy: Vec<_> = (0..2).map(|_| send(server.address, "POST", PATH, &first, &long())).collect();
    wait_until(|| server.load() == 2);
    let refused = request(server.address, "POST", PATH, &first, "{\"prompt\": \"x\"}");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("too_many_requests")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let second = with("Bearer second");
    let body = "{\"prompt\": \"x\", \"max_tokens\": 1}";
    assert_eq!(request(server.address, "POST", PATH, &second, body).status, 200);
    drop(busy);
    wait_until(|| request(server.address, "POST", PATH, &first, body).status == 200);
}

#[test]
fn a_client_that_has_nothing_more_to_say_is_answered() {
    let server = small(8);
    let body = json!({"prompt": "x", "max_tokens": 60, "ignore_eos": true});
    for (version, stream) in [("1.1", false), ("1.1", true), ("1.0", false), ("1.0", true)] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        let body = body.to_string();
        let head = format!(
            "POST {PATH} HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = connect(server.address);
        connection.write_all((head + &body).as_bytes()).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/{version} 200")), "{version} {stream}: {answer}");
        let end = if stream { "data: [DONE]" } else { "\"completion_tokens\":60" };
        assert!(answer.contains(end), "{version} {stream}: {answer}");
    }
    // With a request in front that is answered at once, and bytes of another behind.
    let text = format!("{HEALTH}GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea");
    let mut connection = connect(server.address);
    connection.write_all(text.as_bytes()).unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.matches("HTTP/1.1 200").count() == 2 && answer.contains("\"mock\""), "{answer}");
}

#[test]
fn a_client_that_leaves_is_told_from_one_that_listens() {
    let server = small(8);
    for (version, more, stream) in [
        ("1.1", "", false),
        ("1.0", "", false),
        ("1.1", "GET /", false),
        ("1.1", "", true),
        ("1.1", "G", true),
    ] {
        let mut body = json!({"prompt": "x", "max_tokens": 390, "ignore_eos": true});
        body["stream"] = stream.into();
        let body = body.to_string();
        let head = format!(
            "POST {PATH} HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        for leaves in [Leaves::AtOnce, Leaves::InTwoSteps] {
            let mut connection = connect(server.address);
            connection.write_all((head.clone() + &body + more).as_bytes()).unwrap();
            wait_until(|| server.load() == 1);
            if leaves == Leaves::InTwoSteps {
                connection.shutdown(Shutdown::Write).unwrap();
                // It may be there for long.
                connection.read_exact(&mut [0]).unwrap();
            }
            let start = Instant::now();
            drop(connection);
            wait_until(|| server.load() == 0);
            assert!(
                start.elapsed() < Duration::from_secs(3),
                "{version} {more:?} {stream} {leaves:?}: to the end"
            );
        }
    }
}

/// How a client goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaves {
    AtOnce,
    InTwoSteps,
}

#[test]
fn a_client_of_a_unix_socket_may_close_its_side() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("connections");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("socket");
    drop(std::fs::remove_file(&path));
    let place = path.clone();
    let mock = MockExecutor { step_time: Duration::from_millis(10), ..MockExecutor::default() };
    let _server = Server::start_on(
        move || tokio::net::UnixListener::bind(place).unwrap().into(),
        Box::new(|| Ok(Setup { mock, ..Setup::default() }.loaded())),
        ServerConfig::default(),
    );
    let send = |text: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    };
    let load = || {
        let answer = receive(send("GET /load HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n"));
        answer.json()["server_load"].as_u64()
    };
    wait_until(|| path.exists() && UnixStream::connect(&path).is_ok());
    wait_until(|| load().is_some());
    let body = long();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: rebound.example\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let stream = send(&(head + &body));
    wait_until(|| load() == Some(1));
    let start = Instant::now();
    drop(stream);
    wait_until(|| load() == Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "no browser asks here, and who leaves is seen");
}

#[test]
fn a_body_beyond_the_limit_is_answered_however_it_comes() {
    let config = ServerConfig { body_bytes_max: 1000, ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, "x".repeat(64 << 10));
    for (name, length, body) in [
        (
            "chunked, and all of it sent first",
            "transfer-encoding: chunked\r\n",
            chunk.repeat(100) + "0\r\n\r\n",
        ),
        ("chunked, without an end", "transfer-encoding: chunked\r\n", chunk.repeat(3)),
        ("with its length, sent first", "content-length: 8000000\r\n", "x".repeat(8_000_000)),
        ("with its length, not sent", "content-length: 99999999999\r\n", String::new()),
        (
            "with its length, asking first",
            "content-length: 99999999999\r\nexpect: 100-continue\r\n",
            String::new(),
        ),
        ("with a length beyond numbers", "content-length: 99999999999999999999999\r\n", String::new()),
    ] {
        let answer = talk(server.address, &format!("{head}{length}\r\n{body}"));
        // What is no number at all is no request.
        let expected = if name.ends_with("numbers") { "HTTP/1.1 400" } else { "HTTP/1.1 413" };
        assert!(answer.starts_with(expected), "{name}: {answer:?}");
        if expected.ends_with("413") {
            assert!(
                answer.contains("body_too_large") && answer.contains("connection: close"),
                "{name}: {answer}"
            );
        }
        assert!(!answer.contains("100 Continue"), "{name}: {answer}");
    }
    // A body within the limit that asks first is asked for.
    let small = format!(
        "{head}connection: close\r\ncontent-length: 15\r\nexpect: 100-continue\r\n\r\n{{\"prompt\": \"x\"}}"
    );
    let answer = talk(server.address, &small);
    assert!(answer.starts_with("HTTP/1.1 100") && answer.contains("HTTP/1.1 200"), "{answer}");
}

#[test]
fn heads_beyond_the_limits_and_of_no_sense_are_answered() {
    let server = Setup::default().start();
    let start = "GET /health HTTP/1.1\r\nhost: localhost\r\n";
    for (name, text, expected) in [
        ("many headers", format!("{start}{}\r\n", "a: b\r\n".repeat(500)), "HTTP/1.1 431"),
        ("a long header", format!("{start}a: {}\r\n\r\n", "b".repeat(4 << 20)), "HTTP/1.1 431"),
        ("a long name", format!("{start}{}: b\r\n\r\n", "a".repeat(70_000)), "HTTP/1.1 431"),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(100_000)),
            "HTTP/1.1 4",
        ),
        ("a space in a name", format!("{start}a b: c\r\n\r\n"), "HTTP/1.1 400"),
        ("no version", "GET /health\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("another version", "GET /health HTTP/3.0\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("no HTTP", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("no host", "GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("two lengths", format!("{start}content-length: 1\r\ncontent-length: 2\r\n\r\nab"), "HTTP/1.1 400"),
    ] {
        let answer = talk(server.address, &text);
        assert!(answer.starts_with(expected), "{name}: {answer:?}");
    }
    // Bytes that are no UTF-8, in a path, in a header and in a query.
    for head in [
        &b"GET /\xff\xfe HTTP/1.1\r\n"[..],
        b"GET /health HTTP/1.1\r\na: \xff\r\n",
        b"GET /health?\xff HTTP/1.1\r\n",
    ] {
        let mut stream = connect(server.address);
        stream.write_all(head).unwrap();
        drop(stream.write_all(b"host: localhost\r\nconnection: close\r\n\r\n"));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(answer.starts_with(b"HTTP/1.1 "), "{head:?}: {}", String::from_utf8_lossy(&answer));
    }
    let answer = talk(
        server.address,
        &(HEALTH.repeat(20) + &HEALTH.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")),
    );
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 21, "one after the other");
}

#[test]
fn names_and_pages_of_others_are_refused() {
    let cors = Cors {
        origins: vec!["https://page.example".to_owned()],
        methods: vec!["POST".to_owned()],
        headers: vec!["content-type".to_owned()],
        credentials: Credentials::Withheld,
    };
    let config = ServerConfig {
        hosts: Hosts::new(&["api.example".to_owned()]).unwrap(),
        cors: Some(cors),
        root_path: "/llm".to_owned(),
        ..ServerConfig::default()
    };
    let server = Setup { config, ..Setup::default() }.start();
    let body = "{\"prompt\": \"x\", \"max_tokens\": 1}";
    for (line, headers, expected) in [
        ("POST /v1/completions", "host: localhost", "200"),
        ("POST /v1/completions", "host: api.example", "200"),
        ("POST /v1/completions", "host: rebound.example", "403"),
        ("POST http://rebound.example/llm/v1/completions", "host: localhost", "403"),
        ("GET /v1/models", "host: rebound.example:8000", "403"),
        ("GET /nothing", "host: rebound.example", "403"),
        ("OPTIONS /v1/models", "host: localhost\r\norigin: https://page.example", "200"),
        ("POST /v1/completions", "host: localhost\r\norigin: null", "403"),
        ("POST /v1/completions", "host: localhost\r\norigin: https://evil.example", "403"),
        ("POST /v1/completions", "host: localhost\r\norigin: https://page.example", "200"),
        ("POST /v1/completions", "host: localhost:1\r\norigin: http://localhost:1", "200"),
        ("GET /health", "host: rebound.example", "200"),
    ] {
        let head = format!("{line} HTTP/1.1\r\n{headers}\r\ncontent-type: application/json\r\n");
        let text = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = talk(server.address, &text);
        assert_eq!(&answer[9..12], expected, "{line} {headers}: {answer}");
        let advice = if headers.contains("origin") { "--allowed-origins" } else { "--allowed-hosts" };
        assert_eq!(answer.contains(advice), expected == "403", "{line} {headers}: {answer}");
    }
}

#[test]
fn refusals_by_the_head_do_not_wait_for_the_body() {
    let config = ServerConfig { api_keys: vec!["key".to_owned()], ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let key = "authorization: Bearer key\r\n";
    let json = "content-type: application/json\r\n";
    for (line, headers, expected) in [
        ("POST /v1/completions", String::new(), 401),
        ("POST /nothing", String::new(), 401),
        ("POST /nothing", key.to_owned(), 404),
        ("PUT /v1/completions", key.to_owned(), 405),
        ("POST /v1/completions", key.to_owned(), 415),
        ("POST /v1/completions", format!("{key}{json}origin: null\r\n"), 403),
    ] {
        let mut stream = connect(server.address);
        let head =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n{headers}\r\n{{");
        stream.write_all(head.as_bytes()).unwrap();
        let answer = receive(stream);
        assert_eq!(answer.status, expected, "{line} {headers}");
    }
}
