//! An importance matrix in either form: refused, or written and read again it is the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use undine_weights::Imatrix;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(imatrix) = Imatrix::read(bytes) else { return };
    for entry in imatrix.entries.values() {
        let matrices = entry.counts().len();
        let means = entry.mean_squares(matrices, entry.sums().len() / matrices).expect("its own shape");
        assert_eq!(means.len(), entry.sums().len());
    }
    let path = FOLDER.path().join("a.gguf");
    if imatrix.write(&path).is_ok() {
        assert_eq!(Imatrix::open(&path).expect("what was written can be read"), imatrix);
    }
});
