//! Which pages of the K/V cache are free.

use undine_core::BlockId;

/// K/V blocks, counted. A block is free or has at least one reference.
///
/// Today every reference is one sequence's. A prefix cache adds references of its own and of further sequences;
/// callers keep calling `allocate` and `release`.
pub(crate) struct BlockPool {
    /// Blocks without a reference; the last one is taken next.
    free: Vec<BlockId>,
    /// References per block.
    references: Vec<u32>,
}

impl BlockPool {
    /// All of `total` blocks free.
    pub fn new(total: u32) -> Self {
        // Reversed, so that low numbers go first: backends then touch a compact range.
        Self { free: (0..total).rev().map(BlockId).collect(), references: vec![0; total as usize] }
    }

    /// Blocks there are.
    pub fn total(&self) -> u32 {
        self.references.len() as u32
    }

    /// Blocks that can be had now.
    pub fn available(&self) -> u32 {
        self.free.len() as u32
    }

    /// Lengthens a block table to `blocks` entries. The caller has made sure that so many are available.
    pub fn grow(&mut self, table: &mut Vec<BlockId>, blocks: usize) {
        while table.len() < blocks {
            table.push(self.allocate().expect("the caller checked that enough blocks are available"));
        }
    }

    /// Takes a free block, if there is one, with one reference.
    fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        let references = &mut self.references[block.0 as usize];
        assert_eq!(*references, 0, "{block:?} was free and referenced");
        *references = 1;
        Some(block)
    }

    /// Drops one reference to each block of a table.
    pub fn release(&mut self, table: &[BlockId]) {
        // Last block first, so that the next sequence gets them in ascending order again.
        for &block in table.iter().rev() {
            let references = &mut self.references[block.0 as usize];
            assert!(*references > 0, "{block:?} released twice");
            *references -= 1;
            if *references == 0 {
                self.free.push(block);
            }
        }
    }

    /// Panics unless `held` names every block as often as it has references, and the rest is free, once each.
    pub fn check_integrity(&self, held: impl Iterator<Item = BlockId>) {
        let mut references = vec![0u32; self.references.len()];
        held.for_each(|block| references[block.0 as usize] += 1);
        assert_eq!(
            references, self.references,
            "references to blocks do not match the tables that hold them"
        );
        let mut free = vec![0u32; self.references.len()];
        self.free.iter().for_each(|block| free[block.0 as usize] += 1);
        for (block, (&free, &references)) in free.iter().zip(&references).enumerate() {
            assert_eq!(free, u32::from(references == 0), "block {block} is lost, or free and referenced");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_order() {
        let mut pool = BlockPool::new(4);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        pool.grow(&mut a, 3);
        pool.grow(&mut b, 1);
        pool.grow(&mut b, 1);
        assert_eq!((&a[..], &b[..], pool.available()), (&[0, 1, 2].map(BlockId)[..], &[BlockId(3)][..], 0));
        pool.check_integrity(a.iter().chain(&b).copied());
        pool.release(&a);
        pool.check_integrity(b.iter().copied());
        let mut c = Vec::new();
        pool.grow(&mut c, 3);
        assert_eq!(c, a);
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_noticed() {
        let mut pool = BlockPool::new(1);
        let mut table = Vec::new();
        pool.grow(&mut table, 1);
        pool.release(&table);
        pool.release(&table);
    }

    #[test]
    #[should_panic(expected = "do not match the tables")]
    fn a_lost_block_is_noticed() {
        let mut pool = BlockPool::new(1);
        pool.grow(&mut Vec::new(), 1);
        pool.check_integrity([].into_iter());
    }
}
