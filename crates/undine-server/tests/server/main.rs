//! The server as its clients see it: one program, which compiles what the tests share once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod chat;
mod completions;
mod connections;
mod dialects;
mod errors;
mod images;
mod in_process;
mod life;
mod media;
mod metrics;
mod network;
mod numbers;
mod support;
mod tenants;
