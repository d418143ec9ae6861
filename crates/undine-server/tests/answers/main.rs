//! What is more than text in an answer: tool calls, formats, thoughts, and turns that come back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod formats;
#[path = "../support/mod.rs"]
mod support;
mod thinking;
mod tools;
mod turns;
