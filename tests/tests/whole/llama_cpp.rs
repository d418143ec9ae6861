//! The demo model in four types against llama.cpp on the same files: its own 200 greedy tokens are fed to
//! both. `tests/data/llama_cpp/reference.py` makes the reference.
//!
//! Both engines round activations to 8 bits, in groups of their own, so they differ from each other. Who is
//! right is decided by the same weights decoded to f32, with nothing rounded.

use std::path::Path;

use serde_json::Value;
use undine_core::sampling::argmax;
use undine_core::{DType, TokenId};
use undine_tests::{Part, cpu, data, logits, model, quantized_demo};
use undine_weights::Checkpoint;

/// How far the mean of |log-probability difference| to exact products may go, over the peer's five best
/// tokens.
const DIFFERENCE_MAX: f32 = 0.05;
/// How many of 200 best tokens must be those of exact products.
const AGREE_MIN: usize = 196;
/// How much further from exact products than llama.cpp the mean may be.
const SLACK: f32 = 1.2;

fn tokens(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as TokenId).collect()
}

/// Logits after each of the last `count` of the tokens.
fn rows(file: &Path, fed: &[TokenId], count: usize) -> Vec<Vec<f32>> {
    let mut rows = logits(&mut cpu(&model(file), 2), &[Part { sequence: 0, start: 0, tokens: fed }]);
    rows.split_off(fed.len() - count)
}

fn logprobs(row: &[f32], tokens: &[TokenId]) -> Vec<f32> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let norm = max + row.iter().map(|v| (v - max).exp()).sum::<f32>().ln();
    tokens.iter().map(|&token| row[token as usize] - norm).collect()
}

#[test]
fn the_same_files_give_the_same_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let (file, decoded) = (directory.path().join("demo.gguf"), directory.path().join("decoded.gguf"));
    for name in ["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"] {
        quantized_demo(name, &file);
        undine_weights::write_gguf(&Checkpoint::open(&file).unwrap(), |_, _| DType::F32, &decoded).unwrap();
        let json = std::fs::read(data("llama_cpp").join(format!("{name}.json"))).unwrap();
        let reference: Value = serde_json::from_slice(&json).unwrap();
        let steps = reference["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 200);
        let tops: Vec<Vec<TokenId>> = steps.iter().map(|step| tokens(&step["top"])).collect();
        let mut fed = tokens(&reference["prompt"]);
        fed.extend(tops.iter().map(|top| top[0]));
        fed.pop();
        let (ours, exact) = (rows(&file, &fed, 200), rows(&decoded, &fed, 200));
        let (mut agree, mut peer_agrees, mut same) = (0, 0, 0);
        let (mut difference, mut peer_difference) = (0.0, 0.0);
        for (((ours, exact), top), step) in ours.iter().zip(&exact).zip(&tops).zip(steps) {
            agree += usize::from(argmax(ours) == argmax(exact));
            peer_agrees += usize::from(top[0] == argmax(exact));
            same += usize::from(argmax(ours) == top[0]);
            let (ours, exact) = (logprobs(ours, top), logprobs(exact, top));
            for ((ours, exact), peer) in ours.iter().zip(&exact).zip(step["logprobs"].as_array().unwrap()) {
                difference += (ours - exact).abs() / 1000.0;
                peer_difference += (peer.as_f64().unwrap() as f32 - exact).abs() / 1000.0;
            }
        }
        println!(
            "{name}: of 200 best tokens {agree} are those of exact products, {peer_agrees} of llama.cpp's; \
             {same} are the same; mean |difference| {difference:.4}, llama.cpp's {peer_difference:.4}"
        );
        assert!(
            agree >= AGREE_MIN.max(peer_agrees.saturating_sub(2)),
            "{name}: {agree}, llama.cpp {peer_agrees}"
        );
        assert!(difference <= DIFFERENCE_MAX, "{name}: log-probabilities differ by {difference} on average");
        assert!(difference <= SLACK * peer_difference, "{name}: {difference}, llama.cpp {peer_difference}");
    }
}
