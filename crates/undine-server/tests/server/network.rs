//! Sockets of every kind, TLS, web pages, and clients that take their time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::client::{JSON, ask, get, post, receive, request, send};
use crate::support::mock::MockExecutor;
use crate::support::{Server, Setup, wait_until};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio_rustls::rustls;
use undine_engine::EngineConfig;
use undine_server::{Cors, Credentials, Listener, ServerConfig, Timeouts, Tls, TlsFiles};

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// A folder for a test's files, empty.
fn folder(name: &str) -> PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("network").join(name);
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn health_over(mut stream: impl Read + Write) -> u16 {
    stream.write_all(HEALTH).unwrap();
    receive(stream).status
}

#[test]
fn a_unix_socket_serves() {
    let path = folder("unix").join("socket");
    let place = path.clone();
    let server = Server::start_on(
        move || tokio::net::UnixListener::bind(place).unwrap().into(),
        Box::new(|| Ok(Setup::default().loaded())),
        ServerConfig::default(),
    );
    wait_until(|| UnixStream::connect(&path).is_ok_and(|stream| health_over(stream) == 200));
    assert!(server.join().is_ok());
}

#[test]
fn tls_serves_and_plain_text_does_not_pass() {
    let folder = folder("tls");
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem"), clients: None };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    let swapped = TlsFiles { certificate: files.key.clone(), key: files.certificate.clone(), clients: None };
    assert!(Tls::open(&swapped).err().unwrap().to_string().contains("expected at least one certificate"));

    let tls = Tls::open(&files).unwrap();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let _server = Server::start_on(
        move || Listener::from(tokio::net::TcpListener::from_std(socket).unwrap()).with_tls(tls),
        Box::new(|| Ok(Setup::default().loaded())),
        ServerConfig::default(),
    );

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let connect = || {
        let session = rustls::ClientConnection::new(Arc::clone(&config), "localhost".try_into().unwrap());
        rustls::StreamOwned::new(session.unwrap(), TcpStream::connect(address).unwrap())
    };
    wait_until(|| health_over(connect()) == 200);
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(HEALTH).unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "an unencrypted request was answered");
    assert_eq!(health_over(connect()), 200);
}

#[test]
fn web_pages_ask_first() {
    let cors = Cors {
        origins: vec!["https://good.example".to_owned()],
        methods: vec!["POST".to_owned()],
        headers: vec!["authorization".to_owned(), "content-type".to_owned()],
        credentials: Credentials::Allowed,
    };
    let config =
        ServerConfig { api_keys: vec!["key".to_owned()], cors: Some(cors), ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let preflight = |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        request(server.address, "OPTIONS", "/v1/completions", &headers, "")
    };
    let good = preflight("https://good.example");
    assert_eq!(good.status, 200, "a preflight has no key");
    assert_eq!(good.header("access-control-allow-origin"), Some("https://good.example"));
    assert_eq!(good.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(preflight("https://bad.example").header("access-control-allow-origin"), None);
    // The request itself, with its key; and one without permission to be read.
    let headers = [JSON, ("authorization", "Bearer key"), ("origin", "https://good.example")];
    let answer = request(server.address, "POST", "/v1/completions", &headers, "{\"prompt\": \"x\"}");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://good.example"));

    // Browsers do not take "*" for leave to send `authorization`, and show pages only the headers that are
    // named.
    let any = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let cors = Cors {
        origins: any(&["*"]),
        methods: any(&["*"]),
        headers: any(&["*"]),
        credentials: Credentials::Withheld,
    };
    let open =
        Setup { config: ServerConfig { cors: Some(cors), ..ServerConfig::default() }, ..Setup::default() }
            .start();
    let asked = "authorization,content-type,x-stainless-lang";
    let headers = [
        ("origin", "https://any.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", asked),
    ];
    let preflight = request(open.address, "OPTIONS", "/v1/completions", &headers, "");
    assert_eq!((preflight.status, preflight.header("access-control-allow-headers")), (200, Some(asked)));
    let headers = [JSON, ("origin", "https://any.example")];
    let answer = request(open.address, "POST", "/v1/completions", &headers, "{\"prompt\": \"x\"}");
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
    for name in ["x-request-id", "retry-after", "x-undine-ignored-fields", "x-undine-relaxed-schemas"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name}: {exposed}");
    }

    let closed = Setup::default().start();
    let headers = [("origin", "https://good.example"), ("access-control-request-method", "POST")];
    let refused = request(closed.address, "OPTIONS", "/v1/completions", &headers, "");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (405, None));
}

#[test]
fn a_root_path_is_removed() {
    let config = ServerConfig { root_path: "/llm".to_owned(), ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    for (path, status) in
        [("/llm/v1/models", 200), ("/v1/models", 200), ("/llmv1/models", 404), ("/llm/llm/health", 404)]
    {
        assert_eq!(get(server.address, path).status, status, "{path}");
    }
}

/// Base URLs with a slash at their end, or with one too many.
#[test]
fn slashes_too_many_lead_to_the_same_route() {
    let root = ServerConfig { root_path: "/llm".to_owned(), ..ServerConfig::default() };
    let servers = [Setup::default().start(), Setup { config: root, ..Setup::default() }.start()];
    for server in &servers {
        for (path, status) in [
            ("/v1/models/", 200),
            ("//v1/models", 200),
            ("/v1//models//", 200),
            ("//health/", 200),
            ("/v1/models/?a=1", 200),
            ("/v1/models/nothing/", 404),
            ("/v1/mod/els", 404),
        ] {
            assert_eq!(get(server.address, path).status, status, "{path}");
        }
        let body = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
        assert_eq!(post(server.address, "/v1//chat/completions/", &body).status, 200);
    }
    assert_eq!(get(servers[1].address, "//llm//v1/models/").status, 200);
}

#[test]
fn request_ids_come_back() {
    let server = Setup::default().start();
    for (given, kept) in [("abc-1.2:3", true), ("with space", false), ("", false)] {
        let answer = request(server.address, "GET", "/health", &[("x-request-id", given)], "");
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(id == given, kept, "{given:?}: {id:?}");
        assert!(!id.is_empty());
    }
}

#[test]
fn slow_senders_are_not_waited_for() {
    let timeouts = Timeouts {
        headers: Duration::from_millis(200),
        body: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let config = ServerConfig { timeouts, ..ServerConfig::default() };
    let server = Setup { config, ..Setup::default() }.start();
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent.write_all(b"GET /health HTTP/1.1\r\nhost:").unwrap();
    let mut rest = Vec::new();
    silent.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    drop(silent.read_to_end(&mut rest));
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "the connection is closed");

    let mut stalled = TcpStream::connect(server.address).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                connection: close\r\ncontent-length: 100\r\n\r\n{";
    stalled.write_all(head.as_bytes()).unwrap();
    let answer = receive(stalled);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (408, &json!("body_too_slow")));
    let long_header = "x".repeat(500 << 10);
    let answer = request(server.address, "GET", "/health", &[("x-long", &long_header)], "");
    assert_eq!(answer.status, 431);
}

/// Proxies give up connections on which nothing moves; a prompt may be read for longer than they wait.
#[test]
fn a_silent_stream_says_that_it_is_alive() {
    let timeouts = Timeouts { silence: Duration::from_millis(20), ..Timeouts::default() };
    let config = ServerConfig { timeouts, ..ServerConfig::default() };
    let mock = MockExecutor { step_time: Duration::from_millis(200), ..MockExecutor::default() };
    let server = Setup { config, mock, ..Setup::default() }.start();
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 2, "stream": true})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": true}),
        ),
    ] {
        let answer = post(server.address, path, &body);
        let (pings, events): (Vec<&str>, Vec<&str>) =
            answer.body.split_terminator("\n\n").partition(|event| event.starts_with(':'));
        assert!(pings.len() > 2 && pings.iter().all(|ping| *ping == ": ping"), "{}", answer.body);
        assert!(events.iter().all(|event| event.starts_with("data: ")), "{}", answer.body);
        assert_eq!(events.last(), Some(&"data: [DONE]"));
    }
}

#[test]
fn a_reader_that_does_not_read_is_cut_off() {
    let timeouts = Timeouts { write: Duration::from_millis(300), ..Timeouts::default() };
    let config = ServerConfig { timeouts, ..ServerConfig::default() };
    let engine = EngineConfig { max_model_len: 4000, ..Setup::default().engine };
    let mock = MockExecutor { step_time: Duration::from_millis(1), ..MockExecutor::default() };
    let server = Setup { config, engine, mock, ..Setup::default() }.start();
    // Events of about two kilobytes each: together more than the system buffers for a client with little
    // room.
    let messages = json!([{"role": "user", "content": "x"}]);
    let body = json!({"messages": messages, "max_tokens": 3500, "ignore_eos": true, "stream": true,
                      "logprobs": true, "top_logprobs": 20})
    .to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connection = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(server.address).await.unwrap().into_std().unwrap()
    });
    connection.set_nonblocking(false).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    (&connection).write_all((head + &body).as_bytes()).unwrap();
    wait_until(|| server.load() == 1);
    let start = Instant::now();
    wait_until(|| server.load() == 0);
    let metrics = get(server.address, "/metrics").body;
    let aborted = metrics.lines().find(|line| line.contains("finished_reason=\"abort\"")).unwrap();
    assert!(aborted.ends_with(" 1"), "{aborted} after {:?}", start.elapsed());
    drop(connection);
}

#[test]
fn a_long_prompt_does_not_hold_up_a_stream() {
    const STEP: Duration = Duration::from_millis(5);
    let engine = EngineConfig { max_model_len: 2000, ..Setup::default().engine };
    let mock = MockExecutor { step_time: STEP, ..MockExecutor::default() };
    let server = Setup { engine, mock, ..Setup::default() }.start();
    let body = json!({"prompt": "x", "max_tokens": 150, "ignore_eos": true, "stream": true});
    let stream = send(server.address, "POST", "/v1/completions", &[JSON], &body.to_string());
    wait_until(|| server.load() == 1);
    // 1,500 tokens are fifty steps or more.
    let address = server.address;
    let long = std::thread::spawn(move || {
        let prompt: Vec<u32> = (0..1500).map(|i| 20 + i % 900).collect();
        ask(address, "/v1/completions", &json!({"prompt": prompt, "max_tokens": 1}))
    });
    let mut worst = Duration::ZERO;
    let mut before = Instant::now();
    for line in BufReader::new(stream).lines() {
        if line.unwrap().starts_with("data: {") {
            worst = worst.max(before.elapsed());
            before = Instant::now();
        }
    }
    long.join().unwrap();
    // Twenty steps, because other tests run beside this one; the whole prompt would be fifty.
    assert!(worst < 20 * STEP + Duration::from_millis(50), "a token took {worst:?}");
}
