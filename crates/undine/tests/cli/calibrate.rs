//! `undine calibrate`: what is in its file. That the sums are right is for `tests/tests/whole/inputs.rs` to
//! say.

use std::fs;
use std::path::{Path, PathBuf};

use undine_weights::{Imatrix, ImatrixEntry};

use crate::common::{json, models, oracle, run, stderr, text};

fn questions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/questions.jsonl")
}

#[test]
fn every_matrix_has_its_sums() {
    let questions = questions();
    for (case, experts) in [("dense", 0), ("moe", 16)] {
        let (folder, path) = (oracle(case), models().place(&format!("{case}-imatrix.gguf")));
        let words = ["calibrate", text(&folder), "--text", text(&questions), "-o", text(&path)];
        let output = run(&[&words[..], &["--context", "32", "--chunks", "3"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        for part in ["3 windows of 32 tokens", "perplexity", "questions.jsonl"] {
            assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
        }
        let imatrix = Imatrix::open(&path).expect("readable");
        assert_eq!((imatrix.chunks, imatrix.chunk_tokens, imatrix.datasets.len()), (3, 32, 1));
        let mut names: Vec<&str> = vec!["token_embd.weight", "blk.0.ffn_down.weight", "blk.2.attn_v.weight"];
        names.extend(["blk.0.shortconv.in_proj.weight", "blk.2.attn_output.weight"]);
        if experts > 0 {
            names.extend(["blk.1.ffn_down_exps.weight", "blk.1.ffn_gate_inp.weight"]);
        }
        for name in names {
            let entry = imatrix.entries.get(name).unwrap_or_else(|| panic!("{case}: {name}"));
            let counts = entry.counts();
            if name.contains("_exps") {
                assert_eq!((counts.len(), entry.sums().len()), (experts, experts * 64), "{name}");
                // Four experts for each of the tokens.
                assert_eq!(counts.iter().sum::<f32>(), 4.0 * 3.0 * 31.0, "{name}");
            } else {
                // The last token of a window is not computed.
                assert_eq!(counts, [3.0 * 31.0], "{name}");
            }
            assert!(entry.sums().iter().any(|&sum| sum > 0.0), "{name}");
            // What goes together is kept of single matrices.
            assert_eq!(entry.coefficients().is_none(), name.contains("_exps"), "{name}");
        }
        // Convolution filters and norms are no matrices; the embedding table is there as the head.
        assert!(imatrix.entries.keys().all(|name| !name.contains("norm") && !name.contains("conv.conv")));
    }
}

#[test]
fn without_a_text_there_is_one() {
    let (model, place) = (models().chat_folder(), |name: &str| models().place(name));
    let (matrix, auto, by_hand) =
        (place("built-in.gguf"), place("auto-q4_0.gguf"), place("by-hand-q4_0.gguf"));
    let output = run(&["calibrate", text(&model), "-o", text(&matrix)]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("of the built-in calibration text; perplexity"), "{}", stderr(&output));
    let imatrix = Imatrix::open(&matrix).expect("readable");
    assert_eq!(
        (imatrix.chunk_tokens, &imatrix.datasets[..]),
        (512, &["the built-in calibration text".to_owned()][..])
    );
    assert!(imatrix.chunks >= 20, "{}", imatrix.chunks);
    // The same in one go.
    let quantize = |out: &Path, more: &[&str]| {
        let words = ["quantize", text(&model), text(out), "--type", "Q4_0"];
        let output = run(&[&words[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        (std::fs::read(out).expect("written"), stderr(&output))
    };
    let (expected, _) = quantize(&by_hand, &["--imatrix", text(&matrix)]);
    let (found, said) = quantize(&auto, &["--imatrix", "auto"]);
    assert!(said.contains("of the built-in calibration text"), "{said}");
    assert!(found == expected, "the file of both ways is the same");
    let (own_text, said) = quantize(&auto, &["--imatrix", "auto", "--text", text(&questions()), "--force"]);
    assert!(said.contains("questions.jsonl") && own_text != expected, "{said}");
    // A name is not a file: without one it is refused.
    let refused = run(&["quantize", text(&model), text(&auto), "--imatrix", "./auto", "--force"]);
    assert!(stderr(&refused).contains("./auto"), "{}", stderr(&refused));
}

#[test]
fn what_goes_together_lowers_the_divergence() {
    let place = |name: &str| models().place(&format!("together-{name}"));
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/undine-demo.gguf");
    // One half of the questions is learned from, the other measured on.
    let questions = fs::read_to_string(questions()).expect("readable");
    let texts = ["learned.txt", "measured.txt"].map(place);
    for (half, path) in texts.iter().enumerate() {
        let lines: Vec<&str> = questions.lines().skip(half).step_by(2).collect();
        fs::write(path, lines.join("\n")).expect("written");
    }
    let [together, alone] = ["together.gguf", "alone.gguf"].map(place);
    let output =
        run(&["calibrate", text(&demo), "--text", text(&texts[0]), "-c", "128", "-o", text(&together)]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut imatrix = Imatrix::open(&together).expect("readable");
    for entry in imatrix.entries.values_mut() {
        *entry = ImatrixEntry::new(entry.counts().to_vec(), entry.sums().to_vec()).expect("as before");
    }
    imatrix.write(&alone).expect("written");
    let divergence = |imatrix: &Path| -> f64 {
        let path = place("q4_0.gguf");
        let words =
            ["quantize", text(&demo), text(&path), "--type", "Q4_0", "--force", "--imatrix", text(imatrix)];
        let output = run(&words);
        assert!(output.status.success(), "{}", stderr(&output));
        let words =
            ["eval", text(&path), "--against", text(&demo), "--text", text(&texts[1]), "-c", "128", "--json"];
        json(&run(&words))["kl"]["mean"]["value"].as_f64().expect("a number")
    };
    let (together, alone) = (divergence(&together), divergence(&alone));
    assert!(together < 0.8 * alone, "{together} with what goes together, {alone} without");
}

#[test]
fn calibrate_refuses_what_it_cannot_use() {
    let (model, questions) = (models().base(), questions());
    let out = models().place("never.gguf");
    for (words, code, expected) in [
        (&["--text", text(&questions)][..], 2, "--output"),
        (&["--text", "/no/such/file", "-o", text(&out)], 1, "/no/such/file"),
        (
            &["--text", text(&questions), "-c", "16", "--chunks", "1", "-o", "/no/such/folder/x"],
            1,
            "/no/such/folder",
        ),
    ] {
        let output = run(&[&["calibrate", text(&model)], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words:?}: {}", stderr(&output));
    }
    assert!(!out.exists());
}
