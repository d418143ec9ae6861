//! Which copies of convolution states there are, and which of them is overwritten next.

use undine_core::{BlockId, SnapshotId};

/// Snapshots, each free, about to be filled by a running sequence, or kept with a block of the prefix tree.
pub(crate) struct SnapshotPool {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    state: State,
    /// The step that used it last. What the current step reads or writes is not given away in it.
    last_used: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// Allocated; its block is not in the tree yet.
    Promised,
    Kept(BlockId),
}

impl SnapshotPool {
    /// All of `total` free.
    pub fn new(total: u32) -> Self {
        Self { entries: vec![Entry { state: State::Free, last_used: 0 }; total as usize] }
    }

    /// A snapshot to fill in step `now`: a free one, else the one whose last use is longest ago, with the
    /// block that loses it. None if the step uses all there are.
    pub fn allocate(&mut self, now: u64) -> Option<(SnapshotId, Option<BlockId>)> {
        let usable = |entry: &Entry| entry.state != State::Promised && entry.last_used < now;
        let candidates = self.entries.iter_mut().zip(0..).filter(|(entry, _)| usable(entry));
        let (entry, id) =
            candidates.min_by_key(|(entry, _)| (entry.state != State::Free, entry.last_used))?;
        let from = match entry.state {
            State::Kept(block) => Some(block),
            State::Free | State::Promised => None,
        };
        *entry = Entry { state: State::Promised, last_used: now };
        Some((SnapshotId(id), from))
    }

    /// Step `now` reads or writes it.
    pub fn touch(&mut self, id: SnapshotId, now: u64) {
        self.entries[id.0 as usize].last_used = now;
    }

    /// It belongs to a block now.
    pub fn keep(&mut self, id: SnapshotId, block: BlockId) {
        self.entries[id.0 as usize].state = State::Kept(block);
    }

    /// Nobody needs it.
    pub fn release(&mut self, id: SnapshotId) {
        self.entries[id.0 as usize].state = State::Free;
    }

    /// Panics unless the kept ones are those that `kept` names, and the promised ones those of `promised`.
    pub fn check_integrity(
        &self,
        kept: impl Iterator<Item = (SnapshotId, BlockId)>,
        promised: impl Iterator<Item = SnapshotId>,
    ) {
        let mut states = vec![State::Free; self.entries.len()];
        for (id, state) in
            kept.map(|(id, block)| (id, State::Kept(block))).chain(promised.map(|id| (id, State::Promised)))
        {
            let before = std::mem::replace(&mut states[id.0 as usize], state);
            assert!(before == State::Free, "{id:?} has two owners");
        }
        let same = self.entries.iter().zip(&states).all(|(entry, state)| entry.state == *state);
        assert!(same, "a snapshot is lost, or its block does not know it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ones_go_first_then_the_oldest_but_none_of_this_step() {
        let mut pool = SnapshotPool::new(3);
        for (now, id) in [(1, 0), (2, 1), (2, 2)] {
            assert_eq!(pool.allocate(now), Some((SnapshotId(id), None)));
        }
        assert_eq!(pool.allocate(3), None, "all are promised");
        (0..3).for_each(|id| pool.keep(SnapshotId(id), BlockId(id)));
        assert_eq!(pool.allocate(2), Some((SnapshotId(0), Some(BlockId(0)))));
        assert_eq!(pool.allocate(2), None, "step 2 uses the others");
        pool.touch(SnapshotId(1), 3);
        assert_eq!(pool.allocate(4), Some((SnapshotId(2), Some(BlockId(2)))));
        pool.release(SnapshotId(0));
        assert_eq!(pool.allocate(4), Some((SnapshotId(0), None)));
        let kept = [(SnapshotId(1), BlockId(1))];
        pool.check_integrity(kept.into_iter(), [SnapshotId(0), SnapshotId(2)].into_iter());
    }
}
