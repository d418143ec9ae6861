//! Products of F32, F16 and BF16 weights with rows of f32.
//!
//! Order: value `k` goes to lane `k % 16`, `lane = fma(w, x, lane)` ascending; lanes `i` and `i + 8` are
//! added, then [`crate::simd::Simd::f_sum`]. The last, incomplete, sixteen values are padded with zeros.
//!
//! What was tried, in 10^9 operations a second (F16, 512 input rows, one thread): two weight rows by three
//! inputs of 256 bits, 52 to 62; four by six of 512 bits, ten loads and four conversions for 24
//! multiply-adds, 92. The file's layout is read as it is; nothing is packed.

use std::marker::PhantomData;

use undine_core::DType;

use super::activations::Activations;
use super::rows::LINE;
use super::rows::Output;
use crate::simd::{Kernel, LANES, Native, WIDE, Wide};

/// How far ahead of its reads a kernel asks for weights, in bytes.
const AHEAD: usize = 2048;

/// A float type.
pub trait Float: Copy + Send + Sync + 'static {
    /// Which.
    const DTYPE: DType;
    /// # Safety
    /// 16 values are readable at `p`, any alignment.
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W;
}

/// F32.
#[derive(Clone, Copy)]
pub struct F32;
/// F16.
#[derive(Clone, Copy)]
pub struct F16;
/// BF16.
#[derive(Clone, Copy)]
pub struct BF16;

impl Float for F32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.w_load(p.cast()) }
    }
}
impl Float for F16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.w_load_f16(p.cast()) }
    }
}
impl Float for BF16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.w_load_bf16(p.cast()) }
    }
}

/// A range of weight rows against a range of input rows.
pub struct FloatKernel<'a, W> {
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
    /// The weight's type.
    pub float: PhantomData<W>,
}

impl<W: Float> Kernel for FloatKernel<'_, W> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        assert!(self.rows.end * self.cols * W::DTYPE.block_bytes() <= self.weight.len());
        assert!(self.inputs.end * self.cols <= self.x.f32s.len());
        let mut n = self.rows.start;
        // With few inputs the weights are read from memory at its speed, best as one stream.
        if self.inputs.len() > STREAM_INPUTS_MAX {
            if S::REGISTERS >= 32 {
                n = self.tiles::<S, 4, 6>(s, n);
            } else {
                n = self.tiles::<S, 2, 3>(s, n);
            }
        }
        self.tiles::<S, 1, 3>(s, n);
    }
}

/// Up to this many inputs weight rows are done one by one.
const STREAM_INPUTS_MAX: usize = 3;

impl<W: Float> FloatKernel<'_, W> {
    /// Does weight rows from `n` on by `NW` and all inputs by `NX`, and returns the first row that is left.
    #[inline(always)]
    fn tiles<S: Native, const NW: usize, const NX: usize>(&self, s: S, mut n: usize) -> usize {
        while n + NW <= self.rows.end {
            let mut t = self.inputs.start;
            while t + NX <= self.inputs.end {
                tile::<S, W, NW, NX>(s, self, n, t);
                t += NX;
            }
            while t + 2 <= self.inputs.end {
                tile::<S, W, NW, 2>(s, self, n, t);
                t += 2;
            }
            if t < self.inputs.end {
                tile::<S, W, NW, 1>(s, self, n, t);
            }
            n += NW;
        }
        n
    }
}

#[inline(always)]
fn tile<S: Native, W: Float, const NW: usize, const NX: usize>(s: S, g: &FloatKernel<W>, n: usize, t: usize) {
    let bytes = W::DTYPE.block_bytes();
    let mut acc = [[s.w_splat(0.0); NX]; NW];
    let whole = g.cols / WIDE * WIDE;
    // SAFETY: the assertions in `run` put rows `n..n + NW` and inputs `t..t + NX` in bounds.
    unsafe {
        let w = g.weight.as_ptr().add(n * g.cols * bytes);
        let x = g.x.f32s.as_ptr().cast_const().add(t * g.cols);
        for k in (0..whole).step_by(WIDE) {
            if NW == 1 && k * bytes % LINE == 0 {
                s.prefetch(w.wrapping_add(k * bytes + AHEAD));
            }
            step::<S, W, NW, NX>(s, w.add(k * bytes), x.add(k), g.cols, &mut acc);
        }
        let left = g.cols - whole;
        if left > 0 {
            let mut w_pad = [[0u8; WIDE * 4]; NW];
            let mut x_pad = [[0.0f32; WIDE]; NX];
            for i in 0..NW {
                let from = w.add((i * g.cols + whole) * bytes);
                std::ptr::copy_nonoverlapping(from, w_pad[i].as_mut_ptr(), left * bytes);
            }
            for i in 0..NX {
                std::ptr::copy_nonoverlapping(x.add(i * g.cols + whole), x_pad[i].as_mut_ptr(), left);
            }
            for i in 0..NW {
                let w = W::load(s, w_pad[i].as_ptr());
                for j in 0..NX {
                    acc[i][j] = s.w_fma(w, s.w_load(x_pad[j].as_ptr()), acc[i][j]);
                }
            }
        }
        for i in 0..NW {
            for j in 0..NX {
                let mut lanes = [0.0; WIDE];
                s.w_store(lanes.as_mut_ptr(), acc[i][j]);
                let halves = s.f_add(s.f_load(lanes.as_ptr()), s.f_load(lanes.as_ptr().add(LANES)));
                let sum = s.f_sum(halves);
                g.out.put(t + j, n + i, sum + g.bias.map_or(0.0, |bias| bias[n + i]));
            }
        }
    }
}

/// Sixteen values of K. Rows of weights and of inputs are `cols` values long.
/// # Safety
/// [`WIDE`] values are readable in each row.
#[inline(always)]
unsafe fn step<S: Native, W: Float, const NW: usize, const NX: usize>(
    s: S,
    w: *const u8,
    x: *const f32,
    cols: usize,
    acc: &mut [[S::W; NX]; NW],
) {
    // SAFETY: the caller gives 16 values in each row.
    unsafe {
        let mut weights = [s.w_splat(0.0); NW];
        for i in 0..NW {
            weights[i] = W::load(s, w.add(i * cols * W::DTYPE.block_bytes()));
        }
        for j in 0..NX {
            let x = s.w_load(x.add(j * cols));
            for i in 0..NW {
                acc[i][j] = s.w_fma(weights[i], x, acc[i][j]);
            }
        }
    }
}
