//! `undine batch`: answers, mistakes, and every way in which a run may end before its time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::common::{json, models, stderr, stdout, text, undine};

/// Longest time that a run may need to write something.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests of one batch and the files that belong to it.
struct Batch {
    input: PathBuf,
    output: PathBuf,
    ids: Vec<String>,
}

impl Batch {
    /// `count` requests of both kinds, with `tokens` tokens each, in files called `name`.
    fn new(name: &str, count: usize, tokens: u32) -> Self {
        let (input, output) =
            (models().place(&format!("{name}.in.jsonl")), models().place(&format!("{name}.out.jsonl")));
        let ids: Vec<String> = (0..count).map(|i| format!("request-{i}")).collect();
        let lines: Vec<String> =
            ids.iter().enumerate().map(|(i, id)| request(id, i, tokens).to_string()).collect();
        std::fs::write(&input, lines.join("\n") + "\n").expect("writes");
        Self { input, output, ids }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = undine();
        command.arg("batch").arg(models().chat()).args(["-i", text(&self.input), "-o", text(&self.output)]);
        command.args(["--max-model-len", "256", "--max-num-seqs", "4"]).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, more: &[&str]) -> Output {
        self.command(more).output().expect("starts")
    }

    /// Starts a run and waits until so many results are there.
    fn start_until(&self, results: usize) -> Child {
        let mut child = self.command(&[]).spawn().expect("starts");
        let begin = Instant::now();
        while lines(&self.output).lines().count() < results {
            assert!(begin.elapsed() < PATIENCE, "no {results} results");
            assert!(
                child.try_wait().expect("a child").is_none(),
                "it ended before there were {results} results"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }

    /// The results by custom_id; fails if one is there twice or is missing.
    fn results(&self) -> BTreeMap<String, Json> {
        let mut results = BTreeMap::new();
        for line in lines(&self.output).lines() {
            let result: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let id = result["custom_id"].as_str().expect("a custom_id").to_owned();
            assert!(results.insert(id.clone(), result).is_none(), "{id} is there twice");
        }
        assert_eq!(results.len(), self.ids.len());
        assert!(self.ids.iter().all(|id| results.contains_key(id)), "all are there");
        results
    }

    /// What was answered to each, without what differs from run to run.
    fn texts(&self) -> BTreeMap<String, Json> {
        let text = |result: &Json| result["response"]["body"]["choices"].clone();
        self.results().iter().map(|(id, result)| (id.clone(), text(result))).collect()
    }
}

fn request(id: &str, i: usize, tokens: u32) -> Json {
    let (url, mut body) = match i % 2 {
        0 => ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": format!("Say {i}")}]})),
        _ => ("/v1/completions", json!({"prompt": format!("Number {i}")})),
    };
    body["max_tokens"] = tokens.into();
    body["temperature"] = 0.into();
    body["ignore_eos"] = true.into();
    json!({"custom_id": id, "method": "POST", "url": url, "body": body})
}

fn lines(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn every_request_has_one_result() {
    let batch = Batch::new("whole", 12, 8);
    let bad = r#"{"custom_id":"hot","method":"POST","url":"/v1/completions","body":{"prompt":"x","temperature":9}}"#;
    let good = lines(&batch.input);
    std::fs::write(&batch.input, format!("{good}{bad}\n")).expect("writes");
    let batch = Batch { ids: batch.ids.iter().cloned().chain(["hot".to_owned()]).collect(), ..batch };
    let summary = json(&batch.run(&["--json"]));
    for (key, count) in
        [("requests", 13), ("answered", 12), ("failed", 1), ("skipped", 0), ("completion_tokens", 96)]
    {
        assert_eq!(summary[key], count, "{key}: {summary}");
    }
    let results = batch.results();
    for (id, result) in &results {
        let (status, object) = match id.as_str() {
            "hot" => (400, Json::Null),
            _ if result["response"]["body"]["object"] == "chat.completion" => (200, json!("chat.completion")),
            _ => (200, json!("text_completion")),
        };
        assert_eq!(result["response"]["status_code"], status, "{result}");
        assert_eq!(result["response"]["body"]["object"], object, "{result}");
        assert_eq!(result["error"], Json::Null, "{result}");
        let request_id = result["response"]["request_id"].as_str().expect("an id");
        assert_eq!(result["id"], format!("batch_req_{request_id}"));
    }
    assert_eq!(results["hot"]["response"]["body"]["error"]["param"], "temperature");

    let before = lines(&batch.output);
    let again = batch.run(&[]);
    assert!(again.status.success() && stdout(&again).contains("13 of them earlier"), "{}", stdout(&again));
    assert_eq!(lines(&batch.output), before, "nothing is done twice");

    std::fs::write(&batch.input, good + &request("new", 1, 2).to_string()).expect("writes");
    let other = batch.run(&[]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("the input has changed"), "{}", stderr(&other));
    let summary = json(&batch.run(&["--restart", "--json"]));
    assert_eq!((&summary["answered"], &summary["skipped"]), (&json!(13), &json!(0)));
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let batch = Batch::new("wrong", 3, 2);
    let good = lines(&batch.input);
    for (line, part) in [
        ("{\"custom_id\": 1}", "line 4: expected an object"),
        (good.lines().next().expect("a line"), "line 4: custom_id: \"request-0\" was there before"),
        (
            &request("x", 1, 2).to_string().replace("\"prompt\"", "\"model\":\"gpt-4\",\"prompt\""),
            "--served-model-name",
        ),
    ] {
        std::fs::write(&batch.input, format!("{good}{line}\n")).expect("writes");
        let output = batch.run(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains(part) && stderr(&output).contains("nothing was run"),
            "{}",
            stderr(&output)
        );
        assert!(!batch.output.exists());
    }
    for (more, part) in [
        (&["--error-file", text(&batch.input)][..], "it is the input"),
        (&["--concurrency", "0"], "at least 1"),
    ] {
        std::fs::write(&batch.input, &good).expect("writes");
        let output = batch.run(more);
        assert!(!output.status.success() && stderr(&output).contains(part), "{}", stderr(&output));
        assert_eq!(lines(&batch.input), good, "the input stays as it is");
    }
    let output = batch.run(&["-i", "/no/such/requests.jsonl"]);
    assert!(!output.status.success());
}

/// The slow twin of a batch that is killed again and again is one that is left alone.
#[test]
fn a_killed_batch_loses_and_repeats_nothing() {
    let whole = Batch::new("calm", 300, 24);
    assert!(whole.run(&[]).status.success());
    let killed = Batch::new("killed", 300, 24);
    for results in [1, 30, 90, 150, 210] {
        let mut child = killed.start_until(results);
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        let text = lines(&killed.output);
        assert!(text.ends_with('\n') && text.lines().count() < 300, "killed in the middle");
        // As if the kill had come in the middle of a line.
        let torn: String = text.chars().chain("{\"id\":\"batch_req_1\",\"custom".chars()).collect();
        std::fs::write(&killed.output, torn).expect("writes");
    }
    let summary = json(&killed.run(&["--json"]));
    assert!(summary["skipped"].as_u64() >= Some(210), "{summary}");
    assert_eq!((&summary["answered"], &summary["failed"]), (&json!(300), &json!(0)));
    assert_eq!(killed.texts(), whole.texts());
}

#[test]
fn an_interrupted_batch_finishes_what_runs() {
    let batch = Batch::new("interrupted", 300, 24);
    let child = batch.start_until(5);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill starts").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130));
    let said = stderr(&output);
    assert!(said.contains("of 300 requests are done; the same command goes on"), "{said}");
    let done = lines(&batch.output).lines().count();
    assert!((5..300).contains(&done), "{done}");
    assert!(said.contains(&format!("{done} of 300")), "{said}");
    assert!(batch.run(&[]).status.success());
    batch.results();
}

#[test]
fn refused_requests_may_go_to_another_file() {
    let batch = Batch::new("apart", 3, 2);
    let bad = r#"{"custom_id":"hot","method":"POST","url":"/v1/completions","body":{"prompt":"x","temperature":9}}"#;
    std::fs::write(&batch.input, format!("{}{bad}\n", lines(&batch.input))).expect("writes");
    let errors = models().place("apart.errors.jsonl");
    let summary = json(&batch.run(&["--error-file", text(&errors), "--json"]));
    assert_eq!((&summary["answered"], &summary["failed"]), (&json!(3), &json!(1)));
    batch.results();
    let error: Json = serde_json::from_str(&lines(&errors)).expect("one line");
    assert_eq!((&error["custom_id"], &error["response"]["status_code"]), (&json!("hot"), &json!(400)));
    let again = json(&batch.run(&["--error-file", text(&errors), "--json"]));
    assert_eq!((&again["skipped"], &again["failed"]), (&json!(4), &json!(1)));
}
