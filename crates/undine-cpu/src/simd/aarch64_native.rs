//! Vectors of weight rows on AArch64: eight rows, two registers.
//!
//! With `sdot`, two vectors of weights by three input rows are twelve registers of integer sums and twelve of f32 sums,
//! beside four of weights and one of input. Without, a vector of 16-bit sums takes four registers, and two input rows
//! sixteen; the f32 sums wait in memory meanwhile.

use std::arch::aarch64::*;

use super::aarch64::{B, F, I};
use super::{LANES, Native, Neon, Simd};

/// What both have in common.
macro_rules! native {
    () => {
        const ROWS: usize = LANES;
        type NF = F;
        type NI = I;
        type NB = B;

        #[inline(always)]
        fn nf_splat(self, v: f32) -> F {
            self.f_splat(v)
        }
        #[inline(always)]
        unsafe fn nf_load(self, p: *const f32) -> F {
            // SAFETY: as the caller says.
            unsafe { self.f_load(p) }
        }
        #[inline(always)]
        unsafe fn nf_store(self, p: *mut f32, v: F) {
            // SAFETY: as the caller says.
            unsafe { self.f_store(p, v) }
        }
        #[inline(always)]
        fn nf_add(self, a: F, b: F) -> F {
            self.f_add(a, b)
        }
        #[inline(always)]
        fn nf_mul(self, a: F, b: F) -> F {
            self.f_mul(a, b)
        }
        #[inline(always)]
        fn nf_fma(self, a: F, b: F, c: F) -> F {
            self.f_fma(a, b, c)
        }
        #[inline(always)]
        fn nf_from_i(self, a: I) -> F {
            self.f_from_i(a)
        }
        #[inline(always)]
        fn ni_splat(self, v: i32) -> I {
            self.i_splat(v)
        }
        #[inline(always)]
        unsafe fn nb_load(self, p: *const u8) -> B {
            // SAFETY: as the caller says.
            unsafe { self.b_load(p) }
        }
        #[inline(always)]
        unsafe fn nb_broadcast(self, p: *const i8) -> B {
            // SAFETY: the caller gives 4 readable bytes.
            unsafe { [vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())); 2] }
        }
        #[inline(always)]
        fn d_step_signed(self, sum: I, w: B, a: B) -> I {
            self.dot_add(sum, w, a)
        }
    };
}

impl Native for Neon<true> {
    native!();
    const INPUTS: usize = 3;
    const SUMS_IN_32_BITS: bool = true;
    type D = I;

    #[inline(always)]
    fn d_zero(self) -> I {
        self.i_splat(0)
    }
    #[inline(always)]
    fn d_from(self, sum: I) -> I {
        sum
    }
    #[inline(always)]
    fn d_step(self, sum: I, w: B, a: B) -> I {
        self.dot_add(sum, w, a)
    }
    #[inline(always)]
    fn d_add(self, _: I, d: I) -> I {
        d
    }
}

impl Native for Neon<false> {
    native!();
    const INPUTS: usize = 2;
    const SUMS_IN_32_BITS: bool = false;
    /// 16 bits for each byte of a vector, which get half of what the trait's limit allows: pairs of them fit, too.
    type D = [[int16x8_t; 2]; 2];

    #[inline(always)]
    fn d_zero(self) -> Self::D {
        // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
        unsafe { [[vdupq_n_s16(0); 2]; 2] }
    }
    #[inline(always)]
    fn d_from(self, _: I) -> Self::D {
        unreachable!("sums of 16 bits begin with zero")
    }
    #[inline(always)]
    fn d_step(self, mut sum: Self::D, w: B, a: B) -> Self::D {
        for i in 0..2 {
            // SAFETY: the intrinsics touch registers only, and `self` proves that the CPU has them.
            unsafe {
                let (w, a) = (vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_u8(a[i]));
                sum[i][0] = vmlal_s8(sum[i][0], vget_low_s8(w), vget_low_s8(a));
                sum[i][1] = vmlal_high_s8(sum[i][1], w, a);
            }
        }
        sum
    }
    #[inline(always)]
    fn d_add(self, mut sum: I, d: Self::D) -> I {
        for i in 0..2 {
            // SAFETY: the intrinsics touch registers only, and `self` proves that the CPU has them.
            sum[i] = unsafe { vpadalq_s16(sum[i], vpaddq_s16(d[i][0], d[i][1])) };
        }
        sum
    }
}
