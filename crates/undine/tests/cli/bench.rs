//! `undine bench serve`, `throughput` and `latency`, against a scripted server and against Undine's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::common::{json, models, run, stderr, stdout, text, undine};
use crate::serve::Server;

/// How the scripted server answers a request for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Script {
    /// Chunks with a pause before each, and usage if it is asked for.
    Whole,
    /// The same without usage.
    NoUsage,
    /// 400 for every second request.
    EverySecondFails,
    /// The connection is closed after two chunks.
    Cut,
    /// Chunks until the client goes away.
    Endless,
}

/// Before the first chunk and between chunks.
const FIRST: Duration = Duration::from_millis(40);
const NEXT: Duration = Duration::from_millis(10);

/// A server of as many threads as connections, which end with the test.
struct Scripted {
    port: u16,
    bodies: Arc<Mutex<Vec<Json>>>,
}

impl Scripted {
    fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                // A client that goes away ends its thread.
                thread::spawn(move || drop(serve(&stream, script, &seen)));
            }
        });
        Self { port, bodies }
    }

    fn bench(&self, flags: &str) -> Output {
        self.command(flags).output().expect("starts")
    }

    fn command(&self, flags: &str) -> Command {
        let mut command = undine();
        command.args(["bench", "serve", "--port", &self.port.to_string()]).args(flags.split_whitespace());
        command.env_remove("OPENAI_API_KEY");
        command
    }
}

fn serve(mut stream: &TcpStream, script: Script, seen: &Mutex<Vec<Json>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut path, mut line) = (0, String::new(), String::new());
        while reader.read_line(&mut line)? > 2 {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        if path.is_empty() {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if path == "/v1/models" {
            respond(stream, "200 OK", r#"{"data": [{"id": "scripted"}]}"#)?;
            continue;
        }
        let body: Json = serde_json::from_slice(&body).expect("JSON");
        let number = {
            let mut seen = seen.lock().expect("no test has panicked");
            seen.push(body.clone());
            seen.len()
        };
        if script == Script::EverySecondFails && number.is_multiple_of(2) {
            respond(stream, "400 Bad Request", r#"{"error": {"message": "not today"}}"#)?;
            continue;
        }
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        if !answer(stream, script, &body)? {
            return Ok(());
        }
    }
}

fn respond(mut stream: &TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Whether the connection can be used again.
fn answer(stream: &TcpStream, script: Script, body: &Json) -> std::io::Result<bool> {
    let mut send = {
        let mut stream = stream;
        move |data: &str| {
            let event = format!("data: {data}\n\n");
            write!(stream, "{:x}\r\n{event}\r\n", event.len())
        }
    };
    let is_chat = body["messages"].is_array();
    let text = |text: &str| match is_chat {
        true => json!({ "choices": [{ "delta": { "content": text } }] }).to_string(),
        false => json!({ "choices": [{ "text": text }] }).to_string(),
    };
    if is_chat {
        send(&json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] }).to_string())?;
    }
    let tokens = body["max_tokens"].as_u64().expect("a length");
    let mut sent = 0;
    while sent < tokens || script == Script::Endless {
        thread::sleep(if sent == 0 { FIRST } else { NEXT });
        send(&text(" x"))?;
        sent += 1;
        if script == Script::Cut && sent == 2 {
            return Ok(false);
        }
    }
    send(&json!({ "choices": [{ "text": "", "delta": {}, "finish_reason": "length" }] }).to_string())?;
    if script != Script::NoUsage && body["stream_options"]["include_usage"] == true {
        let words = |text: &Json| text.as_str().unwrap_or_default().split_whitespace().count();
        let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
        // A word is two tokens here, and a prompt has three around it.
        let prompt =
            3 + 2 * (words(&body["prompt"]) + messages.iter().map(|m| words(&m["content"])).sum::<usize>());
        let details = json!({ "cached_tokens": prompt / 2 });
        let usage =
            json!({ "prompt_tokens": prompt, "completion_tokens": tokens, "prompt_tokens_details": details });
        send(&json!({ "choices": [], "usage": usage }).to_string())?;
    }
    send("[DONE]")?;
    let mut stream = stream;
    stream.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

const SHORT: &str = "--num-prompts 4 --input-len 43 --output-len 5 --max-concurrency 2 --no-progress ";

#[test]
fn times_and_tokens_are_those_of_the_server() {
    let server = Scripted::start(Script::Whole);
    let flags =
        "--json --save-detailed --percentile-metrics ttft,tpot,itl,e2el --goodput ttft:5000 --temperature 0";
    let output = server.bench(&(SHORT.to_owned() + flags));
    let result = json(&output);
    let count = |name: &str| result[name].as_u64().expect("a count");
    assert_eq!((count("completed"), count("failed")), (4, 0));
    assert_eq!((count("total_input_tokens"), count("total_output_tokens")), (4 * 43, 20));
    assert_eq!(
        (result["model_id"].as_str(), result["output_tokens_counted_by"].as_str()),
        (Some("scripted"), Some("usage"))
    );
    let at_least = |name: &str, milliseconds: f64| {
        let found = result[name].as_f64().expect("a number");
        // Timers may be early by a little, and machines late by much.
        assert!((milliseconds * 0.9..milliseconds + 500.0).contains(&found), "{name}: {found}");
    };
    for statistic in ["mean", "median", "p99"] {
        at_least(&format!("{statistic}_ttft_ms"), 40.0);
        at_least(&format!("{statistic}_e2el_ms"), 80.0);
    }
    // A reader that is late sees chunks close together, so the times between have no lower limit here.
    let mean = |name: &str| result[format!("mean_{name}_ms")].as_f64().expect("a number");
    assert!((mean("tpot") - (mean("e2el") - mean("ttft")) / 4.0).abs() < 1e-6, "{result}");
    assert!(0.0 < mean("itl") && mean("itl") <= mean("tpot") + 1e-6, "{result}");
    assert_eq!(result["request_goodput"], result["request_throughput"]);
    assert_eq!(result["max_concurrent_requests"].as_u64().map(|n| n >= 2), Some(true));
    assert!(
        result["itls"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|itls| itls.as_array().map(Vec::len) == Some(4))
    );
    assert_eq!(result["generated_texts"][0], " x x x x x");
    let bodies = server.bodies.lock().expect("fine");
    // Two requests that measure words come first.
    assert_eq!(bodies.len(), 6);
    let body = &bodies[2];
    assert_eq!(
        (&body["model"], &body["ignore_eos"], &body["temperature"]),
        (&json!("scripted"), &json!(true), &json!(0.0))
    );
    assert!(body.get("top_p").is_none(), "{body}");
}

#[test]
fn the_table_is_printed_and_failures_are_counted() {
    let server = Scripted::start(Script::EverySecondFails);
    let flags = SHORT.replace("--num-prompts 4", "--num-prompts 5")
        + "--model m --tokenizer "
        + text(&models().chat());
    let output = server.bench(&flags);
    let table = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (name, value) in [
        ("Successful requests:", "3"),
        ("Failed requests:", "2"),
        ("Maximum request concurrency:", "2"),
        ("Total generated tokens:", "15"),
    ] {
        assert!(table.contains(&format!("{name:<40} {value:<10}\n")), "{name}: {table}");
    }
    let errors = stderr(&output);
    assert!(
        errors.contains("2 requests failed") && errors.contains("HTTP 400 Bad Request: not today"),
        "{errors}"
    );
}

#[test]
fn a_connection_that_is_cut_is_a_failure() {
    let output =
        Scripted::start(Script::Cut).bench(&(SHORT.to_owned() + "--tokenizer " + text(&models().chat())));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains(&format!("{:<40} {:<10}\n", "Failed requests:", 4)),
        "{}",
        stdout(&output)
    );
    assert!(stderr(&output).contains("no request succeeded"), "{}", stderr(&output));
}

#[test]
fn a_server_without_usage_is_counted_in_chunks() {
    let output = Scripted::start(Script::NoUsage).bench(&(SHORT.to_owned() + "--json"));
    let result = json(&output);
    assert_eq!(
        (&result["output_tokens_counted_by"], &result["total_output_tokens"]),
        (&json!("chunks"), &json!(20))
    );
    assert_eq!(result["total_input_tokens"], 4 * 43);
    assert!(stderr(&output).contains("a chunk counts as a token"), "{}", stderr(&output));
}

#[test]
fn chats_of_several_turns_are_told_turn_by_turn() {
    for (backend, endpoint) in [("openai-chat", "messages"), ("vllm", "prompt")] {
        let server = Scripted::start(Script::Whole);
        let flags = format!(
            "{SHORT} --backend {backend} --multi-turn-turns 3 --random-prefix-len 20 --num-warmups 1"
        );
        let output = server.bench(&flags);
        let table = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(table.contains("Time to First Token by Turn"), "{table}");
        let lines: Vec<&str> = table.lines().rev().skip(1).take(3).collect();
        for (turn, line) in (1..=3).rev().zip(lines) {
            assert!(line.starts_with(&format!("{turn:<5}{:>6}", 4)), "{line}");
        }
        let bodies = server.bodies.lock().expect("fine");
        assert_eq!(bodies.len(), 2 + 1 + 4 * 3);
        let last = bodies.last().expect("requests");
        match &last[endpoint] {
            Json::Array(messages) => assert_eq!(messages.len(), 1 + 5),
            prompt => assert_eq!(prompt.as_str().expect("text").matches(" x x x x x").count(), 2),
        }
    }
}

#[test]
fn results_are_saved() {
    let server = Scripted::start(Script::Whole);
    let folder = models().place("bench-results");
    let flags =
        format!("{SHORT} --append-result --result-dir {} --metadata cpu=x --request-rate 100", text(&folder));
    let output = server.bench(&flags);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let file = std::fs::read_dir(&folder).expect("made").next().expect("a file").expect("readable");
    let name = file.file_name().into_string().expect("text");
    assert!(name.starts_with("openai-100.0qps-concurrency2-scripted-"), "{name}");
    let saved: Json = serde_json::from_slice(&std::fs::read(file.path()).expect("reads")).expect("JSON");
    assert_eq!(
        (&saved["cpu"], &saved["completed"], &saved["request_rate"]),
        (&json!("x"), &json!(4), &json!(100.0))
    );
    assert!(saved.get("ttfts").is_none());
}

#[cfg(unix)]
#[test]
fn an_interrupt_prints_what_was_measured() {
    let server = Scripted::start(Script::Endless);
    let flags = SHORT.to_owned() + "--tokenizer " + text(&models().chat());
    let mut command = server.command(&flags);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    while server.bodies.lock().expect("fine").is_empty() {
        thread::sleep(NEXT);
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill starts").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stdout(&output).contains(&format!("{:<40} {:<10}\n", "Successful requests:", 0)),
        "{}",
        stdout(&output)
    );
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let prompts = models().place("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"a\"}\n").expect("writes");
    for (flags, code, part) in [
        ("--port 1", 1, "/v1/models"),
        ("--model m --port 1", 1, "/v1/completions"),
        ("--base-url nonsense", 1, "nonsense"),
        ("--dataset-name custom", 2, "--dataset-path"),
        ("--dataset-path x.jsonl", 2, "custom"),
        ("--tokenizer /no/such.gguf", 1, "/no/such.gguf"),
        ("--model m --header a@=b", 2, "--header"),
    ] {
        let words: Vec<&str> = ["bench", "serve"].into_iter().chain(flags.split(' ')).collect();
        let output = run(&words);
        assert_eq!(output.status.code(), Some(code), "{flags}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{flags}: {}", stderr(&output));
    }
}

#[test]
fn undine_serves_what_undine_measures() {
    let server = Server::start(&["--max-model-len", "512"]);
    let url = format!("http://{}", server.address);
    let folder = models().place("demo-prompts.jsonl");
    std::fs::write(&folder, "{\"prompt\": \"Once\"}\n{\"prompt\": \"The\", \"output_tokens\": 3}\n")
        .expect("writes");
    let custom = format!("--dataset-name custom --ignore-eos --dataset-path {}", text(&folder));
    let demo = concat!(
        "--max-concurrency 2 --tokenizer ",
        env!("CARGO_MANIFEST_DIR"),
        "/../../demo/undine-demo.gguf"
    );
    for (flags, requests) in [
        (demo, 4),
        ("--backend openai-chat --max-concurrency 4", 4),
        ("--request-rate 50 --burstiness 2 --random-range-ratio 0.3", 4),
        ("--backend openai-chat --multi-turn-turns 2 --random-prefix-len 10", 8),
        (custom.as_str(), 4),
    ] {
        let short = "--num-prompts 4 --input-len 16 --output-len 4 --json --no-progress";
        let words = ["bench", "serve", "--base-url", &url].into_iter();
        let words: Vec<&str> = words.chain(flags.split(' ')).chain(short.split(' ')).collect();
        let output = run(&words);
        let result = json(&output);
        assert_eq!((&result["completed"], &result["failed"]), (&json!(requests), &json!(0)), "{flags}");
        assert_eq!(result["output_tokens_counted_by"], "usage", "{flags}");
        if !flags.contains("ratio") {
            assert_eq!(result["total_output_tokens"], requests * 4, "{flags}: {}", stderr(&output));
        }
        if flags == demo {
            assert_eq!(result["total_input_tokens"], 4 * 16);
        }
    }
}

#[test]
fn throughput_and_latency_are_measured_without_a_server() {
    let model = models().synthetic();
    let words = "--input-len 16 --output-len 4 --num-prompts 5 --max-num-seqs 2".split(' ');
    let words: Vec<&str> = ["bench", "throughput", text(&model)].into_iter().chain(words).collect();
    let table = stdout(&run(&words));
    assert!(table.starts_with("Throughput: ") && table.contains("Total num prompt tokens:  80\n"), "{table}");
    assert!(table.contains("Total num output tokens:  20\n"), "{table}");
    let file = models().place("latency.json");
    let words = "--input-len 16 --output-len 4 --batch-size 2 --num-iters 3 --num-iters-warmup 1".split(' ');
    let output_json = ["--output-json", text(&file)];
    let words: Vec<&str> =
        ["bench", "latency", "--model", text(&model)].into_iter().chain(words).chain(output_json).collect();
    let table = stdout(&run(&words));
    assert!(table.starts_with("Avg latency: ") && table.contains("99% percentile latency: "), "{table}");
    let saved: Json = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    assert_eq!(saved["latencies"].as_array().map(Vec::len), Some(3));
    let long = run(&["bench", "latency", text(&model), "--input-len", "5000"]);
    assert_eq!(long.status.code(), Some(1));
    assert!(stderr(&long).contains("4096"), "{}", stderr(&long));
}

#[test]
fn a_model_in_the_environment_does_not_stand_in_the_way_of_a_subcommand() {
    let output = undine().args(["bench", "serve", "--port", "1"]).env("UNDINE_MODEL", "m.gguf").output();
    let output = output.expect("starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("/v1/models"), "{}", stderr(&output));
}
