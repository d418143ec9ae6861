//! Block formats: layouts and scalar codecs of every [`DType`].
//!
//! These are the slow twins of the SIMD kernels and the writers of synthetic models. Layouts are those of the
//! public GGUF/ggml format; each file describes its blocks byte by byte. Decoding is f32 arithmetic in the
//! written order, without fused multiply-add, so every implementation of it can agree to the bit.
//!
//! Encoding error, as RMSE on the same 2^22 samples of N(0, 1). "Nearest" is round-to-nearest without a
//! search: `gguf.quants.quantize` (Python package, 0.19.0) for the formats marked with a star, for the others
//! the largest value of a (sub-)block at the outermost level and integer scales rounded.
//!
//! | format | here | nearest | | format | here | nearest |
//! |---|---|---|---|---|---|---|
//! | Q4_0* | 0.08126 | 0.08586 | | Q3_K | 0.14526 | 0.15487 |
//! | Q4_1* | 0.06942 | 0.07817 | | Q4_K | 0.07011 | 0.07834 |
//! | Q5_0* | 0.04024 | 0.04266 | | Q5_K | 0.03471 | 0.03815 |
//! | Q5_1* | 0.03356 | 0.03783 | | Q6_K | 0.01653 | 0.01878 |
//! | Q8_0* | 0.00525 | 0.00535 | | IQ4_NL | 0.07431 | 0.07992 |
//! | Q2_K | 0.26422 | 0.32809 | | IQ4_XS | 0.07470 | 0.08009 |
//!
//! `tests/quant/quant_roundtrip.rs` holds every format below its "nearest" figure, and measures speed on
//! request.

mod codebook;
mod codebook_read;
mod correlations;
mod expanded;
mod fit;
mod iq4;
mod k_quants;
mod legacy;
mod planes;
mod points;
mod points_iq1;
mod random;
mod scales;
mod two_level;

pub use codebook::{iq2_xxs_values, iq3_s_values};
pub use codebook_read::{IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ3_XXS};
pub use correlations::{CORRELATED_COLUMNS, Correlations};
pub use expanded::{Expanded, FP4_VALUES, GROUP_SCALES, MXFP4, NVFP4, TQ1_0, TQ2_0};
pub use iq4::IQ4_VALUES;
pub use random::RandomBlocks;
pub use scales::{unpack_scales_6bit, unpack_scales_q3};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use self::codebook::{GroupFormat, Iq2Xxs, Iq3S};
use self::fit::{Even, Importance};
use crate::dtype::DType;

/// Larger values are taken as this one, so that squared errors stay finite; every quantized format saturates
/// far below.
const MAGNITUDE_MAX: f32 = 1e15;
/// Least importance of a value where the mean of its block is 1: columns that text never drove still count a
/// little.
const IMPORTANCE_MIN: f32 = 1e-4;
/// Values of F16 converted at a time.
const FLOAT_CHUNK: usize = 64;

/// What else makes the error of a value count, beside the importance of its column.
///
/// A scale that is best for plain squares clips and shrinks large values, all of them towards zero; inputs
/// that go together then add these errors up. Where steps are wide for large values (few levels, or a
/// codebook that is dense around zero) that costs more than the squares gain. Which formats these are was
/// measured, by the divergence of four small models: times 0.83 for Q2_K with importances, 0.94 for Q3_K,
/// 0.90 for IQ4_XS; but 1.2 for Q4_K.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Nothing.
    Squares,
    /// Its size: errors count as the root of the value's square and of the mean square of the block.
    LargeValues,
}

/// A format in which every value has a code of its own, which stands for a level under the scales of its
/// block.
trait BlockFormat<const BYTES: usize, const ELEMS: usize> {
    /// Largest code; levels are in the order of their codes, ascending or descending.
    const CODE_MAX: u8;
    /// Which errors scales are chosen to make small.
    const AIM: Aim;

    /// The codes of a block.
    fn codes(block: &[u8; BYTES]) -> [u8; ELEMS];

    /// Replaces them.
    fn set_codes(codes: &[u8; ELEMS], block: &mut [u8; BYTES]);

    /// What codes stand for under the scales of a block, whose own codes do not matter.
    fn values(block: &[u8; BYTES], codes: &[u8; ELEMS], out: &mut [f32; ELEMS]);

    /// Chooses scales and codes of finite values.
    fn encode(x: &[f32; ELEMS], importance: impl Importance, block: &mut [u8; BYTES]);
}

/// Decodes whole blocks: `blocks` holds `out.len()` values of `dtype`.
///
/// # Panics
/// If `blocks.len()` is not [`DType::row_bytes`] of `out.len()`.
pub fn decode(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(blocks.len()), "{dtype}: bytes for {} values", out.len());
    match dtype {
        DType::F32 => decode_blocks(blocks, out, |bytes, out| *out = [f32::from_le_bytes(*bytes)]),
        DType::F16 => decode_f16(blocks, out),
        DType::BF16 => decode_blocks(blocks, out, |bytes, out| *out = [bf16::from_le_bytes(*bytes).to_f32()]),
        DType::Q4_0 => decode_coded::<legacy::Q4_0, _, _>(blocks, out),
        DType::Q4_1 => decode_coded::<legacy::Q4_1, _, _>(blocks, out),
        DType::Q5_0 => decode_coded::<legacy::Q5_0, _, _>(blocks, out),
        DType::Q5_1 => decode_coded::<legacy::Q5_1, _, _>(blocks, out),
        DType::Q8_0 => decode_blocks(blocks, out, legacy::decode_q8_0),
        DType::Q2_K => decode_coded::<k_quants::Q2K, _, _>(blocks, out),
        DType::Q3_K => decode_coded::<k_quants::Q3K, _, _>(blocks, out),
        DType::Q4_K => decode_coded::<k_quants::Q4K, _, _>(blocks, out),
        DType::Q5_K => decode_coded::<k_quants::Q5K, _, _>(blocks, out),
        DType::Q6_K => decode_coded::<k_quants::Q6K, _, _>(blocks, out),
        DType::IQ2_XXS => decode_blocks(blocks, out, Iq2Xxs::decode),
        DType::IQ3_S => decode_blocks(blocks, out, Iq3S::decode),
        DType::IQ4_NL => decode_coded::<iq4::Iq4Nl, _, _>(blocks, out),
        DType::IQ4_XS => decode_coded::<iq4::Iq4Xs, _, _>(blocks, out),
        DType::IQ2_XS => expanded::decode::<IQ2_XS>(blocks, out),
        DType::IQ2_S => expanded::decode::<IQ2_S>(blocks, out),
        DType::IQ3_XXS => expanded::decode::<IQ3_XXS>(blocks, out),
        DType::IQ1_S => expanded::decode::<IQ1_S>(blocks, out),
        DType::IQ1_M => expanded::decode::<IQ1_M>(blocks, out),
        DType::TQ1_0 => expanded::decode::<TQ1_0>(blocks, out),
        DType::TQ2_0 => expanded::decode::<TQ2_0>(blocks, out),
        DType::MXFP4 => expanded::decode::<MXFP4>(blocks, out),
        DType::NVFP4 => expanded::decode::<NVFP4>(blocks, out),
    }
}

/// Encodes `values` into `blocks`, whole blocks only.
///
/// Float types round to nearest and keep infinities and NaN. Quantized types take non-finite values as 0,
/// saturate where an f16 scale would overflow, and search scales for the least squared error; those of 2 and
/// 3 bits and the codebooks weigh the errors of large values more.
///
/// # Panics
/// If `blocks.len()` is not [`DType::row_bytes`] of `values.len()`, or `dtype` is not
/// [written](DType::is_written).
pub fn encode(dtype: DType, values: &[f32], blocks: &mut [u8]) {
    assert_eq!(
        dtype.row_bytes(values.len()),
        Some(blocks.len()),
        "{dtype}: bytes for {} values",
        values.len()
    );
    encode_rows(dtype, values, blocks, None);
}

/// Encodes as [`encode`], but minimises the squared error with each value's weighted by the importance of its
/// column: `values` are rows of `importance.len()` columns. Importances are finite and at least 0; a row of
/// zeros counts evenly. With `correlations` codes are chosen with regard to each other, see [`Correlations`];
/// formats of 8 bits and floats do not look at them.
///
/// # Panics
/// If `blocks.len()` is not [`DType::row_bytes`] of `values.len()`, `values` are not whole rows of whole
/// blocks, or correlations are those of another number of columns; as [`encode`].
pub fn encode_weighted(
    dtype: DType,
    values: &[f32],
    importance: &[f32],
    correlations: Option<&Correlations>,
    blocks: &mut [u8],
) {
    let cols = importance.len();
    let Some(row_bytes) = dtype.row_bytes(cols).filter(|&bytes| bytes > 0) else {
        panic!("{dtype}: rows of {cols} values are not whole blocks");
    };
    assert_eq!(values.len() / cols * row_bytes, blocks.len(), "{dtype}: bytes for {} values", values.len());
    assert!(values.len().is_multiple_of(cols), "{dtype}: {} values are not whole rows", values.len());
    if let Some(correlations) = correlations {
        assert_eq!(
            correlations.cols(),
            cols,
            "{dtype}: correlations of as many columns as there are importances"
        );
    }
    for (values, blocks) in values.chunks_exact(cols).zip(blocks.chunks_exact_mut(row_bytes)) {
        encode_rows(dtype, values, blocks, Some((importance, correlations)));
    }
}

/// Encodes values, one row of them if there are importances.
fn encode_rows(
    dtype: DType,
    values: &[f32],
    blocks: &mut [u8],
    inputs: Option<(&[f32], Option<&Correlations>)>,
) {
    let mut to = Blocks { values, blocks, importance: inputs.map(|inputs| inputs.0) };
    let correlations = inputs.and_then(|inputs| inputs.1);
    match dtype {
        DType::F32 => encode_floats(values, to.blocks, f32::to_le_bytes),
        DType::F16 => encode_f16(values, to.blocks),
        DType::BF16 => encode_floats(values, to.blocks, |v| bf16::from_f32(v).to_le_bytes()),
        DType::Q4_0 => encode_coded::<legacy::Q4_0, _, _>(to, correlations),
        DType::Q4_1 => encode_coded::<legacy::Q4_1, _, _>(to, correlations),
        DType::Q5_0 => encode_coded::<legacy::Q5_0, _, _>(to, correlations),
        DType::Q5_1 => encode_coded::<legacy::Q5_1, _, _>(to, correlations),
        // Codes of eight bits leave little to choose.
        DType::Q8_0 => match to.importance {
            None => to.each(|values, _, block| legacy::encode_q8_0(values, Even, block)),
            Some(_) => to.each(|values, importance, block| legacy::encode_q8_0(values, importance, block)),
        },
        DType::Q2_K => encode_coded::<k_quants::Q2K, _, _>(to, correlations),
        DType::Q3_K => encode_coded::<k_quants::Q3K, _, _>(to, correlations),
        DType::Q4_K => encode_coded::<k_quants::Q4K, _, _>(to, correlations),
        DType::Q5_K => encode_coded::<k_quants::Q5K, _, _>(to, correlations),
        DType::Q6_K => encode_coded::<k_quants::Q6K, _, _>(to, correlations),
        DType::IQ2_XXS => encode_grouped::<Iq2Xxs, _, _>(to, correlations),
        DType::IQ3_S => encode_grouped::<Iq3S, _, _>(to, correlations),
        DType::IQ4_NL => encode_coded::<iq4::Iq4Nl, _, _>(to, correlations),
        DType::IQ4_XS => encode_coded::<iq4::Iq4Xs, _, _>(to, correlations),
        DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ1_S
        | DType::IQ1_M
        | DType::TQ1_0
        | DType::TQ2_0
        | DType::MXFP4
        | DType::NVFP4 => panic!("{dtype} is read, not written"),
    }
}

/// Encodes with or without importances in two loops, because each is compiled for its kind.
fn encode_coded<F: BlockFormat<BYTES, ELEMS>, const BYTES: usize, const ELEMS: usize>(
    mut to: Blocks<'_>,
    correlations: Option<&Correlations>,
) {
    match (to.importance, F::AIM) {
        (None, Aim::Squares) => to.each(|values, _, block| F::encode(values, Even, block)),
        (_, Aim::Squares) => to.each(|values, importance, block| F::encode(values, importance, block)),
        (_, Aim::LargeValues) => to.each(|values, importance, block| {
            F::encode(values, &for_large_values(values, importance)[..], block);
        }),
    }
    if let Some(correlations) = correlations {
        correlations.round::<F, BYTES, ELEMS>(to.values, to.blocks);
    }
}

/// Encodes a format whose codes stand for several values; all of them are [`Aim::LargeValues`].
fn encode_grouped<F: GroupFormat<BYTES, D>, const BYTES: usize, const D: usize>(
    mut to: Blocks<'_>,
    correlations: Option<&Correlations>,
) {
    to.each(|values, importance, block| {
        F::encode(values, &for_large_values(values, importance)[..], block);
    });
    if let Some(correlations) = correlations {
        correlations.round_groups::<F, BYTES, D>(to.values, to.blocks);
    }
}

/// Values, the blocks they go to, and importances for as many columns as there are values.
struct Blocks<'a> {
    values: &'a [f32],
    blocks: &'a mut [u8],
    importance: Option<&'a [f32]>,
}

impl Blocks<'_> {
    #[inline(always)]
    fn each<const BYTES: usize, const ELEMS: usize>(
        &mut self,
        encode: impl Fn(&[f32; ELEMS], &[f32], &mut [u8; BYTES]),
    ) {
        let mut importance = [1.0; ELEMS];
        let blocks = self.values.as_chunks::<ELEMS>().0.iter().zip(self.blocks.as_chunks_mut().0);
        for (number, (values, block)) in blocks.enumerate() {
            let mut finite = [0.0; ELEMS];
            for (finite, &v) in finite.iter_mut().zip(values) {
                *finite = self::finite(v);
            }
            if let Some(row) = self.importance {
                importance = normalised(&row[number * ELEMS..][..ELEMS]);
            }
            encode(&finite, &importance, block);
        }
    }
}

/// What quantized formats take a value as.
#[inline(always)]
fn finite(v: f32) -> f32 {
    if v.is_finite() { v.clamp(-MAGNITUDE_MAX, MAGNITUDE_MAX) } else { 0.0 }
}

/// Importances with a mean of 1, so that products of them neither overflow nor vanish; all 1 if they are all
/// 0.
#[inline(always)]
fn normalised<const ELEMS: usize>(importance: &[f32]) -> [f32; ELEMS] {
    let mean = importance.iter().map(|&w| f64::from(w)).sum::<f64>() / ELEMS as f64;
    if mean <= 0.0 {
        return [1.0; ELEMS];
    }
    std::array::from_fn(|i| ((f64::from(importance[i]) / mean) as f32).max(IMPORTANCE_MIN))
}

/// Importances for [`Aim::LargeValues`], with a mean of 1.
#[inline(always)]
fn for_large_values<const ELEMS: usize>(x: &[f32; ELEMS], importance: &[f32]) -> [f32; ELEMS] {
    let squares = x.map(|v| f64::from(v) * f64::from(v));
    let mean = squares.iter().sum::<f64>() / ELEMS as f64;
    let mut weights = [0.0; ELEMS];
    for ((weight, square), &importance) in weights.iter_mut().zip(squares).zip(importance) {
        // A block of zeros is as good with any.
        *weight = if mean > 0.0 { importance * ((square / mean + 1.0) as f32).sqrt() } else { importance };
    }
    normalised(&weights)
}

#[inline(always)]
fn decode_blocks<const BYTES: usize, const ELEMS: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMS]),
) {
    for (block, out) in blocks.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

fn decode_coded<F: BlockFormat<BYTES, ELEMS>, const BYTES: usize, const ELEMS: usize>(
    blocks: &[u8],
    out: &mut [f32],
) {
    decode_blocks(blocks, out, |block, out| F::values(block, &F::codes(block), out));
}

#[inline(always)]
fn encode_floats<const BYTES: usize>(values: &[f32], blocks: &mut [u8], encode: impl Fn(f32) -> [u8; BYTES]) {
    for (value, bytes) in values.iter().zip(blocks.as_chunks_mut().0) {
        *bytes = encode(*value);
    }
}

/// In chunks, because `half` picks the CPU's conversion instructions once per slice.
fn decode_f16(blocks: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; FLOAT_CHUNK];
    for (bytes, out) in blocks.chunks(2 * FLOAT_CHUNK).zip(out.chunks_mut(FLOAT_CHUNK)) {
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

fn encode_f16(values: &[f32], blocks: &mut [u8]) {
    let mut halves = [f16::ZERO; FLOAT_CHUNK];
    for (values, bytes) in values.chunks(FLOAT_CHUNK).zip(blocks.chunks_mut(2 * FLOAT_CHUNK)) {
        halves[..values.len()].convert_from_f32_slice(values);
        for (half, bytes) in halves.iter().zip(bytes.as_chunks_mut().0) {
            *bytes = half.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_large_values_count_by_the_root_of_square_and_mean_square() {
        let root5 = 5f32.sqrt();
        for (x, importance, expected) in [
            // A mean square of 1.
            ([0.0, 0.0, 0.0, -2.0], [1.0, 2.0, 1.0, 1.0], [1.0, 2.0, 1.0, root5]),
            ([1e-9, 1e-9, -1e-9, 1e-9], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
            ([0.0; 4], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
            ([1e15, 0.0, 0.0, 0.0], [1.0; 4], [root5, 1.0, 1.0, 1.0]),
        ] {
            let mean = expected.iter().sum::<f32>() / 4.0;
            for (found, expected) in for_large_values(&x, &importance).iter().zip(expected) {
                assert!((found * mean / expected - 1.0).abs() < 1e-6, "{x:?}: {found}, expected {expected}");
            }
        }
    }
}
