//! Formats that are read and not written: a group of 256 values becomes small integers and a scale for every
//! 16 of them.
//!
//! Bytes of a block (little endian; `d` is f16):
//!
//! | format | values | bytes | fields | value |
//! |---|---|---|---|---|
//! | TQ1_0 | 256 | 54 | `qs` 0..48, `qh` 48..52, `d` 52..54 | `d * (t - 1)` |
//! | TQ2_0 | 256 | 66 | `qs` 0..64, `d` 64..66 | `d * (q - 1)` |
//! | MXFP4 | 32 | 17 | `e` 0, `qs` 1..17 | `2^(e - 128) * level[q]` |
//! | NVFP4 | 64 | 36 | `d8` 0..4, `qs` 4..36 | `d8 / 2 * level[q]` |
//!
//! TQ1_0 keeps five base-3 digits in a byte, as a fixed-point fraction: multiplied by 3^n modulo 256, and
//! then by 3, it gives digit `n` above the byte. Digits of the first 32 bytes are 32 values apart, those of
//! the next 16 bytes 16, the four of `qh` 4. TQ2_0: two bits for each value, those of a byte 32 values apart.
//! The levels of FP4 are [`FP4_VALUES`], twice what E2M1 says; MXFP4 stores values as Q4_0 does, NVFP4 has 8
//! bytes for every 16 values, with eight low nibbles first, and for each 16 a scale `d8` in E4M3 without a
//! sign. What the codebook formats look like is said in [`super::codebook_read`].

use super::scales::read_f16;
use crate::dtype::{DType, QK, QK_K};

/// Values under one scale.
const RUN: usize = 16;
/// Scales of a group.
pub const GROUP_SCALES: usize = QK_K / RUN;

/// A format whose blocks can be seen as bytes with exact f32 scales: a value is `scale * byte`.
pub trait Expanded: Copy + Send + Sync + 'static {
    /// Which.
    const DTYPE: DType;
    /// Whether the two halves of 32 values have scales of their own.
    const HALVES: bool;
    /// Bytes of 256 values.
    const GROUP_BYTES: usize = QK_K / Self::DTYPE.block_elems() * Self::DTYPE.block_bytes();

    /// The 32 values of part `sub` of a group, before scaling; none is -128.
    fn values(group: &[u8], sub: usize) -> [i8; QK];

    /// The scale of every 16 values.
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES];
}

/// Decodes whole blocks.
pub(super) fn decode<F: Expanded>(blocks: &[u8], out: &mut [f32]) {
    let mut last = vec![0; F::GROUP_BYTES];
    for (bytes, out) in blocks.chunks(F::GROUP_BYTES).zip(out.chunks_mut(QK_K)) {
        last[..bytes.len()].copy_from_slice(bytes);
        let scales = F::scales(&last);
        for (sub, out) in out.chunks_mut(QK).enumerate() {
            let values = F::values(&last, sub);
            for (i, (out, value)) in out.iter_mut().zip(values).enumerate() {
                *out = scales[2 * sub + i / RUN] * f32::from(value);
            }
        }
    }
}

/// Scales that are `unit` times odd integers of four bits, two in a byte.
#[inline(always)]
pub(super) fn odd_nibble_scales(packed: &[u8], unit: f32) -> [f32; GROUP_SCALES] {
    let mut scales = [0.0; GROUP_SCALES];
    for (k, scale) in scales.iter_mut().enumerate() {
        *scale = unit * f32::from(1 + 2 * ((packed[k / 2] >> (4 * (k % 2))) & 15));
    }
    scales
}

/// `TQ1_0`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct TQ1_0;

const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];
/// Values of TQ1_0 whose digits lie 32 apart, and those up to which they lie 16 apart.
const WIDE_DIGITS: usize = 160;
const MIDDLE_DIGITS: usize = 240;

impl Expanded for TQ1_0 {
    const DTYPE: DType = DType::TQ1_0;
    const HALVES: bool = false;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        for (i, value) in (sub * QK..).zip(&mut values) {
            let (byte, digit) = match i {
                ..WIDE_DIGITS => (i % 32, i / 32),
                WIDE_DIGITS..MIDDLE_DIGITS => (32 + i % 16, (i - WIDE_DIGITS) / 16),
                _ => (48 + i % 4, (i - MIDDLE_DIGITS) / 4),
            };
            let fraction = group[byte].wrapping_mul(POWERS_OF_3[digit]);
            *value = ((u16::from(fraction) * 3) >> 8) as i8 - 1;
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        [read_f16(group, 52); GROUP_SCALES]
    }
}

/// `TQ2_0`.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy)]
pub struct TQ2_0;

impl Expanded for TQ2_0 {
    const DTYPE: DType = DType::TQ2_0;
    const HALVES: bool = false;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        for (value, byte) in values.iter_mut().zip(&group[sub / 4 * 32..]) {
            *value = ((byte >> (2 * (sub % 4))) & 3) as i8 - 1;
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        [read_f16(group, 64); GROUP_SCALES]
    }
}

/// The levels of FP4, times two (`kvalues_mxfp4` in ggml).
pub const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `MXFP4`.
#[derive(Clone, Copy)]
pub struct MXFP4;

/// Half of the power of two that a byte of E8M0 stands for. Its NaN is taken as the number it would be, as
/// others do.
#[inline(always)]
pub fn e8m0_half(byte: u8) -> f32 {
    let bits = match byte {
        ..2 => 0x0020_0000 << byte,
        _ => u32::from(byte - 1) << 23,
    };
    f32::from_bits(bits)
}

impl Expanded for MXFP4 {
    const DTYPE: DType = DType::MXFP4;
    const HALVES: bool = false;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        let (low, high) = values.split_at_mut(QK / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&group[sub * 17 + 1..]) {
            *low = FP4_VALUES[usize::from(byte & 15)];
            *high = FP4_VALUES[usize::from(byte >> 4)];
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        let mut scales = [0.0; GROUP_SCALES];
        for (k, scale) in scales.iter_mut().enumerate() {
            *scale = e8m0_half(group[k / 2 * 17]);
        }
        scales
    }
}

/// `NVFP4`.
#[derive(Clone, Copy)]
pub struct NVFP4;

/// Half of what a byte of E4M3 without sign stands for; 0 for its NaN, as others have it.
#[inline(always)]
pub fn ue4m3_half(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3) & 15, u32::from(byte & 7));
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        // Units of 2^-9, halved.
        (_, 0) => mantissa as f32 * f32::from_bits((127 - 10) << 23),
        _ => f32::from_bits(((exponent + 127 - 8) << 23) | (mantissa << 20)),
    }
}

impl Expanded for NVFP4 {
    const DTYPE: DType = DType::NVFP4;
    const HALVES: bool = true;

    #[inline(always)]
    fn values(group: &[u8], sub: usize) -> [i8; QK] {
        let mut values = [0; QK];
        let bytes = &group[sub / 2 * 36 + 4 + sub % 2 * 16..];
        for (values, bytes) in values.as_chunks_mut::<16>().0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            for (i, byte) in bytes.iter().enumerate() {
                values[i] = FP4_VALUES[usize::from(byte & 15)];
                values[8 + i] = FP4_VALUES[usize::from(byte >> 4)];
            }
        }
        values
    }

    #[inline(always)]
    fn scales(group: &[u8]) -> [f32; GROUP_SCALES] {
        let mut scales = [0.0; GROUP_SCALES];
        for (k, scale) in scales.iter_mut().enumerate() {
            *scale = ue4m3_half(group[k / 4 * 36 + k % 4]);
        }
        scales
    }
}
