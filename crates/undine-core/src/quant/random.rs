//! Random blocks: bytes from anywhere, with scales that give the values a wanted spread. Nothing is encoded.

use half::f16;

use super::decode;
use super::expanded::{e8m0_half, ue4m3_half};
use crate::dtype::DType;

/// Blocks decoded to measure how far the values of a type spread at scale 1.
const CALIBRATION_BLOCKS: usize = 512;

/// Turns random bytes into blocks of one type whose values have mean about 0 and a given root mean square.
#[derive(Clone, Copy, Debug)]
pub struct RandomBlocks {
    dtype: DType,
    /// The scale of a block; its sign is random where the format allows.
    scale: f32,
}

impl RandomBlocks {
    /// Blocks of `dtype` with values of root mean square `deviation`; `fill` gives random bytes to measure
    /// with.
    pub fn new(dtype: DType, deviation: f32, fill: impl FnOnce(&mut [u8])) -> Self {
        let unit = Self { dtype, scale: 1.0 };
        let mut bytes = vec![0; CALIBRATION_BLOCKS * dtype.block_bytes()];
        fill(&mut bytes);
        unit.mend(&mut bytes);
        let mut values = vec![0.0; CALIBRATION_BLOCKS * dtype.block_elems()];
        decode(dtype, &bytes, &mut values);
        let mean_square =
            values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / values.len() as f64;
        Self { dtype, scale: deviation / mean_square.sqrt() as f32 }
    }

    /// Makes whole blocks of random bytes sane.
    pub fn mend(&self, bytes: &mut [u8]) {
        let blocks = bytes.chunks_exact_mut(self.dtype.block_bytes());
        match self.dtype {
            DType::F32 => blocks.for_each(|block| {
                let value = self.uniform(u32::from_le_bytes([block[0], block[1], block[2], block[3]]) >> 16);
                block.copy_from_slice(&value.to_le_bytes());
            }),
            DType::F16 => blocks.for_each(|block| {
                let value = self.uniform(u16::from_le_bytes([block[0], block[1]]).into());
                block.copy_from_slice(&f16::from_f32(value).to_le_bytes());
            }),
            DType::BF16 => blocks.for_each(|block| {
                let value = self.uniform(u16::from_le_bytes([block[0], block[1]]).into());
                block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }),
            _ => blocks.for_each(|block| self.mend_block(block)),
        }
    }

    /// A value spread evenly around 0, from 16 random bits.
    fn uniform(&self, bits: u32) -> f32 {
        (bits as f32 + 0.5 - 32768.0) / 32768.0 * self.scale
    }

    /// Turns random bytes into a sane block: real scales, and minima that put the middle of the range at 0.
    fn mend_block(&self, block: &mut [u8]) {
        let sign = if block[0] & 1 == 0 { 1.0 } else { -1.0 };
        let scale = f16::from_f32(self.scale).to_f32();
        match self.dtype {
            DType::Q4_0
            | DType::Q5_0
            | DType::IQ4_NL
            | DType::IQ4_XS
            | DType::IQ3_S
            | DType::IQ3_XXS
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ1_S => put_f16(block, 0, sign * scale),
            DType::IQ1_M => put_f16_in_nibbles(block, sign * scale),
            DType::TQ1_0 => put_f16(block, 52, sign * scale),
            DType::TQ2_0 => {
                // The fourth code would stand for 2.
                block[..64].iter_mut().for_each(|byte| *byte &= !((*byte & (*byte << 1)) & 0xaa));
                put_f16(block, 64, sign * scale);
            }
            DType::MXFP4 => block[0] = self.dithered(block[0], e8m0_half, 254),
            DType::NVFP4 => {
                block[..4].iter_mut().for_each(|byte| *byte = self.dithered(*byte, ue4m3_half, 0x7e));
            }
            DType::Q4_1 => put_scale_and_min(block, 0, scale, -7.5 * scale),
            DType::Q5_1 => put_scale_and_min(block, 0, scale, -15.5 * scale),
            DType::Q8_0 => {
                put_f16(block, 0, sign * scale);
                // Encoders never write -128, and kernels may rely on it.
                block[2..].iter_mut().filter(|byte| **byte == 0x80).for_each(|byte| *byte = 0x81);
            }
            DType::Q2_K => {
                // Scale and minimum share a byte; equal nibbles keep the block centred.
                block[..16].iter_mut().for_each(|byte| *byte = (*byte & 0x0f) * 0x11);
                put_scale_and_min(block, 80, scale, 1.5 * scale);
            }
            DType::Q3_K => put_f16(block, 108, sign * scale),
            DType::Q4_K => {
                equal_scales_and_minima(&mut block[4..16]);
                put_scale_and_min(block, 0, scale, 7.5 * scale);
            }
            DType::Q5_K => {
                equal_scales_and_minima(&mut block[4..16]);
                put_scale_and_min(block, 0, scale, 15.5 * scale);
            }
            DType::Q6_K => put_f16(block, 208, sign * scale),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("floats have no scale"),
        }
    }

    /// One of the two codes around the scale, so that the mean of their squares is its square: scales of few
    /// bits are far apart.
    fn dithered(&self, random: u8, value: impl Fn(u8) -> f32, last: u8) -> u8 {
        let below = (0..last).rev().find(|&code| value(code) <= self.scale).unwrap_or(0);
        let square = |v: f32| f64::from(v).powi(2);
        let (low, high) = (square(value(below)), square(value(below + 1)));
        let share = (square(self.scale) - low) / (high - low);
        below + u8::from(f64::from(random) + 0.5 < 256.0 * share)
    }
}

/// Makes the eight packed 6-bit minima of a Q4_K or Q5_K block equal to its scales. Bytes 0..4 and 4..8 hold
/// the low four of each with the top bits of the high four; bytes 8..12 hold a nibble of both.
fn equal_scales_and_minima(packed: &mut [u8]) {
    packed.copy_within(0..4, 4);
    packed[8..].iter_mut().for_each(|byte| *byte = (*byte & 0x0f) * 0x11);
}

fn put_f16(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

fn put_scale_and_min(block: &mut [u8], at: usize, scale: f32, min: f32) {
    put_f16(block, at, scale);
    put_f16(block, at + 2, min);
}

/// The scale of IQ1_M: a nibble at the top of each of the last four words.
fn put_f16_in_nibbles(block: &mut [u8], value: f32) {
    let bits = f16::from_f32(value).to_bits();
    for j in 0..4 {
        let high = &mut block[49 + 2 * j];
        *high = (*high & 15) | ((bits >> (4 * j)) as u8 & 15) << 4;
    }
}
