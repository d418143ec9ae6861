//! The widest vectors of x86-64: 512 bits with AVX-512, else 256.

use std::arch::x86_64::*;

use super::{Native, ROWS_MAX, Simd, X86};

/// One intrinsic that works on registers only.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
        unsafe { $e }
    };
}

/// Transposes each 128-bit lane of four vectors as a 4 x 4 matrix of 32-bit values.
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn transpose_4x4(v0: __m512i, v1: __m512i, v2: __m512i, v3: __m512i) -> [__m512i; 4] {
    // SAFETY: as the caller says; registers only.
    unsafe {
        let (a0, a1) = (_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
        let (b0, b1) = (_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
        [
            _mm512_unpacklo_epi64(a0, b0),
            _mm512_unpackhi_epi64(a0, b0),
            _mm512_unpacklo_epi64(a1, b1),
            _mm512_unpackhi_epi64(a1, b1),
        ]
    }
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
    fn prefetch_far(self, p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    unsafe fn nb_store(self, p: *mut u8, v: Self::NB) {
        // SAFETY: the caller gives so many writable bytes.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn nb_splat(self, v: u8) -> Self::NB {
        op!(_mm512_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn nb_and(self, a: Self::NB, b: Self::NB) -> Self::NB {
        op!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn nb_or(self, a: Self::NB, b: Self::NB) -> Self::NB {
        op!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn nb_shr<const N: u32>(self, a: Self::NB) -> Self::NB {
        op!(_mm512_srl_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn nb_shl<const N: u32>(self, a: Self::NB) -> Self::NB {
        op!(_mm512_sll_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn nf_from_byte<const K: u32>(self, a: Self::NB) -> Self::NF {
        op!({
            let shifted = _mm512_srl_epi32(a, _mm_cvtsi32_si128(8 * K as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xff)))
        })
    }
    #[inline(always)]
    fn nf_from_signed_byte<const K: u32>(self, a: Self::NB) -> Self::NF {
        op!({
            let top = _mm512_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * K as i32));
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(top))
        })
    }
    #[inline(always)]
    fn nf_from_bits(self, a: Self::NI) -> Self::NF {
        op!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn nb_lookup(self, table: &[u8; 16], index: __m512i) -> __m512i {
        // SAFETY: the table has the 16 bytes that are read; the rest touches registers only.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }
    #[inline(always)]
    fn nb_signed(self, a: __m512i) -> __m512i {
        op!(_mm512_xor_si512(a, _mm512_set1_epi8(-128)))
    }
    #[inline(always)]
    unsafe fn nb_rows_32(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [__m512i; 8] {
        // SAFETY: the caller gives 32 readable bytes in each row.
        unsafe {
            // Rows r and r + 4 in the halves of a vector, so that the last step leaves rows in order.
            let pair = |r: usize| {
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(rows[r].add(offset).cast()));
                _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(rows[r + 4].add(offset).cast()))
            };
            let a = transpose_4x4(pair(0), pair(1), pair(2), pair(3));
            let b = transpose_4x4(pair(8), pair(9), pair(10), pair(11));
            let mut out = [_mm512_setzero_si512(); 8];
            for k in 0..4 {
                out[k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a[k], b[k]);
                out[k + 4] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a[k], b[k]);
            }
            out
        }
    }
    #[inline(always)]
    unsafe fn nb_rows_16(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [__m512i; 4] {
        // SAFETY: the caller gives 16 readable bytes in each row.
        unsafe {
            let four = |r: usize| {
                let at = |r: usize| _mm_loadu_si128(rows[r].add(offset).cast());
                let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(at(r)), at(r + 4));
                _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, at(r + 8)), at(r + 12))
            };
            transpose_4x4(four(0), four(1), four(2), four(3))
        }
    }
    #[inline(always)]
    unsafe fn nb_rows_4(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> __m512i {
        let mut words = [0u32; 16];
        for r in 0..16 {
            // SAFETY: the caller gives 4 readable bytes in each row.
            words[r] = unsafe { rows[r].add(offset).cast::<u32>().read_unaligned() };
        }
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn nf_from_half<const K: u32>(self, a: __m512i) -> __m512 {
        op!({
            let halves = _mm512_cvtepi32_epi16(_mm512_srl_epi32(a, _mm_cvtsi32_si128(16 * K as i32)));
            _mm512_cvtph_ps(halves)
        })
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
    fn prefetch_far(self, p: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    unsafe fn nb_store(self, p: *mut u8, v: Self::NB) {
        // SAFETY: the caller gives so many writable bytes.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    fn nb_splat(self, v: u8) -> Self::NB {
        op!(_mm256_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn nb_and(self, a: Self::NB, b: Self::NB) -> Self::NB {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn nb_or(self, a: Self::NB, b: Self::NB) -> Self::NB {
        op!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn nb_shr<const N: u32>(self, a: Self::NB) -> Self::NB {
        op!(_mm256_srl_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn nb_shl<const N: u32>(self, a: Self::NB) -> Self::NB {
        op!(_mm256_sll_epi16(a, _mm_cvtsi32_si128(N as i32)))
    }
    #[inline(always)]
    fn nf_from_byte<const K: u32>(self, a: Self::NB) -> Self::NF {
        op!({
            let shifted = _mm256_srl_epi32(a, _mm_cvtsi32_si128(8 * K as i32));
            _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(0xff)))
        })
    }
    #[inline(always)]
    fn nf_from_signed_byte<const K: u32>(self, a: Self::NB) -> Self::NF {
        op!({
            let top = _mm256_sll_epi32(a, _mm_cvtsi32_si128(24 - 8 * K as i32));
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(top))
        })
    }
    #[inline(always)]
    fn nf_from_bits(self, a: Self::NI) -> Self::NF {
        op!(_mm256_castsi256_ps(a))
    }
    #[inline(always)]
    fn nb_lookup(self, table: &[u8; 16], index: __m256i) -> __m256i {
        self.b_lookup(table, index)
    }
    #[inline(always)]
    fn nb_signed(self, a: __m256i) -> __m256i {
        a
    }
    #[inline(always)]
    unsafe fn nb_rows_32(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [__m256i; 8] {
        let mut v = [self.b_splat(0); 8];
        for r in 0..8 {
            // SAFETY: the caller gives 32 readable bytes in each row.
            v[r] = unsafe { self.b_load(rows[r].add(offset)) };
        }
        self.transpose(v)
    }
    #[inline(always)]
    unsafe fn nb_rows_16(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [__m256i; 4] {
        // SAFETY: the caller gives 16 readable bytes in each row.
        unsafe {
            let two = |r: usize| {
                let at = |r: usize| _mm_loadu_si128(rows[r].add(offset).cast());
                _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(at(r)), at(r + 4))
            };
            let (v0, v1, v2, v3) = (two(0), two(1), two(2), two(3));
            let (a0, a1) = (_mm256_unpacklo_epi32(v0, v1), _mm256_unpackhi_epi32(v0, v1));
            let (b0, b1) = (_mm256_unpacklo_epi32(v2, v3), _mm256_unpackhi_epi32(v2, v3));
            [
                _mm256_unpacklo_epi64(a0, b0),
                _mm256_unpackhi_epi64(a0, b0),
                _mm256_unpacklo_epi64(a1, b1),
                _mm256_unpackhi_epi64(a1, b1),
            ]
        }
    }
    #[inline(always)]
    unsafe fn nb_rows_4(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> __m256i {
        let mut words = [0u32; 8];
        for r in 0..8 {
            // SAFETY: the caller gives 4 readable bytes in each row.
            words[r] = unsafe { rows[r].add(offset).cast::<u32>().read_unaligned() };
        }
        // SAFETY: the array has 32 bytes.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }
    #[inline(always)]
    fn nf_from_half<const K: u32>(self, a: __m256i) -> __m256 {
        op!({
            let low = _mm256_and_si256(
                _mm256_srl_epi32(a, _mm_cvtsi32_si128(16 * K as i32)),
                _mm256_set1_epi32(0xffff),
            );
            // The pack works within 128-bit halves: their results are eight bytes at 0 and eight at 16.
            let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        })
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
