//! Names and texts from outside that would steer a terminal, fake a line or turn text around: none gets to
//! one as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value as Json, json};
use undine_core::DType;
use undine_tests::local_hub::{HubRepo, LocalHub};
use undine_weights::{GgufWriter, TensorDeclaration, Value};

use crate::common::{json as parsed, models, run, stderr, stdout, text, undine};
use crate::serve::Server;

/// Sets the title, clears the screen, writes over the line, begins one that looks like an error, and turns
/// the rest around.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\nerror: fake\u{2028}\u{202e}\u{7f}";

/// No character of either output steers anything, and no line was made up by a text from outside.
fn assert_clean(what: &str, output: &Output) {
    for text in [stdout(output), stderr(output)] {
        let is_hidden = |c: char| {
            (c.is_control() && c != '\n' && c != '\t')
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!text.contains(is_hidden), "{what}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: fake")), "{what}: {text}");
    }
}

/// A model folder that can be run, with hostile names wherever there may be any.
fn hostile_folder(name: &str) -> PathBuf {
    let folder = models().place(name);
    // A first run has nothing to remove.
    drop(fs::remove_dir_all(&folder));
    fs::create_dir(&folder).expect("made");
    let read = |name: &str| fs::read(models().chat_folder().join(name)).expect("reads");
    let mut config: Json = serde_json::from_slice(&read("config.json")).expect("JSON");
    config["_name_or_path"] = HOSTILE.into();
    config[HOSTILE] = json!([HOSTILE, {HOSTILE: HOSTILE}]);
    let weights = read("model.safetensors");
    let length = u64::from_le_bytes(weights[..8].try_into().expect("eight bytes")) as usize;
    let (header, data) = weights[8..].split_at(length);
    let mut header: Json = serde_json::from_slice(header).expect("JSON");
    let end = data.len();
    header[HOSTILE] = json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
    let header = header.to_string().into_bytes();
    let weights = [&(header.len() as u64).to_le_bytes()[..], &header, data, &[0; 4]].concat();
    fs::write(folder.join("config.json"), config.to_string()).expect("writes");
    fs::write(folder.join("model.safetensors"), weights).expect("writes");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::write(folder.join(name), read(name)).expect("writes");
    }
    folder
}

#[test]
fn names_of_a_model_are_shown_and_steer_nothing() {
    let folder = hostile_folder("hostile");
    let path = text(&folder);
    for words in [
        &["inspect", path, "--tensors"][..],
        &["inspect", path, "--json", "--tensors"],
        &["show", path],
        // Its answer is random, and in JSON: piped text is the model's own, whatever it is.
        &["run", path, "-p", "hi", "--max-tokens", "1", "--verbose", "--json"],
        &["bench", path, "-p", "4", "-n", "1"],
    ] {
        let output = run(words);
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        assert_clean(&words.join(" "), &output);
    }
    let table = stdout(&run(&["inspect", path, "--tensors"]));
    assert!(table.contains("x\\u001b]0;owned\\u0007"), "{table}");
    let json = parsed(&run(&["inspect", path, "--json"]));
    assert_eq!(json["name"], HOSTILE, "JSON says the same");
}

/// A GGUF file that is refused, by whose words it is about.
fn gguf(metadata: &[(&str, &str)], tensors: &[&str]) -> Vec<u8> {
    let metadata: Vec<(String, Value)> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), Value::String((*value).to_owned()))).collect();
    let declare =
        |name: &&str| TensorDeclaration { name: (*name).to_owned(), dtype: DType::F32, shape: vec![1] };
    let declarations: Vec<_> = tensors.iter().map(declare).collect();
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &declarations).expect("begins");
    tensors.iter().for_each(|_| writer.append(&[0; 4]).expect("appends"));
    writer.finish().expect("ends")
}

fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = models().place(name);
    fs::write(&path, bytes).expect("writes");
    path
}

#[test]
fn errors_about_a_file_quote_it_harmlessly_and_briefly() {
    let long = HOSTILE.repeat(1000);
    let twice = gguf(&[("general.architecture", "lfm2")], &["aaaaaaaa", "bbbbbbbb"]);
    // The same name twice, which no writer writes.
    let at = twice.windows(8).position(|window| window == b"bbbbbbbb").expect("there");
    let name = b"\x1b[31m\x1b[m";
    let mut twice = twice;
    twice[at..at + 8].copy_from_slice(name);
    let at = twice.windows(8).position(|window| window == b"aaaaaaaa").expect("there");
    twice[at..at + 8].copy_from_slice(name);
    let good = fs::read(models().base()).expect("reads");
    let key = b"lfm2.block_count";
    let at = good.windows(key.len()).position(|window| window == key).expect("there");
    let mut renamed = good;
    renamed[at + 5..at + key.len()].copy_from_slice(b"\x1b[31mblock\x07");
    for (name, bytes) in [
        ("architecture.gguf", gguf(&[("general.architecture", HOSTILE)], &["x"])),
        ("long.gguf", gguf(&[("general.architecture", &long)], &["x"])),
        ("type.gguf", gguf(&[("general.architecture", "lfm2"), ("lfm2.block_count", HOSTILE)], &["x"])),
        ("twice.gguf", twice),
        ("renamed.gguf", renamed),
        ("folder.json", format!("{{\"model_type\": {}}}", Json::from(long.as_str())).into_bytes()),
    ] {
        let path = write(name, &bytes);
        for words in [vec!["inspect", text(&path)], vec!["run", text(&path), "-p", "hi"]] {
            let output = run(&words);
            assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
            assert_clean(name, &output);
            assert!(stderr(&output).len() < 16_000, "{name}: {} bytes", stderr(&output).len());
        }
    }
    let place = hostile_folder("hostile-template");
    let raised = format!("{{{{ raise_exception({}) }}}}", Json::from(HOSTILE));
    for template in [raised, format!("{{% {HOSTILE}"), format!("{{{{ messages | nonsense('{HOSTILE}') }}}}")]
    {
        fs::write(place.join("chat_template.jinja"), &template).expect("writes");
        let output = run(&["run", text(&place), "-p", "hi"]);
        assert_eq!(output.status.code(), Some(1), "{template:?}: {}", stderr(&output));
        assert_clean(&template, &output);
    }
    let nowhere = format!("/no/such/{HOSTILE}");
    for words in [&["inspect", nowhere.as_str()][..], &["run", "-p", "hi", "--image", &nowhere]] {
        assert_clean("a path", &run(words));
    }
    let yaml = write("hostile.yaml", format!("{}: 1\n", Json::from(HOSTILE)).as_bytes());
    assert_clean("yaml", &run(&["serve", "--config", text(&yaml)]));
    let batch = write("hostile.jsonl", format!("{{\"custom_id\": {}}}\n", Json::from(HOSTILE)).as_bytes());
    let model = models().chat();
    let results = models().place("hostile-results.jsonl");
    assert_clean("batch", &run(&["batch", text(&model), "-i", text(&batch), "-o", text(&results)]));
}

#[test]
fn log_lines_are_one_line_each_whatever_clients_send() {
    let model = models().chat();
    for format in [&[][..], &["--log-format", "json"]] {
        let server = Server::start(&[&[text(&model), "--log-level", "debug"], format].concat());
        for (method, path) in [
            ("GET", "/v1/models/%1b%5b31m%0aERROR"),
            ("GET", "/\u{1b}[31m"),
            ("BREW", "/health"),
            ("GET", "/%e2%80%ae"),
        ] {
            server.ask(method, path, "");
        }
        let body = json!({"model": HOSTILE, "messages": [{"role": HOSTILE, "content": HOSTILE}]}).to_string();
        assert!(server.ask("POST", "/v1/chat/completions", &body).starts_with("HTTP/1.1 40"));
        let id = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a\u{1b}[31m\u{202e}\r\n\r\n";
        server.send(id);
        let (code, errors) = server.terminate();
        assert_eq!(code, Some(0));
        assert!(errors.lines().count() > 3, "{errors}");
        let is_hidden = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}');
        assert!(!errors.contains(is_hidden), "{errors:?}");
        assert!(!errors.lines().any(|line| line.starts_with("ERROR")), "{errors}");
    }
}

#[test]
fn what_a_hub_says_steers_nothing() {
    let hub = LocalHub::start();
    let model = fs::read(models().synthetic()).expect("reads");
    let card = format!("---\nlicense: other\nlicense_name: {}\n---\n", Json::from(HOSTILE)).into_bytes();
    let hidden = "tiny\u{202e}-Q8_0.gguf";
    let files = [("tiny-Q4_K_M.gguf", model.clone()), (hidden, model), ("README.md", card)];
    hub.set_repo("acme/tiny-GGUF", HubRepo::new(&files));
    let home = tempfile::tempdir().expect("a folder");
    let run = |words: &[&str]| {
        let mut command = undine();
        command.args(words).env("HF_HOME", home.path()).env("HF_ENDPOINT", hub.url());
        command.output().expect("starts")
    };
    for words in [
        &["pull", "acme/tiny-GGUF:Q4_K_M"][..],
        &["pull", "acme/tiny-GGUF:Q4_K_M", "--json"],
        &["pull", "acme/tiny-GGUF:Q8_0"],
        &["pull", "acme/other"],
        &["list", "--all"],
        &["list", "--json"],
        &["show", "acme/tiny-GGUF"],
        &["show", "acme/tiny-GGUF", "--json"],
    ] {
        assert_clean(&words.join(" "), &run(words));
    }
    assert!(run(&["show", "acme/tiny-GGUF"]).status.success());
    let names =
        |folder: &Path| format!("{:?}", fs::read_dir(folder).map(|all| all.flatten().collect::<Vec<_>>()));
    assert!(!names(home.path()).contains("202e"), "such a file is not fetched");
}
