//! The demo model in four types against llama.cpp on the same files: its own 200 greedy tokens are fed to both.
//! `tests/data/llama_cpp/reference.py` makes the reference.
#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has failed")]

use serde_json::Value;
use undine_core::TokenId;
use undine_core::sampling::argmax;
use undine_tests::{Part, cpu, data, logits, model, quantized_demo};

/// Per type: how many of 200 best tokens must agree, and how far the mean of |log-probability difference| over the peer's
/// five best tokens may go. Both engines round activations to 8 bits, in different groups.
const LIMITS: [(&str, usize, f32); 4] =
    [("Q8_0", 198, 0.05), ("Q4_0", 194, 0.1), ("Q4_K_M", 194, 0.1), ("Q6_K", 196, 0.05)];

fn tokens(value: &Value) -> Vec<TokenId> {
    value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as TokenId).collect()
}

#[test]
fn the_same_files_give_the_same_tokens() {
    let directory = tempfile::tempdir().unwrap();
    for (name, agree_min, difference_max) in LIMITS {
        let file = directory.path().join("demo.gguf");
        quantized_demo(name, &file);
        let json = std::fs::read(data("llama_cpp").join(format!("{name}.json"))).unwrap();
        let reference: Value = serde_json::from_slice(&json).unwrap();
        let steps = reference["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 200);
        let prompt = tokens(&reference["prompt"]);
        let tops: Vec<Vec<TokenId>> = steps.iter().map(|step| tokens(&step["top"])).collect();
        let fed: Vec<TokenId> = prompt.iter().copied().chain(tops.iter().map(|top| top[0])).collect();
        let rows = logits(&mut cpu(&model(&file), 2), &[Part { sequence: 0, start: 0, tokens: &fed }]);
        let (mut agree, mut total, mut worst) = (0, 0.0f32, 0.0f32);
        for ((row, top), step) in rows[prompt.len() - 1..].iter().zip(&tops).zip(steps) {
            agree += usize::from(argmax(row) == top[0]);
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let norm = max + row.iter().map(|v| (v - max).exp()).sum::<f32>().ln();
            for (token, logprob) in top.iter().zip(step["logprobs"].as_array().unwrap()) {
                let difference = (row[*token as usize] - norm - logprob.as_f64().unwrap() as f32).abs();
                total += difference;
                worst = worst.max(difference);
            }
        }
        let mean = total / 1000.0;
        println!("{name}: {agree} of 200 best tokens agree, |difference| mean {mean:.4}, worst {worst:.3}");
        assert!(agree >= agree_min, "{name}: {agree} of 200 best tokens agree");
        assert!(mean <= difference_max, "{name}: log-probabilities differ by {mean} on average");
    }
}
