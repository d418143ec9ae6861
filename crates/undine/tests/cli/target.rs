//! `undine quantize --target-size` and `--target-kl`: the file keeps to its target, and more bytes bring it
//! nearer.

use std::path::{Path, PathBuf};

use undine_core::DType;
use undine_weights::{Checkpoint, write_gguf};

use crate::common::{dialogues, json, models, run, stderr, text};

const ARGS: [&str; 5] = ["--context", "64", "--chunks", "3", "--json"];

/// The demo model in F32.
fn demo(name: &str) -> PathBuf {
    let path = models().place(name);
    let checkpoint = Checkpoint::open(&undine_tests::demo()).expect("opens");
    write_gguf(&checkpoint, |_, _| DType::F32, &path).expect("writes");
    path
}

/// Quantizes to a target; the size of the file and its divergence.
fn reached(input: &Path, name: &str, target: &[&str]) -> (u64, f64) {
    let (out, questions) = (models().place(name), dialogues(&format!("{name}.txt")));
    let words = ["quantize", text(input), text(&out), "--text", text(&questions)];
    let output = run(&[&words[..], target, &ARGS].concat());
    let found = json(&output);
    let kl = found["kl"]["value"].as_f64().expect("a divergence");
    assert!(stderr(&output).contains("mean KL from"), "{}", stderr(&output));
    // Choices that were tried are gone.
    let beside = std::fs::read_dir(out.parent().expect("a folder")).expect("reads").flatten();
    let tried = format!(".{name}.");
    assert!(!beside.map(|entry| entry.file_name()).any(|file| file.to_string_lossy().starts_with(&tried)));
    // What the command says of the file is what `undine eval` says of it.
    let words = ["eval", text(&out), "--against", text(input), "--text", text(&questions)];
    let measured = json(&run(&[&words[..], &ARGS].concat()));
    assert_eq!(measured["kl"]["mean"]["value"].as_f64(), Some(kl));
    (std::fs::metadata(out).expect("written").len(), kl)
}

#[test]
fn a_target_size_is_kept_and_used() {
    let input = demo("target-size.gguf");
    let mut last = f64::INFINITY;
    for (size, bytes) in [("2.2MB", 2_200_000), ("3MB", 3_000_000), ("4MB", 4_000_000)] {
        let (found, kl) = reached(&input, &format!("target-{size}.gguf"), &["--target-size", size]);
        assert!(found <= bytes, "{size}: {found}");
        assert!(found as f64 > 0.97 * bytes as f64, "{size}: {found}");
        assert!(kl < last, "{size}: {kl} after {last}");
        last = kl;
    }
}

#[test]
fn a_target_divergence_is_kept_in_every_way_of_measuring() {
    let input = demo("target-kl.gguf");
    for sensitivity in ["probe", "every", "error"] {
        let target = ["--target-kl", "0.05", "--sensitivity", sensitivity];
        let (bytes, kl) = reached(&input, &format!("target-{sensitivity}.gguf"), &target);
        assert!(kl <= 0.05, "{sensitivity}: {kl}");
        assert!(bytes < 5_000_000, "{sensitivity}: {bytes}");
    }
}

#[test]
fn targets_that_cannot_be_met_are_refused() {
    let (input, out, questions) =
        (demo("target-refused.gguf"), models().place("never.gguf"), dialogues("refused.txt"));
    let words = ["quantize", text(&input), text(&out)];
    for (arguments, code, expected) in [
        (&["--target-size", "1MB", "--text", text(&questions)][..], 1, "the smallest file that can be made"),
        (&["--target-size", "3MB"], 2, "--text"),
        (&["--target-kl", "0.1"], 2, "--text"),
        (&["--target-kl", "0", "--text", text(&questions)], 2, "above 0"),
        (&["--target-kl", "1e-12", "--text", text(&questions), "--type", "Q4_0"], 2, "cannot be used with"),
        (&["--target-size", "3MB", "--target-kl", "1", "--text", text(&questions)], 2, "cannot be used with"),
    ] {
        let output = run(&[&words[..], arguments, &ARGS].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!out.exists());
}
