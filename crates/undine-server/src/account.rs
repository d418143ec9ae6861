//! What is kept of every HTTP request from its head to the last byte of its answer: its id, whether it still
//! runs, and one line of log at its end. Never its text.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::MatchedPath;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

use crate::clients::Counted;
use crate::prompt;
use crate::serve::RequestLog;
use crate::state::App;
use crate::wire::common::IDENTIFIER_BYTES_MAX;

/// The header with the id of a request.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Logged as the status of a request whose client left before there was one; nginx's word for it.
const STATUS_CLIENT_LEFT: u16 = 499;
/// The handler of requests to paths that do not exist: their number must not depend on clients.
const NO_ROUTE: &str = "none";
/// Paths that are asked all the time by machines; logged at the level `debug`.
const QUIET_PATHS: [&str; 4] = ["/health", "/ping", "/metrics", "/load"];

/// What the engine has done for a request; counted on the engine's thread.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    pub(crate) prompt_tokens: AtomicU32,
    pub(crate) cached_tokens: AtomicU32,
    pub(crate) completion_tokens: AtomicU32,
    /// From the request to its first token, in microseconds; 0 before that.
    pub(crate) first_token_us: AtomicU32,
}

tokio::task_local! {
    /// The tally of the request whose handler runs. Handlers do not carry it: only the way to the engine
    /// needs it.
    static TALLY: Arc<Tally>;
}

impl Tally {
    /// That of the request being handled; an unobserved one outside of requests.
    pub(crate) fn current() -> Arc<Self> {
        TALLY.try_with(Arc::clone).unwrap_or_default()
    }

    /// Lets what a future submits be counted here.
    pub(crate) fn scope<F: Future>(self: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        TALLY.scope(self, future)
    }

    pub(crate) fn first_token(&self, after: Duration) {
        let microseconds = u32::try_from(after.as_micros()).unwrap_or(u32::MAX).max(1);
        // Of several sequences the first one counts; only the engine's thread writes.
        if self.first_token_us.load(Ordering::Relaxed) == 0 {
            self.first_token_us.store(microseconds, Ordering::Relaxed);
        }
    }
}

/// The id of a request: the client's, if it sent a sensible one.
#[derive(Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// A request that is being answered. Dropping it writes the line.
pub(crate) struct Account {
    app: Arc<App>,
    id: RequestId,
    method: Method,
    handler: String,
    /// The path that was asked for, where no route has it; it is never a label of metrics.
    stray: Option<String>,
    status: u16,
    end: End,
    begin: Instant,
    tally: Arc<Tally>,
    span: Span,
    /// Counted among its client's until its end.
    counted: Option<Counted>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of the answer is out.
    Complete,
    /// Not yet, or never.
    CutOff,
}

impl Account {
    pub(crate) fn open(app: &Arc<App>, request: &Request<Body>) -> Self {
        app.in_flight.send_modify(|count| *count += 1);
        let id = request_id(request.headers());
        let handler = request.extensions().get().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
        let stray = (handler == NO_ROUTE).then(|| crate::wire::fields::excerpt(request.uri().path()));
        let span = tracing::info_span!("request", id = %id.0);
        let method = match request.method() {
            known @ (&Method::GET | &Method::POST | &Method::HEAD | &Method::OPTIONS) => known.clone(),
            // As with paths: clients may invent any number of methods.
            _ => Method::TRACE,
        };
        Self {
            app: Arc::clone(app),
            id,
            method,
            handler,
            stray,
            status: STATUS_CLIENT_LEFT,
            end: End::CutOff,
            begin: Instant::now(),
            tally: Arc::default(),
            span,
            counted: None,
        }
    }

    /// Counts the request among those of its client until it ends.
    pub(crate) fn hold(&mut self, counted: Option<Counted>) {
        self.counted = counted;
    }

    pub(crate) fn id(&self) -> RequestId {
        self.id.clone()
    }

    /// Runs a handler in the name of this request.
    pub(crate) async fn run(&self, handler: impl Future<Output = Response>) -> Response {
        use tracing::Instrument;
        Arc::clone(&self.tally).scope(handler).instrument(self.span.clone()).await
    }

    /// Follows the answer to its end.
    pub(crate) fn follow(mut self, response: Response) -> Response {
        self.status = response.status().as_u16();
        let id = HeaderValue::from_str(&self.id.0);
        let mut response = response.map(|body| Body::new(Followed { body, account: self }));
        if let Ok(id) = id {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }

    fn write_line(&self) {
        let tally = &self.tally;
        let count = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        let total_ms = self.begin.elapsed().as_secs_f64() * 1e3;
        let ttft_ms = f64::from(count(&tally.first_token_us)) / 1e3;
        let end = if self.end == End::Complete { "complete" } else { "cut off" };
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    parent: &self.span,
                    $level,
                    method = %self.method,
                    path = %self.stray.as_deref().unwrap_or(&self.handler),
                    status = self.status,
                    end,
                    prompt_tokens = count(&tally.prompt_tokens),
                    cached_tokens = count(&tally.cached_tokens),
                    completion_tokens = count(&tally.completion_tokens),
                    ttft_ms = %format_args!("{ttft_ms:.1}"),
                    total_ms = %format_args!("{total_ms:.1}"),
                    "answered"
                )
            };
        }
        match (self.app.config.request_log, QUIET_PATHS.contains(&self.handler.as_str())) {
            (RequestLog::On, false) => line!(tracing::Level::INFO),
            (RequestLog::On, true) | (RequestLog::Off, _) => line!(tracing::Level::DEBUG),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _entered = self.span.clone().entered();
        self.write_line();
        self.app.http.answered(&self.handler, self.method.as_str(), self.status, self.begin.elapsed());
        self.app.in_flight.send_modify(|count| *count -= 1);
    }
}

fn request_id(headers: &HeaderMap) -> RequestId {
    let sensible = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= IDENTIFIER_BYTES_MAX && id.bytes().all(plain)
    };
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sensible);
    let fresh = || format!("{:016x}{:016x}", prompt::random(), prompt::random());
    RequestId(given.map_or_else(fresh, str::to_owned))
}

/// The body of an answer that is being followed.
struct Followed {
    body: Body,
    account: Account,
}

impl Followed {
    fn look_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.account.end = End::Complete;
        }
    }
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let span = self.account.span.clone();
        let _entered = span.enter();
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => self.account.end = End::Complete,
            Poll::Ready(Some(_)) => self.look_at_end(),
            Poll::Pending => {}
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

impl Drop for Followed {
    fn drop(&mut self) {
        // An empty body is never asked for a frame.
        self.look_at_end();
    }
}
