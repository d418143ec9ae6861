//! Random weights at the speed of the disk: the blocks of a type are random bytes with a scale that gives the values
//! the wanted spread; nothing is encoded.

use half::f16;
use undine_core::{DType, quant};

/// Blocks decoded to measure how far the values of a type spread at scale 1.
const CALIBRATION_BLOCKS: usize = 512;
/// Seed of the calibration: the scale of a type must not depend on the file's seed.
const CALIBRATION_SEED: u64 = 1;

/// Makes blocks of one type whose values have mean about 0 and a given root mean square.
pub struct BlockSource {
    dtype: DType,
    /// The scale of a block; its sign is random where the format allows.
    scale: f32,
}

impl BlockSource {
    /// Blocks of `dtype` with values of root mean square `deviation`.
    pub fn new(dtype: DType, deviation: f32) -> Self {
        let unit = Self { dtype, scale: 1.0 };
        let mut bytes = vec![0; CALIBRATION_BLOCKS * dtype.block_bytes()];
        unit.fill(&mut fastrand::Rng::with_seed(CALIBRATION_SEED), &mut bytes);
        let mut values = vec![0.0; CALIBRATION_BLOCKS * dtype.block_elems()];
        quant::decode(dtype, &bytes, &mut values);
        let mean_square =
            values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / values.len() as f64;
        Self { dtype, scale: deviation / mean_square.sqrt() as f32 }
    }

    /// Fills `bytes`, a whole number of blocks.
    pub fn fill(&self, random: &mut fastrand::Rng, bytes: &mut [u8]) {
        random.fill(bytes);
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
            _ => blocks.for_each(|block| self.mend(block)),
        }
    }

    /// A value spread evenly around 0, from 16 random bits.
    fn uniform(&self, bits: u32) -> f32 {
        (bits as f32 + 0.5 - 32768.0) / 32768.0 * self.scale
    }

    /// Turns random bytes into a sane block: real scales, and minima that put the middle of the range at 0.
    fn mend(&self, block: &mut [u8]) {
        let sign = if block[0] & 1 == 0 { 1.0 } else { -1.0 };
        let scale = f16::from_f32(self.scale).to_f32();
        match self.dtype {
            DType::Q4_0 | DType::Q5_0 | DType::IQ4_NL | DType::IQ4_XS | DType::IQ3_S | DType::IQ2_XXS => {
                put_f16(block, 0, sign * scale)
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
}

/// Makes the eight packed 6-bit minima of a Q4_K or Q5_K block equal to its scales. Bytes 0..4 and 4..8 hold the low
/// four of each with the top bits of the high four; bytes 8..12 hold a nibble of both.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_type_have_the_wanted_spread_and_no_bias() {
        for &dtype in DType::ALL {
            let deviation = 1.0 / 2048_f32.sqrt();
            let source = BlockSource::new(dtype, deviation);
            let blocks = 65536 / dtype.block_elems();
            let mut bytes = vec![0; blocks * dtype.block_bytes()];
            source.fill(&mut fastrand::Rng::with_seed(7), &mut bytes);
            let mut values = vec![0.0; blocks * dtype.block_elems()];
            quant::decode(dtype, &bytes, &mut values);
            let count = values.len() as f32;
            let mean = values.iter().sum::<f32>() / count;
            let spread = (values.iter().map(|value| value * value).sum::<f32>() / count).sqrt();
            assert!((spread / deviation - 1.0).abs() < 0.05, "{dtype}: {spread} for {deviation}");
            assert!(mean.abs() < 0.05 * deviation, "{dtype}: mean {mean}");
        }
    }
}
