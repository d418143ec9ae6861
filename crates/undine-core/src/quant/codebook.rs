//! The codebook formats: a code stands for the magnitudes of several values together, signs are apart.
//!
//! Bytes of a block of 256 values (little endian; `d` is f16):
//!
//! | format | bytes | fields | value |
//! |---|---|---|---|
//! | IQ3_S | 110 | `d` 0..2, `qs` 2..66, `qh` 66..74, `signs` 74..106, `scales` 106..110 | `(d * (1 + 2 s)) * point` |
//! | IQ2_XXS | 66 | `d` 0..2, then for every 32 values 4 bytes of codes and a 32-bit word | `((d * (0.5 + s)) / 4) * point` |
//!
//! A point of IQ3_S is four levels of 1, 3 .. 15; code `g` has 9 bits: byte `g` of `qs`, and bit `g % 8` of
//! `qh[g / 8]`. `signs` has a bit for each value, 1 for minus. `scales` has 4 bits for every 32 values, low
//! ones first. A point of IQ2_XXS is eight levels of 8, 25, 43. Of its words bits 28-31 are the scale, and
//! seven bits for each point are signs: that of the eighth value is such that the number of minuses is even.

use std::sync::LazyLock;

use super::fit::{self, Importance, Weights, inverse, round_to_f16};
use super::points;
use super::scales::{read_f16, write_f16};
use crate::dtype::{QK, QK_K};

/// Blocks of 32 values, which have a scale each.
const SUBS: usize = QK_K / QK;
/// Largest integer of a scale.
const SCALE_MAX: f32 = 15.0;
/// Rounds of re-fitting `d` and then the integers.
const ROUNDS: usize = 2;
/// Integers tried around the nearest one.
const NEIGHBOURS: [f32; 3] = [0.0, -1.0, 1.0];

const IQ3_S_LEVELS: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const IQ2_XXS_LEVELS: [f32; 3] = [8.0, 25.0, 43.0];
/// Where the largest magnitude may sit.
const IQ3_S_PEAKS: [f32; 10] = [15.0, 12.0, 12.75, 13.5, 14.25, 15.75, 16.5, 17.25, 18.0, 19.0];
const IQ2_XXS_PEAKS: [f32; 12] = [43.0, 33.0, 36.0, 38.0, 40.0, 41.5, 44.5, 46.0, 48.0, 51.0, 55.0, 60.0];

/// Points of `D` levels.
struct Codebook<const D: usize> {
    levels: &'static [f32],
    points: Vec<[f32; D]>,
    /// The nearest point of each combination of levels, the first level lowest.
    nearest: Vec<u16>,
}

static IQ3_S: LazyLock<Codebook<4>> = LazyLock::new(|| Codebook::new(&IQ3_S_LEVELS, &points::IQ3_S, 3));
static IQ2_XXS: LazyLock<Codebook<8>> = LazyLock::new(|| Codebook::new(&IQ2_XXS_LEVELS, &points::IQ2_XXS, 2));

impl<const D: usize> Codebook<D> {
    fn new(levels: &'static [f32], packed: &[u16], bits: usize) -> Self {
        let level = |code: u16, i: usize| levels[usize::from(code >> (bits * i)) % (1 << bits)];
        let points: Vec<[f32; D]> =
            packed.iter().map(|&code| std::array::from_fn(|i| level(code, i))).collect();
        let mut book = Self { levels, points, nearest: Vec::new() };
        let combination = |mut number: usize| -> [f32; D] {
            std::array::from_fn(|_| {
                let level = levels[number % levels.len()];
                number /= levels.len();
                level
            })
        };
        let count = levels.len().pow(D as u32);
        book.nearest = (0..count).map(|number| book.best(&combination(number), &[1.0; D]) as u16).collect();
        book
    }

    /// The point of least weighted distance, by looking at all of them.
    fn best(&self, v: &[f32; D], weights: &[f32; D]) -> usize {
        let (mut best, mut least) = (0, f32::INFINITY);
        for (number, point) in self.points.iter().enumerate() {
            let mut distance = 0.0;
            for i in 0..D {
                let e = v[i] - point[i];
                distance += weights[i] * (e * e);
            }
            if distance < least {
                (best, least) = (number, distance);
            }
        }
        best
    }

    /// A near point: that of the nearest level of each value.
    #[inline(always)]
    fn near(&self, v: &[f32; D]) -> usize {
        let (mut number, mut place) = (0, 1);
        for x in v {
            let above = self.levels.windows(2).filter(|pair| *x > 0.5 * (pair[0] + pair[1])).count();
            number += place * above;
            place *= self.levels.len();
        }
        self.nearest[number].into()
    }

    /// With near points under a scale, weighted: `[error, sum x * level, sum level^2]`.
    #[inline(always)]
    fn moments(&self, x: &[f32; QK], weights: &[f32; QK], scale: f32) -> [f32; 3] {
        let inverse = inverse(scale);
        let mut moments = [0.0; 3];
        for (x, weights) in x.as_chunks::<D>().0.iter().zip(weights.as_chunks::<D>().0) {
            let point = &self.points[self.near(&x.map(|v| v * inverse))];
            for i in 0..D {
                let e = x[i] - scale * point[i];
                moments[0] += weights[i] * (e * e);
                moments[1] += weights[i] * (x[i] * point[i]);
                moments[2] += weights[i] * (point[i] * point[i]);
            }
        }
        moments
    }

    /// Searches the scale of 32 values.
    fn search(&self, x: &[f32; QK], weights: &[f32; QK], peaks: &[f32]) -> f32 {
        let (_, peak) = fit::range(x);
        if peak <= 0.0 {
            return 0.0;
        }
        // Only points of the lowest level have all values equal.
        let is_flat = x.iter().all(|v| 2.0 * v.abs() > peak);
        let flat = is_flat.then_some(&self.levels[0]);
        let (mut best, mut least) = (0.0, f32::INFINITY);
        for level in peaks.iter().chain(flat) {
            let tried = peak / level;
            let [error, product, square] = self.moments(x, weights, tried);
            let refined = (product * inverse(square)).max(0.0);
            let [refined_error, ..] = self.moments(x, weights, refined);
            let (scale, error) =
                if refined_error < error { (refined, refined_error) } else { (tried, error) };
            if error < least {
                (best, least) = (scale, error);
            }
        }
        best
    }

    /// Fits `d` and the integers: `d * factor(s)` is the scale of each 32 values, `factor` being `unit *
    /// (offset + s)`.
    fn fit(&self, x: &[[f32; QK]], weights: &[[f32; QK]], peaks: &[f32], [unit, offset]: [f32; 2]) -> Fitted {
        let factor = |integer: f32| unit * (offset + integer);
        let mut ideal = [0.0; SUBS];
        for (j, ideal) in ideal.iter_mut().enumerate() {
            *ideal = self.search(&x[j], &weights[j], peaks);
        }
        let peak = ideal.iter().fold(0.0f32, |peak, &scale| peak.max(scale));
        let mut d = round_to_f16(peak / factor(SCALE_MAX));
        let mut best = Fitted { d: 0.0, integers: [0; SUBS], error: f32::INFINITY };
        for _ in 0..=ROUNDS {
            let mut fitted = Fitted { d, integers: [0; SUBS], error: 0.0 };
            let (mut product, mut square) = (0.0, 0.0);
            for j in 0..SUBS {
                let nearest = fit::round((ideal[j] * inverse(d * unit) - offset).clamp(0.0, SCALE_MAX));
                let mut least = [f32::INFINITY, 0.0, 0.0];
                for step in NEIGHBOURS {
                    let integer = (nearest + step).clamp(0.0, SCALE_MAX);
                    let moments = self.moments(&x[j], &weights[j], d * factor(integer));
                    if moments[0] < least[0] {
                        (fitted.integers[j], least) = (integer as u8, moments);
                    }
                }
                let factor = factor(f32::from(fitted.integers[j]));
                fitted.error += least[0];
                product += least[1] * factor;
                square += least[2] * factor * factor;
            }
            if fitted.error < best.error {
                best = fitted;
            }
            d = round_to_f16((product * inverse(square)).max(0.0));
        }
        best
    }
}

/// Scales of a block.
struct Fitted {
    d: f32,
    integers: [u8; SUBS],
    error: f32,
}

/// Importances of every value of a block.
fn all_weights(importance: impl Importance) -> [[f32; QK]; SUBS] {
    std::array::from_fn(|j| {
        let run = importance.run::<QK>(j);
        let mut weights = [0.0; QK];
        for (chunk, weights) in weights.as_chunks_mut().0.iter_mut().enumerate() {
            *weights = run.lanes(chunk);
        }
        weights
    })
}

/// Bit `i` for a minus.
fn sign_bits<const D: usize>(x: &[f32; D]) -> u8 {
    x.iter().enumerate().fold(0, |bits, (i, v)| bits | (u8::from(*v < 0.0) << i))
}

/// A format in which a code stands for `D` values, under scales in the block; groups are counted through the
/// block.
pub(super) trait GroupFormat<const BYTES: usize, const D: usize> {
    /// Chooses scales and codes of finite values.
    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; BYTES]);

    /// All values of a block.
    fn decode(block: &[u8; BYTES], out: &mut [f32; QK_K]);

    /// Gives a group the code and signs of least weighted distance from `target`, and returns what they stand
    /// for.
    fn set_group(block: &mut [u8; BYTES], group: usize, target: &[f32; D], weights: &[f32; D]) -> [f32; D];
}

/// The 32 values of sub-block `sub` of an IQ3_S block, before scaling.
#[inline(always)]
pub fn iq3_s_values(block: &[u8; 110], sub: usize) -> [i8; QK] {
    let mut values = [0; QK];
    for (k, values) in values.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let high = usize::from(block[66 + sub] >> k) & 1;
        let point = points::IQ3_S[usize::from(block[2 + 8 * sub + k]) | (high << 8)];
        let signs = block[74 + 4 * sub + k / 2] >> (4 * (k % 2));
        for (i, value) in values.iter_mut().enumerate() {
            let magnitude = 2 * ((point >> (3 * i)) & 7) as i8 + 1;
            *value = if (signs >> i) & 1 == 1 { -magnitude } else { magnitude };
        }
    }
    values
}

/// The scale of a sub-block of IQ3_S.
#[inline(always)]
fn iq3_s_scale(block: &[u8; 110], sub: usize) -> f32 {
    let scale = (block[106 + sub / 2] >> (4 * (sub % 2))) & 15;
    read_f16(block, 0) * f32::from(1 + 2 * scale)
}

pub(super) struct Iq3S;

impl GroupFormat<110, 4> for Iq3S {
    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 110]) {
        let weights = all_weights(importance);
        let magnitudes = x.map(f32::abs);
        let fitted = IQ3_S.fit(magnitudes.as_chunks().0, &weights, &IQ3_S_PEAKS, [2.0, 0.5]);
        block.fill(0);
        write_f16(block, 0, fitted.d);
        for (j, integer) in fitted.integers.into_iter().enumerate() {
            block[106 + j / 2] |= integer << (4 * (j % 2));
        }
        let groups = x.as_chunks::<4>().0.iter().zip(weights.as_flattened().as_chunks::<4>().0);
        for (group, (x, weights)) in groups.enumerate() {
            Self::set_group(block, group, x, weights);
        }
    }

    fn decode(block: &[u8; 110], out: &mut [f32; QK_K]) {
        for (sub, out) in out.as_chunks_mut::<QK>().0.iter_mut().enumerate() {
            let d = iq3_s_scale(block, sub);
            *out = iq3_s_values(block, sub).map(|value| d * f32::from(value));
        }
    }

    fn set_group(block: &mut [u8; 110], group: usize, target: &[f32; 4], weights: &[f32; 4]) -> [f32; 4] {
        let (sub, k) = (group / 8, group % 8);
        let (scale, signs) = (iq3_s_scale(block, sub), sign_bits(target));
        let inverse = inverse(scale);
        let code = IQ3_S.best(&target.map(|v| v.abs() * inverse), weights);
        block[2 + group] = code as u8;
        block[66 + sub] = (block[66 + sub] & !(1 << k)) | (((code >> 8) as u8) << k);
        let (byte, shift) = (74 + group / 2, 4 * (group % 2));
        block[byte] = (block[byte] & !(15 << shift)) | (signs << shift);
        signed(&IQ3_S.points[code], signs, scale)
    }
}

/// Levels with signs under a scale.
#[inline(always)]
fn signed<const D: usize>(point: &[f32; D], signs: u8, scale: f32) -> [f32; D] {
    std::array::from_fn(|i| if (signs >> i) & 1 == 1 { -(scale * point[i]) } else { scale * point[i] })
}

/// The sign bits of seven values with that of the eighth, which makes the number of minuses even.
#[inline(always)]
pub(super) fn with_parity(bits: u8) -> u8 {
    bits | (((bits.count_ones() & 1) as u8) << 7)
}

/// The 32 values of sub-block `sub` of an IQ2_XXS block, before scaling.
#[inline(always)]
pub fn iq2_xxs_values(block: &[u8; 66], sub: usize) -> [i8; QK] {
    let bytes = &block[2..].as_chunks::<8>().0[sub];
    let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let mut values = [0; QK];
    for (k, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let point = points::IQ2_XXS[usize::from(bytes[k])];
        let signs = with_parity((word >> (7 * k)) as u8 & 127);
        for (i, value) in values.iter_mut().enumerate() {
            let magnitude = [8, 25, 43, 43][usize::from(point >> (2 * i)) & 3];
            *value = if (signs >> i) & 1 == 1 { -magnitude } else { magnitude };
        }
    }
    values
}

/// The scale of a sub-block of IQ2_XXS.
#[inline(always)]
fn iq2_xxs_scale(block: &[u8; 66], sub: usize) -> f32 {
    read_f16(block, 0) * (0.5 + f32::from(block[2 + 8 * sub + 7] >> 4)) * 0.25
}

/// An even number of minuses, and what of the values is left to be coded without them: one value gets the
/// wrong sign if need be, that where it matters least.
fn even_signs(x: &[f32; 8], weights: &[f32; 8]) -> (u8, [f32; 8]) {
    let (mut signs, mut magnitudes) = (sign_bits(x), x.map(f32::abs));
    if signs.count_ones() % 2 == 1 {
        let cost = |i: &usize| weights[*i] * x[*i] * x[*i];
        let least = (0..8).min_by(|a, b| cost(a).total_cmp(&cost(b))).expect("there are eight");
        signs ^= 1 << least;
        magnitudes[least] = -magnitudes[least];
    }
    (signs, magnitudes)
}

pub(super) struct Iq2Xxs;

impl GroupFormat<66, 8> for Iq2Xxs {
    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 66]) {
        let weights = all_weights(importance);
        let mut magnitudes = [0.0; QK_K];
        let groups = || x.as_chunks::<8>().0.iter().zip(weights.as_flattened().as_chunks::<8>().0);
        for ((x, weights), magnitudes) in groups().zip(magnitudes.as_chunks_mut::<8>().0) {
            *magnitudes = even_signs(x, weights).1;
        }
        let fitted = IQ2_XXS.fit(magnitudes.as_chunks().0, &weights, &IQ2_XXS_PEAKS, [0.25, 0.5]);
        block.fill(0);
        write_f16(block, 0, fitted.d);
        for (j, integer) in fitted.integers.into_iter().enumerate() {
            block[2 + 8 * j + 7] = integer << 4;
        }
        for (group, (x, weights)) in groups().enumerate() {
            Self::set_group(block, group, x, weights);
        }
    }

    fn decode(block: &[u8; 66], out: &mut [f32; QK_K]) {
        for (sub, out) in out.as_chunks_mut::<QK>().0.iter_mut().enumerate() {
            let d = iq2_xxs_scale(block, sub);
            *out = iq2_xxs_values(block, sub).map(|value| d * f32::from(value));
        }
    }

    fn set_group(block: &mut [u8; 66], group: usize, target: &[f32; 8], weights: &[f32; 8]) -> [f32; 8] {
        let (sub, k) = (group / 4, group % 4);
        let scale = iq2_xxs_scale(block, sub);
        let (signs, magnitudes) = even_signs(target, weights);
        let inverse = inverse(scale);
        let code = IQ2_XXS.best(&magnitudes.map(|v| v * inverse), weights);
        let bytes = &mut block[2..].as_chunks_mut::<8>().0[sub];
        bytes[k] = code as u8;
        let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let word = (word & !(127 << (7 * k))) | (u32::from(signs & 127) << (7 * k));
        bytes[4..].copy_from_slice(&word.to_le_bytes());
        signed(&IQ2_XXS.points[code], signs, scale)
    }
}
