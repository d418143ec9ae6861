//! Random weights at the speed of the disk: the blocks of a type are random bytes with a scale that gives the
//! values the wanted spread; nothing is encoded.

use undine_core::DType;
use undine_core::quant::RandomBlocks;

/// Seed of the calibration: the scale of a type must not depend on the file's seed.
const CALIBRATION_SEED: u64 = 1;

/// Makes blocks of one type whose values have mean about 0 and a given root mean square.
pub struct BlockSource(RandomBlocks);

impl BlockSource {
    /// Blocks of `dtype` with values of root mean square `deviation`.
    pub fn new(dtype: DType, deviation: f32) -> Self {
        let fill = |bytes: &mut [u8]| fastrand::Rng::with_seed(CALIBRATION_SEED).fill(bytes);
        Self(RandomBlocks::new(dtype, deviation, fill))
    }

    /// Fills `bytes`, a whole number of blocks.
    pub fn fill(&self, random: &mut fastrand::Rng, bytes: &mut [u8]) {
        random.fill(bytes);
        self.0.mend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use undine_core::quant;

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
