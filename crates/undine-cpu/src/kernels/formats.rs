//! How each quantized format gives its weights to the kernels: as unsigned bytes in natural order, with scales.
//!
//! A weight is `d * (q - OFFSET) + m` in the 32-value formats and `d * sc * (q - OFFSET) - dmin * mn` in the 256-value
//! ones, with `sc` and `mn` per 16 or 32 values. The offset never touches the products: the sum of the activations is
//! known, so `sum (q - OFFSET) a = sum q a - OFFSET sum a`, exactly, in integers.
//! Layouts as documented in `undine_core::quant`.

use half::f16;
use undine_core::DType;
use undine_core::quant::IQ4_VALUES;

use crate::simd::Simd;

/// A quantized format.
pub trait Format: Copy + Send + Sync + 'static {
    /// Which.
    const DTYPE: DType;
    /// The largest `q`.
    const MAX: u32;
    /// What a stored zero weight is.
    const OFFSET: i32;
    /// How many products of `q` fit into 16 bits before they must be widened ([`Simd::d_step`]); 0: not even one pair.
    const STEPS: usize = if Self::MAX > 128 { 0 } else { (32767 / (2 * 127 * Self::MAX)) as usize };

    /// The 32 values of sub-block `sub` of the block at `block`.
    /// # Safety
    /// A whole block is readable at `block` and `sub` is within it.
    unsafe fn quants<S: Simd>(s: S, block: *const u8, sub: usize) -> S::B;
}

/// A format with blocks of 32 values.
pub trait Format32: Format {
    /// Whether there is an `m`.
    const HAS_MIN: bool;
    /// Where `m` is within the block, in bytes; `d` is at 0. Both are half floats.
    const MIN_AT: usize = 2;
}

/// Scales of a block of 256 values, per 16 values.
#[derive(Clone, Copy)]
pub struct Scales256 {
    /// `d`.
    pub d: f32,
    /// `-dmin`, 0 without mins.
    pub neg_dmin: f32,
    /// `sc`.
    pub sc: [i16; 16],
    /// `mn`.
    pub mn: [i16; 16],
}

/// A format with blocks of 256 values.
pub trait Format256: Format {
    /// Whether there are `mn`.
    const HAS_MIN: bool;
    /// Values that share a scale: 16 or 32.
    const SUB: usize;

    /// # Safety
    /// A whole block is readable at `block`.
    unsafe fn scales(block: *const u8) -> Scales256;
}

/// A half float, widened.
/// # Safety
/// 2 bytes are readable at `p`.
#[inline(always)]
unsafe fn half_at(p: *const u8) -> f32 {
    // SAFETY: the caller gives two readable bytes.
    f16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32()
}

/// 32 nibbles: the low ones of 16 bytes, then the high ones.
/// # Safety
/// 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, p: *const u8) -> S::B {
    // SAFETY: as the caller says. Only the upper half of `shifted` is used, the lower half of `both`.
    let both = unsafe { s.b_load_halves(p, p) };
    s.b_and(s.b_blend_halves(both, s.b_shr::<4>(both)), s.b_splat(15))
}

macro_rules! format {
    ($name:ident, $dtype:ident, max $max:literal, offset $offset:literal, |$s:ident, $p:ident, $sub:ident| $quants:expr) => {
        #[doc = concat!("`", stringify!($dtype), "`.")]
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Format for $name {
            const DTYPE: DType = DType::$dtype;
            const MAX: u32 = $max;
            const OFFSET: i32 = $offset;

            #[inline(always)]
            unsafe fn quants<S: Simd>($s: S, $p: *const u8, $sub: usize) -> S::B {
                let _ = $sub;
                // SAFETY: the caller gives a whole block, and every offset is within the format's block size.
                unsafe { $quants }
            }
        }
    };
}

format!(Q4_0, Q4_0, max 15, offset 8, |s, p, sub| nibbles(s, p.add(2)));
format!(Q4_1, Q4_1, max 15, offset 0, |s, p, sub| nibbles(s, p.add(4)));
format!(Q5_0, Q5_0, max 31, offset 16, |s, p, sub| fifth_bit(s, nibbles(s, p.add(6)), p.add(2)));
format!(Q5_1, Q5_1, max 31, offset 0, |s, p, sub| fifth_bit(s, nibbles(s, p.add(8)), p.add(4)));
format!(Q8_0, Q8_0, max 255, offset 128, |s, p, sub| s.b_xor(s.b_load(p.add(2)), s.b_splat(0x80)));
format!(IQ4_NL, IQ4_NL, max 241, offset 128, |s, p, sub| s.b_lookup(&IQ4_UNSIGNED, nibbles(s, p.add(2))));
format!(Q2_K, Q2_K, max 3, offset 0, |s, p, sub| s.b_and(crumbs(s, s.b_load(p.add(16 + sub / 4 * 32)), sub), s.b_splat(3)));
format!(Q3_K, Q3_K, max 7, offset 4, |s, p, sub| {
    let low = s.b_and(crumbs(s, s.b_load(p.add(32 + sub / 4 * 32)), sub), s.b_splat(3));
    s.b_or(low, s.b_and(bit_to::<_, 2>(s, s.b_load(p), sub), s.b_splat(4)))
});
format!(Q4_K, Q4_K, max 15, offset 0, |s, p, sub| half_bytes(s, s.b_load(p.add(16 + sub / 2 * 32)), sub % 2));
format!(Q5_K, Q5_K, max 31, offset 0, |s, p, sub| {
    let low = half_bytes(s, s.b_load(p.add(48 + sub / 2 * 32)), sub % 2);
    s.b_or(low, s.b_and(bit_to::<_, 4>(s, s.b_load(p.add(16)), sub), s.b_splat(16)))
});
format!(Q6_K, Q6_K, max 63, offset 32, |s, p, sub| {
    let low = half_bytes(s, s.b_load(p.add(sub / 4 * 64 + sub % 2 * 32)), sub % 4 / 2);
    let high = s.b_load(p.add(128 + sub / 4 * 32));
    let high = match sub % 4 {
        0 => s.b_shl::<4>(high),
        1 => s.b_shl::<2>(high),
        2 => high,
        _ => s.b_shr::<2>(high),
    };
    s.b_or(low, s.b_and(high, s.b_splat(0x30)))
});
format!(IQ4_XS, IQ4_XS, max 241, offset 128, |s, p, sub| s.b_lookup(&IQ4_UNSIGNED, nibbles(s, p.add(8 + sub * 16))));

/// The codebook of the IQ4 formats, shifted to unsigned bytes.
const IQ4_UNSIGNED: [u8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (IQ4_VALUES[i] as i32 + 128) as u8;
        i += 1;
    }
    table
};

impl Format32 for Q4_0 {
    const HAS_MIN: bool = false;
}
impl Format32 for Q4_1 {
    const HAS_MIN: bool = true;
}
impl Format32 for Q5_0 {
    const HAS_MIN: bool = false;
}
impl Format32 for Q5_1 {
    const HAS_MIN: bool = true;
}
impl Format32 for Q8_0 {
    const HAS_MIN: bool = false;
}
impl Format32 for IQ4_NL {
    const HAS_MIN: bool = false;
}

impl Format256 for Q2_K {
    const HAS_MIN: bool = true;
    const SUB: usize = 16;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block of 84 bytes.
        let (packed, d, dmin) =
            unsafe { (block.cast::<[u8; 16]>().read(), half_at(block.add(80)), half_at(block.add(82))) };
        Scales256 {
            d,
            neg_dmin: -dmin,
            sc: packed.map(|v| i16::from(v & 15)),
            mn: packed.map(|v| i16::from(v >> 4)),
        }
    }
}

impl Format256 for Q3_K {
    const HAS_MIN: bool = false;
    const SUB: usize = 16;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block of 110 bytes.
        let (packed, d) = unsafe { (block.add(96).cast::<[u8; 12]>().read(), half_at(block.add(108))) };
        let sc = std::array::from_fn(|k| {
            let low = packed[k % 8] >> (k / 8 * 4) & 15;
            let high = packed[8 + k % 4] >> (k / 4 * 2) & 3;
            i16::from(low | high << 4) - 32
        });
        Scales256 { d, neg_dmin: 0.0, sc, mn: [0; 16] }
    }
}

/// Scales of Q4_K and Q5_K: `d`, `dmin`, then twelve bytes of 6-bit scales and mins.
/// # Safety
/// 16 bytes are readable at `block`.
#[inline(always)]
unsafe fn scales_6bit(block: *const u8) -> Scales256 {
    // SAFETY: the caller gives a block with its 16 bytes of scales in front.
    let (d, dmin, a, b, c) = unsafe {
        let word = |at: usize| block.add(at).cast::<u32>().read_unaligned();
        (half_at(block), half_at(block.add(2)), word(4), word(8), word(12))
    };
    // Four bytes at a time: the low six bits of words a and b, and of the rest the nibbles of c with two bits of a, b.
    let low = 0x3f3f_3f3f;
    let sc = [a & low, c & 0x0f0f_0f0f | (a >> 6 & 0x0303_0303) << 4];
    let mn = [b & low, c >> 4 & 0x0f0f_0f0f | (b >> 6 & 0x0303_0303) << 4];
    let spread = |words: [u32; 2]| std::array::from_fn(|k| (words[k / 8] >> (k / 2 % 4 * 8) & 0xff) as i16);
    Scales256 { d, neg_dmin: -dmin, sc: spread(sc), mn: spread(mn) }
}

impl Format256 for Q4_K {
    const HAS_MIN: bool = true;
    const SUB: usize = 32;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block.
        unsafe { scales_6bit(block) }
    }
}

impl Format256 for Q5_K {
    const HAS_MIN: bool = true;
    const SUB: usize = 32;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block.
        unsafe { scales_6bit(block) }
    }
}

impl Format256 for Q6_K {
    const HAS_MIN: bool = false;
    const SUB: usize = 16;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block of 210 bytes.
        let (packed, d) = unsafe { (block.add(192).cast::<[i8; 16]>().read(), half_at(block.add(208))) };
        Scales256 { d, neg_dmin: 0.0, sc: packed.map(i16::from), mn: [0; 16] }
    }
}

impl Format256 for IQ4_XS {
    const HAS_MIN: bool = false;
    const SUB: usize = 32;

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> Scales256 {
        // SAFETY: the caller gives a whole block of 136 bytes.
        let (d, high, low) = unsafe {
            (
                half_at(block),
                block.add(2).cast::<u16>().read_unaligned(),
                block.add(4).cast::<u32>().read_unaligned(),
            )
        };
        let sc = std::array::from_fn(|k| {
            let sub = k / 2;
            (low >> (4 * sub) & 15) as i16 + ((high >> (2 * sub) & 3) << 4) as i16 - 32
        });
        Scales256 { d, neg_dmin: 0.0, sc, mn: [0; 16] }
    }
}

/// Adds 16 where the bit at `bits` is set.
/// # Safety
/// 4 bytes are readable at `bits`.
#[inline(always)]
unsafe fn fifth_bit<S: Simd>(s: S, low: S::B, bits: *const u8) -> S::B {
    // SAFETY: as the caller says.
    let bits = unsafe { bits.cast::<u32>().read_unaligned() };
    s.b_or(low, s.b_and(s.b_from_bits(bits), s.b_splat(16)))
}

/// Low (0) or high (1) nibbles.
#[inline(always)]
fn half_bytes<S: Simd>(s: S, v: S::B, high: usize) -> S::B {
    s.b_and(if high == 0 { v } else { s.b_shr::<4>(v) }, s.b_splat(15))
}

/// Moves the `sub % 4`-th pair of bits of each byte down; the bits above are not cleared.
#[inline(always)]
fn crumbs<S: Simd>(s: S, v: S::B, sub: usize) -> S::B {
    match sub % 4 {
        0 => v,
        1 => s.b_shr::<2>(v),
        2 => s.b_shr::<4>(v),
        _ => s.b_shr::<6>(v),
    }
}

/// Moves bit `sub` of each byte to bit `TO`; the other bits are not cleared.
#[inline(always)]
fn bit_to<S: Simd, const TO: usize>(s: S, v: S::B, sub: usize) -> S::B {
    match sub as i32 - TO as i32 {
        -4 => s.b_shl::<4>(v),
        -3 => s.b_shl::<3>(v),
        -2 => s.b_shl::<2>(v),
        -1 => s.b_shl::<1>(v),
        0 => v,
        1 => s.b_shr::<1>(v),
        2 => s.b_shr::<2>(v),
        3 => s.b_shr::<3>(v),
        4 => s.b_shr::<4>(v),
        _ => s.b_shr::<5>(v),
    }
}
