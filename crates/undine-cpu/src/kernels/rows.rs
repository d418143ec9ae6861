//! Products of weight rows with one to three rows of quantized input, read straight from the file's layout.
//!
//! The order of f32 operations, which [`super::panels`] follows too. K is cut into chunks of [`CHUNK`]
//! values, a chunk into blocks of 32. Block `b` gives `v = s * f`, where `f` is its integer product, offset
//! taken off, as f32 (exact); with mins `v = fma(m, asum, v)`; formats with scales per 16 values do both once
//! more with the second half's, adding to `v`. Then `lane[b % 8] = fma(d_a, v, lane[b % 8])`. The lanes are
//! summed as in [`Simd::f_sum`], and the chunks in ascending order.
//!
//! What was tried, in 10^9 operations a second with one input in cache (AVX-512 VNNI, Q4_K, one thread):
//! horizontal additions for the sums across lanes are bound by shuffles, 59; packing to 16 bits where sums
//! fit, 73. Half-float conversions through a library that asks the CPU each time: 16 with AVX2. Eight weight
//! rows at a time need no sums across lanes but read eight streams, which halves the bandwidth. From memory
//! with two threads (linear reading 27 to 29 GB/s), GB/s of weights: asking 2 KiB ahead for the first-level
//! cache, 16 to 17; 8 KiB ahead for the second and 768 bytes for the first, 18 to 19 in the same minutes, 25
//! to 28 on a quiet host.

use std::marker::PhantomData;

use undine_core::dtype::QK;

use super::activations::{Activations, GROUP, groups};
use super::each_block;
use super::formats::{Format, SIGNED, Scales};
use crate::simd::{Kernel, LANES, Native, Simd};

/// Values of K whose lanes are summed together; also what the panel kernels keep in the first-level cache.
pub const CHUNK: usize = 1024;
/// Groups in a chunk.
pub const CHUNK_GROUPS: usize = CHUNK / GROUP;
/// How far ahead of its reads a kernel asks for weights to come to the second-level cache, in bytes.
const FAR: usize = 8192;
/// How far ahead it asks for them to come on to the first.
const NEAR: usize = 768;
/// Bytes of a cache line.
pub const LINE: usize = 64;
/// Bytes of the largest group.
pub const GROUP_BYTES_MAX: usize = 320;

/// Where the results of a product go: row `t`, output `n` at `t * stride + n`.
#[derive(Clone, Copy)]
pub struct Output {
    /// First element; rows and outputs that are never stored need none.
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
            let place = self.start.wrapping_add(t * self.stride + n);
            *place = if self.accumulate == Accumulate::Yes { *place + value } else { value };
        }
    }
}

/// What the kernels of quantized formats work on.
#[derive(Clone)]
pub struct Quantized<'a, F> {
    /// The whole matrix.
    pub weight: &'a [u8],
    /// Its columns.
    pub cols: usize,
    /// Weight rows to do.
    pub rows: std::ops::Range<usize>,
    /// The input, `cols` wide.
    pub x: &'a Activations,
    /// Input rows.
    pub inputs: std::ops::Range<usize>,
    /// Added to each output.
    pub bias: Option<&'a [f32]>,
    /// Where to.
    pub out: Output,
    /// The weight's format.
    pub format: PhantomData<F>,
}

impl<F: Format> Quantized<'_, F> {
    /// Bytes of a weight row.
    pub fn row_bytes(&self) -> usize {
        self.cols.div_ceil(F::BLOCK[0]) * F::BLOCK[1]
    }

    /// Panics unless all weights and inputs are there.
    pub fn check(&self) {
        assert!(self.rows.end * self.row_bytes() <= self.weight.len());
        assert!(self.inputs.end * groups(self.cols) * GROUP <= self.x.q.len());
    }

    /// Bytes of the last group of a row if it is not whole, else 0. Only formats with small blocks have such.
    pub fn tail_bytes(&self) -> usize {
        (self.cols % GROUP).div_ceil(F::BLOCK[0]) * F::BLOCK[1]
    }
}

/// What is subtracted from `q` in the leaf's own form of the weights.
pub const fn offset<S: Simd, F: Format>() -> i32 {
    if F::MAX == SIGNED { S::SIGNED_OFFSET } else { F::OFFSET }
}

/// The values of a block in the form that the leaf's dot products want.
/// # Safety
/// As [`Format::quants`].
#[inline(always)]
pub unsafe fn weights<S: Simd, F: Format>(s: S, group: *const u8, block: usize) -> S::B {
    // SAFETY: as the caller says.
    let q = unsafe { F::quants(s, group, block) };
    if F::MAX == SIGNED { s.b_signed(q) } else { q }
}

/// A group that is not whole, with zeros behind it. Their scales or their values are 0 in the formats that
/// have such groups.
/// # Safety
/// `bytes` bytes are readable at `group`.
#[inline(always)]
pub unsafe fn padded(group: *const u8, bytes: usize) -> [u8; GROUP_BYTES_MAX] {
    let mut buffer = [0; GROUP_BYTES_MAX];
    // SAFETY: the caller gives the bytes, and a group fits the buffer.
    unsafe { std::ptr::copy_nonoverlapping(group, buffer.as_mut_ptr(), bytes) };
    buffer
}

/// `NT` rows of input, from the first of its inputs on, against a range of weight rows.
pub struct RowKernel<'a, F, const NT: usize>(pub Quantized<'a, F>);

impl<F: Format, const NT: usize> Kernel for RowKernel<'_, F, NT> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let g = self.0;
        g.check();
        assert!(g.inputs.len() >= NT);
        let (groups, row_bytes, tail) = (groups(g.cols), g.row_bytes(), g.tail_bytes());
        let whole = g.cols / GROUP;
        for n in g.rows.clone() {
            let mut y = [0.0; NT];
            let mut at = 0;
            while at < groups {
                let end = (at + CHUNK_GROUPS).min(groups);
                let mut acc = [s.f_splat(0.0); NT];
                // SAFETY: the checks put every group of these rows, and its input, in bounds.
                unsafe {
                    let w = g.weight.as_ptr().add(n * row_bytes);
                    let x = |at: usize| (g.inputs.start * groups + at) * LANES;
                    for at in at..end.min(whole) {
                        let w = w.add(at * F::GROUP_BYTES);
                        for line in (0..F::GROUP_BYTES).step_by(LINE) {
                            s.prefetch_far(w.wrapping_add(FAR + line));
                            s.prefetch(w.wrapping_add(NEAR + line));
                        }
                        group::<S, F, NT>(s, w, g.x, [x(at), groups * LANES], &mut acc);
                    }
                    if end > whole {
                        let w = padded(w.add(whole * F::GROUP_BYTES), tail);
                        group::<S, F, NT>(s, w.as_ptr(), g.x, [x(whole), groups * LANES], &mut acc);
                    }
                }
                for t in 0..NT {
                    y[t] += s.f_sum(acc[t]);
                }
                at = end;
            }
            for (t, y) in y.into_iter().enumerate() {
                // SAFETY: the caller gave this range of outputs to this call alone.
                unsafe { g.out.put(g.inputs.start + t, n, y + g.bias.map_or(0.0, |bias| bias[n])) };
            }
        }
    }
}

/// Adds a group at `w` to the lanes. The input's blocks start at `at`, those of the next row `stride`
/// further.
/// # Safety
/// A group is readable at `w`, and the input has its blocks.
#[inline(always)]
unsafe fn group<S: Simd, F: Format, const NT: usize>(
    s: S,
    w: *const u8,
    x: &Activations,
    [at, stride]: [usize; 2],
    acc: &mut [S::F; NT],
) {
    // SAFETY: the caller vouches for the group of weights and of each input row.
    unsafe {
        let a = x.q.as_ptr().cast::<u8>().cast_const().add(at * QK);
        let mut dots = [[s.i_splat(0); LANES]; NT];
        each_block!(B, {
            let q = weights::<S, F>(s, w, B);
            for t in 0..NT {
                let a = s.b_load(a.add((t * stride + B) * QK));
                dots[t][B] = if F::MAX == SIGNED { s.dot_signed(q, a) } else { s.dot_small(q, a) };
            }
        });
        let scales = F::scales(s, w);
        for t in 0..NT {
            let at = at + t * stride;
            let v = scaled::<S, F>(s, sum8::<S, F>(s, dots[t]), x, at, &scales);
            acc[t] = s.f_fma(s.f_load(x.d.as_ptr().add(at)), v, acc[t]);
        }
    }
}

/// Sums across lanes, which know how large products of this format can be.
#[inline(always)]
fn sum8<S: Simd, F: Format>(s: S, dots: [S::I; LANES]) -> [S::I; 2] {
    match F::MAX {
        ..=15 => s.i_sum8_halves::<15>(dots),
        16..=31 => s.i_sum8_halves::<31>(dots),
        32..=63 => s.i_sum8_halves::<63>(dots),
        _ => s.i_sum8_halves::<255>(dots),
    }
}

/// `v` of eight blocks from the integer products of their halves.
/// # Safety
/// The input has the eight blocks from `at`.
#[inline(always)]
unsafe fn scaled<S: Simd, F: Format>(
    s: S,
    halves: [S::I; 2],
    x: &Activations,
    at: usize,
    scales: &Scales<S>,
) -> S::F {
    let shift = offset::<S, F>().trailing_zeros();
    let product = |dot: S::I, sum: *const i32| {
        // SAFETY: the caller vouches for eight blocks.
        if offset::<S, F>() == 0 { dot } else { s.i_sub(dot, s.i_shl(unsafe { s.i_load(sum) }, shift)) }
    };
    // SAFETY: as above.
    unsafe {
        if !F::HALVES {
            let dot = product(s.i_add(halves[0], halves[1]), x.sum.as_ptr().add(at));
            let v = s.f_mul(scales.s[0], s.f_from_i(dot));
            return if F::HAS_MIN {
                s.f_fma(scales.m[0], s.f_load(x.sum_f32.as_ptr().add(at)), v)
            } else {
                v
            };
        }
        let sums = [x.low.as_ptr().add(at).cast_const(), x.high.as_ptr().add(at).cast_const()];
        let mut v = s.f_splat(0.0);
        for half in 0..2 {
            let f = s.f_from_i(product(halves[half], sums[half]));
            v = if half == 0 { s.f_mul(scales.s[0], f) } else { s.f_fma(scales.s[1], f, v) };
            if F::HAS_MIN {
                v = s.f_fma(scales.m[half], s.f_from_i(s.i_load(sums[half])), v);
            }
        }
        v
    }
}
