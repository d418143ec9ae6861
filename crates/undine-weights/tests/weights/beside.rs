//! What lies beside a GGUF file: the vision tower that is its own, and text files that it lacks, if they are
//! of the same model.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use undine_core::{DType, Vocabulary};
use undine_weights::{Checkpoint, Value, write_gguf, write_mmproj};

use crate::tiny::Gguf;

fn oracle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/oracle/vl")
}

/// The vision oracle under another name, which its files then state.
fn named(folder: &Path, name: &str) -> Checkpoint {
    let copy = folder.join(name);
    std::fs::create_dir(&copy).unwrap();
    for file in [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(oracle().join(file), copy.join(file)).unwrap();
    }
    Checkpoint::open(&copy).unwrap()
}

/// What was used of the towers beside a model, by the lines about them.
fn told(model: &Path) -> (bool, String) {
    let checkpoint = Checkpoint::open(model).unwrap();
    (checkpoint.vision_config().is_some(), checkpoint.repairs().join(" "))
}

#[test]
fn the_tower_of_the_same_name_is_used_and_not_the_first_of_the_alphabet() {
    // The model's name, its file, the towers beside it by stated name and file, and which is used.
    type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], Option<usize>);
    let cases: [Case; 11] = [
        // Two of one width.
        (
            "LFM2-VL-450M",
            "LFM2-VL-450M-Q4_0.gguf",
            &[
                ("LFM2-VL-1.6B", "mmproj-LFM2-VL-1.6B-F16.gguf"),
                ("LFM2-VL-450M", "mmproj-LFM2-VL-450M-Q8_0.gguf"),
            ],
            Some(1),
        ),
        (
            "LFM2.5-VL-450M",
            "LFM2.5-VL-450M-Q4_0.gguf",
            &[
                ("LFM2-VL-450M", "mmproj-LFM2-VL-450M-F16.gguf"),
                ("LFM2.5-VL-450M", "mmproj-LFM2.5-VL-450M-F16.gguf"),
            ],
            Some(1),
        ),
        // A lone one of another member, by what its metadata or its name says.
        ("LFM2-VL-450M", "LFM2-VL-450M-Q4_0.gguf", &[("LFM2-VL-1.6B", "mmproj.gguf")], None),
        ("LFM2-VL-450M", "model.gguf", &[("LFM2.5-VL-450M", "mmproj-model-f16.gguf")], None),
        ("2f9c31", "LFM2-VL-450M-Q4_0.gguf", &[("8aa7d0", "mmproj-LFM2-VL-1.6B-Q8_0.gguf")], None),
        // Text models have none, unless it is named after them.
        ("LFM2-1.2B", "LFM2-1.2B-Q4_0.gguf", &[("LFM2-VL-1.6B", "mmproj-LFM2-VL-1.6B-F16.gguf")], None),
        ("LFM2-1.2B", "LFM2-1.2B-Q4_0.gguf", &[("cat", "mmproj-model-f16.gguf")], None),
        ("LFM2-1.2B-cats", "LFM2-1.2B-cats-Q4_0.gguf", &[("x", "mmproj-LFM2-1.2B-cats-F16.gguf")], Some(0)),
        // Names that say nothing.
        ("cats", "cats.gguf", &[("dogs", "mmproj-dogs.gguf"), ("cats", "mmproj-cats.gguf")], Some(1)),
        ("cats", "model.gguf", &[("cats", "mmproj.gguf")], Some(0)),
        // The same member in two precisions.
        (
            "LFM2-VL-450M",
            "LFM2-VL-450M-Q4_0.gguf",
            &[
                ("LFM2-VL-450M", "mmproj-LFM2-VL-450M-F16.gguf"),
                ("LFM2-VL-450M", "mmproj-LFM2-VL-450M-Q8_0.gguf"),
            ],
            Some(0),
        ),
    ];
    for (name, file, towers, expected) in cases {
        let folder = TempDir::new().unwrap();
        let made = TempDir::new().unwrap();
        let model = folder.path().join(file);
        write_gguf(&named(made.path(), name), |_, _| DType::F32, &model).unwrap();
        for (at, (tower, file)) in towers.iter().enumerate() {
            let source = TempDir::new().unwrap();
            let dtype = [DType::F16, DType::Q8_0][at];
            write_mmproj(&named(source.path(), tower), |_, _| dtype, &folder.path().join(file)).unwrap();
        }
        let (sees, told) = told(&model);
        assert_eq!(sees, expected.is_some(), "{file} beside {towers:?}: {told}");
        match expected {
            Some(at) if towers.len() > 1 => {
                assert!(told.contains(&format!("fits: {}.", towers[at].1)), "{file}: {told}")
            }
            Some(_) => assert_eq!(told, "", "{file}"),
            None => assert!(told.contains(towers[0].1) && told.contains("--mmproj"), "{file}: {told}"),
        }
        // Named, it is used whatever it is called.
        let tower = folder.path().join(towers[0].1);
        assert!(Checkpoint::open_with_mmproj(&model, &tower).unwrap().vision_config().is_some(), "{file}");
    }
}

/// A tokenizer.json with the tokens of the tiny model.
fn tokenizer(change: impl Fn(&mut Vec<String>)) -> Json {
    let file = Gguf::dense();
    let tokens = file.metadata.iter().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
    let Value::Array(tokens) = &tokens.1 else { panic!("a list") };
    let mut tokens = tokens.as_strings().unwrap().to_vec();
    change(&mut tokens);
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    let added: Vec<Json> = tokens
        .iter()
        .enumerate()
        .take(5)
        .map(|(id, text)| json!({"id": id, "content": text, "special": true}))
        .collect();
    json!({"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]}})
}

#[test]
fn a_template_beside_a_gguf_file_is_used_if_it_has_none_and_the_tokens_are_the_same() {
    let other = |tokens: &mut Vec<String>| tokens[5] = "x".to_owned();
    let longer = |tokens: &mut Vec<String>| tokens.push("e".to_owned());
    let template = "{{ messages[0].content }}<|im_end|>";
    // The file's own template, the tokenizer and the template beside it, the one that is used, and what is
    // told.
    type Case<'a> = (Option<&'a str>, Option<Json>, &'a str, Option<&'a str>, &'a str);
    let cases: [Case<'_>; 7] = [
        // The file's own is right, and nothing is said.
        (Some("own"), Some(tokenizer(other)), template, Some("own"), ""),
        (None, Some(tokenizer(|_| ())), template, Some(template), "beside it is used"),
        (None, Some(tokenizer(other)), template, None, "not those of this model"),
        (None, Some(tokenizer(longer)), template, None, "not those of this model"),
        (None, None, template, Some(template), "beside it is used"),
        (None, None, "[INST] {{ messages[0].content }}", None, "writes no token of this model"),
        (None, Some(json!({"added_tokens": 5})), template, None, "tokenizer.json"),
    ];
    for (own, tokenizer, beside, expected, told) in cases {
        let folder = TempDir::new().unwrap();
        let mut file = Gguf::dense();
        file.remove("tokenizer.chat_template");
        own.into_iter().for_each(|own| file.set("tokenizer.chat_template", Value::String(own.to_owned())));
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), beside).unwrap();
        tokenizer
            .iter()
            .for_each(|json| std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap());
        let checkpoint = Checkpoint::open(&path).unwrap();
        let lines = checkpoint.repairs().join(" ");
        assert_eq!(checkpoint.chat_template(), expected, "{beside}: {lines}");
        assert!(if told.is_empty() { lines.is_empty() } else { lines.contains(told) }, "{lines}");
        assert!(matches!(checkpoint.vocabulary(), Vocabulary::Gguf { .. }));
    }
}

#[test]
fn a_gguf_file_without_a_tokenizer_takes_the_one_beside_it_if_it_has_as_many_tokens() {
    let shorter = |tokens: &mut Vec<String>| tokens.truncate(5);
    for (json, is_used) in [(tokenizer(|_| ()), true), (tokenizer(shorter), false)] {
        let folder = TempDir::new().unwrap();
        let mut file = Gguf::dense();
        file.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        std::fs::write(
            folder.path().join("tokenizer_config.json"),
            r#"{"chat_template": "t", "bos_token": "<|startoftext|>"}"#,
        )
        .unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let lines = checkpoint.repairs().join(" ");
        assert_eq!(matches!(checkpoint.vocabulary(), Vocabulary::HuggingFace(_)), is_used, "{lines}");
        assert_eq!(
            (checkpoint.chat_template(), checkpoint.special_tokens().bos),
            (is_used.then_some("t"), is_used.then_some(1))
        );
        assert!(lines.contains(if is_used { "beside it is used" } else { "are not used" }), "{lines}");
    }
}
