//! Any bytes as a folder's two essential files: an error or a checkpoint, never a panic.
//!
//! The input is config.json, a zero byte, and model.safetensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_weights::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let weights = bytes.get(end + 1..).unwrap_or_default();
    if let Ok(checkpoint) = Checkpoint::from_safetensors_bytes(bytes[..end].to_vec(), weights.to_vec()) {
        undine_fuzz::read_all(&checkpoint);
    }
});
