//! What must hold after every turn of the engine's thread, whatever happened in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use undine_core::{Origin, RequestId};
use undine_engine::EngineStats;

use super::ledger::{Ledger, ended_total};
use super::outside::Outside;
use super::plan::Plan;
use crate::engine_room::{EngineRoom, Tracked};
use crate::metrics::EngineMetrics;

/// Steps that a sequence may take beside one for each of its rows: masks, images, a device that is behind.
const SILENCE_SLACK: u32 = 16;
/// How many times the queue of the configuration is exceeded for tenants who have little in it.
const QUEUE_OVERFLOW: u32 = 2;

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
    tenants: u32,
    /// The longest silence there was.
    pub longest_silence: u32,
}

/// How far a sequence has come, and for how many steps of the device it came no further while later ones did.
#[derive(Clone)]
struct Silence {
    progress: (bool, u32),
    steps: u32,
    origin: Origin,
    /// How often those came on meanwhile that have to come first.
    ahead: u32,
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
            open_max: (seats + QUEUE_OVERFLOW * plan.config.max_waiting) as usize,
            seen: BTreeMap::new(),
            accepted: 0,
            steps: 0,
            silence_max: silence_max(plan),
            tenants: plan.tenants() as u32,
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
        self.nobody_starves(room, &outside.ledger.borrow(), stats.steps_total)?;
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

    /// Who came earlier comes on, at least as long as later ones do that have no right to come first.
    fn nobody_starves(&mut self, room: &EngineRoom, ledger: &Ledger, steps: u64) -> Result<(), String> {
        let before = std::mem::take(&mut self.seen);
        let mut came_on = Vec::new();
        for (&id, Tracked { lifetime, .. }) in &room.sequences {
            let progress = lifetime.progress();
            let silence = before.get(&id).cloned();
            let mut silence = match silence {
                Some(silence) => silence,
                None => {
                    let origin = ledger.origin(lifetime.tally()).ok_or("a sequence that nobody asked for")?;
                    Silence { progress: (false, 0), steps: 0, origin: origin.clone(), ahead: 0 }
                }
            };
            if silence.progress != progress || !before.contains_key(&id) {
                (silence.progress, silence.steps, silence.ahead) = (progress, 0, 0);
                if progress.0 {
                    came_on.push((id, silence.origin.clone()));
                }
            }
            self.seen.insert(id, silence);
        }
        // Who was there and is not any more has come on, or has left, which does no harm here.
        came_on.extend(
            before
                .iter()
                .filter(|(id, _)| !self.seen.contains_key(id))
                .map(|(id, s)| (*id, s.origin.clone())),
        );
        let is_step = steps > self.steps;
        for (id, silence) in &mut self.seen {
            let comes_first = |other: &RequestId, origin: &Origin| {
                origin.tenant == silence.origin.tenant
                    && (other < id || origin.priority < silence.origin.priority)
            };
            let overtaken = came_on.iter().any(|(other, origin)| other > id && !comes_first(other, origin));
            silence.ahead +=
                came_on.iter().filter(|(other, origin)| comes_first(other, origin)).count() as u32;
            if is_step && overtaken {
                silence.steps += 1;
                self.longest_silence = self.longest_silence.max(silence.steps);
            }
            // While those before it in its own queue come on, it waits for them; and for each of their steps
            // every other tenant has one.
            let most = self.silence_max + silence.ahead * self.tenants;
            if silence.steps > most {
                let steps = silence.steps;
                return Err(format!("{id:?} has come no further for {steps} steps while later ones did"));
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

/// Steps that the device may take between two signs of life of a sequence while later arrivals of its own
/// tenant or of others give some, beside those in which sequences before it in its own queue do. Once its
/// tenant's turn has come it computes at most all of its tokens again; and that comes after each of the
/// others has had one.
fn silence_max(plan: &Plan) -> u32 {
    plan.capacity.steps_in_flight * plan.tenants() as u32 * (plan.context() + SILENCE_SLACK)
}
