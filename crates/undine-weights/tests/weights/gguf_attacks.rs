//! Hostile GGUF files by name: each is refused with a message that names what is wrong.

use undine_core::DType;
use undine_weights::{Array, Checkpoint, Value};

use crate::tiny::{Gguf, refused};

/// A GGUF header put together by hand.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, metadata: u64) -> Self {
        let mut raw = Self(b"GGUF".to_vec());
        raw.u32(3).u64(tensors).u64(metadata);
        raw
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(&mut self, n: u64) -> &mut Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn text(&mut self, text: &[u8]) -> &mut Self {
        self.u64(text.len() as u64).0.extend(text);
        self
    }

    /// A tensor table entry; `dims` innermost first.
    fn tensor(&mut self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> &mut Self {
        self.text(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().for_each(|&dim| {
            self.u64(dim);
        });
        self.u32(dtype).u64(offset)
    }

    /// Room for counts that promise more than there is.
    fn padded(&mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 4096, 0);
        std::mem::take(&mut self.0)
    }
}

#[track_caller]
fn expect(bytes: Vec<u8>, parts: &[&str]) {
    let message = refused(Checkpoint::from_gguf_bytes(bytes));
    for part in parts {
        assert!(message.contains(part), "{message:?} should contain {part:?}");
    }
}

#[test]
fn magic_and_version() {
    let version = |version: u32| [b"GGUF".as_slice(), &version.to_le_bytes(), &[0; 16]].concat();
    expect(b"GGML\x03\0\0\0".to_vec(), &["magic"]);
    expect(b"GG".to_vec(), &["magic", "the file ends after 2"]);
    expect(version(1), &["version", "expected 2 or 3, found 1"]);
    expect(version(4), &["version", "found 4"]);
    expect(version(3u32.swap_bytes()), &["version", "big endian"]);
    expect(version(2u32.swap_bytes()), &["version", "big endian"]);
}

#[test]
fn version_2_opens() {
    let mut bytes = Gguf::dense().bytes();
    bytes[4] = 2;
    assert_eq!(Checkpoint::from_gguf_bytes(bytes).unwrap().format(), "GGUF v2");
}

#[test]
fn counts_beyond_the_file() {
    expect(Raw::new(u64::MAX, 0).padded(), &["tensor count", "18446744073709551615"]);
    expect(Raw::new(1000, 0).padded(), &["tensor count", "can hold"]);
    expect(Raw::new(0, u64::MAX).padded(), &["metadata count"]);
    expect(Raw::new(0, 1000).padded(), &["metadata count", "can hold"]);
}

#[test]
fn string_lengths() {
    expect(Raw::new(0, 1).u64(u64::MAX).padded(), &["key of metadata entry 0", "18446744073709551615"]);
    expect(Raw::new(0, 1).u64(1 << 17).padded(), &["key of metadata entry 0", "the limit is 65536"]);
    expect(Raw::new(0, 1).text(b"k").u32(8).u64(1 << 40).padded(), &["at k:", "1099511627776"]);
    expect(Raw::new(0, 1).text(b"\xff\xfe").u32(0).padded(), &["key of metadata entry 0", "UTF-8"]);
    expect(Raw::new(0, 1).text(b"k").u32(8).text(b"\xff").padded(), &["at k:", "UTF-8"]);
}

#[test]
fn arrays() {
    let array = |kind: u32, len: u64| Raw::new(0, 1).text(b"k").u32(9).u32(kind).u64(len).padded();
    expect(array(9, 1), &["at k:", "arrays of arrays"]);
    expect(array(13, 1), &["at k:", "array kind", "13"]);
    expect(array(4, 1 << 62), &["at k:", "4611686018427387904"]);
    expect(array(12, 513), &["at k:", "can hold 512"]);
    expect(array(8, 513), &["at k:", "can hold 512"]);
    expect(array(0, (1 << 24) + 1), &["at k:", "the limit is 16777216"]);
    let mut strings = Raw::new(0, 1);
    strings.text(b"k").u32(9).u32(8).u64(2).text(b"fine").u64(5000);
    expect(strings.padded(), &["at k:", "5000"]);
}

#[test]
fn values() {
    expect(Raw::new(0, 1).text(b"k").u32(13).padded(), &["at k:", "value kind", "13"]);
    let boolean = |byte: u8| {
        let mut raw = Raw::new(0, 1);
        raw.text(b"k").u32(7).0.push(byte);
        raw.padded()
    };
    expect(boolean(2), &["at k:", "boolean", "2"]);
    let twice = Raw::new(0, 2).text(b"k").u32(4).u32(0).text(b"k").u32(4).u32(0).padded();
    expect(twice, &["at k:", "twice"]);
}

#[test]
fn alignment() {
    let alignment = |n: u32| Raw::new(0, 1).text(b"general.alignment").u32(4).u32(n).padded();
    for n in [0, 3, 4, 48, 1 << 31] {
        expect(alignment(n), &["general.alignment", "power of two", &n.to_string()]);
    }
    let text = Raw::new(0, 1).text(b"general.alignment").u32(8).text(b"32").padded();
    expect(text, &["general.alignment", "expected a u32, found a string"]);
}

#[test]
fn dimensions() {
    let tensor = |dims: &[u64]| Raw::new(1, 0).tensor("t", dims, 0, 0).padded();
    expect(tensor(&[]), &["tensor t", "dimensions, found 0"]);
    expect(tensor(&[1; 5]), &["tensor t", "dimensions, found 5"]);
    expect(tensor(&[4, 0]), &["tensor t", "dimension 0"]);
    expect(tensor(&[u64::MAX]), &["tensor t", "too large"]);
    expect(tensor(&[1 << 32, 1 << 32]), &["tensor t", "too large"]);
    expect(tensor(&[1 << 20, 1 << 20]), &["tensor t", "beyond the file"]);
    let quantized = Raw::new(1, 0).tensor("t", &[100, 4], DType::Q4_K.ggml(), 0).padded();
    expect(quantized, &["tensor t", "Q4_K", "whole blocks"]);
}

#[test]
fn element_types() {
    for (number, name) in [(26, "I32"), (28, "F64"), (999, "number 999")] {
        expect(Raw::new(1, 0).tensor("t", &[256], number, 0).padded(), &["tensor t", name, "Q4_K"]);
    }
}

#[test]
fn offsets() {
    let tensor = |offset: u64| Raw::new(1, 0).tensor("t", &[4], 0, offset).padded();
    expect(tensor(16), &["tensor t", "multiple of the alignment 32"]);
    expect(tensor(1 << 40), &["tensor t", "beyond the file"]);
    expect(tensor(u64::MAX - 31), &["tensor t", "beyond the file"]);
    let mut overlap = Raw::new(2, 0);
    overlap.tensor("a", &[16], 0, 0).tensor("b", &[4], 0, 32);
    expect(overlap.padded(), &["tensor b", "overlaps tensor a"]);
    let mut same = Raw::new(2, 0);
    same.tensor("a", &[16], 0, 0).tensor("a", &[4], 0, 64);
    expect(same.padded(), &["tensor a appears twice"]);
}

/// The message of a tiny model after a change.
fn message(change: impl Fn(&mut Gguf)) -> String {
    let mut file = Gguf::moe();
    change(&mut file);
    refused(file.open())
}

#[test]
fn configuration_values() {
    let set = |key: &str, value: Value| message(|file| file.set(&format!("lfm2moe.{key}"), value.clone()));
    for (key, value, expected) in [
        ("embedding_length", Value::U32(0), "hidden size: expected 1 to"),
        ("embedding_length", Value::U32(u32::MAX), "4294967295"),
        ("embedding_length", Value::U64(u64::MAX), "18446744073709551615"),
        ("embedding_length", Value::I32(-8), "non-negative integer"),
        (
            "embedding_length",
            Value::String("8".to_owned()),
            "expected a non-negative integer, found string 8",
        ),
        ("block_count", Value::U32(0), "block_count: expected 1 to"),
        ("block_count", Value::U32(1_000_000), "block_count"),
        ("block_count", Value::U32(3), "expected one entry for each of 3 layers, found 2"),
        ("attention.head_count", Value::U32(0), "key_length"),
        ("attention.head_count", Value::U32(3), "key_length"),
        ("attention.head_count_kv", Value::Array(Array::I32(vec![0, -1])), "non-negative integers"),
        ("attention.head_count_kv", Value::Array(Array::String(vec![])), "head_count_kv: expected 1 to"),
        ("attention.head_count_kv", Value::Array(Array::I32(vec![1, 2])), "found 1 and 2"),
        (
            "attention.head_count_kv",
            Value::Array(Array::I32(vec![0, 3])),
            "key-value heads: expected a divisor",
        ),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(f32::NAN),
            "norm epsilon: expected a positive number",
        ),
        ("rope.freq_base", Value::F32(f32::INFINITY), "rope theta"),
        ("rope.freq_base", Value::F32(-1.0), "rope theta"),
        ("rope.dimension_count", Value::U32(2), "rope.dimension_count is 2, expected 4"),
        ("rope.scaling.type", Value::String("yarn".to_owned()), "rope.scaling.type \"yarn\""),
        ("context_length", Value::U32(0), "context length"),
        ("shortconv.l_cache", Value::U32(0), "taps"),
        ("shortconv.l_cache", Value::U32(4), "blk.0.shortconv.conv.weight has shape [8, 3], expected [8, 4]"),
        ("vocab_size", Value::U32(11), "token_embd.weight has shape [10, 8], expected [11, 8]"),
        ("expert_count", Value::U32(0), "number of experts"),
        ("expert_count", Value::U32(5), "blk.1.ffn_gate_inp.weight has shape [4, 8], expected [5, 8]"),
        ("expert_used_count", Value::U32(5), "experts per token: expected 1 to 4, found 5"),
        ("expert_used_count", Value::U32(0), "experts per token"),
        ("expert_gating_func", Value::U32(1), "expert_gating_func is 1, expected 2"),
        ("expert_shared_count", Value::U32(1), "expert_shared_count is 1, expected 0"),
        ("leading_dense_block_count", Value::U32(2), "blk.1.ffn_gate.weight is missing"),
        ("attention.causal", Value::Bool(false), "bidirectional"),
        ("attention.sliding_window", Value::U32(256), "sliding_window is 256"),
    ] {
        let message = set(key, value);
        assert!(message.contains(expected), "{key}: {message:?} should contain {expected:?}");
    }
    for key in ["block_count", "embedding_length", "attention.head_count", "rope.freq_base", "expert_count"] {
        let message = message(|file| file.remove(&format!("lfm2moe.{key}")));
        assert!(message.contains(&format!("lfm2moe.{key}: the key is required")), "{message}");
    }
    let message = message(|file| file.set("general.architecture", Value::String("llama".to_owned())));
    assert!(message.contains("\"llama\""), "{message}");
}

#[test]
fn tensors_against_the_configuration() {
    for name in
        ["token_embd.weight", "token_embd_norm.weight", "blk.1.attn_k.weight", "blk.1.ffn_down_exps.weight"]
    {
        let message = message(|file| file.drop_tensor(name));
        assert!(message.contains(&format!("tensor {name} is missing")), "{message}");
    }
    let reshaped = message(|file| {
        let tensor =
            file.tensors.iter_mut().find(|(tensor, _)| tensor.name == "blk.1.attn_q.weight").unwrap();
        tensor.0.shape = vec![16, 4];
    });
    assert!(reshaped.contains("blk.1.attn_q.weight has shape [16, 4], expected [8, 8]"), "{reshaped}");
    let reshaped = message(|file| {
        let tensor =
            file.tensors.iter_mut().find(|(tensor, _)| tensor.name == "blk.1.attn_norm.weight").unwrap();
        tensor.0.shape = vec![2, 4];
    });
    assert!(reshaped.contains("blk.1.attn_norm.weight has shape [2, 4], expected [8]"), "{reshaped}");
}

#[test]
fn vocabulary() {
    let texts = |n: usize| Value::Array(Array::String(vec!["x".to_owned(); n]));
    for (key, value, expected) in [
        ("tokens", texts(11), "tokenizer.ggml.tokens: expected 1 to 10 tokens"),
        ("tokens", texts(0), "found 0"),
        ("tokens", texts(9), "tokenizer.ggml.token_type: expected one entry for each of 9 tokens, found 10"),
        ("tokens", Value::U32(1), "expected an array of strings"),
        ("merges", Value::Array(Array::I32(vec![1])), "expected an array of strings"),
        ("model", Value::String("bert".to_owned()), "tokenizer.ggml.model \"bert\""),
    ] {
        let message = message(|file| file.set(&format!("tokenizer.ggml.{key}"), value.clone()));
        assert!(message.contains(expected), "{key}: {message:?} should contain {expected:?}");
    }
}
