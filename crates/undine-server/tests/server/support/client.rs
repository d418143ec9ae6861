//! HTTP/1.1 over a TCP stream, one request per connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The chunks of an event stream, without the final `[DONE]`, which must be there.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{}", self.body);
        let mut events: Vec<&str> =
            self.body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

/// Sends a request and returns the connection, from which nothing has been read.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(request.as_bytes()).unwrap();
    // A server that refuses by the headers may have closed its side.
    drop(stream.write_all(body.as_bytes()));
    stream
}

pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    receive(send(address, method, path, headers, body))
}

/// Reads a response to its end.
pub fn receive(stream: impl Read) -> Response {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let mut body = Vec::new();
    if chunked {
        read_chunks(&mut reader, &mut body);
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    Response { status, headers, body: String::from_utf8(body).unwrap() }
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let size = u64::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("cut off: {line:?}"));
        reader.by_ref().take(size).read_to_end(body).unwrap();
        reader.read_line(&mut line).unwrap();
        if size == 0 {
            return;
        }
    }
}

pub fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path, &[], "")
}

pub const JSON: (&str, &str) = ("content-type", "application/json");

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    request(address, "POST", path, &[JSON], &body.to_string())
}

/// Posts and expects success.
pub fn ask(address: SocketAddr, path: &str, body: &Value) -> Value {
    let response = post(address, path, body);
    assert_eq!(response.status, 200, "{body}: {}", response.body);
    response.json()
}

/// Posts with `stream: true` and expects chunks.
pub fn ask_stream(address: SocketAddr, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    body["stream"] = true.into();
    let response = post(address, path, &body);
    assert_eq!(response.status, 200, "{body}: {}", response.body);
    response.events()
}
