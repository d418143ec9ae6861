//! Connections that are used badly, or for long, and probes.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use crate::soak::client::{Client, Judgement, Kind, Outcome, excerpt, is_full};
use crate::soak::http::{Manner, read_answer};
use crate::soak::kinds::answers::is_whole_stream;

/// Longest pause of a slow client.
const PAUSE_MS_MAX: u64 = 40;
/// Longest time that an idle client stays.
const IDLE_MS_MAX: u64 = 3_000;

pub fn kinds() -> Vec<Kind> {
    vec![
        Kind { name: "leaves before the answer", act: leave_before },
        Kind { name: "leaves in the answer", act: leave_within },
        Kind { name: "leaves in the body", act: leave_in_body },
        Kind { name: "reads slowly", act: read_slowly },
        Kind { name: "writes slowly", act: write_slowly },
        Kind { name: "closes half", act: close_half },
        Kind { name: "idle", act: idle },
        Kind { name: "body in chunks", act: chunks },
        Kind { name: "probes on one connection", act: probes },
    ]
}

fn send(client: &mut Client, stream: bool) -> Result<TcpStream, String> {
    let (path, mut body) = client.request();
    body["stream"] = stream.into();
    client.target.send("POST", path, Manner::default(), &body.to_string()).map_err(|error| error.to_string())
}

fn pause(client: &mut Client) {
    sleep(Duration::from_millis(client.random.u64(0..PAUSE_MS_MAX)));
}

fn leave_before(client: &mut Client) -> Judgement {
    let wants_stream = client.random.bool();
    let stream = send(client, wants_stream)?;
    pause(client);
    drop(stream);
    Ok(Outcome::Left)
}

fn leave_within(client: &mut Client) -> Judgement {
    let mut stream = send(client, true)?;
    let wanted = client.random.usize(1..2_000);
    drop(stream.read_exact(&mut vec![0; wanted]));
    Ok(Outcome::Left)
}

fn leave_in_body(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let (body, target) = (body.to_string(), client.target);
    let head = target.head("POST", path, Manner::default());
    let mut stream = target.connect().map_err(|error| error.to_string())?;
    let half = &body.as_bytes()[..body.len() / 2];
    drop(
        write!(stream, "{head}content-length: {}\r\n\r\n", body.len()).and_then(|()| stream.write_all(half)),
    );
    pause(client);
    Ok(Outcome::Left)
}

/// A reader that pauses before each piece.
struct Slow<'a, 'b> {
    stream: TcpStream,
    client: &'a mut Client<'b>,
}

impl Read for Slow<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        pause(self.client);
        let most = buffer.len().min(500);
        self.stream.read(&mut buffer[..most])
    }
}

fn read_slowly(client: &mut Client) -> Judgement {
    let stream = send(client, true)?;
    let answer =
        read_answer(&mut BufReader::new(Slow { stream, client })).map_err(|error| error.to_string())?;
    if is_full(&answer) {
        return Ok(Outcome::Full);
    }
    is_whole_stream(&answer.body)
        .map(|()| Outcome::Right)
        .map_err(|what| format!("{what}: {}", excerpt(&answer.body)))
}

fn write_slowly(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let (body, target) = (body.to_string(), client.target);
    let head = target.head("POST", path, Manner::default());
    let mut stream = target.connect().map_err(|error| error.to_string())?;
    let mut write = || {
        write!(stream, "{head}connection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
        for piece in body.as_bytes().chunks(body.len().div_ceil(5)) {
            pause(client);
            stream.write_all(piece)?;
        }
        read_answer(&mut BufReader::new(&stream))
    };
    judge(write())
}

/// An answer that must come.
fn judge(answer: std::io::Result<crate::soak::http::Answer>) -> Judgement {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(Outcome::Right),
        Ok(answer) if is_full(&answer) => Ok(Outcome::Full),
        Ok(answer) => Err(format!("{} {}", answer.status, excerpt(&answer.body))),
        Err(error) => Err(error.to_string()),
    }
}

fn close_half(client: &mut Client) -> Judgement {
    let stream = send(client, false)?;
    drop(stream.shutdown(Shutdown::Write));
    judge(read_answer(&mut BufReader::new(stream)))
}

fn idle(client: &mut Client) -> Judgement {
    let stream = client.target.connect();
    sleep(Duration::from_millis(client.random.u64(0..IDLE_MS_MAX)));
    drop(stream);
    Ok(Outcome::Left)
}

fn chunks(client: &mut Client) -> Judgement {
    let (path, body) = client.request();
    let (body, target) = (body.to_string(), client.target);
    let head = target.head("POST", path, Manner::default());
    let mut stream = target.connect().map_err(|error| error.to_string())?;
    let mut exchange = || {
        write!(stream, "{head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for piece in body.as_bytes().chunks(client.random.usize(1..200)) {
            write!(stream, "{:x}\r\n", piece.len())?;
            stream.write_all(piece)?;
            stream.write_all(b"\r\n")?;
        }
        stream.write_all(b"0\r\n\r\n")?;
        read_answer(&mut BufReader::new(&stream))
    };
    judge(exchange())
}

fn probes(client: &mut Client) -> Judgement {
    const PATHS: [&str; 8] =
        ["/health", "/metrics", "/v1/models", "/load", "/version", "/server_info", "/openapi.json", "/ping"];
    let target = client.target;
    let mut stream = target.connect().map_err(|error| error.to_string())?;
    let mut reader = BufReader::new(stream.try_clone().map_err(|error| error.to_string())?);
    for _ in 0..4 {
        let path = PATHS[client.random.usize(0..PATHS.len())];
        let head = target.head("GET", path, Manner::default());
        let answer = write!(stream, "{head}\r\n").and_then(|()| read_answer(&mut reader));
        match judge(answer).map_err(|what| format!("{path}: {what}"))? {
            Outcome::Right => {}
            other => return Ok(other),
        }
        pause(client);
    }
    Ok(Outcome::Right)
}
