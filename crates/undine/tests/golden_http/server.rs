//! `undine serve` on an oracle checkpoint, and a client that speaks as little HTTP as possible.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server, killed at the end of its test.
pub struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts the binary on a folder of `tests/data/oracle` and waits until it is ready.
    pub fn start(case: &str, flags: &[&str]) -> Self {
        Self::start_at(&undine_tests::data("oracle").join(case), flags)
    }

    /// The same for any checkpoint.
    pub fn start_at(checkpoint: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undine"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UNDINE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg(checkpoint);
        command.args(["--port", "0", "--threads", "2"]).args(flags);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        let mut reader = BufReader::new(child.stdout.as_mut().expect("piped"));
        reader.read_line(&mut line).expect("a line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        Self { child, address }
    }

    /// Sends a request and returns the connection, from which nothing has been read. HTTP/1.0, so that the
    /// body comes as it is, up to the end of the connection.
    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("sends");
        stream
    }

    fn body_of(mut stream: TcpStream, what: &str) -> String {
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("receives");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.split(' ').nth(1) == Some("200"), "{what}: {response}");
        body.to_owned()
    }

    /// The answer of `/v1/completions`.
    pub fn complete(&self, body: &Value) -> Value {
        self.ask("/v1/completions", body)
    }

    /// The answer to a request.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let text = Self::body_of(self.send("POST", path, &body), &body);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The chunks of the same as a stream.
    pub fn stream(&self, body: &Value) -> Vec<Value> {
        self.ask_stream("/v1/completions", body)
    }

    /// The chunks of the answer to a request as a stream.
    pub fn ask_stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let body = body.to_string();
        let text = Self::body_of(self.send("POST", path, &body), &body);
        let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let chunk =
            |event: &&str| event.strip_prefix("data: ").and_then(|json| serde_json::from_str(json).ok());
        events.iter().map(|event| chunk(event).unwrap_or_else(|| panic!("no chunk: {event}"))).collect()
    }

    /// Sequences running or waiting.
    pub fn load(&self) -> u64 {
        let text = Self::body_of(self.send("GET", "/load", ""), "/load");
        let load: Value = serde_json::from_str(&text).expect("JSON");
        load["server_load"].as_u64().expect("a number")
    }

    /// Waits until as many sequences run or wait, and returns how long that took.
    pub fn wait_for_load(&self, wanted: u64) -> Duration {
        let start = Instant::now();
        while self.load() != wanted {
            assert!(start.elapsed() < PATIENCE, "the load is {} for {PATIENCE:?}", self.load());
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }
}
