//! Sixteen lanes of f32 on AArch64: four registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Neon, Simd, Wide};

/// Vectors of eight lanes in a wide one.
const EIGHTS: usize = 2;

/// An operation of eight lanes on each half of wide vectors.
macro_rules! both {
    ($s:ident.$f:ident($($v:expr),+)) => {
        [$s.$f($($v[0]),+), $s.$f($($v[1]),+)]
    };
}

impl<const DOT: bool> Wide for Neon<DOT> {
    type W = [[float32x4_t; 2]; EIGHTS];
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn w_splat(self, v: f32) -> Self::W {
        [self.f_splat(v); EIGHTS]
    }
    #[inline(always)]
    unsafe fn w_load(self, p: *const f32) -> Self::W {
        // SAFETY: the caller gives 16 readable floats.
        unsafe { [self.f_load(p), self.f_load(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn w_store(self, p: *mut f32, v: Self::W) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe {
            self.f_store(p, v[0]);
            self.f_store(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn w_load_f16(self, p: *const u16) -> Self::W {
        // SAFETY: the caller gives 16 readable half floats.
        unsafe { [self.f_load_f16(p), self.f_load_f16(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn w_load_bf16(self, p: *const u16) -> Self::W {
        // SAFETY: the caller gives 16 readable brain floats.
        unsafe { [self.f_load_bf16(p), self.f_load_bf16(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn w_load_i8(self, p: *const i8) -> Self::W {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe {
            let bytes = vld1q_s8(p);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let low = [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low)];
            let high = [vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)];
            [self.f_from_i(low), self.f_from_i(high)]
        }
    }
    #[inline(always)]
    fn w_add(self, a: Self::W, b: Self::W) -> Self::W {
        both!(self.f_add(a, b))
    }
    #[inline(always)]
    fn w_sub(self, a: Self::W, b: Self::W) -> Self::W {
        both!(self.f_sub(a, b))
    }
    #[inline(always)]
    fn w_mul(self, a: Self::W, b: Self::W) -> Self::W {
        both!(self.f_mul(a, b))
    }
    #[inline(always)]
    fn w_fma(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
        both!(self.f_fma(a, b, c))
    }
    #[inline(always)]
    fn w_max(self, a: Self::W, b: Self::W) -> Self::W {
        both!(self.f_max(a, b))
    }
    #[inline(always)]
    fn w_round(self, a: Self::W) -> Self::W {
        let mut out = a;
        for eight in 0..EIGHTS {
            for four in 0..2 {
                // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
                out[eight][four] = unsafe { vrndnq_f32(a[eight][four]) };
            }
        }
        out
    }
    #[inline(always)]
    fn w_scale2(self, a: Self::W, n: Self::W) -> Self::W {
        let low = self.f_pow2(self.f_to_i(n[0]));
        let high = self.f_pow2(self.f_to_i(n[1]));
        [self.f_mul(a[0], low), self.f_mul(a[1], high)]
    }
    #[inline(always)]
    fn w_mask_above(self, a: Self::W, limit: Self::W, value: Self::W) -> Self::W {
        both!(self.f_mask_above(a, limit, value))
    }
    /// The intrinsic is not stable yet.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch may name any address and changes no value.
        unsafe {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p.addr(), options(nomem, nostack, preserves_flags))
        };
    }
}
