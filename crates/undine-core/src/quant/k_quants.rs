//! The K-quants: 256 values in sub-blocks whose integer scales share one or two f16.
//!
//! Bytes of a super-block (little endian; `d`, `dmin` are f16; `s`, `m` are the integers of the value's
//! sub-block):
//!
//! | format | bytes | fields | sub-blocks | value |
//! |---|---|---|---|---|
//! | Q2_K | 84 | `scales` 0..16, `qs` 16..80, `d` 80..82, `dmin` 82..84 | 16 of 16 | `(d * s) * q - (dmin * m)` |
//! | Q3_K | 110 | `hmask` 0..32, `qs` 32..96, `scales` 96..108, `d` 108..110 | 16 of 16 | `(d * s) * (q - 4)` |
//! | Q4_K | 144 | `d` 0..2, `dmin` 2..4, `scales` 4..16, `qs` 16..144 | 8 of 32 | `(d * s) * q - (dmin * m)` |
//! | Q5_K | 176 | `d` 0..2, `dmin` 2..4, `scales` 4..16, `qh` 16..48, `qs` 48..176 | 8 of 32 | as Q4_K |
//! | Q6_K | 210 | `ql` 0..128, `qh` 128..192, `scales` 192..208 (i8), `d` 208..210 | 16 of 16 | `(d * s) * (q - 32)` |
//!
//! Where the bits of value `v` are (`/` is integer division):
//! - Q2_K `scales`: one byte per sub-block, `s` low nibble, `m` high nibble.
//! - Q2_K and Q3_K `qs`, bits 0-1: two groups of 32 bytes, 128 values each; value `32 p + i` of a group in
//!   bits `2 p ..` of byte `i`.
//! - Q3_K `hmask`, bit 2: bit `v / 32` of byte `v % 32`. Q3_K `scales`: see [`unpack_scales_q3`].
//! - Q4_K and Q5_K `qs`, bits 0-3: four groups of 32 bytes, 64 values each, first 32 in the low nibbles.
//!   `scales`: see [`unpack_scales_6bit`]. Q5_K `qh`, bit 4: bit `v / 32` of byte `v % 32`.
//! - Q6_K `ql`, bits 0-3: two groups of 64 bytes, 128 values each, first 64 in the low nibbles; `qh`, bits
//!   4-5: two groups of 32 bytes laid out as `qs` of Q2_K.

use super::fit::{self, Importance, linear};
use super::planes::{pack, unpack};
use super::scales::{
    pack_scales_6bit, pack_scales_q3, read_f16, unpack_scales_6bit, unpack_scales_q3, write_f16,
};
use super::two_level::{self, WithMin};
use super::{Aim, BlockFormat};
use crate::dtype::QK_K;

/// Candidate positions of the ends of a sub-block's range; see [`fit::search_affine`].
const Q2_K_INSETS: [f32; 4] = [0.0, -0.22, -0.53, -0.96];
const Q4_K_INSETS: [f32; 4] = [0.0, -0.31, -0.65, -1.0];
const Q5_K_INSETS: [f32; 3] = [0.0, -0.32, -0.65];
/// Candidate positions of a sub-block's largest value; see [`fit::search_scale`]. The positive power of two
/// is early because the first of equal candidates wins, and its step is the one an f16 can hold exactly.
const Q3_K_PEAKS: [f32; 8] = [-4.0, 2.0, -5.0, -4.5, -3.5, 3.5, 3.0, 2.5];
const Q6_K_PEAKS: [f32; 10] = [-32.0, 16.0, -32.5, -31.5, 31.0, 30.0, 29.0, 28.0, 27.0, 26.0];

/// `(d * scale) * (code - bias)` for every sub-block of `SUB` values.
#[inline(always)]
fn scaled<const SUB: usize>(d: f32, scales: &[i8; 16], bias: i32, codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
    let subs = out.as_chunks_mut::<SUB>().0.iter_mut().zip(codes.as_chunks::<SUB>().0);
    for ((out, codes), &scale) in subs.zip(scales) {
        let d = d * f32::from(scale);
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = d * (i32::from(code) - bias) as f32;
        }
    }
}

/// `(d * scale) * code - (dmin * min)` for every sub-block of `SUB` values.
#[inline(always)]
fn scaled_less_min<const SUB: usize>(
    (d, dmin): (f32, f32),
    scales_and_mins: impl Iterator<Item = (u8, u8)>,
    codes: &[u8; QK_K],
    out: &mut [f32; QK_K],
) {
    let subs = out.as_chunks_mut::<SUB>().0.iter_mut().zip(codes.as_chunks::<SUB>().0);
    for ((out, codes), (scale, min)) in subs.zip(scales_and_mins) {
        let (d, m) = (d * f32::from(scale), dmin * f32::from(min));
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = d * f32::from(code) - m;
        }
    }
}

/// The integer levels nearest to `x` under the scales of its sub-blocks, `LO` added.
#[inline(always)]
fn codes_symmetric<const LO: i32, const HI: i32>(
    subs: &[[f32; 16]],
    fitted: &two_level::Symmetric,
) -> [u8; QK_K] {
    let mut codes = [0; QK_K];
    for (j, (codes, x)) in codes.as_chunks_mut::<16>().0.iter_mut().zip(subs).enumerate() {
        let inverse = fit::inverse(fitted.d * f32::from(fitted.scales[j]));
        *codes = fit::codes(x, |v| fit::level_byte(linear::<LO, HI>(v * inverse) - LO as f32));
    }
    codes
}

#[inline(always)]
fn codes_with_min<const SUB: usize, const HI: i32>(subs: &[[f32; SUB]], fitted: &WithMin) -> [u8; QK_K] {
    let mut codes = [0; QK_K];
    for (j, (codes, x)) in codes.as_chunks_mut::<SUB>().0.iter_mut().zip(subs).enumerate() {
        let affine = fitted.affine(j);
        let inverse = fit::inverse(affine.scale);
        *codes = fit::codes(x, |v| fit::level_byte(linear::<0, HI>((v - affine.offset) * inverse)));
    }
    codes
}

/// Writes the 16 bytes that Q4_K and Q5_K begin with.
#[inline(always)]
fn write_header_6bit(fitted: &WithMin, block: &mut [u8]) {
    let (scales, _) = fitted.scales.split_first_chunk().expect("16 scales");
    let (mins, _) = fitted.mins.split_first_chunk().expect("16 mins");
    write_f16(block, 0, fitted.d);
    write_f16(block, 2, fitted.dmin);
    block[4..16].copy_from_slice(&pack_scales_6bit(scales, mins));
}

/// Decodes with the 16 bytes that Q4_K and Q5_K begin with.
#[inline(always)]
fn decode_header_6bit(block: &[u8], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
    let (scales, mins) = unpack_scales_6bit(block[4..16].first_chunk().expect("12 bytes"));
    let scales_and_mins = scales.into_iter().zip(mins);
    scaled_less_min::<32>((read_f16(block, 0), read_f16(block, 2)), scales_and_mins, codes, out);
}

pub(super) struct Q2K;

impl BlockFormat<84, QK_K> for Q2K {
    const CODE_MAX: u8 = 3;
    const AIM: Aim = Aim::LargeValues;

    fn codes(block: &[u8; 84]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<2, 32>(&block[16..80], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 84]) {
        pack::<2, 32>(codes, 0, &mut block[16..80]);
    }

    fn values(block: &[u8; 84], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        let scales_and_mins = block[..16].iter().map(|byte| (byte & 15, byte >> 4));
        scaled_less_min::<16>((read_f16(block, 80), read_f16(block, 82)), scales_and_mins, codes, out);
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 84]) {
        let subs = x.as_chunks::<16>().0;
        let fitted = two_level::fit_with_min::<16, 3, _>(subs, importance, 15.0, &Q2_K_INSETS);
        for (j, byte) in block[..16].iter_mut().enumerate() {
            *byte = fitted.scales[j] | (fitted.mins[j] << 4);
        }
        write_f16(block, 80, fitted.d);
        write_f16(block, 82, fitted.dmin);
        Self::set_codes(&codes_with_min::<16, 3>(subs, &fitted), block);
    }
}

pub(super) struct Q3K;

impl BlockFormat<110, QK_K> for Q3K {
    const CODE_MAX: u8 = 7;
    const AIM: Aim = Aim::LargeValues;

    fn codes(block: &[u8; 110]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<1, 32>(&block[..32], 2, &mut codes);
        unpack::<2, 32>(&block[32..96], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 110]) {
        pack::<1, 32>(codes, 2, &mut block[..32]);
        pack::<2, 32>(codes, 0, &mut block[32..96]);
    }

    fn values(block: &[u8; 110], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        let scales = unpack_scales_q3(block[96..108].first_chunk().expect("12 bytes"));
        scaled::<16>(read_f16(block, 108), &scales, 4, codes, out);
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 110]) {
        let subs = x.as_chunks::<16>().0;
        let fitted = two_level::fit_symmetric(subs, importance, 32.0, &Q3_K_PEAKS, linear::<-4, 3>);
        block[96..108].copy_from_slice(&pack_scales_q3(&fitted.scales));
        write_f16(block, 108, fitted.d);
        Self::set_codes(&codes_symmetric::<-4, 3>(subs, &fitted), block);
    }
}

pub(super) struct Q4K;

impl BlockFormat<144, QK_K> for Q4K {
    const CODE_MAX: u8 = 15;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 144]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<4, 32>(&block[16..], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 144]) {
        pack::<4, 32>(codes, 0, &mut block[16..]);
    }

    fn values(block: &[u8; 144], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        decode_header_6bit(block, codes, out);
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 144]) {
        let subs = x.as_chunks::<32>().0;
        let fitted = two_level::fit_with_min::<32, 15, _>(subs, importance, 63.0, &Q4_K_INSETS);
        write_header_6bit(&fitted, block);
        Self::set_codes(&codes_with_min::<32, 15>(subs, &fitted), block);
    }
}

pub(super) struct Q5K;

impl BlockFormat<176, QK_K> for Q5K {
    const CODE_MAX: u8 = 31;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 176]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<1, 32>(&block[16..48], 4, &mut codes);
        unpack::<4, 32>(&block[48..], 0, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 176]) {
        pack::<1, 32>(codes, 4, &mut block[16..48]);
        pack::<4, 32>(codes, 0, &mut block[48..]);
    }

    fn values(block: &[u8; 176], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        decode_header_6bit(block, codes, out);
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 176]) {
        let subs = x.as_chunks::<32>().0;
        let fitted = two_level::fit_with_min::<32, 31, _>(subs, importance, 63.0, &Q5_K_INSETS);
        write_header_6bit(&fitted, block);
        Self::set_codes(&codes_with_min::<32, 31>(subs, &fitted), block);
    }
}

pub(super) struct Q6K;

impl BlockFormat<210, QK_K> for Q6K {
    const CODE_MAX: u8 = 63;
    const AIM: Aim = Aim::Squares;

    fn codes(block: &[u8; 210]) -> [u8; QK_K] {
        let mut codes = [0; QK_K];
        unpack::<4, 64>(&block[..128], 0, &mut codes);
        unpack::<2, 32>(&block[128..192], 4, &mut codes);
        codes
    }

    fn set_codes(codes: &[u8; QK_K], block: &mut [u8; 210]) {
        pack::<4, 64>(codes, 0, &mut block[..128]);
        pack::<2, 32>(codes, 4, &mut block[128..192]);
    }

    fn values(block: &[u8; 210], codes: &[u8; QK_K], out: &mut [f32; QK_K]) {
        let scales = std::array::from_fn(|j| block[192 + j] as i8);
        scaled::<16>(read_f16(block, 208), &scales, 32, codes, out);
    }

    fn encode(x: &[f32; QK_K], importance: impl Importance, block: &mut [u8; 210]) {
        let subs = x.as_chunks::<16>().0;
        let fitted = two_level::fit_symmetric(subs, importance, 128.0, &Q6_K_PEAKS, linear::<-32, 31>);
        block[192..208].copy_from_slice(&fitted.scales.map(|scale| scale as u8));
        write_f16(block, 208, fitted.d);
        Self::set_codes(&codes_symmetric::<-32, 31>(subs, &fitted), block);
    }
}
