//! Layer norm and GELU on rows of f32. A result depends on its row alone, with one fixed order of operations.

use undine_model::vision::Gelu;

use crate::kernels::elementwise::exp_neg;
use crate::simd::{Kernel, LANES, Native, Simd};

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias` of one row.
pub struct NormRow<'a> {
    /// The row.
    pub x: &'a [f32],
    /// As long as the row.
    pub gain: &'a [f32],
    /// As long as the row.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// The result.
    pub y: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let Self { x, gain, bias, eps, y } = self;
        assert!(x.len() == gain.len() && x.len() == bias.len() && x.len() == y.len());
        let len = x.len() as f32;
        let mean = deviations(s, x, 0.0)[0] / len;
        let scale = 1.0 / (deviations(s, x, mean)[1] / len + eps).sqrt();
        for i in 0..x.len() {
            y[i] = ((x[i] - mean) * scale).mul_add(gain[i], bias[i]);
        }
    }
}

/// The sums of `x - center` and of its squares.
#[inline(always)]
fn deviations<S: Simd>(s: S, x: &[f32], center: f32) -> [f32; 2] {
    let lanes = s.f_splat(center);
    let (mut sum, mut squares) = (s.f_splat(0.0), s.f_splat(0.0));
    let chunks = x.chunks_exact(LANES);
    let (mut rest, mut rest_squares) = (0.0, 0.0);
    for x in chunks.remainder() {
        rest += x - center;
        rest_squares += (x - center) * (x - center);
    }
    for chunk in chunks {
        // SAFETY: the chunk has 8 values.
        let d = s.f_sub(unsafe { s.f_load(chunk.as_ptr()) }, lanes);
        sum = s.f_add(sum, d);
        squares = s.f_fma(d, d, squares);
    }
    [s.f_sum(sum) + rest, s.f_sum(squares) + rest_squares]
}

/// The Gaussian error linear unit of values in place.
pub struct GeluRow<'a> {
    /// The values.
    pub x: &'a mut [f32],
    /// Which function.
    pub kind: Gelu,
}

impl Kernel for GeluRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let Self { x, kind } = self;
        let mut chunks = x.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            // SAFETY: the chunk has 8 values.
            unsafe {
                let v = gelu_8(s, s.f_load(chunk.as_ptr()), kind);
                s.f_store(chunk.as_mut_ptr(), v);
            }
        }
        let rest = chunks.into_remainder();
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        // SAFETY: the array has 8 values.
        unsafe {
            let v = gelu_8(s, s.f_load(last.as_ptr()), kind);
            s.f_store(last.as_mut_ptr(), v);
        }
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn gelu_8<S: Simd>(s: S, x: S::F, kind: Gelu) -> S::F {
    match kind {
        Gelu::Tanh => gelu_tanh(s, x),
        Gelu::Erf => gelu_erf(s, x),
    }
}

/// `x * sigmoid(2 u)`, which is `x / 2 * (1 + tanh u)`.
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    /// Twice the square root of 2 / pi.
    const FACTOR: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    let cube = s.f_mul(s.f_mul(x, x), x);
    let z = s.f_mul(s.f_fma(cube, s.f_splat(0.044_715), x), s.f_splat(FACTOR));
    // 1 / (1 + e^-z) from e^-|z|, which cannot overflow: for z < 0 it is e / (1 + e).
    let one = s.f_splat(1.0);
    let e = exp_neg(s, s.f_sub(s.f_splat(0.0), s.f_abs(z)));
    let numerator = s.f_select_negative(z, e, one);
    s.f_mul(x, s.f_div(numerator, s.f_add(one, e)))
}

/// `x` times the normal distribution function. Abramowitz and Stegun 7.1.26: the error of erf is below
/// 1.5e-7.
#[inline(always)]
fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    let u = s.f_mul(s.f_abs(x), s.f_splat(std::f32::consts::FRAC_1_SQRT_2));
    let one = s.f_splat(1.0);
    let t = s.f_div(one, s.f_fma(u, s.f_splat(0.327_591_1), one));
    let mut p = s.f_splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = s.f_fma(p, t, s.f_splat(c));
    }
    let e = exp_neg(s, s.f_sub(s.f_splat(0.0), s.f_mul(u, u)));
    // Half of 1 - erf(|u|): the area of the tail.
    let tail = s.f_mul(s.f_mul(s.f_mul(p, t), e), s.f_splat(0.5));
    s.f_mul(x, s.f_select_negative(x, tail, s.f_sub(one, tail)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn gelu_is_close_to_its_definition_and_the_same_on_every_instruction_set() {
        for (kind, at_one, at_minus_two) in
            [(Gelu::Tanh, 0.841_192, -0.045_402_3), (Gelu::Erf, 0.841_344_7, -0.045_500_26)]
        {
            let x: Vec<f32> = (-400..=403).map(|i| i as f32 / 40.0).collect();
            let run = |isa: Isa| {
                let mut y = x.clone();
                isa.run(GeluRow { x: &mut y, kind });
                y
            };
            let y = run(Isa::detect());
            for (at, expected) in
                [(1.0, at_one), (-2.0, at_minus_two), (0.0, 0.0), (10.0, 10.0), (-10.0, 0.0)]
            {
                let found = y[x.iter().position(|&x| x == at).unwrap()];
                assert!((found - expected).abs() < 3e-7, "{kind:?} of {at}: {found}, expected {expected}");
            }
            for isa in Isa::available() {
                assert_eq!(run(isa), y, "{}", isa.name());
            }
        }
    }
}
