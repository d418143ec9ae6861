//! The simple formats: 32 values under one f16 scale, with or without an offset.
//!
//! Bytes of a block (little endian; `d`, `m` are f16):
//!
//! | format | bytes | fields | value |
//! |---|---|---|---|
//! | Q4_0 | 18 | `d` 0..2, `qs` 2..18 | `d * (q - 8)` |
//! | Q4_1 | 20 | `d` 0..2, `m` 2..4, `qs` 4..20 | `d * q + m` |
//! | Q5_0 | 22 | `d` 0..2, `qh` 2..6, `qs` 6..22 | `d * (q - 16)` |
//! | Q5_1 | 24 | `d` 0..2, `m` 2..4, `qh` 4..8, `qs` 8..24 | `d * q + m` |
//! | Q8_0 | 34 | `d` 0..2, `qs` 2..34 (i8) | `d * q` |
//!
//! `qs` of the 4- and 5-bit formats: byte `i` holds bits 0-3 of value `i` (low nibble) and of value `i + 16`
//! (high). `qh`: bit `i` of the 32-bit word is bit 4 of value `i`.

use super::fit::{self, Affine, Importance, linear, round_to_f16};
use super::planes::{pack, unpack};
use super::scales::{read_f16, write_f16};
use super::{Aim, BlockFormat};
use crate::dtype::QK;

/// Where the largest value may sit. -8 uses the full range; 7 to 4 let every block of exact multiples be
/// found again (smaller peaks are the same grid with half the scale); the fractions trade clipping against
/// step width.
const Q4_PEAKS: [f32; 8] = [-8.0, -9.0, -8.5, -7.5, 7.0, 6.0, 5.0, 4.0];
/// As [`Q4_PEAKS`], for levels -16..=15.
const Q5_PEAKS: [f32; 11] = [-16.0, -16.5, -15.5, 15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0];
/// 64 keeps blocks of few distinct powers of two exact (constant or ternary weights).
const Q8_PEAKS: [f32; 2] = [127.0, 64.0];
/// Where the ends of the range may sit, counted inwards from the outer levels. 1 finds blocks again that
/// leave an outer level unused.
const AFFINE_INSETS: [f32; 4] = [0.0, -0.35, -0.7, 1.0];

#[inline(always)]
fn scaled(d: f32, bias: i32, codes: &[u8; QK], out: &mut [f32; QK]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = d * (i32::from(code) - bias) as f32;
    }
}

#[inline(always)]
fn scaled_and_moved(d: f32, m: f32, codes: &[u8; QK], out: &mut [f32; QK]) {
    for (out, &code) in out.iter_mut().zip(codes) {
        *out = d * f32::from(code) + m;
    }
}

#[inline(always)]
fn codes_symmetric<const LO: i32, const HI: i32>(x: &[f32; QK], d: f32) -> [u8; QK] {
    let inverse = fit::inverse(d);
    fit::codes(x, |v| fit::level_byte(linear::<LO, HI>(v * inverse) - LO as f32))
}

#[inline(always)]
fn fit_affine<const HI: i32>(x: &[f32; QK], importance: impl Importance) -> (Affine, [u8; QK]) {
    let store = |a: Affine| Affine { scale: round_to_f16(a.scale), offset: round_to_f16(a.offset) };
    let affine = fit::search_affine::<QK, HI, _>(x, importance.run(0), fit::range(x), &AFFINE_INSETS, store);
    let inverse = fit::inverse(affine.scale);
    (affine, fit::codes(x, |v| fit::level_byte(linear::<0, HI>((v - affine.offset) * inverse))))
}

/// 4-bit codes from byte `at` on.
#[inline(always)]
fn nibbles(block: &[u8], at: usize) -> [u8; QK] {
    let mut codes = [0; QK];
    unpack::<4, 16>(&block[at..], 0, &mut codes);
    codes
}

/// 5-bit codes: bit 4 in the four bytes from `at` on, the others behind them.
#[inline(always)]
fn five_bits(block: &[u8], at: usize) -> [u8; QK] {
    let mut codes = nibbles(block, at + 4);
    unpack::<1, 1>(&block[at..at + 4], 4, &mut codes);
    codes
}

/// Inverse of [`five_bits`].
#[inline(always)]
fn set_five_bits(codes: &[u8; QK], at: usize, block: &mut [u8]) {
    pack::<1, 1>(codes, 4, &mut block[at..at + 4]);
    pack::<4, 16>(codes, 0, &mut block[at + 4..]);
}

/// Writes scale and offset.
#[inline(always)]
fn write_affine(affine: Affine, block: &mut [u8]) {
    write_f16(block, 0, affine.scale);
    write_f16(block, 2, affine.offset);
}

pub(super) struct Q4_0;

impl BlockFormat<18, QK> for Q4_0 {
    const CODE_MAX: u8 = 15;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 18]) -> [u8; QK] {
        nibbles(block, 2)
    }

    fn set_codes(codes: &[u8; QK], block: &mut [u8; 18]) {
        pack::<4, 16>(codes, 0, &mut block[2..]);
    }

    fn values(block: &[u8; 18], codes: &[u8; QK], out: &mut [f32; QK]) {
        scaled(read_f16(block, 0), 8, codes, out);
    }

    fn encode(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 18]) {
        let d = fit::search_scale(x, importance.run(0), &Q4_PEAKS, linear::<-8, 7>, round_to_f16);
        write_f16(block, 0, d);
        Self::set_codes(&codes_symmetric::<-8, 7>(x, d), block);
    }
}

pub(super) struct Q4_1;

impl BlockFormat<20, QK> for Q4_1 {
    const CODE_MAX: u8 = 15;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 20]) -> [u8; QK] {
        nibbles(block, 4)
    }

    fn set_codes(codes: &[u8; QK], block: &mut [u8; 20]) {
        pack::<4, 16>(codes, 0, &mut block[4..]);
    }

    fn values(block: &[u8; 20], codes: &[u8; QK], out: &mut [f32; QK]) {
        scaled_and_moved(read_f16(block, 0), read_f16(block, 2), codes, out);
    }

    fn encode(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 20]) {
        let (affine, codes) = fit_affine::<15>(x, importance);
        write_affine(affine, block);
        Self::set_codes(&codes, block);
    }
}

pub(super) struct Q5_0;

impl BlockFormat<22, QK> for Q5_0 {
    const CODE_MAX: u8 = 31;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 22]) -> [u8; QK] {
        five_bits(block, 2)
    }

    fn set_codes(codes: &[u8; QK], block: &mut [u8; 22]) {
        set_five_bits(codes, 2, block);
    }

    fn values(block: &[u8; 22], codes: &[u8; QK], out: &mut [f32; QK]) {
        scaled(read_f16(block, 0), 16, codes, out);
    }

    fn encode(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 22]) {
        let d = fit::search_scale(x, importance.run(0), &Q5_PEAKS, linear::<-16, 15>, round_to_f16);
        write_f16(block, 0, d);
        Self::set_codes(&codes_symmetric::<-16, 15>(x, d), block);
    }
}

pub(super) struct Q5_1;

impl BlockFormat<24, QK> for Q5_1 {
    const CODE_MAX: u8 = 31;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 24]) -> [u8; QK] {
        five_bits(block, 4)
    }

    fn set_codes(codes: &[u8; QK], block: &mut [u8; 24]) {
        set_five_bits(codes, 4, block);
    }

    fn values(block: &[u8; 24], codes: &[u8; QK], out: &mut [f32; QK]) {
        scaled_and_moved(read_f16(block, 0), read_f16(block, 2), codes, out);
    }

    fn encode(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 24]) {
        let (affine, codes) = fit_affine::<31>(x, importance);
        write_affine(affine, block);
        Self::set_codes(&codes, block);
    }
}

pub(super) fn decode_q8_0(block: &[u8; 34], out: &mut [f32; QK]) {
    let d = read_f16(block, 0);
    for (out, &code) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(code as i8);
    }
}

/// Codes stay in -127..=127 and the scale positive, as every other writer of the format has it.
pub(super) fn encode_q8_0(x: &[f32; QK], importance: impl Importance, block: &mut [u8; 34]) {
    let d = fit::search_scale(x, importance.run(0), &Q8_PEAKS, linear::<-127, 127>, round_to_f16).abs();
    let inverse = fit::inverse(d);
    write_f16(block, 0, d);
    for (code, &v) in block[2..].iter_mut().zip(x) {
        *code = fit::level_byte(linear::<-127, 127>(v * inverse));
    }
}
