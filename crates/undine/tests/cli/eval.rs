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

/// The text as a checkpoint reads it.
fn tokens(checkpoint: &Checkpoint) -> (Tokenizer, Vec<TokenId>) {
    let tokenizer =
        Tokenizer::new(checkpoint.vocabulary(), checkpoint.special_tokens()).expect("usable").expect("there");
    let content = std::fs::read_to_string(questions()).expect("text");
    let tokens = tokenizer.encode(&content, tokenizer.default_bos());
    (tokenizer, tokens)
}

/// Log-probabilities of every token after each scored position, with the token that follows, in 64 bits.
fn scored(checkpoint: &Path) -> Vec<(Vec<f64>, TokenId)> {
    let model = model(checkpoint);
    let (tokenizer, tokens) = tokens(model.checkpoint());
    let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
    let mut rows = Vec::new();
    for (i, window) in tokens.chunks_exact(CONTEXT).take(WINDOWS).enumerate() {
        let mut fed = window.to_vec();
        if tokenizer.default_bos() == undine_text::Bos::Add {
            fed[0] = tokenizer.bos().expect("a token to begin with");
        }
        let found = logits(&mut oracle, &[Part { sequence: i as u32, start: 0, tokens: &fed }]);
        for position in CONTEXT / 2..CONTEXT - 1 {
            rows.push((log_probs(&found[position]), window[position + 1]));
        }
    }
    rows
}

fn log_probs(logits: &[f32]) -> Vec<f64> {
    let row: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
    row.iter().map(|logit| logit - sum.ln()).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn close(found: &Value, expected: f64, relative: f64, what: &str) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{what} is a number"));
    assert!((found - expected).abs() <= relative * expected.abs(), "{what}: {found}, expected {expected}");
}

/// The dense oracle with its matrices rounded to Q4_0 and written in F32: another model, whose products are
/// exact.
fn rounded(name: &str) -> PathBuf {
    let (quantized, path) =
        (models().place(&format!("{name}-q4_0.gguf")), models().place(&format!("{name}.gguf")));
    let base = Checkpoint::open(&oracle("dense")).expect("opens");
    write_gguf(&base, |_, _| DType::Q4_0, &quantized).expect("writes");
    write_gguf(&Checkpoint::open(&quantized).expect("opens"), |_, _| DType::F32, &path).expect("writes");
    path
}

#[test]
fn eval_agrees_with_the_oracle() {
    let (reference, other) = (oracle("dense"), rounded("eval-rounded"));
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

/// The arguments of the oracle's tests.
fn args(text: &str) -> Vec<String> {
    let (context, chunks) = (CONTEXT.to_string(), WINDOWS.to_string());
    ["--text", text, "--context", &context, "--chunks", &chunks, "--json"].map(str::to_owned).into()
}

/// Runs `undine eval` on a model with the arguments of the oracle's tests, and more.
fn eval(model: &Path, more: &[&str]) -> std::process::Output {
    let args = args(text(&questions()));
    let rest: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    run(&[&["eval", text(model)], &rest[..]].concat())
}

#[test]
fn saved_logits_have_llama_cpps_form() {
    let reference = oracle("dense");
    let file = models().place("reference.logits");
    let output = eval(&reference, &["--save-logits", text(&file)]);
    assert!(stderr(&output).contains("for --logits"), "{}", stderr(&output));
    // The layout, as llama.cpp's perplexity tool reads it.
    let bytes = std::fs::read(&file).expect("written");
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let float = |at: usize| f32::from_bits(number(at));
    assert_eq!(&bytes[..8], b"_logits_");
    let vocab = 1024;
    assert_eq!([number(8), number(12), number(16)], [CONTEXT as u32, vocab as u32, WINDOWS as u32]);
    let (_, expected) = tokens(&Checkpoint::open(&reference).expect("opens"));
    let found: Vec<u32> = (0..CONTEXT * WINDOWS).map(|i| number(20 + 4 * i)).collect();
    assert_eq!(found, expected[..CONTEXT * WINDOWS], "tokens as they stand in the text");
    let (rows, row_bytes) = (20 + 4 * CONTEXT * WINDOWS, 2 * (vocab + 4));
    let exact = scored(&reference);
    assert_eq!(bytes.len(), rows + exact.len() * row_bytes);
    for (i, (row, _)) in exact.iter().enumerate() {
        let at = rows + i * row_bytes;
        for (token, log_prob) in row.iter().enumerate() {
            let code = &bytes[at + 8 + 2 * token..][..2];
            let code = u16::from_le_bytes([code[0], code[1]]);
            let above = f64::from(float(at) * f32::from(code) + float(at + 4)) - log_prob;
            // What is further than 16 nats below the best is said to be there.
            let is_cut_off = code == 0 && above > 0.0;
            assert!(above.abs() < 3e-4 || is_cut_off, "row {i}, token {token}: {code} is {above} above");
        }
    }
    // The same run writes the same file again.
    assert!(eval(&reference, &["--save-logits", text(&file), "--logits", text(&file)]).status.success());
    assert!(std::fs::read(&file).expect("there") == bytes);
}

#[test]
fn a_comparison_with_saved_logits_is_one_with_their_model() {
    let (reference, text_file) = (undine_tests::demo(), dialogues("dialogues-saved.txt"));
    let place = |name: &str| models().place(name);
    let (other, file) = (place("eval-demo-q4_0.gguf"), place("demo.logits"));
    let quantize = ["quantize", text(&reference), text(&other), "--type", "Q4_0", "--force"];
    assert!(run(&quantize).status.success());
    let eval = |model: &Path, more: &[&str]| {
        json(&run(&[&["eval", text(model), "-f", text(&text_file), "-c", "64", "--json"], more].concat()))
    };
    let perplexity = eval(&reference, &["--save-logits", text(&file)])["perplexity"]["value"].as_f64();
    let saved = eval(&other, &["--logits", text(&file)]);
    let computed = eval(&other, &["--against", text(&reference)]);
    assert_eq!(saved["perplexity"], computed["perplexity"]);
    assert_eq!(saved["reference"], "demo.logits");
    assert_eq!(saved["logit_change_max"], Value::Null);
    // Some tokens surprise the model by more than the file can tell, which is said.
    assert!(saved["reference_cut_off"].as_u64() > Some(0), "{saved}");
    assert!(saved["reference_perplexity"]["value"].as_f64() < perplexity, "{saved}");
    assert_eq!(computed["reference_cut_off"], 0);
    assert_eq!(computed["reference_perplexity"]["value"].as_f64(), perplexity);
    for (part, field, relative) in [
        ("kl", "max", 1e-3),
        ("kl", "p90", 1e-3),
        ("same_top", "value", 1e-9),
        ("delta_p", "rms", 1e-3),
        ("delta_p", "max_abs", 1e-3),
    ] {
        close(&saved[part][field], computed[part][field].as_f64().expect("a number"), relative, field);
    }
    let mean = |found: &Value| found["kl"]["mean"]["value"].as_f64().expect("a number");
    close(&saved["kl"]["mean"]["value"], mean(&computed), 1e-3, "mean");
    // A model is no distance from its own file, but for its rounding.
    let itself = eval(&reference, &["--logits", text(&file)]);
    assert!(mean(&itself) < 1e-5, "{itself}");
}

#[test]
fn logits_of_something_else_are_refused() {
    let (model, questions) = (oracle("dense"), questions());
    let place = |name: &str| models().place(name);
    let (file, cut, text_file) = (place("right.logits"), place("cut.logits"), place("not.logits"));
    assert!(eval(&model, &["--save-logits", text(&file)]).status.success());
    let bytes = std::fs::read(&file).expect("written");
    std::fs::write(&cut, &bytes[..bytes.len() - 7]).expect("writes");
    std::fs::write(&text_file, "Not logits, but as long as the head of such a file.").expect("writes");
    let dialogues = dialogues("dialogues-logits.txt");
    let (synthetic, base, demo) = (models().synthetic(), models().base(), undine_tests::demo());
    let (right, questions) = (text(&file), text(&questions));
    for (model, words, code, expected) in [
        (&model, &["-f", questions, "-c", "32", "--logits", right][..], 1, "add --context 24"),
        (&model, &["-f", text(&dialogues), "-c", "24", "--logits", right], 1, "the same text and tokenizer"),
        (&model, &["-f", questions, "-c", "24", "--chunks", "9", "--logits", right], 1, "it has 3 windows"),
        (&synthetic, &["-f", questions, "-c", "24", "--logits", right], 1, "the same text and tokenizer"),
        (&demo, &["-f", questions, "-c", "24", "--logits", right], 1, "of a model with 1024 tokens"),
        (&model, &["-f", questions, "-c", "24", "--logits", text(&cut)], 1, "was cut short"),
        (
            &model,
            &["-f", questions, "-c", "24", "--logits", text(&text_file)],
            1,
            "expected a file that --save-logits",
        ),
        (&model, &["-f", questions, "-c", "24", "--logits", "/no/such/file"], 1, "/no/such/file"),
        (
            &model,
            &["-f", questions, "-c", "24", "--save-logits", text(&text_file)],
            1,
            "holds something else",
        ),
        (&model, &["-f", questions, "-c", "24", "--save-logits", "/no/such/folder/x"], 1, "/no/such/folder"),
        (&model, &["-f", questions, "--logits", right, "--against", text(&base)], 2, "cannot be used with"),
        (&model, &["-f", questions, "--logits", right, "--stride", "8"], 2, "cannot be used with"),
        (&model, &["-f", questions, "-c", "24", "--stride", "25"], 2, "at most --context"),
        (&model, &["-f", questions, "--stride", "0"], 2, "at least 1"),
    ] {
        let output = run(&[&["eval", text(model)], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
    // Fewer windows than the file has, and as many as it has of a longer text, are compared.
    for (words, windows) in [(&["--chunks", "2"][..], 2), (&[], WINDOWS)] {
        let words =
            [&["eval", text(&model), "-f", questions, "-c", "24", "--json", "--logits", right], words]
                .concat();
        assert_eq!(json(&run(&words))["windows"], windows);
    }
    assert_eq!(std::fs::read(&file).expect("there"), bytes);
}

#[test]
fn a_stride_slides_windows_over_the_text() {
    let reference = oracle("dense");
    let model = model(&reference);
    let (_, mut tokens) = tokens(model.checkpoint());
    tokens.truncate(50);
    let file = models().place("stride.txt");
    let short = {
        let (tokenizer, _) = self::tokens(model.checkpoint());
        tokenizer.decode(&tokens[1..], undine_text::SpecialText::Keep)
    };
    std::fs::write(&file, short).expect("writes");
    for (context, stride) in [(16, 8), (16, 5), (24, 24), (64, 3)] {
        // As the guide of transformers slides: what an earlier window had does not count.
        let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
        let (mut nll, mut counted_to) = (Vec::new(), 1);
        for (i, begin) in (0..tokens.len()).step_by(stride).enumerate() {
            let window = &tokens[begin..(begin + context).min(tokens.len())];
            let found = logits(&mut oracle, &[Part { sequence: i as u32, start: 0, tokens: window }]);
            for (found, token) in found.iter().zip(begin + 1..begin + window.len()) {
                if token >= counted_to {
                    nll.push(-log_probs(found)[tokens[token] as usize]);
                }
            }
            counted_to = begin + window.len();
            if counted_to == tokens.len() {
                break;
            }
        }
        let (context, stride) = (context.to_string(), stride.to_string());
        let words = ["eval", text(&reference), "-f", text(&file), "-c", &context, "--stride", &stride];
        let found = json(&run(&[&words[..], &["--json"]].concat()));
        assert_eq!(found["predictions"], nll.len(), "{context} {stride}");
        close(&found["perplexity"]["value"], mean(nll.into_iter()).exp(), 1e-4, "perplexity");
        let table = stdout(&run(&words));
        assert!(table.contains(&format!("windows of {context} tokens, one every {stride},")), "{table}");
    }
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
