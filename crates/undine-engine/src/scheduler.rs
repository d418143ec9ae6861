//! Who runs in the next step: two queues in order of arrival, one budget, two pools.
//!
//! Order of a step: running sequences that need one token, running sequences that need more, then the queue;
//! within each, first come, first served. The number of running sequences never exceeds the rows or outputs of a
//! step, so that each gets at least one row and nobody starves.
//!
//! When a sequence needs a block and none is free, the running sequence that arrived last gives up its blocks
//! and its slot and returns to the front of the queue; its tokens are kept and computed again.
//! Blocks and slots are only taken away when no step that uses them is in flight.
//!
//! With prefix caching a sequence starts from the longest prefix of its tokens whose keys and values are in the
//! cache. What a sequence has submitted can be found from the next step on, also while it runs. A request whose prefix
//! is being computed by somebody else waits for it (and so does the queue behind it) if that spares it half of its
//! rows or more; whom it waits for comes before it in every step, so it waits no longer than it would have to compute.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use undine_core::{
    Batch, BlockCopy, BlockId, Capacity, ExecutorError, RequestId, RowSave, SlotSave, StateSource,
    VisionExecutor,
};

use crate::block_pool::BlockPool;
use crate::config::PrefixCaching;
use crate::images::Images;
use crate::prefix_tree::{Found, Prefix};
use crate::running::{Budget, Part, Running, State};
use crate::sequence::Sequence;
use crate::slot_pool::SlotPool;
use crate::{EngineConfig, EngineStats};

/// A request waits for a prefix that is being computed if it then has at most one of so many of its rows to compute.
const WAIT_GAIN: u32 = 2;

/// The sequences and what they share.
///
/// Invariant: `running` and `waiting` ascend in id, and every running sequence arrived before every waiting one.
pub(crate) struct Scheduler {
    running: Vec<Running>,
    waiting: VecDeque<Sequence>,
    blocks: BlockPool,
    slots: SlotPool,
    /// What is known of the images in their prompts.
    pub images: Images,
    block_size: u32,
    /// A whole step's budget.
    budget: Budget,
    /// Most running sequences.
    seats: u32,
    caching: PrefixCaching,
    /// Rows that make empty convolution states exact.
    replay: u32,
    /// Whether there is room for states to begin from.
    keeps_states: bool,
    /// States to keep of sequences that have left their slots; the next step begins with that.
    slot_saves: Vec<SlotSave>,
    /// Blocks that the step being written copies from.
    copied: Vec<BlockId>,
    totals: Totals,
}

/// Numbers since the start.
#[derive(Default)]
struct Totals {
    preemptions: u64,
    prompt_tokens: u64,
    prompt_tokens_cached: u64,
    prefix_cache_queries: u64,
    prefix_cache_hits: u64,
    /// Not a sum: requests that wait for a prefix now.
    deferred: u32,
}

/// How the first request of the queue begins, given the blocks there are.
struct Beginning {
    prefix: Prefix,
    /// Blocks to share, in order.
    shared: Vec<BlockId>,
    /// The block whose beginning is the next one's.
    copied: Option<BlockId>,
    /// Entries of the whole table.
    blocks: u32,
}

impl Scheduler {
    /// Nothing running, nothing waiting.
    pub fn new(config: &EngineConfig, capacity: &Capacity) -> Self {
        let rows = config.max_num_batched_tokens.min(capacity.rows);
        let seats = config.max_num_seqs.min(capacity.slots).min(rows).min(capacity.outputs);
        Self {
            running: Vec::with_capacity(seats as usize),
            waiting: VecDeque::new(),
            blocks: BlockPool::new(capacity.blocks, capacity.block_size, capacity.snapshots, capacity.replay),
            slots: SlotPool::new(capacity.slots),
            images: Images::new(config.image_cache_bytes),
            block_size: capacity.block_size,
            budget: Budget { rows, outputs: capacity.outputs, chunk: config.prefill_chunk },
            seats,
            caching: config.prefix_caching,
            replay: capacity.replay,
            keeps_states: config.prefix_caching == PrefixCaching::On && capacity.snapshots > 0,
            slot_saves: Vec::new(),
            copied: Vec::new(),
            totals: Totals::default(),
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
        self.slot_saves.clear();
        for running in self.running.drain(..) {
            running.promised().for_each(|id| self.blocks.release_snapshot(id));
            self.blocks.release(&running.blocks);
            self.slots.release(running.slot);
        }
    }

    /// Writes the next step into `batch`, and whose rows these are into `parts`. Both stay empty if nobody can run.
    pub fn schedule(&mut self, batch: &mut Batch, parts: &mut Vec<Part>) {
        self.blocks.tick();
        self.images.begin_step();
        self.slot_saves.iter().for_each(|save| self.blocks.touch_snapshot(save.snapshot));
        if self.caching == PrefixCaching::On {
            self.running.iter_mut().for_each(|running| running.publish(&mut self.blocks));
        }
        self.totals.deferred = 0;
        let mut step = Step { budget: self.budget, block_size: self.block_size, batch, parts };
        let preemptions = self.totals.preemptions;
        self.continue_running(1..=1, &mut step);
        self.continue_running(2..=u32::MAX, &mut step);
        // Whoever runs short of blocks comes before whoever has none yet.
        let short_of_blocks =
            self.totals.preemptions > preemptions || self.running.iter().any(|r| r.state == State::Evicting);
        if !short_of_blocks {
            self.admit(&mut step);
        }
        // Until here nobody else could get them.
        self.blocks.release(&self.copied);
        self.copied.clear();
        if !step.parts.is_empty() {
            step.batch.slot_saves.append(&mut self.slot_saves);
        }
    }

    /// Encodes the tiles that a step needs and writes into its batch which rows show them; `parts` are the step's.
    pub fn show_images(
        &mut self,
        vision: &mut dyn VisionExecutor,
        batch: &mut Batch,
        parts: &[Part],
    ) -> Result<(), ExecutorError> {
        self.images.encode(vision)?;
        let Batch { sequences, image_rows, .. } = batch;
        for (part, rows) in parts.iter().zip(sequences) {
            let index = self.index_of(part.id).expect("a sequence with rows in a step runs");
            self.images.show(&mut self.running[index].sequence.images, rows, image_rows);
        }
        Ok(())
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
                    let rows = self.rows_with_images(index, rows);
                    if rows > 0 {
                        self.record(index, rows, step);
                    }
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
            let found = self.find(sequence);
            if self.is_worth_waiting(sequence, &found.any) {
                self.totals.deferred = 1;
                return;
            }
            let blocks = sequence.positions_to_start().div_ceil(self.block_size);
            let Some(beginning) = self.beginning(&found, blocks) else { return };
            let mut sequence = self.waiting.pop_front().expect("there is a front");
            if !self.images.has_room(&mut sequence.images, beginning.prefix.start) {
                return self.waiting.push_front(sequence);
            }
            self.begin(sequence, beginning, step);
        }
    }

    /// What the cache has for a sequence.
    fn find(&self, sequence: &Sequence) -> Found {
        // Prompt scores need the logits of every row.
        if self.reads_cache(sequence) { self.blocks.find(sequence.keys()) } else { Found::NOTHING }
    }

    fn reads_cache(&self, sequence: &Sequence) -> bool {
        self.caching == PrefixCaching::On && sequence.scores.is_none()
    }

    /// Whether somebody who runs is about to compute much of what a sequence needs.
    fn is_worth_waiting(&self, sequence: &Sequence, now: &Prefix) -> bool {
        let keys = sequence.keys();
        let rows = keys.len() as u32 - now.start;
        self.reads_cache(sequence)
            && self.running.iter().any(|running| {
                let later = running.will_share(keys, self.replay);
                later.is_some_and(|start| (keys.len() as u32 - start) * WAIT_GAIN <= rows)
            })
    }

    /// How to begin with the fewest rows, if there are blocks for a table of so many.
    fn beginning(&self, found: &Found, blocks: u32) -> Option<Beginning> {
        // A part of a block costs a copy, so it has to spare rows.
        let part = (found.any.start > found.whole.start).then_some(found.any);
        part.into_iter().chain([found.whole]).find_map(|prefix| {
            let mut shared = self.blocks.path(&prefix);
            let idle = shared.iter().filter(|&&block| self.blocks.references(block) == 0).count() as u32;
            let rest = prefix.cached % self.block_size;
            // A block that ends where the prefix does, and that nobody holds, goes on as this sequence's own.
            let copied = shared.pop_if(|last| rest > 0 && !self.blocks.can_continue(*last, rest));
            let wanted = blocks - shared.len() as u32;
            // One block for each running sequence to grow into, or the newcomer would soon be preempted again.
            let fits = self.blocks.available() >= idle + wanted + self.running.len() as u32;
            fits.then_some(Beginning { prefix, shared, copied, blocks })
        })
    }

    /// Gives a sequence its slot and blocks, and its first rows in the step.
    fn begin(&mut self, mut sequence: Sequence, beginning: Beginning, step: &mut Step) {
        let Beginning { prefix, shared: mut table, copied, blocks } = beginning;
        let slot = self.slots.allocate().expect("there are at least as many slots as seats");
        self.blocks.hold(&table);
        let next = table.len();
        if let Some(from) = copied {
            self.blocks.hold(&[from]);
            self.copied.push(from);
        }
        self.blocks.grow(&mut table, blocks as usize);
        step.batch.block_copies.extend(copied.map(|from| BlockCopy { from, to: table[next] }));
        if let StateSource::Snapshot(id) = prefix.state {
            self.blocks.touch_snapshot(id);
        }
        let started = sequence.cached.is_none().then_some(prefix.start);
        if let Some(cached) = started {
            sequence.cached = started;
            if self.reads_cache(&sequence) {
                self.totals.prefix_cache_queries += u64::from(sequence.prompt_len);
                self.totals.prefix_cache_hits += u64::from(cached);
            }
        }
        let published = prefix.cached.min(next as u32 * self.block_size);
        let mut running = Running::new(sequence, slot, table, &prefix, published);
        if self.keeps_states {
            running.keep_states();
        }
        self.running.push(running);
        let index = self.running.len() - 1;
        let rows = self.running[index].rows_within(&step.budget);
        let rows = self.rows_with_images(index, rows);
        assert!(rows > 0, "a row and an output are left, and room for an image in it, so the first row fits");
        self.record(index, rows, step);
        step.parts.last_mut().expect("it has just been recorded").started = started;
    }

    /// How many of its next rows a running sequence can have in this step as far as images go.
    fn rows_with_images(&mut self, index: usize, rows: u32) -> u32 {
        let running = &mut self.running[index];
        let start = running.computed();
        self.images.rows_within(&mut running.sequence.images, start, rows)
    }

    fn record(&mut self, index: usize, rows: u32, step: &mut Step) {
        let running = &mut self.running[index];
        let (first_row, start) = (step.batch.rows() as u32, running.computed());
        for position in running.keeps_within(rows) {
            if let Some(snapshot) = self.blocks.allocate_snapshot() {
                step.batch.row_saves.push(RowSave { row: first_row + position - 1 - start, snapshot });
                running.keep(position, snapshot);
            }
        }
        let part = running.record(rows, step.block_size, step.batch);
        if part.prompt_completed > 0 {
            self.totals.prompt_tokens += u64::from(part.prompt_completed);
            self.totals.prompt_tokens_cached += u64::from(running.sequence.cached.unwrap_or(0));
        }
        step.budget.rows -= rows;
        step.budget.outputs -= part.scores + part.samples;
        step.parts.push(part);
    }

    /// Takes slot and blocks from a running sequence. What it has computed stays, with its state, as long as nobody
    /// needs the room.
    fn release(&mut self, index: usize) -> Sequence {
        let mut running = self.running.remove(index);
        assert_eq!(running.in_flight, 0, "blocks of {:?} are in use", running.sequence.id);
        if self.caching == PrefixCaching::On {
            running.publish(&mut self.blocks);
            let wanted = running.exact_state().filter(|&at| self.blocks.lacks_snapshot(&running.blocks, at));
            if let Some(position) = wanted
                && let Some(snapshot) = self.blocks.allocate_snapshot()
            {
                self.blocks.keep_snapshot(&running.blocks, position, snapshot);
                self.slot_saves.push(SlotSave { slot: running.slot, snapshot });
            }
        }
        self.blocks.release(&running.blocks);
        self.slots.release(running.slot);
        running.sequence.images.release();
        running.sequence
    }

    /// Returns a running sequence to the queue, in its order of arrival: before all that have never run.
    fn preempt(&mut self, index: usize) {
        let sequence = self.release(index);
        let place = self.waiting.partition_point(|other| other.id < sequence.id);
        self.waiting.insert(place, sequence);
        self.totals.preemptions += 1;
    }

    /// Fills in the numbers that are the scheduler's.
    pub fn describe(&self, stats: &mut EngineStats) {
        stats.running = self.running.len() as u32;
        stats.waiting = self.waiting.len() as u32;
        stats.blocks_total = self.blocks.total();
        stats.blocks_used = self.blocks.total() - self.blocks.available();
        stats.slots_total = self.slots.total();
        stats.slots_used = self.slots.used();
        stats.blocks_cached = self.blocks.idle();
        let Totals { preemptions, prompt_tokens, prompt_tokens_cached, .. } = self.totals;
        stats.preemptions = preemptions;
        stats.prompt_tokens_total = prompt_tokens;
        stats.prompt_tokens_cached_total = prompt_tokens_cached;
        stats.prompt_tokens_computed_total = prompt_tokens - prompt_tokens_cached;
        stats.prefix_cache_queries_total = self.totals.prefix_cache_queries;
        stats.prefix_cache_hits_total = self.totals.prefix_cache_hits;
        stats.waiting_deferred = self.totals.deferred;
        self.images.describe(stats);
    }

    /// Panics if a block or slot is lost or has two owners, or if a queue is out of order.
    pub fn check_integrity(&self) {
        let held = self.running.iter().flat_map(|running| running.blocks.iter().copied());
        self.blocks.check_integrity(held, self.running.iter().flat_map(Running::promised));
        self.images.check_integrity();
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
