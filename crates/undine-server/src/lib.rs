//! The OpenAI-compatible HTTP server: bytes in, validated requests to the engine, text out.
//!
//! The path of a request: `wire` parses and checks it (bad input ends there, as a 4xx that names the field),
//! `prompt` turns it into tokens (`media` and `images` get what messages show), `engine_thread` carries it to
//! the thread that owns the engine (`engine_room`) and brings updates back, `generation` makes text of them,
//! `chat` and `completion` write the response, in one piece or as events (`sse`).
//!
//! Async ends at the engine thread, which owns the engine and the executor. Every channel is bounded. A
//! client that goes away drops its receivers, and the engine thread cancels its sequences within one step.
//! The dialect is OpenAI's with vLLM's additions, so that clients of either work unchanged.
#![forbid(unsafe_code)]

mod access;
mod account;
mod chat;
mod clients;
mod completion;
mod connection;
mod departure;
mod doors;
mod engine_room;
mod engine_thread;
mod files;
mod generation;
mod image_metrics;
mod images;
mod in_process;
mod info;
mod kept_tokens;
mod lifetime;
mod listener;
mod logprobs;
mod media;
mod metrics;
mod openapi;
mod options;
mod places;
mod preparing;
mod progress;
mod prompt;
mod pythonic;
mod recorder;
mod remarks;
mod render;
mod routes;
mod rules;
mod seats;
mod serve;
#[cfg(test)]
mod simulator;
mod socket;
mod sse;
mod state;
mod tenant;
mod tls;
mod tokenize;
mod turns;
mod wire;

pub use access::{Cors, CorsError, Credentials};
pub use connection::Timeouts;
pub use doors::{Hosts, HostsError};
pub use in_process::{Answer, InProcess};
pub use listener::Listener;
pub use media::{Domains, MediaConfig, MediaFolder};
pub use options::{
    AnswerOptions, ReasoningFormat, RequestDefaults, RequestTemplate, SchedulingPolicy, ToolCallFormat,
};
pub use serve::{
    BODY_BYTES_MAX, CONNECTIONS_MAX, DESCRIPTORS_BESIDE_CONNECTIONS, DRAIN_TIMEOUT, FileCheck, Load,
    LoadError, Loaded, REQUESTS_PER_CLIENT_MAX, RequestLog, ServerConfig, ServerError, ServerModel, serve,
};
pub use tenant::CacheSharing;
pub use tls::{ClientCertificates, Tls, TlsError, TlsFiles};
pub use wire::image_options::ImageOptions;
