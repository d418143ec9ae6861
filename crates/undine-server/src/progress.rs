//! How far a connection is with the request it carries. The connection's socket, body and service each see a
//! part of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::seats::{Place, Waiting};

/// What every answer begins with, of either version.
const BEGINNING: &[u8] = b"HTTP/1.";
/// An event that says nothing, which readers of event streams skip.
const COMMENT: &[u8] = b":\n\n";
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    /// A request is awaited, or part of its head is there.
    Head,
    /// Its body arrives.
    Body,
    /// The request is complete, and nothing of the answer is out.
    Thinking,
    /// The answer is being written.
    Answering,
    /// The answer is complete, and not written out.
    Ending,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Head, Self::Body, Self::Thinking, Self::Answering, Self::Ending];
}

/// The state of one connection. One task alone changes it; atomic, because parts of it travel with bodies.
pub(crate) struct Progress {
    pub(crate) place: Place,
    phase: AtomicU8,
    /// What has been handed to the socket is out.
    is_flushed: AtomicBool,
    /// How much of [`BEGINNING`] has been written before there is an answer.
    ahead: AtomicUsize,
    wants_comment: AtomicBool,
    /// A body was answered before it was complete: its rest may still be on the way.
    leaves_rest: AtomicBool,
}

impl Progress {
    pub(crate) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            place,
            phase: AtomicU8::new(Phase::Head as u8),
            is_flushed: AtomicBool::new(true),
            ahead: AtomicUsize::new(0),
            wants_comment: AtomicBool::new(false),
            leaves_rest: AtomicBool::new(false),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// A request's head is there.
    pub(crate) fn begin(self: &Arc<Self>, request: Request<Incoming>) -> Request<Body> {
        if request.body().is_end_stream() {
            self.enter(Phase::Thinking);
            return request.map(Body::new);
        }
        self.enter(Phase::Body);
        self.place.wait(Waiting::Sending);
        request.map(|body| Body::new(Arriving { body, progress: Arc::clone(self) }))
    }

    fn has_arrived(&self) {
        if self.phase() == Phase::Body {
            self.enter(Phase::Thinking);
            self.place.busy();
        }
    }

    /// There is an answer.
    pub(crate) fn answer(self: &Arc<Self>, mut response: Response<Body>) -> Response<Body> {
        let is_early = self.phase() == Phase::Body;
        // The rest of the request cannot be told from the next one, unless all of it is read.
        if is_early || self.place.is_extra() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if is_early {
            self.leaves_rest.store(true, Ordering::Relaxed);
            self.place.busy();
        }
        self.enter(Phase::Answering);
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let has_events = content_type.is_some_and(|value| value.as_bytes() == EVENT_STREAM);
        response.map(|body| Body::new(Answered { body, has_events, progress: Arc::clone(self) }))
    }

    /// Whether the client may still be sending what nobody will read.
    pub(crate) fn leaves_rest(&self) -> bool {
        self.leaves_rest.load(Ordering::Relaxed)
    }

    /// Bytes are about to be written; how many of the first of them are out already.
    pub(crate) fn writing(&self, bytes: &[u8]) -> usize {
        self.is_flushed.store(false, Ordering::Relaxed);
        let ahead = self.ahead.load(Ordering::Relaxed);
        if bytes.starts_with(&BEGINNING[..ahead]) { ahead } else { 0 }
    }

    /// Some have been written.
    pub(crate) fn written(&self) {
        self.ahead.store(0, Ordering::Relaxed);
    }

    /// All that was handed to the socket is out.
    pub(crate) fn flushed(&self) {
        self.is_flushed.store(true, Ordering::Relaxed);
        if self.phase() == Phase::Ending {
            self.enter(Phase::Head);
            self.place.wait(Waiting::Idle);
        }
    }

    /// The next byte of every answer, if it can be written before there is one.
    pub(crate) fn next_ahead(&self) -> Option<u8> {
        let is_possible = self.phase() == Phase::Thinking && self.is_flushed.load(Ordering::Relaxed);
        BEGINNING.get(self.ahead.load(Ordering::Relaxed)).copied().filter(|_| is_possible)
    }

    /// That byte has been written.
    pub(crate) fn went_ahead(&self) {
        self.ahead.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for a sign of life in a stream of events.
    pub(crate) fn want_comment(&self) {
        self.wants_comment.store(true, Ordering::Relaxed);
    }
}

/// The body of a request, on its way.
struct Arriving {
    body: Incoming,
    progress: Arc<Progress>,
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || frame.is_ready() && self.body.is_end_stream() {
            self.progress.has_arrived();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
struct Answered {
    body: Body,
    has_events: bool,
    progress: Arc<Progress>,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() && self.has_events && self.progress.wants_comment.swap(false, Ordering::Relaxed)
        {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if self.progress.phase() == Phase::Answering {
            self.progress.enter(Phase::Ending);
        }
    }
}
