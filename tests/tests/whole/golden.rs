//! The oracle checkpoints against the outputs transformers gave for them (float32, CPU), on both backends and
//! from every container: the safetensors folder, and GGUF files written from it.

use std::path::Path;
use std::sync::Arc;

use undine_core::sampling::argmax;
use undine_core::{DType, Executor, TokenId};
use undine_cpu::{CpuExecutor, Isa, KvType};
use undine_model::Oracle;
use undine_tests::{Expected, Part, batch, capacity, cpu, cpu_options, data, logits, max_difference, model};
use undine_weights::{Checkpoint, write_gguf};

/// Absolute tolerance on logits whose standard deviation is 4 to 5.
const TOLERANCE: f32 = 2e-3;

fn check_logits(executor: &mut dyn Executor, expected: &Expected, what: &str) {
    let tokens = expected.tokens("input_ids");
    let found = logits(executor, &[Part { sequence: 1, start: 0, tokens: &tokens }]).concat();
    let difference = max_difference(&found, &expected.floats("logits"));
    assert!(difference < TOLERANCE, "{what}: logits differ by {difference}");
}

fn check_greedy(executor: &mut dyn Executor, expected: &Expected, what: &str) {
    let mut tokens: Vec<TokenId> = expected.tokens("input_ids");
    let wanted = expected.tokens("generated_ids");
    let last = |executor: &mut dyn Executor, start: usize, tokens: &[TokenId]| {
        let part = Part { sequence: 2, start: start as u32, tokens };
        argmax(logits(executor, &[part]).last().expect("at least one row"))
    };
    let mut next = last(executor, 0, &tokens);
    for &token in &wanted {
        assert_eq!(next, token, "{what}: token {} of the answer", tokens.len());
        tokens.push(next);
        next = last(executor, tokens.len() - 1, &[next]);
    }
}

#[test]
fn the_oracle_agrees_layer_by_layer() {
    for case in ["dense", "moe"] {
        let folder = data("oracle").join(case);
        let (expected, model) = (Expected::open(&folder), model(&folder));
        let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
        let tokens = expected.tokens("input_ids");
        oracle.submit(&batch(&[Part { sequence: 0, start: 0, tokens: &tokens }])).unwrap();
        let layers = model.config().layers.len();
        for layer in 0..=layers {
            // Two additions to the residual stream a layer; the last hidden state is after the final norm.
            let found = &oracle.trace[if layer < layers { 2 * layer } else { 2 * layers + 1 }];
            let difference = max_difference(found, &expected.floats(&format!("hidden.{layer}")));
            assert!(difference < TOLERANCE, "{case}: hidden state {layer} differs by {difference}");
        }
        check_logits(&mut oracle, &expected, case);
        check_greedy(&mut oracle, &expected, case);
    }
}

#[test]
fn the_cpu_agrees_on_every_instruction_set() {
    for case in ["dense", "moe"] {
        let folder = data("oracle").join(case);
        let (expected, model) = (Expected::open(&folder), model(&folder));
        for isa in Isa::available() {
            // Plain Rust takes most of the time; that its bits do not depend on threads is for same_tokens to
            // say.
            let portable = matches!(isa, Isa::Portable(_));
            for threads in if portable { 2..=2 } else { 1..=3 } {
                let options = cpu_options(isa, threads, KvType::F32);
                let mut cpu = CpuExecutor::new(Arc::clone(&model), options).unwrap();
                let what = format!("{case} on {} with {threads} threads", isa.name());
                check_logits(&mut cpu, &expected, &what);
                if threads == 2 {
                    check_greedy(&mut cpu, &expected, &what);
                }
            }
        }
    }
}

#[test]
fn gguf_files_written_from_the_folder_agree() {
    for case in ["dense", "moe"] {
        let folder = data("oracle").join(case);
        let expected = Expected::open(&folder);
        let directory = tempfile::tempdir().unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let file = directory.path().join(format!("{case}-{dtype}.gguf"));
            convert(&folder, dtype, &file);
            let mut cpu = cpu(&model(&file), 2);
            check_logits(&mut cpu, &expected, &format!("{case} as {dtype} GGUF"));
            check_greedy(&mut cpu, &expected, &format!("{case} as {dtype} GGUF"));
        }
    }
}

fn convert(folder: &Path, dtype: DType, file: &Path) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    write_gguf(&checkpoint, |_, _| dtype, file).unwrap();
}
