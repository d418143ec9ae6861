//! What became of sequences, as far as their clients can tell: in the end it must be what the metrics say.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::account::Tally;
use crate::metrics::{EndReason, EngineMetrics};

const REASONS: [EndReason; 4] = [EndReason::Stop, EndReason::Length, EndReason::Abort, EndReason::Error];

/// The ends of sequences, and the tallies of requests.
#[derive(Default)]
pub struct Ledger {
    /// For each accepted sequence the ways it may have ended. More than one, if its client left before it heard.
    ends: Vec<Vec<EndReason>>,
    /// Ends of those whose clients left before they heard whether they were accepted.
    maybe: Vec<Vec<EndReason>>,
    pub tallies: Vec<Arc<Tally>>,
    /// Requests that were refused.
    pub refused: u32,
    /// For every step, the most sequences there can have been when a command was taken.
    open: Vec<usize>,
    /// Steps in one of which the queue is said to have had no room for so many.
    claims: Vec<(RangeInclusive<u32>, usize)>,
}

impl Ledger {
    /// A sequence that had been accepted is over for its client.
    pub fn ended(&mut self, reasons: &[EndReason]) {
        self.ends.push(reasons.to_vec());
    }

    /// The same, if nobody knows whether it was accepted.
    pub fn perhaps_ended(&mut self, reasons: &[EndReason]) {
        self.maybe.push(reasons.to_vec());
    }

    /// A step is over in which commands were taken while there were at most so many sequences.
    pub fn opened(&mut self, sequences: usize) {
        self.open.push(sequences);
    }

    /// A client was told, after some steps, that the queue has no room for its sequences.
    pub fn claim_full(&mut self, steps: RangeInclusive<u32>, sequences: usize) {
        self.claims.push((steps, sequences));
    }

    /// Looks at what was claimed, after a step, when it is known how many sequences there were in it.
    pub fn check_claims(&mut self, waiting_max: usize) -> Result<(), String> {
        for (steps, sequences) in self.claims.drain(..) {
            // Steps count from 1.
            let open = steps.clone().filter_map(|step| self.open.get(step as usize - 1)).max();
            if open.is_none_or(|open| open + sequences <= waiting_max) {
                return Err(format!(
                    "{sequences} sequences were refused in steps {steps:?}: at most {open:?} were there, \
                     {waiting_max} may wait"
                ));
            }
        }
        Ok(())
    }

    /// Accepted for certain.
    pub fn accepted(&self) -> usize {
        self.ends.len()
    }

    /// Compares with what was measured, when everybody is gone.
    pub fn check(&self, metrics: &EngineMetrics) -> Result<(), String> {
        let may = |ends: &[Vec<EndReason>], reason| ends.iter().filter(|end| end.contains(&reason)).count();
        for reason in REASONS {
            let must = self.ends.iter().filter(|end| **end == [reason]).count();
            let most = may(&self.ends, reason) + may(&self.maybe, reason);
            let counted = metrics.ended[reason as usize].get() as usize;
            if !(must..=most).contains(&counted) {
                return Err(format!("{counted} sequences ended with {reason:?}, of {must} to {most}"));
            }
        }
        let (ended, known) = (ended_total(metrics), self.ends.len() as u64);
        if !(known..=known + self.maybe.len() as u64).contains(&ended) {
            return Err(format!(
                "{ended} ends of {known} sequences, and {} that nobody knows",
                self.maybe.len()
            ));
        }
        let tokens: u32 =
            self.tallies.iter().map(|tally| tally.completion_tokens.load(Ordering::Relaxed)).sum();
        if u64::from(tokens) != metrics.generation_tokens.get() {
            return Err(format!(
                "{tokens} tokens in the tallies, {} counted",
                metrics.generation_tokens.get()
            ));
        }
        Ok(())
    }
}

/// Sequences that have ended, as measured.
pub fn ended_total(metrics: &EngineMetrics) -> u64 {
    metrics.ended.iter().map(|count| count.get()).sum()
}
