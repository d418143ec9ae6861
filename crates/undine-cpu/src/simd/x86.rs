//! The x86-64 leaf: AVX2, FMA and F16C, with or without the VNNI byte dot product.
//!
//! Without VNNI a byte dot product is `vpmaddubsw` (unsigned x signed, pairs summed in 16 bits with
//! saturation) followed by `vpmaddwd`. Signed weights give their sign to the activation first (`vpsignb`), so
//! that no pair saturates; with VNNI they are made unsigned by adding 128.

use std::arch::x86_64::*;

use super::{Kernel, Simd, Wide};

/// Proof of AVX2, FMA and F16C, and of AVX-512 VNNI on 256-bit registers if `VNNI`.
#[derive(Clone, Copy, Debug)]
pub struct X86<const VNNI: bool>(());

impl X86<false> {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    /// Runs a kernel with the features switched on.
    #[inline]
    pub fn run_avx2<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn call<K: Kernel>(s: X86<false>, kernel: K) -> K::Out {
            kernel.run(s)
        }
        // SAFETY: `self` proves the features.
        unsafe { call(self, kernel) }
    }
}

impl X86<true> {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        let vnni = is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw");
        (vnni && X86::<false>::detect().is_some()).then_some(Self(()))
    }

    /// Runs a kernel with the features switched on.
    #[inline]
    pub fn run_vnni<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        fn call<K: Kernel>(s: X86<true>, kernel: K) -> K::Out {
            kernel.run(s)
        }
        // SAFETY: `self` proves the features.
        unsafe { call(self, kernel) }
    }
}

/// One intrinsic that works on registers only.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
        unsafe { $e }
    };
}

impl<const VNNI: bool> Simd for X86<VNNI>
where
    Self: Wide,
{
    type F = __m256;
    type I = __m256i;
    type B = __m256i;
    const SIGNED_OFFSET: i32 = if VNNI { 128 } else { 0 };

    #[inline(always)]
    fn f_splat(self, v: f32) -> __m256 {
        op!(_mm256_set1_ps(v))
    }
    #[inline(always)]
    unsafe fn f_load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller gives 8 readable floats.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn f_store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller gives 8 writable floats.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn f_load_f16(self, p: *const u16) -> __m256 {
        // SAFETY: the caller gives 8 readable half floats.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn f_store_f16(self, p: *mut u16, v: __m256) {
        // SAFETY: the caller gives 8 writable half floats.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn f_load_bf16(self, p: *const u16) -> __m256 {
        // SAFETY: the caller gives 8 readable brain floats.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn f_splat_f16(self, p: *const u8) -> __m256 {
        // SAFETY: the caller gives two readable bytes.
        unsafe {
            let bits = i32::from(p.cast::<i16>().read_unaligned());
            _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
        }
    }
    #[inline(always)]
    unsafe fn f_gather_f16<const STRIDE: usize, const AT: usize>(self, p: *const u8) -> __m256 {
        // Each load has the wanted half float where its lane is, so that blends gather them.
        // SAFETY: the loads begin at `p + AT` or later and end at `p + 7 * STRIDE + AT + 2` or before.
        unsafe {
            let at = |k: usize| _mm_loadu_si128(p.add(k * STRIDE + AT - 2 * k).cast());
            let mut v = at(0);
            v = _mm_blend_epi16::<0x02>(v, at(1));
            v = _mm_blend_epi16::<0x04>(v, at(2));
            v = _mm_blend_epi16::<0x08>(v, at(3));
            v = _mm_blend_epi16::<0x10>(v, at(4));
            v = _mm_blend_epi16::<0x20>(v, at(5));
            v = _mm_blend_epi16::<0x40>(v, at(6));
            v = _mm_blend_epi16::<0x80>(v, at(7));
            _mm256_cvtph_ps(v)
        }
    }
    #[inline(always)]
    fn f_add(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn f_sub(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn f_mul(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn f_div(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn f_fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        op!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn f_max(self, a: __m256, b: __m256) -> __m256 {
        op!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn f_abs(self, a: __m256) -> __m256 {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }
    #[inline(always)]
    fn f_mask_above(self, a: __m256, limit: __m256, value: __m256) -> __m256 {
        op!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, limit), value))
    }
    #[inline(always)]
    fn f_select_negative(self, a: __m256, then: __m256, other: __m256) -> __m256 {
        op!(_mm256_blendv_ps(other, then, a))
    }
    #[inline(always)]
    fn f_sum(self, a: __m256) -> f32 {
        op!({
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn f_max_lane(self, a: __m256) -> f32 {
        op!({
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        })
    }
    #[inline(always)]
    fn f_from_i(self, a: __m256i) -> __m256 {
        op!(_mm256_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn f_to_i(self, a: __m256) -> __m256i {
        op!(_mm256_cvtps_epi32(a))
    }
    #[inline(always)]
    fn f_pow2(self, n: __m256i) -> __m256 {
        op!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)))))
    }

    #[inline(always)]
    fn i_splat(self, v: i32) -> __m256i {
        op!(_mm256_set1_epi32(v))
    }
    #[inline(always)]
    unsafe fn i_load(self, p: *const i32) -> __m256i {
        // SAFETY: the caller gives 8 readable integers.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn i_store(self, p: *mut i32, v: __m256i) {
        // SAFETY: the caller gives 8 writable integers.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    fn i_add(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn i_sub(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn i_shl(self, a: __m256i, n: u32) -> __m256i {
        op!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn i_sum(self, a: __m256i) -> i32 {
        op!({
            let four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
        })
    }
    #[inline(always)]
    fn i_sum8_halves<const MAX: u32>(self, v: [__m256i; 8]) -> [__m256i; 2] {
        // Sums of pairs, of two vectors at a time. Packing to 16 bits where they fit is one shuffle instead
        // of the two of a horizontal addition, and shuffles are what these kernels have too many of.
        let fits = |products: u32| products * MAX * 127 <= i16::MAX as u32;
        op!({
            let pairs = |a, b, fits| {
                if fits {
                    _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1))
                } else {
                    _mm256_hadd_epi32(a, b)
                }
            };
            let (one, two) = (fits(4), fits(8));
            let a = pairs(pairs(v[0], v[1], one), pairs(v[2], v[3], one), two);
            let b = pairs(pairs(v[4], v[5], one), pairs(v[6], v[7], one), two);
            [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
        })
    }
    #[inline(always)]
    unsafe fn i_load_pairs(self, p: *const i8) -> [__m256i; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
            let v = _mm_shuffle_epi8(_mm_loadu_si128(p.cast()), order);
            [_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v))]
        }
    }
    #[inline(always)]
    unsafe fn i_unpack_6bit(self, p: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            // Words a, b, c: scales are the low six bits of a, then nibbles of c below the top bits of a;
            // mins likewise of b.
            let v = _mm_loadu_si128(p.cast());
            let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b10_01_10_00>(v), _mm_setr_epi32(0, 0, 0, 4));
            let low = _mm_and_si128(low, _mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f));
            let top = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b01_01_00_00>(v));
            let top = _mm_and_si128(top, _mm_setr_epi32(0, 0x3030_3030, 0, 0x3030_3030));
            let bytes = _mm_or_si128(low, top);
            [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))]
        }
    }
    #[inline(always)]
    fn transpose(self, v: [__m256i; 8]) -> [__m256i; 8] {
        op!({
            let pair = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let quad = |a, b| (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            let ((a0, a1), (a2, a3)) = (pair(v[0], v[1]), pair(v[2], v[3]));
            let ((a4, a5), (a6, a7)) = (pair(v[4], v[5]), pair(v[6], v[7]));
            let ((b0, b1), (b2, b3)) = (quad(a0, a2), quad(a1, a3));
            let ((b4, b5), (b6, b7)) = (quad(a4, a6), quad(a5, a7));
            let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
            let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
            [
                low(b0, b4),
                low(b1, b5),
                low(b2, b6),
                low(b3, b7),
                high(b0, b4),
                high(b1, b5),
                high(b2, b6),
                high(b3, b7),
            ]
        })
    }

    #[inline(always)]
    fn f_transpose(self, v: [__m256; 8]) -> [__m256; 8] {
        op!({
            let mut bits = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                bits[i] = _mm256_castps_si256(v[i]);
            }
            let bits = self.transpose(bits);
            let mut out = v;
            for i in 0..8 {
                out[i] = _mm256_castsi256_ps(bits[i]);
            }
            out
        })
    }

    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> __m256i {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn b_nibbles(self, p: *const u8) -> __m256i {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast()));
            let shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
            _mm256_and_si256(shifted, _mm256_set1_epi8(15))
        }
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, v: __m256i) {
        // SAFETY: the caller gives 32 writable bytes.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    fn b_splat(self, v: u8) -> __m256i {
        op!(_mm256_set1_epi8(v as i8))
    }
    #[inline(always)]
    fn b_and(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn b_or(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn b_xor(self, a: __m256i, b: __m256i) -> __m256i {
        op!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn b_shr<const N: i32>(self, a: __m256i) -> __m256i {
        op!(_mm256_srli_epi16::<N>(a))
    }
    #[inline(always)]
    fn b_shl<const N: i32>(self, a: __m256i) -> __m256i {
        op!(_mm256_slli_epi16::<N>(a))
    }
    #[inline(always)]
    fn b_from_bits(self, bits: u32) -> __m256i {
        op!({
            // Every byte gets the byte of `bits` its bit is in, all other bits are set, and 0xff means: it
            // was 1.
            let spread =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), spread);
            let others = _mm256_set1_epi64x(0x7fbf_dfef_f7fb_fdfe);
            _mm256_cmpeq_epi8(_mm256_or_si256(bytes, others), _mm256_set1_epi8(-1))
        })
    }
    #[inline(always)]
    fn b_lookup(self, table: &[u8; 16], index: __m256i) -> __m256i {
        // SAFETY: the table has the 16 bytes that are read; the rest touches registers only.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, index)
        }
    }
    #[inline(always)]
    fn b_pack(self, v: [__m256i; 4]) -> __m256i {
        op!({
            // The packs work within 128-bit halves; the permutation puts the groups of four back in order.
            let words = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
            _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        })
    }
    #[inline(always)]
    fn b_signed(self, a: __m256i) -> __m256i {
        if VNNI { self.b_xor(a, self.b_splat(0x80)) } else { a }
    }

    #[inline(always)]
    fn dot_small(self, w: __m256i, a: __m256i) -> __m256i {
        op!(if VNNI {
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, a)
        } else {
            _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1))
        })
    }
    #[inline(always)]
    fn dot_signed(self, w: __m256i, a: __m256i) -> __m256i {
        op!(if VNNI {
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, a)
        } else {
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
            _mm256_madd_epi16(products, _mm256_set1_epi16(1))
        })
    }
}
