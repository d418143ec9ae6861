//! The documents are true: every command in them is accepted, and run if it needs no more than the files of a
//! place like a reader's; every link leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use undine_tests::local_hub::{HubRepo, LocalHub};

use crate::common::{models, stderr, text, undine};

/// Commands that are looked at but not run, by how they begin: they serve until they are stopped, need such a
/// server, or take long.
const NOT_RUN: [&str; 4] =
    ["undine serve", "undine bench serve", "undine synth LFM2-", "undine run LFM2-VL-"];
/// The texts of the demo model's world are short.
const TEXT: &str = "What is 17 + 25? The answer is 42. Once there was a fox in the forest. ";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Documents for users and for those who work here.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join("docs/src"))
        .expect("the book is there")
        .map(|entry| entry.expect("reads").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    for name in ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md"] {
        found.push(root().join(name));
    }
    found
}

/// Lines of code that call the program, remarks taken off.
fn commands(document: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            is_code = !is_code && line == "```sh";
        } else if is_code || line.starts_with("    ") {
            let line = line.trim().trim_start_matches("$ ");
            let line = line.split(" #").next().unwrap_or(line).trim();
            if line.starts_with("undine ") || line.contains("| undine ") {
                found.push(line);
            }
        }
    }
    found
}

/// A hub that has the models which the documents name, and a folder with the files.
struct Place {
    hub: LocalHub,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let hub = LocalHub::start();
        let chat = fs::read(models().chat()).expect("reads");
        for (repo, file) in [
            ("LiquidAI/LFM2.5-1.2B-Instruct-GGUF", "LFM2.5-1.2B-Instruct-Q4_K_M.gguf"),
            ("LiquidAI/LFM2.5-8B-A1B-GGUF", "LFM2.5-8B-A1B-Q4_K_M.gguf"),
        ] {
            hub.set_repo(repo, HubRepo::new(&[(file, chat.clone())]));
        }
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path();
        for name in ["model.gguf", "1.2b.gguf", "350m.gguf", "LFM2-1.2B-BF16.gguf"] {
            fs::copy(models().chat(), place.join(name)).expect("copies");
        }
        fs::create_dir(place.join("LFM2-1.2B")).expect("a folder");
        for entry in fs::read_dir(models().chat_folder()).expect("reads") {
            let path = entry.expect("reads").path();
            fs::copy(&path, place.join("LFM2-1.2B").join(path.file_name().expect("a name"))).expect("copies");
        }
        for name in ["notes.txt", "some.txt", "other.txt"] {
            fs::write(place.join(name), TEXT.repeat(200)).expect("writes");
        }
        let body = r#"{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}"#;
        let request = format!(
            r#"{{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {body}}}"#
        );
        fs::write(place.join("requests.jsonl"), request).expect("writes");
        Self { hub, folder }
    }

    /// Runs a line as a shell would, in the folder.
    fn run(&self, line: &str) {
        // The settings are those of `undine()`: of the program and its environment.
        let ready = undine();
        let program = Path::new(ready.get_program()).parent().expect("a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("a path"));
        let mut command = Command::new("sh");
        for (name, value) in ready.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let home = self.folder.path().join("home");
        command.env("HF_HOME", &home).env("HF_ENDPOINT", self.hub.url()).env("PATH", path);
        let output = command
            .args(["-c", line])
            .current_dir(self.folder.path())
            .stdin(std::process::Stdio::null())
            .output()
            .expect("a shell");
        // A busy machine gets advice, and an exit code that says so.
        let is_advised = line == "undine doctor" && stderr(&output).is_empty();
        assert!(output.status.success() || is_advised, "{line}\n{}", stderr(&output));
    }
}

#[cfg(unix)]
#[test]
fn every_command_in_the_documents_works() {
    for path in documents() {
        let document = fs::read_to_string(&path).expect("reads");
        let found = commands(&document);
        if found.is_empty() {
            continue;
        }
        let place = Place::new();
        for line in found {
            // Help comes once everything before it has been understood.
            let is_run = !NOT_RUN.iter().any(|start| line.starts_with(start));
            let is_chat = line.starts_with("undine run ") && line.split_whitespace().count() == 3;
            let line = match is_run {
                true if is_chat => format!("echo hi | {line}"),
                true => line.to_owned(),
                false => format!("{line} --help"),
            };
            println!("{}: {line}", text(path.file_name().expect("a name").as_ref()));
            place.run(&line);
        }
    }
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut seen = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).expect("reads");
        for rest in document.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let (file, heading) =
                target.split_once('#').map_or((target, None), |(file, heading)| (file, Some(heading)));
            let file =
                if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(file.exists(), "{}: {target} is not there", path.display());
            if let Some(heading) = heading {
                let there = fs::read_to_string(&file).expect("reads");
                assert!(
                    headings(&there).any(|found| found == heading),
                    "{}: no heading {target}",
                    path.display()
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links");
}

/// As hubs turn headings into anchors.
fn headings(document: &str) -> impl Iterator<Item = String> {
    document.lines().filter(|line| line.starts_with('#')).map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>()
            .replace(' ', "-")
    })
}

#[test]
fn the_book_has_every_page() {
    let summary = fs::read_to_string(root().join("docs/src/SUMMARY.md")).expect("reads");
    for path in
        documents().iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("docs/src")))
    {
        let name = text(path.file_name().expect("a name").as_ref());
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in the summary"
        );
    }
}
