//! The promise "same tokens, always": the logits of a sequence are equal to the bit however it is batched and
//! cut, on every instruction set and with any number of threads, for weights of every type.

use std::path::Path;
use std::sync::Arc;

use undine_core::{DType, LayerKind, TokenId};
use undine_cpu::{CpuExecutor, Isa, KvType};
use undine_model::Model;
use undine_tests::synthetic::{Has, Shape};
use undine_tests::{Part, cpu_options, data, logits, model};
use undine_weights::{Checkpoint, write_gguf};

/// Positions each test sequence has: more than two pages of the cache, more than the largest chunk, and no
/// multiple of either.
const LENGTH: usize = 70;
/// Sequences that run together.
const SEQUENCES: u32 = 8;

fn tokens(sequence: u32) -> Vec<TokenId> {
    (0..LENGTH as u32).map(|i| 16 + (i * i * 7 + i * 31 + sequence * 577) % 1000).collect()
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}

fn alone(executor: &mut CpuExecutor, sequence: u32) -> Vec<Vec<f32>> {
    logits(executor, &[Part { sequence, start: 0, tokens: &tokens(sequence) }])
}

/// The sequences together, `chunk` tokens of each per step.
fn together(executor: &mut CpuExecutor, sequences: std::ops::Range<u32>, chunk: usize) -> Vec<Vec<Vec<f32>>> {
    let tokens: Vec<Vec<TokenId>> = sequences.clone().map(tokens).collect();
    let mut rows: Vec<Vec<Vec<f32>>> = vec![Vec::new(); tokens.len()];
    for start in (0..LENGTH).step_by(chunk) {
        let end = (start + chunk).min(LENGTH);
        let parts: Vec<Part> = sequences
            .clone()
            .zip(&tokens)
            .map(|(sequence, tokens)| Part { sequence, start: start as u32, tokens: &tokens[start..end] })
            .collect();
        let mut found = logits(executor, &parts).into_iter();
        for rows in &mut rows {
            rows.extend(found.by_ref().take(end - start));
        }
    }
    rows
}

fn check(model: &Arc<Model>, isa: Isa, kv: KvType, what: &str) -> Vec<Vec<f32>> {
    let executor = |threads| CpuExecutor::new(Arc::clone(model), cpu_options(isa, threads, kv)).unwrap();
    let mut cpu = executor(2);
    let expected: Vec<_> = (0..SEQUENCES).map(|sequence| alone(&mut cpu, sequence)).collect();
    let wanted: Vec<_> = expected.iter().map(|rows| bits(rows)).collect();
    assert_ne!(wanted[0], wanted[1], "{what}: the sequences differ");
    for chunk in [1, 7, 64] {
        let found = together(&mut executor(1), 0..1, chunk);
        assert!(bits(&found[0]) == wanted[0], "{what}: prefill in chunks of {chunk}");
    }
    // One row of three sequences meets the kernels for few rows, the others those for many.
    for (sequences, chunk) in [(SEQUENCES, 1), (SEQUENCES, 7), (SEQUENCES, 64), (3, 1)] {
        for (found, wanted) in together(&mut cpu, 0..sequences, chunk).iter().zip(&wanted) {
            assert!(bits(found) == *wanted, "{what}: {sequences} sequences in chunks of {chunk}");
        }
    }
    expected.into_iter().next().unwrap()
}

fn converted(case: &str, dtype: DType) -> Arc<Model> {
    if !dtype.is_written() {
        return random(dtype);
    }
    let checkpoint = Checkpoint::open(&data("oracle").join(case)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.gguf");
    let fits = |cols: usize| cols.is_multiple_of(dtype.block_elems());
    write_gguf(&checkpoint, |_, weight| if fits(weight.cols) { dtype } else { DType::Q8_0 }, &file).unwrap();
    model(Path::new(&file))
}

/// A dense model of random blocks, for types that nothing is written in.
fn random(dtype: DType) -> Arc<Model> {
    let shape = Shape {
        dtype,
        hidden: 256,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        width: 512,
        vocab: 1024,
        taps: 3,
        layers: vec![LayerKind::Conv, LayerKind::FullAttention],
        conv_bias: Has::No,
        head: Has::No,
        moe: None,
        expert_bias: Has::No,
    };
    shape.model()
}

#[test]
fn dense_of_every_type() {
    for &dtype in DType::ALL {
        // The type of keys and values matters to attention alone, so each is tried with some of the weights.
        let kv = if dtype.is_float() { KvType::F32 } else { KvType::F16 };
        check(&converted("dense", dtype), Isa::detect(), kv, &format!("dense {dtype} {kv:?}"));
    }
}

#[test]
fn mixture_of_experts() {
    // Its widths are not multiples of 256, so only formats with blocks of 32 fit.
    for dtype in [DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q5_1, DType::IQ4_NL] {
        check(&converted("moe", dtype), Isa::detect(), KvType::F32, &format!("moe {dtype}"));
    }
}

#[test]
fn instruction_sets_agree_to_the_bit() {
    for &dtype in DType::ALL {
        let model = converted("dense", dtype);
        let tokens = &tokens(0)[..9];
        let mut wanted = None;
        for isa in Isa::available() {
            let mut cpu = CpuExecutor::new(Arc::clone(&model), cpu_options(isa, 1, KvType::F16)).unwrap();
            let all = logits(&mut cpu, &[Part { sequence: 0, start: 0, tokens }]);
            let one = logits(&mut cpu, &[Part { sequence: 1, start: 0, tokens: &tokens[..1] }]);
            assert!(bits(&one)[0] == bits(&all)[0], "{dtype} on {}: one row and nine", isa.name());
            let wanted = wanted.get_or_insert(bits(&all));
            assert!(
                bits(&all) == *wanted,
                "{dtype} on {}: not the bits of {}",
                isa.name(),
                Isa::detect().name()
            );
        }
    }
}
