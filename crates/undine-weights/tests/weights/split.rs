//! Checkpoints in several files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use undine_weights::{Checkpoint, LayerWeight, Value, WeightName};

use crate::tiny::{Folder, Gguf, f32_bytes, refused, values};

const COUNT: usize = 3;

/// The tiny model in three parts, before they are written.
fn parts() -> Vec<Gguf> {
    let whole = Gguf::dense();
    let mut parts: Vec<Gguf> =
        (0..COUNT).map(|_| Gguf { metadata: Vec::new(), tensors: Vec::new() }).collect();
    for (i, tensor) in whole.tensors.iter().enumerate() {
        parts[i % COUNT].tensors.push(tensor.clone());
    }
    parts[0].metadata = whole.metadata;
    for (i, part) in parts.iter_mut().enumerate() {
        part.set("split.no", Value::U16(i as u16));
        part.set("split.count", Value::U16(COUNT as u16));
        part.set("split.tensors.count", Value::I32(whole.tensors.len() as i32));
    }
    parts
}

fn name(number: usize) -> String {
    format!("model-{number:05}-of-{COUNT:05}.gguf")
}

fn write(folder: &Path, parts: &[Gguf]) {
    for (i, part) in parts.iter().enumerate() {
        std::fs::write(folder.join(name(i + 1)), part.bytes()).unwrap();
    }
}

#[test]
fn gguf_opens_from_any_part() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &parts());
    let whole = Gguf::dense().open().unwrap();
    for number in 1..=COUNT {
        let checkpoint = Checkpoint::open(&folder.path().join(name(number))).unwrap();
        assert_eq!(checkpoint.format(), "GGUF v3, 3 files");
        assert_eq!(checkpoint.config(), whole.config());
        for part in [LayerWeight::Up, LayerWeight::Gate, LayerWeight::Down, LayerWeight::FfnNorm] {
            let name = WeightName::Layer(1, part);
            let (a, b) = (checkpoint.weight(name).unwrap(), whole.weight(name).unwrap());
            assert_eq!(checkpoint.bytes(&a), whole.bytes(&b), "{part:?}");
        }
    }
}

#[test]
fn gguf_parts_must_agree() {
    type Change = fn(&mut Vec<Gguf>);
    let cases: [(Change, &str); 6] = [
        (|parts| parts.swap(1, 2), "split.no: expected 1 for this file's name, found 2"),
        (|parts| parts[1].set("split.count", Value::U16(4)), "one of 4, its name says one of 3"),
        (|parts| parts[2].remove("split.no"), "split.no: the key is required"),
        (|parts| parts[0].set("split.tensors.count", Value::I32(7)), "expected 7 tensors in all files"),
        (
            |parts| {
                let tensor = parts[0].tensors[0].clone();
                parts[1].tensors.push(tensor);
            },
            "appears twice",
        ),
        (|parts| parts[1].remove("split.count"), "one of 1, its name says one of 3"),
    ];
    for (change, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = parts();
        change(&mut parts);
        write(folder.path(), &parts);
        let message = refused(Checkpoint::open(&folder.path().join(name(1))));
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    }
}

#[test]
fn gguf_part_missing_or_renamed() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &parts());
    std::fs::rename(folder.path().join(name(2)), folder.path().join("other.gguf")).unwrap();
    let message = refused(Checkpoint::open(&folder.path().join(name(1))));
    assert!(message.contains(&name(2)), "{message}");
    let message = refused(Checkpoint::open(&folder.path().join("other.gguf")));
    assert!(message.contains("parts must be named like"), "{message}");
}

/// A sharded folder; returns the index before it is written.
fn shards(folder: &Path) -> BTreeMap<String, String> {
    let whole = Folder::dense();
    std::fs::write(folder.join("config.json"), whole.config.to_string()).unwrap();
    let mut index = BTreeMap::new();
    for number in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", number + 1);
        let mut shard = Folder { config: json!({}), tensors: Vec::new() };
        shard.tensors = whole.tensors.iter().skip(number).step_by(2).cloned().collect();
        index.extend(shard.tensors.iter().map(|(name, ..)| (name.clone(), file.clone())));
        std::fs::write(folder.join(file), shard.weights()).unwrap();
    }
    index
}

fn write_index(folder: &Path, index: &BTreeMap<String, String>) {
    let json = json!({"metadata": {"total_size": 0}, "weight_map": index});
    std::fs::write(folder.join("model.safetensors.index.json"), json.to_string()).unwrap();
}

#[test]
fn safetensors_shards() {
    let folder = tempfile::tempdir().unwrap();
    write_index(folder.path(), &shards(folder.path()));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.format(), "safetensors, 2 files");
    let tensors = Folder::dense().tensors;
    let place =
        tensors.iter().position(|(name, ..)| name == "model.layers.0.feed_forward.w3.weight").unwrap();
    let up = checkpoint.weight(WeightName::Layer(0, LayerWeight::Up)).unwrap();
    assert_eq!(checkpoint.bytes(&up), f32_bytes(&values(place, up.rows * up.cols)));
}

#[test]
fn safetensors_index_must_be_right() {
    let tensor = "model.embed_tokens.weight";
    for (file, expected) in [
        ("../model-00001-of-00002.safetensors", "expected a plain file name"),
        ("/etc/passwd", "expected a plain file name"),
        ("", "expected a plain file name"),
        ("..", "expected a plain file name"),
        ("a\\b", "expected a plain file name"),
        ("absent.safetensors", "absent.safetensors"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut index = shards(folder.path());
        index.insert(tensor.to_owned(), file.to_owned());
        write_index(folder.path(), &index);
        let message = refused(Checkpoint::open(folder.path()));
        assert!(message.contains(expected), "{file}: {message:?} should contain {expected:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path());
    write_index(folder.path(), &BTreeMap::new());
    assert!(refused(Checkpoint::open(folder.path())).contains("expected 1 to 1024 files, found 0"));
}
