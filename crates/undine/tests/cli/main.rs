//! The binary as its users meet it: arguments, pipes, exit codes, a terminal, HTTP.

mod batch;
mod bench;
mod calibrate;
mod chat;
mod common;
mod documents;
mod eval;
mod first_minutes;
mod fit;
mod given;
mod hostile_text;
mod hub;
#[cfg(target_os = "linux")]
mod memory;
mod misuse;
#[cfg(target_os = "linux")]
mod model_files;
mod pictures;
mod quantize;
mod run;
#[cfg(target_os = "linux")]
mod scarce;
mod serve;
mod serve_ops;
mod strangers;
mod target;
mod terminal;
mod tools;
mod typing;
