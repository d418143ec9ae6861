//! The codebook formats that are read and not written.
//!
//! Bytes of a block of 256 values (little endian; `d` is f16):
//!
//! | format | bytes | fields | value |
//! |---|---|---|---|
//! | IQ2_XS | 74 | `d` 0..2, `qs` 2..66 (u16), `scales` 66..74 | `((d * (0.5 + s)) / 4) * point` |
//! | IQ2_S | 82 | `d` 0..2, `qs` 2..34, `signs` 34..66, `qh` 66..74, `scales` 74..82 | `((d * (0.5 + s)) / 4) * point` |
//! | IQ3_XXS | 98 | `d` 0..2, `qs` 2..66, `words` 66..98 (u32) | `((d * (0.5 + s)) / 2) * point` |
//! | IQ1_S | 50 | `d` 0..2, `qs` 2..34, `qh` 34..50 (u16) | `(d * (1 + 2 s)) * (point + delta)` |
//! | IQ1_M | 56 | `qs` 0..32, `qh` 32..48, `scales` 48..56 (u16) | `(d * (1 + 2 s)) * (point + delta)` |
//!
//! Points are eight levels, but for IQ3_XXS four. IQ2_XS has 9 bits of code and seven signs in each `qs`,
//! IQ2_S two more bits of each code in `qh` and eight signs; both a scale of 4 bits for every 16 values.
//! IQ3_XXS has a word for every 32 values, as IQ2_XXS does. Where there are seven signs, that of the eighth
//! value makes the number of minuses even. The points of IQ1 are of -1, 0 and 1, and `delta` is an eighth,
//! with a sign of its own: here both are counted in eighths. IQ1_S has 16 bits of `qh` for every 32 values:
//! three more bits of each code, then `s` in three bits, then the sign of `delta`. IQ1_M has a nibble of `qh`
//! for each code, three bits and the sign of `delta`; a `s` of three bits for every 16 values, four to a
//! word, whose top nibbles are `d` together.

use half::f16;

use super::codebook::with_parity;
use super::expanded::{Expanded, GROUP_SCALES, odd_nibble_scales};
use super::points;
use super::points_iq1::IQ1_S as IQ1_POINTS;
use super::scales::read_f16;
use crate::dtype::{DType, QK};

const IQ2_LEVELS: [i8; 4] = [8, 25, 43, 43];
const IQ3_XXS_LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

#[inline(always)]
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Eight levels of a point of IQ2, with signs.
#[inline(always)]
fn iq2_point(point: u16, signs: u8, values: &mut [i8; 8]) {
    for (i, value) in values.iter_mut().enumerate() {
        let magnitude = IQ2_LEVELS[usize::from(point >> (2 * i)) & 3];
        *value = if (signs >> i) & 1 == 1 { -magnitude } else { magnitude };
    }
}

/// Eight values of a point of IQ1 in eighths.
#[inline(always)]
fn iq1_point(code: usize, is_down: bool, values: &mut [i8; 8]) {
    let point = IQ1_POINTS[code];
    for (i, value) in values.iter_mut().enumerate() {
        *value = 8 * (((point >> (2 * i)) & 3) as i8 - 1) + if is_down { -1 } else { 1 };
    }
}

/// `IQ2_XS`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct IQ2_XS;

impl Expanded for IQ2_XS {
    const DTYPE: DType = DType::IQ2_XS;
    const HALVES: bool = true;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        for (k, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
            let code = read_u16(group, 2 + 2 * (4 * sub + k));
            iq2_point(points::IQ2_XS[usize::from(code & 511)], with_parity((code >> 9) as u8), values);
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        odd_nibble_scales(&group[66..], read_f16(group, 0) * 0.125)
    }
}

/// `IQ2_S`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct IQ2_S;

impl Expanded for IQ2_S {
    const DTYPE: DType = DType::IQ2_S;
    const HALVES: bool = true;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        for (k, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
            let high = usize::from(group[66 + sub] >> (2 * k)) & 3;
            let code = usize::from(group[2 + 4 * sub + k]) | (high << 8);
            iq2_point(points::IQ2_S[code], group[34 + 4 * sub + k], values);
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        odd_nibble_scales(&group[74..], read_f16(group, 0) * 0.125)
    }
}

/// `IQ3_XXS`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct IQ3_XXS;

/// Signs and scale of 32 values.
#[inline(always)]
fn iq3_xxs_word(group: &[u8], sub: usize) -> u32 {
    let at = 66 + 4 * sub;
    u32::from_le_bytes([group[at], group[at + 1], group[at + 2], group[at + 3]])
}

impl Expanded for IQ3_XXS {
    const DTYPE: DType = DType::IQ3_XXS;
    const HALVES: bool = false;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let (mut values, word) = ([0; QK], iq3_xxs_word(group, sub));
        for (k, values) in values.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let point = points::IQ3_XXS[usize::from(group[2 + 8 * sub + k])];
            let signs = with_parity((word >> (7 * (k / 2))) as u8 & 127) >> (4 * (k % 2));
            for (i, value) in values.iter_mut().enumerate() {
                let magnitude = IQ3_XXS_LEVELS[usize::from(point >> (3 * i)) & 7];
                *value = if (signs >> i) & 1 == 1 { -magnitude } else { magnitude };
            }
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        let (unit, mut scales) = (read_f16(group, 0) * 0.25, [0.0; GROUP_SCALES]);
        for (k, scale) in scales.iter_mut().enumerate() {
            *scale = unit * (1 + 2 * (iq3_xxs_word(group, k / 2) >> 28)) as f32;
        }
        scales
    }
}

/// `IQ1_S`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct IQ1_S;

impl Expanded for IQ1_S {
    const DTYPE: DType = DType::IQ1_S;
    const HALVES: bool = false;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let (mut values, word) = ([0; QK], read_u16(group, 34 + 2 * sub));
        for (k, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
            let high = usize::from(word >> (3 * k)) & 7;
            iq1_point(usize::from(group[2 + 4 * sub + k]) | (high << 8), word >> 15 == 1, values);
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        let (unit, mut scales) = (read_f16(group, 0) * 0.125, [0.0; GROUP_SCALES]);
        for (k, scale) in scales.iter_mut().enumerate() {
            *scale = unit * f32::from(1 + 2 * ((read_u16(group, 34 + 2 * (k / 2)) >> 12) & 7));
        }
        scales
    }
}

/// `IQ1_M`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct IQ1_M;

impl Expanded for IQ1_M {
    const DTYPE: DType = DType::IQ1_M;
    const HALVES: bool = true;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        for (k, values) in values.as_chunks_mut().0.iter_mut().enumerate() {
            let high = group[32 + 2 * sub + k / 2] >> (4 * (k % 2));
            let code = usize::from(group[4 * sub + k]) | (usize::from(high & 7) << 8);
            iq1_point(code, high & 8 != 0, values);
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        let (mut bits, mut scales) = (0, [0.0; GROUP_SCALES]);
        for j in 0..4 {
            bits |= read_u16(group, 48 + 2 * j) >> 12 << (4 * j);
        }
        let unit = f16::from_bits(bits).to_f32() * 0.125;
        for (k, scale) in scales.iter_mut().enumerate() {
            let word = read_u16(group, 48 + 2 * (k / 4));
            *scale = unit * f32::from(1 + 2 * ((word >> (3 * (k % 4))) & 7));
        }
        scales
    }
}
