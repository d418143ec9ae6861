//! Which pages of the K/V cache are free, which are held by sequences, and which are only kept for reuse.

use std::collections::BTreeSet;

use undine_core::{BlockId, CacheRoot, SnapshotId, TokenId};

use crate::prefix_tree::{Found, Prefix, PrefixTree};
use crate::snapshot_pool::SnapshotPool;

/// K/V blocks with what is known of their content.
///
/// A block is *free*, *held* by at least one sequence, or *idle*: held by nobody and in the prefix tree. Idle
/// blocks are available too: they are evicted when no block is free, leaves first, the one that was held last
/// longest ago before all others. A sequence holds all ancestors of the blocks it holds, so whatever follows
/// an idle block is idle.
///
/// Time is the number of the step, which the engine has instead of a clock.
pub(crate) struct BlockPool {
    block_size: u32,
    /// Blocks without a reference or content; the last one is taken next.
    free: Vec<BlockId>,
    /// Sequences that hold a block.
    references: Vec<u32>,
    /// Idle blocks.
    idle: u32,
    /// The idle leaves, by when they were last held.
    idle_leaves: BTreeSet<(u64, BlockId)>,
    /// When a block was last held.
    last_held: Vec<u64>,
    tree: PrefixTree,
    snapshots: SnapshotPool,
    now: u64,
}

impl BlockPool {
    /// All of `blocks` free, and all of `snapshots`; `replay` rows make empty convolution states exact.
    pub fn new(blocks: u32, block_size: u32, snapshots: u32, replay: u32) -> Self {
        Self {
            block_size,
            // Reversed, so that low numbers go first: backends then touch a compact range.
            free: (0..blocks).rev().map(BlockId).collect(),
            references: vec![0; blocks as usize],
            idle: 0,
            idle_leaves: BTreeSet::new(),
            last_held: vec![0; blocks as usize],
            tree: PrefixTree::new(blocks, block_size, replay),
            snapshots: SnapshotPool::new(snapshots),
            now: 1,
        }
    }

    /// A new step begins.
    pub fn tick(&mut self) {
        self.now += 1;
    }

    /// Blocks there are.
    pub fn total(&self) -> u32 {
        self.references.len() as u32
    }

    /// Blocks that can be had now.
    pub fn available(&self) -> u32 {
        self.free.len() as u32 + self.idle
    }

    /// Blocks that are only kept for reuse.
    pub fn idle(&self) -> u32 {
        self.idle
    }

    /// How many sequences hold a block.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block.0 as usize]
    }

    /// Lengthens a block table to `blocks` entries. The caller has made sure that so many are available.
    pub fn grow(&mut self, table: &mut Vec<BlockId>, blocks: usize) {
        while table.len() < blocks {
            table.push(self.allocate().expect("the caller checked that enough blocks are available"));
        }
    }

    /// Takes a block, if one is available, with one reference.
    fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.evict()?,
        };
        let references = &mut self.references[block.0 as usize];
        assert_eq!(*references, 0, "{block:?} was free and referenced");
        *references = 1;
        Some(block)
    }

    /// Takes the idle leaf that was held longest ago out of the tree, with its snapshots.
    fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.idle_leaves.pop_first()?;
        self.idle -= 1;
        while let Some(&(_, id)) = self.tree.snapshots(block).first() {
            self.tree.detach(block, id);
            self.snapshots.release(id);
        }
        if let Some(parent) = self.tree.remove(block) {
            self.settle(parent);
        }
        Some(block)
    }

    /// Adds a reference to each block of a part of the tree.
    pub fn hold(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            let references = &mut self.references[block.0 as usize];
            *references += 1;
            if *references == 1 {
                assert!(self.tree.contains(block), "{block:?} is free and cannot be shared");
                self.idle -= 1;
                self.idle_leaves.remove(&(self.last_held[block.0 as usize], block));
            }
        }
    }

    /// Drops one reference to each block of a table.
    pub fn release(&mut self, table: &[BlockId]) {
        // Last block first, so that the next sequence gets them in ascending order again.
        for &block in table.iter().rev() {
            let references = &mut self.references[block.0 as usize];
            assert!(*references > 0, "{block:?} released twice");
            *references -= 1;
            self.last_held[block.0 as usize] = self.now;
            if *references > 0 {
                continue;
            }
            if self.tree.contains(block) {
                self.idle += 1;
                self.settle(block);
            } else {
                self.free.push(block);
            }
        }
    }

    /// Makes a block of the tree evictable, if it is.
    fn settle(&mut self, block: BlockId) {
        if self.references(block) == 0 && self.tree.is_leaf(block) {
            self.idle_leaves.insert((self.last_held[block.0 as usize], block));
        }
    }

    /// Makes the blocks of a table findable under `root`: they hold `tokens`, of which the first `published`
    /// are in the tree.
    pub fn publish(&mut self, root: &CacheRoot, table: &[BlockId], tokens: &[TokenId], published: u32) {
        let size = self.block_size as usize;
        for (i, part) in tokens.chunks(size).enumerate().skip(published as usize / size) {
            let block = table[i];
            if self.tree.contains(block) {
                self.tree.extend(block, part);
            } else {
                self.tree.insert(root, i.checked_sub(1).map(|before| table[before]), block, part);
            }
        }
    }

    /// The best beginnings for these tokens under a root.
    pub fn find(&self, root: &CacheRoot, tokens: &[TokenId]) -> Found {
        self.tree.find(root, tokens)
    }

    /// The blocks of a prefix.
    pub fn path(&self, prefix: &Prefix) -> Vec<BlockId> {
        self.tree.path(prefix.node)
    }

    /// Whether a block holds exactly so many tokens and nobody holds it: then a sequence may go on writing to
    /// it.
    pub fn can_continue(&self, block: BlockId, tokens: u32) -> bool {
        self.references(block) == 0 && self.tree.tokens(block).len() as u32 == tokens
    }

    /// Whether the state at `position` of a table could be kept and is not. A block whose tokens others had
    /// published before is not in the tree: their state belongs there.
    pub fn lacks_snapshot(&self, table: &[BlockId], position: u32) -> bool {
        let (block, tokens) = self.place(table, position);
        self.tree.contains(block)
            && tokens as usize <= self.tree.tokens(block).len()
            && self.tree.snapshots(block).iter().all(|&(after, _)| after != tokens)
    }

    /// The block of a table that ends at or contains `position`, and its tokens up to there.
    fn place(&self, table: &[BlockId], position: u32) -> (BlockId, u32) {
        let i = (position - 1) / self.block_size;
        (table[i as usize], position - i * self.block_size)
    }

    /// A snapshot to be filled in this step, if one can be had.
    pub fn allocate_snapshot(&mut self) -> Option<SnapshotId> {
        let (id, from) = self.snapshots.allocate(self.now)?;
        if let Some(block) = from {
            self.tree.detach(block, id);
        }
        Some(id)
    }

    /// This step reads or writes a snapshot.
    pub fn touch_snapshot(&mut self, id: SnapshotId) {
        self.snapshots.touch(id, self.now);
    }

    /// Keeps a snapshot with the published blocks of a table.
    pub fn keep_snapshot(&mut self, table: &[BlockId], position: u32, id: SnapshotId) {
        let (block, tokens) = self.place(table, position);
        if self.tree.attach(block, tokens, id) {
            self.snapshots.keep(id, block);
        } else {
            self.snapshots.release(id);
        }
    }

    /// Gives back a snapshot that was not kept.
    pub fn release_snapshot(&mut self, id: SnapshotId) {
        self.snapshots.release(id);
    }

    /// Panics unless `held` names every block as often as it has references, and every other block is free or
    /// idle, once each; and unless every snapshot is free, with one block, or one of `promised`.
    pub fn check_integrity(
        &self,
        held: impl Iterator<Item = BlockId>,
        promised: impl Iterator<Item = SnapshotId>,
    ) {
        let mut references = vec![0u32; self.references.len()];
        held.for_each(|block| references[block.0 as usize] += 1);
        assert_eq!(
            references, self.references,
            "references to blocks do not match the tables that hold them"
        );
        let mut free = vec![0u32; self.references.len()];
        self.free.iter().for_each(|block| free[block.0 as usize] += 1);
        self.tree.check_integrity();
        let (mut idle, mut leaves, mut kept) = (0, BTreeSet::new(), Vec::new());
        for (block, (&free, &references)) in (0..).map(BlockId).zip(free.iter().zip(&references)) {
            let cached = self.tree.contains(block);
            let expected = u32::from(references == 0 && !cached);
            assert_eq!(free, expected, "{block:?} is lost, or free and referenced");
            kept.extend(self.tree.snapshots(block).iter().map(|&(_, id)| (id, block)));
            if cached && references == 0 {
                idle += 1;
                if self.tree.is_leaf(block) {
                    leaves.insert((self.last_held[block.0 as usize], block));
                }
            }
            if let Some(parent) = self.tree.parent(block).filter(|_| references > 0) {
                assert!(self.references(parent) > 0, "{block:?} is held and {parent:?} before it is not");
            }
        }
        assert_eq!((idle, &leaves), (self.idle, &self.idle_leaves), "idle blocks");
        self.snapshots.check_integrity(kept.into_iter(), promised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(blocks: u32) -> BlockPool {
        BlockPool::new(blocks, 2, 2, 0)
    }

    fn check(pool: &BlockPool, held: &[&[BlockId]]) {
        pool.check_integrity(held.iter().flat_map(|table| table.iter().copied()), std::iter::empty());
    }

    #[test]
    fn blocks_come_back_in_order() {
        let mut pool = pool(4);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        pool.grow(&mut a, 3);
        pool.grow(&mut b, 1);
        pool.grow(&mut b, 1);
        assert_eq!((&a[..], &b[..], pool.available()), (&[0, 1, 2].map(BlockId)[..], &[BlockId(3)][..], 0));
        check(&pool, &[&a, &b]);
        pool.release(&a);
        check(&pool, &[&b]);
        let mut c = Vec::new();
        pool.grow(&mut c, 3);
        assert_eq!(c, a);
    }

    /// Two idle chains: the one that was held longest ago goes first, from its end, and a held one never.
    #[test]
    fn the_oldest_idle_leaf_is_evicted() {
        let mut pool = pool(6);
        let mut tables = [Vec::new(), Vec::new(), Vec::new()];
        for (i, table) in tables.iter_mut().enumerate() {
            pool.grow(table, 2);
            pool.publish(&CacheRoot::default(), table, &[i as u32, 1, 2, 3], 0);
        }
        for i in [1, 0] {
            pool.release(&tables[i]);
            pool.tick();
        }
        check(&pool, &[&tables[2]]);
        assert_eq!((pool.available(), pool.idle()), (4, 4));
        let order = [tables[1][1], tables[1][0], tables[0][1], tables[0][0]];
        let mut taken = Vec::new();
        for (i, &block) in order.iter().enumerate() {
            pool.grow(&mut taken, i + 1);
            assert_eq!(taken[i], block);
            check(&pool, &[&tables[2], &taken]);
        }
        assert_eq!(pool.available(), 0);
    }

    #[test]
    fn a_shared_block_is_idle_when_the_last_one_leaves() {
        let mut pool = pool(2);
        let mut table = Vec::new();
        pool.grow(&mut table, 1);
        pool.publish(&CacheRoot::default(), &table, &[7, 8], 0);
        pool.hold(&table);
        pool.release(&table);
        assert_eq!((pool.available(), pool.references(table[0])), (1, 1));
        pool.release(&table);
        assert_eq!((pool.available(), pool.idle()), (2, 1));
        pool.hold(&table);
        check(&pool, &[&table]);
        assert_eq!(pool.idle(), 0);
    }

    #[test]
    fn a_snapshot_goes_with_its_block() {
        let mut pool = pool(1);
        let mut table = Vec::new();
        pool.grow(&mut table, 1);
        pool.publish(&CacheRoot::default(), &table, &[7], 0);
        assert!(pool.lacks_snapshot(&table, 1));
        let id = pool.allocate_snapshot().unwrap();
        pool.keep_snapshot(&table, 1, id);
        assert!(!pool.lacks_snapshot(&table, 1) && !pool.lacks_snapshot(&table, 2));
        check(&pool, &[&table]);
        pool.release(&table);
        let mut other = Vec::new();
        pool.grow(&mut other, 1);
        assert!(!pool.lacks_snapshot(&other, 1), "nobody could find it");
        check(&pool, &[&other]);
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_double_release_is_noticed() {
        let mut pool = pool(1);
        let mut table = Vec::new();
        pool.grow(&mut table, 1);
        pool.release(&table);
        pool.release(&table);
    }

    #[test]
    #[should_panic(expected = "do not match the tables")]
    fn a_lost_block_is_noticed() {
        let mut pool = pool(1);
        pool.grow(&mut Vec::new(), 1);
        check(&pool, &[]);
    }
}
