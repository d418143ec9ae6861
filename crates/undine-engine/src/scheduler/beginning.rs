//! How the first of a queue begins: with what the cache has of it, or not yet.
//!
//! A request whose prefix is being computed by somebody else waits for it (and so does its tenant's queue
//! behind it) if that spares it half of its rows or more; whom it waits for comes before it in every step, so
//! it waits no longer than it would have to compute.

use undine_core::{BlockCopy, BlockId, StateSource};

use super::{Scheduler, Step};
use crate::config::PrefixCaching;
use crate::prefix_tree::{Found, Prefix};
use crate::running::Running;
use crate::sequence::Sequence;
use crate::tenants::TenantIndex;

/// A request waits for a prefix that is being computed if it then has at most one of so many of its rows to
/// compute.
const WAIT_GAIN: u32 = 2;

/// How the first request of a queue begins, given the blocks there are.
pub(super) struct Beginning {
    prefix: Prefix,
    /// Blocks to share, in order.
    shared: Vec<BlockId>,
    /// The block whose beginning is the next one's.
    copied: Option<BlockId>,
    /// Entries of the whole table.
    blocks: u32,
}

/// What becomes of the first of a queue.
pub(super) enum Look {
    Begins(Beginning),
    /// For a prefix that somebody is computing.
    Waits,
    /// The image that it begins in is not encoded yet.
    LacksTile,
    LacksBlocks,
}

impl Scheduler {
    /// Starts the first of a tenant's queue, if there is room for it in step and cache.
    pub(super) fn begin_next(&mut self, tenant: TenantIndex, step: &mut Step) {
        match self.look(tenant) {
            Look::Begins(beginning) => {
                let sequence = self.tenants.begin_front(tenant);
                self.begin(sequence, beginning, step);
                self.tenants.had_turn(tenant);
            }
            Look::Waits => {
                self.totals.deferred += 1;
                self.tenants.cannot_begin(tenant);
            }
            Look::LacksTile => self.tenants.cannot_begin(tenant),
            // Whoever began now would keep it from ever having room.
            Look::LacksBlocks => step.begins = false,
        }
    }

    /// How the first of a tenant's queue would begin.
    pub(super) fn look(&mut self, tenant: TenantIndex) -> Look {
        let sequence = self.tenants.front(tenant).expect("it has a turn because it waits");
        let found = self.find(sequence);
        if self.is_worth_waiting(sequence, &found.any) {
            return Look::Waits;
        }
        let blocks = sequence.positions_to_start().div_ceil(self.block_size);
        let Some(beginning) = self.beginning(&found, blocks) else { return Look::LacksBlocks };
        let sequence = self.tenants.front_mut(tenant).expect("it is still there");
        if self.images.rows_within(tenant, &mut sequence.images, beginning.prefix.start, 1) == 0 {
            return Look::LacksTile;
        }
        Look::Begins(beginning)
    }

    /// What the cache has for a sequence.
    fn find(&self, sequence: &Sequence) -> Found {
        // Prompt scores need the logits of every row.
        if !self.reads_cache(sequence) {
            return Found::NOTHING;
        }
        self.blocks.find(&sequence.origin.cache_root, sequence.keys())
    }

    fn reads_cache(&self, sequence: &Sequence) -> bool {
        self.caching == PrefixCaching::On && sequence.scores.is_none()
    }

    /// Whether somebody who runs is about to compute much of what a sequence needs.
    fn is_worth_waiting(&self, sequence: &Sequence, now: &Prefix) -> bool {
        let tokens = sequence.tokens.len() as u32;
        let rows = tokens - now.start;
        let comes_first = |other: &Running| self.tenants.comes_before(other.sequence.tenant, sequence.tenant);
        self.reads_cache(sequence)
            && self.running.iter().any(|running| {
                let later = running.will_share(sequence, self.replay);
                later.is_some_and(|start| (tokens - start) * WAIT_GAIN <= rows && comes_first(running))
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
            // One block for each running sequence to grow into, or the newcomer would soon be preempted
            // again.
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
        let begun = sequence.begun.unwrap_or(self.begun);
        self.begun = self.begun.max(begun + 1);
        sequence.begun = Some(begun);
        let mut running = Running::new(sequence, begun, slot, table, &prefix, published);
        if self.keeps_states {
            running.keep_states();
        }
        let index = self.running.partition_point(|other| other.begun < begun);
        self.running.insert(index, running);
        let rows = self.running[index].rows_within(&step.budget);
        let rows = self.rows_with_images(index, rows);
        assert!(rows > 0, "a row and an output are left, and an image in it is there, so the first row fits");
        self.record(index, rows, step);
        step.parts.last_mut().expect("it has just been recorded").started = started;
    }
}
