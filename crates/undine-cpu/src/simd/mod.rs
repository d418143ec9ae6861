//! What an instruction set must offer the kernels: eight lanes of f32 or i32, thirty-two bytes, and the dot
//! products of weights with signed activations ([`Simd`]); and the widest vectors it has, for products of
//! many rows ([`Native`]).
//!
//! A kernel is written once against [`Simd`], as a [`Kernel`], and compiled once per leaf inside a function
//! with the leaf's target features ([`Isa::run`]); everything it calls must be `#[inline(always)]` to be
//! compiled with them. Holding a leaf value proves that the CPU has the instructions. All leaves compute the
//! same bits: integer sums are exact, and every f32 operation (fused multiply-add included) is correctly
//! rounded and in the same order.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
mod aarch64_native;
#[cfg(target_arch = "aarch64")]
mod aarch64_wide;
mod portable;
#[cfg(test)]
mod tests;
mod wide;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_native;

#[cfg(target_arch = "aarch64")]
pub use aarch64::Neon;
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
    /// What [`Self::b_signed`] adds to signed weights.
    const SIGNED_OFFSET: i32;

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
    /// All lanes the half float at `p`.
    /// # Safety
    /// 2 bytes are readable at `p`.
    unsafe fn f_splat_f16(self, p: *const u8) -> Self::F;
    /// The half floats at `AT` in eight blocks of `STRIDE` bytes.
    /// # Safety
    /// `8 * STRIDE` bytes are readable at `p`, and `AT + 2` is at most `STRIDE`.
    unsafe fn f_gather_f16<const STRIDE: usize, const AT: usize>(self, p: *const u8) -> Self::F;
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
    /// Lanes shifted left by `n` below 32.
    fn i_shl(self, a: Self::I, n: u32) -> Self::I;
    /// Sum of the lanes.
    fn i_sum(self, a: Self::I) -> i32;
    /// Lane `i` of the results is the sum of the first and of the last four lanes of `v[i]`, which are sums
    /// of four products of weights of at most `MAX` with activations.
    fn i_sum8_halves<const MAX: u32>(self, v: [Self::I; 8]) -> [Self::I; 2];
    /// 16 signed bytes: those at even places, and those at odd ones.
    /// # Safety
    /// 16 bytes are readable at `p`.
    unsafe fn i_load_pairs(self, p: *const i8) -> [Self::I; 2];
    /// The eight 6-bit scales and the eight mins of Q4_K and Q5_K (`undine_core::quant`).
    /// # Safety
    /// 16 bytes are readable at `p`; the first twelve count.
    unsafe fn i_unpack_6bit(self, p: *const u8) -> [Self::I; 2];
    /// Transposes eight vectors as an 8 x 8 matrix of 32-bit lanes.
    fn transpose(self, v: [Self::B; 8]) -> [Self::B; 8];
    /// The same for floats.
    fn f_transpose(self, v: [Self::F; 8]) -> [Self::F; 8];

    /// # Safety
    /// 32 bytes are readable at `p`.
    unsafe fn b_load(self, p: *const u8) -> Self::B;
    /// The low nibbles of 16 bytes, then the high ones.
    /// # Safety
    /// 16 bytes are readable at `p`.
    unsafe fn b_nibbles(self, p: *const u8) -> Self::B;
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
    /// Signed weights in the form that [`Self::dot_signed`] wants.
    fn b_signed(self, a: Self::B) -> Self::B;

    /// Products of `w` (unsigned, at most 127) with `a` (signed, at least -127), summed by four.
    fn dot_small(self, w: Self::B, a: Self::B) -> Self::I;
    /// Products of what [`Self::b_signed`] made with `a` (signed, at least -127), summed by four.
    fn dot_signed(self, w: Self::B, a: Self::B) -> Self::I;
}

/// Lanes of the widest vectors at the most.
pub const ROWS_MAX: usize = 16;

/// The widest vectors of an instruction set: one weight row per lane, four bytes of it at a time.
pub trait Native: Simd {
    /// Lanes of a vector: a multiple of [`LANES`], at most [`ROWS_MAX`].
    const ROWS: usize;
    /// Input rows that, with two vectors of weight rows, fill the registers: 2, 3 or 6.
    const INPUTS: usize;
    /// Whether products of small weights are summed in 32 bits at once.
    const SUMS_IN_32_BITS: bool;
    /// `ROWS` x f32.
    type NF: Copy;
    /// `ROWS` x i32.
    type NI: Copy;
    /// `ROWS` x 4 bytes.
    type NB: Copy;
    /// Running sums of products of small weights.
    type D: Copy;

    /// All lanes `v`.
    fn nf_splat(self, v: f32) -> Self::NF;
    /// # Safety
    /// `ROWS` floats are readable at `p`, any alignment.
    unsafe fn nf_load(self, p: *const f32) -> Self::NF;
    /// # Safety
    /// `ROWS` floats are writable at `p`, any alignment.
    unsafe fn nf_store(self, p: *mut f32, v: Self::NF);
    /// `a + b`.
    fn nf_add(self, a: Self::NF, b: Self::NF) -> Self::NF;
    /// `a * b`.
    fn nf_mul(self, a: Self::NF, b: Self::NF) -> Self::NF;
    /// `a * b + c`, rounded once.
    fn nf_fma(self, a: Self::NF, b: Self::NF, c: Self::NF) -> Self::NF;
    /// All lanes `v`.
    fn ni_splat(self, v: i32) -> Self::NI;
    /// # Safety
    /// `4 * ROWS` bytes are readable at `p`.
    unsafe fn nb_load(self, p: *const u8) -> Self::NB;
    /// Four bytes in all lanes.
    /// # Safety
    /// 4 bytes are readable at `p`.
    unsafe fn nb_broadcast(self, p: *const i8) -> Self::NB;
    /// Asks for a line, into the second-level cache, that will be read in some microseconds; any address will
    /// do.
    fn prefetch_far(self, p: *const u8);
    /// # Safety
    /// `4 * ROWS` bytes are writable at `p`.
    unsafe fn nb_store(self, p: *mut u8, v: Self::NB);
    /// All bytes `v`.
    fn nb_splat(self, v: u8) -> Self::NB;
    /// `a & b`.
    fn nb_and(self, a: Self::NB, b: Self::NB) -> Self::NB;
    /// `a | b`.
    fn nb_or(self, a: Self::NB, b: Self::NB) -> Self::NB;
    /// 16-bit lanes shifted right by `N`; mask afterwards.
    fn nb_shr<const N: u32>(self, a: Self::NB) -> Self::NB;
    /// 16-bit lanes shifted left by `N`; mask afterwards.
    fn nb_shl<const N: u32>(self, a: Self::NB) -> Self::NB;
    /// Byte `i` is `table[index[i]]`; indices below 16.
    fn nb_lookup(self, table: &[u8; 16], index: Self::NB) -> Self::NB;
    /// As [`Simd::b_signed`].
    fn nb_signed(self, a: Self::NB) -> Self::NB;
    /// 32 bytes of each row, at the same offset: vector `k` has the `k`-th four bytes of each.
    /// # Safety
    /// 32 bytes are readable at `offset` from each of the first `ROWS` pointers.
    unsafe fn nb_rows_32(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [Self::NB; 8];
    /// 16 bytes of each row, as above.
    /// # Safety
    /// 16 bytes are readable at `offset` from each of the first `ROWS` pointers.
    unsafe fn nb_rows_16(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [Self::NB; 4];
    /// 4 bytes of each row.
    /// # Safety
    /// 4 bytes are readable at `offset` from each of the first `ROWS` pointers.
    unsafe fn nb_rows_4(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> Self::NB;
    /// Byte `K` of each lane, without sign.
    fn nf_from_byte<const K: u32>(self, a: Self::NB) -> Self::NF;
    /// Byte `K` of each lane, with sign.
    fn nf_from_signed_byte<const K: u32>(self, a: Self::NB) -> Self::NF;
    /// The half float in the low (0) or high (1) half of each lane.
    fn nf_from_half<const K: u32>(self, a: Self::NB) -> Self::NF;
    /// The same bits as floats.
    fn nf_from_bits(self, a: Self::NI) -> Self::NF;
    /// No products yet.
    fn d_zero(self) -> Self::D;
    /// Sums to begin with; only where [`Self::SUMS_IN_32_BITS`].
    fn d_from(self, sum: Self::NI) -> Self::D;
    /// Adds products of `w` (unsigned, at most 127) with `a` (signed, at least -127), summed by four. Without
    /// [`Self::SUMS_IN_32_BITS`] at most `32767 / (2 * 127 * max w)` times.
    fn d_step(self, sum: Self::D, w: Self::NB, a: Self::NB) -> Self::D;
    /// `sum + d`, or `d` if that began with `sum`.
    fn d_add(self, sum: Self::NI, d: Self::D) -> Self::NI;
    /// `sum +` products of what [`Simd::b_signed`] made with `a`.
    fn d_step_signed(self, sum: Self::NI, w: Self::NB, a: Self::NB) -> Self::NI;
}

/// A computation written once for every leaf. Implement `run` with `#[inline(always)]`.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// The computation.
    fn run<S: Native>(self, s: S) -> Self::Out;
}

/// The instruction set in use. Holding one proves that the CPU has it.
#[derive(Clone, Copy, Debug)]
pub enum Isa {
    /// AVX-512 with the VNNI byte dot product; 256-bit registers but for products of many rows.
    #[cfg(target_arch = "x86_64")]
    Vnni(X86<true>),
    /// AVX2, FMA, F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(X86<false>),
    /// NEON with the byte dot product.
    #[cfg(target_arch = "aarch64")]
    NeonDot(Neon<true>),
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<false>),
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
        #[cfg(target_arch = "aarch64")]
        {
            found.extend(Neon::<true>::detect().map(Self::NeonDot));
            found.extend(Neon::<false>::detect().map(Self::Neon));
        }
        found.push(Self::Portable(Portable));
        found
    }

    /// What to call it.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(_) => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            Self::Portable(_) => "portable",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            Self::Portable(s) => kernel.run(s),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            _ => self.run_on_vectors(kernel),
        }
    }

    /// The same for a kernel that plain Rust has another one for, so that it is not compiled for that. Panics
    /// there.
    #[inline]
    pub fn run_on_vectors<K: Kernel>(self, kernel: K) -> K::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(s) => s.run_vnni(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.run_avx2(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot(s) => s.run_dotprod(kernel),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(s) => s.run_neon(kernel),
            Self::Portable(_) => unreachable!("plain Rust has kernels of one row"),
        }
    }
}
