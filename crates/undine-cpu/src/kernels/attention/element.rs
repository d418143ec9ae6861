//! The types of keys and values, and writing a position into its page.

use super::{PAGE, padded};
use crate::simd::{Kernel, LANES, Simd, Wide};

/// Element type of the K/V cache.
pub trait KvElement: Copy + Send + Sync + 'static {
    /// Bytes of a value.
    const BYTES: usize;
    /// Whether a page ends with a scale (f32) per position, which its values are to be multiplied by.
    const SCALED: bool;
    /// # Safety
    /// 16 values are readable at `p`.
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W;
    /// Converts a head's values, in order, and returns their scale.
    /// # Safety
    /// As many values as `x` has are writable at `p`.
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: &[f32]) -> f32;
}

/// f32 keys and values.
#[derive(Clone, Copy)]
pub struct KvF32;
/// f16 keys and values; what f16 cannot hold becomes its largest value.
#[derive(Clone, Copy)]
pub struct KvF16;
/// Signed bytes with an f32 scale for each position and head: `largest / 127`, rounded to nearest even.
#[derive(Clone, Copy)]
pub struct KvQ8;

impl KvElement for KvF32 {
    const BYTES: usize = 4;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says.
        unsafe { s.w_load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(_: S, p: *mut u8, x: &[f32]) -> f32 {
        // SAFETY: as the caller says.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr().cast(), p, 4 * x.len()) };
        1.0
    }
}

/// The largest f16.
const F16_MAX: f32 = 65504.0;

impl KvElement for KvF16 {
    const BYTES: usize = 2;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says.
        unsafe { s.w_load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut u8, x: &[f32]) -> f32 {
        let mut values = [0.0f32; LANES];
        let mut halves = [0u16; LANES];
        for (i, x) in x.chunks(LANES).enumerate() {
            for lane in 0..x.len() {
                values[lane] = x[lane].clamp(-F16_MAX, F16_MAX);
            }
            // SAFETY: the arrays have 8 values; the caller gives room for all of `x`.
            unsafe {
                s.f_store_f16(halves.as_mut_ptr(), s.f_load(values.as_ptr()));
                let to = p.add(2 * i * LANES);
                std::ptr::copy_nonoverlapping(halves.as_ptr().cast(), to, 2 * x.len());
            }
        }
        1.0
    }
}

impl KvElement for KvQ8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Wide>(s: S, p: *const u8) -> S::W {
        // SAFETY: as the caller says.
        unsafe { s.w_load_i8(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(_: S, p: *mut u8, x: &[f32]) -> f32 {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs())).min(f32::MAX);
        let scale = largest / 127.0;
        let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        for (i, x) in x.iter().enumerate() {
            // SAFETY: as the caller says.
            unsafe { p.cast::<i8>().add(i).write((x * inverse).round_ties_even() as i8) };
        }
        scale
    }
}

/// Bytes of the keys, and as many of the values, of one head in one page.
pub fn page_head_bytes<T: KvElement>(head_dim: usize) -> usize {
    scales_at::<T>(head_dim) + if T::SCALED { PAGE * size_of::<f32>() } else { 0 }
}

/// Where in a head's page the scales are.
#[inline(always)]
pub(super) fn scales_at<T: KvElement>(head_dim: usize) -> usize {
    PAGE * padded(head_dim) * T::BYTES
}

/// Writes the keys and values of one position and head into their page.
pub struct StoreKv<'a, T> {
    /// The key, after norm and rotary embedding.
    pub key: &'a [f32],
    /// The value.
    pub value: &'a [f32],
    /// Keys of this head in the page.
    pub keys: *mut u8,
    /// Values of this head in the page.
    pub values: *mut u8,
    /// Position within the page.
    pub offset: usize,
    /// The cache's type.
    pub kind: std::marker::PhantomData<T>,
}

impl<T: KvElement> Kernel for StoreKv<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { key, value, keys, values, offset, .. } = self;
        let dim = key.len();
        assert!(value.len() == dim && offset < PAGE && dim <= super::HEAD_DIM_MAX);
        let mut row = [0u32; super::HEAD_DIM_MAX];
        let row = row.as_mut_ptr().cast::<u8>();
        // SAFETY: the row has room for a head of any type; the caller gives the head's part of the page,
        // which holds `PAGE * padded(dim)` values and, if the type is scaled, `PAGE` scales.
        unsafe {
            let scale = T::store(s, row, key);
            for d in 0..dim {
                let to = keys.add((d * PAGE + offset) * T::BYTES);
                std::ptr::copy_nonoverlapping(row.add(d * T::BYTES), to, T::BYTES);
            }
            let value_scale = T::store(s, values.add(offset * padded(dim) * T::BYTES), value);
            if T::SCALED {
                let at = scales_at::<T>(dim) + offset * size_of::<f32>();
                keys.add(at).cast::<f32>().write_unaligned(scale);
                values.add(at).cast::<f32>().write_unaligned(value_scale);
            }
        }
    }
}
