//! A file of saved predictions: refused, or all of its rows can be read.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("a.logits");
    std::fs::write(&path, bytes).expect("there is room");
    if let Ok(rows) = undine::fuzzing::saved_logits(&path) {
        assert!(rows <= bytes.len() as u64);
    }
});
