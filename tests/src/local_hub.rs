//! A hub on this machine: the interface of huggingface.co over plain HTTP, with faults at will.
//!
//! Two addresses, because the hub sends requests for large files to another host. A thread for each
//! connection and one request on each, so that connections can be cut, stalled and slowed down to the byte.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes written at once.
const PIECE_BYTES: usize = 16 << 10;
/// A stalled connection is held so long, unless the client leaves before.
const STALL: Duration = Duration::from_secs(60);

/// A file of a repository.
#[derive(Clone)]
pub struct HubFile {
    path: String,
    content: Arc<Vec<u8>>,
    is_large: bool,
}

/// A repository at its only commit.
#[derive(Clone, Default)]
pub struct HubRepo {
    commit: String,
    files: Vec<HubFile>,
}

impl HubRepo {
    /// Files with their contents; those of a GGUF or safetensors name are large files, kept on the other
    /// host.
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let files: Vec<HubFile> = files
            .iter()
            .map(|(path, content)| HubFile {
                path: (*path).to_owned(),
                content: Arc::new(content.clone()),
                is_large: path.ends_with(".gguf") || path.ends_with(".safetensors"),
            })
            .collect();
        let mut hash = Sha1::new();
        for file in &files {
            hash.update(file.etag());
        }
        Self { commit: hex(&hash.finalize()), files }
    }

    /// The commit, which depends on the contents.
    pub fn commit(&self) -> &str {
        &self.commit
    }
}

impl HubFile {
    fn etag(&self) -> String {
        match self.is_large {
            true => hex(&Sha256::digest(&*self.content)),
            false => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", self.content.len()));
                hash.update(&*self.content);
                hex(&hash.finalize())
            }
        }
    }

    fn described(&self) -> Json {
        let (bytes, etag) = (self.content.len(), self.etag());
        match self.is_large {
            true => json!({
                "rfilename": self.path, "size": bytes, "blobId": "0".repeat(40),
                "lfs": {"sha256": etag, "size": bytes, "pointerSize": 134},
            }),
            false => json!({"rfilename": self.path, "size": bytes, "blobId": etag}),
        }
    }
}

/// What goes wrong. Nothing, unless it is set.
#[derive(Clone, Default)]
pub struct Faults {
    /// Answers to the next requests, for contents and others alike: status, and a header.
    pub answers: VecDeque<(u16, Option<(&'static str, String)>)>,
    /// The next so many answers with more than `cut_after` bytes of a content end after these.
    pub cuts: usize,
    /// Bytes of such an answer.
    pub cut_after: usize,
    /// When so many bytes of contents have been sent in all, every connection is cut.
    pub budget: Option<u64>,
    /// As `cuts`, but the connection stays open and silent.
    pub stalls: usize,
    /// Pause after each 16 KiB of a content.
    pub pause: Duration,
    /// Ranges are not understood.
    pub no_ranges: bool,
    /// Contents are so much longer than described.
    pub extra_bytes: usize,
    /// The first byte of contents is another.
    pub wrong_bytes: bool,
    /// Every content is described with this size.
    pub claimed_bytes: Option<u64>,
    /// Sizes and hashes are not listed, as some mirrors do.
    pub no_listing: bool,
    /// Everything needs this token.
    pub token: Option<String>,
    /// Everything is refused with this status and code, whatever the token.
    pub refusal: Option<(u16, &'static str)>,
    /// Addresses of contents are no longer valid after so many uses.
    pub address_uses_max: Option<usize>,
}

/// A request that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Whether at the host of contents.
    pub is_content_host: bool,
    /// Such as `GET`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// First and last byte.
    pub range: Option<(usize, usize)>,
    /// The header.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    repos: HashMap<String, HubRepo>,
    faults: Faults,
    seen: Vec<Seen>,
    /// Bytes of contents sent.
    sent: u64,
    /// Uses of each address of a content.
    uses: HashMap<String, usize>,
    addresses: usize,
}

/// A hub that ends with the process.
#[derive(Clone)]
pub struct LocalHub {
    state: Arc<Mutex<State>>,
    hub: String,
    contents: String,
}

/// Where an answer's bytes come from.
struct Answer {
    status: &'static str,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    Text(String),
    Content { bytes: Arc<Vec<u8>>, first: usize, last: usize },
}

impl LocalHub {
    /// Starts one without repositories.
    pub fn start() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, contents) = (listen(), listen());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("bound"));
        let this = Self { state: Arc::default(), hub: url(&hub), contents: url(&contents) };
        for (listener, is_content_host) in [(hub, false), (contents, true)] {
            let this = this.clone();
            thread::spawn(move || {
                for stream in listener.incoming().filter_map(Result::ok) {
                    let this = this.clone();
                    // A client that leaves is no failure of the server.
                    thread::spawn(move || drop(this.serve(stream, is_content_host)));
                }
            });
        }
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address, for `HF_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.hub
    }

    /// Adds or replaces a repository.
    pub fn set_repo(&self, name: &str, repo: HubRepo) {
        self.state().repos.insert(name.to_owned(), repo);
    }

    /// Replaces the faults.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Bytes of contents sent since the last call.
    pub fn take_sent(&self) -> u64 {
        std::mem::take(&mut self.state().sent)
    }

    /// Requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    fn serve(&self, stream: TcpStream, is_content_host: bool) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut seen = Seen {
            is_content_host,
            method: method.to_owned(),
            path: path.to_owned(),
            range: None,
            authorization: None,
        };
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            let (name, value) = header.trim_end().split_once(':').unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "authorization" => seen.authorization = Some(value.trim().to_owned()),
                "range" => {
                    let range = value.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'));
                    seen.range = range.map(|(first, last)| {
                        (first.parse().unwrap_or(0), last.parse().unwrap_or(usize::MAX))
                    });
                }
                _ => {}
            }
            header.clear();
        }
        let answer = self.answer(&seen);
        self.write(stream, &seen, answer)
    }

    fn answer(&self, seen: &Seen) -> Answer {
        let state = &mut *self.state();
        state.seen.push(seen.clone());
        if let Some((status, header)) = state.faults.answers.pop_front() {
            let headers = header.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            return Answer { headers, ..refusal(status, "") };
        }
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let words: Vec<&str> = path.split('/').skip(1).collect();
        if seen.is_content_host {
            let uses = state.uses.entry(query.to_owned()).or_default();
            *uses += 1;
            if state.faults.address_uses_max.is_some_and(|max| *uses > max) {
                return refusal(403, "Expired");
            }
            let file = state.repos.values().flat_map(|repo| &repo.files).find(|file| file.etag() == words[0]);
            return file.map_or_else(|| refusal(404, ""), |file| content(file, seen, &state.faults));
        }
        let wanted = state.faults.token.as_ref().map(|token| format!("Bearer {token}"));
        match state.faults.refusal {
            Some((status, code)) => return refusal(status, code),
            None if wanted.is_some() && wanted != seen.authorization => return refusal(401, "RepoNotFound"),
            None => {}
        }
        let name = match words.as_slice() {
            ["api", "models", owner, name, ..] | [owner, name, ..] => format!("{owner}/{name}"),
            _ => return refusal(404, ""),
        };
        let Some(repo) = state.repos.get(&name) else { return refusal(404, "RepoNotFound") };
        let is_revision = |text: &str| text == "main" || text == "refs%2Fpr%2F1" || text == repo.commit;
        match words.as_slice() {
            ["api", _, _, _, "refs"] => {
                text(&json!({"branches": [{"name": "main"}], "tags": [{"name": "v1"}]}))
            }
            ["api", _, _, _, "revision", revision] if is_revision(revision) => {
                text(&info(&name, repo, &state.faults))
            }
            ["api", _, _, _, "tree", revision] if is_revision(revision) => text(&tree(repo)),
            ["api", _, _, _] => text(&info(&name, repo, &state.faults)),
            ["api", ..] => refusal(404, "RevisionNotFound"),
            [_, _, "resolve", revision, path @ ..] if is_revision(revision) => {
                let path = path.join("/").replace("%20", " ");
                let Some(file) = repo.files.iter().find(|file| file.path == path) else {
                    return refusal(404, "EntryNotFound");
                };
                let mut answer = match file.is_large {
                    false => content(file, seen, &state.faults),
                    true => {
                        state.addresses += 1;
                        let location =
                            format!("{}/{}?signature={}", self.contents, file.etag(), state.addresses);
                        let headers = vec![
                            ("Location".to_owned(), location),
                            ("X-Linked-Size".to_owned(), file.content.len().to_string()),
                            ("X-Linked-Etag".to_owned(), format!("\"{}\"", file.etag())),
                        ];
                        Answer { status: "302 Found", headers, body: Body::Text(String::new()) }
                    }
                };
                answer.headers.push(("X-Repo-Commit".to_owned(), repo.commit.clone()));
                answer
            }
            _ => refusal(404, "RevisionNotFound"),
        }
    }

    fn write(&self, mut stream: TcpStream, seen: &Seen, answer: Answer) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let length = match &answer.body {
            Body::Text(text) => text.len(),
            Body::Content { first, last, .. } => last - first,
        };
        head += &format!("Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        match answer.body {
            _ if seen.method == "HEAD" => Ok(()),
            Body::Text(text) => stream.write_all(text.as_bytes()),
            Body::Content { bytes, first, last } => self.write_content(stream, &bytes[first..last]),
        }
    }

    /// Takes bytes from what may still be sent.
    fn is_within_budget(&self, bytes: u64) -> bool {
        match &mut self.state().faults.budget {
            None => true,
            Some(left) => {
                *left = left.saturating_sub(bytes);
                *left > 0
            }
        }
    }

    fn write_content(&self, mut stream: TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        let (is_stalled, pause) = {
            let faults = &mut self.state().faults;
            let take = |count: &mut usize| {
                let is_due = *count > 0;
                *count -= usize::from(is_due);
                is_due
            };
            let is_long = bytes.len() > faults.cut_after;
            let is_cut = is_long && take(&mut faults.cuts);
            let is_stalled = is_long && !is_cut && take(&mut faults.stalls);
            if is_cut || is_stalled {
                bytes = &bytes[..faults.cut_after];
            }
            (is_stalled, faults.pause)
        };
        for piece in bytes.chunks(PIECE_BYTES) {
            if !self.is_within_budget(piece.len() as u64) {
                return Ok(());
            }
            stream.write_all(piece)?;
            self.state().sent += piece.len() as u64;
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        if is_stalled {
            thread::sleep(STALL);
        }
        Ok(())
    }
}

fn content(file: &HubFile, seen: &Seen, faults: &Faults) -> Answer {
    let mut bytes = Arc::clone(&file.content);
    if faults.extra_bytes > 0 || faults.wrong_bytes {
        let changed = Arc::make_mut(&mut bytes);
        changed.resize(changed.len() + faults.extra_bytes, 0);
        changed[0] ^= u8::from(faults.wrong_bytes);
    }
    let mut headers = vec![("ETag".to_owned(), format!("\"{}\"", file.etag()))];
    let length = bytes.len();
    match seen.range.filter(|_| !faults.no_ranges) {
        None => Answer { status: "200 OK", headers, body: Body::Content { bytes, first: 0, last: length } },
        Some((first, _)) if first >= length => refusal(416, ""),
        Some((first, last)) => {
            let last = last.saturating_add(1).min(length);
            headers.push(("Content-Range".to_owned(), format!("bytes {first}-{}/{length}", last - 1)));
            Answer { status: "206 Partial Content", headers, body: Body::Content { bytes, first, last } }
        }
    }
}

fn info(name: &str, repo: &HubRepo, faults: &Faults) -> Json {
    let described = |file: &HubFile| match faults.no_listing {
        true => json!({"rfilename": file.path}),
        false => {
            let mut described = file.described();
            if let Some(bytes) = faults.claimed_bytes {
                described["size"] = bytes.into();
                if file.is_large {
                    described["lfs"]["size"] = bytes.into();
                }
            }
            described
        }
    };
    let siblings: Vec<Json> = repo.files.iter().map(described).collect();
    json!({
        "id": name, "modelId": name, "sha": repo.commit, "siblings": siblings, "tags": [], "private": false,
        "gated": false, "disabled": false, "downloads": 0, "likes": 0,
        "cardData": {"license": "other", "license_name": "lfm1.0"},
    })
}

fn tree(repo: &HubRepo) -> Json {
    let entry = |file: &HubFile| {
        let mut json =
            json!({"type": "file", "path": file.path, "size": file.content.len(), "oid": file.etag()});
        if file.is_large {
            json["oid"] = "0".repeat(40).into();
            json["lfs"] = json!({"oid": file.etag(), "size": file.content.len(), "pointerSize": 134});
        }
        json
    };
    repo.files.iter().map(entry).collect()
}

fn text(json: &Json) -> Answer {
    let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    Answer { status: "200 OK", headers, body: Body::Text(json.to_string()) }
}

fn refusal(status: u16, code: &str) -> Answer {
    let status = match status {
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        416 => "416 Range Not Satisfiable",
        429 => "429 Too Many Requests",
        500 => "500 Internal Server Error",
        503 => "503 Service Unavailable",
        other => panic!("no test needs the status {other}"),
    };
    let headers =
        if code.is_empty() { Vec::new() } else { vec![("X-Error-Code".to_owned(), code.to_owned())] };
    Answer { status, headers, body: Body::Text(json!({"error": "as the test wants it"}).to_string()) }
}

/// Bytes that no two offsets repeat soon, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
