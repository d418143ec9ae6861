//! The small files of a Hugging Face folder, and paths that are not checkpoints.

use std::path::Path;

use serde_json::json;
use undine_core::Vocabulary;
use undine_weights::{Checkpoint, Value};

use crate::tiny::{Folder, refused};

fn write(path: &Path, folder: &Folder) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join("config.json"), folder.config.to_string()).unwrap();
    std::fs::write(path.join("model.safetensors"), folder.weights()).unwrap();
}

fn tokenizer() -> serde_json::Value {
    json!({
        "added_tokens": [
            {"id": 3, "content": "<|endoftext|>", "special": true},
            {"id": 5, "content": "<|im_end|>", "special": true},
            {"id": 6, "content": "<bos>", "special": true},
        ],
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}]},
        ]},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    })
}

#[test]
fn special_tokens_come_from_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("My-Model");
    let mut folder = Folder::dense();
    folder.config["bos_token_id"] = json!(null);
    folder.config["eos_token_id"] = json!([4, 7]);
    write(&path, &folder);
    let save =
        |name: &str, json: serde_json::Value| std::fs::write(path.join(name), json.to_string()).unwrap();
    save(
        "generation_config.json",
        json!({"eos_token_id": 8, "temperature": 0.3, "top_k": 50, "min_p": 0.15}),
    );
    save("tokenizer.json", tokenizer());
    save("tokenizer_config.json", json!({"bos_token": "<bos>", "eos_token": {"content": "<|im_end|>"}}));
    let checkpoint = Checkpoint::open(&path).unwrap();
    let special = checkpoint.special_tokens();
    assert_eq!(special.eos, [4, 7, 8, 5, 3]);
    assert_eq!((special.bos, special.pad, special.add_bos), (Some(6), Some(0), Some(true)));
    let sampling = checkpoint.sampling_defaults();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.min_p), (Some(0.3), Some(50), Some(0.15)));
    assert_eq!((sampling.top_p, sampling.repetition_penalty), (None, None));
    assert_eq!(checkpoint.name(), "My-Model");
    assert!(matches!(checkpoint.vocabulary(), Vocabulary::HuggingFace(bytes) if bytes.starts_with(b"{")));
}

#[test]
fn add_bos_of_the_tokenizer_config_wins() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &Folder::dense());
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"add_bos_token": false}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().special_tokens().add_bos, Some(false));
}

#[test]
fn chat_template_places() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &Folder::dense());
    let template = || Checkpoint::open(dir.path()).unwrap().chat_template().map(str::to_owned);
    let config = |json: serde_json::Value| {
        std::fs::write(dir.path().join("tokenizer_config.json"), json!({"chat_template": json}).to_string())
            .unwrap();
    };
    assert_eq!(template(), None);
    config(json!("text"));
    assert_eq!(template().as_deref(), Some("text"));
    config(json!([{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]));
    assert_eq!(template().as_deref(), Some("b"));
    config(json!([{"name": "tools", "template": "a"}]));
    assert_eq!(template().as_deref(), Some("a"));
    std::fs::write(dir.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(template().as_deref(), Some("file"));
}

#[test]
fn names_and_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("models--Org--Some-Model/snapshots/0123abcd");
    let mut folder = Folder::dense();
    write(&snapshot, &folder);
    for path in [snapshot.clone(), snapshot.join("model.safetensors"), snapshot.join("config.json")] {
        assert_eq!(Checkpoint::open(&path).unwrap().name(), "Some-Model");
    }
    folder.config["_name_or_path"] = json!("org/Stated");
    write(&snapshot, &folder);
    let checkpoint = Checkpoint::open(&snapshot).unwrap();
    assert_eq!(checkpoint.name(), "Stated");
    let value = |key: &str| {
        checkpoint.metadata().iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    assert_eq!(value("hidden_size"), Some(Value::U64(8)));
    assert_eq!(value("rope_parameters.rope_theta"), Some(Value::F64(1e6)));
    assert_eq!(value("layer_types").unwrap().to_string(), "[conv, full_attention]");
    assert_eq!(value("conv_bias"), Some(Value::Bool(false)));
}

#[test]
fn what_is_not_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(refused(Checkpoint::open(&path.join("absent"))).contains("absent"));
    assert!(refused(Checkpoint::open(path)).contains("the folder has no config.json"));
    std::fs::write(path.join("empty.gguf"), "").unwrap();
    assert!(refused(Checkpoint::open(&path.join("empty.gguf"))).contains("the file is empty"));
    std::fs::write(path.join("text.gguf"), "not a model").unwrap();
    assert!(refused(Checkpoint::open(&path.join("text.gguf"))).contains("a text file and no model"));
    std::fs::write(path.join("config.json"), Folder::dense().config.to_string()).unwrap();
    assert!(refused(Checkpoint::open(path)).contains("2 models; name one of them: empty.gguf, text.gguf"));
    std::fs::write(path.join("config.json"), "{").unwrap();
    std::fs::write(path.join("model.safetensors"), Folder::dense().weights()).unwrap();
    assert!(refused(Checkpoint::open(path)).contains("config.json: not the JSON"));
    std::fs::write(path.join("config.json"), "[".repeat(100_000)).unwrap();
    assert!(refused(Checkpoint::open(path)).contains("config.json"));
    std::fs::write(path.join("config.json"), Folder::dense().config.to_string()).unwrap();
    std::fs::write(path.join("tokenizer.json"), r#"{"added_tokens": 5}"#).unwrap();
    assert!(refused(Checkpoint::open(path)).contains("tokenizer.json"));
    std::fs::remove_file(path.join("tokenizer.json")).unwrap();
    std::fs::write(path.join("chat_template.jinja"), b"\xff").unwrap();
    assert!(refused(Checkpoint::open(path)).contains("chat_template.jinja"));
}
