//! Block formats: layouts and scalar codecs of every [`DType`].
//!
//! These are the slow twins of the SIMD kernels and the writers of synthetic models. Layouts are those of the public
//! GGUF/ggml format; each file describes its blocks byte by byte. Decoding is f32 arithmetic in the written order,
//! without fused multiply-add, so every implementation of it can agree to the bit.
//!
//! Encoding error, as RMSE on the same 2^22 samples of N(0, 1). "Nearest" is round-to-nearest without a search:
//! `gguf.quants.quantize` (Python package, 0.19.0) for the formats marked with a star, for the others the largest value of a
//! (sub-)block at the outermost level and integer scales rounded.
//!
//! | format | here | nearest | | format | here | nearest |
//! |---|---|---|---|---|---|---|
//! | Q4_0* | 0.08126 | 0.08586 | | Q3_K | 0.14363 | 0.15487 |
//! | Q4_1* | 0.06942 | 0.07817 | | Q4_K | 0.07011 | 0.07834 |
//! | Q5_0* | 0.04024 | 0.04266 | | Q5_K | 0.03471 | 0.03815 |
//! | Q5_1* | 0.03356 | 0.03783 | | Q6_K | 0.01653 | 0.01878 |
//! | Q8_0* | 0.00525 | 0.00535 | | IQ4_NL | 0.07386 | 0.07992 |
//! | Q2_K | 0.25903 | 0.32809 | | IQ4_XS | 0.07424 | 0.08009 |
//!
//! `tests/quant_roundtrip.rs` holds every format below its "nearest" figure, and measures speed on request.

mod fit;
mod iq4;
mod k_quants;
mod legacy;
mod planes;
mod scales;
mod two_level;

pub use iq4::IQ4_VALUES;
pub use scales::{unpack_scales_6bit, unpack_scales_q3};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use self::fit::Even;
use crate::dtype::DType;

/// Larger values are taken as this one, so that squared errors stay finite; every quantized format saturates far below.
const MAGNITUDE_MAX: f32 = 1e15;
/// Least importance of a value where the mean of its block is 1: columns that text never drove still count a little.
const IMPORTANCE_MIN: f32 = 1e-4;
/// Values of F16 converted at a time.
const FLOAT_CHUNK: usize = 64;

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
        DType::Q4_0 => decode_blocks(blocks, out, legacy::decode_q4_0),
        DType::Q4_1 => decode_blocks(blocks, out, legacy::decode_q4_1),
        DType::Q5_0 => decode_blocks(blocks, out, legacy::decode_q5_0),
        DType::Q5_1 => decode_blocks(blocks, out, legacy::decode_q5_1),
        DType::Q8_0 => decode_blocks(blocks, out, legacy::decode_q8_0),
        DType::Q2_K => decode_blocks(blocks, out, k_quants::decode_q2_k),
        DType::Q3_K => decode_blocks(blocks, out, k_quants::decode_q3_k),
        DType::Q4_K => decode_blocks(blocks, out, k_quants::decode_q4_k),
        DType::Q5_K => decode_blocks(blocks, out, k_quants::decode_q5_k),
        DType::Q6_K => decode_blocks(blocks, out, k_quants::decode_q6_k),
        DType::IQ4_NL => decode_blocks(blocks, out, iq4::decode_iq4_nl),
        DType::IQ4_XS => decode_blocks(blocks, out, iq4::decode_iq4_xs),
    }
}

/// Calls a block encoder for each block, with or without importances: two loops, because each is compiled for its kind.
macro_rules! encode_blocks {
    ($to:expr, $encode:path) => {
        match $to.importance {
            None => $to.each(|values, _, block| $encode(values, Even, block)),
            Some(_) => $to.each(|values, importance, block| $encode(values, importance, block)),
        }
    };
}

/// Encodes `values` into `blocks`, whole blocks only.
///
/// Float types round to nearest and keep infinities and NaN. Quantized types take non-finite values as 0, saturate
/// where an f16 scale would overflow, and search scales for the least squared error.
///
/// # Panics
/// If `blocks.len()` is not [`DType::row_bytes`] of `values.len()`.
pub fn encode(dtype: DType, values: &[f32], blocks: &mut [u8]) {
    assert_eq!(
        dtype.row_bytes(values.len()),
        Some(blocks.len()),
        "{dtype}: bytes for {} values",
        values.len()
    );
    encode_rows(dtype, values, blocks, None);
}

/// Encodes as [`encode`], but minimises the squared error with each value's weighted by the importance of its column:
/// `values` are rows of `importance.len()` columns. Importances are finite and at least 0; a row of zeros counts evenly.
///
/// # Panics
/// If `blocks.len()` is not [`DType::row_bytes`] of `values.len()`, or `values` are not whole rows of whole blocks.
pub fn encode_weighted(dtype: DType, values: &[f32], importance: &[f32], blocks: &mut [u8]) {
    let Some(row_bytes) = dtype.row_bytes(importance.len()).filter(|&bytes| bytes > 0) else {
        panic!("{dtype}: rows of {} values are not whole blocks", importance.len());
    };
    assert_eq!(
        values.len() / importance.len() * row_bytes,
        blocks.len(),
        "{dtype}: bytes for {} values",
        values.len()
    );
    assert!(
        values.len().is_multiple_of(importance.len()),
        "{dtype}: {} values are not whole rows",
        values.len()
    );
    for (values, blocks) in values.chunks_exact(importance.len()).zip(blocks.chunks_exact_mut(row_bytes)) {
        encode_rows(dtype, values, blocks, Some(importance));
    }
}

/// Encodes values, one row of them if there are importances.
fn encode_rows(dtype: DType, values: &[f32], blocks: &mut [u8], importance: Option<&[f32]>) {
    let mut to = Blocks { values, blocks, importance };
    match dtype {
        DType::F32 => encode_floats(values, to.blocks, f32::to_le_bytes),
        DType::F16 => encode_f16(values, to.blocks),
        DType::BF16 => encode_floats(values, to.blocks, |v| bf16::from_f32(v).to_le_bytes()),
        DType::Q4_0 => encode_blocks!(to, legacy::encode_q4_0),
        DType::Q4_1 => encode_blocks!(to, legacy::encode_q4_1),
        DType::Q5_0 => encode_blocks!(to, legacy::encode_q5_0),
        DType::Q5_1 => encode_blocks!(to, legacy::encode_q5_1),
        DType::Q8_0 => encode_blocks!(to, legacy::encode_q8_0),
        DType::Q2_K => encode_blocks!(to, k_quants::encode_q2_k),
        DType::Q3_K => encode_blocks!(to, k_quants::encode_q3_k),
        DType::Q4_K => encode_blocks!(to, k_quants::encode_q4_k),
        DType::Q5_K => encode_blocks!(to, k_quants::encode_q5_k),
        DType::Q6_K => encode_blocks!(to, k_quants::encode_q6_k),
        DType::IQ4_NL => encode_blocks!(to, iq4::encode_iq4_nl),
        DType::IQ4_XS => encode_blocks!(to, iq4::encode_iq4_xs),
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
        let mut importance = [0.0; ELEMS];
        let blocks = self.values.as_chunks::<ELEMS>().0.iter().zip(self.blocks.as_chunks_mut().0);
        for (number, (values, block)) in blocks.enumerate() {
            let mut finite = [0.0; ELEMS];
            for (finite, &v) in finite.iter_mut().zip(values) {
                *finite = if v.is_finite() { v.clamp(-MAGNITUDE_MAX, MAGNITUDE_MAX) } else { 0.0 };
            }
            if let Some(row) = self.importance {
                importance = normalised(&row[number * ELEMS..][..ELEMS]);
            }
            encode(&finite, &importance, block);
        }
    }
}

/// Importances with a mean of 1, so that products of them neither overflow nor vanish; all 1 if they are all 0.
#[inline(always)]
fn normalised<const ELEMS: usize>(importance: &[f32]) -> [f32; ELEMS] {
    let mean = importance.iter().map(|&w| f64::from(w)).sum::<f64>() / ELEMS as f64;
    if mean <= 0.0 {
        return [1.0; ELEMS];
    }
    std::array::from_fn(|i| ((f64::from(importance[i]) / mean) as f32).max(IMPORTANCE_MIN))
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
