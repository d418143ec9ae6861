//! The times of one sequence, all on the clock of the engine's thread, and what becomes of them in the
//! metrics.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use undine_core::{FinishReason, GenerateRequest};

use crate::account::Tally;
use crate::engine_thread::Update;
use crate::metrics::{EndReason, EngineMetrics};

/// What the sequences of one request have in common.
#[derive(Clone)]
pub(crate) struct Siblings {
    count: usize,
    /// Those that have not ended, and the most tokens that one of the others generated.
    state: Rc<Cell<(usize, u32)>>,
}

/// A sequence from its request to its end.
pub(crate) struct Lifetime {
    requested: Instant,
    /// When its first token was computed, cached ones aside.
    started: Option<Instant>,
    first_token: Option<Instant>,
    latest_token: Instant,
    prompt_tokens: u32,
    generated: u32,
    tokens_max: u32,
    tally: Arc<Tally>,
    siblings: Siblings,
}

impl Siblings {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, state: Rc::new(Cell::new((count, 0))) }
    }

    /// They are in the engine's queue.
    pub(crate) fn accepted(&self, metrics: &EngineMetrics) {
        metrics.params_n.observe(self.count as f64);
    }

    fn one_ended(&self, generated: u32, metrics: &EngineMetrics) {
        let (open, most) = self.state.get();
        let (open, most) = (open - 1, most.max(generated));
        self.state.set((open, most));
        if open == 0 {
            metrics.request_max_generation_tokens.observe(most.into());
        }
    }
}

impl Lifetime {
    pub(crate) fn new(
        requested: Instant,
        request: &GenerateRequest,
        tally: &Arc<Tally>,
        siblings: &Siblings,
    ) -> Self {
        Self {
            requested,
            started: None,
            first_token: None,
            latest_token: requested,
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            generated: 0,
            tokens_max: request.stop.max_tokens,
            tally: Arc::clone(tally),
            siblings: siblings.clone(),
        }
    }

    /// Whether its first row has been computed, and how many tokens there are.
    #[cfg(test)]
    pub(crate) fn progress(&self) -> (bool, u32) {
        (self.started.is_some(), self.generated)
    }

    /// Whose it is.
    #[cfg(test)]
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Takes note of what a step that ended `now` did.
    pub(crate) fn observe(&mut self, update: &Update, now: Instant, metrics: &EngineMetrics) {
        if let Some(cached) = update.cached_tokens {
            self.started = Some(now);
            metrics.queue_time.observe(now.saturating_duration_since(self.requested).as_secs_f64());
            self.tally.prompt_tokens.fetch_add(self.prompt_tokens, Ordering::Relaxed);
            self.tally.cached_tokens.fetch_add(cached, Ordering::Relaxed);
        }
        if update.token.is_none() {
            return;
        }
        self.generated += 1;
        self.tally.completion_tokens.fetch_add(1, Ordering::Relaxed);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            let after = now.saturating_duration_since(self.requested);
            self.tally.first_token(after);
            metrics.time_to_first_token.observe(after.as_secs_f64());
        } else {
            let since = now.saturating_duration_since(self.latest_token);
            metrics.inter_token_latency.observe(since.as_secs_f64());
        }
        self.latest_token = now;
    }

    /// Accounts for the whole of it, which ends `now`.
    pub(crate) fn end(&self, reason: EndReason, now: Instant, metrics: &EngineMetrics) {
        metrics.ended(reason);
        self.siblings.one_ended(self.generated, metrics);
        metrics.params_max_tokens.observe(self.tokens_max.into());
        metrics.request_prompt_tokens.observe(self.prompt_tokens.into());
        metrics.request_generation_tokens.observe(self.generated.into());
        metrics.e2e_latency.observe(now.saturating_duration_since(self.requested).as_secs_f64());
        let Some(first) = self.first_token else { return };
        let decode = self.latest_token.saturating_duration_since(first).as_secs_f64();
        metrics.decode_time.observe(decode);
        if self.generated > 1 {
            metrics.time_per_output_token.observe(decode / f64::from(self.generated - 1));
        }
        if let Some(started) = self.started {
            metrics.prefill_time.observe(first.saturating_duration_since(started).as_secs_f64());
            metrics
                .inference_time
                .observe(self.latest_token.saturating_duration_since(started).as_secs_f64());
        }
    }
}

impl EndReason {
    /// For a sequence that the engine has ended.
    pub(crate) fn of(finish: FinishReason) -> Self {
        match finish {
            FinishReason::Eos | FinishReason::StopToken(_) => Self::Stop,
            FinishReason::MaxTokens | FinishReason::ContextFull => Self::Length,
            FinishReason::Cancelled => Self::Abort,
            FinishReason::ConstraintFailed => Self::Error,
        }
    }
}
