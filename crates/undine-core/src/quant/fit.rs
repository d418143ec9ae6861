//! Choosing scales: small searches that minimise the squared error of one block.
//!
//! Without activation statistics every value counts the same ([`Even`]): the plain squared error of a weight
//! row is the expected squared error of its product with white-noise input. With them each value's squared
//! error is weighted by the mean square of its input column. The searches walk a short list of candidate
//! scales, score each by the true error of the values it would decode to, and finish with least-squares steps
//! that are kept only when they help. So the scale of one block is never worse than its first candidate,
//! round-to-nearest over the full range; for the two-level formats that is measured, not guaranteed.
//!
//! A *level* is a value a code can stand for before scaling, as f32: -8..=7 for Q4_0, the codebook for
//! IQ4_NL. `snap` maps a scaled value to its nearest level; it must accept any float.

/// Independent sums per loop, so that they need no reassociation to be vectorised.
const LANES: usize = 8;
/// 1.5 * 2^23: adding it leaves the rounded integer in the low mantissa bits.
pub(super) const ROUND: f32 = 12_582_912.0;
/// Largest finite f16.
const F16_MAX: f32 = 65504.0;
/// Smallest normal f16; below it f16 values are multiples of 2^-24.
const F16_MIN_NORMAL: f32 = 6.103_515_6e-5;
/// Least-squares steps after the candidate search.
const REFINE_STEPS: usize = 1;

/// How much the squared error of each of `N` values counts.
pub(super) trait Weights<const N: usize>: Copy {
    /// Those of values `LANES * chunk ..`.
    fn lanes(self, chunk: usize) -> [f32; LANES];
}

/// How much the squared error of each value of a block counts.
pub(super) trait Importance: Copy {
    /// Those of the `j`-th run of `N` values.
    fn run<const N: usize>(self, j: usize) -> impl Weights<N>;
}

/// Every value counts the same.
#[derive(Clone, Copy)]
pub(super) struct Even;

impl<const N: usize> Weights<N> for Even {
    #[inline(always)]
    fn lanes(self, _: usize) -> [f32; LANES] {
        [1.0; LANES]
    }
}

impl Importance for Even {
    #[inline(always)]
    fn run<const N: usize>(self, _: usize) -> impl Weights<N> {
        self
    }
}

impl<const N: usize> Weights<N> for &[f32; N] {
    #[inline(always)]
    fn lanes(self, chunk: usize) -> [f32; LANES] {
        self.as_chunks().0[chunk]
    }
}

/// One number for each value of the block.
impl Importance for &[f32] {
    #[inline(always)]
    fn run<const N: usize>(self, j: usize) -> impl Weights<N> {
        &self.as_chunks::<N>().0[j]
    }
}

/// `scale * level + offset`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Affine {
    pub scale: f32,
    pub offset: f32,
}

/// Rounds to the nearest integer, ties to even; `|v|` up to 2^22. Unlike `f32::round` it vectorises on every
/// CPU.
#[inline(always)]
pub(super) fn round(v: f32) -> f32 {
    (v + ROUND) - ROUND
}

/// `f` of every value, one byte each.
#[inline(always)]
pub(super) fn codes<const N: usize>(x: &[f32; N], f: impl Fn(f32) -> u8) -> [u8; N] {
    // A loop, because `array::map` is not reliably inlined.
    let mut codes = [0; N];
    for (code, &v) in codes.iter_mut().zip(x) {
        *code = f(v);
    }
    codes
}

/// The nearest integer level in `LO..=HI`.
#[inline(always)]
pub(super) fn linear<const LO: i32, const HI: i32>(v: f32) -> f32 {
    round(v.clamp(LO as f32, HI as f32))
}

/// An integer level as its two's complement byte.
#[inline(always)]
pub(super) fn level_byte(level: f32) -> u8 {
    (level + ROUND).to_bits() as u8
}

/// `1 / d`, or 0 where that would overflow: a scale this small decodes to nothing.
#[inline(always)]
pub(super) fn inverse(d: f32) -> f32 {
    if d.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / d }
}

/// The f16 nearest to `v` as f32, saturating at the largest finite f16.
#[inline(always)]
pub(super) fn round_to_f16(v: f32) -> f32 {
    let magnitude = v.abs().min(F16_MAX);
    let rounded = if magnitude < F16_MIN_NORMAL {
        (magnitude + 0.5) - 0.5
    } else {
        let bits = magnitude.to_bits();
        // 13 mantissa bits are dropped, ties to even.
        f32::from_bits((bits + 0xfff + ((bits >> 13) & 1)) & !0x1fff)
    };
    rounded.copysign(v)
}

/// `sum over i of f(x[i], weight of i)`, each `f` giving `K` terms.
#[inline(always)]
fn sums<const N: usize, const K: usize>(
    x: &[f32; N],
    weights: impl Weights<N>,
    f: impl Fn(f32, f32) -> [f32; K],
) -> [f32; K] {
    const { assert!(N.is_multiple_of(LANES)) };
    let mut lanes = [[0.0f32; LANES]; K];
    for (number, chunk) in x.as_chunks::<LANES>().0.iter().enumerate() {
        let weights = weights.lanes(number);
        for lane in 0..LANES {
            let terms = f(chunk[lane], weights[lane]);
            for k in 0..K {
                lanes[k][lane] += terms[k];
            }
        }
    }
    let mut totals = [0.0; K];
    for (total, lanes) in totals.iter_mut().zip(lanes) {
        // One after the other: adding halves makes LLVM vectorise the whole loop two lanes wide.
        *total = lanes.iter().sum();
    }
    totals
}

/// Combines the lanes pairwise, which is a shorter chain than one after the other.
#[inline(always)]
fn fold_lanes(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn range<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    // Comparisons written out: `f32::min` would also order NaN, which cannot occur here and does not
    // vectorise.
    let (smaller, larger) =
        (|a: f32, b: f32| if a < b { a } else { b }, |a: f32, b: f32| if a > b { a } else { b });
    let (chunks, _) = x.as_chunks::<LANES>();
    let (mut low, mut high) = (chunks[0], chunks[0]);
    for chunk in &chunks[1..] {
        low = std::array::from_fn(|lane| smaller(low[lane], chunk[lane]));
        high = std::array::from_fn(|lane| larger(high[lane], chunk[lane]));
    }
    (fold_lanes(low, smaller), fold_lanes(high, larger))
}

/// Weighted squared error of `x` coded as levels times `d`.
#[inline(always)]
pub(super) fn scale_error<const N: usize>(
    x: &[f32; N],
    weights: impl Weights<N>,
    d: f32,
    snap: impl Fn(f32) -> f32,
) -> f32 {
    let inverse = inverse(d);
    let [error] = sums(x, weights, |v, w| {
        let e = v - d * snap(v * inverse);
        [w * (e * e)]
    });
    error
}

/// With the levels that `d` selects, weighted: `[sum x * level, sum level^2]`. Their quotient is the best
/// scale for those levels.
#[inline(always)]
pub(super) fn scale_moments<const N: usize>(
    x: &[f32; N],
    weights: impl Weights<N>,
    d: f32,
    snap: impl Fn(f32) -> f32,
) -> [f32; 2] {
    let inverse = inverse(d);
    sums(x, weights, |v, w| {
        let level = snap(v * inverse);
        [w * (v * level), w * (level * level)]
    })
}

/// Searches the scale of one block: the value of largest magnitude is tried at each level of `peaks`
/// (fractional levels clip or stretch). `store` rounds a scale to what the format can hold.
#[inline(always)]
pub(super) fn search_scale<const N: usize, const P: usize>(
    x: &[f32; N],
    weights: impl Weights<N>,
    peaks: &[f32; P],
    snap: impl Fn(f32) -> f32 + Copy,
    store: impl Fn(f32) -> f32,
) -> f32 {
    let (low, high) = range(x);
    let peak = if -low > high { low } else { high };
    if peak == 0.0 {
        return 0.0;
    }
    // All errors first: comparing in between would make every candidate wait for a mispredicted branch.
    let (mut candidates, mut errors) = ([0.0; P], [0.0; P]);
    for ((d, error), level) in candidates.iter_mut().zip(&mut errors).zip(peaks) {
        *d = store(peak / level);
        *error = scale_error(x, weights, *d, snap);
    }
    let (mut best, mut best_error) = (candidates[0], errors[0]);
    for (d, error) in candidates.into_iter().zip(errors) {
        if error < best_error {
            (best, best_error) = (d, error);
        }
    }
    for _ in 0..REFINE_STEPS {
        let [product, square] = scale_moments(x, weights, best, snap);
        let d = store(product * inverse(square));
        let error = scale_error(x, weights, d, snap);
        if error < best_error {
            (best, best_error) = (d, error);
        } else {
            break;
        }
    }
    best
}

/// Weighted squared error of `x` coded as `affine` of the levels `0..=HI`.
#[inline(always)]
pub(super) fn affine_error<const N: usize, const HI: i32>(
    x: &[f32; N],
    weights: impl Weights<N>,
    affine: Affine,
) -> f32 {
    let inverse = inverse(affine.scale);
    let [error] = sums(x, weights, |v, w| {
        let v = v - affine.offset;
        let e = v - affine.scale * linear::<0, HI>(v * inverse);
        [w * (e * e)]
    });
    error
}

/// With the levels that `affine` selects and `r = x - offset`, weighted:
/// `[sum 1, sum level, sum level^2, sum r, sum r * level]`.
#[inline(always)]
pub(super) fn affine_moments<const N: usize, const HI: i32>(
    x: &[f32; N],
    weights: impl Weights<N>,
    affine: Affine,
) -> [f32; 5] {
    let inverse = inverse(affine.scale);
    sums(x, weights, |v, w| {
        let r = v - affine.offset;
        let level = linear::<0, HI>(r * inverse);
        [w, w * level, w * (level * level), w * r, w * (r * level)]
    })
}

/// The least-squares scale and offset for the levels that `affine` selects, or `affine` if all levels are
/// equal.
#[inline(always)]
fn affine_least_squares<const N: usize, const HI: i32>(
    x: &[f32; N],
    weights: impl Weights<N>,
    affine: Affine,
) -> Affine {
    let [weight, level, square, residual, product] = affine_moments::<N, HI>(x, weights, affine);
    let determinant = weight * square - level * level;
    if determinant <= 0.0 {
        return affine;
    }
    let scale = (weight * product - level * residual) / determinant;
    Affine { scale, offset: affine.offset + (residual - scale * level) / weight }
}

/// Searches scale and offset of one block. `low` and `high`, the ends of its range, are tried at every pair
/// of levels `inset` and `HI - inset` (negative insets clip, the first is 0); `store` moves a candidate to
/// what the format can hold.
#[inline(always)]
pub(super) fn search_affine<const N: usize, const HI: i32, const S: usize>(
    x: &[f32; N],
    weights: impl Weights<N>,
    (low, high): (f32, f32),
    insets: &[f32; S],
    store: impl Fn(Affine) -> Affine,
) -> Affine {
    let mut tried = [[(Affine { scale: 0.0, offset: low }, 0.0); S]; S];
    for (tried, below) in tried.iter_mut().zip(insets) {
        for ((candidate, error), above) in tried.iter_mut().zip(insets) {
            let scale = (high - low) / (HI as f32 - below - above);
            *candidate = store(Affine { scale, offset: low - below * scale });
            *error = affine_error::<N, HI>(x, weights, *candidate);
        }
    }
    // A step that is a power of two smaller than the range keeps zeros among few distinct values exact.
    let even = store(Affine { scale: (high - low) / ((HI + 1) / 2) as f32, offset: low });
    let even_error = affine_error::<N, HI>(x, weights, even);
    let (mut best, mut best_error) = tried[0][0];
    for &(candidate, error) in tried.as_flattened().iter().chain(&[(even, even_error)]) {
        if error < best_error {
            (best, best_error) = (candidate, error);
        }
    }
    for _ in 0..REFINE_STEPS {
        let candidate = store(affine_least_squares::<N, HI>(x, weights, best));
        let error = affine_error::<N, HI>(x, weights, candidate);
        if error < best_error {
            (best, best_error) = (candidate, error);
        } else {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn round_to_f16_agrees_with_half() {
        for step in 0..2_000_000u32 {
            let v = f32::from_bits(step.wrapping_mul(2_147_001_325));
            if v.is_finite() && v.abs() < 65520.0 {
                assert_eq!(round_to_f16(v).to_bits(), f16::from_f32(v).to_f32().to_bits(), "{v:e}");
            }
        }
        assert_eq!(round_to_f16(-1e30), -F16_MAX);
    }

    #[test]
    fn levels_round_to_nearest_and_saturate() {
        for (v, level, byte) in
            [(-9.3, -8.0, 0xf8), (-0.6, -1.0, 0xff), (0.5, 0.0, 0), (6.51, 7.0, 7), (1e30, 7.0, 7)]
        {
            assert_eq!(linear::<-8, 7>(v), level);
            assert_eq!(level_byte(level), byte);
        }
    }

    #[test]
    fn search_recovers_an_exact_scale() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.125 * ((i as i32 * 5) % 14 - 7) as f32);
        let d = search_scale(&x, Even, &[-8.0, 7.0], linear::<-8, 7>, round_to_f16);
        assert_eq!(scale_error(&x, Even, d, linear::<-8, 7>), 0.0);
        let x: [f32; 32] = std::array::from_fn(|i| 3.0 + 0.125 * (i * 5 % 16) as f32);
        let affine = search_affine::<32, 15, 1>(&x, Even, range(&x), &[0.0], |affine| affine);
        assert_eq!(affine, Affine { scale: 0.125, offset: 3.0 });
    }
}
