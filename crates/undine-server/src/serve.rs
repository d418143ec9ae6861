//! Life of a server: bind, load, answer, drain.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use undine_core::executor::ExecutorFactory;
use undine_core::vision::VisionFactory;
use undine_core::{ImageSettings, SamplingParams, TokenId};
use undine_engine::EngineConfig;
use undine_text::{ChatTemplate, Helpers, Tokenizer};

use crate::access::{Cors, CorsError};
use crate::connection::{Connections, Timeouts};
use crate::doors::{Doors, Hosts};
use crate::engine_room::{self, EngineThread};
use crate::listener::Listener;
use crate::media::MediaConfig;
use crate::options::{AnswerOptions, RequestDefaults};
use crate::routes;
use crate::seats::{EXTRA_MAX, Limits};
use crate::state::{App, Status};
use crate::tenant::CacheSharing;

/// Default of [`ServerConfig::body_bytes_max`]: a 128K-token context as text, with room for JSON escapes.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Default of [`ServerConfig::connections_max`].
pub const CONNECTIONS_MAX: usize = 1024;
/// Default of [`ServerConfig::requests_per_client_max`]: half of the queue, so that one client cannot fill
/// it.
pub const REQUESTS_PER_CLIENT_MAX: usize = 512;
/// File descriptors that a server needs beside those of [`ServerConfig::connections_max`]: extra places for
/// probes, and model, log and runtime, generously.
pub const DESCRIPTORS_BESIDE_CONNECTIONS: usize = EXTRA_MAX + 64;
/// Default of [`ServerConfig::drain_timeout`].
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long clients may take to read the end of what they asked for when the server ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the engine thread may take for the step it is in when the server ends.
pub(crate) const ENGINE_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server knows of the model it serves.
pub struct ServerModel {
    /// The names clients may use, the first one being the one in responses; at least one.
    pub names: Vec<String>,
    /// Text to tokens and back; without it only token ids are understood.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Messages to text; without it there is no chat.
    pub template: Option<ChatTemplate>,
    /// How images are sized and cut, if the model takes any: requests start from it. The tokens that stand
    /// for an image are in the vocabulary of `tokenizer` ([`undine_image::prompt::expand`]).
    pub images: Option<ImageSettings>,
    /// Every token that ends an answer.
    pub eos: Vec<TokenId>,
    /// What a request leaves out; `seed` and `logprobs` are not used.
    pub sampling_defaults: SamplingParams,
    /// What holds for reasoning and tool calls.
    pub answers: AnswerOptions,
    /// What requests leave out.
    pub requests: RequestDefaults,
    /// Processes in which templates of requests run and forms of answers are tried out; without them both are
    /// trusted not to exhaust this process.
    pub helpers: Option<Arc<Helpers>>,
}

/// What loading yields. The limits are here because they depend on the checkpoint and on the memory that is
/// left.
pub struct Loaded {
    /// The model as clients see it.
    pub model: ServerModel,
    /// Makes the executor, on the engine thread.
    pub factory: ExecutorFactory,
    /// Makes what encodes images, on the engine thread; there is one exactly if [`ServerModel::images`] says
    /// how.
    pub vision: Option<VisionFactory>,
    /// The engine's limits; `max_model_len` is what clients are told, unless the cache is smaller.
    pub engine: EngineConfig,
    /// Says what has become of the model's files, if it has any: asked every second, and when the engine
    /// fails.
    pub files: Option<FileCheck>,
    /// Called once, on the engine thread, when requests are answered.
    pub on_ready: Box<dyn FnOnce() + Send>,
}

/// Whether the files of a model are still those that were opened; an error says which is not, and what
/// happened to it.
pub type FileCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Why a model could not be loaded; the binary's own error.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// Loads the model. Runs on the engine thread while `/health` already answers 503.
pub type Load = Box<dyn FnOnce() -> Result<Loaded, LoadError> + Send>;

/// Whether every request is logged at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestLog {
    /// One line per request at the level `info`; probes at `debug`.
    On,
    /// All of them at `debug`.
    Off,
}

/// Limits and access.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Accepted bearer tokens; empty accepts everyone.
    pub api_keys: Vec<String>,
    /// Whether those who send different ones share caches.
    pub cache_sharing: CacheSharing,
    /// Which web pages may ask; `None` is none.
    pub cors: Option<Cors>,
    /// A prefix that a proxy in front leaves in paths: empty, or with a slash in front and none at the end.
    pub root_path: String,
    /// Longest request body.
    pub body_bytes_max: usize,
    /// By which names the server may be asked.
    pub hosts: Hosts,
    /// Most connections at once. Beyond them idle ones are closed, and only probes are answered while all are
    /// busy. At least 1.
    pub connections_max: usize,
    /// Most of them from one address other than this machine's own.
    pub connections_per_address_max: Option<usize>,
    /// Most requests in flight of one client: of one key if there are several, else of one address other than
    /// this machine's own.
    pub requests_per_client_max: Option<usize>,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// How long running requests may go on after the shutdown began.
    pub drain_timeout: Duration,
    /// What is logged of requests.
    pub request_log: RequestLog,
    /// Whether fields of a body that nobody knows are an error.
    pub strict_fields: bool,
    /// Whether the tokenizer's settings and the chat template are told.
    pub tokenizer_info: bool,
    /// Where images may come from, and how many.
    pub media: MediaConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            cache_sharing: CacheSharing::default(),
            cors: None,
            root_path: String::new(),
            body_bytes_max: BODY_BYTES_MAX,
            hosts: Hosts::default(),
            connections_max: CONNECTIONS_MAX,
            connections_per_address_max: Some(CONNECTIONS_MAX / 2),
            requests_per_client_max: Some(REQUESTS_PER_CLIENT_MAX),
            timeouts: Timeouts::default(),
            drain_timeout: DRAIN_TIMEOUT,
            request_log: RequestLog::On,
            strict_fields: false,
            tokenizer_info: false,
            media: MediaConfig::default(),
        }
    }
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The model could not be loaded, or no engine be made for it.
    #[error("the model could not be loaded: {0}")]
    Load(#[source] LoadError),
    /// A file of the model was changed by another program, so that nothing can be computed with it any more.
    #[error("{0}")]
    FilesChanged(String),
    /// A model without a name cannot be asked for.
    #[error("the model has no name; expected at least one served name")]
    NoModelName,
    /// The engine thread panicked while loading.
    #[error("the engine thread panicked while loading; its message is on standard error")]
    LoadPanicked,
    /// The rules for web pages make no sense.
    #[error("CORS: {0}")]
    Cors(#[from] CorsError),
    /// The operating system gives no thread for the engine.
    #[error(
        "no thread for the engine can be had ({0}); raise the limit on memory (ulimit -v) or on processes (ulimit -u), or lower \
         --kv-cache-memory-bytes"
    )]
    NoThread(#[source] std::io::Error),
    /// The operating system refused something.
    #[error("the server failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves until `shutdown` resolves, then answers 503 to new requests, lets running ones finish for at most
/// [`ServerConfig::drain_timeout`], and returns. Returns early, with the error, if the model cannot be loaded
/// or its files change.
///
/// The listener is bound by the caller, so that it is reachable, and says 503, from the first moment.
pub async fn serve(
    listener: impl Into<Listener>,
    load: Load,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let (status_sender, status) = watch::channel(Status::Loading);
    let listener = listener.into();
    let (drain_timeout, timeouts) = (config.drain_timeout, config.timeouts);
    let limits = Limits {
        connections_max: config.connections_max,
        per_address_max: config.connections_per_address_max,
    };
    let root_path = config.root_path.clone();
    let doors = listener
        .local_address()
        .map(|address| Arc::new(Doors::new(config.hosts.clone(), address.ip(), config.cors.as_ref())));
    let app = Arc::new(App::new(config, status.clone()));
    let router = routes::router(Arc::clone(&app))?;
    let EngineThread { stop, failed, ended } = engine_room::spawn(load, status_sender)?;

    let (begin_close, close) = oneshot::channel::<()>();
    let connections = Connections { router, root_path, limits, timeouts, doors };
    let mut server = tokio::spawn(connections.serve(listener, async { drop(close.await) }));

    let result = tokio::select! {
        () = shutdown => Ok(()),
        error = failure(failed) => Err(error),
    };
    let drained = tokio::time::timeout(drain_timeout, app.drain()).await;
    drop(begin_close);
    if drained.is_err() || tokio::time::timeout(FLUSH_TIMEOUT, &mut server).await.is_err() {
        tracing::warn!("the time for running requests is over; {} are cut off", *app.in_flight.borrow());
        server.abort();
    }
    let was_loading = matches!(*status.borrow(), Status::Loading);
    stop.stop();
    // A load cannot be interrupted; its thread ends with the process.
    if !was_loading {
        drop(tokio::time::timeout(ENGINE_STOP_TIMEOUT, ended).await);
    }
    result
}

/// Resolves only if loading fails or the model's files change.
pub(crate) async fn failure(failed: oneshot::Receiver<ServerError>) -> ServerError {
    match failed.await {
        Ok(error) => error,
        Err(_) => std::future::pending().await,
    }
}
