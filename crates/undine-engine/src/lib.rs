//! Sequences, scheduler, block pool and the step loop: requests in, tokens out, nothing else.
//!
//! The engine is pure and deterministic: no threads, no clock, no text, no device of its own. Its owner calls
//! [`Engine::add`] and [`Engine::cancel`], then [`Engine::step`] while [`Engine::has_work`], and reads the
//! events.
//!
//! There is no prefill phase and no decode phase. A sequence has *known* tokens (prompt and answer so far)
//! and *computed* ones (their K/V is in the cache); a step closes the gap within its budget of rows. Chunked
//! prefill, decoding and resuming after preemption are the same rule (the idea is vLLM's v1 scheduler's).
//!
//! With two steps in flight the next step is submitted before the tokens of the last one are known
//! ([`TOKEN_FROM_SLOT`](undine_core::batch::TOKEN_FROM_SLOT)). If such a token turns out to end its answer,
//! the row computed too much is dropped, and blocks and slot are freed when that row's step has been
//! collected. A sequence whose penalties need the missing token waits for it.
//!
//! Keys and values stay in the cache after their sequence has ended, and while it runs, for whoever has the
//! same prefix. Convolution states are rebuilt from them: the convolution is a finite filter, so a sequence
//! that starts a few tokens early with an empty state, without writing what is in the cache already, is exact
//! where its own tokens begin. Where a state was kept, not even that is needed.
//!
//! Images are tiles that a vision tower turns into rows for the places of some of a prompt's tokens. That
//! happens in slices before the steps, once a sequence has come to those places; the prefix tree knows them
//! by the image instead of the token.
//!
//! Requests have tenants, who take turns, and cache roots, below which nothing is shared with others.
//!
//! What a request's owner sees does not depend on the other requests: not on the batch, the chunks, the
//! number of steps in flight, on what is cached, or on whether the sequence was preempted.
#![forbid(unsafe_code)]

mod block_pool;
mod config;
mod engine;
mod events;
mod images;
mod prefix_tree;
mod running;
mod scheduler;
mod sequence;
mod slot_pool;
mod snapshot_pool;
mod tenants;

pub use config::{AddError, EngineConfig, EngineError, IMAGE_CACHE_BYTES, LOGPROBS_MAX, PrefixCaching};
pub use engine::Engine;
pub use events::{EngineStats, Event};
pub use images::STEP_PATCHES;
