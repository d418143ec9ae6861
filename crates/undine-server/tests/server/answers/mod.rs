//! What is more than text in an answer: tool calls, formats, thoughts, and turns that come back.

mod formats;
mod thinking;
mod tools;
mod turns;
