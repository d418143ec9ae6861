//! The codebook formats: 4-bit codes index sixteen fixed levels that are denser around zero.
//!
//! Bytes of a block (little endian; `d` is f16, `level` is [`IQ4_VALUES`]):
//!
//! | format | bytes | fields | value |
//! |---|---|---|---|
//! | IQ4_NL | 18 | `d` 0..2, `qs` 2..18 | `d * level[q]` |
//! | IQ4_XS | 136 | `d` 0..2, `scales_h` 2..4, `scales_l` 4..8, `qs` 8..136 | `(d * s) * level[q]` |
//!
//! `qs`: 16 bytes for every 32 values, the first 16 in the low nibbles. IQ4_XS has a signed 6-bit scale `s`
//! for every 32 values, bits 0-3 in `scales_l` and bits 4-5 in `scales_h`, stored with 32 added.

use super::fit::{self, Importance, round_to_f16};
use super::planes::{pack, unpack};
use super::scales::{pack_scales_iq4, read_f16, unpack_scales_iq4, write_f16};
use super::two_level;
use super::{Aim, BlockFormat};
use crate::dtype::{QK, QK_K};

/// The levels of IQ4_NL and IQ4_XS, ascending (`kvalues_iq4nl` in ggml).
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Where the largest value may sit: the outer levels, and fractions that clip or stretch.
const PEAKS: [f32; 13] =
    [-127.0, -140.0, -133.0, -120.0, -113.0, 113.0, -104.0, 89.0, -83.0, 69.0, -65.0, 53.0, -49.0];

/// Half-unit bins over -128..128. All midpoints between levels are multiples of one half, so a bin has one
/// nearest level.
const BINS: usize = 512;
static NEAREST_CODE: [u8; BINS] = nearest_codes();
static NEAREST_LEVEL: [f32; BINS] = nearest_levels();

const fn nearest_codes() -> [u8; BINS] {
    let mut codes = [0; BINS];
    let mut bin = 0;
    while bin < BINS {
        // Quarter units, where the centre of a bin is an integer.
        let centre = 2 * bin as i32 + 1 - BINS as i32;
        let mut code = 1;
        while code < IQ4_VALUES.len() {
            let here = (4 * IQ4_VALUES[code] as i32 - centre).abs();
            let best = (4 * IQ4_VALUES[codes[bin] as usize] as i32 - centre).abs();
            if here < best {
                codes[bin] = code as u8;
            }
            code += 1;
        }
        bin += 1;
    }
    codes
}

const fn nearest_levels() -> [f32; BINS] {
    let codes = nearest_codes();
    let mut levels = [0.0; BINS];
    let mut bin = 0;
    while bin < BINS {
        levels[bin] = IQ4_VALUES[codes[bin] as usize] as f32;
        bin += 1;
    }
    levels
}

#[inline(always)]
fn bin(v: f32) -> usize {
    // The low mantissa bits of the sum hold 2 v + 256, rounded down.
    let shifted = 2.0 * v.clamp(-127.0, 113.0) + (BINS as f32 / 2.0 - 0.5);
    (shifted + fit::ROUND).to_bits() as usize % BINS
}

#[inline(always)]
fn snap(v: f32) -> f32 {
    NEAREST_LEVEL[bin(v)]
}

#[inline(always)]
fn levels(d: f32, codes: &[u8], out: &mut [f32]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = d * f32::from(IQ4_VALUES[usize::from(code & 15)]);
    }
}

#[inline(always)]
fn codes(x: &[f32; QK], d: f32) -> [u8; QK] {
    let inverse = fit::inverse(d);
    fit::codes(x, |v| NEAREST_CODE[bin(v * inverse)])
}

pub(super) struct Iq4Nl;

impl BlockFormat<18, QK> for Iq4Nl {
    const CODE_MAX: u8 = 15;
    const AIM: Aim = Aim::LargeValues;

    fn codes(block: &[u8; 18]) -> [u8; QK] {
        let mut codes = [0; QK];
        unpack::<4, 16>(&block[2..], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK], block: &mut [u8; 18]) {
        pack::<4, 16>(codes, 0, &mut block[2..]);
    }

    fn values(block: &[u8; 18], codes: &[u8; QK], out: &mut [f32; QK]) {
        levels(read_f16(block, 0), codes, out);
    }

    fn encode(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 18]) {
        let d = fit::search_scale(x, importance.run(0), &PEAKS, snap, round_to_f16);
        write_f16(block, 0, d);
        Self::set_codes(&codes(x, d), block);
    }
}

pub(super) struct Iq4Xs;

impl BlockFormat<136, QK_K> for Iq4Xs {
    const CODE_MAX: u8 = 15;
    const AIM: Aim = Aim::LargeValues;

    fn codes(block: &[u8; 136]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<4, 16>(&block[8..], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 136]) {
        pack::<4, 16>(codes, 0, &mut block[8..]);
    }

    fn values(block: &[u8; 136], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        let d = read_f16(block, 0);
        let scales = unpack_scales_iq4(&block[2..4], &block[4..8]);
        for ((out, codes), scale) in out.chunks_exact_mut(QK).zip(codes.chunks_exact(QK)).zip(scales) {
            levels(d * f32::from(scale), codes, out);
        }
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 136]) {
        let subs = x.as_chunks::<QK>().0;
        let fitted = two_level::fit_symmetric(subs, importance, 32.0, &PEAKS, snap);
        let (scales, _) = fitted.scales.split_first_chunk().expect("16 scales");
        let (high, low) = pack_scales_iq4(scales);
        write_f16(block, 0, fitted.d);
        block[2..4].copy_from_slice(&high);
        block[4..8].copy_from_slice(&low);
        let mut all = [0; QK_K];
        for ((x, into), scale) in subs.iter().zip(all.as_chunks_mut().0).zip(scales) {
            *into = codes(x, fitted.d * f32::from(*scale));
        }
        Self::set_codes(&all, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snap_finds_the_nearest_level() {
        for step in -1400..1400 {
            let v = step as f32 * 0.1 + 0.03;
            let nearest =
                IQ4_VALUES.map(f32::from).into_iter().min_by(|a, b| (a - v).abs().total_cmp(&(b - v).abs()));
            assert_eq!(Some(snap(v)), nearest, "{v}");
            assert_eq!(f32::from(IQ4_VALUES[usize::from(NEAREST_CODE[bin(v)])]), snap(v));
        }
    }
}
