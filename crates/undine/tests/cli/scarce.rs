//! Few threads and little memory: a sentence with advice, and an exit code that is not a signal's.

use std::process::{Command, Output};

use crate::common::{models, stderr, text, undine};

/// Runs the binary under a limit of the shell (`ulimit`); `timeout` turns a hang into a code of its own.
fn limited(limit: &str, words: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit {limit} && exec timeout 60 \"$@\"")).arg("sh");
    let program = undine();
    command.arg(program.get_program()).args(words);
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for (name, _) in program.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(name);
    }
    command.stdin(std::process::Stdio::null()).output().expect("sh starts")
}

#[test]
fn little_address_space_is_told() {
    let requests = models().place("scarce.jsonl");
    let line = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x", "max_tokens": 4}}"#;
    std::fs::write(&requests, format!("{line}\n")).expect("writes");
    let results = models().place("scarce-results.jsonl");
    drop(std::fs::remove_file(&results));
    let kv = ["--kv-cache-memory-bytes", "4G", "--max-num-seqs", "256"];
    let commands = [
        [&["serve", "--port", "0"], &kv[..]].concat(),
        [&["batch", "-i", text(&requests), "-o", text(&results)], &kv[..]].concat(),
    ];
    // Enough for the program, and for parts of the keys and values.
    for kib in [600_000, 1_000_000, 1_500_000] {
        for words in &commands {
            let output = limited(&format!("-v {kib}"), words);
            let told = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{kib} {words:?}: {:?} {told}", output.status);
            // Which of them there is no room for first depends on the machine; keys and values are by far the
            // most.
            let advice = ["--kv-cache-memory-bytes", "ulimit -v"];
            let is_advice = |flag: &&str| told.contains(flag);
            assert!(advice.iter().any(is_advice), "{kib} {words:?}: {told}");
            assert!(kib < 1_000_000 || told.contains(advice[0]), "{kib} {words:?}: {told}");
        }
    }
}
