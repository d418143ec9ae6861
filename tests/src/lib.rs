//! Shared parts of the tests in `tests/`: the oracle checkpoints, steps without an engine, comparisons.

#![forbid(unsafe_code)]

pub mod local_hub;
pub mod synthetic;

use std::path::PathBuf;
use std::sync::Arc;

use undine_core::{
    Batch, BatchSequence, BlockId, Capacity, DType, Executor, OutputKind, OutputRow, Slot, StateSource,
    TokenId,
};
use undine_cpu::{CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;
use undine_weights::Checkpoint;

/// Where the test data lies.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data")).join(path)
}

/// Opens and binds one of the oracle checkpoints.
pub fn model(path: &std::path::Path) -> Arc<Model> {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Arc::new(Model::bind(Arc::new(checkpoint)))
}

/// What every test reserves.
pub fn capacity(model: &Model) -> Capacity {
    Capacity {
        blocks: 128,
        block_size: undine_cpu::BLOCK_SIZE,
        slots: 16,
        snapshots: 16,
        replay: model.config().replay() as u32,
        rows: 512,
        outputs: 512,
        vocab: model.config().vocab as u32,
        hidden: model.config().hidden as u32,
        steps_in_flight: 1,
    }
}

/// CPU options with the same reservation.
pub fn cpu_options(isa: Isa, threads: usize, kv: KvType) -> CpuOptions {
    CpuOptions {
        threads,
        blocks: 128,
        slots: 16,
        snapshots: 16,
        rows: 512,
        outputs: 512,
        kv,
        huge_pages: false,
        isa,
    }
}

/// A CPU executor on the best instruction set with f32 keys and values.
pub fn cpu(model: &Arc<Model>, threads: usize) -> CpuExecutor {
    CpuExecutor::new(Arc::clone(model), cpu_options(Isa::detect(), threads, KvType::F32))
        .expect("the shape is supported")
}

/// One part of one sequence in a step.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Which sequence: it has slot `sequence` and blocks `8 sequence ..`.
    pub sequence: u32,
    /// Position of the first token.
    pub start: u32,
    /// The tokens.
    pub tokens: &'a [TokenId],
}

/// Blocks each test sequence owns.
const BLOCKS: u32 = 8;

/// A batch of these parts that asks for the logits of every row.
pub fn batch(parts: &[Part]) -> Batch {
    let mut batch = Batch::default();
    for part in parts {
        let first = batch.tokens.len() as u32;
        batch.tokens.extend_from_slice(part.tokens);
        let table = batch.block_tables.len() as u32;
        // Descending, so that a table that is read in the wrong order shows.
        batch.block_tables.extend((0..BLOCKS).rev().map(|block| BlockId(part.sequence * BLOCKS + block)));
        batch.sequences.push(BatchSequence {
            rows: first..batch.tokens.len() as u32,
            start: part.start,
            slot: Slot(part.sequence),
            state: StateSource::carried(part.start),
            cached_rows: 0,
            blocks: table..table + BLOCKS,
        });
    }
    batch.outputs =
        (0..batch.tokens.len() as u32).map(|row| OutputRow { row, kind: OutputKind::Logits }).collect();
    batch
}

/// The logits of every row.
pub fn logits(executor: &mut dyn Executor, parts: &[Part]) -> Vec<Vec<f32>> {
    let ticket = executor.submit(&batch(parts)).expect("the device works");
    let output = executor.try_collect(ticket).expect("the device works").expect("the CPU finishes at once");
    output.rows.into_iter().map(|row| row.logits).collect()
}

/// Tensors of an `expected.safetensors`.
pub struct Expected(Vec<u8>);

impl Expected {
    /// Reads `expected.safetensors` of an oracle folder.
    pub fn open(path: &std::path::Path) -> Self {
        Self(std::fs::read(path.join("expected.safetensors")).expect("test data is there"))
    }

    fn bytes(&self, name: &str) -> (String, &[u8]) {
        let header = u64::from_le_bytes(self.0[..8].try_into().expect("eight bytes")) as usize;
        let json: serde_json::Value = serde_json::from_slice(&self.0[8..8 + header]).expect("a JSON header");
        let range = json[name]["data_offsets"].as_array().unwrap_or_else(|| panic!("no tensor {name}"));
        let at = |i: usize| 8 + header + range[i].as_u64().expect("an offset") as usize;
        (json[name]["dtype"].as_str().expect("a type").to_owned(), &self.0[at(0)..at(1)])
    }

    /// A tensor of bytes.
    pub fn bytes_of(&self, name: &str) -> Vec<u8> {
        let (dtype, bytes) = self.bytes(name);
        assert_eq!(dtype, "U8");
        bytes.to_vec()
    }

    /// An F32 tensor.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, bytes) = self.bytes(name);
        assert_eq!(dtype, "F32");
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    }

    /// An integer tensor as token ids.
    pub fn tokens(&self, name: &str) -> Vec<TokenId> {
        let (dtype, bytes) = self.bytes(name);
        match dtype.as_str() {
            "I64" => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")) as TokenId)
                .collect(),
            "I32" => bytes
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes(b.try_into().expect("four bytes")) as TokenId)
                .collect(),
            other => panic!("{name} is {other}"),
        }
    }
}

/// The largest difference of two equally long slices.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) })
}

/// The demo model that the program carries.
pub fn demo() -> PathBuf {
    data("../../demo/undine-demo.gguf")
}

/// The mixes of types in which the demo model is compared with llama.cpp.
pub const PEER_TYPES: [&str; 4] = ["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"];

/// Writes the demo model with matrices of the named mix. Always the same bytes.
pub fn quantized_demo(name: &str, path: &std::path::Path) {
    let checkpoint = Checkpoint::open(&demo()).expect("the demo model opens");
    let dtype_of = |tensor: &str, _: &undine_weights::Weight| match name {
        "Q4_0" if tensor.starts_with("token_embd") => DType::Q6_K,
        "Q4_K_M" if tensor.starts_with("token_embd") || tensor.contains("ffn_down") => DType::Q6_K,
        "Q4_K_M" => DType::Q4_K,
        name => DType::parse(name).expect("a type's name"),
    };
    undine_weights::write_gguf(&checkpoint, dtype_of, path).expect("the file can be written");
}
