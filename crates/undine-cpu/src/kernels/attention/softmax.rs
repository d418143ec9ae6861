//! The softmax of one query head over a range of keys, and putting ranges together.
//!
//! A row's partial result of a range is a *state*: `width` weighted values, then the maximum, then the sum of
//! the weights, padded to whole vectors ([`state_len`]).

use super::element::KvElement;
use super::{PAGE, padded};
use crate::simd::{LANES, Simd, WIDE};

/// Vectors in a page's row of scores.
const VECTORS: usize = PAGE / WIDE;

/// Values in the state of a row.
pub fn state_len(head_dim: usize) -> usize {
    padded(head_dim) + WIDE
}

/// The largest score and the sum of the weights.
#[derive(Clone, Copy)]
pub struct Weighed {
    /// The largest score.
    pub max: f32,
    /// The sum of `e^(score - max)`.
    pub sum: f32,
}

/// The scores of one row: a page's `PAGE` scores, the next page's `stride` further on.
pub struct ScoreRow<'a> {
    /// The first page's.
    pub scores: *mut f32,
    /// From one page to the next.
    pub stride: usize,
    /// Positions the row looks at; at least one.
    pub valid: usize,
    /// Scales of the keys of each page.
    pub key_scales: &'a [*const f32],
    /// Scales of the values of each page.
    pub value_scales: &'a [*const f32],
}

impl ScoreRow<'_> {
    /// Turns scores into weights, 0 from `valid` on, times the scales of the values.
    /// # Safety
    /// All pages' scores are readable and writable, and scales are readable if the type has them.
    #[inline(always)]
    pub unsafe fn weigh<S: Simd, T: KvElement>(&self, s: S) -> Weighed {
        let own = self.valid.div_ceil(PAGE);
        // SAFETY: `at` stays within the row's pages, as the caller vouches.
        unsafe {
            if T::SCALED {
                for page in 0..own {
                    for v in 0..VECTORS {
                        let at = self.scores.add(page * self.stride + v * WIDE);
                        let scale = s.w_load(self.key_scales[page].add(v * WIDE));
                        s.w_store(at, s.w_mul(s.w_load(at), scale));
                    }
                }
            }
            for position in self.valid..own * PAGE {
                *self.scores.add((own - 1) * self.stride + position % PAGE) = f32::NEG_INFINITY;
            }
            for page in own..self.key_scales.len() {
                for v in 0..VECTORS {
                    s.w_store(self.scores.add(page * self.stride + v * WIDE), s.w_splat(0.0));
                }
            }
            let mut most = s.w_splat(f32::NEG_INFINITY);
            for page in 0..own {
                for v in 0..VECTORS {
                    most = s.w_max(s.w_load(self.scores.add(page * self.stride + v * WIDE)), most);
                }
            }
            let max = largest_lane(s, most);
            let mut sum = s.w_splat(0.0);
            for page in 0..own {
                for v in 0..VECTORS {
                    let at = self.scores.add(page * self.stride + v * WIDE);
                    let mut weight = exp_neg(s, s.w_sub(s.w_load(at), s.w_splat(max)));
                    sum = s.w_add(sum, weight);
                    if T::SCALED {
                        weight = s.w_mul(weight, s.w_load(self.value_scales[page].add(v * WIDE)));
                    }
                    s.w_store(at, weight);
                }
            }
            Weighed { max, sum: sum_of_lanes(s, sum) }
        }
    }
}

/// Writes the state of a row's first range.
/// # Safety
/// `width` values and a state are at the pointers.
#[inline(always)]
pub unsafe fn begin<S: Simd>(s: S, state: *mut f32, values: *const f32, weighed: Weighed, width: usize) {
    // SAFETY: as the caller says.
    unsafe {
        for d in (0..width).step_by(WIDE) {
            s.w_store(state.add(d), s.w_load(values.add(d)));
        }
        *state.add(width) = weighed.max;
        *state.add(width + 1) = weighed.sum;
    }
}

/// Adds the next range to the state of a row.
/// # Safety
/// As [`begin`].
#[inline(always)]
pub unsafe fn merge<S: Simd>(s: S, state: *mut f32, values: *const f32, weighed: Weighed, width: usize) {
    // SAFETY: as the caller says.
    unsafe {
        let max = f32::max(*state.add(width), weighed.max);
        let old = exp_neg(s, s.w_splat(*state.add(width) - max));
        let new = exp_neg(s, s.w_splat(weighed.max - max));
        for d in (0..width).step_by(WIDE) {
            let value = s.w_mul(s.w_load(values.add(d)), new);
            s.w_store(state.add(d), s.w_fma(s.w_load(state.add(d)), old, value));
        }
        let (old, new) = (first_lane(s, old), first_lane(s, new));
        *state.add(width) = max;
        *state.add(width + 1) = (*state.add(width + 1)).mul_add(old, weighed.sum * new);
    }
}

/// The result of a row from its state.
/// # Safety
/// A state of `padded(head_dim)` values, and room for `head_dim`.
#[inline(always)]
pub unsafe fn finish(state: *const f32, y: *mut f32, head_dim: usize) {
    // SAFETY: as the caller says.
    unsafe {
        let sum = *state.add(padded(head_dim) + 1);
        for d in 0..head_dim {
            *y.add(d) = *state.add(d) / sum;
        }
    }
}

/// As [`crate::kernels::elementwise::exp_neg`], on sixteen lanes.
#[inline(always)]
fn exp_neg<S: Simd>(s: S, x: S::W) -> S::W {
    let low = s.w_splat(-87.0);
    let clamped = s.w_max(x, low);
    let n = s.w_round(s.w_mul(clamped, s.w_splat(std::f32::consts::LOG2_E)));
    let r = s.w_fma(n, s.w_splat(-0.693_359_4), clamped);
    let r = s.w_fma(n, s.w_splat(2.121_944_4e-4), r);
    let mut p = s.w_splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.w_fma(p, r, s.w_splat(c));
    }
    let p = s.w_add(s.w_fma(p, s.w_mul(r, r), r), s.w_splat(1.0));
    s.w_mask_above(x, low, s.w_scale2(p, n))
}

#[inline(always)]
fn lanes<S: Simd>(s: S, v: S::W) -> [f32; WIDE] {
    let mut lanes = [0.0; WIDE];
    // SAFETY: the array has sixteen values.
    unsafe { s.w_store(lanes.as_mut_ptr(), v) };
    lanes
}

#[inline(always)]
fn first_lane<S: Simd>(s: S, v: S::W) -> f32 {
    lanes(s, v)[0]
}

#[inline(always)]
fn largest_lane<S: Simd>(s: S, v: S::W) -> f32 {
    let lanes = lanes(s, v);
    // SAFETY: the array has sixteen values.
    unsafe { s.f_max_lane(s.f_max(s.f_load(lanes.as_ptr()), s.f_load(lanes.as_ptr().add(LANES)))) }
}

#[inline(always)]
fn sum_of_lanes<S: Simd>(s: S, v: S::W) -> f32 {
    let lanes = lanes(s, v);
    // SAFETY: the array has sixteen values.
    unsafe { s.f_sum(s.f_add(s.f_load(lanes.as_ptr()), s.f_load(lanes.as_ptr().add(LANES)))) }
}
