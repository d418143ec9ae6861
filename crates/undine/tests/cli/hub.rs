//! Models by name, from a hub on this machine: `undine pull`, `list`, `show`, `rm`, `models`, and names in
//! place of paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use undine_core::DType;
use undine_tests::local_hub::{Faults, HubRepo, LocalHub, noise};
use undine_weights::{GgufWriter, TensorDeclaration, Value};

use crate::common::{json, models, stderr, stdout, text, undine};
use crate::serve::Server;
use crate::terminal::{Screen, TERMINAL, start, utf8};

/// Longest wait for a process under test.
const PATIENCE: Duration = Duration::from_secs(60);
/// A file of several ranges.
const LARGE_BYTES: usize = 24 << 20;

/// A hub, and a home without a cache.
struct Place {
    hub: LocalHub,
    home: tempfile::TempDir,
}

impl Place {
    /// With a small model that can be run, and a large file that cannot.
    fn new() -> Self {
        let hub = LocalHub::start();
        let model = fs::read(models().synthetic()).expect("reads");
        let chat = fs::read(models().chat()).expect("reads");
        let card = b"---\nlicense: other\nlicense_name: lfm1.0\n---\n".to_vec();
        let files = [("tiny-Q4_K_M.gguf", model), ("tiny-BF16.gguf", chat), ("README.md", card)];
        hub.set_repo("acme/tiny-GGUF", HubRepo::new(&files));
        hub.set_repo("acme/large-GGUF", HubRepo::new(&[("large-Q8_0.gguf", noise(LARGE_BYTES, 5))]));
        let folder: Vec<(String, Vec<u8>)> = fs::read_dir(models().chat_folder())
            .expect("reads")
            .map(|entry| entry.expect("reads"))
            .map(|entry| {
                (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("reads"))
            })
            .collect();
        let folder: Vec<(&str, Vec<u8>)> =
            folder.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
        hub.set_repo("acme/tiny", HubRepo::new(&folder));
        Self { hub, home: tempfile::tempdir().expect("a folder") }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = undine();
        command.args(words).env("HF_HOME", self.home.path()).env("HF_ENDPOINT", self.hub.url());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("starts")
    }

    fn offline(&self, words: &[&str]) -> Output {
        self.command(words).env("HF_HUB_OFFLINE", "1").output().expect("starts")
    }

    fn folder(&self, repo: &str) -> PathBuf {
        self.home.path().join("hub").join(repo)
    }

    /// A pull that is slow enough to be met on its way, with the bytes that have arrived.
    fn slow_pull(&self, bytes_min: u64) -> Child {
        self.hub.set_faults(Faults { pause: Duration::from_millis(20), ..Faults::default() });
        self.hub.take_sent();
        let mut command = self.command(&["pull", "--force", "acme/large-GGUF"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let started = Instant::now();
        let mut sent = 0;
        while sent < bytes_min {
            assert!(started.elapsed() < PATIENCE, "{sent} bytes only");
            std::thread::sleep(Duration::from_millis(10));
            sent += self.hub.take_sent();
        }
        child
    }
}

#[test]
fn a_pull_leaves_a_terminal_tidy() {
    let place = Place::new();
    place.hub.set_faults(Faults { pause: Duration::from_millis(5), ..Faults::default() });
    let home = text(place.home.path()).to_owned();
    let hub = place.hub.url().to_owned();
    let settings = [&TERMINAL[..], &[("HF_HOME", home.as_str()), ("HF_ENDPOINT", hub.as_str())]].concat();
    let words = ["pull", "--force", "acme/large-GGUF"];
    let is_clean = |output: &str, columns: usize| {
        let left = Screen::after(columns, &utf8(output)).text();
        assert!(!left.contains(['█', '░']) && !left.contains("iB/s"), "{left}");
        left
    };
    // Ctrl-C first; what has arrived is kept.
    let mut session = start(80, &words, &settings);
    let before = session.exp_string("MiB/").expect("progress");
    session.send_control('c').expect("types");
    let after = session.exp_eof().expect("ends");
    assert!(is_clean(&format!("{before}MiB/{after}"), 80).contains("interrupted; what has arrived is kept"));
    let output = start(20, &words, &settings).exp_eof().expect("ends");
    let left: String = is_clean(&output, 20).split_whitespace().collect();
    assert!(left.contains("large-Q8_0.gguf:done"), "{left}");
}

/// A GGUF file of another architecture.
fn foreign() -> Vec<u8> {
    let metadata = [("general.architecture".to_owned(), Value::String("llama".to_owned()))];
    let tensor = TensorDeclaration { name: "x".to_owned(), dtype: DType::F32, shape: vec![1] };
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &[tensor]).expect("begins");
    writer.append(&[0; 4]).expect("appends");
    writer.finish().expect("ends")
}

#[test]
fn models_of_other_architectures_are_told_apart() {
    let place = Place::new();
    let config = b"{\"model_type\": \"qwen3\"}".to_vec();
    let weights = fs::read(models().chat_folder().join("model.safetensors")).expect("reads");
    let folder = [("config.json", config), ("model.safetensors", weights)];
    place.hub.set_repo("acme/other", HubRepo::new(&folder));
    place.hub.set_repo("acme/other-GGUF", HubRepo::new(&[("other-Q8_0.gguf", foreign())]));
    let names = |more: &[&str]| -> Vec<(String, String)> {
        let listed = json(&place.run(&[&["list", "--json"], more].concat()));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
        let all = listed.as_array().expect("a list").iter();
        all.map(|model| (text(&model["name"]), text(&model["architecture"]))).collect()
    };
    for name in ["acme/other", "acme/other-GGUF"] {
        succeeds(place.run(&["pull", "--force", name]));
    }
    // Nothing but foreign ones: said, and not shown.
    let nothing = place.run(&["list"]);
    assert_eq!(stdout(&nothing), "");
    assert!(
        stderr(&nothing).contains("2 of other architectures (llama, qwen3) not listed"),
        "{}",
        stderr(&nothing)
    );
    succeeds(place.run(&["pull", "acme/tiny-GGUF:Q4_K_M"]));
    let ours = ("acme/tiny-GGUF:Q4_K_M".to_owned(), "lfm2".to_owned());
    assert_eq!(names(&[]), std::slice::from_ref(&ours));
    let all = names(&["--all"]);
    assert_eq!((all.len(), &all[0]), (3, &ours), "foreign ones come last");
    assert!(all.contains(&("acme/other".to_owned(), "qwen3".to_owned())), "{all:?}");
    assert!(all.contains(&("acme/other-GGUF:Q8_0".to_owned(), "llama".to_owned())), "{all:?}");
    let table = stdout(&place.run(&["list", "--all"]));
    assert!(table.contains("ARCHITECTURE") && table.contains(" llama "), "{table}");
    let plain = place.run(&["list"]);
    assert!(!stdout(&plain).contains("other") && stderr(&plain).contains("--all"), "{}", stderr(&plain));
    // A file that cannot be read is listed all the same, and looking is not using.
    let path = PathBuf::from(stdout(&succeeds(place.run(&["pull", "acme/tiny-GGUF:Q4_K_M"]))).trim_end());
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().append(true).open(&path).expect("opens");
    file.set_times(fs::FileTimes::new().set_accessed(long_ago)).expect("sets");
    assert_eq!(names(&[]).len(), 1);
    assert_eq!(fs::metadata(&path).and_then(|file| file.accessed()).expect("known"), long_ago);
    fs::write(&path, "damaged").expect("writes");
    assert_eq!(names(&[])[0].1, "none");
}

/// A repository whose weights are much larger than what tells whether they can be used.
type Repository<'a> = (&'a str, Vec<(&'a str, Vec<u8>)>, &'a [&'a str]);

/// Weights behind a header: `header` and so many bytes that nobody needs to see.
fn with_data(header: Vec<u8>) -> Vec<u8> {
    [header, noise(LARGE_BYTES, 6)].concat()
}

fn safetensors(header: &str) -> Vec<u8> {
    let header = header.replace("END", &LARGE_BYTES.to_string());
    with_data([&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
}

fn useless_repositories() -> Vec<Repository<'static>> {
    let one = || safetensors("{\"x\":{\"dtype\":\"U8\",\"shape\":[END],\"data_offsets\":[0,END]}}");
    let ours = fs::read(models().chat_folder().join("config.json")).expect("reads");
    let of = |text: &str| text.as_bytes().to_vec();
    vec![
        ("llama-GGUF", vec![("a-Q8_0.gguf", with_data(foreign()))], &["\"llama\"", "--force"][..]),
        ("noise-GGUF", vec![("a-Q8_0.gguf", noise(LARGE_BYTES, 7))], &["expected the bytes GGUF"]),
        (
            "qwen",
            vec![("config.json", of("{\"model_type\": \"qwen3\"}")), ("model.safetensors", one())],
            &["qwen3"],
        ),
        (
            "adapter",
            vec![("adapter_config.json", of("{}")), ("adapter_model.safetensors", one())],
            &["config.json"],
        ),
        (
            "encoder",
            vec![
                (
                    "config.json",
                    of("{\"model_type\": \"lfm2\", \"architectures\": [\"Lfm2BidirectionalModel\"]}"),
                ),
                ("model.safetensors", one()),
            ],
            &["embedding"],
        ),
        (
            "colbert",
            vec![("config.json", ours.clone()), ("modules.json", of("[]")), ("model.safetensors", one())],
            &["embedding", "modules.json"],
        ),
        ("onnx", vec![("config.json", ours.clone()), ("onnx/model.onnx", noise(1000, 1))], &["ONNX"]),
        ("pytorch", vec![("config.json", ours.clone()), ("pytorch_model.bin", noise(1000, 1))], &["PyTorch"]),
        (
            "unnamed",
            vec![("config.json", ours.clone()), ("model.safetensors", one())],
            &["tensor", "missing"],
        ),
        (
            "damaged",
            vec![("config.json", ours), ("model.safetensors", safetensors("{\"x\": 7}"))],
            &["model.safetensors is damaged"],
        ),
    ]
}

#[test]
fn nothing_is_fetched_that_would_not_run() {
    let place = Place::new();
    for (name, files, parts) in useless_repositories() {
        let repo = format!("useless/{name}");
        let files: Vec<(&str, Vec<u8>)> =
            files.iter().map(|(path, content)| (*path, content.clone())).collect();
        place.hub.set_repo(&repo, HubRepo::new(&files));
        place.hub.take_sent();
        let output = place.run(&["pull", &repo]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{name}: {part}: {}", stderr(&output));
        }
        assert!(!stderr(&output).contains("undine-look"), "{}", stderr(&output));
        // What is on its way when the client has seen enough is counted, too.
        let sent = place.hub.take_sent();
        assert!(sent <= 160 << 10, "{name}: {sent} bytes");
        assert!(!place.folder(&format!("models--useless--{name}")).exists(), "{name}: nothing is left of it");
    }
    for words in
        [&["run", "useless/llama-GGUF", "-p", "x"][..], &["serve", "useless/llama-GGUF", "--port", "0"]]
    {
        place.hub.take_sent();
        let output = place.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("\"llama\""), "{words:?}: {}", stderr(&output));
        assert!(place.hub.take_sent() <= 160 << 10, "{words:?}");
    }
    succeeds(place.run(&["pull", "--force", "useless/llama-GGUF"]));
    assert!(place.hub.take_sent() >= LARGE_BYTES as u64);
}

#[test]
fn what_is_larger_than_this_machine_is_not_fetched() {
    let place = Place::new();
    place.hub.set_faults(Faults { claimed_bytes: Some(900 << 30), ..Faults::default() });
    let output = place.run(&["pull", "acme/tiny-GGUF:BF16"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("900.00 GiB, and this machine has"), "{}", stderr(&output));
    assert_eq!(place.hub.take_sent(), 0);
}

#[test]
fn a_vision_model_without_its_tower_is_told() {
    let place = Place::new();
    let model = fs::read(models().chat()).expect("reads");
    place.hub.set_repo("acme/tiny-VL-GGUF", HubRepo::new(&[("tiny-VL-BF16.gguf", model)]));
    let pulled = succeeds(place.run(&["pull", "acme/tiny-VL-GGUF"]));
    assert!(stderr(&pulled).contains("takes text only"), "{}", stderr(&pulled));
    let plain = succeeds(place.run(&["pull", "acme/tiny-GGUF:BF16"]));
    assert!(!stderr(&plain).contains("text only"), "{}", stderr(&plain));
}

fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[test]
fn a_model_is_pulled_listed_shown_run_and_removed() {
    let place = Place::new();
    let pulled = succeeds(place.run(&["pull", "acme/tiny-GGUF", "--quant", "q4_k_m"]));
    let path = PathBuf::from(stdout(&pulled).trim_end());
    assert!(path.ends_with("tiny-Q4_K_M.gguf") && path.starts_with(place.home.path()), "{}", path.display());
    for part in ["2 files", "fetching", "done", "lfm1.0"] {
        assert!(stderr(&pulled).contains(part), "{part}: {}", stderr(&pulled));
    }
    // Nobody is asked from here on.
    place.hub.take_seen();
    let answer =
        json(&place.offline(&["run", "acme/tiny-GGUF:Q4_K_M", "-p", "hello", "--max-tokens", "4", "--json"]));
    assert!(answer["usage"]["completion_tokens"].as_u64() > Some(0), "{answer}");
    assert_eq!(answer["model"], "tiny-GGUF");
    let list = json(&place.run(&["list", "--json"]));
    assert_eq!(list[0]["name"], "acme/tiny-GGUF:Q4_K_M");
    assert_eq!(list[0]["path"].as_str().map(Path::new), Some(path.as_path()));
    let table = stdout(&place.run(&["ls"]));
    assert!(table.contains("acme/tiny-GGUF") && table.contains(text(&path)), "{table}");
    let shown = json(&place.run(&["show", "acme/tiny-GGUF", "--json"]));
    assert_eq!((&shown["hub"]["license"], &shown["hub"]["quant"]), (&"lfm1.0".into(), &"Q4_K_M".into()));
    assert!(shown["parameters"].as_u64() > Some(0));
    let table = stdout(&succeeds(place.run(&["show", "acme/tiny-GGUF"])));
    for part in
        ["repository         acme/tiny-GGUF", "licence            lfm1.0", "layers", "tiny-Q4_K_M.gguf, "]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert_eq!(place.hub.take_seen(), []);
    let unasked = place.run(&["rm", "acme/tiny-GGUF"]);
    assert_eq!(unasked.status.code(), Some(2));
    assert!(stderr(&unasked).contains("--yes") && path.exists(), "{}", stderr(&unasked));
    succeeds(place.run(&["rm", "acme/tiny-GGUF", "--yes"]));
    assert!(!place.folder("models--acme--tiny-GGUF").exists());
    let again = place.run(&["rm", "acme/tiny-GGUF", "--yes"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("undine list"), "{}", stderr(&again));
}

#[test]
fn a_name_is_fetched_where_a_path_is_taken() {
    let place = Place::new();
    for words in [
        &[
            "run",
            "-hf",
            "acme/tiny-GGUF:BF16",
            "-p",
            "hello",
            "--temperature",
            "0",
            "--max-tokens",
            "4",
            "--json",
        ][..],
        &["run", "hf.co/acme/tiny", "-p", "hello", "--temperature", "0", "--max-tokens", "4", "--json"],
    ] {
        let output = place.run(words);
        assert!(json(&output)["usage"]["completion_tokens"].as_u64() > Some(0), "{words:?}");
        assert!(stderr(&output).contains("to fetch"), "{}", stderr(&output));
        let again = place.offline(words);
        assert_eq!(json(&again)["text"], json(&output)["text"]);
        assert!(!stderr(&again).contains("fetch"), "{}", stderr(&again));
    }
    let info = json(&place.offline(&["inspect", "acme/tiny", "--json"]));
    assert_eq!(info["layers"]["pattern"], "ccacac");
}

#[test]
fn a_server_is_called_by_the_name_it_was_given() {
    let place = Place::new();
    let folder = place.home.path().join("elsewhere");
    let words = [
        "acme/tiny-GGUF:BF16",
        "--revision",
        "main",
        "--download-dir",
        text(&folder),
        "--load-format",
        "auto",
    ];
    let server = Server::start_in(&words, &[("HF_ENDPOINT", place.hub.url())]);
    let listed = server.ask("GET", "/v1/models", "");
    assert!(listed.contains("\"acme/tiny-GGUF:BF16\""), "{listed}");
    assert_eq!(server.terminate().0, Some(0));
    assert!(folder.join("models--acme--tiny-GGUF/refs/main").exists());
}

#[test]
fn a_killed_pull_goes_on() {
    let place = Place::new();
    // Half of the file.
    let mut child = place.slow_pull(12 << 20);
    child.kill().expect("SIGKILL");
    child.wait().expect("ends");
    place.hub.set_faults(Faults::default());
    // What is still on its way to the dead process is not counted.
    std::thread::sleep(Duration::from_millis(300));
    place.hub.take_sent();
    let events = stdout(&succeeds(place.run(&["pull", "--force", "acme/large-GGUF", "--json"])));
    let events: Vec<Json> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = events.last().expect("there are some");
    let sent = place.hub.take_sent();
    assert_eq!((&last["event"], &last["fetched_bytes"]), (&"pulled".into(), &sent.into()));
    // Eight connections may each have lost a chunk of 1 MiB, and some of what was sent was not yet received.
    assert!(sent < LARGE_BYTES as u64 - (12 << 20) + (11 << 20), "{sent} bytes");
    let content = fs::read(last["path"].as_str().expect("a path")).expect("reads");
    assert!(content == noise(LARGE_BYTES, 5));
    let blobs = fs::read_dir(place.folder("models--acme--large-GGUF/blobs")).expect("reads").count();
    assert_eq!(blobs, 1, "nothing is left over");
}

#[test]
fn control_c_says_how_to_go_on() {
    let place = Place::new();
    let child = place.slow_pull(1 << 20);
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill starts").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).contains("the same command goes on"), "{}", stderr(&output));
}

#[test]
fn two_processes_fetch_once() {
    let place = Place::new();
    let first = place.slow_pull(1 << 20);
    let second = place.run(&["pull", "--force", "acme/large-GGUF"]);
    let first = first.wait_with_output().expect("ends");
    for output in [&first, &second] {
        assert!(output.status.success(), "{}", stderr(output));
    }
    assert!(stderr(&second).contains("another process"), "{}", stderr(&second));
    assert_eq!(stdout(&first), stdout(&second));
}

#[test]
fn what_cannot_be_had_is_told_with_what_can() {
    let place = Place::new();
    for (words, code, parts) in [
        (&["pull", "acme/tiny-GGUF:Q5_K_M"][..], 1, &["Q4_K_M", "BF16"][..]),
        (&["pull", "acme/tiny-GGUF:Q4_K_M", "--quant", "BF16"], 2, &["--quant"]),
        (&["pull", "acme/none"], 1, &["no repository acme/none"]),
        (&["pull", "../etc/passwd"], 1, &["undine models"]),
        (&["pull", "acme/tiny-GGUF", "--revision", "../../x"], 2, &["branch, tag or commit"]),
        (&["run", "lfm2.5:1.2", "-p", "x"], 1, &["did you mean lfm2.5:1.2b"]),
        (&["run", "missing.gguf", "-p", "x"], 1, &["missing.gguf"]),
        (&["show", "acme/tiny-GGUF"], 1, &["not in the cache"]),
    ] {
        let output = place.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{words:?}: {part}: {}", stderr(&output));
        }
    }
    let output = place.offline(&["run", "acme/tiny-GGUF:Q4_K_M", "-p", "x"]);
    assert!(stderr(&output).contains("HF_HUB_OFFLINE"), "{}", stderr(&output));
}

#[test]
fn models_lists_short_names_and_what_fits() {
    let place = Place::new();
    let table = stdout(&succeeds(place.run(&["models", "--all"])));
    for part in ["lfm2.5:8b-a1b", "lfm2-vl:450m", "Q4_K_M", "FITS"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let first = stdout(&succeeds(place.run(&["models"])));
    assert_eq!(first.lines().take_while(|line| !line.is_empty()).count(), 1 + 5, "{first}");
    for part in [
        "try first",
        "lfm2.5:350m",
        "everyday",
        "best here",
        "thinking",
        "pictures",
        "TOK/S",
        "--all",
        "GB/s",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let list = json(&place.run(&["models", "--json"]));
    let first = &list[0];
    assert!(first["about_bytes"]["Q8_0"].as_u64() > first["about_bytes"]["Q4_0"].as_u64(), "{first}");
    // A name is sized without anything being fetched.
    let fit = json(&place.run(&["fit", "lfm2.5:8b-a1b", "--device", "4090", "--json"]));
    assert_eq!(fit["parameters"], 8_467_856_832_u64);
    assert_eq!(place.hub.take_seen(), []);
}
