//! `undine eval` against the same numbers worked out from the oracle's logits, and its refusals.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use undine_core::sampling::argmax;
use undine_core::{DType, TokenId};
use undine_model::Oracle;
use undine_tests::{Part, capacity, logits, model};
use undine_text::Tokenizer;
use undine_weights::{Checkpoint, write_gguf};

use crate::common::{dialogues, json, models, oracle, run, stderr, stdout, text};

/// Tokens of a window of the oracle's tests.
const CONTEXT: usize = 24;
/// Windows of them.
const WINDOWS: usize = 3;

/// A text of the repository that does not change.
fn questions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/questions.jsonl")
}

/// Log-probabilities of every token after each scored position, with the token that follows, in 64 bits.
fn scored(checkpoint: &Path) -> Vec<(Vec<f64>, TokenId)> {
    let model = model(checkpoint);
    let files = model.checkpoint();
    let tokenizer =
        Tokenizer::new(files.vocabulary(), files.special_tokens()).expect("usable").expect("there");
    let content = std::fs::read_to_string(questions()).expect("text");
    let tokens = tokenizer.encode(&content, tokenizer.default_bos());
    let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
    let mut rows = Vec::new();
    for (i, window) in tokens.chunks_exact(CONTEXT).take(WINDOWS).enumerate() {
        let mut fed = window.to_vec();
        if tokenizer.default_bos() == undine_text::Bos::Add {
            fed[0] = tokenizer.bos().expect("a token to begin with");
        }
        let found = logits(&mut oracle, &[Part { sequence: i as u32, start: 0, tokens: &fed }]);
        for position in CONTEXT / 2..CONTEXT - 1 {
            let row: Vec<f64> = found[position].iter().map(|&logit| f64::from(logit)).collect();
            let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
            rows.push((row.iter().map(|logit| logit - sum.ln()).collect(), window[position + 1]));
        }
    }
    rows
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn close(found: &Value, expected: f64, relative: f64, what: &str) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{what} is a number"));
    assert!((found - expected).abs() <= relative * expected.abs(), "{what}: {found}, expected {expected}");
}

/// The dense oracle with its matrices rounded to Q4_0 and written in F32: another model, whose products are exact.
fn rounded() -> PathBuf {
    let (quantized, path) = (models().place("eval-q4_0.gguf"), models().place("eval-rounded.gguf"));
    let base = Checkpoint::open(&oracle("dense")).expect("opens");
    write_gguf(&base, |_, _| DType::Q4_0, &quantized).expect("writes");
    write_gguf(&Checkpoint::open(&quantized).expect("opens"), |_, _| DType::F32, &path).expect("writes");
    path
}

#[test]
fn eval_agrees_with_the_oracle() {
    let (reference, other) = (oracle("dense"), rounded());
    let (ours, theirs) = (scored(&other), scored(&reference));
    let questions = questions();
    let (context, chunks) = (CONTEXT.to_string(), WINDOWS.to_string());
    let words = ["eval", text(&other), "--against", text(&reference), "--text", text(&questions)];
    let rest = ["--context", &context, "--chunks", &chunks, "--json"];
    let found = json(&run(&[&words[..], &rest].concat()));
    let nll = |rows: &[(Vec<f64>, TokenId)]| mean(rows.iter().map(|(row, token)| -row[*token as usize]));
    assert_eq!(found["predictions"], WINDOWS * (CONTEXT - 1 - CONTEXT / 2));
    close(&found["perplexity"]["value"], nll(&ours).exp(), 1e-4, "perplexity");
    close(&found["reference_perplexity"]["value"], nll(&theirs).exp(), 1e-4, "reference");
    let pairs = || ours.iter().zip(&theirs).map(|((p, token), (q, _))| (p, q, *token as usize));
    let kl: Vec<f64> =
        pairs().map(|(p, q, _)| q.iter().zip(p).map(|(q, p)| q.exp() * (q - p)).sum()).collect();
    close(&found["kl"]["mean"]["value"], mean(kl.iter().copied()), 1e-3, "mean KL");
    close(&found["kl"]["max"], kl.iter().copied().fold(0.0, f64::max), 1e-3, "largest KL");
    let narrow = |row: &[f64]| argmax(&row.iter().map(|&x| x as f32).collect::<Vec<_>>());
    let same = mean(pairs().map(|(p, q, _)| f64::from(u8::from(narrow(p) == narrow(q)))));
    close(&found["same_top"]["value"], same, 1e-9, "same best token");
    let delta_p: Vec<f64> = pairs().map(|(p, q, token)| p[token].exp() - q[token].exp()).collect();
    close(&found["delta_p"]["mean"]["value"], mean(delta_p.iter().copied()), 1e-2, "mean dp");
    close(&found["delta_p"]["rms"], mean(delta_p.iter().map(|d| d * d)).sqrt(), 1e-3, "RMS dp");
    assert!(mean(kl.into_iter()) > 0.01, "the models differ enough to tell");
    // Perplexity alone, in other batches, is the same to the bit.
    let alone = ["eval", text(&other), "--text", text(&questions), "--batch", "1"];
    let alone = json(&run(&[&alone[..], &rest].concat()));
    assert_eq!(alone["perplexity"], found["perplexity"]);
    assert_eq!(alone["kl"], Value::Null);
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let (synthetic, questions) = (models().synthetic(), questions());
    let words = ["eval", text(&synthetic), "--against", text(&synthetic), "-f", text(&questions)];
    let found = json(&run(&[&words[..], &["-c", "16", "--chunks", "5", "--json"]].concat()));
    for (field, expected) in [
        (&found["kl"]["mean"]["value"], 0.0),
        (&found["kl"]["max"], 0.0),
        (&found["delta_p"]["max_abs"], 0.0),
        (&found["logit_change_max"], 0.0),
        (&found["same_top"]["value"], 1.0),
        (&found["perplexity_ratio"]["value"], 1.0),
    ] {
        assert_eq!(field.as_f64(), Some(expected), "{found}");
    }
}

#[test]
fn eval_of_the_demo_model() {
    let dialogues = dialogues("dialogues-eval.txt");
    let words = ["eval", "--text", text(&dialogues), "-c", "128"];
    let found = json(&run(&[&words[..], &["--json"]].concat()));
    close(&found["perplexity"]["value"], 17.135_039, 1e-6, "perplexity of the demo");
    let table = stdout(&run(&words));
    for part in ["undine-demo", "windows of 128", "perplexity", "tokens/s"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains("KL"), "{table}");
}

#[test]
fn eval_refuses_what_cannot_be_measured() {
    let model = models().base();
    let file = |name: &str, content: &[u8]| {
        let path = models().place(name);
        std::fs::write(&path, content).expect("writes");
        path
    };
    let (empty, short) = (file("empty.txt", b""), file("short.txt", b"a b c"));
    let (binary, questions) = (file("binary.txt", b"ab\xff\xfe"), questions());
    let synthetic = models().synthetic();
    for (words, code, expected) in [
        (&["--text", text(&empty)][..], 1, "tokens: expected at least one window of 512"),
        (&["--text", text(&short)], 1, "take a longer text or a smaller --context"),
        (&["--text", text(&binary)], 1, "is not UTF-8 text"),
        (&["--text", "/no/such/file"], 1, "/no/such/file"),
        (&["--text", text(&questions), "-c", "200000"], 1, "model's context of 128000"),
        (&["--text", text(&questions), "-c", "2"], 2, "at least 4"),
        (&["--text", text(&questions), "--chunks", "0"], 2, "1.."),
        (&["--text", text(&questions), "--against", text(&synthetic), "-c", "16"], 1, "same tokenizer"),
        (&[], 2, "--text"),
    ] {
        let output = run(&[&["eval", text(&model)], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
}
