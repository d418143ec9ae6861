//! Which state slots are free.

use undine_core::Slot;

/// State slots, each owned by at most one sequence.
///
/// A slot is not cleared here: the backend starts a sequence at position 0 from an empty state.
pub(crate) struct SlotPool {
    /// Free slots; the last one is taken next.
    free: Vec<Slot>,
    total: u32,
}

impl SlotPool {
    /// All of `total` slots free.
    pub fn new(total: u32) -> Self {
        // Reversed, so that low numbers go first: backends then touch a compact range.
        Self { free: (0..total).rev().map(Slot).collect(), total }
    }

    /// Slots there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Slots held by sequences.
    pub fn used(&self) -> u32 {
        self.total - self.free.len() as u32
    }

    /// Takes a free slot, if there is one. The caller owns it until [`release`](Self::release).
    pub fn allocate(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    /// Gives a slot back.
    pub fn release(&mut self, slot: Slot) {
        assert!(slot.0 < self.total, "{slot:?} of {} slots", self.total);
        debug_assert!(!self.free.contains(&slot), "{slot:?} released twice");
        self.free.push(slot);
    }

    /// Panics unless every slot is either free or named once by `held`.
    pub fn check_integrity(&self, held: impl Iterator<Item = Slot>) {
        let mut owners = vec![0u32; self.total as usize];
        self.free.iter().copied().chain(held).for_each(|slot| owners[slot.0 as usize] += 1);
        for (slot, &owners) in owners.iter().enumerate() {
            assert_eq!(owners, 1, "slot {slot} is lost or has two owners");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let mut pool = SlotPool::new(2);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        assert_eq!((a, b, pool.allocate(), pool.used()), (Slot(0), Slot(1), None, 2));
        pool.check_integrity([a, b].into_iter());
        pool.release(a);
        pool.check_integrity([b].into_iter());
        assert_eq!(pool.allocate(), Some(a));
    }

    #[test]
    #[should_panic(expected = "lost or has two owners")]
    fn a_lost_slot_is_noticed() {
        let mut pool = SlotPool::new(2);
        pool.allocate();
        pool.check_integrity([].into_iter());
    }
}
