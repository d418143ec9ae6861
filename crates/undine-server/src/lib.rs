//! The OpenAI-compatible HTTP server: bytes in, validated requests to the engine, text out.
//!
//! The path of a request: `wire` parses and checks it (bad input ends there, as a 4xx that names the field), `prompt`
//! turns it into tokens, `engine_thread` carries it to the engine and brings updates back, `generation` makes text of
//! them, `chat` and `completion` write the response, in one piece or as events (`sse`).
//!
//! Async ends at the engine thread, which owns the engine and the executor. Every channel is bounded. A client that
//! goes away drops its receivers, and the engine thread cancels its sequences within one step.
//! The dialect is OpenAI's with vLLM's additions, so that clients of either work unchanged.
#![forbid(unsafe_code)]

mod chat;
mod completion;
mod engine_thread;
mod generation;
mod listener;
mod logprobs;
mod options;
mod prompt;
mod routes;
mod serve;
mod sse;
mod state;
mod tokenize;
mod wire;

pub use options::{AnswerOptions, ReasoningFormat, RequestTemplate, ToolCallFormat};
pub use serve::{
    BODY_BYTES_MAX, CONNECTIONS_MAX, DRAIN_TIMEOUT, Load, LoadError, Loaded, ServerConfig, ServerError,
    ServerModel, serve,
};
