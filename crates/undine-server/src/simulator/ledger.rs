//! What became of sequences, as far as their clients can tell: in the end it must be what the metrics say.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use undine_core::{CacheRoot, Origin, TokenId};

use crate::account::Tally;
use crate::metrics::{EndReason, EngineMetrics};

const REASONS: [EndReason; 4] = [EndReason::Stop, EndReason::Length, EndReason::Abort, EndReason::Error];

/// The ends of sequences, and the tallies of requests.
#[derive(Default)]
pub struct Ledger {
    /// For each accepted sequence the ways it may have ended. More than one, if its client left before it
    /// heard.
    ends: Vec<Vec<EndReason>>,
    /// Ends of those whose clients left before they heard whether they were accepted.
    maybe: Vec<Vec<EndReason>>,
    tallies: Vec<(Arc<Tally>, Origin)>,
    /// What has been asked, and what is answered to it, by the root that it is cached under.
    conversations: Vec<Conversation>,
    /// Requests that were refused.
    pub refused: u32,
    /// For every step, the most sequences there can have been when a command was taken.
    open: Vec<usize>,
    /// Steps in one of which the queue is said to have had no room for so many.
    claims: Vec<(RangeInclusive<u32>, usize)>,
}

/// One sequence.
struct Conversation {
    root: CacheRoot,
    tokens: Vec<TokenId>,
}

/// A conversation's place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConversationId(usize);

impl Ledger {
    /// A request is sent.
    pub fn asked(&mut self, tally: &Arc<Tally>, origin: &Origin) {
        self.tallies.push((Arc::clone(tally), origin.clone()));
    }

    /// One of its sequences.
    pub fn converses(&mut self, root: &CacheRoot, tokens: Vec<TokenId>) -> ConversationId {
        self.conversations.push(Conversation { root: root.clone(), tokens });
        ConversationId(self.conversations.len() - 1)
    }

    /// Most tokens of its beginning that a sequence can have found: others have them, too, under its root.
    pub fn findable(&self, id: ConversationId) -> usize {
        let own = &self.conversations[id.0];
        let others =
            self.conversations.iter().enumerate().filter(|(i, other)| *i != id.0 && other.root == own.root);
        let shared =
            others.map(|(_, other)| own.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count());
        shared.max().unwrap_or(0)
    }

    /// Whose request has this tally.
    pub fn origin(&self, tally: &Arc<Tally>) -> Option<&Origin> {
        self.tallies.iter().find(|(other, _)| Arc::ptr_eq(other, tally)).map(|(_, origin)| origin)
    }

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

    /// Sequences that are over for their clients.
    pub fn over(&self) -> usize {
        self.ends.len() + self.maybe.len()
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
            self.tallies.iter().map(|(tally, _)| tally.completion_tokens.load(Ordering::Relaxed)).sum();
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
