//! Hostile safetensors files by name.

use serde_json::json;
use undine_weights::{Checkpoint, WeightName};

use crate::tiny::{Folder, refused, safetensors};

fn open(weights: Vec<u8>) -> String {
    refused(Checkpoint::from_safetensors_bytes(Folder::dense().config.to_string().into_bytes(), weights))
}

#[test]
fn headers() {
    let length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    for (weights, expected) in [
        (vec![], "expected a header length of 8 bytes, found 0"),
        (length(u64::MAX), "header length 18446744073709551615"),
        (length(3), "the rest of the file has 2 bytes"),
        (safetensors("[]", &[]), "expected an object of tensors by name"),
        (safetensors("{\"t\":", &[]), "header: EOF"),
        (safetensors("{\"t\": {}}", &[]), "missing field"),
        (safetensors(&format!("{{\"t\": {}", "[".repeat(10_000)), &[]), "header"),
        (safetensors("{}", &[]), "tensor model.embed_tokens.weight is missing"),
        (safetensors("{}", &[0; 4]), "4 bytes of data, but the tensors take 0"),
    ] {
        let message = open(weights);
        assert!(message.contains(expected), "{message:?} should contain {expected:?}");
    }
}

#[test]
fn tensors() {
    let max = usize::MAX;
    for (entry, expected) in [
        (
            json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}),
            "shape [2] of F32 does not take 4 bytes",
        ),
        (json!({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}), "expected to start at 0"),
        (json!({"dtype": "F32", "shape": [0], "data_offsets": [4, 0]}), "expected to start at 0"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "beyond the 4 bytes of data"),
        (json!({"dtype": "U8", "shape": [max], "data_offsets": [0, max]}), "beyond the 4 bytes of data"),
        (json!({"dtype": "F32", "shape": [max, max], "data_offsets": [0, 4]}), "does not take 4 bytes"),
        (json!({"dtype": "F32", "shape": [1u64 << 62], "data_offsets": [0, 4]}), "does not take 4 bytes"),
        (
            json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
            "4 bytes of data, but the tensors take 0",
        ),
        (
            json!({"dtype": "F32", "shape": vec![1; 9], "data_offsets": [0, 4]}),
            "9 dimensions, the limit is 8",
        ),
        (json!({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}), "header: invalid value"),
        (json!({"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}), "header: invalid type"),
    ] {
        let message = open(safetensors(&json!({"t": entry}).to_string(), &[0; 4]));
        assert!(message.contains(expected), "{entry}: {message:?} should contain {expected:?}");
    }
}

#[test]
fn overlap_and_duplicates() {
    let entry = |start: usize| json!({"dtype": "F32", "shape": [2], "data_offsets": [start, start + 8]});
    let overlap = json!({"a": entry(0), "b": entry(4)}).to_string();
    assert!(
        open(safetensors(&overlap, &[0; 12]))
            .contains("tensor b: data offsets 4..12, expected to start at 8")
    );
    let duplicate = format!("{{\"a\": {}, \"a\": {}}}", entry(0), entry(8));
    assert!(open(safetensors(&duplicate, &[0; 16])).contains("tensor a appears twice"));
}

#[test]
fn other_types_are_left_out_unless_needed() {
    let mut folder = Folder::dense();
    folder.tensors.push(("num_batches_tracked".to_owned(), "I64", vec![], vec![0; 8]));
    let checkpoint = folder.open().unwrap();
    assert!(
        checkpoint.repairs()[0].contains("1 tensors of types") && checkpoint.repairs()[0].contains("I64")
    );
    assert!(checkpoint.weight(WeightName::FinalNorm).is_some());
    folder.tensors[0].1 = "I32";
    let message = refused(folder.open());
    assert!(
        message.contains("model.embed_tokens.weight has type I32, expected F32, F16 or BF16"),
        "{message}"
    );
}
