//! Sixteen lanes of f32 on AArch64: four registers.

use std::arch::aarch64::*;
use std::arch::asm;

use super::wide::two_eights;
use super::{Neon, Simd, Wide};

impl<const DOT: bool> Wide for Neon<DOT> {
    type W = [[float32x4_t; 2]; 2];
    const REGISTERS: usize = 8;
    two_eights!();

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
    fn w_round(self, a: Self::W) -> Self::W {
        let mut out = a;
        for eight in 0..2 {
            for four in 0..2 {
                // SAFETY: the intrinsic touches registers only, and `self` proves that the CPU has it.
                out[eight][four] = unsafe { vrndnq_f32(a[eight][four]) };
            }
        }
        out
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
