//! What a hub answers, head and body, to one connection after the other: between bytes that occur in no text.
//! What comes of it is an error, or files that are all within the cache and as long as they were said to be.
#![no_main]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use undine_hub::{Access, Hub, HubName, PullRequest, Settings};

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What makes a client wait, which is right and takes time.
const WAITS: [&str; 2] = ["retry-after", "ratelimit"];

/// The answers that are left, and where they are given.
static ANSWERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static ENDPOINT: LazyLock<String> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| answer(&mut stream)));
    format!("http://{address}")
});

/// Reads the head of a request and gives the next answer; without one the connection ends.
fn answer(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let answer = ANSWERS.lock().expect("no panic while it is held").pop();
    // The client may have left.
    drop(answer.map(|answer| stream.write_all(&answer)));
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    if WAITS.iter().any(|word| text.contains(word)) {
        return;
    }
    // Nor may an answer lead to another machine.
    let text = text.replace("location: /", "");
    if text.contains("location") {
        return;
    }
    let mut answers: Vec<Vec<u8>> = undine_fuzz::parts(bytes).map(<[u8]>::to_vec).collect();
    answers.reverse();
    *ANSWERS.lock().expect("no panic while it is held") = answers;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        endpoint: ENDPOINT.parse().expect("an address"),
        token: None,
        cache: folder.path().join("cache"),
        access: Access::Online,
        stall: Duration::from_millis(200),
        first_delay: Duration::ZERO,
    };
    let hub = Hub::new(settings).expect("there are threads");
    let request = PullRequest::new(HubName::parse("owner/model-GGUF").expect("a name"), Some(1 << 30));
    if let Ok(pulled) = hub.pull(&request, |_| ()) {
        for (path, bytes) in &pulled.cached.files {
            let found = pulled.cached.snapshot.join(path).canonicalize().expect("it is there");
            assert!(found.starts_with(folder.path().canonicalize().expect("it is there")), "{path}");
            assert_eq!(found.metadata().expect("it is there").len(), *bytes, "{path}");
        }
    }
    let outside = std::fs::read_dir(folder.path()).expect("it is there").flatten();
    assert!(outside.into_iter().all(|entry| entry.file_name() == "cache"), "only the cache was written to");
});
