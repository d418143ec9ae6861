//! The two products of attention for a tile of `R` query heads: scores of a page, and weighted values of
//! pages.
//!
//! Both are a block of fused multiply-adds with `R x C` sums in registers, a key or value vector loaded (and
//! converted) once for all `R`. Each sum is one chain: over `dim` ascending for a score, over positions
//! ascending for a value, so a row's bits do not depend on `R`, `C` or the other rows.
//!
//! A few query heads wait for memory rather than for arithmetic, so with each row of a page they ask for the
//! same row of the page that comes next. Decode after 16384 tokens (LFM2-350M Q4_0, 2 threads, Sapphire
//! Rapids, f16, two turns): 31.5 and 34.4 tokens/s without, 41.2 and 44.7 with. Tiles of more heads find
//! pages in the second-level cache, where the first of them has left them.

use super::PAGE;
use super::element::KvElement;
use crate::kernels::rows::LINE;
use crate::simd::{Simd, WIDE};

/// Query heads in a tile at the most, and vectors next to each other with it.
#[inline(always)]
pub fn rows_max<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

/// Up to so many query heads wait for memory rather than for arithmetic, and ask for what they read next.
const ASKING: usize = 4;

/// Asks for `vectors` vectors at `p`, a page further than what is read now.
#[inline(always)]
fn ask<S: Simd, T: KvElement, const R: usize>(s: S, p: *const u8, vectors: usize) {
    if R <= ASKING {
        for line in (0..vectors * WIDE * T::BYTES).step_by(LINE) {
            s.prefetch(p.wrapping_add(line));
        }
    }
}

/// Scores of a page: `out[r][p] = sum over d of queries[d][r] * keys[d][p]`, for `PAGE` positions. `later` is
/// the page to be read after it.
/// # Safety
/// `dim x R` queries, `dim x PAGE` keys and room for `R x PAGE` scores.
#[inline(always)]
pub unsafe fn scores<S: Simd, T: KvElement, const R: usize, const C: usize>(
    s: S,
    queries: *const f32,
    dim: usize,
    [keys, later]: [*const u8; 2],
    out: *mut f32,
) {
    for first in (0..PAGE / WIDE).step_by(C) {
        let mut sums = [[s.w_splat(0.0); C]; R];
        for d in 0..dim {
            let at = (d * PAGE + first * WIDE) * T::BYTES;
            ask::<S, T, R>(s, later.wrapping_add(at), C);
            // SAFETY: the caller gives `dim` rows of keys and of queries.
            unsafe {
                let row = keys.add(at);
                let mut k = [s.w_splat(0.0); C];
                for c in 0..C {
                    k[c] = T::load(s, row.add(c * WIDE * T::BYTES));
                }
                for r in 0..R {
                    let q = s.w_splat(*queries.add(d * R + r));
                    for c in 0..C {
                        sums[r][c] = s.w_fma(q, k[c], sums[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: the caller gives room for `R x PAGE` scores.
                unsafe { s.w_store(out.add(r * PAGE + (first + c) * WIDE), sums[r][c]) };
            }
        }
    }
}

/// Which values to add up.
pub struct ValuePages<'a> {
    /// The pages, in order.
    pub pages: &'a [*const u8],
    /// Positions to look at in all of them.
    pub positions: usize,
    /// Values in a row of a page.
    pub width: usize,
}

/// Adds weighted values of `C` vectors from `first` on: `sums[r][d] += weights[page][r][p] *
/// values[page][p][d]`.
/// # Safety
/// Weights for `R x PAGE` positions of each page, pages of `PAGE x width` values, and sums of `R x width`.
#[inline(always)]
pub unsafe fn values<S: Simd, T: KvElement, const R: usize, const C: usize>(
    s: S,
    weights: *const f32,
    from: &ValuePages,
    first: usize,
    sums: *mut f32,
) {
    let row_bytes = from.width * T::BYTES;
    let mut sum = [[s.w_splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            // SAFETY: the caller gives `R x width` sums.
            sum[r][c] = unsafe { s.w_load(sums.add(r * from.width + (first + c) * WIDE)) };
        }
    }
    for (i, &page) in from.pages.iter().enumerate() {
        let later = from.pages[(i + 1).min(from.pages.len() - 1)];
        for position in 0..(from.positions - i * PAGE).min(PAGE) {
            let at = position * row_bytes + first * WIDE * T::BYTES;
            ask::<S, T, R>(s, later.wrapping_add(at), C);
            // SAFETY: the caller gives `PAGE` rows of values in the page and as many weights for each row of
            // the tile.
            unsafe {
                let mut v = [s.w_splat(0.0); C];
                for c in 0..C {
                    v[c] = T::load(s, page.add(at + c * WIDE * T::BYTES));
                }
                for r in 0..R {
                    let w = s.w_splat(*weights.add((i * R + r) * PAGE + position));
                    for c in 0..C {
                        sum[r][c] = s.w_fma(w, v[c], sum[r][c]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            // SAFETY: as above.
            unsafe { s.w_store(sums.add(r * from.width + (first + c) * WIDE), sum[r][c]) };
        }
    }
}
