//! Connections: how many there may be, how long a client may take, and how they end.
//!
//! Invariant: a client that does not send, or does not read, holds its place for a bounded time only. When its
//! connection is gone the response is dropped, and with it the sequences of its request.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming as IncomingBody;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tower::ServiceExt;

use crate::listener::{Incoming, Listener, Stream};

/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request line and headers in bytes, and how much of a body is read at a time.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 100;

/// How long a client may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the headers of a request; also how long an idle connection is kept.
    pub headers: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For taking anything at all of what has been written to it.
    pub write: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(75),
            body: Duration::from_secs(60),
            write: Duration::from_secs(60),
        }
    }
}

/// What all connections have in common.
pub(crate) struct Connections {
    pub(crate) router: Router,
    /// A prefix of paths that a proxy leaves in place; empty, or with a slash in front and none at the end.
    pub(crate) root_path: Arc<str>,
    pub(crate) connections_max: usize,
    pub(crate) timeouts: Timeouts,
}

impl Connections {
    /// Serves until `stop` resolves, then ends idle connections and waits for the others. Dropping the future cuts
    /// them off.
    pub(crate) async fn serve(self, listener: Listener, stop: impl Future<Output = ()>) {
        let free = Arc::new(Semaphore::new(self.connections_max.min(Semaphore::MAX_PERMITS)));
        let graceful = GracefulShutdown::new();
        let mut tasks = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accept = async {
                let place = Arc::clone(&free).acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            };
            tokio::select! {
                () = &mut stop => break,
                (incoming, place) = accept => {
                    let connection = self.connection(incoming, graceful.watcher());
                    tasks.spawn(async move { (connection.await, drop(place)).0 });
                }
                Some(_) = tasks.join_next() => {}
            }
        }
        drop(listener);
        graceful.shutdown().await;
    }

    fn connection(&self, incoming: Incoming, watcher: Watcher) -> impl Future<Output = ()> + use<> {
        let (router, root_path, timeouts) = (self.router.clone(), Arc::clone(&self.root_path), self.timeouts);
        let peer = incoming.peer();
        let service = hyper::service::service_fn(move |mut request: Request<IncomingBody>| {
            strip_root(&mut request, &root_path);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request.map(Body::new))
        });
        async move {
            let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming.open()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!("no TLS handshake: {error}"),
                Err(_) => return tracing::debug!("no TLS handshake within {HANDSHAKE_TIMEOUT:?}"),
            };
            let stream = Patient { stream, patience: timeouts.write, stalled: None };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(timeouts.headers)
                .max_buf_size(HEADER_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!("a connection ended: {error}");
            }
        }
    }
}

/// Removes the root path, if the path begins with it.
fn strip_root(request: &mut Request<IncomingBody>, root: &str) {
    let path_and_query = request.uri().path_and_query().map_or("/", |text| text.as_str());
    let stripped = path_and_query.strip_prefix(root).filter(|rest| rest.starts_with('/'));
    if let Some(uri) = stripped.filter(|_| !root.is_empty()).and_then(|rest| rest.parse().ok()) {
        *request.uri_mut() = uri;
    }
}

/// A stream that gives up when its peer reads nothing for too long.
struct Patient {
    stream: Box<dyn Stream>,
    patience: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let message = format!("the client has read nothing for {patience:?}");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(closed, context)
    }
}
