//! Products of weight rows with one to four rows of quantized input, read straight from the file's layout.
//!
//! The order of f32 operations, which [`super::panels`] follows too:
//! * 32-value formats: K is cut into chunks of [`CHUNK`] values. Within a chunk, block `b` adds to lane `b % 8`, in
//!   ascending order: `lane = fma(d_w * d_a, isum, lane)`, then with mins `lane = fma(m, d_a * asum, lane)`. The lanes
//!   are summed as in [`Simd::f_sum`], and the chunks in ascending order.
//! * 256-value formats: blocks in ascending order: `y = fma(d_w * d_a, isum, y)`, then with mins
//!   `y = fma(-dmin * d_a, msum, y)`.
//!
//! `isum` and `msum` are integers, so their inner order is free.
//!
//! What was tried: eight weight rows at a time needs no horizontal sums but reads eight streams, which halves the
//! bandwidth; one row at a time with eight blocks' sums transposed together costs the same instructions on one stream.

use std::marker::PhantomData;

use undine_core::dtype::{QK, QK_K};

use super::activations::Activations;
use super::each_sub;
use super::formats::{Format, Format32, Format256, Scales256};
use crate::simd::{Kernel, LANES, Simd};

/// Values of K whose lanes are summed together; also what the panel kernels keep in the first-level cache.
pub const CHUNK: usize = 2048;

/// Where the results of a product go: row `t`, output `n` at `t * stride + n`.
#[derive(Clone, Copy)]
pub struct Output {
    /// First element.
    pub start: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Add to what is there instead of replacing it.
    pub accumulate: Accumulate,
}

/// What happens to the value that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// It is replaced.
    No,
    /// It is added to.
    Yes,
}

impl Output {
    /// Stores one result.
    /// # Safety
    /// The element is the caller's alone.
    #[inline(always)]
    pub unsafe fn put(self, t: usize, n: usize, value: f32) {
        // SAFETY: as the caller says.
        unsafe {
            let place = self.start.add(t * self.stride + n);
            *place = if self.accumulate == Accumulate::Yes { *place + value } else { value };
        }
    }
}

/// `NT` rows of input against a range of weight rows.
pub struct RowKernel<'a, F, const NT: usize> {
    /// The whole matrix.
    pub weight: &'a [u8],
    /// Its columns.
    pub cols: usize,
    /// Weight rows to do.
    pub rows: std::ops::Range<usize>,
    /// The input, `cols` wide.
    pub x: &'a Activations,
    /// First row of input.
    pub first: usize,
    /// Added to each output.
    pub bias: Option<&'a [f32]>,
    /// Where to.
    pub out: Output,
    /// The weight's format.
    pub format: PhantomData<F>,
}

/// [`RowKernel`] for a format with blocks of 32.
pub struct Rows32<'a, F, const NT: usize>(pub RowKernel<'a, F, NT>);
/// [`RowKernel`] for a format with blocks of 256.
pub struct Rows256<'a, F, const NT: usize>(pub RowKernel<'a, F, NT>);

impl<F: Format32, const NT: usize> Kernel for Rows32<'_, F, NT> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowKernel { weight, cols, rows, x, first, bias, out, .. } = self.0;
        let (blocks, row_bytes) = (cols / QK, cols / QK * F::DTYPE.block_bytes());
        assert!(rows.end * row_bytes <= weight.len() && (first + NT) * cols <= x.q32.len());
        for n in rows {
            let mut y = [0.0; NT];
            for chunk in (0..blocks).step_by(CHUNK / QK) {
                let end = (chunk + CHUNK / QK).min(blocks);
                let mut acc = [s.f_splat(0.0); NT];
                let whole = chunk + (end - chunk) / LANES * LANES;
                // SAFETY: the assertion puts every block of these rows, and its input, in bounds.
                unsafe {
                    let w = weight.as_ptr().add(n * row_bytes);
                    for b in (chunk..whole).step_by(LANES) {
                        eight_blocks::<S, F, NT>(
                            s,
                            w.add(b * F::DTYPE.block_bytes()),
                            x,
                            first * blocks + b,
                            blocks,
                            &mut acc,
                        );
                    }
                    if whole < end {
                        rest::<S, F, NT>(
                            s,
                            w.add(whole * F::DTYPE.block_bytes()),
                            x,
                            [first * blocks + whole, blocks, end - whole],
                            &mut acc,
                        );
                    }
                }
                for t in 0..NT {
                    y[t] += s.f_sum(acc[t]);
                }
            }
            for (t, y) in y.into_iter().enumerate() {
                // SAFETY: the caller gave this range of outputs to this call alone.
                unsafe { out.put(first + t, n, y + bias.map_or(0.0, |bias| bias[n])) };
            }
        }
    }
}

/// Adds eight blocks of a row at `w`. The input's blocks start at `at`, those of the next row `stride` further.
/// # Safety
/// Eight blocks are readable at `w`, and the input has its blocks.
#[inline(always)]
unsafe fn eight_blocks<S: Simd, F: Format32, const NT: usize>(
    s: S,
    w: *const u8,
    x: &Activations,
    at: usize,
    stride: usize,
    acc: &mut [S::F; NT],
) {
    // SAFETY: the caller vouches for eight blocks of weights and of each input row.
    unsafe {
        let bytes = F::DTYPE.block_bytes();
        let d = s.f_gather_f16(w, bytes);
        let m = if F::HAS_MIN { s.f_gather_f16(w.add(F::MIN_AT), bytes) } else { d };
        let q: [S::B; LANES] = [
            F::quants(s, w, 0),
            F::quants(s, w.add(bytes), 0),
            F::quants(s, w.add(2 * bytes), 0),
            F::quants(s, w.add(3 * bytes), 0),
            F::quants(s, w.add(4 * bytes), 0),
            F::quants(s, w.add(5 * bytes), 0),
            F::quants(s, w.add(6 * bytes), 0),
            F::quants(s, w.add(7 * bytes), 0),
        ];
        for t in 0..NT {
            let at = at + t * stride;
            let a = x.q32.as_ptr().cast::<u8>().cast_const().add(at * QK);
            let dots = [
                dot::<S, F>(s, q[0], s.b_load(a)),
                dot::<S, F>(s, q[1], s.b_load(a.add(QK))),
                dot::<S, F>(s, q[2], s.b_load(a.add(2 * QK))),
                dot::<S, F>(s, q[3], s.b_load(a.add(3 * QK))),
                dot::<S, F>(s, q[4], s.b_load(a.add(4 * QK))),
                dot::<S, F>(s, q[5], s.b_load(a.add(5 * QK))),
                dot::<S, F>(s, q[6], s.b_load(a.add(6 * QK))),
                dot::<S, F>(s, q[7], s.b_load(a.add(7 * QK))),
            ];
            let sums = s.i_load(x.s32.as_ptr().add(at));
            acc[t] =
                add_lanes::<S, F>(s, s.i_sum8(dots), sums, [d, m, s.f_load(x.d32.as_ptr().add(at))], acc[t]);
        }
    }
}

/// The lanes' share of the canonical order; `[d, m, da]` are the scales.
#[inline(always)]
fn add_lanes<S: Simd, F: Format32>(s: S, isum: S::I, sums: S::I, [d, m, da]: [S::F; 3], acc: S::F) -> S::F {
    let isum = if F::OFFSET == 0 { isum } else { s.i_sub(isum, s.i_mul(sums, s.i_splat(F::OFFSET))) };
    let acc = s.f_fma(s.f_mul(d, da), s.f_from_i(isum), acc);
    if F::HAS_MIN { s.f_fma(m, s.f_mul(da, s.f_from_i(sums)), acc) } else { acc }
}

/// The last, fewer than eight, blocks of a chunk: the missing ones have scale 0. `[at, stride, count]` as above.
/// # Safety
/// `count` blocks are readable at `w`, `count` is at most 8, and the input has its blocks.
#[inline(always)]
unsafe fn rest<S: Simd, F: Format32, const NT: usize>(
    s: S,
    w: *const u8,
    x: &Activations,
    [at, stride, count]: [usize; 3],
    acc: &mut [S::F; NT],
) {
    let bytes = F::DTYPE.block_bytes();
    for t in 0..NT {
        let (mut d, mut m, mut da) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let (mut isum, mut sums) = ([0; LANES], [0; LANES]);
        for j in 0..count {
            let at = at + t * stride + j;
            // SAFETY: the caller vouches for `count` blocks of weights and of each input row.
            unsafe {
                let w = w.add(j * bytes);
                let half =
                    |at: usize| half::f16::from_bits(w.add(at).cast::<u16>().read_unaligned()).to_f32();
                d[j] = half(0);
                m[j] = if F::HAS_MIN { half(F::MIN_AT) } else { 0.0 };
                da[j] = *x.d32.as_ptr().add(at);
                sums[j] = *x.s32.as_ptr().add(at);
                let a = s.b_load(x.q32.as_ptr().cast::<u8>().add(at * QK));
                isum[j] = s.i_sum(dot::<S, F>(s, F::quants(s, w, 0), a));
            }
        }
        // SAFETY: the arrays have 8 elements.
        unsafe {
            let scales = [s.f_load(d.as_ptr()), s.f_load(m.as_ptr()), s.f_load(da.as_ptr())];
            acc[t] = add_lanes::<S, F>(s, s.i_load(isum.as_ptr()), s.i_load(sums.as_ptr()), scales, acc[t]);
        }
    }
}

#[inline(always)]
fn dot<S: Simd, F: Format>(s: S, w: S::B, a: S::B) -> S::I {
    if F::STEPS == 0 { s.dot_wide(w, a) } else { s.dot_small(w, a) }
}

impl<F: Format256, const NT: usize> Kernel for Rows256<'_, F, NT> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowKernel { weight, cols, rows, x, first, bias, out, .. } = self.0;
        let (blocks, row_bytes) = (cols / QK_K, cols / QK_K * F::DTYPE.block_bytes());
        assert!(rows.end * row_bytes <= weight.len() && (first + NT) * cols <= x.q256.len());
        for n in rows {
            let mut y = [0.0f32; NT];
            for b in 0..blocks {
                // SAFETY: the assertion puts every block of these rows, and its input, in bounds.
                unsafe {
                    let w = weight.as_ptr().add(n * row_bytes + b * F::DTYPE.block_bytes());
                    let scales = F::scales(w);
                    let sums = super_block::<S, F, NT>(s, w, &scales, x, first * blocks + b, blocks);
                    for t in 0..NT {
                        let da = *x.d256.as_ptr().add((first + t) * blocks + b);
                        let (isum, msum) = sums[t];
                        y[t] = (scales.d * da).mul_add(isum as f32, y[t]);
                        if F::HAS_MIN {
                            y[t] = (scales.neg_dmin * da).mul_add(msum as f32, y[t]);
                        }
                    }
                }
            }
            for (t, y) in y.into_iter().enumerate() {
                // SAFETY: the caller gave this range of outputs to this call alone.
                unsafe { out.put(first + t, n, y + bias.map_or(0.0, |bias| bias[n])) };
            }
        }
    }
}

/// `isum` and `msum` of one block for each input row. The input's block is `at`, that of the next row `stride` further.
/// # Safety
/// A block is readable at `w`, and the input has its blocks.
#[inline(always)]
unsafe fn super_block<S: Simd, F: Format256, const NT: usize>(
    s: S,
    w: *const u8,
    scales: &Scales256,
    x: &Activations,
    at: usize,
    stride: usize,
) -> [(i32, i32); NT] {
    let mut isum = [s.i_splat(0); NT];
    each_sub!(SUB, {
        // SAFETY: the caller vouches for the block of weights and of each input row.
        unsafe {
            let q = F::quants(s, w, SUB);
            let sc = [scales.sc[2 * SUB], scales.sc[2 * SUB + 1]];
            for t in 0..NT {
                let a = s.b_load(x.q256.as_ptr().cast::<u8>().add((at + t * stride) * QK_K + SUB * QK));
                let dot = if F::STEPS == 0 {
                    // Weights this wide always share a scale over the 32.
                    s.i_mul(s.dot_wide(q, a), s.i_splat(sc[0].into()))
                } else {
                    s.dot_scaled(q, a, sc)
                };
                isum[t] = s.i_add(isum[t], dot);
            }
        }
    });
    let mut out = [(0, 0); NT];
    for t in 0..NT {
        // SAFETY: 16 sums of the block, and the 16 scales and mins.
        unsafe {
            let sums = x.s256.as_ptr().add((at + t * stride) * 16).cast::<i32>();
            let weighted = |by: &[i16; 16]| s.i_sum(s.i_madd16(s.i_load(sums), s.i_load(by.as_ptr().cast())));
            let offset = if F::OFFSET == 0 { 0 } else { F::OFFSET * weighted(&scales.sc) };
            out[t] = (s.i_sum(isum[t]) - offset, if F::HAS_MIN { weighted(&scales.mn) } else { 0 });
        }
    }
    out
}
