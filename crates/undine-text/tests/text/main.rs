//! Text in and out: one program, which compiles what the tests share once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arguments;
mod common;
mod grammar;
mod grammar_calls;
mod grammar_json;
mod helpers;
mod jinja;
mod mask_times;
mod presets;
mod schemas;
mod stream;
mod template;
mod tokenizer;
mod tools;
