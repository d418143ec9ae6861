//! What people give in place of a model, and what they are told: what it is, and what to do.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use undine_weights::{Checkpoint, Source, Value};

use crate::tiny::{Folder, Gguf, HIDDEN, refused};

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456789\n";

/// Writes files of these names and contents.
fn put(folder: &Path, files: &[(&str, &[u8])]) {
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
}

/// What both ways to open a path say.
fn both(path: &Path, expected: &[&str]) {
    let source = Source::open(path).map(|_| ()).expect_err("refused").to_string();
    for message in [refused(Checkpoint::open(path)), source] {
        for part in expected {
            assert!(message.contains(part), "{}: {message}, expected {part:?}", path.display());
        }
    }
}

#[test]
fn files_that_are_no_models() {
    let dir = TempDir::new().unwrap();
    for (name, bytes, expected) in [
        ("a.gguf", LFS, &["Git LFS pointer", "git lfs pull"][..]),
        ("Modelfile", b"FROM ./LFM2.gguf\nPARAMETER temperature 1\n", &["Ollama Modelfile", "./LFM2.gguf"]),
        ("page.gguf", b"<!doctype html>\n<html>", &["web page"]),
        ("pytorch_model.bin", b"PK\x03\x04...", &["PyTorch", "safetensors"]),
        ("imatrix.dat", b"\x01\0\0\0\x05\0\0\0token", &["importance matrix", "--imatrix"]),
        ("model.gguf.gz", b"\x1f\x8b\x08\0", &["compressed"]),
    ] {
        put(dir.path(), &[(name, bytes)]);
        both(&dir.path().join(name), expected);
    }
}

#[test]
fn gguf_files_of_other_kinds() {
    type Change = fn(&mut Gguf);
    let cases: [(Change, &[&str]); 7] = [
        (
            |f| {
                f.set("general.type", Value::String("adapter".to_owned()));
                f.set("general.base_model.0.name", Value::String("LFM2 1.2B".to_owned()));
            },
            &["adapter of LFM2 1.2B", "general.type = adapter", "merge"],
        ),
        (
            |f| f.add_f32("blk.0.ffn_gate.weight.lora_a", vec![2, HIDDEN]),
            &["blk.0.ffn_gate.weight.lora_a", "merge"],
        ),
        (|f| f.set("general.type", Value::String("imatrix".to_owned())), &["importance matrix", "--imatrix"]),
        (|f| f.set("general.type", Value::String("vocab".to_owned())), &["general.type = vocab"]),
        (|f| f.set("general.architecture", Value::String("controlvector".to_owned())), &["control vector"]),
        (|f| f.tensors.clear(), &["vocabulary only"]),
        (|f| f.set("general.architecture", Value::String("llama".to_owned())), &["\"llama\""]),
    ];
    for (change, expected) in cases {
        let dir = TempDir::new().unwrap();
        let mut file = Gguf::dense();
        change(&mut file);
        put(dir.path(), &[("m.gguf", &file.bytes())]);
        both(&dir.path().join("m.gguf"), expected);
    }
    // A tower is none of a model's, but can be quantized by itself.
    let mut tower = Gguf::dense();
    tower.set("general.architecture", Value::String("clip".to_owned()));
    tower.set("general.type", Value::String("mmproj".to_owned()));
    let message = refused(tower.open());
    assert!(message.contains("vision tower") && message.contains("--mmproj"), "{message}");
}

#[test]
fn adapters_are_never_passed_over() {
    let folder = |names: &[&str]| {
        let mut folder = Folder::dense();
        names.iter().for_each(|name| folder.add_f32(name, vec![2, HIDDEN]));
        folder
    };
    let config = json!({"base_model_name_or_path": "LiquidAI/LFM2-1.2B", "peft_type": "LORA"}).to_string();
    let whole = folder(&[]);
    let (model_config, weights) = (whole.config.to_string(), whole.weights());
    // Beside a model, alone, and without its configuration.
    for (files, expected) in [
        (
            &[
                ("config.json", model_config.as_bytes()),
                ("model.safetensors", &weights),
                ("adapter_config.json", config.as_bytes()),
            ][..],
            &[
                "beside the model",
                "adapter_config.json",
                "LiquidAI/LFM2-1.2B",
                "merge_and_unload",
                "elsewhere",
            ][..],
        ),
        (
            &[("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", b"x")],
            &["this folder is an adapter of LiquidAI/LFM2-1.2B", "merge_and_unload"],
        ),
        (&[("adapter_model.bin", b"x")], &["this folder is an adapter", "adapter_model.bin"]),
    ] {
        let dir = TempDir::new().unwrap();
        put(dir.path(), files);
        both(dir.path(), expected);
    }
    // Inside of the weights.
    for name in [
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.self_attn.q_proj.lora_B.weight",
        "model.layers.1.self_attn.q_proj.base_layer.weight",
        "model.embed_tokens.modules_to_save.default.weight",
    ] {
        let message = refused(folder(&[name]).open());
        assert!(message.contains(name) && message.contains("merge_and_unload"), "{message}");
    }
}

#[test]
fn a_folder_is_the_one_gguf_file_in_it() {
    let tower = b"GGUF of a tower";
    let model = Gguf::dense().bytes();
    for (files, expected) in [
        (&["a.gguf"][..], Ok("a.gguf")),
        (&["a.gguf", "mmproj-a.gguf", "a-imatrix.gguf", "README.md"], Ok("a.gguf")),
        (&["a.gguf", "b.gguf"], Err(&["2 models", "a.gguf, b.gguf"][..])),
        (&["mmproj-a.gguf"], Err(&["no config.json", "no models by themselves"])),
        (&["pytorch_model.bin"], Err(&["no config.json", "PyTorch"])),
        (&["model.onnx"], Err(&["ONNX"])),
        (&["model.safetensors"], Err(&["no config.json", "copy it from"])),
        (&[], Err(&["expected a GGUF file or a folder with config.json"])),
    ] {
        let dir = TempDir::new().unwrap();
        for name in files {
            let is_model = name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix");
            put(dir.path(), &[(name, if is_model { &model } else { &tower[..] })]);
        }
        match expected {
            Ok(_) => {
                assert_eq!(Checkpoint::open(dir.path()).unwrap().name(), "Tiny", "{files:?}");
                assert!(Source::open(dir.path()).is_ok(), "{files:?}");
            }
            Err(parts) => both(dir.path(), parts),
        }
    }
    // With a configuration for another tool.
    let dir = TempDir::new().unwrap();
    put(dir.path(), &[("config.json", b"{}"), ("a.gguf", &model)]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().file_name(), "a");
}

#[test]
fn the_folder_of_a_repository_in_the_hubs_cache_is_its_snapshot() {
    let dir = TempDir::new().unwrap();
    let repo = dir.path().join("models--acme--Cat");
    let snapshot = |name: &str| {
        let snapshot = repo.join("snapshots").join(name);
        std::fs::create_dir_all(&snapshot).unwrap();
        let whole = Folder::dense();
        put(
            &snapshot,
            &[("config.json", whole.config.to_string().as_bytes()), ("model.safetensors", &whole.weights())],
        );
    };
    snapshot("01ab");
    assert_eq!(Checkpoint::open(&repo).unwrap().file_name(), "Cat");
    snapshot("02cd");
    both(&repo, &["found 2", "01ab, 02cd"]);
}

#[test]
fn pointers_in_the_place_of_a_folders_files() {
    let whole = Folder::dense();
    let (config, weights) = (whole.config.to_string(), whole.weights());
    for name in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
        let dir = TempDir::new().unwrap();
        put(dir.path(), &[("config.json", config.as_bytes()), ("model.safetensors", &weights), (name, LFS)]);
        both(dir.path(), &[name, "Git LFS pointer"]);
    }
}

#[test]
fn weights_under_another_name_without_an_index() {
    let whole = Folder::dense();
    let (config, weights) = (whole.config.to_string(), whole.weights());
    let dir = TempDir::new().unwrap();
    put(dir.path(), &[("config.json", config.as_bytes()), ("model-00001-of-00001.safetensors", &weights)]);
    assert!(Checkpoint::open(dir.path()).is_ok());
    put(dir.path(), &[("other.safetensors", &weights)]);
    both(dir.path(), &["expected model.safetensors", "other.safetensors"]);
}
