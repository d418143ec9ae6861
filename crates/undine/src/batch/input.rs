//! The file of requests: read line by line, checked as a whole before anything runs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use undine_server::BODY_BYTES_MAX;
use undine_text::exact;

use crate::error::Error;

/// Longest line: the longest body that the server takes, and what is around it.
const LINE_BYTES_MAX: usize = BODY_BYTES_MAX + (64 << 10);
/// Most requests of a file. Of each, [`Id`] is kept in memory.
const REQUESTS_MAX: u64 = 20_000_000;
/// Longest custom_id.
const CUSTOM_ID_BYTES_MAX: usize = 512;
/// Most wrong lines that are told.
const MISTAKES_SHOWN_MAX: usize = 10;
/// What editors of Windows put before a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Where requests may go.
const URLS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// Stands for a custom_id: the beginning of its SHA-256, so that memory does not depend on its length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Id([u8; 16]);

impl Id {
    /// That of a custom_id.
    pub fn of(custom_id: &str) -> Self {
        let digest = Sha256::digest(custom_id.as_bytes());
        Self(std::array::from_fn(|i| digest[i]))
    }
}

/// One request.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// The name its result will have.
    pub custom_id: String,
    /// Where it goes.
    pub url: &'static str,
    /// What is asked.
    pub body: Map<String, Json>,
}

#[derive(Deserialize)]
struct Row {
    custom_id: String,
    method: String,
    url: String,
    body: Map<String, Json>,
}

impl Request {
    /// Reads a line; the error says what is wrong with it.
    fn parse(line: &[u8]) -> Result<Self, String> {
        // A list of the right values would be read as their fields, which nobody means.
        if line.trim_ascii().starts_with(b"[") {
            return Err("expected an object with custom_id, method, url and body, found a list".to_owned());
        }
        let row: Row = serde_json::from_slice(&exact::marked(line)).map_err(|error| {
            // The place within the line; the number of the line is the caller's.
            let text = error.to_string();
            let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
            format!(
                "expected an object with custom_id, method, url and body: {reason} at column {}",
                error.column()
            )
        })?;
        if row.custom_id.is_empty() || row.custom_id.len() > CUSTOM_ID_BYTES_MAX {
            return Err(format!(
                "custom_id: expected 1 to {CUSTOM_ID_BYTES_MAX} bytes, found {}",
                row.custom_id.len()
            ));
        }
        if row.method != "POST" {
            return Err(format!("method: expected \"POST\", found {}", quoted(&row.method)));
        }
        let known = URLS.into_iter().find(|known| *known == row.url);
        let url = known
            .ok_or_else(|| format!("url: expected {}, found {}", URLS.join(" or "), quoted(&row.url)))?;
        if row.body.get("stream").is_some_and(|stream| *stream == Json::Bool(true)) {
            return Err("body.stream: expected false: a result is one object".to_owned());
        }
        Ok(Self { custom_id: row.custom_id, url, body: row.body })
    }

    fn check_model(&self, names: &[String]) -> Result<(), String> {
        match self.body.get("model") {
            Some(Json::String(asked)) if !names.contains(asked) => Err(format!(
                "body.model: expected {}, found {}; --served-model-name gives the model another name",
                names.join(" or "),
                quoted(asked)
            )),
            _ => Ok(()),
        }
    }
}

/// The beginning of a text from outside, as JSON writes it.
fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    Json::String(text.chars().take(CHARS_MAX).collect()).to_string()
}

/// Lines of a file, of bounded length.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), line: Vec::new(), number: 0 }
    }

    /// The next line with its newline and without a byte order mark; empty at the end. A line beyond the
    /// limit is an error of its own kind.
    fn next(&mut self) -> std::io::Result<&[u8]> {
        self.line.clear();
        self.number += 1;
        let limit = LINE_BYTES_MAX as u64 + 1;
        self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
            // The end of the file is an empty line.
            if self.line.is_empty() {
                self.line.push(b'\n');
            }
        }
        if self.line.len() > LINE_BYTES_MAX {
            let message = format!("line {}: expected at most {LINE_BYTES_MAX} bytes", self.number);
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
        }
        Ok(&self.line)
    }
}

/// The requests of a file that has been surveyed.
pub struct Requests<R> {
    lines: Lines<R>,
}

impl Requests<File> {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::file(path, source))?;
        Ok(Self::of(file))
    }
}

impl<R: Read> Requests<R> {
    /// Those of a file that is open.
    pub fn of(reader: R) -> Self {
        Self { lines: Lines::new(reader) }
    }

    /// The next one.
    pub fn next(&mut self) -> Result<Option<Request>, Error> {
        loop {
            let number = self.lines.number + 1;
            let line = self.lines.next()?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let changed = |reason| Error::refused(format!("the input has changed: line {number}: {reason}"));
            return Request::parse(line).map(Some).map_err(changed);
        }
    }
}

/// What is known of a file without a mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// How many requests there are.
    pub requests: u64,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
}

impl Survey {
    /// Reads the whole file and tells every mistake with its line, up to a number. A request may name one of
    /// `names` as its model, or none.
    pub fn of(path: &Path, names: &[String]) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::file(path, source))?;
        if !file.metadata().map_err(|source| Error::file(path, source))?.is_file() {
            let message = format!("{}: expected a regular file: it is read twice", path.display());
            return Err(Error::refused(message));
        }
        let surveyed = Self::read(file, names).map_err(|source| Error::file(path, source))?;
        surveyed.map_err(|mistakes| Error::refused(format!("{}: {mistakes}", path.display())))
    }

    /// The same of a file that is open.
    pub fn read(reader: impl Read, names: &[String]) -> std::io::Result<Result<Self, String>> {
        let mut lines = Lines::new(reader);
        let mut digest = Sha256::new();
        let mut ids = HashSet::new();
        let mut mistakes = Vec::new();
        let mut wrong: u64 = 0;
        let mut requests: u64 = 0;
        loop {
            let number = lines.number + 1;
            let line = lines.next()?;
            if line.is_empty() {
                break;
            }
            digest.update(line);
            if line.trim_ascii().is_empty() {
                continue;
            }
            requests += 1;
            if requests > REQUESTS_MAX {
                return Ok(Err(format!("expected at most {REQUESTS_MAX} requests; split the file")));
            }
            let checked = Request::parse(line).and_then(|request| {
                request.check_model(names)?;
                match ids.insert(Id::of(&request.custom_id)) {
                    true => Ok(()),
                    false => Err(format!("custom_id: {} was there before", quoted(&request.custom_id))),
                }
            });
            if let Err(reason) = checked {
                wrong += 1;
                if mistakes.len() < MISTAKES_SHOWN_MAX {
                    mistakes.push(format!("line {number}: {reason}"));
                }
            }
        }
        if requests == 0 {
            return Ok(Err("expected at least one request, found none".to_owned()));
        }
        if wrong > 0 {
            let rest = wrong - mistakes.len() as u64;
            let more = if rest > 0 { format!("\n  and {rest} more") } else { String::new() };
            let lines = mistakes.join("\n  ");
            return Ok(Err(format!(
                "{wrong} of {requests} requests are wrong; nothing was run\n  {lines}{more}"
            )));
        }
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Ok(Self { requests, sha256 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> String {
        format!(
            "{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{{\"prompt\":\"x\"}}}}"
        )
    }

    fn survey(text: &str) -> Result<Survey, String> {
        Survey::read(text.as_bytes(), &["m".to_owned()]).expect("memory can be read")
    }

    #[test]
    fn good_files_are_counted_and_hashed() {
        let text = format!("{}\n\n{}", line("a"), line("b"));
        let found = survey(&text).expect("no mistake");
        assert_eq!(found.requests, 2);
        let other = survey(&format!("{text}\n")).expect("no mistake");
        assert_ne!(found.sha256, other.sha256, "every byte counts");
        let mut requests = Requests::of(text.as_bytes());
        let mut ids = Vec::new();
        while let Some(request) = requests.next().expect("no mistake") {
            ids.push(request.custom_id);
        }
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_request() {
        let text = format!("\u{feff}{}\n{}\n", line("a"), line("b"));
        assert_eq!(survey(&text).expect("no mistake").requests, 2);
        let first = Requests::of(text.as_bytes()).next().expect("no mistake").expect("a request");
        assert_eq!(first.custom_id, "a");
        assert!(survey("\u{feff}").expect_err("nothing").contains("at least one"));
        // Within the file it is a mistake.
        assert!(survey(&format!("{}\n\u{feff}{}\n", line("a"), line("b"))).is_err());
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        let good = line("a");
        for (second, part) in [
            ("{", "EOF"),
            ("[]", "line 2: expected an object"),
            (
                " [\"b\",\"POST\",\"/v1/completions\",{\"prompt\":\"x\"}]",
                "line 2: expected an object with custom_id, method, url and body, found a list",
            ),
            ("{\"custom_id\": 5}", "expected a string at column"),
            ("{\"custom_id\":\"b\",\"method\":\"POST\",\"url\":\"/v1/completions\"}", "missing field `body`"),
            (&line(""), "custom_id: expected 1 to 512 bytes, found 0"),
            (&line("a"), "line 2: custom_id: \"a\" was there before"),
            (&line("b").replace("POST", "GET"), "method: expected \"POST\", found \"GET\""),
            (&line("b").replace("/v1/completions", "/v1/embeddings"), "found \"/v1/embeddings\""),
            (&line("b").replace("\"x\"", "\"x\",\"stream\":true"), "body.stream: expected false"),
            (&line("b").replace("\"x\"", "\"x\",\"model\":\"gpt\""), "--served-model-name"),
            (&format!("{}x", " ".repeat(LINE_BYTES_MAX)), "at most"),
        ] {
            let text = format!("{good}\n{second}\n");
            let found = match Survey::read(text.as_bytes(), &["m".to_owned()]) {
                Ok(surveyed) => surveyed.expect_err("a mistake"),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(part) && found.contains("line 2"), "{second:.80}: {found}");
        }
        assert!(survey("\n \n").expect_err("nothing").contains("at least one"));
        let many = vec!["x"; 50].join("\n");
        let found = survey(&many).expect_err("50 mistakes");
        assert!(found.contains("50 of 50") && found.contains("and 40 more"), "{found}");
    }
}
