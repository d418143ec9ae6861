//! The AArch64 leaf: NEON, with or without the byte dot product (`sdot`).
//!
//! Tested under emulation only, and never timed: what is said here of registers is counted, not measured. A
//! vector of the traits is two 128-bit registers. Byte products are of signed bytes; small weights are at
//! most 127, so they are signed bytes too, and no weights need an offset. Without `sdot` products are made in
//! 16 bits and summed in pairs there, which 2 x 128 x 127 does not overflow.

use std::arch::aarch64::*;
use std::arch::asm;
use std::arch::is_aarch64_feature_detected;

use super::{Kernel, Simd};

/// Proof of NEON, and of its dot product if `DOT`.
#[derive(Clone, Copy, Debug)]
pub struct Neon<const DOT: bool>(());

impl Neon<false> {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    /// Runs a kernel with the features switched on.
    #[inline]
    pub fn run_neon<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "neon")]
        fn call<K: Kernel>(s: Neon<false>, kernel: K) -> K::Out {
            kernel.run(s)
        }
        // SAFETY: `self` proves the features.
        unsafe { call(self, kernel) }
    }
}

impl Neon<true> {
    /// The proof, if this CPU can give it.
    pub fn detect() -> Option<Self> {
        (is_aarch64_feature_detected!("dotprod") && Neon::<false>::detect().is_some()).then_some(Self(()))
    }

    /// Runs a kernel with the features switched on.
    #[inline]
    pub fn run_dotprod<K: Kernel>(self, kernel: K) -> K::Out {
        #[target_feature(enable = "neon,dotprod")]
        fn call<K: Kernel>(s: Neon<true>, kernel: K) -> K::Out {
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

/// One such intrinsic on both halves of each vector.
macro_rules! both {
    ($f:path, $($v:expr),+) => {
        op!([$f($($v[0]),+), $f($($v[1]),+)])
    };
}

/// Eight lanes.
pub(super) type F = [float32x4_t; 2];
/// Eight lanes.
pub(super) type I = [int32x4_t; 2];
/// 32 bytes.
pub(super) type B = [uint8x16_t; 2];

/// `sum +` products of signed bytes, summed by four. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn sdot(mut sum: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction touches registers only, and the caller has it.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {a:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// The same without `sdot`: each pair of products fits 16 bits.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn dot_in_16_bits(sum: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
    vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, a)))
}

/// Transposes a 4 x 4 matrix.
#[inline]
#[target_feature(enable = "neon")]
fn transpose_4(v: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // Pairs of rows, two by two: `a` has columns 0 and 2 of rows 0 and 1, `b` columns 1 and 3.
    let a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
    let b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
    let c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
    let d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
    [
        vreinterpretq_f32_f64(vzip1q_f64(a, c)),
        vreinterpretq_f32_f64(vzip1q_f64(b, d)),
        vreinterpretq_f32_f64(vzip2q_f64(a, c)),
        vreinterpretq_f32_f64(vzip2q_f64(b, d)),
    ]
}

impl<const DOT: bool> Simd for Neon<DOT> {
    type F = F;
    type I = I;
    type B = B;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn f_splat(self, v: f32) -> F {
        op!([vdupq_n_f32(v); 2])
    }
    #[inline(always)]
    unsafe fn f_load(self, p: *const f32) -> F {
        // SAFETY: the caller gives 8 readable floats.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn f_store(self, p: *mut f32, v: F) {
        // SAFETY: the caller gives 8 writable floats.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn f_load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller gives 8 readable half floats.
        unsafe {
            let v = vreinterpretq_f16_u16(vld1q_u16(p));
            [vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)]
        }
    }
    #[inline(always)]
    unsafe fn f_store_f16(self, p: *mut u16, v: F) {
        // SAFETY: the caller gives 8 writable half floats.
        unsafe { vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v[0]), v[1]))) }
    }
    #[inline(always)]
    unsafe fn f_load_bf16(self, p: *const u16) -> F {
        // SAFETY: the caller gives 8 readable brain floats.
        unsafe {
            let (zero, v) = (vdupq_n_u16(0), vld1q_u16(p));
            [vreinterpretq_f32_u16(vzip1q_u16(zero, v)), vreinterpretq_f32_u16(vzip2q_u16(zero, v))]
        }
    }
    #[inline(always)]
    unsafe fn f_splat_f16(self, p: *const u8) -> F {
        // SAFETY: the caller gives two readable bytes.
        unsafe { [vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(p.cast::<u16>().read_unaligned()))); 2] }
    }
    #[inline(always)]
    unsafe fn f_gather_f16<const STRIDE: usize, const AT: usize>(self, p: *const u8) -> F {
        // SAFETY: the caller gives eight blocks of `STRIDE` bytes.
        let at = |k: usize| unsafe { p.add(k * STRIDE + AT).cast::<u16>().read_unaligned() };
        // Two chains of four inserts instead of one of eight.
        op!({
            let (mut low, mut high) = (vdup_n_u16(at(0)), vdup_n_u16(at(4)));
            (low, high) = (vset_lane_u16::<1>(at(1), low), vset_lane_u16::<1>(at(5), high));
            (low, high) = (vset_lane_u16::<2>(at(2), low), vset_lane_u16::<2>(at(6), high));
            (low, high) = (vset_lane_u16::<3>(at(3), low), vset_lane_u16::<3>(at(7), high));
            [vcvt_f32_f16(vreinterpret_f16_u16(low)), vcvt_f32_f16(vreinterpret_f16_u16(high))]
        })
    }
    #[inline(always)]
    fn f_add(self, a: F, b: F) -> F {
        both!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn f_sub(self, a: F, b: F) -> F {
        both!(vsubq_f32, a, b)
    }
    #[inline(always)]
    fn f_mul(self, a: F, b: F) -> F {
        both!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn f_div(self, a: F, b: F) -> F {
        both!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn f_fma(self, a: F, b: F, c: F) -> F {
        both!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn f_max(self, a: F, b: F) -> F {
        both!(vmaxq_f32, a, b)
    }
    #[inline(always)]
    fn f_abs(self, a: F) -> F {
        both!(vabsq_f32, a)
    }
    #[inline(always)]
    fn f_mask_above(self, a: F, limit: F, value: F) -> F {
        let above = both!(vcgtq_f32, a, limit);
        let bits = both!(vreinterpretq_u32_f32, value);
        let kept = both!(vandq_u32, above, bits);
        both!(vreinterpretq_f32_u32, kept)
    }
    #[inline(always)]
    fn f_select_negative(self, a: F, then: F, other: F) -> F {
        let bits = both!(vreinterpretq_s32_f32, a);
        let negative = both!(vcltzq_s32, bits);
        both!(vbslq_f32, negative, then, other)
    }
    #[inline(always)]
    fn f_sum(self, a: F) -> f32 {
        op!({
            let four = vaddq_f32(a[0], a[1]);
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        })
    }
    #[inline(always)]
    fn f_max_lane(self, a: F) -> f32 {
        op!(vmaxvq_f32(vmaxq_f32(a[0], a[1])))
    }
    #[inline(always)]
    fn f_from_i(self, a: I) -> F {
        both!(vcvtq_f32_s32, a)
    }
    #[inline(always)]
    fn f_to_i(self, a: F) -> I {
        both!(vcvtnq_s32_f32, a)
    }
    #[inline(always)]
    fn f_pow2(self, n: I) -> F {
        let biased = self.i_shl(self.i_add(n, self.i_splat(127)), 23);
        both!(vreinterpretq_f32_s32, biased)
    }

    #[inline(always)]
    fn i_splat(self, v: i32) -> I {
        op!([vdupq_n_s32(v); 2])
    }
    #[inline(always)]
    unsafe fn i_load(self, p: *const i32) -> I {
        // SAFETY: the caller gives 8 readable integers.
        unsafe { [vld1q_s32(p), vld1q_s32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn i_store(self, p: *mut i32, v: I) {
        // SAFETY: the caller gives 8 writable integers.
        unsafe {
            vst1q_s32(p, v[0]);
            vst1q_s32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    fn i_add(self, a: I, b: I) -> I {
        both!(vaddq_s32, a, b)
    }
    #[inline(always)]
    fn i_sub(self, a: I, b: I) -> I {
        both!(vsubq_s32, a, b)
    }
    #[inline(always)]
    fn i_shl(self, a: I, n: u32) -> I {
        let n = self.i_splat(n as i32);
        both!(vshlq_s32, a, n)
    }
    #[inline(always)]
    fn i_sum(self, a: I) -> i32 {
        op!(vaddvq_s32(vaddq_s32(a[0], a[1])))
    }
    #[inline(always)]
    fn i_sum8_halves<const MAX: u32>(self, v: [I; 8]) -> [I; 2] {
        let mut sums = [self.i_splat(0); 2];
        for (half, sums) in sums.iter_mut().enumerate() {
            *sums = op!([
                vpaddq_s32(vpaddq_s32(v[0][half], v[1][half]), vpaddq_s32(v[2][half], v[3][half])),
                vpaddq_s32(vpaddq_s32(v[4][half], v[5][half]), vpaddq_s32(v[6][half], v[7][half])),
            ]);
        }
        sums
    }
    #[inline(always)]
    unsafe fn i_load_pairs(self, p: *const i8) -> [I; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let v = vld1q_s8(p);
            // Each 16-bit lane is a pair: the even byte is its low one, the odd byte its high one.
            let pairs = vreinterpretq_s16_s8(v);
            let even = vshrq_n_s16::<8>(vshlq_n_s16::<8>(pairs));
            let odd = vshrq_n_s16::<8>(pairs);
            [
                [vmovl_s16(vget_low_s16(even)), vmovl_high_s16(even)],
                [vmovl_s16(vget_low_s16(odd)), vmovl_high_s16(odd)],
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_unpack_6bit(self, p: *const u8) -> [I; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        let [a, b, c] = unsafe { p.cast::<[u32; 3]>().read_unaligned() };
        // Scales are the low six bits of a, then nibbles of c below the top bits of a; mins likewise of b.
        let bytes = [
            [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030],
            [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030],
        ];
        let mut out = [self.i_splat(0); 2];
        for i in 0..2 {
            let eight = u64::from(bytes[i][0]) | u64::from(bytes[i][1]) << 32;
            out[i] = op!({
                let words = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(eight)));
                [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)]
            });
        }
        out
    }
    #[inline(always)]
    fn transpose(self, v: [B; 8]) -> [B; 8] {
        let mut floats = [self.f_splat(0.0); 8];
        for i in 0..8 {
            floats[i] = both!(vreinterpretq_f32_u8, v[i]);
        }
        let floats = self.f_transpose(floats);
        let mut out = v;
        for i in 0..8 {
            out[i] = both!(vreinterpretq_u8_f32, floats[i]);
        }
        out
    }
    #[inline(always)]
    fn f_transpose(self, v: [F; 8]) -> [F; 8] {
        let mut out = v;
        for half in 0..2 {
            // Four columns of all rows are four rows of the result.
            let low = op!(transpose_4([v[0][half], v[1][half], v[2][half], v[3][half]]));
            let high = op!(transpose_4([v[4][half], v[5][half], v[6][half], v[7][half]]));
            for i in 0..4 {
                out[4 * half + i] = [low[i], high[i]];
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> B {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { [vld1q_u8(p), vld1q_u8(p.add(16))] }
    }
    #[inline(always)]
    unsafe fn b_nibbles(self, p: *const u8) -> B {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let v = vld1q_u8(p);
            [vandq_u8(v, vdupq_n_u8(15)), vshrq_n_u8::<4>(v)]
        }
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, v: B) {
        // SAFETY: the caller gives 32 writable bytes.
        unsafe {
            vst1q_u8(p, v[0]);
            vst1q_u8(p.add(16), v[1]);
        }
    }
    #[inline(always)]
    fn b_splat(self, v: u8) -> B {
        op!([vdupq_n_u8(v); 2])
    }
    #[inline(always)]
    fn b_and(self, a: B, b: B) -> B {
        both!(vandq_u8, a, b)
    }
    #[inline(always)]
    fn b_or(self, a: B, b: B) -> B {
        both!(vorrq_u8, a, b)
    }
    #[inline(always)]
    fn b_xor(self, a: B, b: B) -> B {
        both!(veorq_u8, a, b)
    }
    /// Bytes are shifted alone: what would come from the next one is masked off anyway, and often no mask is
    /// left.
    #[inline(always)]
    fn b_shr<const N: i32>(self, a: B) -> B {
        both!(vshrq_n_u8::<N>, a)
    }
    #[inline(always)]
    fn b_shl<const N: i32>(self, a: B) -> B {
        both!(vshlq_n_u8::<N>, a)
    }
    #[inline(always)]
    fn b_from_bits(self, bits: u32) -> B {
        op!({
            // Every byte gets the byte of `bits` its bit is in, and is tested for it.
            let bytes = vreinterpretq_u8_u32(vdupq_n_u32(bits));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let low = vcombine_u8(vdup_laneq_u8::<0>(bytes), vdup_laneq_u8::<1>(bytes));
            let high = vcombine_u8(vdup_laneq_u8::<2>(bytes), vdup_laneq_u8::<3>(bytes));
            [vtstq_u8(low, bit), vtstq_u8(high, bit)]
        })
    }
    #[inline(always)]
    fn b_lookup(self, table: &[u8; 16], index: B) -> B {
        // SAFETY: the table has the 16 bytes that are read; the rest touches registers only.
        unsafe {
            let table = vld1q_u8(table.as_ptr());
            [vqtbl1q_u8(table, index[0]), vqtbl1q_u8(table, index[1])]
        }
    }
    #[inline(always)]
    fn b_pack(self, v: [I; 4]) -> B {
        let mut out = self.b_splat(0);
        for half in 0..2 {
            let (a, b) = (v[2 * half], v[2 * half + 1]);
            out[half] = op!({
                let a = vqmovn_high_s32(vqmovn_s32(a[0]), a[1]);
                let b = vqmovn_high_s32(vqmovn_s32(b[0]), b[1]);
                vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(a), b))
            });
        }
        out
    }
    #[inline(always)]
    fn b_signed(self, a: B) -> B {
        a
    }

    #[inline(always)]
    fn dot_small(self, w: B, a: B) -> I {
        self.dot_signed(w, a)
    }
    #[inline(always)]
    fn dot_signed(self, w: B, a: B) -> I {
        self.dot_add(self.i_splat(0), w, a)
    }
}

impl<const DOT: bool> Neon<DOT> {
    /// `sum +` products of signed bytes, summed by four.
    #[inline(always)]
    pub(super) fn dot_add(self, sum: I, w: B, a: B) -> I {
        let (w, a) = (both!(vreinterpretq_s8_u8, w), both!(vreinterpretq_s8_u8, a));
        if DOT { both!(sdot, sum, w, a) } else { both!(dot_in_16_bits, sum, w, a) }
    }
}
