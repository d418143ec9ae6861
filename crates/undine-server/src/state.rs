//! What all handlers share: the configuration and what has become of the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::watch;
use undine_core::{Capacity, TokenId};
use undine_engine::EngineConfig;
use undine_text::tools::TOOL_CALL_START;

use crate::clients::Clients;
use crate::engine_thread::EngineHandle;
use crate::images::Vision;
use crate::kept_tokens::KeptTokens;
use crate::media::Media;
use crate::metrics::{EngineMetrics, HttpMetrics};
use crate::options::{ReasoningFormat, ToolCallFormat};
use crate::preparing::Preparing;
use crate::prompt;
use crate::remarks::Remarks;
use crate::rules::Grammars;
use crate::serve::{ServerConfig, ServerModel};
use crate::turns::KeptTurns;
use crate::wire::common::TokenNames;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::unknown;

/// Between the seeds of requests.
const SEED_STEP: u64 = 0xda94_2042_e4dd_58b5;

/// What has become of the model.
#[derive(Clone)]
pub(crate) enum Status {
    /// Not there yet.
    Loading,
    /// Requests are answered.
    Ready(Arc<Ready>),
    /// The engine is gone.
    Failed {
        reason: String,
        /// What it served, whose numbers stay to be read.
        last: Option<Arc<Ready>>,
    },
}

impl Status {
    /// Nothing is answered from here on.
    pub(crate) fn fail(&mut self, reason: String) {
        let last = match self {
            Self::Ready(ready) => Some(Arc::clone(ready)),
            Self::Loading | Self::Failed { .. } => None,
        };
        *self = Self::Failed { reason, last };
    }
}

/// A model that answers.
pub(crate) struct Ready {
    pub(crate) model: ServerModel,
    /// There if the model takes images.
    pub(crate) vision: Option<Vision>,
    /// Entries of the executor's vocabulary: ids below it can be computed with.
    pub(crate) vocab: u32,
    /// Most tokens of prompt and answer together.
    pub(crate) max_model_len: u32,
    /// Most bytes of text that `max_model_len` tokens can stand for.
    pub(crate) prompt_bytes_max: usize,
    /// Most sequences one request can have: they enter the engine's queue together.
    pub(crate) sequences_max: usize,
    pub(crate) engine: EngineHandle,
    pub(crate) config: EngineConfig,
    pub(crate) capacity: Capacity,
    pub(crate) grammars: Arc<Grammars>,
    /// Answers that may come back in the next turn.
    pub(crate) turns: Arc<KeptTurns>,
    /// Tokens of texts that may come back.
    pub(crate) tokens: KeptTokens,
    /// Unix time in seconds.
    pub(crate) created: u64,
    /// Seeds made so far for requests that brought none.
    pub(crate) seeds: AtomicU64,
}

impl Ready {
    /// Checks the model a request names and returns the name to answer with. Without a name it is the first.
    pub(crate) fn served_name(&self, asked: Option<&str>) -> ApiResult<String> {
        match asked {
            Some(asked) if self.model.names.iter().any(|name| name == asked) => Ok(asked.to_owned()),
            Some(asked) => {
                Err(ApiError::model_not_found(&crate::wire::fields::excerpt(asked), &self.model.names))
            }
            None => Ok(self.model.names[0].clone()),
        }
    }

    /// Refuses a request while the queue is full for every tenant, before anything is done for it. The engine
    /// decides once more when it comes, and for its own tenant.
    pub(crate) fn check_queue(&self) -> ApiResult<()> {
        let waiting = u64::from(self.engine.stats().waiting);
        match waiting >= 2 * u64::from(self.config.max_waiting) {
            true => Err(ApiError::queue_full()),
            false => Ok(()),
        }
    }

    /// The id of what begins tool calls, if they are looked for and the vocabulary has it.
    pub(crate) fn tool_call_start(&self) -> Option<TokenId> {
        match self.model.answers.tool_calls {
            ToolCallFormat::None => None,
            ToolCallFormat::Lfm2 => self.model.tokenizer.as_ref()?.token_id(TOOL_CALL_START),
        }
    }

    /// A seed for a request without one.
    pub(crate) fn next_seed(&self) -> u64 {
        match self.model.requests.seed {
            None => prompt::random(),
            // Odd multiples differ; another constant than those of the choices and of the sampler (L'Ecuyer
            // 1999).
            Some(seed) => {
                seed.wrapping_add(self.seeds.fetch_add(1, Ordering::Relaxed).wrapping_mul(SEED_STEP))
            }
        }
    }

    /// The arguments of the chat template: the request's, and the server's where it has none.
    pub(crate) fn template_kwargs(&self, asked: &Map<String, Value>) -> Map<String, Value> {
        let mut kwargs = self.model.requests.template_kwargs.clone();
        kwargs.extend(asked.iter().map(|(name, value)| (name.clone(), value.clone())));
        kwargs
    }

    /// How tokens are named in the log-probabilities of a request.
    pub(crate) fn token_names(&self, asked: TokenNames) -> TokenNames {
        if self.model.requests.tokens_as_ids { TokenNames::Ids } else { asked }
    }

    /// Refuses more log-probabilities than this server gives.
    pub(crate) fn check_logprobs(&self, param: &str, asked: Option<u32>) -> ApiResult<()> {
        let most = self.model.requests.logprobs_max.min(undine_engine::LOGPROBS_MAX);
        match asked {
            Some(asked) if asked > most => Err(ApiError::field(
                param,
                format!("expected a whole number from 0 to {most}, found {asked}"),
            )),
            _ => Ok(()),
        }
    }

    /// The ids of `<think>` and `</think>`, if this model's reasoning is to be split off.
    pub(crate) fn think(&self) -> Option<(TokenId, TokenId)> {
        let tokenizer = self.model.tokenizer.as_ref()?;
        match self.model.answers.reasoning {
            ReasoningFormat::None => None,
            ReasoningFormat::Think => Some((tokenizer.token_id("<think>")?, tokenizer.token_id("</think>")?)),
        }
    }
}

/// Shared by all handlers.
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) http: HttpMetrics,
    pub(crate) media: Arc<Media>,
    pub(crate) clients: Arc<Clients>,
    /// Requests whose answer is not out completely.
    pub(crate) in_flight: watch::Sender<usize>,
    is_draining: AtomicBool,
    status: watch::Receiver<Status>,
    pub(crate) preparing: Preparing,
    /// Requests with fields that nobody knows.
    strange: AtomicU64,
    /// Requests with schemas that were relaxed.
    relaxed: AtomicU64,
}

impl App {
    pub(crate) fn new(config: ServerConfig, status: watch::Receiver<Status>) -> Self {
        Self {
            media: Arc::new(Media::new(config.media.clone())),
            clients: Clients::new(config.requests_per_client_max),
            config,
            http: HttpMetrics::new(),
            in_flight: watch::Sender::new(0),
            is_draining: AtomicBool::new(false),
            status,
            preparing: Preparing::new(),
            strange: AtomicU64::new(0),
            relaxed: AtomicU64::new(0),
        }
    }

    /// Tells of fields of a body that nobody knows, or refuses them.
    pub(crate) fn heed_ignored(&self, ignored: &[String]) -> ApiResult<()> {
        let Some(first) = ignored.first() else { return Ok(()) };
        if self.config.strict_fields {
            return Err(unknown(first));
        }
        let count = self.strange.fetch_add(1, Ordering::Relaxed) + 1;
        // The first, and then ever more rarely.
        if count.is_power_of_two() {
            let names = ignored.join(", ");
            tracing::warn!(
                "ignored fields of a request that nobody here knows: {names}; {count} such requests so far \
                 (--strict-fields refuses them)"
            );
        }
        Ok(())
    }

    /// Tells of schemas that are not enforced as a whole.
    pub(crate) fn tell_relaxed(&self, remarks: &Remarks) {
        if remarks.relaxed.is_empty() {
            return;
        }
        let count = self.relaxed.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            let places = remarks.relaxed.join(", ");
            tracing::warn!(
                "what no grammar can enforce was left out of a request's schemas: {places}; {count} such requests so far \
                 (\"strict\": true refuses them)"
            );
        }
    }

    /// Refuses new requests, and resolves when those that run have been answered.
    pub(crate) async fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
        // The sender is this one's own, so there is no error.
        drop(self.in_flight.subscribe().wait_for(|count| *count == 0).await);
    }

    /// The model, or a 503 that says why there is none.
    pub(crate) fn ready(&self) -> ApiResult<Arc<Ready>> {
        if self.is_draining.load(Ordering::Acquire) {
            let message = "the server is shutting down; ask another one, or try again later";
            return Err(ApiError::unavailable("shutting_down", message));
        }
        self.model()
    }

    /// The same, also while the server is shutting down.
    pub(crate) fn model(&self) -> ApiResult<Arc<Ready>> {
        match &*self.status.borrow() {
            Status::Ready(ready) => Ok(Arc::clone(ready)),
            Status::Loading => {
                Err(ApiError::unavailable("model_loading", "the model is still loading; try again later"))
            }
            Status::Failed { reason, .. } => Err(ApiError::unavailable("engine_failed", reason.clone())),
        }
    }

    /// The numbers of the engine, also when it is gone.
    pub(crate) fn engine_metrics(&self) -> Option<Arc<EngineMetrics>> {
        match &*self.status.borrow() {
            Status::Ready(ready) | Status::Failed { last: Some(ready), .. } => {
                Some(Arc::clone(&ready.engine.metrics))
            }
            Status::Loading | Status::Failed { last: None, .. } => None,
        }
    }

    /// What to tell a client whose sequence ended because the engine did.
    pub(crate) fn engine_failure(&self) -> ApiError {
        match &*self.status.borrow() {
            Status::Failed { reason, .. } => ApiError::internal(reason.clone()),
            _ => ApiError::internal("the engine stopped before the answer was complete"),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
