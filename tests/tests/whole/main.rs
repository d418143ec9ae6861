//! All crates together.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod conformance;
mod demo;
mod golden;
mod hub;
mod images;
mod inputs;
mod llama_cpp;
mod packed;
mod prefix_cache;
mod same_tokens;
mod vision;
