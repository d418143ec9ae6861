//! Who runs in the next step: two queues in order of arrival, one budget, two pools.
//!
//! Order of a step: running sequences that need one token, running sequences that need more, then the queue;
//! within each, first come, first served. The number of running sequences never exceeds the rows or outputs of a
//! step, so that each gets at least one row and nobody starves.
//!
//! When a sequence needs a block and none is free, the running sequence that arrived last gives up its blocks
//! and its slot and returns to the front of the queue; its tokens are kept and computed again.
//! Blocks and slots are only taken away when no step that uses them is in flight.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use undine_core::{Batch, Capacity, RequestId};

use crate::block_pool::BlockPool;
use crate::sequence::{Budget, Part, Running, Sequence, State};
use crate::slot_pool::SlotPool;
use crate::{EngineConfig, EngineStats};

/// The sequences and what they share.
///
/// Invariant: `running` and `waiting` ascend in id, and every running sequence arrived before every waiting one.
pub(crate) struct Scheduler {
    running: Vec<Running>,
    waiting: VecDeque<Sequence>,
    blocks: BlockPool,
    slots: SlotPool,
    block_size: u32,
    /// A whole step's budget.
    budget: Budget,
    /// Most running sequences.
    seats: u32,
    preemptions: u64,
    prompt_tokens_total: u64,
}

impl Scheduler {
    /// Nothing running, nothing waiting.
    pub fn new(config: &EngineConfig, capacity: &Capacity) -> Self {
        let rows = config.max_num_batched_tokens.min(capacity.rows);
        let seats = config.max_num_seqs.min(capacity.slots).min(rows).min(capacity.outputs);
        Self {
            running: Vec::with_capacity(seats as usize),
            waiting: VecDeque::new(),
            blocks: BlockPool::new(capacity.blocks),
            slots: SlotPool::new(capacity.slots),
            block_size: capacity.block_size,
            budget: Budget { rows, outputs: capacity.outputs, chunk: config.prefill_chunk },
            seats,
            preemptions: 0,
            prompt_tokens_total: 0,
        }
    }

    /// Puts a sequence at the end of the queue.
    pub fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Sequences in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether there is anything left to schedule or to collect.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// Forgets a sequence; what a step in flight still uses is freed when that step is collected.
    pub fn cancel(&mut self, id: RequestId) {
        if let Ok(index) = self.waiting.binary_search_by_key(&id, |sequence| sequence.id) {
            self.waiting.remove(index);
        } else if let Some(index) = self.index_of(id) {
            self.running[index].state = State::Ended;
            self.settle(index);
        }
    }

    /// Forgets every sequence at once: the device has lost them.
    pub fn clear(&mut self) {
        self.waiting.clear();
        for running in self.running.drain(..) {
            self.blocks.release(&running.blocks);
            self.slots.release(running.slot);
        }
    }

    /// Writes the next step into `batch`, and whose rows these are into `parts`. Both stay empty if nobody can run.
    pub fn schedule(&mut self, batch: &mut Batch, parts: &mut Vec<Part>) {
        let mut step = Step { budget: self.budget, block_size: self.block_size, batch, parts };
        let preemptions = self.preemptions;
        self.continue_running(1..=1, &mut step);
        self.continue_running(2..=u32::MAX, &mut step);
        // Whoever runs short of blocks comes before whoever has none yet.
        let short_of_blocks =
            self.preemptions > preemptions || self.running.iter().any(|r| r.state == State::Evicting);
        if !short_of_blocks {
            self.admit(&mut step);
        }
    }

    /// The running sequence of this name.
    pub fn running_mut(&mut self, id: RequestId) -> &mut Running {
        let index = self.index_of(id).expect("a sequence with a step in flight stays in `running`");
        &mut self.running[index]
    }

    /// Frees a sequence that has ended or is being evicted, unless a step in flight still uses its blocks.
    pub fn settle_by_id(&mut self, id: RequestId) {
        let index = self.index_of(id).expect("a sequence with a step in flight stays in `running`");
        self.settle(index);
    }

    fn settle(&mut self, index: usize) {
        if self.running[index].in_flight > 0 {
            return;
        }
        match self.running[index].state {
            State::Active => {}
            State::Evicting => self.preempt(index),
            State::Ended => drop(self.release(index)),
        }
    }

    fn index_of(&self, id: RequestId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |running| running.sequence.id).ok()
    }

    /// Schedules running sequences whose gap is in `gaps`, in order of arrival.
    fn continue_running(&mut self, gaps: RangeInclusive<u32>, step: &mut Step) {
        let mut index = 0;
        // Sequences may be preempted on the way, but only ones at or behind `index`, which have no rows yet.
        while index < self.running.len() {
            let running = &self.running[index];
            if gaps.contains(&running.gap()) {
                let rows = running.rows_within(&step.budget);
                if rows > 0 && self.reserve(index, running.computed() + rows) {
                    self.record(index, rows, step);
                }
            }
            index += 1;
        }
    }

    /// Makes the block table of a running sequence cover `positions`, at the cost of later arrivals if need be.
    /// Returns whether it does; if not, the sequence cannot be in this step.
    fn reserve(&mut self, index: usize, positions: u32) -> bool {
        let blocks = positions.div_ceil(self.block_size) as usize;
        while self.running[index].blocks.len() + (self.blocks.available() as usize) < blocks {
            if self.running.iter().any(|running| running.state != State::Active) {
                // Blocks are on their way back: enough or not, the next collected step will show.
                return false;
            }
            let victim = self.running.len() - 1;
            assert!(victim > 0, "a sequence alone needs {blocks} of {} blocks", self.blocks.total());
            if self.running[victim].in_flight > 0 {
                self.running[victim].state = State::Evicting;
                return false;
            }
            self.preempt(victim);
            if victim == index {
                return false;
            }
        }
        self.blocks.grow(&mut self.running[index].blocks, blocks);
        true
    }

    /// Starts sequences from the queue in order of arrival, as long as there is a seat and room in step and cache.
    fn admit(&mut self, step: &mut Step) {
        while self.running.len() < self.seats as usize && step.budget.rows > 0 && step.budget.outputs > 0 {
            let Some(sequence) = self.waiting.front() else { return };
            let blocks = sequence.positions_to_start().div_ceil(self.block_size);
            // One block for each running sequence to grow into, or the newcomer would soon be preempted again.
            if self.blocks.available() < blocks + self.running.len() as u32 {
                return;
            }
            let sequence = self.waiting.pop_front().expect("there is a front");
            let slot = self.slots.allocate().expect("there are at least as many slots as seats");
            let mut table = Vec::new();
            self.blocks.grow(&mut table, blocks as usize);
            self.running.push(Running::new(sequence, slot, table));
            let index = self.running.len() - 1;
            let rows = self.running[index].rows_within(&step.budget);
            assert!(rows > 0, "a row and an output are left, so the first row fits");
            self.record(index, rows, step);
        }
    }

    fn record(&mut self, index: usize, rows: u32, step: &mut Step) {
        let part = self.running[index].record(rows, step.block_size, step.batch);
        self.prompt_tokens_total += u64::from(part.prompt_completed);
        step.budget.rows -= rows;
        step.budget.outputs -= part.scores + part.samples;
        step.parts.push(part);
    }

    /// Takes slot and blocks from a running sequence.
    fn release(&mut self, index: usize) -> Sequence {
        let Running { sequence, slot, blocks, in_flight, .. } = self.running.remove(index);
        assert_eq!(in_flight, 0, "blocks of {:?} are in use", sequence.id);
        self.blocks.release(&blocks);
        self.slots.release(slot);
        sequence
    }

    /// Returns a running sequence to the queue, in its order of arrival: before all that have never run.
    fn preempt(&mut self, index: usize) {
        let sequence = self.release(index);
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
        self.preemptions += 1;
    }

    /// Fills in the numbers that are the scheduler's.
    pub fn describe(&self, stats: &mut EngineStats) {
        stats.running = self.running.len() as u32;
        stats.waiting = self.waiting.len() as u32;
        stats.blocks_total = self.blocks.total();
        stats.blocks_used = self.blocks.total() - self.blocks.available();
        stats.slots_total = self.slots.total();
        stats.slots_used = self.slots.used();
        stats.preemptions = self.preemptions;
        stats.prompt_tokens_total = self.prompt_tokens_total;
    }

    /// Panics if a block or slot is lost or has two owners, or if a queue is out of order.
    pub fn check_integrity(&self) {
        self.blocks.check_integrity(self.running.iter().flat_map(|running| running.blocks.iter().copied()));
        self.slots.check_integrity(self.running.iter().map(|running| running.slot));
        let ids = self.running.iter().map(|running| running.sequence.id);
        let ids = ids.chain(self.waiting.iter().map(|sequence| sequence.id));
        assert!(ids.is_sorted_by(|a, b| a < b), "a later arrival overtook an earlier one");
        assert!(self.running.len() <= self.seats as usize, "more sequences than seats");
    }
}

/// A step being written.
struct Step<'a> {
    budget: Budget,
    block_size: u32,
    batch: &'a mut Batch,
    parts: &'a mut Vec<Part>,
}
