//! Causal grouped-query attention over the paged K/V cache.
//!
//! A page holds [`PAGE`] positions; per head its keys are `[dim][position]` and its values `[position][dim]`,
//! so that scores of sixteen positions fill a vector without a sum across lanes, and every read is linear.
//!
//! Order of operations per query and head, whatever is computed with it: positions are cut into ranges of
//! [`RANGE`], counted from position 0. Within a range a score is a chain of fused multiply-adds over `dim`
//! ascending (the query already times `1/sqrt(dim)`); the maximum is taken over the range; the weights
//! `e^(score - max)` are summed in sixteen lanes, pages ascending; the weighted values are a chain over
//! positions ascending. Ranges are merged in ascending order as in the online softmax (Milakov & Gimelshein
//! 2018). Positions after the query weigh exactly 0. So the result does not depend on which other queries are
//! computed with it, how the prompt was cut, or which thread does which range.
//!
//! One maximum per page and one row at a time on eight lanes, as it was before, made a prefill of 4096 take
//! 14.6 s where it now takes 7.9 s (LFM2-350M Q4_0, 2 threads, Sapphire Rapids).

mod element;
mod softmax;
mod tile;

use std::marker::PhantomData;

use undine_core::BlockId;

pub use element::{KvElement, KvF16, KvF32, KvQ8, StoreKv, page_head_bytes};
pub use softmax::state_len;

use crate::simd::{Kernel, Simd, WIDE};
use element::scales_at;
use softmax::{ScoreRow, Weighed, begin, finish, merge};
use tile::{ValuePages, rows_max, scores, values};

/// Positions in a page of the cache.
pub const PAGE: usize = 32;
/// Positions that share a maximum; the unit of splitting a long context between threads.
pub const RANGE: usize = 512;
/// Pages in a range.
const RANGE_PAGES: usize = RANGE / PAGE;
/// Values per head at the most.
pub const HEAD_DIM_MAX: usize = 512;
/// Query heads in a tile at the most.
const TILE_MAX: usize = 12;
/// Query heads (of all rows) that one [`Attend`] is meant for: a range of keys and values stays in the
/// second-level cache for all of them. A group of query heads may be larger.
pub const BLOCK_HEADS: usize = 96;

/// Values in a row of values: whole vectors, those after `head_dim` 0.
#[inline(always)]
pub(crate) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(WIDE)
}

/// Memory of one thread.
#[derive(Default)]
pub struct Scratch {
    /// Per tile, `head_dim x R`.
    queries: Vec<Line>,
    /// Per page, `R x PAGE`.
    scores: Vec<Line>,
    /// `R x padded(head_dim)`.
    sums: Vec<Line>,
    /// A state for each query head.
    states: Vec<Line>,
}

/// Sixteen values on a cache line of their own.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "reached through pointers")] [f32; WIDE]);

impl Scratch {
    /// Enough for `group` query heads to a key head.
    pub fn new(head_dim: usize, group: usize) -> Self {
        let heads = BLOCK_HEADS.max(group).next_multiple_of(TILE_MAX);
        let lines = |values: usize| vec![Line::default(); values.div_ceil(WIDE)];
        Self {
            queries: lines(heads * head_dim),
            scores: lines(TILE_MAX * RANGE),
            sums: lines(TILE_MAX * padded(head_dim)),
            states: lines(heads * state_len(head_dim)),
        }
    }
}

/// Where results go.
#[derive(Clone, Copy)]
pub enum Destination {
    /// Whole attention, to rows as the queries are.
    Rows(*mut f32),
    /// The states of one range, [`state_len`] for each query head. Rows that end before it get none.
    Range(usize, *mut f32),
}

/// Attention of consecutive rows of a sequence, for the query heads that share a key head.
pub struct Attend<'a, T> {
    /// The first row's first of these heads, `group x head_dim`.
    pub queries: *const f32,
    /// From one row to the next, of the queries and of the result.
    pub stride: usize,
    /// Rows; with `group` at most what the scratch is for.
    pub rows: usize,
    /// Position of the first row.
    pub start: usize,
    /// Query heads to a row.
    pub group: usize,
    /// Values per head.
    pub head_dim: usize,
    /// The sequence's pages.
    pub table: &'a [BlockId],
    /// Keys of this head in page 0 of the cache.
    pub keys: *const u8,
    /// Values of this head in page 0 of the cache.
    pub values: *const u8,
    /// From one page to the next, of keys and of values.
    pub page_stride: usize,
    /// Memory.
    pub scratch: &'a mut Scratch,
    /// Where the result goes.
    pub to: Destination,
    /// The cache's type.
    pub kind: PhantomData<T>,
}

impl<T: KvElement> Kernel for Attend<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (heads, tile) = (self.rows * self.group, rows_max::<S>());
        assert!(self.head_dim <= HEAD_DIM_MAX && self.rows > 0);
        assert!(heads.next_multiple_of(tile) * self.head_dim <= self.scratch.queries.len() * WIDE);
        assert!(heads * state_len(self.head_dim) <= self.scratch.states.len() * WIDE);
        assert!(self.table.len() * PAGE >= self.start + self.rows);
        self.pack_queries::<S>(tile);
        let ranges = match self.to {
            Destination::Rows(_) => 0..(self.start + self.rows).div_ceil(RANGE),
            Destination::Range(range, _) => range..range + 1,
        };
        for range in ranges {
            for first in (0..heads).step_by(tile) {
                let count = tile.min(heads - first);
                if self.position(first + count - 1) >= range * RANGE {
                    self.tile(s, Tile { first, count, range });
                }
            }
        }
        if let Destination::Rows(y) = self.to {
            for i in 0..heads {
                let at = i / self.group * self.stride + i % self.group * self.head_dim;
                // SAFETY: every head has a state, and the caller gives rows of the same shape as the queries.
                unsafe { finish(self.state(i), y.add(at), self.head_dim) };
            }
        }
    }
}

/// Some of the query heads of an [`Attend`], and a range of keys.
#[derive(Clone, Copy)]
struct Tile {
    first: usize,
    count: usize,
    range: usize,
}

/// The tile size that `count` query heads are computed with.
#[inline(always)]
fn tile_size<S: Simd>(count: usize) -> usize {
    match count {
        1 | 2 => count,
        3 | 4 => 4,
        5..=8 if S::REGISTERS >= 32 => 8,
        _ => rows_max::<S>(),
    }
}

impl<T: KvElement> Attend<'_, T> {
    /// Position of a query head's row.
    #[inline(always)]
    fn position(&self, head: usize) -> usize {
        self.start + head / self.group
    }

    #[inline(always)]
    fn state(&mut self, head: usize) -> *mut f32 {
        self.scratch.states.as_mut_ptr().cast::<f32>().wrapping_add(head * state_len(self.head_dim))
    }

    /// Copies the queries, times `1/sqrt(dim)`, with the heads of a tile side by side.
    #[inline(always)]
    fn pack_queries<S: Simd>(&mut self, tile: usize) {
        let (heads, dim) = (self.rows * self.group, self.head_dim);
        let scale = 1.0 / (dim as f32).sqrt();
        let packed = self.scratch.queries.as_mut_ptr().cast::<f32>();
        for first in (0..heads).step_by(tile) {
            let count = tile.min(heads - first);
            let size = tile_size::<S>(count);
            for r in 0..size {
                let i = first + r.min(count - 1);
                // SAFETY: the caller gives the rows; the scratch has room for whole tiles.
                unsafe {
                    let query = self.queries.add(i / self.group * self.stride + i % self.group * dim);
                    for d in 0..dim {
                        *packed.add(first * dim + d * size + r) = *query.add(d) * scale;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, tile: Tile) {
        match (tile_size::<S>(tile.count), S::REGISTERS >= 32) {
            (1, _) => self.tile_of::<S, 1, 2, 4>(s, tile),
            (2, true) => self.tile_of::<S, 2, 2, 4>(s, tile),
            (4, true) => self.tile_of::<S, 4, 2, 4>(s, tile),
            (8, true) => self.tile_of::<S, 8, 2, 2>(s, tile),
            (_, true) => self.tile_of::<S, 12, 2, 2>(s, tile),
            (2, false) => self.tile_of::<S, 2, 2, 2>(s, tile),
            (4, false) => self.tile_of::<S, 4, 1, 1>(s, tile),
            (_, false) => self.tile_of::<S, 6, 1, 1>(s, tile),
        }
    }

    /// One range for `R` query heads, with `CS` vectors of scores or `CV` of values at a time.
    #[inline(always)]
    fn tile_of<S: Simd, const R: usize, const CS: usize, const CV: usize>(&mut self, s: S, tile: Tile) {
        let (dim, width) = (self.head_dim, padded(self.head_dim));
        let start = tile.range * RANGE;
        let positions = (self.position(tile.first + tile.count - 1) + 1 - start).min(RANGE);
        let pages = positions.div_ceil(PAGE);
        let mut keys = [std::ptr::null::<u8>(); RANGE_PAGES];
        let mut page_values = [std::ptr::null::<u8>(); RANGE_PAGES];
        for (page, block) in self.table[start / PAGE..][..pages].iter().enumerate() {
            let at = block.0 as usize * self.page_stride;
            (keys[page], page_values[page]) = (self.keys.wrapping_add(at), self.values.wrapping_add(at));
        }
        let queries = self.scratch.queries.as_ptr().cast::<f32>().wrapping_add(tile.first * dim);
        let weights = self.scratch.scores.as_mut_ptr().cast::<f32>();
        let sums = self.scratch.sums.as_mut_ptr().cast::<f32>();
        // SAFETY: blocks are checked against the cache before the step; the scratch has `TILE_MAX` rows of
        // each kind.
        unsafe {
            for page in 0..pages {
                let out = weights.add(page * R * PAGE);
                let later = if page + 1 < pages { keys[page + 1] } else { page_values[0] };
                scores::<S, T, R, CS>(s, queries, dim, [keys[page], later], out);
            }
            let weighed = self.weigh::<S, R>(s, tile, &keys[..pages], &page_values[..pages]);
            for i in (0..R * width).step_by(WIDE) {
                s.w_store(sums.add(i), s.w_splat(0.0));
            }
            let from = ValuePages { pages: &page_values[..pages], positions, width };
            let (mut first, vectors) = (0, width / WIDE);
            while first + CV <= vectors {
                values::<S, T, R, CV>(s, weights, &from, first, sums);
                first += CV;
            }
            while first < vectors {
                values::<S, T, R, 1>(s, weights, &from, first, sums);
                first += 1;
            }
            self.keep(s, tile, sums, &weighed);
        }
    }

    /// Weights of every row of a tile.
    /// # Safety
    /// The pages are as [`KvElement`] says, and the scratch has the scores of each.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const R: usize>(
        &mut self,
        s: S,
        tile: Tile,
        keys: &[*const u8],
        page_values: &[*const u8],
    ) -> [Weighed; R] {
        let mut key_scales = [std::ptr::null::<f32>(); RANGE_PAGES];
        let mut value_scales = [std::ptr::null::<f32>(); RANGE_PAGES];
        for page in 0..keys.len() {
            key_scales[page] = keys[page].wrapping_add(scales_at::<T>(self.head_dim)).cast();
            value_scales[page] = page_values[page].wrapping_add(scales_at::<T>(self.head_dim)).cast();
        }
        let mut weighed = [Weighed { max: 0.0, sum: 0.0 }; R];
        for r in 0..tile.count {
            let end = self.position(tile.first + r) + 1;
            let row = ScoreRow {
                scores: self.scratch.scores.as_mut_ptr().cast::<f32>().wrapping_add(r * PAGE),
                stride: R * PAGE,
                valid: end.saturating_sub(tile.range * RANGE).min(RANGE),
                key_scales: &key_scales[..keys.len()],
                value_scales: &value_scales[..keys.len()],
            };
            // SAFETY: as the caller says.
            weighed[r] = unsafe { row.weigh::<S, T>(s) };
        }
        weighed
    }

    /// Puts the results of a range where they belong.
    /// # Safety
    /// `sums` has a row of values for each of the tile's query heads.
    #[inline(always)]
    unsafe fn keep<S: Simd>(&mut self, s: S, tile: Tile, sums: *const f32, weighed: &[Weighed]) {
        let width = padded(self.head_dim);
        for r in 0..tile.count {
            let i = tile.first + r;
            if self.position(i) < tile.range * RANGE {
                continue;
            }
            // SAFETY: every head has a state in the scratch, or where the caller wants the states.
            unsafe {
                let row = sums.add(r * width);
                match self.to {
                    Destination::Rows(_) if tile.range == 0 => {
                        begin(s, self.state(i), row, weighed[r], width)
                    }
                    Destination::Rows(_) => merge(s, self.state(i), row, weighed[r], width),
                    Destination::Range(_, to) => {
                        begin(s, to.add(i * state_len(self.head_dim)), row, weighed[r], width);
                    }
                }
            }
        }
    }
}

/// The result of one row and head from the states of its ranges.
pub struct MergeRanges<'a> {
    /// The first range's state; overwritten.
    pub states: *mut f32,
    /// From one range to the next.
    pub stride: usize,
    /// Ranges.
    pub ranges: usize,
    /// The result, `head_dim`.
    pub y: &'a mut [f32],
}

impl Kernel for MergeRanges<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = padded(self.y.len());
        // SAFETY: the caller gives a state for each range.
        unsafe {
            for range in 1..self.ranges {
                let next = self.states.add(range * self.stride);
                let weighed = Weighed { max: *next.add(width), sum: *next.add(width + 1) };
                merge(s, self.states, next, weighed, width);
            }
            finish(self.states, self.y.as_mut_ptr(), self.y.len());
        }
    }
}
