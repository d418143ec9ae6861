//! What operators of `undine serve` rely on: TLS, Unix sockets, keys, a configuration file, signals.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::rustls;

use crate::common::{models, run, stderr, text, undine};
use crate::serve::Server;

const MODELS: &str = "GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n";

fn file(name: &str, content: &str) -> PathBuf {
    let path = models().place(name);
    std::fs::write(&path, content).expect("writes");
    path
}

fn talk(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sends");
    let mut answer = Vec::new();
    // The end of an encrypted stream may come without its formal goodbye.
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn tls_with_a_certificate_of_ones_own() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (file("cert.pem", &cert.pem()), file("key.pem", &signing_key.serialize_pem()));
    let model = models().base();
    let flags = ["--ssl-certfile", text(&certificate), "--ssl-keyfile", text(&key)];
    let server = Server::start(&[&[text(&model), "--served-model-name", "secret"], &flags[..]].concat());
    assert_eq!(server.scheme, "https");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a root");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocols")
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let stream = TcpStream::connect(&server.address).expect("connects");
    let answer = talk(rustls::StreamOwned::new(session, stream), MODELS);
    assert!(answer.contains("\"secret\""), "{answer}");
    assert_eq!(server.terminate().0, Some(0));
    let output =
        run(&["serve", text(&model), "--ssl-certfile", text(&key), "--ssl-keyfile", text(&certificate)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("expected at least one certificate"), "{}", stderr(&output));
}

#[test]
fn a_unix_socket_outlives_a_killed_server() {
    let (model, socket) = (models().base(), models().place("socket"));
    let words = [text(&model), "--uds", text(&socket)];
    drop(Server::start(&words));
    assert!(socket.exists(), "a killed server leaves its socket");
    let server = Server::start(&words);
    let answer = talk(UnixStream::connect(&socket).expect("connects"), MODELS);
    assert!(answer.contains("\"object\":\"list\""), "{answer}");
    let mut second = vec!["serve"];
    second.extend(words);
    let refused = run(&second);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("another server answers there"), "{}", stderr(&refused));
    assert!(UnixStream::connect(&socket).is_ok(), "the second one left the first one's socket");
    assert_eq!(server.terminate().0, Some(0));
    assert!(!socket.exists(), "the socket goes with the server");
}

#[test]
fn a_file_in_the_place_of_a_socket_stays() {
    let model = models().base();
    let place = file("precious.txt", "precious");
    let output = run(&["serve", text(&model), "--uds", text(&place)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a regular file"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&place).expect("there"), "precious");
}

#[test]
fn keys_come_from_flags_files_and_the_environment() {
    let model = models().base();
    let keys = file("keys.txt", "# of the team\nalice\n\n  bob  \n");
    let status = |server: &Server, key: &str| {
        let head = format!("GET /v1/models HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n");
        talk(TcpStream::connect(&server.address).expect("connects"), &head)[9..12].to_owned()
    };
    let server = Server::start(&[text(&model), "--api-key", "carol", "--api-key-file", text(&keys)]);
    for (key, expected) in
        [("alice", "200"), ("bob", "200"), ("carol", "200"), ("# of the team", "401"), ("dave", "401")]
    {
        assert_eq!(status(&server, key), expected, "{key}");
    }
    assert!(server.ask("GET", "/metrics", "").starts_with("HTTP/1.1 200"));
    drop(server);
    let server = Server::start_in(&[text(&model)], &[("VLLM_API_KEY", "erin")]);
    assert_eq!((status(&server, "erin").as_str(), status(&server, "alice").as_str()), ("200", "401"));
    drop(server);
    for (flags, variables, part) in [
        (&["--api-key", " "][..], &[][..], "only white space"),
        (&[], &[("UNDINE_API_KEY", " \t")], "only white space"),
        (&[], &[("VLLM_API_KEY", " ")], "VLLM_API_KEY: expected a key"),
        (&[], &[("VLLM_API_KEY", "")], "VLLM_API_KEY: expected a key"),
        (
            &["--api-key-file", text(&file("odd.txt", "good\nschl\u{fc}ssel\n"))],
            &[],
            "odd.txt: line 2: expected a key",
        ),
    ] {
        let mut command = undine();
        command.env_remove("VLLM_API_KEY").args(["serve", text(&model), "--port", "0"]).args(flags);
        let output = command.envs(variables.iter().copied()).output().expect("starts");
        assert!(!output.status.success(), "{flags:?} {variables:?} opened the server to everyone");
        assert!(stderr(&output).contains(part), "{flags:?} {variables:?}: {}", stderr(&output));
    }
    let empty = file("nobody.txt", "# nobody\n");
    let output = run(&["serve", text(&model), "--api-key-file", text(&empty)]);
    assert!(stderr(&output).contains("at least one key"), "{}", stderr(&output));
}

#[test]
#[cfg(target_os = "linux")]
fn keys_are_not_in_the_list_of_processes() {
    let model = models().base();
    let server = Server::start(&[
        text(&model),
        "--api-key",
        "alice-secret",
        "--api_key=bob-secret",
        "--hf-token",
        "hf_carol",
    ]);
    let words = std::fs::read(format!("/proc/{}/cmdline", server.child.id())).expect("runs");
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    assert!(words.contains("serve") && words.contains("--api-key ***"), "{words}");
    for secret in ["alice", "bob", "carol"] {
        assert!(!words.contains(secret), "{words}");
    }
    for (key, expected) in [("alice-secret", "200"), ("bob-secret", "200"), ("***", "401")] {
        let head = format!("GET /v1/models HTTP/1.0\r\nauthorization: Bearer {key}\r\n\r\n");
        let answer = talk(TcpStream::connect(&server.address).expect("connects"), &head);
        assert_eq!(&answer[9..12], expected, "{key}");
    }
    assert_eq!(server.terminate().0, Some(0), "it is the same process");
}

#[test]
fn a_server_is_asked_by_its_names() {
    let model = models().base();
    let status = |server: &Server, host: &str| {
        let head = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        talk(TcpStream::connect(&server.address).expect("connects"), &head)[9..12].to_owned()
    };
    let machine = Command::new("uname").arg("-n").output().expect("uname starts");
    let machine = String::from_utf8(machine.stdout).expect("UTF-8").trim().to_owned();
    let server = Server::start(&[text(&model)]);
    for (host, expected) in [("127.0.0.1", "200"), (machine.as_str(), "200"), ("api.example", "403")] {
        assert_eq!(status(&server, host), expected, "{host}");
    }
    let (_, errors) = server.terminate();
    assert!(!errors.contains("ANYONE"), "it listens on this machine alone: {errors}");
    let server = Server::start_in(&[text(&model)], &[("UNDINE_ALLOWED_HOSTS", "api.example,.b.example")]);
    for (host, expected) in [("api.example", "200"), ("a.b.example:1", "200"), ("c.example", "403")] {
        assert_eq!(status(&server, host), expected, "{host}");
    }
    drop(server);
    let config = file("hosts.yaml", "allowed_hosts: [api.example]\n");
    let server = Server::start(&["--config", text(&config), text(&model)]);
    assert_eq!((status(&server, "api.example"), status(&server, "b.example")), ("200".into(), "403".into()));
    drop(server);
    let output = run(&["serve", text(&model), "--allowed-hosts", "http://api.example"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--allowed-hosts: expected a host name"), "{}", stderr(&output));
}

#[test]
fn a_file_of_flags_and_the_command_line_over_it() {
    let model = models().chat();
    let config = file(
        "server.yaml",
        &format!(
            "model: {}\nserved_model_name: [from-file, second]\nmax-model-len: 2K\nmax-num-seqs: 3\n\
             override-generation-config:\n  temperature: 0\ndisable-log-requests: true\nlog-format: json\n",
            model.display()
        ),
    );
    let server = Server::start(&["--config", text(&config), "--max-num-seqs", "2", "--enforce-eager"]);
    let info = server.ask("GET", "/server_info", "");
    assert!(info.contains("\"from-file\",\"second\"") && info.contains("\"max_model_len\":2048"), "{info}");
    assert!(info.contains("\"max_num_seqs\":2"), "the command line comes first: {info}");
    let body = r#"{"max_tokens": 8, "prompt": "Hi"}"#;
    let text_of =
        |answer: &str| answer.split("\"text\":").nth(1).map(|rest| rest[..20.min(rest.len())].to_owned());
    let (first, second) =
        (server.ask("POST", "/v1/completions", body), server.ask("POST", "/v1/completions", body));
    assert!(first.starts_with("HTTP/1.1 200") && text_of(&first) == text_of(&second), "{first}\n{second}");
    let (code, errors) = server.terminate();
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with('{')).collect();
    assert!(
        lines.iter().any(|line| line.contains("\"level\":\"WARN\"") && line.contains("--enforce-eager")),
        "{errors}"
    );
    assert!(!errors.contains("/v1/completions"), "requests are not logged: {errors}");

    let wrong = file("wrong.yaml", "max_model_length: 5\n");
    let output = run(&["serve", "--config", text(&wrong)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean \"max-model-len\"?"), "{}", stderr(&output));
}

#[test]
fn every_request_has_a_line_without_its_text() {
    let server = Server::start(&[text(&models().chat())]);
    let body = r#"{"max_tokens": 3, "prompt": "a very private thing", "ignore_eos": true}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.0\r\nx-request-id: my-id-7\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = talk(TcpStream::connect(&server.address).expect("connects"), &head);
    assert!(answer.contains("x-request-id: my-id-7") && answer.contains("cmpl-my-id-7"), "{answer}");
    let (_, errors) = server.terminate();
    let find = |log: &str, part: &str| {
        log.lines().find(|line| line.contains(part)).map_or_else(|| panic!("{part}: {log}"), str::to_owned)
    };
    let line = find(&errors, "POST /v1/completions 200, ");
    for part in [" tokens in, 3 out, first after ", "s"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!errors.contains("private"), "{errors}");

    // All there is to know of it is for those who debug, and for programs.
    let server = Server::start(&[text(&models().chat()), "--log-level", "debug"]);
    talk(TcpStream::connect(&server.address).expect("connects"), &head);
    let (_, errors) = server.terminate();
    let line = find(&errors, "id=my-id-7");
    for part in ["INFO", "/v1/completions", "status=200", "completion_tokens=3", "complete", "ttft_ms"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!errors.contains("private"), "{errors}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Server::start(&[text(&models().synthetic()), "--shutdown-timeout", "60"]);
    let body = r#"{"prompt": [5, 6, 7], "max_tokens": 3000, "ignore_eos": true}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(&server.address).expect("connects");
    stream.write_all(head.as_bytes()).expect("sends");
    while !server.ask("GET", "/load", "").contains("\"server_load\":1") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let kill = || {
        Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().expect("kill starts")
    };
    kill();
    while !server.ask("GET", "/health", "").starts_with("HTTP/1.1 503") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let start = Instant::now();
    let (code, errors) = server.terminate();
    assert_eq!(code, Some(130), "{errors}");
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

#[test]
fn help_comes_in_groups_and_unknown_flags_with_advice() {
    let output = run(&["serve", "--help"]);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for heading in
        ["Model:", "Memory and scheduling:", "Answers:", "Network:", "Access:", "Logging:", "Examples:"]
    {
        assert!(help.contains(heading), "{heading}\n{help}");
    }
    assert!(!help.contains("--enable-lora"), "flags without a meaning are not advertised");
    let output = run(&["serve", "--max-num-seq", "4"]);
    assert!(stderr(&output).contains("--max-num-seqs"), "{}", stderr(&output));
}
