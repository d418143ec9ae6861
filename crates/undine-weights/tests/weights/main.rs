//! One test binary: files that must open, files that must be refused, and files that are written.
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers of integration tests as tests")]

mod beside;
mod convert;
mod damage;
mod folder;
mod gguf_attacks;
mod gguf_quirks;
mod hf_spellings;
mod imatrix;
mod not_models;
mod odd_values;
mod oracle;
mod safetensors_attacks;
mod special_texts;
mod split;
mod tiny;
mod vision;
mod writer;
