//! What people give as MODEL: chat models without a template, things that are no models, mistyped paths; and
//! what each command says and does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value as Json, json};

use crate::common::{json as json_of, models, oracle, run, stderr, stdout, text, undine};
use crate::serve::Server;

/// The chat model as a folder of another name, with other files.
fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = models().place(name);
    drop(fs::remove_dir_all(&folder));
    fs::create_dir(&folder).expect("a folder");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(models().chat_folder().join(file), folder.join(file)).expect("copies");
    }
    for (file, content) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("writes");
    }
    folder
}

fn own_template(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../undine-text/tests/templates").join(file)
}

/// What a command says on the side, but for where its answer was cut.
fn notes(output: &Output) -> Vec<String> {
    let said = stderr(output);
    said.lines().filter(|line| !line.contains("the answer is cut")).map(str::to_owned).collect()
}

/// The text of the prompt that a server makes of a question.
fn prompt(server: &Server, more: &Json) -> String {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": true});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let answer = server.ask("POST", "/tokenize", &body.to_string());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Json = serde_json::from_str(body).expect("JSON");
    let texts = body["token_strs"].as_array().expect("texts").iter();
    texts.map(|text| text.as_str().expect("a text").replace('Ġ', " ").replace('Ċ', "\n")).collect()
}

fn tools() -> Json {
    let function = json!({"name": "look", "parameters": {"type": "object", "properties": {}}});
    json!({"tools": [{"type": "function", "function": function}]})
}

#[test]
fn a_chat_model_without_a_template_gets_lfm2s_own_and_says_so() {
    for (name, own) in
        [("LFM2-cats", "lfm2.jinja"), ("LFM2.5-cats", "lfm2.5-1.2b.jinja"), ("cats", "lfm2.jinja")]
    {
        let model = folder(name, &[]);
        let output = run(&["run", text(&model), "-p", "Hi", "-n", "1"]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("LFM2's own is used"), "{}", stderr(&output));
        assert_eq!(notes(&output).len(), 1, "{}", stderr(&output));
        assert!(stdout(&run(&["inspect", text(&model)])).contains("LFM2's own"), "{name}");
        assert_eq!(json_of(&run(&["inspect", text(&model), "--json"]))["chat_template"]["from"], "undine");
        let server = Server::start(&[text(&model)]);
        let named = own_template(own);
        let other = Server::start(&[text(&model), "--chat-template", text(&named)]);
        for more in [json!({}), tools()] {
            let prompt = prompt(&server, &more);
            assert!(prompt.contains("<|im_start|>user\nHi<|im_end|>"), "{prompt}");
            assert_eq!(prompt, self::prompt(&other, &more), "{name}");
        }
        let told = server.terminate().1;
        assert!(told.contains("LFM2's own is used"), "{told}");
        assert!(!other.terminate().1.contains("LFM2's own is used"));
        // Raw text needs none.
        let output = run(&["run", text(&model), "--raw", "-p", "Hi", "-n", "1"]);
        assert_eq!(notes(&output), Vec::<String>::new());
    }
}

#[test]
fn a_base_model_completes_text_and_says_so() {
    for model in [models().base(), folder("LFM2-cats-Base", &[])] {
        let output = run(&["run", text(&model), "-p", "Hi", "-n", "1", "--json"]);
        assert!(
            stderr(&output).contains("this is a base model without a chat template"),
            "{}",
            stderr(&output)
        );
        let raw = run(&["run", text(&model), "--raw", "-p", "Hi", "-n", "1", "--json"]);
        assert_eq!(stderr(&raw), "");
        assert_eq!(json_of(&output)["usage"]["prompt_tokens"], json_of(&raw)["usage"]["prompt_tokens"]);
        assert!(stdout(&run(&["inspect", text(&model)])).contains("none: a base model"));
        let server = Server::start(&[text(&model)]);
        let body = r#"{"max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}"#;
        let answer = server.ask("POST", "/v1/chat/completions", body);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("no chat template"), "{answer}");
    }
}

#[test]
fn templates_and_special_tokens_of_other_tools_are_used_by_every_command() {
    let plain = "{{ bos_token }}{{ pad_token }}{{ image_token }}plain {{ messages[-1].content }}";
    let with_tools = "{{ bos_token }}tools {{ tools[0].function.name }} {{ messages[-1].content }}";
    let config = |templates: Json| {
        json!({
            "bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>",
            "image_token": "<|im_start|>", "chat_template": templates,
        })
        .to_string()
    };
    let none = config(Json::Null);
    let cases: [(&str, Vec<(&str, String)>); 4] = [
        ("dict", vec![("tokenizer_config.json", config(json!({"default": plain, "tool_use": with_tools})))]),
        (
            "list",
            vec![(
                "tokenizer_config.json",
                config(
                    json!([{"name": "tool_use", "template": with_tools}, {"name": "default", "template": plain}]),
                ),
            )],
        ),
        (
            "files",
            vec![
                ("tokenizer_config.json", none.clone()),
                ("chat_template.jinja", plain.to_owned()),
                ("additional_chat_templates/tool_use.jinja", with_tools.to_owned()),
            ],
        ),
        (
            "old",
            vec![
                ("tokenizer_config.json", none),
                ("chat_template.json", json!({"chat_template": plain}).to_string()),
            ],
        ),
    ];
    for (name, files) in cases {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let model = folder(&format!("templates-{name}"), &files);
        let gguf = models().place(&format!("templates-{name}.gguf"));
        assert!(run(&["convert", text(&model), text(&gguf), "--force"]).status.success());
        let server = Server::start(&[text(&model)]);
        let asked = prompt(&server, &json!({}));
        assert_eq!(asked, "<|startoftext|><|pad|><|im_start|>plain Hi", "{name}");
        let counted = |model: &Path| {
            let output = run(&["run", text(model), "-p", "Hi", "-n", "1", "--json"]);
            assert_eq!(stderr(&output), "", "{name}");
            json_of(&output)["usage"]["prompt_tokens"].as_u64().expect("a number")
        };
        let body = r#"{"max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}"#;
        let answer = server.ask("POST", "/v1/chat/completions", body);
        assert!(answer.contains(&format!("\"prompt_tokens\":{}", counted(&model))), "{name}: {answer}");
        if name != "old" {
            assert_eq!(prompt(&server, &tools()), "<|startoftext|>tools look Hi", "{name}");
            let server = Server::start(&[text(&gguf)]);
            assert_eq!(prompt(&server, &tools()), "<|startoftext|>tools look Hi", "{name}");
        }
    }
}

/// Commands that take a MODEL, with what else they need.
fn commands(model: &str) -> Vec<Vec<String>> {
    let place = models().place("given-out");
    let gguf = place.join("out.gguf");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    vec![
        words(&["run", model, "-p", "x", "-n", "1"]),
        words(&["serve", model, "--port", "0"]),
        words(&["inspect", model]),
        words(&["quantize", model, text(&gguf), "--type", "Q8_0"]),
        words(&["convert", model, text(&gguf)]),
        words(&["fit", model]),
    ]
}

/// Every command fails for this MODEL, and says all of these.
fn all_say(model: &Path, expected: &[&str]) {
    for words in commands(text(model)) {
        let output = undine().args(&words).output().expect("starts");
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
        for part in expected {
            assert!(told.contains(part), "{words:?}: {told}, expected {part:?}");
        }
    }
}

#[test]
fn what_is_no_model_is_named_by_every_command() {
    let place = models().place("given");
    drop(fs::remove_dir_all(&place));
    fs::create_dir(&place).expect("a folder");
    let put = |name: &str, bytes: &[u8]| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("writes");
        path
    };
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 9\n";
    all_say(&put("pointer.gguf", pointer), &["Git LFS pointer", "git lfs pull"]);
    all_say(&put("Modelfile", b"FROM ./LFM2.gguf\n"), &["Ollama Modelfile", "./LFM2.gguf"]);
    put("adapter/adapter_config.json", br#"{"base_model_name_or_path": "LiquidAI/LFM2-1.2B"}"#);
    let adapter = put("adapter/adapter_model.safetensors", b"x");
    all_say(adapter.parent().expect("a folder"), &["adapter of LiquidAI/LFM2-1.2B", "merge_and_unload"]);
    let beside = folder("given-beside", &[("adapter_config.json", "{}")]);
    all_say(&beside, &["beside the model lies an adapter", "adapter_config.json", "merge_and_unload"]);
    let model = fs::read(models().chat()).expect("reads");
    put("several/a.gguf", &model);
    let several = put("several/b.gguf", &model);
    all_say(several.parent().expect("a folder"), &["2 models", "a.gguf, b.gguf"]);
    all_say(&place.join("several/c.gguf"), &["no file or folder", "did you mean", "several/a.gguf"]);
    all_say(&place.join("severel/a.gguf"), &["no file or folder", "did you mean", "several"]);
}

#[test]
fn a_tower_of_another_model_is_neither_attached_nor_counted() {
    let place = models().place("given-towers");
    drop(fs::remove_dir_all(&place));
    fs::create_dir(&place).expect("a folder");
    let model = place.join("LFM2-1.2B.gguf");
    assert!(run(&["convert", text(&oracle("vl")), text(&model)]).status.success());
    let terms = |words: &[&str]| {
        let output = run(&[&["fit", text(&model), "--threads", "2", "--json"], words].concat());
        (json_of(&output)["memory"]["terms"].to_string(), stderr(&output))
    };
    // Named like the model it is the model's own.
    assert!(terms(&[]).0.contains("vision"));
    let tower = place.join("mmproj-LFM2-VL-1.6B.gguf");
    fs::rename(place.join("mmproj-LFM2-1.2B.gguf"), &tower).expect("renames");
    let (terms, told) = terms(&[]);
    assert!(!terms.contains("vision") && told.contains("mmproj-LFM2-VL-1.6B.gguf"), "{told}");
    let picture = oracle("vl").join("48x40.png");
    let shown = ["run", text(&model), "--raw", "-p", "x", "-n", "1"];
    assert!(stderr(&run(&shown)).contains("this is a text model by its name"));
    let asked = ["run", text(&model), "-p", "x", "-n", "1", "--image", text(&picture)];
    let output = run(&asked);
    assert!(stderr(&output).contains("this model takes no pictures"), "{}", stderr(&output));
    let output = run(&[&asked[..], &["--mmproj", text(&tower)]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(&["run", text(&tower), "-p", "x"]);
    assert!(stderr(&output).contains("vision tower of a model"), "{}", stderr(&output));
}

#[test]
fn a_folder_with_one_gguf_file_is_that_file() {
    let place = models().place("given-one");
    drop(fs::remove_dir_all(&place));
    fs::create_dir(&place).expect("a folder");
    fs::copy(models().chat(), place.join("a-BF16.gguf")).expect("copies");
    fs::write(place.join("README.md"), "hello").expect("writes");
    for words in [
        vec!["run", text(&place), "-p", "x", "-n", "1"],
        vec!["inspect", text(&place)],
        vec!["fit", text(&place)],
    ] {
        let output = run(&words);
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn without_a_network_a_name_is_refused_at_once() {
    let home = tempfile::tempdir().expect("a folder");
    for words in [["run", "LiquidAI/LFM2-350M", "-p", "x"], ["inspect", "lfm2.5:1.2b", "--json", "--tensors"]]
    {
        let mut command = undine();
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", "http://127.0.0.1:1");
        let output = command.args(words).output().expect("starts");
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("cannot be reached") && !told.contains("times in a row"), "{told}");
    }
}
