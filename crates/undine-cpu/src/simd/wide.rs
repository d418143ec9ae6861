//! Sixteen lanes of f32: one register with AVX-512, two with AVX2, four with NEON. For kernels that are bound
//! by f32 arithmetic.
//!
//! Every operation works on each lane alone, so the leaves compute the same bits.

use super::Portable;

/// Lanes of a wide vector.
pub const WIDE: usize = 16;

/// The operations on 16 x f32.
pub trait Wide: Copy + Send + Sync + 'static {
    /// 16 x f32.
    type W: Copy;
    /// How many vectors the registers hold.
    const REGISTERS: usize;

    /// All lanes `v`.
    fn w_splat(self, v: f32) -> Self::W;
    /// # Safety
    /// 16 floats are readable at `p`, any alignment.
    unsafe fn w_load(self, p: *const f32) -> Self::W;
    /// # Safety
    /// 16 floats are writable at `p`, any alignment.
    unsafe fn w_store(self, p: *mut f32, v: Self::W);
    /// # Safety
    /// 16 half floats are readable at `p`, any alignment.
    unsafe fn w_load_f16(self, p: *const u16) -> Self::W;
    /// # Safety
    /// 16 brain floats are readable at `p`, any alignment.
    unsafe fn w_load_bf16(self, p: *const u16) -> Self::W;
    /// # Safety
    /// 16 signed bytes are readable at `p`.
    unsafe fn w_load_i8(self, p: *const i8) -> Self::W;
    /// `a + b`.
    fn w_add(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a - b`.
    fn w_sub(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a * b`.
    fn w_mul(self, a: Self::W, b: Self::W) -> Self::W;
    /// `a * b + c`, rounded once.
    fn w_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W;
    /// The larger of each lane; lanes are never NaN.
    fn w_max(self, a: Self::W, b: Self::W) -> Self::W;
    /// To the nearest integer, even if halfway; `|a|` below 2^22.
    fn w_round(self, a: Self::W) -> Self::W;
    /// `a * 2^n`, rounded once, for integral `-127 < n < 128`.
    fn w_scale2(self, a: Self::W, n: Self::W) -> Self::W;
    /// `value` in lanes where `a > limit`, else 0.
    fn w_mask_above(self, a: Self::W, limit: Self::W, value: Self::W) -> Self::W;
    /// Asks for a line that will be read soon; any address will do.
    fn prefetch(self, p: *const u8);
}

/// Lanes one by one.
macro_rules! lanes {
    ($k:ident => $e:expr) => {
        std::array::from_fn(|$k| $e)
    };
}

impl Wide for Portable {
    type W = [f32; WIDE];
    const REGISTERS: usize = 8;

    fn w_splat(self, v: f32) -> Self::W {
        [v; WIDE]
    }
    unsafe fn w_load(self, p: *const f32) -> Self::W {
        // SAFETY: the caller gives 16 readable floats.
        unsafe { p.cast::<Self::W>().read_unaligned() }
    }
    unsafe fn w_store(self, p: *mut f32, v: Self::W) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe { p.cast::<Self::W>().write_unaligned(v) }
    }
    unsafe fn w_load_f16(self, p: *const u16) -> Self::W {
        // SAFETY: the caller gives 16 readable half floats.
        unsafe { p.cast::<[u16; WIDE]>().read_unaligned() }.map(|v| half::f16::from_bits(v).to_f32())
    }
    unsafe fn w_load_bf16(self, p: *const u16) -> Self::W {
        // SAFETY: the caller gives 16 readable brain floats.
        unsafe { p.cast::<[u16; WIDE]>().read_unaligned() }.map(|v| half::bf16::from_bits(v).to_f32())
    }
    unsafe fn w_load_i8(self, p: *const i8) -> Self::W {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { p.cast::<[i8; WIDE]>().read_unaligned() }.map(f32::from)
    }
    fn w_add(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(k => a[k] + b[k])
    }
    fn w_sub(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(k => a[k] - b[k])
    }
    fn w_mul(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(k => a[k] * b[k])
    }
    fn w_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
        lanes!(k => a[k].mul_add(b[k], c[k]))
    }
    fn w_max(self, a: Self::W, b: Self::W) -> Self::W {
        lanes!(k => a[k].max(b[k]))
    }
    fn w_round(self, a: Self::W) -> Self::W {
        a.map(f32::round_ties_even)
    }
    fn w_scale2(self, a: Self::W, n: Self::W) -> Self::W {
        lanes!(k => a[k] * f32::from_bits(((n[k] as i32 + 127) << 23) as u32))
    }
    fn w_mask_above(self, a: Self::W, limit: Self::W, value: Self::W) -> Self::W {
        lanes!(k => if a[k] > limit[k] { value[k] } else { 0.0 })
    }
    fn prefetch(self, _: *const u8) {}
}

/// What sixteen lanes are where they are two vectors of eight.
macro_rules! two_eights {
    () => {
        #[inline(always)]
        fn w_splat(self, v: f32) -> Self::W {
            [self.f_splat(v); 2]
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn w_load(self, p: *const f32) -> Self::W {
            // SAFETY: the caller gives 16 readable floats.
            unsafe { [self.f_load(p), self.f_load(p.add(8))] }
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn w_store(self, p: *mut f32, v: Self::W) {
            // SAFETY: the caller gives 16 writable floats.
            unsafe {
                self.f_store(p, v[0]);
                self.f_store(p.add(8), v[1]);
            }
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn w_load_f16(self, p: *const u16) -> Self::W {
            // SAFETY: the caller gives 16 readable half floats.
            unsafe { [self.f_load_f16(p), self.f_load_f16(p.add(8))] }
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn w_load_bf16(self, p: *const u16) -> Self::W {
            // SAFETY: the caller gives 16 readable brain floats.
            unsafe { [self.f_load_bf16(p), self.f_load_bf16(p.add(8))] }
        }
        #[inline(always)]
        fn w_add(self, a: Self::W, b: Self::W) -> Self::W {
            [self.f_add(a[0], b[0]), self.f_add(a[1], b[1])]
        }
        #[inline(always)]
        fn w_sub(self, a: Self::W, b: Self::W) -> Self::W {
            [self.f_sub(a[0], b[0]), self.f_sub(a[1], b[1])]
        }
        #[inline(always)]
        fn w_mul(self, a: Self::W, b: Self::W) -> Self::W {
            [self.f_mul(a[0], b[0]), self.f_mul(a[1], b[1])]
        }
        #[inline(always)]
        fn w_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
            [self.f_fma(a[0], b[0], c[0]), self.f_fma(a[1], b[1], c[1])]
        }
        #[inline(always)]
        fn w_max(self, a: Self::W, b: Self::W) -> Self::W {
            [self.f_max(a[0], b[0]), self.f_max(a[1], b[1])]
        }
        #[inline(always)]
        fn w_scale2(self, a: Self::W, n: Self::W) -> Self::W {
            let low = self.f_pow2(self.f_to_i(n[0]));
            let high = self.f_pow2(self.f_to_i(n[1]));
            [self.f_mul(a[0], low), self.f_mul(a[1], high)]
        }
        #[inline(always)]
        fn w_mask_above(self, a: Self::W, limit: Self::W, value: Self::W) -> Self::W {
            [self.f_mask_above(a[0], limit[0], value[0]), self.f_mask_above(a[1], limit[1], value[1])]
        }
    };
}
#[cfg(target_arch = "aarch64")]
pub(super) use two_eights;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::{Simd, X86};
    use super::Wide;

    /// One intrinsic that works on registers only.
    macro_rules! op {
        ($e:expr) => {
            // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
            unsafe { $e }
        };
    }

    impl Wide for X86<true> {
        type W = __m512;
        const REGISTERS: usize = 32;

        #[inline(always)]
        fn w_splat(self, v: f32) -> __m512 {
            op!(_mm512_set1_ps(v))
        }
        #[inline(always)]
        unsafe fn w_load(self, p: *const f32) -> __m512 {
            // SAFETY: the caller gives 16 readable floats.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn w_store(self, p: *mut f32, v: __m512) {
            // SAFETY: the caller gives 16 writable floats.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn w_load_f16(self, p: *const u16) -> __m512 {
            // Exact either way; the plain intrinsic's form, which names exceptions, cannot read memory
            // itself, and from a register the conversion takes a shuffle more. SAFETY: the caller gives 16
            // readable half floats.
            unsafe { _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn w_load_bf16(self, p: *const u16) -> __m512 {
            // SAFETY: the caller gives 16 readable brain floats.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn w_load_i8(self, p: *const i8) -> __m512 {
            // SAFETY: the caller gives 16 readable bytes.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        fn w_add(self, a: __m512, b: __m512) -> __m512 {
            op!(_mm512_add_ps(a, b))
        }
        #[inline(always)]
        fn w_sub(self, a: __m512, b: __m512) -> __m512 {
            op!(_mm512_sub_ps(a, b))
        }
        #[inline(always)]
        fn w_mul(self, a: __m512, b: __m512) -> __m512 {
            op!(_mm512_mul_ps(a, b))
        }
        #[inline(always)]
        fn w_fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            op!(_mm512_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        fn w_max(self, a: __m512, b: __m512) -> __m512 {
            op!(_mm512_max_ps(a, b))
        }
        #[inline(always)]
        fn w_round(self, a: __m512) -> __m512 {
            op!(_mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(a))
        }
        #[inline(always)]
        fn w_scale2(self, a: __m512, n: __m512) -> __m512 {
            op!(_mm512_scalef_ps(a, n))
        }
        #[inline(always)]
        fn w_mask_above(self, a: __m512, limit: __m512, value: __m512) -> __m512 {
            op!(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, limit), value))
        }
        #[inline(always)]
        fn prefetch(self, p: *const u8) {
            op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
        }
    }

    impl Wide for X86<false> {
        type W = [__m256; 2];
        const REGISTERS: usize = 8;
        two_eights!();

        #[inline(always)]
        unsafe fn w_load_i8(self, p: *const i8) -> Self::W {
            // SAFETY: the caller gives 16 readable bytes.
            unsafe {
                let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
                let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast()));
                [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
            }
        }
        #[inline(always)]
        fn w_round(self, a: Self::W) -> Self::W {
            op!([
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1])
            ])
        }
        #[inline(always)]
        fn prefetch(self, p: *const u8) {
            op!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
        }
    }
}
