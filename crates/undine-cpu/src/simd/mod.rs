//! What an instruction set must offer the kernels: eight lanes of f32 or i32, thirty-two bytes, and the dot products
//! of unsigned weights with signed activations.
//!
//! A kernel is written once against [`Simd`], as a [`Kernel`], and compiled once per leaf inside a function with the
//! leaf's target features ([`Isa::run`]); everything it calls must be `#[inline(always)]` to be compiled with them.
//! Holding a leaf value proves that the CPU has the instructions. All leaves compute the same bits: integer sums are
//! exact, and every f32 operation (fused multiply-add included) is correctly rounded and in the same order.

mod portable;
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use portable::Portable;
pub use wide::{WIDE, Wide};
#[cfg(target_arch = "x86_64")]
pub use x86::X86;

/// Lanes of an f32 or i32 vector.
pub const LANES: usize = 8;

/// The operations. Lane `i` of a byte dot product is the sum of products `4 i .. 4 i + 4`.
pub trait Simd: Wide {
    /// 8 x f32.
    type F: Copy;
    /// 8 x i32.
    type I: Copy;
    /// 32 bytes.
    type B: Copy;
    /// Running sums of a byte dot product whose weights are small, one group of four products per lane.
    type D: Copy;

    /// All lanes `v`.
    fn f_splat(self, v: f32) -> Self::F;
    /// # Safety
    /// 8 floats are readable at `p`, any alignment.
    unsafe fn f_load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// 8 floats are writable at `p`, any alignment.
    unsafe fn f_store(self, p: *mut f32, v: Self::F);
    /// # Safety
    /// 8 half floats are readable at `p`, any alignment.
    unsafe fn f_load_f16(self, p: *const u16) -> Self::F;
    /// # Safety
    /// 8 half floats are writable at `p`, any alignment.
    unsafe fn f_store_f16(self, p: *mut u16, v: Self::F);
    /// # Safety
    /// 8 brain floats are readable at `p`, any alignment.
    unsafe fn f_load_bf16(self, p: *const u16) -> Self::F;
    /// Half floats at `p`, `p + stride`, ... (bytes), 8 of them.
    /// # Safety
    /// Two bytes are readable at each of the places.
    unsafe fn f_gather_f16(self, p: *const u8, stride: usize) -> Self::F;
    /// `a + b`.
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of each lane; lanes are never NaN.
    fn f_max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Absolute values.
    fn f_abs(self, a: Self::F) -> Self::F;
    /// `value` in lanes where `a > limit`, else 0.
    fn f_mask_above(self, a: Self::F, limit: Self::F, value: Self::F) -> Self::F;
    /// `then` in lanes where the sign of `a` is negative, else `other`.
    fn f_select_negative(self, a: Self::F, then: Self::F, other: Self::F) -> Self::F;
    /// The sum `((0+4)+(2+6)) + ((1+5)+(3+7))` of the lanes: the one order used everywhere.
    fn f_sum(self, a: Self::F) -> f32;
    /// The largest lane.
    fn f_max_lane(self, a: Self::F) -> f32;
    /// To f32, nearest.
    fn f_from_i(self, a: Self::I) -> Self::F;
    /// To i32, nearest even; the value fits.
    fn f_to_i(self, a: Self::F) -> Self::I;
    /// `2^n`, for `-127 < n < 128`.
    fn f_pow2(self, n: Self::I) -> Self::F;

    /// All lanes `v`.
    fn i_splat(self, v: i32) -> Self::I;
    /// # Safety
    /// 8 integers are readable at `p`, any alignment.
    unsafe fn i_load(self, p: *const i32) -> Self::I;
    /// # Safety
    /// 8 integers are writable at `p`, any alignment.
    unsafe fn i_store(self, p: *mut i32, v: Self::I);
    /// `a + b`.
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`.
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b`, low 32 bits.
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Sum of the lanes.
    fn i_sum(self, a: Self::I) -> i32;
    /// Lane `i` of the result is the sum of the lanes of `v[i]`.
    fn i_sum8(self, v: [Self::I; 8]) -> Self::I;
    /// Pairs of 16-bit lanes: lane `i` is `a[2i] b[2i] + a[2i+1] b[2i+1]`.
    fn i_madd16(self, a: Self::I, b: Self::I) -> Self::I;
    /// # Safety
    /// 4 bytes are readable at `p`.
    unsafe fn i_broadcast(self, p: *const i8) -> Self::I;
    /// Transposes eight vectors as an 8 x 8 matrix of 32-bit lanes.
    fn transpose(self, v: [Self::B; 8]) -> [Self::B; 8];

    /// # Safety
    /// 32 bytes are readable at `p`.
    unsafe fn b_load(self, p: *const u8) -> Self::B;
    /// 16 bytes at `low`, then 16 at `high`.
    /// # Safety
    /// 16 bytes are readable at each.
    unsafe fn b_load_halves(self, low: *const u8, high: *const u8) -> Self::B;
    /// The first 16 bytes of `low`, then the last 16 of `high`.
    fn b_blend_halves(self, low: Self::B, high: Self::B) -> Self::B;
    /// # Safety
    /// 32 bytes are writable at `p`.
    unsafe fn b_store(self, p: *mut u8, v: Self::B);
    /// All bytes `v`.
    fn b_splat(self, v: u8) -> Self::B;
    /// `a & b`.
    fn b_and(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a | b`.
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B;
    /// `a ^ b`.
    fn b_xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// 16-bit lanes shifted right by `N`; mask afterwards.
    fn b_shr<const N: i32>(self, a: Self::B) -> Self::B;
    /// 16-bit lanes shifted left by `N`; mask afterwards.
    fn b_shl<const N: i32>(self, a: Self::B) -> Self::B;
    /// Byte `i` is `0xff` where bit `i` of `bits` is set.
    fn b_from_bits(self, bits: u32) -> Self::B;
    /// Byte `i` is `table[index[i]]`; indices below 16.
    fn b_lookup(self, table: &[u8; 16], index: Self::B) -> Self::B;
    /// Four vectors of i32, saturated to signed bytes, in order.
    fn b_pack(self, v: [Self::I; 4]) -> Self::B;
    /// The same bits as lanes of i32.
    fn b_as_i(self, a: Self::B) -> Self::I;

    /// Products of `w` (unsigned, at most 127) with `a` (signed, at least -127), summed by four.
    fn dot_small(self, w: Self::B, a: Self::B) -> Self::I;
    /// The same for any unsigned `w`.
    fn dot_wide(self, w: Self::B, a: Self::B) -> Self::I;
    /// [`Self::dot_small`] with the low 16 products times `scales[0]` and the high 16 times `scales[1]`; `w` at most 63.
    fn dot_scaled(self, w: Self::B, a: Self::B, scales: [i16; 2]) -> Self::I;

    /// No products yet.
    fn d_zero(self) -> Self::D;
    /// Adds products of `w` with `a`, summed by four. At most `32768 / (2 * 127 * max w)` times before [`Self::d_scale`].
    fn d_step(self, sum: Self::D, w: Self::B, a: Self::I) -> Self::D;
    /// The sums times a scale per lane. The scale stands twice in each lane, in both 16-bit halves.
    fn d_scale(self, sum: Self::D, scale: Self::I) -> Self::I;
    /// The sums.
    fn d_finish(self, sum: Self::D) -> Self::I;
    /// `sum +` products of any unsigned `w` with `a`, summed by four.
    fn dot_wide_step(self, sum: Self::I, w: Self::B, a: Self::I) -> Self::I;
    /// A scale as [`Self::d_scale`] wants it, as ordinary i32 lanes.
    fn scale_lanes(self, scale: Self::I) -> Self::I;
}

/// A computation written once for every leaf. Implement `run` with `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// The computation.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// The instruction set in use. Holding one proves that the CPU has it.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// AVX2, FMA, F16C and the VNNI byte dot product on 256-bit registers.
    #[cfg(target_arch = "x86_64")]
    Vnni(X86<true>),
    /// AVX2, FMA, F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(X86<false>),
    /// Plain Rust: every CPU, slow.
    Portable(Portable),
}

impl Isa {
    /// The best this CPU has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All this CPU has, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(X86::<true>::detect().map(Self::Vnni));
            found.extend(X86::<false>::detect().map(Self::Avx2));
        }
        found.push(Self::Portable(Portable));
        found
    }

    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(_) => "avx2+vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Portable(_) => "portable",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(s) => s.run_vnni(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.run_avx2(kernel),
            Self::Portable(s) => kernel.run(s),
        }
    }
}
