//! What is in the K/V cache: trees of blocks, each with the tokens it was computed for.
//!
//! Each [`CacheRoot`] has a tree of its own, so that a request finds what was computed under its own root and
//! cannot find out about anything else. A tree is there as long as a block of it is: there are never more
//! than blocks.
//!
//! A node is a block. Its key is its tokens after those of its ancestors, compared one by one, so there are
//! no collisions. Only a leaf may have fewer tokens than a block has positions. A sequence hangs each block
//! below its own previous one, so two sequences that computed the same tokens at the same time leave equal
//! siblings; a search looks below all of them.
//!
//! A position of an image is known by the image instead of a token ([`crate::images`]): equal images match,
//! others do not.

use std::collections::HashMap;

use undine_core::{BlockId, CacheRoot, SnapshotId, StateSource, TokenId};

/// Blocks by the tokens they hold. Every array is indexed by block and made at start.
pub(crate) struct PrefixTree {
    block_size: u32,
    /// Rows that make empty convolution states exact.
    replay: u32,
    nodes: Vec<Node>,
    /// The keys: `block_size` for each block, of which the first [`Node::len`] count.
    tokens: Vec<TokenId>,
    /// First block of each root's tree. None is empty.
    roots: HashMap<CacheRoot, BlockId>,
}

/// A block's place in the tree.
#[derive(Clone, Default)]
struct Node {
    /// Tokens it holds; a block outside the tree has none.
    len: u32,
    parent: Option<BlockId>,
    /// Of a block without a parent: whose tree it begins.
    root: Option<CacheRoot>,
    first_child: Option<BlockId>,
    next: Option<BlockId>,
    previous: Option<BlockId>,
    /// States after the first so many of its tokens.
    snapshots: Vec<(u32, SnapshotId)>,
}

/// Where a sequence can begin, given some of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    /// The last block of the prefix.
    pub node: Option<BlockId>,
    /// Tokens whose keys and values are in the cache.
    pub cached: u32,
    /// The first position to compute; those before `cached` only for the convolution states.
    pub start: u32,
    /// What to start from.
    pub state: StateSource,
}

/// The best beginnings that a search found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Of whole blocks.
    pub whole: Prefix,
    /// Of whole blocks and a part of another one.
    pub any: Prefix,
}

impl Found {
    /// The cache has nothing.
    pub const NOTHING: Self = Self { whole: Prefix::NONE, any: Prefix::NONE };
}

impl Prefix {
    /// From the beginning.
    const NONE: Self = Self { node: None, cached: 0, start: 0, state: StateSource::Empty };

    /// Fewer rows first, then more of the cache.
    fn better_than(&self, other: &Self) -> bool {
        (self.start, self.cached) > (other.start, other.cached)
    }
}

impl PrefixTree {
    /// No trees, for so many blocks.
    pub fn new(blocks: u32, block_size: u32, replay: u32) -> Self {
        let nodes = vec![Node::default(); blocks as usize];
        let tokens = vec![0; blocks as usize * block_size as usize];
        Self { block_size, replay, nodes, tokens, roots: HashMap::new() }
    }

    /// Whether a block is in the tree.
    pub fn contains(&self, block: BlockId) -> bool {
        self.node(block).len > 0
    }

    /// The tokens of a block.
    pub fn tokens(&self, block: BlockId) -> &[TokenId] {
        let start = block.0 as usize * self.block_size as usize;
        &self.tokens[start..start + self.node(block).len as usize]
    }

    /// The block before this one.
    pub fn parent(&self, block: BlockId) -> Option<BlockId> {
        self.node(block).parent
    }

    /// Whether no block follows this one.
    pub fn is_leaf(&self, block: BlockId) -> bool {
        self.node(block).first_child.is_none()
    }

    /// The snapshots of a block, with the number of its tokens they come after.
    pub fn snapshots(&self, block: BlockId) -> &[(u32, SnapshotId)] {
        &self.node(block).snapshots
    }

    /// Adds a block after `parent`, or one that begins the text of `root`.
    pub fn insert(&mut self, root: &CacheRoot, parent: Option<BlockId>, block: BlockId, tokens: &[TokenId]) {
        assert!(!self.contains(block), "{block:?} is in the tree already");
        let next = match parent {
            Some(parent) => {
                assert_eq!(self.node(parent).len, self.block_size, "{block:?} follows half a block");
                self.node_mut(parent).first_child.replace(block)
            }
            None => {
                self.node_mut(block).root = Some(root.clone());
                self.roots.insert(root.clone(), block)
            }
        };
        if let Some(next) = next {
            self.node_mut(next).previous = Some(block);
        }
        let node = self.node_mut(block);
        (node.parent, node.next, node.previous, node.first_child) = (parent, next, None, None);
        self.extend(block, tokens);
    }

    /// Lets a block hold more tokens; `tokens` are all of them.
    pub fn extend(&mut self, block: BlockId, tokens: &[TokenId]) {
        debug_assert!(tokens.starts_with(self.tokens(block)), "{block:?} holds other tokens");
        let known = self.node(block).len as usize;
        let start = block.0 as usize * self.block_size as usize;
        self.tokens[start + known..start + tokens.len()].copy_from_slice(&tokens[known..]);
        self.node_mut(block).len = tokens.len() as u32;
    }

    /// Remembers a state after the first `tokens` of a block's tokens, unless there is one. Returns whether
    /// it did.
    pub fn attach(&mut self, block: BlockId, tokens: u32, id: SnapshotId) -> bool {
        let node = self.node_mut(block);
        assert!((1..=node.len).contains(&tokens), "a state after {tokens} of {} tokens", node.len);
        if node.snapshots.iter().any(|&(other, _)| other == tokens) {
            return false;
        }
        node.snapshots.push((tokens, id));
        true
    }

    /// Forgets a state.
    pub fn detach(&mut self, block: BlockId, id: SnapshotId) {
        self.node_mut(block).snapshots.retain(|&(_, other)| other != id);
    }

    /// Takes out a leaf, which has no snapshots left. Returns its parent.
    pub fn remove(&mut self, block: BlockId) -> Option<BlockId> {
        let node = self.node(block);
        assert!(node.first_child.is_none() && node.snapshots.is_empty(), "{block:?} is still needed");
        let (parent, next, previous) = (node.parent, node.next, node.previous);
        let root = self.node_mut(block).root.take();
        match (previous, parent, root) {
            (Some(previous), ..) => self.node_mut(previous).next = next,
            (None, Some(parent), _) => self.node_mut(parent).first_child = next,
            (None, None, root) => {
                let root = root.expect("a block without a parent begins a tree");
                match next {
                    Some(next) => self.roots.insert(root, next),
                    None => self.roots.remove(&root),
                };
            }
        }
        if let Some(next) = next {
            self.node_mut(next).previous = previous;
        }
        let node = self.node_mut(block);
        (node.len, node.parent, node.next, node.previous) = (0, None, None, None);
        parent
    }

    /// The best beginnings for these tokens under a root. The last token is computed in any case.
    pub fn find(&self, root: &CacheRoot, tokens: &[TokenId]) -> Found {
        let mut found = Found::NOTHING;
        // Siblings to look at: the first, the tokens before them, and the last state on the way there.
        let mut open = vec![(self.roots.get(root).copied(), 0, None)];
        while let Some((first, before, snapshot)) = open.pop() {
            let rest: &[TokenId] = &tokens[before as usize..];
            for block in self.siblings(first) {
                let shared = common(self.tokens(block), rest);
                if shared == 0 {
                    continue;
                }
                let cached = before + shared;
                let last = tokens.len() as u32 - 1;
                let here = self.node(block).snapshots.iter().map(|&(after, id)| (before + after, id));
                let snapshot = here.filter(|&(at, _)| at <= cached.min(last)).max().or(snapshot);
                let prefix = self.prefix(block, cached, last, snapshot);
                if prefix.better_than(&found.any) {
                    found.any = prefix;
                }
                if shared == self.block_size {
                    if prefix.better_than(&found.whole) {
                        found.whole = prefix;
                    }
                    open.push((self.node(block).first_child, cached, snapshot));
                }
            }
        }
        found
    }

    /// How to begin with `cached` tokens that end in `block`; position `last` needs an exact state.
    fn prefix(&self, block: BlockId, cached: u32, last: u32, snapshot: Option<(u32, SnapshotId)>) -> Prefix {
        let replayed = cached.min(last).saturating_sub(self.replay);
        let (start, state) = match snapshot {
            Some((at, id)) if at > replayed => (at, StateSource::Snapshot(id)),
            _ => (replayed, StateSource::Empty),
        };
        Prefix { node: Some(block), cached, start, state }
    }

    /// The blocks from the root to `node`.
    pub fn path(&self, node: Option<BlockId>) -> Vec<BlockId> {
        let mut path: Vec<BlockId> = std::iter::successors(node, |&block| self.parent(block)).collect();
        path.reverse();
        path
    }

    fn siblings(&self, first: Option<BlockId>) -> impl Iterator<Item = BlockId> {
        std::iter::successors(first, |&block| self.node(block).next)
    }

    fn node(&self, block: BlockId) -> &Node {
        &self.nodes[block.0 as usize]
    }

    fn node_mut(&mut self, block: BlockId) -> &mut Node {
        &mut self.nodes[block.0 as usize]
    }

    /// Panics unless the nodes are one tree for each root, in which only leaves are incomplete.
    pub fn check_integrity(&self) {
        let mut reached = 0;
        let mut open: Vec<_> =
            self.roots.iter().map(|(root, &first)| (None, Some(root), Some(first))).collect();
        while let Some((parent, root, first)) = open.pop() {
            let mut previous = None;
            for block in self.siblings(first) {
                let node = self.node(block);
                assert_eq!((node.parent, node.previous), (parent, previous), "links of {block:?}");
                assert_eq!(node.root.as_ref(), root, "the root of {block:?}");
                assert!((1..=self.block_size).contains(&node.len), "{block:?} holds {} tokens", node.len);
                assert!(node.len == self.block_size || node.first_child.is_none(), "{block:?} is incomplete");
                open.push((Some(block), None, node.first_child));
                (previous, reached) = (Some(block), reached + 1);
                assert!(reached <= self.nodes.len(), "the tree has a cycle");
            }
        }
        let inside = self.nodes.iter().filter(|node| node.len > 0).count();
        assert_eq!(reached, inside, "a block is in the tree and cannot be found");
    }
}

/// How many tokens two sequences share from the first on.
pub(crate) fn common(a: &[TokenId], b: &[TokenId]) -> u32 {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of most tests.
    fn root() -> CacheRoot {
        CacheRoot::default()
    }

    const B: [BlockId; 6] = [BlockId(0), BlockId(1), BlockId(2), BlockId(3), BlockId(4), BlockId(5)];

    /// Blocks of 4, 3 rows to replay: 1 2 3 4 | 5 6 7 8 | 9 10, and beside the second 5 6 1 1.
    fn tree() -> PrefixTree {
        let mut tree = PrefixTree::new(6, 4, 3);
        tree.insert(&root(), None, B[0], &[1, 2, 3, 4]);
        tree.insert(&root(), Some(B[0]), B[1], &[5, 6, 7, 8]);
        tree.insert(&root(), Some(B[1]), B[2], &[9]);
        tree.extend(B[2], &[9, 10]);
        tree.insert(&root(), Some(B[0]), B[3], &[5, 6, 1, 1]);
        tree.check_integrity();
        tree
    }

    #[test]
    fn the_longest_prefix_is_found() {
        let tree = tree();
        // Tokens, then block, cached tokens and first row of the best prefix of any length and of whole
        // blocks.
        type Best = (Option<usize>, u32, u32);
        let cases: [(&[TokenId], Best, Best); 8] = [
            (&[2, 2], (None, 0, 0), (None, 0, 0)),
            (&[1, 2], (Some(0), 2, 0), (None, 0, 0)),
            (&[1, 2, 3, 4], (Some(0), 4, 0), (Some(0), 4, 0)),
            (&[1, 2, 3, 4, 5], (Some(3), 5, 1), (Some(0), 4, 1)),
            (&[1, 2, 3, 4, 5, 6, 1, 2], (Some(3), 7, 4), (Some(0), 4, 1)),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 8, 8], (Some(1), 8, 5), (Some(1), 8, 5)),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], (Some(2), 10, 6), (Some(1), 8, 5)),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], (Some(2), 10, 7), (Some(1), 8, 5)),
        ];
        for (tokens, any, whole) in cases {
            let found = tree.find(&root(), tokens);
            let short = |p: Prefix| (p.node.map(|block| block.0 as usize), p.cached, p.start);
            assert_eq!((short(found.any), short(found.whole)), (any, whole), "{tokens:?}");
        }
    }

    #[test]
    fn a_snapshot_saves_the_replay_but_not_the_last_token() {
        let mut tree = tree();
        assert!(tree.attach(B[2], 2, SnapshotId(1)) && tree.attach(B[1], 4, SnapshotId(2)));
        assert!(!tree.attach(B[1], 4, SnapshotId(3)), "one is enough");
        let begin = |tree: &PrefixTree, tokens: &[TokenId]| {
            let Prefix { start, state, .. } = tree.find(&root(), tokens).any;
            (start, state)
        };
        let long = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        assert_eq!(begin(&tree, &long), (10, StateSource::Snapshot(SnapshotId(1))));
        assert_eq!(begin(&tree, &long[..10]), (8, StateSource::Snapshot(SnapshotId(2))));
        assert_eq!(begin(&tree, &long[..8]), (4, StateSource::Empty));
        tree.detach(B[1], SnapshotId(2));
        assert_eq!(begin(&tree, &long[..10]), (6, StateSource::Empty));
    }

    #[test]
    fn equal_siblings_are_all_searched() {
        let mut tree = PrefixTree::new(6, 2, 0);
        tree.insert(&root(), None, B[0], &[1, 2]);
        tree.insert(&root(), Some(B[0]), B[1], &[3, 4]);
        tree.insert(&root(), None, B[2], &[1, 2]);
        tree.insert(&root(), Some(B[2]), B[3], &[5, 6]);
        for (last, blocks) in [([3, 4], [B[0], B[1]]), ([5, 6], [B[2], B[3]])] {
            let found = tree.find(&root(), &[&[1, 2], &last[..], &[7]].concat()).any;
            assert_eq!((found.cached, &tree.path(found.node)[..]), (4, &blocks[..]));
        }
        tree.remove(B[3]);
        assert_eq!(tree.remove(B[2]), None);
        assert_eq!(tree.remove(B[1]), Some(B[0]));
        tree.check_integrity();
        assert_eq!(tree.find(&root(), &[1, 2, 5, 6]).any.cached, 2);
        assert!(tree.is_leaf(B[0]) && !tree.contains(B[1]));
    }

    #[test]
    fn roots_know_nothing_of_each_other() {
        let salted = |domain: u64, salt: Option<&str>| CacheRoot { domain, salt: salt.map(Into::into) };
        let roots = [root(), salted(1, None), salted(0, Some("a")), salted(0, Some("b"))];
        let mut tree = PrefixTree::new(6, 4, 0);
        for (root, block) in roots.iter().zip(B) {
            assert_eq!(tree.find(root, &[1, 2, 3, 4, 5]), Found::NOTHING);
            tree.insert(root, None, block, &[1, 2, 3, 4]);
        }
        tree.check_integrity();
        for (root, block) in roots.iter().zip(B) {
            assert_eq!(tree.find(root, &[1, 2, 3, 4, 5]).whole.node, Some(block));
        }
        // A root is gone with its last block, whichever that is.
        tree.insert(&roots[1], None, B[4], &[7]);
        for (block, left) in [(B[1], 4), (B[4], 3), (B[2], 2), (B[3], 1), (B[0], 0)] {
            assert_eq!(tree.remove(block), None);
            tree.check_integrity();
            assert_eq!(tree.roots.len(), left);
        }
    }
}
