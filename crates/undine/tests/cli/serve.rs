//! `undine serve` from its start to SIGTERM.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::common::{models, run, stderr, text, undine};

/// A running server; killed if the test fails before it has ended.
pub struct Server {
    pub child: Child,
    /// `http`, `https` or `unix`.
    pub scheme: String,
    /// Of a TCP socket.
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    pub fn start(words: &[&str]) -> Self {
        Self::start_in(words, &[])
    }

    /// With variables in its environment.
    pub fn start_in(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = undine();
        command.env_remove("VLLM_API_KEY").envs(variables.iter().copied());
        command.args(["serve", "--port", "0"]).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut line = String::new();
        let mut reader = BufReader::new(child.stdout.as_mut().expect("piped"));
        reader.read_line(&mut line).expect("a line");
        let place = line.split(" at ").nth(1).unwrap_or_else(|| panic!("no address in {line:?}"));
        let (scheme, rest) = place.split_once(':').unwrap_or_else(|| panic!("no scheme in {line:?}"));
        let address = rest.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        Self { child, scheme: scheme.to_owned(), address }
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        self.send(&(head + &rest))
    }

    /// Sends a request as it is.
    pub fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("receives");
        response
    }

    /// SIGTERM, then the exit code and what was on standard error.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
        let status = self.child.wait().expect("ends");
        let mut text = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        (status.code(), text)
    }
}

#[test]
fn a_server_answers_and_ends_at_sigterm() {
    let model = models().chat();
    let server = Server::start(&[text(&model), "--served-model-name", "undine", "--max-model-len", "4K"]);
    assert!(server.ask("GET", "/health", "").starts_with("HTTP/1.1 200"));
    assert!(server.ask("GET", "/v1/models", "").contains("\"undine\""));
    let body = r#"{"model": "undine", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}"#;
    let answer = server.ask("POST", "/v1/chat/completions", body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\""), "{answer}");
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn the_environment_names_a_model_unless_the_command_line_does() {
    let model = models().base();
    for words in [
        vec!["serve", "--port", "0", "/no/such/positional"],
        vec!["serve", "--port", "0", "--model", "/no/such/flag"],
    ] {
        let output = undine().args(&words).env("UNDINE_MODEL", &model).output().expect("starts");
        assert!(stderr(&output).contains("/no/such/"), "{words:?}: {}", stderr(&output));
    }
    let output = undine().args(["serve", "--port", "0"]).env("UNDINE_MODEL", "/no/such/env").output();
    assert!(stderr(&output.expect("starts")).contains("/no/such/env"));
}

#[test]
fn flags_of_vllm_are_accepted_with_a_warning() {
    let model = models().base();
    let server = Server::start(&["--model", text(&model), "--enforce-eager", "--swap-space", "4"]);
    let (code, errors) = server.terminate();
    assert_eq!(code, Some(0));
    for flag in ["--enforce-eager", "--swap-space"] {
        assert!(errors.contains(&format!("WARN {flag}")), "{errors}");
    }
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let model = models().base();
    for (words, code, part) in [
        (vec!["serve", "/no/such/model.gguf", "--port", "0"], 1, "/no/such/model.gguf"),
        (vec!["serve", text(&model), "--port", "0", "--max-model-len", "1G"], 1, "128000"),
        (
            vec!["serve", text(&model), "--port", "0", "--chat-template", "/no/such.jinja"],
            1,
            "/no/such.jinja",
        ),
        (vec!["serve", text(&model), "--host", "256.0.0.1"], 1, "cannot listen"),
        (vec!["serve", text(&model), "--tensor-parallel-size", "2"], 2, "one process"),
        (vec!["serve", text(&model), "--port", "0", "--kv-cache-memory-bytes", "16"], 1, "page"),
        (vec!["serve", text(&model), "--unknown"], 2, "--unknown"),
    ] {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{words:?}: {}", stderr(&output));
    }
}
