//! Causal grouped-query attention over the paged K/V cache, one pass with an online softmax.
//!
//! A page holds [`PAGE`] positions; per head its keys are `[dim][position]` and its values `[position][dim]`, so that
//! scores of eight positions fill a vector without a sum across lanes, and every read is linear.
//!
//! Order per query and head (Milakov & Gimelshein 2018 for the online softmax): pages ascending; within a page the
//! score of a position is a chain of fused multiply-adds over `dim` ascending, times `1/sqrt(dim)`; the running maximum
//! is taken per page; the weights `e^(score - max)` are summed per lane and added to the running lanes; the weighted
//! values are a chain over positions ascending. Positions after the query weigh exactly 0. So the result does not
//! depend on which other queries are computed with it, nor on how the prompt was cut.

use super::elementwise::exp_neg;
use crate::simd::{Kernel, LANES, Simd};

/// Positions in a page of the cache.
pub const PAGE: usize = 32;
/// Vectors of positions in a page.
const VECTORS: usize = PAGE / LANES;
/// Values per head at the most.
pub const HEAD_DIM_MAX: usize = 512;
/// Query heads that share a key head and are computed together at the most.
const GROUP_MAX: usize = 4;

/// Element type of the K/V cache.
pub trait KvFloat: Copy + Send + Sync + 'static {
    /// Bytes of a value.
    const BYTES: usize;
    /// # Safety
    /// 8 values are readable at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
    /// # Safety
    /// 8 values are writable at `p`.
    unsafe fn store<S: Simd>(s: S, p: *mut u8, v: S::F);
    /// # Safety
    /// One value is writable at `p`.
    unsafe fn store_one(p: *mut u8, v: f32);
    /// # Safety
    /// One value is readable at `p`.
    unsafe fn load_one(p: *const u8) -> f32;
}

/// f32 keys and values.
#[derive(Clone, Copy)]
pub struct KvF32;
/// f16 keys and values.
#[derive(Clone, Copy)]
pub struct KvF16;

impl KvFloat for KvF32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: as the caller says.
        unsafe { s.f_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, v: S::F) {
        // SAFETY: as the caller says.
        unsafe { s.f_store(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_one(p: *mut u8, v: f32) {
        // SAFETY: as the caller says.
        unsafe { p.cast::<f32>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_one(p: *const u8) -> f32 {
        // SAFETY: as the caller says.
        unsafe { p.cast::<f32>().read_unaligned() }
    }
}

impl KvFloat for KvF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: as the caller says.
        unsafe { s.f_load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, v: S::F) {
        // SAFETY: as the caller says.
        unsafe { s.f_store_f16(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_one(p: *mut u8, v: f32) {
        // SAFETY: as the caller says.
        unsafe { p.cast::<u16>().write_unaligned(half::f16::from_f32(v).to_bits()) }
    }
    #[inline(always)]
    unsafe fn load_one(p: *const u8) -> f32 {
        // SAFETY: as the caller says.
        half::f16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
    }
}

/// Bytes of the keys (or of the values) of one head in one page.
pub fn page_head_bytes<T: KvFloat>(head_dim: usize) -> usize {
    PAGE * head_dim * T::BYTES
}

/// Writes the keys and values of one position and head into their page.
pub struct StoreKv<'a, T> {
    /// The key, after norm and rotary embedding.
    pub key: &'a [f32],
    /// The value.
    pub value: &'a [f32],
    /// Keys of this head in the page.
    pub keys: *mut u8,
    /// Values of this head in the page.
    pub values: *mut u8,
    /// Position within the page.
    pub offset: usize,
    /// The cache's type.
    pub kind: std::marker::PhantomData<T>,
}

impl<T: KvFloat> Kernel for StoreKv<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { key, value, keys, values, offset, .. } = self;
        let dim = key.len();
        assert!(value.len() == dim && offset < PAGE);
        // SAFETY: the caller gives the head's part of the page, `PAGE * dim` values each.
        unsafe {
            for (d, &k) in key.iter().enumerate() {
                T::store_one(keys.add((d * PAGE + offset) * T::BYTES), k);
            }
            let row = values.add(offset * dim * T::BYTES);
            let whole = dim / LANES * LANES;
            for d in (0..whole).step_by(LANES) {
                T::store(s, row.add(d * T::BYTES), s.f_load(value.as_ptr().add(d)));
            }
            for d in whole..dim {
                T::store_one(row.add(d * T::BYTES), value[d]);
            }
        }
    }
}

/// Attention of one query row's heads that share a key head.
pub struct Attend<'a, T> {
    /// Queries, `group x head_dim`.
    pub query: &'a [f32],
    /// The result, as the query.
    pub y: &'a mut [f32],
    /// Values per head.
    pub head_dim: usize,
    /// The sequence's pages.
    pub table: &'a [undine_core::BlockId],
    /// Positions to look at: the query's own is the last.
    pub positions: usize,
    /// The layer's cache.
    pub cache: *const u8,
    /// Bytes from one page to the next.
    pub page_bytes: usize,
    /// Where in a page the keys of this head are.
    pub keys_at: usize,
    /// Where in a page the values of this head are.
    pub values_at: usize,
    /// The cache's type.
    pub kind: std::marker::PhantomData<T>,
}

impl<T: KvFloat> Kernel for Attend<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let group = self.query.len() / self.head_dim;
        assert!(self.head_dim <= HEAD_DIM_MAX && self.y.len() == self.query.len());
        assert!(self.table.len() * PAGE >= self.positions && self.positions > 0);
        let mut head = 0;
        while head < group {
            head += match group - head {
                GROUP_MAX.. => self.heads::<S, GROUP_MAX>(s, head),
                3 => self.heads::<S, 3>(s, head),
                2 => self.heads::<S, 2>(s, head),
                _ => self.heads::<S, 1>(s, head),
            };
        }
    }
}

impl<T: KvFloat> Attend<'_, T> {
    #[inline(always)]
    fn heads<S: Simd, const G: usize>(&mut self, s: S, head: usize) -> usize {
        let dim = self.head_dim;
        let padded = dim.next_multiple_of(LANES);
        let mut sums = [[0.0f32; HEAD_DIM_MAX]; G];
        let mut weights = [[0.0f32; PAGE]; G];
        let mut total = [s.f_splat(0.0); G];
        let mut max = [f32::NEG_INFINITY; G];
        for (page, block) in self.table[..self.positions.div_ceil(PAGE)].iter().enumerate() {
            let valid = (self.positions - page * PAGE).min(PAGE);
            // SAFETY: the block table is checked against the cache's size before the step; the offsets are within a page.
            unsafe {
                let base = self.cache.add(block.0 as usize * self.page_bytes);
                let scores = self.scores::<S, G>(s, head, base.add(self.keys_at), valid);
                for g in 0..G {
                    let mut new = max[g];
                    for score in scores[g] {
                        new = new.max(s.f_max_lane(score));
                    }
                    let shrink = s.f_splat((max[g] - new).exp());
                    max[g] = new;
                    let mut p = scores[g];
                    for i in 0..VECTORS {
                        p[i] = exp_neg(s, s.f_sub(p[i], s.f_splat(new)));
                        s.f_store(weights[g].as_mut_ptr().add(i * LANES), p[i]);
                    }
                    let lanes = s.f_add(s.f_add(p[0], p[1]), s.f_add(p[2], p[3]));
                    total[g] = s.f_fma(total[g], shrink, lanes);
                    for d in (0..padded).step_by(LANES) {
                        let at = sums[g].as_mut_ptr().add(d);
                        s.f_store(at, s.f_mul(s.f_load(at), shrink));
                    }
                }
                self.add_values::<S, G>(s, base.add(self.values_at), &weights, valid, &mut sums);
            }
        }
        for g in 0..G {
            let total = s.f_sum(total[g]);
            let y = &mut self.y[(head + g) * dim..][..dim];
            y.iter_mut().zip(&sums[g]).for_each(|(y, sum)| *y = sum / total);
        }
        G
    }

    /// Scores of the page's positions; minus infinity from `valid` on.
    /// # Safety
    /// `head_dim * PAGE` keys are readable at `keys`.
    #[inline(always)]
    unsafe fn scores<S: Simd, const G: usize>(
        &self,
        s: S,
        head: usize,
        keys: *const u8,
        valid: usize,
    ) -> [[S::F; VECTORS]; G] {
        let dim = self.head_dim;
        let mut scores = [[s.f_splat(0.0); VECTORS]; G];
        // Two vectors of positions at a time: with four heads that is eight sums in registers.
        for half in 0..VECTORS / 2 {
            let mut sum = [[s.f_splat(0.0); 2]; G];
            for d in 0..dim {
                // SAFETY: the page holds `dim x PAGE` keys, the queries hold `dim` values for each head.
                unsafe {
                    let row = keys.add((d * PAGE + half * 2 * LANES) * T::BYTES);
                    let k = [T::load(s, row), T::load(s, row.add(LANES * T::BYTES))];
                    for g in 0..G {
                        let q = s.f_splat(*self.query.as_ptr().add((head + g) * dim + d));
                        sum[g][0] = s.f_fma(q, k[0], sum[g][0]);
                        sum[g][1] = s.f_fma(q, k[1], sum[g][1]);
                    }
                }
            }
            for g in 0..G {
                scores[g][2 * half] = sum[g][0];
                scores[g][2 * half + 1] = sum[g][1];
            }
        }
        let scale = s.f_splat(1.0 / (dim as f32).sqrt());
        for g in 0..G {
            for i in 0..VECTORS {
                scores[g][i] = s.f_mul(scores[g][i], scale);
            }
            if valid < PAGE {
                let mut all = [0.0f32; PAGE];
                for i in 0..VECTORS {
                    // SAFETY: the array has room for every vector.
                    unsafe { s.f_store(all.as_mut_ptr().add(i * LANES), scores[g][i]) };
                }
                all[valid..].fill(f32::NEG_INFINITY);
                for i in 0..VECTORS {
                    // SAFETY: the array has every vector.
                    scores[g][i] = unsafe { s.f_load(all.as_ptr().add(i * LANES)) };
                }
            }
        }
        scores
    }

    /// Adds the weighted values of the first `valid` positions.
    /// # Safety
    /// `valid * head_dim` values are readable at `values`, and `valid` is at most `PAGE`.
    #[inline(always)]
    unsafe fn add_values<S: Simd, const G: usize>(
        &self,
        s: S,
        values: *const u8,
        weights: &[[f32; PAGE]; G],
        valid: usize,
        sums: &mut [[f32; HEAD_DIM_MAX]; G],
    ) {
        let dim = self.head_dim;
        let whole = dim / LANES * LANES;
        for d in (0..whole).step_by(LANES) {
            // SAFETY: the page holds `PAGE x dim` values, and the sums hold `dim`.
            unsafe {
                let mut sum = [s.f_splat(0.0); G];
                for g in 0..G {
                    sum[g] = s.f_load(sums[g].as_ptr().add(d));
                }
                for position in 0..valid {
                    let v = T::load(s, values.add((position * dim + d) * T::BYTES));
                    for g in 0..G {
                        sum[g] = s.f_fma(s.f_splat(weights[g][position]), v, sum[g]);
                    }
                }
                for g in 0..G {
                    s.f_store(sums[g].as_mut_ptr().add(d), sum[g]);
                }
            }
        }
        for d in whole..dim {
            for (position, g) in (0..valid).flat_map(|position| (0..G).map(move |g| (position, g))) {
                // SAFETY: as above, one value.
                let v = unsafe { T::load_one(values.add((position * dim + d) * T::BYTES)) };
                sums[g][d] = weights[g][position].mul_add(v, sums[g][d]);
            }
        }
    }
}
