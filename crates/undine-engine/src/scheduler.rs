//! Who runs in the next step: the running sequences, a queue for each tenant, one budget, two pools.
//!
//! Order of a step: running sequences that need one token, in the order in which they began. What is left of
//! the budget goes to the tenants turn by turn ([`crate::tenants`]); in its turn a tenant's running sequences
//! that need more come before its queue, and each takes all that the budget has. The number of running
//! sequences never exceeds the rows or outputs of a step, so that whoever needs one token gets it.
//!
//! The last free seats are for tenants that have none. If there is none, the tenant that has most of them,
//! two at least, gives one up. A tenant whose next sequence does not fit in the cache keeps the others from
//! beginning, too: it would never fit.
//!
//! When a sequence needs a block and none is free, the tenant that holds most gives up those of the sequence
//! that began last. Whoever gives up a seat or blocks returns to the front of its tenant's queue; its tokens
//! are kept and computed again. Blocks and slots are only taken away when no step that uses them is in
//! flight.
//!
//! Everything ends, whoever comes: of all sequences that have begun, the first is never made to give up
//! anything while it runs; while it waits it is the first of its queue, and its tenant's turn comes. So it
//! ends, and then the next one is the first.
//!
//! With prefix caching a sequence starts from the longest prefix of its tokens whose keys and values are in
//! the cache under its root. What a sequence has submitted can be found from the next step on, also while it
//! runs. A request whose prefix is being computed by somebody else may wait for it ([`beginning`]).

mod beginning;

use undine_core::{Batch, BlockId, Capacity, ExecutorError, RequestId, RowSave, SlotSave, VisionExecutor};

use crate::block_pool::BlockPool;
use crate::config::PrefixCaching;
use crate::images::Images;
use crate::running::{Budget, Part, Running, State};
use crate::sequence::Sequence;
use crate::slot_pool::SlotPool;
use crate::tenants::{Room, TenantIndex, Tenants};
use crate::{EngineConfig, EngineStats};
use beginning::Look;

/// What encoding an image costs beside computing its rows, in rows for each of them: four patches through a
/// vision tower are about as much as a row of a language model four times as large.
const TILE_ROW_COST: u32 = 1;

/// The sequences and what they share.
///
/// Invariant: `running` ascends in the order in which sequences began to run, and so do the queues of
/// [`Tenants`] in theirs.
pub(crate) struct Scheduler {
    running: Vec<Running>,
    pub tenants: Tenants,
    /// Sequences that have begun to run.
    begun: u64,
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

impl Scheduler {
    /// Nothing running, nothing waiting.
    pub fn new(config: &EngineConfig, capacity: &Capacity) -> Self {
        let rows = config.max_num_batched_tokens.min(capacity.rows);
        let seats = config.max_num_seqs.min(capacity.slots).min(rows).min(capacity.outputs);
        Self {
            running: Vec::with_capacity(seats as usize),
            tenants: Tenants::new(rows),
            begun: 0,
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

    /// Whether there is anything left to schedule or to collect.
    pub fn has_work(&self) -> bool {
        self.tenants.waiting() > 0 || !self.running.is_empty()
    }

    /// Forgets a sequence; what a step in flight still uses is freed when that step is collected.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(index) = self.running.iter().position(|running| running.sequence.id == id) {
            self.running[index].state = State::Ended;
            self.settle(index);
        } else {
            self.tenants.remove(id);
        }
    }

    /// Forgets every sequence at once: the device has lost them.
    pub fn clear(&mut self) {
        self.tenants.clear();
        self.images.give_up();
        self.slot_saves.clear();
        for running in self.running.drain(..) {
            running.promised().for_each(|id| self.blocks.release_snapshot(id));
            self.blocks.release(&running.blocks);
            self.slots.release(running.slot);
        }
    }

    /// Writes the next step into `batch`, and whose rows these are into `parts`. Both stay empty if nobody
    /// can run.
    pub fn schedule(&mut self, batch: &mut Batch, parts: &mut Vec<Part>) {
        self.blocks.tick();
        self.images.begin_step();
        self.slot_saves.iter().for_each(|save| self.blocks.touch_snapshot(save.snapshot));
        if self.caching == PrefixCaching::On {
            self.running.iter_mut().for_each(|running| running.publish(&mut self.blocks));
        }
        self.totals.deferred = 0;
        self.tenants.begin_step();
        let begins = self.running.iter().all(|running| running.state != State::Evicting);
        let mut step = Step { budget: self.budget, begins, block_size: self.block_size, batch, parts };
        self.continue_answers(&mut step);
        self.take_turns(&mut step);
        self.tenants.end_step(step.batch.rows() as u32);
        if self.running.len() == self.seats as usize {
            self.free_a_seat();
        }
        // Until here nobody else could get them.
        self.blocks.release(&self.copied);
        self.copied.clear();
        if !step.parts.is_empty() {
            step.batch.slot_saves.append(&mut self.slot_saves);
        }
    }

    /// Encodes a slice of the images that were begun. Those who wait for a tile that is complete then go on.
    pub fn encode_images(&mut self, vision: &mut dyn VisionExecutor) -> Result<(), ExecutorError> {
        let encoded = self.images.encode(vision)?;
        if encoded.is_empty() {
            return Ok(());
        }
        for running in &mut self.running {
            let computed = running.computed();
            running.sequence.images.receive(&encoded, computed);
        }
        self.tenants.fronts().for_each(|sequence| sequence.images.receive(&encoded, 0));
        Ok(())
    }

    /// Begins to encode the tiles that the step has asked for; their tenants pay for them.
    pub fn begin_images(&mut self, vision: &mut dyn VisionExecutor) {
        for wanted in self.images.begin_pass(vision) {
            self.tenants.charge(wanted.tenant, wanted.rows * TILE_ROW_COST);
        }
    }

    /// Writes into the batch of a step which rows show images; `parts` are the step's.
    pub fn show_images(&mut self, batch: &mut Batch, parts: &[Part]) {
        let Batch { sequences, image_rows, .. } = batch;
        for (part, rows) in parts.iter().zip(sequences) {
            let index = self.index_of(part.begun).expect("a sequence with rows in a step runs");
            self.images.show(&mut self.running[index].sequence.images, rows, image_rows);
        }
    }

    /// The running sequence that began in this place.
    pub fn running_mut(&mut self, begun: u64) -> &mut Running {
        let index = self.index_of(begun).expect("a sequence with a step in flight stays in `running`");
        &mut self.running[index]
    }

    /// Frees a sequence that has ended or is being evicted, unless a step in flight still uses its blocks.
    pub fn settle_after_step(&mut self, begun: u64) {
        let index = self.index_of(begun).expect("a sequence with a step in flight stays in `running`");
        self.settle(index);
    }

    fn settle(&mut self, index: usize) {
        if self.running[index].in_flight > 0 {
            return;
        }
        match self.running[index].state {
            State::Active => {}
            State::Evicting => self.preempt(index),
            State::Ended => {
                let sequence = self.release(index);
                self.tenants.stopped(sequence.tenant);
            }
        }
    }

    fn index_of(&self, begun: u64) -> Option<usize> {
        self.running.binary_search_by_key(&begun, |running| running.begun).ok()
    }

    /// The first running sequence that began in this place or later.
    fn index_from(&self, begun: u64) -> Option<usize> {
        let index = self.running.partition_point(|running| running.begun < begun);
        (index < self.running.len()).then_some(index)
    }

    /// Schedules running sequences that need one token, and takes note of whose need more.
    fn continue_answers(&mut self, step: &mut Step) {
        let mut next = 0;
        while let Some(index) = self.index_from(next) {
            let Running { begun, ref sequence, .. } = self.running[index];
            next = begun + 1;
            match self.running[index].gap() {
                0 => {}
                1 => {
                    self.go_on(begun, step);
                }
                _ => self.tenants.needs_rows(sequence.tenant),
            }
        }
    }

    /// Gives the rest of the step to the tenants, as long as one has a use for it.
    fn take_turns(&mut self, step: &mut Step) {
        while step.budget.rows > 0 {
            let seats = self.seats - self.running.len() as u32;
            let begins = step.begins && step.budget.outputs > 0 && seats > 0;
            let room = if begins { Room::Seats(seats) } else { Room::Rows };
            let Some(tenant) = self.tenants.turn(room) else { return };
            match self.tenants.next_running(tenant) {
                Some(next) => self.continue_prompt(tenant, next, step),
                None => self.begin_next(tenant, step),
            }
        }
    }

    /// Schedules a tenant's first running sequence, from place `next` on, that needs more than one row.
    fn continue_prompt(&mut self, tenant: TenantIndex, next: u64, step: &mut Step) {
        let from = self.running.partition_point(|running| running.begun < next);
        let is_next = |running: &&Running| running.sequence.tenant == tenant && running.gap() > 1;
        let found = self.running[from..].iter().find(is_next).map(|running| running.begun);
        self.tenants.looked_at(tenant, found.map(|begun| begun + 1));
        if let Some(begun) = found
            && self.go_on(begun, step)
        {
            self.tenants.had_turn(tenant);
        }
    }

    /// Schedules a running sequence, as far as the budget reaches. Returns whether it has rows in the step.
    fn go_on(&mut self, begun: u64, step: &mut Step) -> bool {
        let running = self.running_mut(begun);
        let rows = running.rows_within(&step.budget);
        let positions = running.computed() + rows;
        if rows == 0 {
            return false;
        }
        let Some(index) = self.reserve(begun, positions, step) else { return false };
        let rows = self.rows_with_images(index, rows);
        if rows > 0 {
            self.record(index, rows, step);
        }
        rows > 0
    }

    /// Makes the block table of a running sequence cover `positions`, at the cost of others if need be.
    /// Returns where it is if that is so; if not, the sequence cannot be in this step. Whoever runs short of
    /// blocks comes before whoever has none yet.
    fn reserve(&mut self, begun: u64, positions: u32, step: &mut Step) -> Option<usize> {
        let blocks = positions.div_ceil(self.block_size) as usize;
        loop {
            let index = self.index_of(begun)?;
            if self.running[index].blocks.len() + self.blocks.available() as usize >= blocks {
                self.blocks.grow(&mut self.running[index].blocks, blocks);
                return Some(index);
            }
            step.begins = false;
            if self.running.iter().any(|running| running.state != State::Active) {
                // Blocks are on their way back: enough or not, the next collected step will show.
                return None;
            }
            let victim = self.to_give_up_blocks().unwrap_or_else(|| {
                panic!("a sequence alone needs {blocks} of {} blocks", self.blocks.total())
            });
            if self.evict(victim) == Evicted::Later {
                return None;
            }
        }
    }

    /// Of the tenant that holds most blocks the sequence that began last, but never the first of all.
    fn to_give_up_blocks(&self) -> Option<usize> {
        let held = |index: usize| {
            let tenant = self.running[index].sequence.tenant;
            let own = self.running.iter().filter(|running| running.sequence.tenant == tenant);
            own.map(|running| running.blocks.len()).sum::<usize>()
        };
        let urgency = |index: usize| self.running[index].sequence.origin.priority;
        (1..self.running.len()).max_by_key(|&index| (held(index), urgency(index), index))
    }

    /// When no seat is free: takes one from the tenant that has most of them, for one that waits without any.
    fn free_a_seat(&mut self) {
        let Some((seatless, tenant)) = self.tenants.to_give_up_a_seat() else { return };
        let settling = self.running.iter().any(|running| running.state != State::Active);
        if settling || matches!(self.look(seatless), Look::Waits | Look::LacksTile) {
            return;
        }
        let own = (1..self.running.len()).filter(|&index| self.running[index].sequence.tenant == tenant);
        let last = own.max_by_key(|&index| (self.running[index].sequence.origin.priority, index));
        if let Some(victim) = last {
            self.evict(victim);
        }
    }

    /// Preempts a running sequence, now or when its steps have been collected.
    fn evict(&mut self, index: usize) -> Evicted {
        if self.running[index].in_flight > 0 {
            self.running[index].state = State::Evicting;
            return Evicted::Later;
        }
        self.preempt(index);
        Evicted::Now
    }

    /// How many of its next rows a running sequence can have in this step as far as images go.
    fn rows_with_images(&mut self, index: usize, rows: u32) -> u32 {
        let running = &mut self.running[index];
        let start = running.computed();
        self.images.rows_within(running.sequence.tenant, &mut running.sequence.images, start, rows)
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
        self.tenants.charge(running.sequence.tenant, rows);
        step.budget.rows -= rows;
        step.budget.outputs -= part.scores + part.samples;
        step.parts.push(part);
    }

    /// Takes slot and blocks from a running sequence. What it has computed stays, with its state, as long as
    /// nobody needs the room.
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

    /// Returns a running sequence to its tenant's queue, before all that have never run.
    fn preempt(&mut self, index: usize) {
        let sequence = self.release(index);
        let tenant = sequence.tenant;
        self.tenants.enqueue(sequence);
        self.tenants.stopped(tenant);
        self.totals.preemptions += 1;
    }

    /// Fills in the numbers that are the scheduler's.
    pub fn describe(&self, stats: &mut EngineStats) {
        stats.running = self.running.len() as u32;
        stats.waiting = self.tenants.waiting() as u32;
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
        self.tenants.check_integrity(self.running.iter().map(|running| running.sequence.tenant));
        assert!(self.running.is_sorted_by(|a, b| a.begun < b.begun), "running sequences are out of order");
        let begun = self.running.iter().all(|r| r.sequence.begun == Some(r.begun) && r.begun < self.begun);
        assert!(begun, "a sequence runs that has not begun");
        assert!(self.running.len() <= self.seats as usize, "more sequences than seats");
    }
}

/// A step being written.
struct Step<'a> {
    budget: Budget,
    /// Whether anybody may begin.
    begins: bool,
    block_size: u32,
    batch: &'a mut Batch,
    parts: &'a mut Vec<Part>,
}

/// When a sequence has given up its place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evicted {
    Now,
    /// Once the steps that use it have been collected.
    Later,
}
