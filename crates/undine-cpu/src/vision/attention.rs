//! Attention of every patch of a tile over all of them, by panels ([`super::gemm`]).
//!
//! Order of operations per query and head: a score is a chain of fused multiply-adds over the head's values,
//! ascending; the maximum is taken over all patches; weights `e^((score - max) / sqrt(dim))` are summed in
//! eight lanes, ascending; the weighted values are a chain over the patches, ascending, divided by the sum.
//! So the result depends on the tile alone.

use super::gemm::{InputRows, PANEL_ROWS_MAX, PackRows, PanelOutput, multiply_panel, pack};
use crate::kernels::elementwise::exp_neg;
use crate::kernels::floats;
use crate::kernels::rows::Accumulate;
use crate::simd::{Kernel, LANES, Native, ROWS_MAX};

/// Queries that are computed together: their scores stay in the second-level cache.
pub const QUERIES: usize = 96;

/// Values that the keys of one head take, packed.
pub fn keys_len(patches: usize, dim: usize) -> usize {
    patches.next_multiple_of(PANEL_ROWS_MAX) * dim
}

/// Values that the values of one head take, packed.
pub fn values_len(patches: usize, dim: usize) -> usize {
    patches * dim.next_multiple_of(ROWS_MAX)
}

/// Values that the scores of [`QUERIES`] queries take.
pub fn scores_len(patches: usize) -> usize {
    QUERIES * patches.next_multiple_of(PANEL_ROWS_MAX)
}

/// Packs keys and values of one head of a tile.
pub struct PackHead {
    /// The head's first key; patches are `stride` apart.
    pub key: *const f32,
    /// The head's first value.
    pub value: *const f32,
    /// From one patch to the next.
    pub stride: usize,
    /// Patches of the tile.
    pub patches: usize,
    /// Values of the head.
    pub dim: usize,
    /// Room for [`keys_len`].
    pub keys: *mut f32,
    /// Room for [`values_len`].
    pub values: *mut f32,
}

impl Kernel for PackHead {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let lanes = 2 * S::ROWS;
        for first in (0..self.patches).step_by(lanes) {
            // SAFETY: the patches are there, and the panels before this one have taken `first * dim` values.
            unsafe {
                let rows = PackRows {
                    from: self.key.add(first * self.stride).cast(),
                    row_bytes: self.stride * size_of::<f32>(),
                    count: lanes.min(self.patches - first),
                    depth: self.dim,
                };
                pack::<S, floats::F32>(s, rows, lanes, self.keys.add(first * self.dim));
            }
        }
        for first in (0..self.dim).step_by(lanes) {
            let left = self.dim - first;
            let lanes = if left <= S::ROWS { S::ROWS } else { lanes };
            let width = left.min(lanes);
            for patch in 0..self.patches {
                // SAFETY: as above; the panels before this one have taken `first` values of each patch.
                unsafe {
                    let to = self.values.add(first * self.patches + patch * lanes);
                    std::ptr::copy_nonoverlapping(self.value.add(patch * self.stride + first), to, width);
                    std::ptr::write_bytes(to.add(width), 0, lanes - width);
                }
            }
        }
    }
}

/// Some queries of one head of a tile.
pub struct AttendHead {
    /// The first query; `queries` of them, `stride` apart.
    pub query: *const f32,
    /// From one query to the next.
    pub stride: usize,
    /// At most [`QUERIES`].
    pub queries: usize,
    /// Patches of the tile.
    pub patches: usize,
    /// Values of the head.
    pub dim: usize,
    /// As [`PackHead`] left them.
    pub keys: *const f32,
    /// As [`PackHead`] left them.
    pub values: *const f32,
    /// Room for [`scores_len`].
    pub scores: *mut f32,
    /// The first result.
    pub out: *mut f32,
    /// From one result to the next.
    pub out_stride: usize,
}

const NO_BIASES: &[f32; PANEL_ROWS_MAX] = &[0.0; PANEL_ROWS_MAX];

impl Kernel for AttendHead {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let Self { patches, dim, .. } = self;
        assert!(self.queries <= QUERIES);
        let lanes = 2 * S::ROWS;
        let row = patches.next_multiple_of(PANEL_ROWS_MAX);
        let biases = NO_BIASES;
        let x = InputRows { start: self.query, stride: self.stride, count: self.queries };
        for first in (0..patches).step_by(lanes) {
            let count = lanes.min(patches - first);
            // SAFETY: a row of scores has room for all patches; keys are packed in panels of `lanes`.
            unsafe {
                let start = self.scores.add(first);
                let to = PanelOutput { start, stride: row, count, biases, accumulate: Accumulate::No };
                multiply_panel::<S, 2>(s, self.keys.add(first * dim), dim, x, to);
            }
        }
        let scale = 1.0 / (dim as f32).sqrt();
        let mut inverse = [0.0; QUERIES];
        for q in 0..self.queries {
            // SAFETY: a row of scores is padded to whole vectors.
            inverse[q] = 1.0 / unsafe { softmax(s, self.scores.add(q * row), patches, scale) };
        }
        let x = InputRows { start: self.scores, stride: row, count: self.queries };
        for first in (0..dim).step_by(lanes) {
            let count = lanes.min(dim - first);
            // SAFETY: results have `dim` values; values are packed in panels of `lanes`, the last perhaps of
            // half.
            unsafe {
                let start = self.out.add(first);
                let to =
                    PanelOutput { start, stride: self.out_stride, count, biases, accumulate: Accumulate::No };
                let panel = self.values.add(first * patches);
                if count <= S::ROWS {
                    multiply_panel::<S, 1>(s, panel, patches, x, to);
                } else {
                    multiply_panel::<S, 2>(s, panel, patches, x, to);
                }
            }
        }
        for q in 0..self.queries {
            // SAFETY: the result's `dim` values are this call's.
            let y = unsafe { std::slice::from_raw_parts_mut(self.out.add(q * self.out_stride), dim) };
            for y in y {
                *y *= inverse[q];
            }
        }
    }
}

/// Turns scores into weights and returns their sum.
/// # Safety
/// `len` scores, and as many more as fill the last vector of eight, are the caller's.
#[inline(always)]
unsafe fn softmax<S: Native>(s: S, scores: *mut f32, len: usize, scale: f32) -> f32 {
    let end = len.next_multiple_of(LANES);
    // SAFETY: all places are below `end`.
    unsafe {
        for at in len..end {
            *scores.add(at) = f32::NEG_INFINITY;
        }
        let mut max = s.f_load(scores);
        for at in (LANES..end).step_by(LANES) {
            max = s.f_max(max, s.f_load(scores.add(at)));
        }
        let (max, scale) = (s.f_splat(s.f_max_lane(max)), s.f_splat(scale));
        let mut sum = s.f_splat(0.0);
        for at in (0..end).step_by(LANES) {
            let at = scores.add(at);
            // Exactly 0 for what fills the vector.
            let weight = exp_neg(s, s.f_mul(s.f_sub(s.f_load(at), max), scale));
            sum = s.f_add(sum, weight);
            s.f_store(at, weight);
        }
        s.f_sum(sum)
    }
}
