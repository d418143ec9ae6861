//! Vectors of weight rows on AArch64: eight rows, two registers.
//!
//! With `sdot`, two vectors of weights by three input rows are twelve registers of integer sums and twelve of
//! f32 sums, beside four of weights and one of input. Without, a vector of 16-bit sums takes four registers,
//! and two input rows sixteen; the f32 sums wait in memory meanwhile.

use std::arch::aarch64::*;

use super::aarch64::{B, F, I};
use super::{LANES, Native, Neon, ROWS_MAX, Simd, Wide};

/// 16-bit lanes shifted left, or right for negative `n`.
#[inline(always)]
fn shift(a: B, n: i16) -> B {
    // SAFETY: the intrinsics touch registers only, and NEON is part of the architecture.
    unsafe {
        let n = vdupq_n_s16(n);
        [
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[0]), n)),
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a[1]), n)),
        ]
    }
}

/// 32-bit lanes shifted by `first`, then by `second`, left or for negative numbers right, filled with zeros.
#[inline(always)]
fn bits(a: B, first: i32, second: i32) -> I {
    // SAFETY: as above.
    unsafe {
        let (first, second) = (vdupq_n_s32(first), vdupq_n_s32(second));
        [
            vreinterpretq_s32_u32(vshlq_u32(vshlq_u32(vreinterpretq_u32_u8(a[0]), first), second)),
            vreinterpretq_s32_u32(vshlq_u32(vshlq_u32(vreinterpretq_u32_u8(a[1]), first), second)),
        ]
    }
}

/// The same, with the sign.
#[inline(always)]
fn signed_bits(a: B, first: i32, second: i32) -> I {
    // SAFETY: as above.
    unsafe {
        let (first, second) = (vdupq_n_s32(first), vdupq_n_s32(second));
        [
            vshlq_s32(vshlq_s32(vreinterpretq_s32_u8(a[0]), first), second),
            vshlq_s32(vshlq_s32(vreinterpretq_s32_u8(a[1]), first), second),
        ]
    }
}

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
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nf_load(self, p: *const f32) -> F {
            // SAFETY: as the caller says.
            unsafe { self.f_load(p) }
        }
        /// # Safety
        /// As the trait says.
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
        fn ni_splat(self, v: i32) -> I {
            self.i_splat(v)
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_load(self, p: *const u8) -> B {
            // SAFETY: as the caller says.
            unsafe { self.b_load(p) }
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_broadcast(self, p: *const i8) -> B {
            // SAFETY: the caller gives 4 readable bytes.
            unsafe { [vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned())); 2] }
        }
        #[inline(always)]
        fn prefetch_far(self, p: *const u8) {
            self.prefetch(p)
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_store(self, p: *mut u8, v: B) {
            // SAFETY: as the caller says.
            unsafe { self.b_store(p, v) }
        }
        #[inline(always)]
        fn nb_splat(self, v: u8) -> B {
            self.b_splat(v)
        }
        #[inline(always)]
        fn nb_and(self, a: B, b: B) -> B {
            self.b_and(a, b)
        }
        #[inline(always)]
        fn nb_or(self, a: B, b: B) -> B {
            self.b_or(a, b)
        }
        #[inline(always)]
        fn nb_shr<const N: u32>(self, a: B) -> B {
            shift(a, -(N as i16))
        }
        #[inline(always)]
        fn nb_shl<const N: u32>(self, a: B) -> B {
            shift(a, N as i16)
        }
        #[inline(always)]
        fn nb_lookup(self, table: &[u8; 16], index: B) -> B {
            self.b_lookup(table, index)
        }
        #[inline(always)]
        fn nb_signed(self, a: B) -> B {
            a
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_rows_32(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [B; 8] {
            let mut v = [self.b_splat(0); 8];
            for r in 0..8 {
                // SAFETY: the caller gives 32 readable bytes in each row.
                v[r] = unsafe { self.b_load(rows[r].add(offset)) };
            }
            self.transpose(v)
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_rows_16(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [B; 4] {
            // SAFETY: the caller gives 16 readable bytes in each row.
            unsafe {
                [
                    self.nb_rows_4(rows, offset),
                    self.nb_rows_4(rows, offset + 4),
                    self.nb_rows_4(rows, offset + 8),
                    self.nb_rows_4(rows, offset + 12),
                ]
            }
        }
        /// # Safety
        /// As the trait says.
        #[inline(always)]
        unsafe fn nb_rows_4(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> B {
            let mut words = [0u32; 8];
            for r in 0..8 {
                // SAFETY: the caller gives 4 readable bytes in each row.
                words[r] = unsafe { rows[r].add(offset).cast::<u32>().read_unaligned() };
            }
            // SAFETY: the array has 32 bytes.
            unsafe { self.b_load(words.as_ptr().cast()) }
        }
        #[inline(always)]
        fn nf_from_byte<const K: u32>(self, a: B) -> F {
            self.f_from_i(bits(a, 24 - 8 * K as i32, -24))
        }
        #[inline(always)]
        fn nf_from_signed_byte<const K: u32>(self, a: B) -> F {
            self.f_from_i(signed_bits(a, 24 - 8 * K as i32, -24))
        }
        #[inline(always)]
        fn nf_from_half<const K: u32>(self, a: B) -> F {
            let mut words = [0i32; 8];
            // SAFETY: the array has 8 elements.
            unsafe { self.i_store(words.as_mut_ptr(), bits(a, 16 - 16 * K as i32, -16)) };
            let mut halves = [0u16; 8];
            for k in 0..8 {
                halves[k] = words[k] as u16;
            }
            // SAFETY: as above.
            unsafe { self.f_load_f16(halves.as_ptr()) }
        }
        #[inline(always)]
        fn nf_from_bits(self, a: I) -> F {
            // SAFETY: the intrinsics touch registers only, and `self` proves that the CPU has them.
            unsafe { [vreinterpretq_f32_s32(a[0]), vreinterpretq_f32_s32(a[1])] }
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
    /// 16 bits for each byte of a vector, which get half of what the trait's limit allows: pairs of them fit,
    /// too.
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
