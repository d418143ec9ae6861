//! Memory comes back: what a burst of large bodies takes is given back when it is over, and is a bounded
//! multiple of them.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::serve::Server;

/// A body as large as the server takes.
const TEXT_BYTES: usize = 15 << 20;
/// Longest time until memory has come back.
const REST_MAX: Duration = Duration::from_secs(30);
/// Most memory at rest, as a multiple of that before, and besides: the demo model takes so little that a few
/// pages count.
const REST_RATIO_MAX: f64 = 1.3;
const REST_BESIDE_KIB: f64 = 24.0 * 1024.0;
/// Most memory of one request, as a multiple of its body, and besides.
const BODY_RATIO_MAX: usize = 24;
const BESIDE_KIB: usize = 64 << 10;

/// A line of the process's status, in KiB.
fn kib(server: &Server, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// A JSON string of so many bytes: words, numbers, letters of other scripts.
fn long_text() -> String {
    let mut text = String::with_capacity(TEXT_BYTES + 100);
    let mut number = 1_u32;
    while text.len() < TEXT_BYTES {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        write!(text, "{number} drops of water, 水 and çà; base64: {number:x}{number:b}... ")
            .expect("a string");
    }
    text
}

/// Makes the memory of now the largest so far, and returns it.
fn forget_peak(server: &Server) -> usize {
    std::fs::write(format!("/proc/{}/clear_refs", server.child.id()), "5")
        .expect("Linux lets a parent do it");
    kib(server, "VmHWM:")
}

/// As much of a body as a message needs.
fn beginning(body: &str) -> String {
    body.chars().take(40).collect()
}

#[test]
fn memory_comes_back_after_large_bodies() {
    let server = Server::start(&["--max-model-len", "2K", "--kv-cache-memory-bytes", "16M"]);
    let chat = |content: &str| {
        format!(r#"{{"messages": [{{"role": "user", "content": "{content}"}}], "max_tokens": 4}}"#)
    };
    for _ in 0..2 {
        assert!(server.ask("POST", "/v1/chat/completions", &chat("Hi")).starts_with("HTTP/1.1 200"));
        assert!(server.ask("POST", "/tokenize", r#"{"prompt": "Hi"}"#).starts_with("HTTP/1.1 200"));
    }
    let before = kib(&server, "VmRSS:");
    let text = long_text();
    let bodies = [
        ("/tokenize", format!(r#"{{"prompt": "{text}"}}"#), "200"),
        (
            "/tokenize",
            format!(r#"{{"prompt": "{}", "return_token_strs": true}}"#, &text[..4 << 20].trim_end()),
            "200",
        ),
        // One word without an end, and values beyond reason.
        ("/tokenize", format!(r#"{{"prompt": "{}"}}"#, "a".repeat(TEXT_BYTES)), "400"),
        ("/tokenize", format!(r#"{{"prompt": [{}1]}}"#, r#"{"a":1},"#.repeat(TEXT_BYTES / 8)), "400"),
        ("/v1/chat/completions", chat(&text), "400"),
        ("/v1/completions", format!(r#"{{"prompt": "{text}"}}"#), "400"),
    ];
    for (path, body, status) in &bodies {
        let begin = forget_peak(&server);
        let answer = server.ask("POST", path, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path} {}: {}",
            beginning(body),
            &answer[..300]
        );
        let most = begin + BODY_RATIO_MAX * body.len() / 1024 + BESIDE_KIB;
        let peak = kib(&server, "VmHWM:");
        assert!(peak <= most, "{path} {}: {peak} KiB of {most} at most", beginning(body));
    }
    let most = before as f64 * REST_RATIO_MAX + REST_BESIDE_KIB;
    let start = Instant::now();
    while kib(&server, "VmRSS:") as f64 > most {
        assert!(start.elapsed() < REST_MAX, "{} KiB at rest, {before} before", kib(&server, "VmRSS:"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(server.terminate().0, Some(0));
}
