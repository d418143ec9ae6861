//! A model file that changes while it is in use: what happened is said, and nobody gets an answer of other
//! weights.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{models, text, undine};
use crate::serve::Server;

/// A copy of a model with random weights, whose answers do not end by themselves.
fn copy(name: &str) -> PathBuf {
    let path = models().place(name);
    std::fs::copy(models().synthetic(), &path).expect("copies");
    path
}

fn cut_short(path: &Path) {
    File::options().write(true).open(path).and_then(|file| file.set_len(4096)).expect("cuts");
}

fn write_in_place(path: &Path) {
    let length = path.metadata().expect("is there").len() as usize;
    let mut file = File::options().write(true).open(path).expect("opens");
    file.write_all(&vec![0x55; length]).expect("writes");
}

fn replace_by_name(path: &Path) {
    let other = path.with_extension("new");
    std::fs::write(&other, b"another model").expect("writes");
    std::fs::rename(other, path).expect("renames");
}

/// A stream that goes on for long, after its first bytes.
fn long_stream(server: &Server) -> TcpStream {
    let body = r#"{"prompt": "x", "stream": true, "ignore_eos": true, "max_tokens": 4000, "temperature": 0}"#;
    let mut stream = TcpStream::connect(&server.address).expect("connects");
    let head = "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sends");
    let mut seen = String::new();
    let mut bytes = [0; 256];
    while !seen.contains("data: ") {
        let count = stream.read(&mut bytes).expect("receives");
        assert!(count > 0, "{seen}");
        seen += &String::from_utf8_lossy(&bytes[..count]);
    }
    stream
}

/// The exit code of a process that ends by itself, and its standard error.
fn end(mut server: Server) -> (Option<i32>, String) {
    let mut told = String::new();
    server.child.stderr.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
    (server.child.wait().expect("ends").code(), told)
}

#[test]
fn a_server_whose_model_file_is_changed_says_so_and_ends() {
    type Deed = fn(&Path);
    let cases: [(&str, Deed, &str); 2] =
        [("cut.gguf", cut_short, "cut short"), ("written.gguf", write_in_place, "written to")];
    for (name, deed, what) in cases {
        let path = copy(name);
        let server = Server::start(&[text(&path)]);
        let mut stream = long_stream(&server);
        deed(&path);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("receives");
        assert!(rest.contains("\"error\"") && rest.contains("was changed"), "{name}: {rest}");
        assert!(!rest.contains(name), "paths of the server are not told: {rest}");
        let (code, told) = end(server);
        assert!(code == Some(1) && told.contains(name) && told.contains(what), "{name}: {code:?} {told}");
        // And without a request.
        let path = copy(name);
        let server = Server::start(&[text(&path)]);
        deed(&path);
        let (code, told) = end(server);
        assert!(
            code == Some(1) && told.contains(name) && told.contains(what),
            "idle {name}: {code:?} {told}"
        );
    }
}

#[test]
fn a_server_whose_model_file_is_replaced_by_name_goes_on() {
    let path = copy("replaced.gguf");
    let mut server = Server::start(&[text(&path)]);
    let question = r#"{"prompt": "x", "max_tokens": 8, "temperature": 0, "ignore_eos": true}"#;
    let text_of = |answer: String| answer.split("\"text\":").nth(1).map(str::to_owned).expect("an answer");
    let before = text_of(server.ask("POST", "/v1/completions", question));
    let stream = long_stream(&server);
    replace_by_name(&path);
    let mut told = String::new();
    let mut err = server.child.stderr.take().expect("piped");
    while !told.contains("another file stands here") {
        let mut bytes = [0; 256];
        let count = err.read(&mut bytes).expect("reads");
        assert!(count > 0, "{told}");
        told += &String::from_utf8_lossy(&bytes[..count]);
    }
    drop(stream);
    let after = text_of(server.ask("POST", "/v1/completions", question));
    let choice = |text: &str| text.split("\"usage\"").next().map(str::to_owned);
    assert_eq!(choice(&after), choice(&before));
    assert!(server.ask("GET", "/health", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn commands_whose_model_file_is_cut_short_end_with_a_sentence() {
    let requests = models().place("cut-requests.jsonl");
    let line = |i: u32| {
        let body = r#"{"prompt": "x", "max_tokens": 4000, "ignore_eos": true}"#;
        format!(r#"{{"custom_id": "{i}", "method": "POST", "url": "/v1/completions", "body": {body}}}"#)
            + "\n"
    };
    std::fs::write(&requests, (0..100).map(line).collect::<String>()).expect("writes");
    let results = models().place("cut-results.jsonl");
    drop(std::fs::remove_file(&results));
    let cases = [
        ("cut-run.gguf", vec!["run", "-p", "x", "-n", "100000", "--temperature", "0", "--raw"]),
        ("cut-bench.gguf", vec!["bench", "-p", "64", "-n", "64", "-r", "10000"]),
        ("cut-batch.gguf", vec!["batch", "-i", text(&requests), "-o", text(&results)]),
    ];
    for (name, words) in cases {
        let path = copy(name);
        let mut command = undine();
        command.arg(words[0]).arg(&path).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("starts");
        // The threads that compute are there once the file has been read and checked.
        let threads = format!("/proc/{}/task", child.id());
        let computes = || {
            let tasks = std::fs::read_dir(&threads).expect("runs").filter_map(Result::ok);
            let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            names.into_iter().any(|name| name.starts_with("undine-cpu"))
        };
        while !computes() {
            std::thread::yield_now();
        }
        cut_short(&path);
        let output = child.wait_with_output().expect("ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {:?} {told}", output.status);
        assert!(told.contains(name) && told.contains("cut short"), "{name}: {told}");
    }
}
