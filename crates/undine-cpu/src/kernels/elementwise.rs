//! Norms, rotary embedding, gates and the short convolution: memory-bound work on rows of f32.
//!
//! Each function's result for a row depends on that row alone, with one fixed order of operations.

use crate::simd::{Kernel, LANES, Simd};

/// RMS norm of one row: `y = x * rsqrt(mean(x²) + eps) * gain`.
pub struct RmsNorm<'a> {
    /// The row.
    pub x: &'a [f32],
    /// As long as the row.
    pub gain: &'a [f32],
    /// Inside the root.
    pub eps: f32,
    /// The result.
    pub y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, gain, eps, y } = self;
        assert!(x.len() == gain.len() && x.len() == y.len());
        let scale = 1.0 / (sum_of_squares(s, x) / x.len() as f32 + eps).sqrt();
        for (y, (x, gain)) in y.iter_mut().zip(x.iter().zip(gain)) {
            *y = x * scale * gain;
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut acc = [s.f_splat(0.0); 4];
    let chunks = x.chunks_exact(4 * LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the chunk has 32 values.
            let v = unsafe { s.f_load(chunk.as_ptr().add(i * LANES)) };
            *acc = s.f_fma(v, v, *acc);
        }
    }
    let rest: f32 = rest.iter().map(|v| v * v).sum();
    s.f_sum(s.f_add(s.f_add(acc[0], acc[1]), s.f_add(acc[2], acc[3]))) + rest
}

/// Norm of each head (if there is one), then the rotary embedding, in place.
pub struct NormRope<'a> {
    /// Heads of `2 * angles` values.
    pub heads: &'a mut [f32],
    /// RMS norm over a head.
    pub gain: Option<&'a [f32]>,
    /// Of the norm.
    pub eps: f32,
    /// Cosines of this position, half a head.
    pub cos: &'a [f32],
    /// Sines of this position, half a head.
    pub sin: &'a [f32],
}

impl Kernel for NormRope<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { heads, gain, eps, cos, sin } = self;
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            if let Some(gain) = gain {
                let scale = 1.0 / (sum_of_squares(s, head) / head.len() as f32 + eps).sqrt();
                for (x, gain) in head.iter_mut().zip(gain) {
                    *x = *x * scale * gain;
                }
            }
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

/// `e^x` for `x <= 0`; exactly 0 below -87. Cephes-style: `2^n * e^r` with a polynomial of degree 6; error
/// below 2 ulp.
#[inline(always)]
pub fn exp_neg<S: Simd>(s: S, x: S::F) -> S::F {
    let low = s.f_splat(-87.0);
    let clamped = s.f_max(x, low);
    let n = s.f_to_i(s.f_mul(clamped, s.f_splat(std::f32::consts::LOG2_E)));
    let nf = s.f_from_i(n);
    let r = s.f_fma(nf, s.f_splat(-0.693_359_4), clamped);
    let r = s.f_fma(nf, s.f_splat(2.121_944_4e-4), r);
    let mut p = s.f_splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.f_fma(p, r, s.f_splat(c));
    }
    let p = s.f_add(s.f_fma(p, s.f_mul(r, r), r), s.f_splat(1.0));
    s.f_mask_above(x, low, s.f_mul(p, s.f_pow2(n)))
}

/// `silu(gate) * up`, into `gate`.
pub struct SiluMul<'a> {
    /// Gate, and the result.
    pub gate: &'a mut [f32],
    /// As long as the gate.
    pub up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gate, up } = self;
        assert_eq!(gate.len(), up.len());
        let whole = gate.len() / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            // SAFETY: `i + 8` is within both slices.
            unsafe { silu_mul_8(s, gate.as_mut_ptr().add(i), up.as_ptr().add(i)) };
        }
        let (mut g, mut u) = ([0.0; LANES], [0.0; LANES]);
        let left = gate.len() - whole;
        g[..left].copy_from_slice(&gate[whole..]);
        u[..left].copy_from_slice(&up[whole..]);
        // SAFETY: the arrays have 8 values.
        unsafe { silu_mul_8(s, g.as_mut_ptr(), u.as_ptr()) };
        gate[whole..].copy_from_slice(&g[..left]);
    }
}

/// `silu(gate) * up` of eight values.
/// # Safety
/// 8 values are readable at both pointers, and `gate` is writable.
#[inline(always)]
unsafe fn silu_mul_8<S: Simd>(s: S, gate: *mut f32, up: *const f32) {
    // SAFETY: the caller gives 8 values at each pointer.
    unsafe {
        let (g, u) = (s.f_load(gate), s.f_load(up));
        // 1 / (1 + e^-g) from e^-|g|, which cannot overflow: for g < 0 it is e / (1 + e).
        let one = s.f_splat(1.0);
        let e = exp_neg(s, s.f_sub(s.f_splat(0.0), s.f_abs(g)));
        let numerator = s.f_select_negative(g, e, one);
        let sigmoid = s.f_div(numerator, s.f_add(one, e));
        s.f_store(gate, s.f_mul(s.f_mul(g, sigmoid), u));
    }
}

/// The gated short convolution of one sequence's rows, for a range of channels:
/// `u = B * X`, `v[t] = bias + sum over taps of filter[tap] * u[t - (taps-1) + tap]`, `y = C * v`.
pub struct ShortConvRows<'a> {
    /// Rows of `B, C, X`, each `hidden` wide, as [`crate::memory::SharedSlice`] addresses them.
    pub bcx: *const f32,
    /// The result, rows of `hidden`.
    pub y: *mut f32,
    /// Channels in a row.
    pub hidden: usize,
    /// Rows of the sequence.
    pub rows: std::ops::Range<usize>,
    /// Channels to do.
    pub channels: std::ops::Range<usize>,
    /// `taps x hidden`: the matrix of the checkpoint, transposed.
    pub filter: &'a [f32],
    /// `hidden`.
    pub bias: Option<&'a [f32]>,
    /// The last `taps - 1` gated inputs, oldest first, each `hidden` wide; moved on.
    pub state: *mut f32,
}

impl Kernel for ShortConvRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { hidden, rows, channels, filter, bias, .. } = &self;
        let taps = filter.len() / hidden;
        assert!(taps >= 1 && filter.len() == taps * hidden && channels.end <= *hidden);
        assert!(bias.is_none_or(|bias| bias.len() == *hidden));
        let whole = channels.start + channels.len() / LANES * LANES;
        for row in rows.clone() {
            for channel in (channels.start..whole).step_by(LANES) {
                // SAFETY: the caller owns these channels of the row and of the state; eight of them are left.
                unsafe { self.eight_channels(s, taps, row, channel) };
            }
            for channel in whole..channels.end {
                // SAFETY: as above, one channel.
                unsafe { self.one_channel(taps, row, channel) };
            }
        }
    }
}

impl ShortConvRows<'_> {
    /// One row of eight channels.
    /// # Safety
    /// The row and the state are valid as the fields say, no other thread uses these channels of them, and
    /// `channel + 8` is at most `hidden`.
    #[inline(always)]
    unsafe fn eight_channels<S: Simd>(&self, s: S, taps: usize, row: usize, channel: usize) {
        // SAFETY: the caller vouches for eight channels of the row, the state, the filter and the bias.
        unsafe {
            let b = self.bcx.add(row * 3 * self.hidden + channel);
            let state = self.state.add(channel);
            let filter = self.filter.as_ptr().add(channel);
            let u = s.f_mul(s.f_load(b), s.f_load(b.add(2 * self.hidden)));
            let mut v = self.bias.map_or(s.f_splat(0.0), |bias| s.f_load(bias.as_ptr().add(channel)));
            for tap in 0..taps - 1 {
                let old = s.f_load(state.add(tap * self.hidden));
                v = s.f_fma(s.f_load(filter.add(tap * self.hidden)), old, v);
                if tap > 0 {
                    s.f_store(state.add((tap - 1) * self.hidden), old);
                }
            }
            v = s.f_fma(s.f_load(filter.add((taps - 1) * self.hidden)), u, v);
            if taps > 1 {
                s.f_store(state.add((taps - 2) * self.hidden), u);
            }
            s.f_store(self.y.add(row * self.hidden + channel), s.f_mul(s.f_load(b.add(self.hidden)), v));
        }
    }

    /// The same operations on one channel.
    /// # Safety
    /// As above, with `channel` below `hidden`.
    #[inline(always)]
    unsafe fn one_channel(&self, taps: usize, row: usize, channel: usize) {
        // SAFETY: the caller vouches for the channel of the row, the state, the filter and the bias.
        unsafe {
            let b = self.bcx.add(row * 3 * self.hidden + channel);
            let state = self.state.add(channel);
            let u = *b * *b.add(2 * self.hidden);
            let mut v = self.bias.map_or(0.0, |bias| bias[channel]);
            for tap in 0..taps - 1 {
                let old = *state.add(tap * self.hidden);
                v = self.filter[tap * self.hidden + channel].mul_add(old, v);
                if tap > 0 {
                    *state.add((tap - 1) * self.hidden) = old;
                }
            }
            v = self.filter[(taps - 1) * self.hidden + channel].mul_add(u, v);
            if taps > 1 {
                *state.add((taps - 2) * self.hidden) = u;
            }
            *self.y.add(row * self.hidden + channel) = *b.add(self.hidden) * v;
        }
    }
}
