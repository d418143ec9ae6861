//! A sequence that runs: its place on the device, and how far it has come.

use undine_core::batch::TOKEN_FROM_SLOT;
use undine_core::{
    Batch, BatchSequence, BlockId, FinishReason, OutputKind, OutputRow, RequestId, RowOutput, Slot,
    SnapshotId, StateSource,
};

use crate::Event;
use crate::block_pool::BlockPool;
use crate::prefix_tree::{Prefix, common};
use crate::sequence::Sequence;

/// What a step still has room for.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// Rows.
    pub rows: u32,
    /// Rows through the head.
    pub outputs: u32,
    /// Rows of one sequence.
    pub chunk: u32,
}

/// One sequence's share of a submitted step: which of the step's outputs are its own.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Whose.
    pub id: RequestId,
    /// Its place in the order in which sequences began to run.
    pub begun: u64,
    /// Prompt scores, which come first.
    pub scores: u32,
    /// Sampled tokens: 0 or 1.
    pub samples: u32,
    /// Tokens of the prompt, if these rows complete it for the first time.
    pub prompt_completed: u32,
    /// If these are its first rows: prompt tokens that need not be computed.
    pub started: Option<u32>,
}

/// What a running sequence is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing: it may be scheduled.
    Active,
    /// To be preempted, once no step that uses its blocks is in flight.
    Evicting,
    /// Finished or cancelled; to be dropped once no step that uses its blocks is in flight.
    Ended,
}

/// A sequence with a slot and blocks.
pub(crate) struct Running {
    /// The request and its tokens.
    pub sequence: Sequence,
    /// Where its convolution state lives.
    pub slot: Slot,
    /// Its block table.
    pub blocks: Vec<BlockId>,
    /// Whether it may be scheduled.
    pub state: State,
    /// Its place in the order in which sequences began to run.
    pub begun: u64,
    /// Submitted steps that use its blocks and are not collected yet.
    pub in_flight: u32,
    /// Positions computed, or submitted to be.
    computed: u32,
    /// Sampled tokens that are not collected yet; they follow `sequence.tokens`.
    pending: u32,
    /// Where the state of its next rows comes from.
    state_source: StateSource,
    /// Positions whose keys and values were in the cache when it started. Those it computes are not written.
    cached: u32,
    /// Positions that others can find in the prefix tree.
    published: u32,
    /// Positions at which to keep its state, ascending.
    keep_at: [Option<u32>; 2],
    /// States kept on the way whose blocks are not in the tree yet, with their positions.
    kept: Vec<(u32, SnapshotId)>,
}

impl Running {
    /// Computed up to where `prefix` says; `blocks` begin with what is cached of it, and of those the first
    /// `published` positions are in the tree: a copy is not.
    pub fn new(
        sequence: Sequence,
        begun: u64,
        slot: Slot,
        blocks: Vec<BlockId>,
        prefix: &Prefix,
        published: u32,
    ) -> Self {
        Self {
            sequence,
            slot,
            blocks,
            state: State::Active,
            begun,
            in_flight: 0,
            computed: prefix.start,
            pending: 0,
            state_source: prefix.state,
            cached: prefix.cached,
            published,
            keep_at: [None; 2],
            kept: Vec::new(),
        }
    }

    /// Lets its state be kept where others may want to begin: where its prompt leaves what was cached, and
    /// before the last token of its prompt, which everybody with the same prompt has to compute.
    pub fn keep_states(&mut self) {
        let last = self.sequence.tokens.len() as u32 - 1;
        let branch = self.cached.min(last);
        let is_prompt = self.sequence.generated() == 0;
        self.keep_at = [Some(branch), (is_prompt && last != branch).then_some(last)];
    }

    /// Where its next `rows` rows come past a state that is to be kept.
    pub fn keeps_within(&self, rows: u32) -> impl Iterator<Item = u32> + use<> {
        let (start, end) = (self.computed, self.computed + rows);
        self.keep_at.into_iter().flatten().filter(move |&position| start < position && position <= end)
    }

    /// Its state at `position` will be in `id` after the rows that are recorded next.
    pub fn keep(&mut self, position: u32, id: SnapshotId) {
        self.kept.push((position, id));
    }

    /// Snapshots that are not in the tree yet.
    pub fn promised(&self) -> impl Iterator<Item = SnapshotId> {
        self.kept.iter().map(|&(_, id)| id)
    }

    /// What will be in the cache for another sequence once this one has computed its own: the first position
    /// to compute then. Nothing, if that is there already or under another root.
    pub fn will_share(&self, other: &Sequence, replay: u32) -> Option<u32> {
        let keys = other.keys();
        if self.state != State::Active || self.sequence.origin.cache_root != other.origin.cache_root {
            return None;
        }
        let shared = common(self.sequence.keys(), keys);
        if shared <= self.published {
            return None;
        }
        let boundary = shared.min(keys.len() as u32 - 1);
        let kept = self.keep_at.into_iter().flatten().filter(|&position| position <= boundary).max();
        Some(boundary.saturating_sub(replay).max(kept.unwrap_or(0)))
    }

    /// Puts what was submitted, as far as its tokens are known, where others find it.
    pub fn publish(&mut self, pool: &mut BlockPool) {
        let end = self.computed.max(self.cached).min(self.sequence.tokens.len() as u32);
        if end > self.published || !self.kept.is_empty() {
            let Sequence { origin, .. } = &self.sequence;
            pool.publish(
                &origin.cache_root,
                &self.blocks,
                &self.sequence.keys()[..end as usize],
                self.published,
            );
            self.published = end;
            for (position, id) in self.kept.drain(..) {
                pool.keep_snapshot(&self.blocks, position, id);
            }
        }
    }

    /// The position of the state in its slot, if that is exact and its tokens are known.
    pub fn exact_state(&self) -> Option<u32> {
        let is_exact = self.computed >= self.cached && self.state_source == StateSource::Slot;
        (is_exact && self.computed <= self.sequence.tokens.len() as u32).then_some(self.computed)
    }

    /// Known tokens, including sampled ones that only the device knows.
    fn known(&self) -> u32 {
        self.sequence.tokens.len() as u32 + self.pending
    }

    /// Positions computed, or submitted to be.
    pub fn computed(&self) -> u32 {
        self.computed
    }

    /// Rows it would run now if there were no budget.
    ///
    /// With a token in flight it runs ahead of the host, unless that token is the last one for certain, or
    /// the next one's penalties need it. A bias for `min_tokens` depends on the number of tokens alone and
    /// does not wait.
    pub fn gap(&self) -> u32 {
        let Sequence { sampling, stop, context, constraint, .. } = &self.sequence;
        let last_is_pending =
            self.known() >= *context || self.known() - self.sequence.prompt_len >= stop.max_tokens;
        let must_wait =
            self.pending > 0 && (last_is_pending || sampling.needs_history() || constraint.is_some());
        if self.state != State::Active || must_wait { 0 } else { self.known() - self.computed }
    }

    /// The part of its gap that fits the budget.
    pub fn rows_within(&self, budget: &Budget) -> u32 {
        let rows = self.gap().min(budget.rows).min(budget.chunk);
        let part = self.part(rows);
        let excess = (part.scores + part.samples).saturating_sub(budget.outputs);
        if excess == 0 {
            return rows;
        }
        // Rows that need no output may follow the last scored one; without its output they have to go as
        // well.
        let end = self.computed + rows - part.samples;
        let scored_too_many = excess - part.samples;
        if scored_too_many == 0 {
            return end - self.computed;
        }
        self.sequence.score_positions(self.computed, end).end - scored_too_many - self.computed
    }

    /// The outputs of its next `rows` rows.
    fn part(&self, rows: u32) -> Part {
        let end = self.computed + rows;
        let answers = rows > 0 && end == self.known() && self.sequence.stop.max_tokens > 0;
        let scores = self.sequence.score_positions(self.computed, end).len() as u32;
        let prompt_len = self.sequence.prompt_len;
        let completes = self.computed < prompt_len && end >= prompt_len && self.sequence.generated() == 0;
        let prompt_completed = if completes { prompt_len } else { 0 };
        let (id, begun) = (self.sequence.id, self.begun);
        Part { id, begun, scores, samples: u32::from(answers), prompt_completed, started: None }
    }

    /// Writes its next `rows` rows into the batch; they count as computed from now on.
    pub fn record(&mut self, rows: u32, block_size: u32, batch: &mut Batch) -> Part {
        let (start, end) = (self.computed, self.computed + rows);
        let part = self.part(rows);
        assert!(rows > 0 && end <= self.known(), "{rows} rows at {start} of {} tokens", self.known());
        let first_row = batch.tokens.len() as u32;
        let host_known = end.min(self.sequence.tokens.len() as u32);
        if start < host_known {
            batch.tokens.extend_from_slice(&self.sequence.tokens[start as usize..host_known as usize]);
        }
        if end > host_known {
            assert_eq!(rows, 1, "only the token sampled last can be read from the slot");
            batch.tokens.push(TOKEN_FROM_SLOT);
        }
        let first_block = batch.block_tables.len() as u32;
        batch.block_tables.extend_from_slice(&self.blocks[..end.div_ceil(block_size) as usize]);
        batch.sequences.push(BatchSequence {
            rows: first_row..first_row + rows,
            start,
            slot: self.slot,
            state: std::mem::replace(&mut self.state_source, StateSource::Slot),
            cached_rows: self.cached.saturating_sub(start).min(rows),
            blocks: first_block..batch.block_tables.len() as u32,
        });
        let scored = self.sequence.score_positions(start, end);
        if let Some(scores) = &mut self.sequence.scores {
            for position in scored.clone() {
                let target = self.sequence.tokens[position as usize + 1];
                let kind = OutputKind::Score { target, top: scores.top };
                batch.outputs.push(OutputRow { row: first_row + position - start, kind });
            }
            scores.asked += scored.len() as u32;
        }
        if part.samples == 1 {
            let kind = self.sequence.sample_row(self.known() - self.sequence.prompt_len, batch);
            batch.outputs.push(OutputRow { row: first_row + rows - 1, kind });
        }
        self.computed = end;
        self.pending += part.samples;
        self.in_flight += 1;
        part
    }

    /// Takes its outputs of a collected step and reports what follows from them. After its end they are
    /// dropped. Returns how many tokens were reported.
    pub fn collect(
        &mut self,
        part: Part,
        outputs: &mut impl Iterator<Item = RowOutput>,
        events: &mut Vec<(RequestId, Event)>,
    ) -> u32 {
        self.in_flight -= 1;
        self.pending -= part.samples;
        let mut outputs = outputs.take((part.scores + part.samples) as usize);
        if self.state == State::Ended {
            outputs.for_each(drop);
            return 0;
        }
        let sequence = &mut self.sequence;
        if let Some(mut scores) = sequence.scores.take() {
            scores.rows.extend(outputs.by_ref().take(part.scores as usize));
            if scores.rows.len() as u32 == sequence.prompt_len - 1 {
                events.push((part.id, Event::PromptScores(scores.rows)));
            } else {
                sequence.scores = Some(scores);
            }
        }
        let reason = if let Some(output) = outputs.next() {
            let token = output.chosen.token;
            sequence.push(token);
            events.push((part.id, Event::Token(output)));
            let accepted =
                sequence.constraint.as_mut().is_none_or(|constraint| constraint.accept(token).is_ok());
            if accepted { sequence.finish_reason(token) } else { Some(FinishReason::ConstraintFailed) }
        } else {
            let prompt_is_all = sequence.stop.max_tokens == 0 && self.computed == sequence.prompt_len;
            (prompt_is_all && self.in_flight == 0).then_some(FinishReason::MaxTokens)
        };
        if let Some(reason) = reason {
            events.push((part.id, Event::Finished(reason)));
            self.state = State::Ended;
        }
        part.samples
    }
}
