//! Rare formats: their rows are expanded to bytes with a scale for every 16 values, and those are multiplied.
//!
//! A thread expands some rows at a time into memory of its own, by scalar code, and the kernels meet one
//! format, [`Wide`], whatever the file has. That costs more than reading the blocks where they lie, and saves
//! compiling every kernel for every such format.

use undine_core::DType;
use undine_core::dtype::{QK, QK_K};
use undine_core::quant::{self, Expanded, GROUP_SCALES};

use super::activations::groups;
use super::formats::{Format, Place, SIGNED, Scales, pack_natural};
use super::rows::GROUP_BYTES_MAX;
use crate::simd::{LANES, Native, ROWS_MAX, Simd};

/// Rows that are expanded together: those of the largest tile.
pub const EXPANDED_ROWS: usize = super::panels::TILE_MAX;
/// Bytes of a group: signed bytes, then the scales of the lower and of the upper halves of 32 values.
const GROUP_BYTES: usize = QK_K + 4 * GROUP_SCALES;

/// Expands a row of so many columns.
pub type ExpandRow = fn(&[u8], usize, &mut [u8]);

/// How a row of a type is expanded; `None` for types with kernels of their own.
pub fn expander(dtype: DType) -> Option<ExpandRow> {
    Some(match dtype {
        DType::IQ2_XS => expand::<quant::IQ2_XS>,
        DType::IQ2_S => expand::<quant::IQ2_S>,
        DType::IQ3_XXS => expand::<quant::IQ3_XXS>,
        DType::IQ1_S => expand::<quant::IQ1_S>,
        DType::IQ1_M => expand::<quant::IQ1_M>,
        DType::TQ1_0 => expand::<quant::TQ1_0>,
        DType::TQ2_0 => expand::<quant::TQ2_0>,
        DType::MXFP4 => expand::<quant::MXFP4>,
        DType::NVFP4 => expand::<quant::NVFP4>,
        _ => return None,
    })
}

/// Bytes of an expanded row.
pub fn expanded_bytes(cols: usize) -> usize {
    groups(cols) * GROUP_BYTES
}

/// A group that is not whole is expanded with zeros behind it, which are values of 0.
fn expand<F: Expanded>(row: &[u8], cols: usize, out: &mut [u8]) {
    debug_assert_eq!(out.len(), expanded_bytes(cols));
    let mut padded = [0; GROUP_BYTES_MAX];
    for (group, out) in row.chunks(F::GROUP_BYTES).zip(out.chunks_exact_mut(GROUP_BYTES)) {
        let group = if group.len() == F::GROUP_BYTES {
            group
        } else {
            padded[..group.len()].copy_from_slice(group);
            &padded[..F::GROUP_BYTES]
        };
        let (bytes, scales) = out.split_at_mut(QK_K);
        for (sub, bytes) in bytes.chunks_exact_mut(QK).enumerate() {
            for (byte, value) in bytes.iter_mut().zip(F::values(group, sub)) {
                *byte = value.cast_unsigned();
            }
        }
        let scales = scales.as_chunks_mut::<4>().0;
        for (k, scale) in F::scales(group).into_iter().enumerate() {
            scales[k % 2 * LANES + k / 2] = scale.to_le_bytes();
        }
    }
}

/// Expanded rows.
#[derive(Clone, Copy)]
pub struct Wide;

impl Format for Wide {
    const BLOCK: [usize; 2] = [QK_K, GROUP_BYTES];
    const MAX: u32 = SIGNED;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn quants<S: Simd>(s: S, group: *const u8, block: usize) -> S::B {
        // SAFETY: the caller gives a whole group, which begins with its bytes.
        unsafe { s.b_load(group.add(QK * block)) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, group: *const u8) -> Scales<S> {
        let mut scales = [0f32; GROUP_SCALES];
        // SAFETY: the caller gives a whole group, which ends with as many floats, at any address; then eight
        // are loaded twice.
        let halves = unsafe {
            std::ptr::copy_nonoverlapping(group.add(QK_K), scales.as_mut_ptr().cast(), 4 * GROUP_SCALES);
            [s.f_load(scales.as_ptr()), s.f_load(scales.as_ptr().add(LANES))]
        };
        Scales { s: halves, m: halves }
    }

    #[inline(always)]
    unsafe fn pack<S: Native>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place) {
        // SAFETY: as the caller says.
        unsafe { pack_natural::<S, Self>(s, rows, to) }
    }
}
