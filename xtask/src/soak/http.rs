//! A client that can behave badly: HTTP/1.1 by hand, over plain sockets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest time without a byte from the server.
const PATIENCE: Duration = Duration::from_secs(240);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where a server is and what it wants to see.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address and port.
    pub address: String,
    /// The key that opens it.
    pub key: String,
}

/// An answer with its body whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// How a request differs from an ordinary one.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    pub content_type: &'a str,
    pub host: Option<&'a str>,
    pub key: Option<&'a str>,
}

impl Default for Manner<'_> {
    fn default() -> Self {
        Self { content_type: "application/json", host: None, key: None }
    }
}

impl Target {
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The head of a request, up to the headers that say how long the body is.
    pub fn head(&self, method: &str, path: &str, manner: Manner<'_>) -> String {
        let (host, key) = (manner.host.unwrap_or(&self.address), manner.key.unwrap_or(&self.key));
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-type: {}\r\n",
            manner.content_type
        )
    }

    /// Sends a whole request on a connection of its own, which the server is asked to close.
    pub fn send(&self, method: &str, path: &str, manner: Manner<'_>, body: &str) -> io::Result<TcpStream> {
        let mut stream = self.connect()?;
        let head = self.head(method, path, manner);
        let length = body.len();
        write!(stream, "{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}")?;
        Ok(stream)
    }

    pub fn exchange(&self, method: &str, path: &str, manner: Manner<'_>, body: &str) -> io::Result<Answer> {
        read_answer(&mut BufReader::new(self.send(method, path, manner, body)?))
    }

    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.exchange("GET", path, Manner::default(), "")
    }

    pub fn post(&self, path: &str, body: &str) -> io::Result<Answer> {
        self.exchange("POST", path, Manner::default(), body)
    }
}

/// Reads one answer, whichever way its length is told.
pub fn read_answer(reader: &mut impl BufRead) -> io::Result<Answer> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| wrong("no status"))?;
    let (mut length, mut is_chunked) = (None, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(wrong("the head breaks off"));
        }
        let (name, value) = match line.trim_end().split_once(':') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.trim()),
            None => break,
        };
        match name.as_str() {
            "content-length" => length = value.parse::<u64>().ok(),
            "transfer-encoding" => is_chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if is_chunked {
        while read_chunk(reader, &mut body)? {}
    } else {
        let wanted = length.unwrap_or(ANSWER_BYTES_MAX);
        reader.take(wanted).read_to_end(&mut body)?;
        if length.is_some_and(|length| length != body.len() as u64) {
            return Err(wrong("the body breaks off"));
        }
    }
    let body = String::from_utf8(body).map_err(|_| wrong("the body is not UTF-8"))?;
    Ok(Answer { status, body })
}

/// `false` after the last chunk.
fn read_chunk(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a chunk breaks off");
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length = u64::from_str_radix(line.trim_end(), 16).map_err(|_| wrong())?;
    let before = body.len() as u64;
    reader.take(length).read_to_end(body)?;
    if body.len() as u64 - before != length {
        return Err(wrong());
    }
    reader.read_exact(&mut [0; 2])?;
    Ok(length > 0)
}
