//! Scales of a super-block: a float per sub-block is fitted first, then all of them become small integers
//! under one f16, and integers and f16 are improved in turn against the true error. Used by the K-quants and
//! IQ4_XS.

use super::fit::{self, Affine, Importance, inverse, round, round_to_f16};

/// Most sub-blocks in a super-block.
const SUBS_MAX: usize = 16;
/// Rounds of re-fitting the f16 and then the integers.
const ROUNDS: usize = 2;
/// Integers tried around the nearest one.
const NEIGHBOURS: [f32; 3] = [0.0, -1.0, 1.0];

/// `d * scales[j]` is the scale of sub-block `j`.
#[derive(Clone, Copy)]
pub(super) struct Symmetric {
    pub d: f32,
    pub scales: [i8; SUBS_MAX],
    error: f32,
}

/// `d * scales[j]` is the scale of sub-block `j`, and `dmin * mins[j]` is subtracted from its values.
#[derive(Clone, Copy)]
pub(super) struct WithMin {
    pub d: f32,
    pub dmin: f32,
    pub scales: [u8; SUBS_MAX],
    pub mins: [u8; SUBS_MAX],
    error: f32,
}

impl WithMin {
    /// What sub-block `j` decodes with.
    #[inline(always)]
    pub(super) fn affine(&self, j: usize) -> Affine {
        Affine { scale: self.d * f32::from(self.scales[j]), offset: -(self.dmin * f32::from(self.mins[j])) }
    }
}

/// Fits a super-block of signed levels; `scale_limit` is 32 or 128, the integers lie in `-limit..limit`.
#[inline(always)]
pub(super) fn fit_symmetric<const SUB: usize, const P: usize>(
    subs: &[[f32; SUB]],
    importance: impl Importance,
    scale_limit: f32,
    peaks: &[f32; P],
    snap: impl Fn(f32) -> f32 + Copy,
) -> Symmetric {
    let mut ideal = [0.0f32; SUBS_MAX];
    for (j, (ideal, x)) in ideal.iter_mut().zip(subs).enumerate() {
        *ideal = fit::search_scale(x, importance.run(j), peaks, snap, |d| d);
    }
    let (low, high) = fit::range(&ideal);
    let peak = if -low > high { low } else { high };
    // The extra negative integer goes to the largest scale, whatever its sign.
    let mut best =
        integer_scales(subs, importance, round_to_f16(peak / -scale_limit), &ideal, scale_limit, snap);
    for _ in 0..ROUNDS {
        let (mut product, mut square) = (0.0f32, 0.0f32);
        for (j, x) in subs.iter().enumerate() {
            let scale = f32::from(best.scales[j]);
            let [p, s] = fit::scale_moments(x, importance.run(j), best.d * scale, snap);
            product += p * scale;
            square += s * scale * scale;
            ideal[j] = best.d * scale;
        }
        let d = round_to_f16(product * inverse(square));
        let candidate = integer_scales(subs, importance, d, &ideal, scale_limit, snap);
        if candidate.error < best.error {
            best = candidate;
        } else {
            break;
        }
    }
    best
}

#[inline(always)]
fn integer_scales<const SUB: usize>(
    subs: &[[f32; SUB]],
    importance: impl Importance,
    d: f32,
    ideal: &[f32; SUBS_MAX],
    scale_limit: f32,
    snap: impl Fn(f32) -> f32 + Copy,
) -> Symmetric {
    let mut fitted = Symmetric { d, scales: [0; SUBS_MAX], error: 0.0 };
    for (j, x) in subs.iter().enumerate() {
        let nearest = round((ideal[j] * inverse(d)).clamp(-scale_limit, scale_limit - 1.0));
        let mut least = f32::INFINITY;
        for step in NEIGHBOURS {
            let scale = (nearest + step).clamp(-scale_limit, scale_limit - 1.0);
            let error = fit::scale_error(x, importance.run(j), d * scale, snap);
            if error < least {
                (fitted.scales[j], least) = (scale as i8, error);
            }
        }
        fitted.error += least;
    }
    fitted
}

/// Fits a super-block of levels `0..=HI` with a subtracted minimum; the integers lie in `0..=scale_max`.
#[inline(always)]
pub(super) fn fit_with_min<const SUB: usize, const HI: i32, const S: usize>(
    subs: &[[f32; SUB]],
    importance: impl Importance,
    scale_max: f32,
    insets: &[f32; S],
) -> WithMin {
    // The format can only subtract, and scales are positive.
    let store = |a: Affine| Affine { scale: a.scale.max(0.0), offset: a.offset.min(0.0) };
    let mut ideal = [Affine { scale: 0.0, offset: 0.0 }; SUBS_MAX];
    let (mut scale_peak, mut min_peak) = (0.0f32, 0.0f32);
    for (j, (ideal, x)) in ideal.iter_mut().zip(subs).enumerate() {
        let (low, high) = fit::range(x);
        let low = low.min(0.0);
        *ideal = fit::search_affine::<SUB, HI, S>(x, importance.run(j), (low, high.max(low)), insets, store);
        scale_peak = scale_peak.max(ideal.scale);
        min_peak = min_peak.max(-ideal.offset);
    }
    let (d, dmin) = (round_to_f16(scale_peak / scale_max), round_to_f16(min_peak / scale_max));
    let mut best = integer_scales_and_mins::<SUB, HI>(subs, importance, (d, dmin), &ideal, scale_max);
    for _ in 0..ROUNDS {
        for (j, ideal) in ideal.iter_mut().enumerate() {
            *ideal = best.affine(j);
        }
        let (d, dmin) = least_squares::<SUB, HI>(subs, importance, &best);
        let candidate = integer_scales_and_mins::<SUB, HI>(subs, importance, (d, dmin), &ideal, scale_max);
        if candidate.error < best.error {
            best = candidate;
        } else {
            break;
        }
    }
    best
}

/// The best `d` and `dmin` for the present levels and integers, never negative.
#[inline(always)]
fn least_squares<const SUB: usize, const HI: i32>(
    subs: &[[f32; SUB]],
    importance: impl Importance,
    fitted: &WithMin,
) -> (f32, f32) {
    // Normal equations of x ~ d * (s * level) + dmin * (-m), summed over the sub-blocks.
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for (j, x) in subs.iter().enumerate() {
        let affine = fitted.affine(j);
        let (s, m) = (f32::from(fitted.scales[j]), f32::from(fitted.mins[j]));
        let [weight, level, square, residual, product] =
            fit::affine_moments::<SUB, HI>(x, importance.run(j), affine);
        let (sum_x, sum_x_level) = (residual + affine.offset * weight, product + affine.offset * level);
        aa += s * s * square;
        ab -= s * m * level;
        bb += m * m * weight;
        ax += s * sum_x_level;
        bx -= m * sum_x;
    }
    let determinant = aa * bb - ab * ab;
    if determinant <= 0.0 {
        return (round_to_f16((ax * inverse(aa)).max(0.0)), fitted.dmin);
    }
    let d = (ax * bb - bx * ab) / determinant;
    let dmin = (bx * aa - ax * ab) / determinant;
    (round_to_f16(d.max(0.0)), round_to_f16(dmin.max(0.0)))
}

#[inline(always)]
fn integer_scales_and_mins<const SUB: usize, const HI: i32>(
    subs: &[[f32; SUB]],
    importance: impl Importance,
    (d, dmin): (f32, f32),
    ideal: &[Affine; SUBS_MAX],
    scale_max: f32,
) -> WithMin {
    let mut fitted = WithMin { d, dmin, scales: [0; SUBS_MAX], mins: [0; SUBS_MAX], error: 0.0 };
    for (j, x) in subs.iter().enumerate() {
        let nearest_scale = round((ideal[j].scale * inverse(d)).clamp(0.0, scale_max));
        let nearest_min = round((-ideal[j].offset * inverse(dmin)).clamp(0.0, scale_max));
        let mut least = f32::INFINITY;
        for scale_step in NEIGHBOURS {
            for min_step in NEIGHBOURS {
                let scale = (nearest_scale + scale_step).clamp(0.0, scale_max);
                let min = (nearest_min + min_step).clamp(0.0, scale_max);
                let affine = Affine { scale: d * scale, offset: -(dmin * min) };
                let error = fit::affine_error::<SUB, HI>(x, importance.run(j), affine);
                if error < least {
                    (fitted.scales[j], fitted.mins[j], least) = (scale as u8, min as u8, error);
                }
            }
        }
        fitted.error += least;
    }
    fitted
}
