//! The widest vectors of x86-64: 512 bits with AVX-512, else 256.

use std::arch::x86_64::*;

use super::{Native, Simd, X86};

/// One intrinsic that works on registers only.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
        unsafe { $e }
    };
}

impl Native for X86<true> {
    const ROWS: usize = 16;
    const INPUTS: usize = 6;
    const SUMS_IN_32_BITS: bool = true;
    type NF = __m512;
    type NI = __m512i;
    type NB = __m512i;
    type D = __m512i;

    #[inline(always)]
    fn nf_splat(self, v: f32) -> __m512 {
        op!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    unsafe fn nf_load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller gives 16 readable floats.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn nf_store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn nf_add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn nf_mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn nf_fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn nf_from_i(self, a: __m512i) -> __m512 {
        op!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn ni_splat(self, v: i32) -> __m512i {
        op!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    unsafe fn nb_load(self, p: *const u8) -> __m512i {
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn nb_broadcast(self, p: *const i8) -> __m512i {
        // SAFETY: the caller gives 4 readable bytes.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn d_zero(self) -> __m512i {
        op!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn d_from(self, sum: __m512i) -> __m512i {
        sum
    }
    #[inline(always)]
    fn d_step(self, sum: __m512i, w: __m512i, a: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(sum, w, a))
    }
    #[inline(always)]
    fn d_add(self, _: __m512i, d: __m512i) -> __m512i {
        d
    }
    #[inline(always)]
    fn d_step_signed(self, sum: __m512i, w: __m512i, a: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(sum, w, a))
    }
}

impl Native for X86<false> {
    const ROWS: usize = 8;
    const INPUTS: usize = 3;
    const SUMS_IN_32_BITS: bool = false;
    type NF = __m256;
    type NI = __m256i;
    type NB = __m256i;
    /// 16 x i16.
    type D = __m256i;

    #[inline(always)]
    fn nf_splat(self, v: f32) -> __m256 {
        self.f_splat(v)
    }
    #[inline(always)]
    unsafe fn nf_load(self, p: *const f32) -> __m256 {
        // SAFETY: as the caller says.
        unsafe { self.f_load(p) }
    }
    #[inline(always)]
    unsafe fn nf_store(self, p: *mut f32, v: __m256) {
        // SAFETY: as the caller says.
        unsafe { self.f_store(p, v) }
    }
    #[inline(always)]
    fn nf_add(self, a: __m256, b: __m256) -> __m256 {
        self.f_add(a, b)
    }
    #[inline(always)]
    fn nf_mul(self, a: __m256, b: __m256) -> __m256 {
        self.f_mul(a, b)
    }
    #[inline(always)]
    fn nf_fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        self.f_fma(a, b, c)
    }
    #[inline(always)]
    fn nf_from_i(self, a: __m256i) -> __m256 {
        self.f_from_i(a)
    }
    #[inline(always)]
    fn ni_splat(self, v: i32) -> __m256i {
        self.i_splat(v)
    }
    #[inline(always)]
    unsafe fn nb_load(self, p: *const u8) -> __m256i {
        // SAFETY: as the caller says.
        unsafe { self.b_load(p) }
    }
    #[inline(always)]
    unsafe fn nb_broadcast(self, p: *const i8) -> __m256i {
        // SAFETY: the caller gives 4 readable bytes.
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    fn d_zero(self) -> __m256i {
        op!(_mm256_setzero_si256())
    }
    #[inline(always)]
    fn d_from(self, _: __m256i) -> __m256i {
        unreachable!("sums of 16 bits begin with zero")
    }
    #[inline(always)]
    fn d_step(self, sum: __m256i, w: __m256i, a: __m256i) -> __m256i {
        op!(_mm256_add_epi16(sum, _mm256_maddubs_epi16(w, a)))
    }
    #[inline(always)]
    fn d_add(self, sum: __m256i, d: __m256i) -> __m256i {
        op!(_mm256_add_epi32(sum, _mm256_madd_epi16(d, _mm256_set1_epi16(1))))
    }
    #[inline(always)]
    fn d_step_signed(self, sum: __m256i, w: __m256i, a: __m256i) -> __m256i {
        self.i_add(sum, self.dot_signed(w, a))
    }
}
