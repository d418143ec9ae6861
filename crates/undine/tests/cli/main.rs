//! The binary as its users meet it: arguments, pipes, exit codes, a terminal, HTTP.

mod batch;
mod bench;
mod calibrate;
mod chat;
mod common;
mod eval;
mod fit;
mod hostile_text;
mod hub;
mod misuse;
mod pictures;
mod quantize;
mod run;
mod serve;
mod serve_ops;
mod target;
mod terminal;
mod tools;
