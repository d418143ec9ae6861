//! Products of F32, F16 and BF16 weights with rows of f32.
//!
//! Order: value `k` goes to lane `k % 16`, `lane = fma(w, x, lane)` ascending; lanes `i` and `i + 8` are added, then
//! [`Simd::f_sum`]. The last, incomplete, sixteen values are padded with zeros.
//!
//! What was tried: a tile of 2 weight rows by 3 input rows has 12 accumulators and needs 10 loads for 12 multiply-adds,
//! so it runs close to the multiply-add rate without packing anything.

use std::marker::PhantomData;

use undine_core::DType;

use super::activations::Activations;
use super::rows::Output;
use crate::simd::{Kernel, LANES, Simd};

/// Values of K per pass.
const WIDE: usize = 2 * LANES;

/// A float type.
pub trait Float: Copy + Send + Sync + 'static {
    /// Which.
    const DTYPE: DType;
    /// # Safety
    /// 8 values are readable at `p`, any alignment.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
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
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.f_load(p.cast()) }
    }
}
impl Float for F16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.f_load_f16(p.cast()) }
    }
}
impl Float for BF16 {
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: as the caller says; the load takes any alignment.
        unsafe { s.f_load_bf16(p.cast()) }
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
    fn run<S: Simd>(self, s: S) {
        assert!(self.rows.end * self.cols * W::DTYPE.block_bytes() <= self.weight.len());
        assert!(self.inputs.end * self.cols <= self.x.f32s.len());
        let mut n = self.rows.start;
        while n + 2 <= self.rows.end && self.inputs.len() > 1 {
            let mut t = self.inputs.start;
            while t + 3 <= self.inputs.end {
                tile::<S, W, 2, 3>(s, &self, n, t);
                t += 3;
            }
            while t < self.inputs.end {
                tile::<S, W, 2, 1>(s, &self, n, t);
                t += 1;
            }
            n += 2;
        }
        for n in n..self.rows.end {
            for t in self.inputs.clone() {
                tile::<S, W, 1, 1>(s, &self, n, t);
            }
        }
    }
}

#[inline(always)]
fn tile<S: Simd, W: Float, const NW: usize, const NX: usize>(s: S, g: &FloatKernel<W>, n: usize, t: usize) {
    let bytes = W::DTYPE.block_bytes();
    let mut acc = [[[s.f_splat(0.0); 2]; NX]; NW];
    let whole = g.cols / WIDE * WIDE;
    // SAFETY: the assertions in `run` put rows `n..n + NW` and inputs `t..t + NX` in bounds.
    unsafe {
        let w: [*const u8; NW] = std::array::from_fn(|i| g.weight.as_ptr().add((n + i) * g.cols * bytes));
        let x: [*const f32; NX] =
            std::array::from_fn(|i| g.x.f32s.as_ptr().cast_const().add((t + i) * g.cols));
        for k in (0..whole).step_by(WIDE) {
            step::<S, W, NW, NX>(s, w.map(|w| w.add(k * bytes)), x.map(|x| x.add(k)), &mut acc);
        }
        let left = g.cols - whole;
        if left > 0 {
            let mut w_pad = [[0u8; WIDE * 4]; NW];
            let mut x_pad = [[0.0f32; WIDE]; NX];
            for i in 0..NW {
                std::ptr::copy_nonoverlapping(w[i].add(whole * bytes), w_pad[i].as_mut_ptr(), left * bytes);
            }
            for i in 0..NX {
                std::ptr::copy_nonoverlapping(x[i].add(whole), x_pad[i].as_mut_ptr(), left);
            }
            let w_pad: [*const u8; NW] = std::array::from_fn(|i| w_pad[i].as_ptr());
            let x_pad: [*const f32; NX] = std::array::from_fn(|i| x_pad[i].as_ptr());
            step::<S, W, NW, NX>(s, w_pad, x_pad, &mut acc);
        }
        for i in 0..NW {
            for j in 0..NX {
                let sum = s.f_sum(s.f_add(acc[i][j][0], acc[i][j][1]));
                g.out.put(t + j, n + i, sum + g.bias.map_or(0.0, |bias| bias[n + i]));
            }
        }
    }
}

/// Sixteen values of K.
/// # Safety
/// [`WIDE`] values are readable at each pointer.
#[inline(always)]
unsafe fn step<S: Simd, W: Float, const NW: usize, const NX: usize>(
    s: S,
    w: [*const u8; NW],
    x: [*const f32; NX],
    acc: &mut [[[S::F; 2]; NX]; NW],
) {
    let bytes = W::DTYPE.block_bytes();
    // SAFETY: the caller gives 16 values at each pointer.
    unsafe {
        for half in 0..2 {
            let mut w_lanes = [s.f_splat(0.0); NW];
            for i in 0..NW {
                w_lanes[i] = W::load(s, w[i].add(half * LANES * bytes));
            }
            for j in 0..NX {
                let x = s.f_load(x[j].add(half * LANES));
                for i in 0..NW {
                    acc[i][j][half] = s.f_fma(w_lanes[i], x, acc[i][j][half]);
                }
            }
        }
    }
}
