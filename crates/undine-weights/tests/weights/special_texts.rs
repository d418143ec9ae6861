//! Templates and special tokens from all places that name them.

use std::path::Path;

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use undine_core::DType;
use undine_weights::{Checkpoint, FolderTypes, Value, write_folder, write_gguf};

use crate::tiny::{Folder, Gguf};

fn folder(files: &[(&str, String)]) -> Checkpoint {
    let folder = Folder::dense();
    let mut all = vec![
        ("config.json", folder.config.to_string().into_bytes()),
        ("model.safetensors", folder.weights()),
    ];
    all.extend(files.iter().map(|(name, text)| (*name, text.clone().into_bytes())));
    Checkpoint::from_folder_bytes(all).unwrap()
}

#[test]
fn chat_templates_from_all_places_in_their_order() {
    let jinja = ("chat_template.jinja", "jinja".to_owned());
    let tool_use = ("additional_chat_templates/tool_use.jinja", "tools".to_owned());
    let old = ("chat_template.json", json!({"chat_template": "old"}).to_string());
    let processor = ("processor_config.json", json!({"chat_template": "processor"}).to_string());
    let config = |value: Json| ("tokenizer_config.json", json!({"chat_template": value}).to_string());
    let both = json!({"default": "d", "tool_use": "t"});
    let list = json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]);
    for (files, plain, with_tools) in [
        (vec![], None, None),
        (vec![config(json!("c"))], Some("c"), None),
        (vec![config(both.clone())], Some("d"), Some("t")),
        (vec![config(list)], Some("d"), Some("t")),
        (vec![config(json!({"tool_use": "t"}))], Some("t"), None),
        (vec![config(json!("c")), old.clone()], Some("old"), None),
        (vec![config(json!("c")), processor.clone()], Some("processor"), None),
        (vec![processor, old.clone()], Some("old"), None),
        (vec![config(both.clone()), jinja.clone()], Some("jinja"), None),
        (vec![config(both), jinja, tool_use.clone(), old], Some("jinja"), Some("tools")),
        (vec![config(json!("c")), tool_use], Some("c"), Some("tools")),
    ] {
        let checkpoint = folder(&files);
        let templates = checkpoint.chat_templates();
        assert_eq!((templates.plain(), templates.with_tools()), (plain, with_tools), "{files:?}");
    }
}

#[test]
fn chat_templates_of_a_folder_and_of_what_is_made_from_it() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir_all(source.join("additional_chat_templates")).unwrap();
    let folder = Folder::dense();
    std::fs::write(source.join("config.json"), folder.config.to_string()).unwrap();
    std::fs::write(source.join("model.safetensors"), folder.weights()).unwrap();
    std::fs::write(source.join("chat_template.jinja"), "plain").unwrap();
    std::fs::write(source.join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    let both = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(
            (checkpoint.chat_template(), checkpoint.chat_templates().with_tools()),
            (Some("plain"), Some("tools"))
        );
        checkpoint
    };
    let checkpoint = both(&source);
    let gguf = dir.path().join("m.gguf");
    write_gguf(&checkpoint, |_, _| DType::F32, &gguf).unwrap();
    let back = dir.path().join("back");
    let types = FolderTypes { language: DType::F32, tower: None };
    write_folder(&both(&gguf), types, &back, |_| std::ops::ControlFlow::Continue(())).unwrap();
    both(&back);
}

#[test]
fn chat_templates_of_gguf_files() {
    let set = |keys: &[(&str, &str)]| {
        let mut file = Gguf::dense();
        file.remove("tokenizer.chat_template");
        for (key, source) in keys {
            file.set(&format!("tokenizer.chat_template{key}"), Value::String((*source).to_owned()));
        }
        file
    };
    for (keys, plain, with_tools) in [
        (&[][..], None, None),
        (&[("", "a")], Some("a"), None),
        (&[("", "a"), (".tool_use", "b")], Some("a"), Some("b")),
        (&[(".default", "a"), (".tool_use", "b")], Some("a"), Some("b")),
        (&[(".tool_use", "b")], Some("b"), None),
        (&[(".rag", "c"), (".tool_use", "b")], Some("b"), None),
        (&[("", " "), (".rag", "c")], Some("c"), None),
        (&[("s", "x")], None, None),
    ] {
        let checkpoint = set(keys).open().unwrap();
        let templates = checkpoint.chat_templates();
        assert_eq!((templates.plain(), templates.with_tools()), (plain, with_tools), "{keys:?}");
    }
    let mut file = set(&[]);
    file.set("tokenizer.chat_template", Value::U32(7));
    let checkpoint = file.open().unwrap();
    assert!(
        checkpoint.repairs()[0].contains("tokenizer.chat_template is u32 7"),
        "{:?}",
        checkpoint.repairs()
    );
}

#[test]
fn special_tokens_are_what_the_tokenizers_configuration_says() {
    let added = ["<|pad|>", "<|startoftext|>", "<s>", "<|im_start|>", "<|im_end|>", "<img>", "<p>"];
    let added: Vec<Json> =
        added.iter().enumerate().map(|(id, text)| json!({"id": id, "content": text})).collect();
    let tokenizer =
        ("tokenizer.json", json!({"added_tokens": added, "model": {"vocab": {}, "merges": []}}).to_string());
    let config = json!({
        "bos_token": "<s>",
        "eos_token": {"content": "<|im_end|>", "lstrip": false},
        "pad_token": "<p>",
        "unk_token": null,
        "image_token": "<img>",
        "additional_special_tokens": ["<|im_start|>", {"content": "<img>"}],
        "extra_special_tokens": {"video_token": "<vid>"},
    });
    let config = ("tokenizer_config.json", config.to_string());
    let map = ("special_tokens_map.json", json!({"bos_token": "<other>", "cls_token": "<c>"}).to_string());
    // config.json says 1 and 0.
    let checkpoint = folder(&[tokenizer.clone(), config, map]);
    let special = checkpoint.special_tokens();
    assert_eq!((special.bos, special.pad), (Some(2), Some(6)));
    let texts = json!({
        "bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<p>", "image_token": "<img>",
        "additional_special_tokens": ["<|im_start|>", "<img>"], "video_token": "<vid>", "cls_token": "<c>",
    });
    assert_eq!(&Json::Object(checkpoint.special_texts().clone()), &texts);
    // Without a word of the tokenizer's, the other files' ids stand.
    let special = folder(&[tokenizer]).special_tokens().clone();
    assert_eq!((special.bos, special.pad), (Some(1), Some(0)));

    let mut file = Gguf::dense();
    file.set("tokenizer.ggml.unknown_token_id", Value::U32(3));
    let texts = json!({
        "bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>", "unk_token": "<|im_start|>",
    });
    assert_eq!(&Json::Object(file.open().unwrap().special_texts().clone()), &texts);
}
