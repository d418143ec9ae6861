//! Answers as server-sent events. The body is pulled by the connection: when that is gone the body is
//! dropped, and with it the receivers of the sequences, which cancels them.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use crate::generation::{Delta, Generation};
use crate::wire::common::StreamUsage;
use crate::wire::error::ApiError;
use crate::wire::response::Usage;

/// A comment, which clients pass over.
const PING: &[u8] = b": ping\n\n";

/// Writes the chunks of one endpoint.
pub(crate) trait Chunks: Send + 'static {
    /// What comes before anything is generated.
    fn start(&mut self, usage: ChunkUsage, events: &mut Events);
    /// What one step added to the choice `index`.
    fn delta(&mut self, index: usize, delta: Delta, usage: ChunkUsage, events: &mut Events);
    /// The chunk of no choice that carries the final usage.
    fn usage(&mut self, usage: Usage, events: &mut Events);
}

/// The `usage` field of a chunk: absent, null, or counts.
pub(crate) type ChunkUsage = Option<Option<Usage>>;

/// Events not sent yet.
#[derive(Default)]
pub(crate) struct Events(VecDeque<Bytes>);

impl Events {
    /// Appends one event.
    pub(crate) fn push(&mut self, chunk: &impl Serialize) {
        let mut event = b"data: ".to_vec();
        serde_json::to_writer(&mut event, chunk)
            .expect("response types have string keys and no failing parts");
        event.extend_from_slice(b"\n\n");
        self.0.push_back(event.into());
    }

    fn push_done(&mut self) {
        self.0.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Generating,
    Over,
}

struct EventStream<C> {
    generation: Generation,
    chunks: C,
    usage: StreamUsage,
    events: Events,
    phase: Phase,
}

/// A response whose body is the events of a generation.
pub(crate) fn response(generation: Generation, mut chunks: impl Chunks, usage: StreamUsage) -> Response {
    let mut events = Events::default();
    chunks.start(chunk_usage(usage, &generation), &mut events);
    let state = EventStream { generation, chunks, usage, events, phase: Phase::Generating };
    let body = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<Bytes, Infallible>(event), state))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // nginx would otherwise collect the whole answer first.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

fn chunk_usage(usage: StreamUsage, generation: &Generation) -> ChunkUsage {
    match usage {
        StreamUsage::None => None,
        StreamUsage::Final => Some(None),
        StreamUsage::Continuous => Some(Some(generation.usage())),
    }
}

impl<C: Chunks> EventStream<C> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.events.0.pop_front() {
                return Some(event);
            }
            if self.phase == Phase::Over {
                return None;
            }
            let next = tokio::time::timeout(self.generation.silence_max(), self.generation.next());
            let Ok(next) = next.await else { return Some(Bytes::from_static(PING)) };
            match next {
                Some(Ok((index, delta))) => {
                    let usage = chunk_usage(self.usage, &self.generation);
                    self.chunks.delta(index, delta, usage, &mut self.events);
                }
                Some(Err(error)) => self.end_with(&error),
                None => self.end(),
            }
        }
    }

    fn end(&mut self) {
        if self.usage != StreamUsage::None {
            self.chunks.usage(self.generation.usage(), &mut self.events);
        }
        self.events.push_done();
        self.phase = Phase::Over;
    }

    /// The status line is out: all that is left is to say it in an event.
    fn end_with(&mut self, error: &ApiError) {
        self.events.push(&error.body());
        self.events.push_done();
        self.phase = Phase::Over;
    }
}
