//! Connections: how many there may be, how long a client may take, and how they end.
//!
//! Invariant: a client that does not send, or does not read, holds its place for a bounded time only, and
//! never keeps another from being answered (`places`). When its connection is gone the response is dropped,
//! and with it the sequences of its request.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Uri};
use hyper::body::Incoming as IncomingBody;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tower::ServiceExt;

use crate::departure::{Signs, client_gone, take_rest};
use crate::doors::Doors;
use crate::listener::{Incoming, Listener, Peer, Stream};
use crate::progress::Progress;
use crate::seats::{EXTRA_LIFE, Limits, Place, Places, Waiting};

/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request line and headers in bytes, and how much of a body is read at a time.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 100;
/// How long to wait before accepting again when the process is out of file descriptors: until who was told to
/// leave has left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often that is written to the log.
const ACCEPT_WARNING_PAUSE: Duration = Duration::from_secs(10);

/// How long a client may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the headers of a request; also how long an idle connection is kept.
    pub headers: Duration,
    /// For the body of a request.
    pub body: Duration,
    /// For taking anything at all of what has been written to it.
    pub write: Duration,
    /// How long a stream is silent before it says so in a comment: proxies and clients give up connections on
    /// which nothing moves.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(75),
            body: Duration::from_secs(60),
            write: Duration::from_secs(60),
            silence: Duration::from_secs(15),
        }
    }
}

/// What all connections have in common.
pub(crate) struct Connections {
    pub(crate) router: Router,
    /// A prefix of paths that a proxy leaves in place; empty, or with a slash in front and none at the end.
    pub(crate) root_path: String,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    /// What requests are checked against, unless no browser can reach the socket.
    pub(crate) doors: Option<Arc<Doors>>,
}

impl Connections {
    /// Serves until `stop` resolves, then ends idle connections and waits for the others. Dropping the future
    /// cuts them off.
    pub(crate) async fn serve(self, listener: Listener, stop: impl Future<Output = ()>) {
        let places = Places::new(self.limits);
        let all = Arc::new(self);
        let graceful = GracefulShutdown::new();
        let mut tasks = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                () = &mut stop => break,
                incoming = listener.accept() => match incoming {
                    Ok(incoming) => {
                        // Dropped, it is closed.
                        let Some(place) = places.admit(incoming.peer()) else { continue };
                        let is_extra = place.is_extra();
                        let progress = Progress::new(place);
                        tasks.spawn(Arc::clone(&all).carry(incoming, graceful.watcher(), progress));
                        if is_extra {
                            // What has arrived on it is read before another needs its place.
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => {
                        if warned.is_none_or(|warned| warned.elapsed() > ACCEPT_WARNING_PAUSE) {
                            warned = Some(Instant::now());
                            tracing::warn!("cannot accept connections: {error}; idle ones are closed for others");
                        }
                        places.make_room();
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
        drop(listener);
        graceful.shutdown().await;
    }

    /// One connection from its beginning to its end, whatever ends it.
    async fn carry(self: Arc<Self>, incoming: Incoming, watcher: Watcher, progress: Arc<Progress>) {
        let socket = Arc::clone(&incoming.socket);
        let signs = if incoming.is_encrypted() { Signs::Impossible } else { Signs::Possible };
        let rest = tokio::select! {
            rest = self.exchange(incoming, watcher, &progress) => rest,
            () = client_gone(&socket, &progress, signs) => Rest::Nothing,
            () = progress.place.told_to_leave() => {
                tracing::debug!("a connection was closed to make room for another");
                Rest::Nothing
            }
            () = extra_time(&progress.place) => Rest::Nothing,
        };
        if rest == Rest::Unread {
            // Somebody else may need the place.
            progress.place.wait(Waiting::Idle);
            tokio::select! {
                () = take_rest(&socket) => {}
                () = progress.place.told_to_leave() => {}
            }
        }
    }

    /// Requests and their answers.
    async fn exchange(&self, incoming: Incoming, watcher: Watcher, progress: &Arc<Progress>) -> Rest {
        let peer = incoming.peer();
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming.open()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!("no TLS handshake: {error}");
                return Rest::Nothing;
            }
            Err(_) => {
                tracing::debug!("no TLS handshake within {HANDSHAKE_TIMEOUT:?}");
                return Rest::Nothing;
            }
        };
        let service = hyper::service::service_fn(|request: Request<IncomingBody>| {
            let answer = self.router.clone().oneshot(self.dress(request, peer, progress));
            async move { answer.await.map(|response| progress.answer(response)) }
        });
        let patience = self.timeouts.write;
        let stream = Patient { stream, patience, stalled: None, progress: Arc::clone(progress) };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeouts.headers)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            // Who has closed only its side gets its answer; who has left is found out by `client_gone`.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let ended = watcher.watch(connection).await;
        if let Err(error) = &ended {
            tracing::debug!("a connection ended: {error}");
        }
        match ended {
            // A head that could not be read has been answered in the middle of it.
            Err(error) if error.is_parse() => Rest::Unread,
            _ if progress.leaves_rest() => Rest::Unread,
            _ => Rest::Nothing,
        }
    }

    /// A request with all that is known of it.
    fn dress(
        &self,
        mut request: Request<IncomingBody>,
        peer: Peer,
        progress: &Arc<Progress>,
    ) -> Request<Body> {
        settle_path(&mut request, &self.root_path);
        let extensions = request.extensions_mut();
        extensions.insert(peer);
        if let Some(doors) = &self.doors {
            extensions.insert(Arc::clone(doors));
        }
        if let Some(crowd) = progress.place.claim() {
            extensions.insert(crowd);
        }
        progress.begin(request)
    }
}

/// Whether a client may still be sending what it has been answered to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Nothing,
    Unread,
}

/// Resolves when an extra place has been held for long enough; never if it is none by then.
async fn extra_time(place: &Place) {
    if place.is_extra() {
        tokio::time::sleep(EXTRA_LIFE).await;
    }
    if !place.is_extra() {
        std::future::pending().await
    }
}

/// Removes slashes that say nothing, which clients add to base URLs, and then the root path, if the path
/// begins with it.
fn settle_path(request: &mut Request<IncomingBody>, root: &str) {
    let (path, query) = (request.uri().path(), request.uri().query());
    let mut settled = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty()) {
        settled.push('/');
        settled.push_str(part);
    }
    if let Some(rest) = settled.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        settled = rest.to_owned();
    }
    if settled.is_empty() {
        settled.push('/');
    }
    // `*` is the whole server and no path.
    if settled == path || !path.starts_with('/') {
        return;
    }
    if let Some(query) = query {
        settled.push('?');
        settled.push_str(query);
    }
    // The host stays, to be checked.
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = settled.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// A stream that gives up when its peer reads nothing for too long, and says how far it is.
struct Patient {
    progress: Arc<Progress>,
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
        let ahead = self.progress.writing(bytes);
        let written = Pin::new(&mut self.stream).poll_write(context, &bytes[ahead..]);
        if let Poll::Ready(Ok(_)) = written {
            self.progress.written();
        }
        self.watch(written.map_ok(|count| count + ahead), context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        if self.progress.writing(first) > 0 {
            return self.poll_write(context, first);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.progress.flushed();
        }
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(closed, context)
    }
}
