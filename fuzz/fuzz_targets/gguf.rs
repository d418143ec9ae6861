//! Any bytes as a GGUF file: an error or a checkpoint, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_weights::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::from_gguf_bytes(bytes.to_vec()) {
        undine_fuzz::read_all(&checkpoint);
    }
});
