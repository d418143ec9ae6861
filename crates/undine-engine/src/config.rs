//! The engine's limits, and what it says when a request or a configuration breaks them.

use undine_core::{Capacity, ExecutorError, GenerateRequest, TokenId, VisionConfig};

use crate::images::check_images;

/// Most alternatives reported beside one token. Bounds the memory of a request that asks for prompt scores.
pub const LOGPROBS_MAX: u32 = 128;

/// Bytes of encoded images to keep, unless asked for otherwise: of the largest kind, with some 2500 rows of
/// 2048 values, a dozen.
pub const IMAGE_CACHE_BYTES: u64 = 256 << 20;

/// Whether keys and values outlive their sequence.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum PrefixCaching {
    /// Until others need the memory.
    #[default]
    On,
    /// No.
    Off,
}

/// The limits of an engine. What the executor has reserved ([`Capacity`]) limits it further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    /// Most sequences running at once.
    pub max_num_seqs: u32,
    /// Most rows (tokens to compute) in one step, all sequences together.
    pub max_num_batched_tokens: u32,
    /// Most tokens of one sequence, prompt and answer.
    pub max_model_len: u32,
    /// Most requests in the queue; further ones are refused.
    pub max_waiting: u32,
    /// Most rows of one sequence in a step.
    pub prefill_chunk: u32,
    /// Whether requests share what is cached of their prompts.
    pub prefix_caching: PrefixCaching,
    /// Most bytes of encoded images that are kept for other requests and later turns.
    pub image_cache_bytes: u64,
}

impl EngineConfig {
    /// Checks that no limit, here or in `capacity`, keeps the engine from doing anything at all.
    pub(crate) fn check(&self, capacity: &Capacity) -> Result<(), EngineError> {
        let limits = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("max_waiting", self.max_waiting),
            ("prefill_chunk", self.prefill_chunk),
            ("the executor's blocks", capacity.blocks),
            ("the executor's block_size", capacity.block_size),
            ("the executor's slots", capacity.slots),
            ("the executor's rows", capacity.rows),
            ("the executor's outputs", capacity.outputs),
            ("the executor's vocab", capacity.vocab),
            ("the executor's hidden", capacity.hidden),
            ("the executor's steps_in_flight", capacity.steps_in_flight),
        ];
        match limits.iter().find(|(_, value)| *value == 0) {
            Some(&(name, _)) => Err(EngineError::ZeroLimit { name }),
            None => Ok(()),
        }
    }

    /// Most tokens of one sequence: the configured length or all of the cache.
    pub(crate) fn context(&self, capacity: &Capacity) -> u32 {
        self.max_model_len.min(capacity.blocks.saturating_mul(capacity.block_size))
    }
}

/// Why no engine could be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// The vision tower belongs to another language model.
    #[error("the vision tower gives rows of {found} values, the language model takes {expected}")]
    VisionWidth {
        /// [`Capacity::hidden`].
        expected: u32,
        /// The tower's.
        found: usize,
    },
    /// A limit is zero, so nothing could ever run.
    #[error("{name} is 0, expected at least 1")]
    ZeroLimit {
        /// Which limit.
        name: &'static str,
    },
}

/// Why a request was refused. The messages are meant for the one who sent it.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AddError {
    /// Too many requests are waiting. The only refusal that goes away by itself.
    #[error("{waiting} requests are waiting and the limit is {limit}; try again later")]
    QueueFull {
        /// Requests in the queue.
        waiting: u32,
        /// [`EngineConfig::max_waiting`].
        limit: u32,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty, expected at least one token")]
    EmptyPrompt,
    /// The prompt and one token of answer do not fit.
    #[error("the prompt has {prompt} tokens, at most {limit} fit beside an answer; shorten the prompt")]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt: u64,
        /// Most that a prompt of this request may have.
        limit: u32,
    },
    /// A token of the prompt does not exist.
    #[error("token {token} in the prompt is not in the vocabulary, expected ids below {vocab}")]
    TokenOutOfVocabulary {
        /// The token.
        token: TokenId,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// A stop token or end-of-sequence token does not exist.
    #[error("stop token {token} is not in the vocabulary, expected ids below {vocab}")]
    StopTokenOutOfVocabulary {
        /// The token.
        token: TokenId,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// A biased token does not exist.
    #[error("logit_bias names token {token}, which is not in the vocabulary, expected ids below {vocab}")]
    BiasOutOfVocabulary {
        /// The token.
        token: TokenId,
        /// Entries of the vocabulary.
        vocab: u32,
    },
    /// A bias is not a number that can be added to a logit.
    #[error(
        "logit_bias of token {token} is {bias}, expected a finite number, or negative infinity to forbid the token"
    )]
    InvalidBias {
        /// The token.
        token: TokenId,
        /// Its bias: NaN or positive infinity.
        bias: f32,
    },
    /// More alternatives than [`LOGPROBS_MAX`].
    #[error("{asked} log-probabilities per token are asked for, at most {limit} are returned")]
    TooManyLogprobs {
        /// How many.
        asked: u32,
        /// [`LOGPROBS_MAX`].
        limit: u32,
    },
    /// There is no vision tower.
    #[error("this model takes no images, only text")]
    NoVision,
    /// An image does not belong to its prompt, or to this model.
    #[error("image {image} of the prompt: {reason}")]
    InvalidImage {
        /// Which, counted from 0.
        image: usize,
        /// What was expected and what was found.
        reason: String,
    },
    /// Every number that an image can have is taken.
    #[error("the engine has been given {limit} different images, all that it can tell apart; restart it")]
    TooManyImages {
        /// How many it can tell apart.
        limit: u32,
    },
    /// An earlier step failed; the engine takes no more requests.
    #[error(transparent)]
    DeviceFailed(#[from] ExecutorError),
}

/// Checks everything about a request that depends on it alone.
pub(crate) fn check_request(
    request: &GenerateRequest,
    vocab: u32,
    context: u32,
    vision: Option<&VisionConfig>,
) -> Result<(), AddError> {
    let outside = |token: &&TokenId| **token >= vocab;
    if request.prompt.is_empty() {
        return Err(AddError::EmptyPrompt);
    }
    // An answer, if one is wanted, has at least one token.
    let limit = context - request.stop.max_tokens.min(1);
    if request.prompt.len() as u64 > u64::from(limit) {
        return Err(AddError::PromptTooLong { prompt: request.prompt.len() as u64, limit });
    }
    check_images(&request.images, &request.prompt, vision)?;
    if let Some(&token) = request.prompt.iter().find(outside) {
        return Err(AddError::TokenOutOfVocabulary { token, vocab });
    }
    if let Some(&token) = request.stop.stop_tokens.iter().chain(&request.stop.eos_tokens).find(outside) {
        return Err(AddError::StopTokenOutOfVocabulary { token, vocab });
    }
    for &(token, bias) in &request.logit_bias {
        if token >= vocab {
            return Err(AddError::BiasOutOfVocabulary { token, vocab });
        }
        if bias.is_nan() || bias == f32::INFINITY {
            return Err(AddError::InvalidBias { token, bias });
        }
    }
    let asked = request.sampling.logprobs.max(request.prompt_logprobs).unwrap_or(0);
    if asked > LOGPROBS_MAX {
        return Err(AddError::TooManyLogprobs { asked, limit: LOGPROBS_MAX });
    }
    Ok(())
}
