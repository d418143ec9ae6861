//! What must hold after every turn of the engine's thread, whatever happened in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use undine_core::RequestId;
use undine_engine::EngineStats;

use super::ledger::ended_total;
use super::outside::Outside;
use super::plan::Plan;
use crate::engine_room::EngineRoom;
use crate::metrics::EngineMetrics;

/// Steps that a sequence may take beside one for each of its rows, twice: masks, images, a device that is behind.
const SILENCE_SLACK: u32 = 16;

/// Compares turn after turn.
pub struct Checks {
    metrics: Arc<EngineMetrics>,
    stats: Arc<Mutex<EngineStats>>,
    /// Most sequences the engine can have.
    open_max: usize,
    /// Sequences that have not ended, and how long nothing was heard of them.
    seen: BTreeMap<RequestId, Silence>,
    /// Accepted before this turn, and steps.
    accepted: u64,
    steps: u64,
    silence_max: u32,
    /// The longest silence there was.
    pub longest_silence: u32,
}

/// How far a sequence has come, and for how many steps of the device it came no further while later ones did.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Silence {
    progress: (bool, u32),
    steps: u32,
}

/// Fails with what was found.
macro_rules! equal {
    ($what:literal, $($value:expr),+) => {
        let values = [$($value as u64),+];
        if values.iter().any(|value| *value != values[0]) {
            return Err(format!("{}: {values:?} should be equal", $what));
        }
    };
}

impl Checks {
    pub fn new(plan: &Plan, metrics: Arc<EngineMetrics>, stats: Arc<Mutex<EngineStats>>) -> Self {
        let seats = plan.config.max_num_seqs.min(plan.capacity.slots);
        Self {
            metrics,
            stats,
            open_max: (seats + plan.config.max_waiting) as usize,
            seen: BTreeMap::new(),
            accepted: 0,
            steps: 0,
            silence_max: silence_max(plan),
            longest_silence: 0,
        }
    }

    /// After a turn; `open_before` sequences had not ended before it.
    pub fn after_turn(
        &mut self,
        room: &EngineRoom,
        outside: &Outside,
        open_before: usize,
    ) -> Result<(), String> {
        room.engine.check_integrity();
        let stats = room.engine.stats();
        if *self.stats.lock().unwrap_or_else(PoisonError::into_inner) != stats {
            return Err("the published numbers are not the engine's".to_owned());
        }
        self.counts(room, &stats)?;
        let open = room.sequences.len();
        if open > self.open_max {
            return Err(format!("{open} sequences in an engine for {}", self.open_max));
        }
        let followed: usize = outside.clients.borrow().iter().map(|client| client.open()).sum();
        if open > followed {
            return Err(format!(
                "{open} sequences are computed, {followed} have somebody who waits for them"
            ));
        }
        let new = self.accepted_in_this_turn();
        let mut ledger = outside.ledger.borrow_mut();
        ledger.opened(open_before + new);
        ledger.check_claims(outside.waiting_max)?;
        drop(ledger);
        self.nobody_starves(room, new, stats.steps_total)?;
        (self.accepted, self.steps) = (self.accepted + new as u64, stats.steps_total);
        Ok(())
    }

    /// Sequences that were accepted since the last turn was checked.
    pub fn accepted_in_this_turn(&self) -> usize {
        self.metrics.params_n.get_sample_sum() as usize - self.accepted as usize
    }

    /// Every number is the sum of what it counts.
    fn counts(&self, room: &EngineRoom, stats: &EngineStats) -> Result<(), String> {
        let Self { metrics, .. } = self;
        let open = room.sequences.len();
        equal!("running", metrics.running.get(), stats.running);
        equal!("waiting", metrics.waiting.get(), stats.waiting);
        if stats.steps_in_flight == 0 {
            equal!("sequences of thread and engine", open, stats.running + stats.waiting);
        }
        equal!("accepted and ended", metrics.params_n.get_sample_sum(), ended_total(metrics) + open as u64);
        let generated: u32 = room.sequences.values().map(|tracked| tracked.lifetime.progress().1).sum();
        equal!(
            "generated tokens",
            metrics.generation_tokens.get(),
            stats.generation_tokens_total,
            metrics.time_to_first_token.get_sample_count() + metrics.inter_token_latency.get_sample_count(),
            metrics.request_generation_tokens.get_sample_sum() + f64::from(generated)
        );
        equal!(
            "ends",
            ended_total(metrics),
            metrics.e2e_latency.get_sample_count(),
            metrics.request_prompt_tokens.get_sample_count(),
            metrics.request_generation_tokens.get_sample_count(),
            metrics.params_max_tokens.get_sample_count()
        );
        equal!("steps", metrics.step_rows.get_sample_count(), stats.steps_total);
        Ok(())
    }

    /// Who came earlier comes on, at least as long as later ones do.
    fn nobody_starves(&mut self, room: &EngineRoom, accepted: usize, steps: u64) -> Result<(), String> {
        let before = std::mem::take(&mut self.seen);
        let mut new = 0;
        for (&id, tracked) in &room.sequences {
            let progress = tracked.lifetime.progress();
            let known = before.get(&id).copied();
            new += usize::from(known.is_none());
            self.seen.insert(id, Silence { progress, steps: known.map_or(0, |silence| silence.steps) });
        }
        let came_on = |id: &RequestId, silence: &Silence| match before.get(id) {
            Some(known) => known.progress != silence.progress,
            None => silence.progress.0,
        };
        // Who came and ended within the turn is among the latest.
        let came_and_went = (accepted > new).then_some(RequestId(u64::MAX));
        let latest = self.seen.iter().filter(|(id, silence)| came_on(id, silence)).map(|(id, _)| *id).max();
        let latest = latest.max(came_and_went);
        for (id, silence) in &mut self.seen {
            let is_overtaken = latest.is_some_and(|latest| *id < latest);
            if before.get(id).is_none_or(|known| known.progress != silence.progress) {
                silence.steps = 0;
            } else if is_overtaken && steps > self.steps {
                silence.steps += 1;
                self.longest_silence = self.longest_silence.max(silence.steps);
                if silence.steps > self.silence_max {
                    let steps = silence.steps;
                    return Err(format!("{id:?} has come no further for {steps} steps while later ones did"));
                }
            }
        }
        Ok(())
    }

    /// Nothing is left behind by a thread that has nothing to do, or that has ended.
    pub fn at_rest(&self, outside: &Outside) -> Result<(), String> {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let left = (stats.running, stats.waiting, stats.blocks_used, stats.slots_used, stats.steps_in_flight);
        if left != (0, 0, 0, 0, 0) {
            return Err(format!("sequences, blocks, slots and steps are left: {left:?}"));
        }
        equal!("running, waiting", self.metrics.running.get(), self.metrics.waiting.get(), 0);
        equal!(
            "accepted and ended",
            self.metrics.params_n.get_sample_sum(),
            ended_total(&self.metrics),
            self.metrics.e2e_latency.get_sample_count()
        );
        equal!(
            "requests and their ends",
            self.metrics.params_n.get_sample_count(),
            self.metrics.request_max_generation_tokens.get_sample_count()
        );
        let computed = stats.prompt_tokens_computed_total + stats.prompt_tokens_cached_total;
        equal!("prompt tokens", computed, stats.prompt_tokens_total);
        // The world's own is one of them.
        equal!("constraints that are still there", Arc::strong_count(outside.shared_desk()) - 1, 0);
        outside.ledger.borrow_mut().check_claims(outside.waiting_max)?;
        outside.ledger.borrow().check(&self.metrics)
    }
}

/// Steps that the device may take between two signs of life of a sequence while later arrivals give some: those before it
/// all run already, so it has a row in each, and computes at most all of its tokens again.
fn silence_max(plan: &Plan) -> u32 {
    plan.capacity.steps_in_flight * (2 * plan.context() + SILENCE_SLACK)
}
