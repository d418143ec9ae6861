//! What the engine reports: events per request, numbers about itself.

use undine_core::{FinishReason, RowOutput};

/// Something a request's owner should know.
///
/// Order within a request: `Started`, at most one `PromptScores`, then the `Token`s, then exactly one
/// `Finished`. A cancelled request has no events after [`cancel`](crate::Engine::cancel), not even
/// `Finished`.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// Its prompt begins to be computed, for the first time.
    Started {
        /// Prompt tokens that are not computed, because the prefix cache has all that is needed of them.
        cached_tokens: u32,
    },
    /// How likely each prompt token was after those before it: one entry for each of tokens `1..prompt_len`.
    /// Only if `prompt_logprobs` was asked for.
    PromptScores(Vec<RowOutput>),
    /// The next token of the answer, stop tokens included.
    Token(RowOutput),
    /// The last event.
    Finished(FinishReason),
}

/// A snapshot of the engine. Totals count from its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EngineStats {
    /// Sequences with a slot, including ended ones whose last step is still in flight.
    pub running: u32,
    /// Requests in the queue, including preempted ones.
    pub waiting: u32,
    /// Of these, requests held back until a running one has computed the prefix they share; those behind them
    /// wait for their turn.
    pub waiting_deferred: u32,
    /// K/V blocks held by sequences.
    pub blocks_used: u32,
    /// K/V blocks that no sequence holds and that keep what was computed until somebody needs the room.
    pub blocks_cached: u32,
    /// K/V blocks there are.
    pub blocks_total: u32,
    /// State slots held by sequences.
    pub slots_used: u32,
    /// State slots there are.
    pub slots_total: u32,
    /// Steps submitted and not yet collected.
    pub steps_in_flight: u32,
    /// Steps submitted.
    pub steps_total: u64,
    /// Times a running sequence had to give up its blocks and start over.
    pub preemptions: u64,
    /// Prompt tokens of the requests whose prompt has been computed; recomputed ones count once.
    pub prompt_tokens_total: u64,
    /// Those of them that were computed when their request started for the first time.
    pub prompt_tokens_computed_total: u64,
    /// Those that were not, because they were in the prefix cache.
    pub prompt_tokens_cached_total: u64,
    /// Prompt tokens looked up in the prefix cache; a request counts once, when it starts.
    pub prefix_cache_queries_total: u64,
    /// Those of them that were found and not computed.
    pub prefix_cache_hits_total: u64,
    /// Images of accepted requests; an image counts in each.
    pub images_total: u64,
    /// Tiles of images that the vision tower has encoded.
    pub image_tiles_encoded_total: u64,
    /// Tiles that it need not encode, because what came of them was still known. Those whose keys and values
    /// were in the prefix cache are in neither number.
    pub image_tiles_reused_total: u64,
    /// Bytes that encoded tiles take which are kept for others.
    pub image_cache_bytes: u64,
    /// Tokens reported.
    pub generation_tokens_total: u64,
    /// Rows of the latest submitted step.
    pub last_step_rows: u32,
    /// Sequences in the latest submitted step.
    pub last_step_sequences: u32,
}
