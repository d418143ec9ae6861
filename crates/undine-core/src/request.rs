//! A validated request for tokens, as the engine takes it: no text, no HTTP.

use std::sync::Arc;

use crate::vision::{ImageKey, Tile};
use crate::{SamplingParams, TokenId};

/// Names a request within one engine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Who sends requests, as far as fairness goes: whoever shares one number shares one turn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct TenantId(pub u64);

/// What a request may find in caches: that which requests with an equal one left there, and nothing else.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct CacheRoot {
    /// A number for those who may share.
    pub domain: u64,
    /// A word of their own that separates further.
    pub salt: Option<Arc<str>>,
}

/// Where a request comes from, and how urgent it is there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Whose turn it takes.
    pub tenant: TenantId,
    /// Which cached prefixes and images it may find.
    pub cache_root: CacheRoot,
    /// Requests of one tenant start in ascending order of this, then of arrival.
    pub priority: i64,
}

/// When a generation ends, as far as token ids can tell. Stop strings are text and live above the engine.
#[derive(Clone, PartialEq, Debug)]
pub struct StopRules {
    /// Most tokens to generate; 0 only scores the prompt.
    pub max_tokens: u32,
    /// No stop token is allowed before this many tokens are out.
    pub min_tokens: u32,
    /// Tokens that end the answer, but not its thought. They are reported, as the last token.
    pub stop_tokens: Vec<TokenId>,
    /// End-of-sequence tokens of the model; empty under `ignore_eos`.
    pub eos_tokens: Vec<TokenId>,
    /// How a thought is told from the answer; `None` if nothing is a thought.
    pub thought: Option<Thought>,
}

impl StopRules {
    /// Ends after so many tokens, and for no other reason than a full context.
    pub fn after(max_tokens: u32) -> Self {
        Self { max_tokens, min_tokens: 0, stop_tokens: Vec::new(), eos_tokens: Vec::new(), thought: None }
    }
}

/// The tokens around a thought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thought {
    /// Begins one.
    pub start: TokenId,
    /// Ends one.
    pub end: TokenId,
    /// Whether the prompt ends within one.
    pub begun: bool,
}

/// Tokens of a prompt whose place the rows of one tile take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageSpan {
    /// Index in [`GenerateRequest::prompt`] of the first of them. There are as many as the tile has tokens
    /// ([`Tile::tokens`]), and each is the model's image token.
    pub first: u32,
    /// What stands there. A clone shares its pixels.
    pub tile: Tile,
}

/// An image of a prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PromptImage {
    /// Equal keys mean equal tiles, in this request and every other.
    pub key: ImageKey,
    /// Its tiles, in the order of the prompt.
    pub spans: Vec<ImageSpan>,
}

/// One sequence to generate.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateRequest {
    /// The prompt; at least one token.
    pub prompt: Vec<TokenId>,
    /// The images in it, in its order; none for a text.
    pub images: Vec<PromptImage>,
    /// How to sample.
    pub sampling: SamplingParams,
    /// Additions to single logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// When to stop.
    pub stop: StopRules,
    /// Also score the prompt's tokens, with this many alternatives each.
    pub prompt_logprobs: Option<u32>,
    /// Whose it is.
    pub origin: Origin,
}

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// An end-of-sequence token.
    Eos,
    /// One of the request's stop tokens.
    StopToken(TokenId),
    /// `max_tokens` reached.
    MaxTokens,
    /// The model's context, or all of the cache, is full.
    ContextFull,
    /// Cancelled by its owner.
    Cancelled,
    /// The constraint refused the token that was sampled, or cannot go on.
    ConstraintFailed,
}
