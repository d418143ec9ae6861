//! How each quantized format gives its weights to the kernels: as bytes in natural order, with scales.
//!
//! Every format is seen as blocks of 32 values, eight of them a group. A weight is `s * (q - OFFSET) + m`,
//! where `s` and `m` are exact in f32 (a half float times an integer of at most 8 bits) and belong to 32 or
//! to 16 values. Small formats give unsigned `q` of at most 7 bits; signed formats give all 8 bits. The
//! offset never touches the products: the sum of the activations is known, so `sum (q - OFFSET) a = sum q a -
//! OFFSET sum a`, exactly, in integers. Layouts as documented in `undine_core::quant`.

use undine_core::DType;
use undine_core::quant::{IQ4_VALUES, iq2_xxs_values, iq3_s_values};

use super::each_block;
use super::rows::weights;
use crate::simd::{LANES, Native, ROWS_MAX, Simd};

/// Groups of four bytes in a block.
pub const QUADS: usize = 8;

/// Scales of a group: lane `b` of `s[h]` and `m[h]` belongs to block `b`, or to its half `h` if
/// [`Format::HALVES`].
#[derive(Clone, Copy)]
pub struct Scales<S: Simd> {
    /// Factors.
    pub s: [S::F; 2],
    /// Summands; of use only if [`Format::HAS_MIN`].
    pub m: [S::F; 2],
}

/// A quantized format.
pub trait Format: Copy + Send + Sync + 'static {
    /// Values and bytes of a block.
    const BLOCK: [usize; 2];
    /// The largest `q` of a small format; [`SIGNED`] for signed ones.
    const MAX: u32;
    /// What a stored zero weight is.
    const OFFSET: i32;
    /// Whether there is an `m`.
    const HAS_MIN: bool;
    /// Whether the two halves of a block have scales of their own.
    const HALVES: bool;
    /// Bytes of a group of 256 values.
    const GROUP_BYTES: usize = 256 / Self::BLOCK[0] * Self::BLOCK[1];

    /// The 32 values of block `block` of the group at `group`.
    /// # Safety
    /// A whole group is readable at `group`, and `block` is below 8.
    unsafe fn quants<S: Simd>(s: S, group: *const u8, block: usize) -> S::B;

    /// The scales of the group.
    /// # Safety
    /// A whole group is readable at `group`.
    unsafe fn scales<S: Simd>(s: S, group: *const u8) -> Scales<S>;

    /// The values of a group of `S::ROWS` rows, four bytes of each at a time.
    /// # Safety
    /// A whole group is readable at each of these rows, and `to` has room for it.
    unsafe fn pack<S: Native>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place);

    /// The scales of a group of `S::ROWS` rows.
    /// # Safety
    /// As [`Self::pack`].
    #[inline(always)]
    unsafe fn pack_scales<S: Native>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place) {
        for first in (0..S::ROWS).step_by(LANES) {
            let (mut factors, mut mins) = ([[s.f_splat(0.0); LANES]; 2], [[s.f_splat(0.0); LANES]; 2]);
            for lane in 0..LANES {
                // SAFETY: the caller gives a whole group.
                let scales = unsafe { Self::scales(s, rows[first + lane]) };
                for half in 0..2 {
                    factors[half][lane] = scales.s[half];
                    mins[half][lane] = scales.m[half];
                }
            }
            for half in 0..if Self::HALVES { 2 } else { 1 } {
                let (factors, mins) = (s.f_transpose(factors[half]), s.f_transpose(mins[half]));
                for b in 0..LANES {
                    // SAFETY: the caller gives room.
                    unsafe {
                        s.f_store(to.factor::<S>(b, half).add(first), factors[b]);
                        if Self::HAS_MIN {
                            s.f_store(to.min::<S>(b, half).add(first), mins[b]);
                        }
                    }
                }
            }
        }
    }
}

/// Where a group of some rows belongs in a panel.
pub struct Place {
    /// First row's bytes of the first block, `[block][quad][row][4]`.
    pub quants: *mut u8,
    /// First row's factor of the first block, `[block][half][row]`.
    pub factors: *mut f32,
    /// First row's min of the first block, `[block][half][row]`.
    pub mins: *mut f32,
    /// Where each block of the group stands in that order.
    pub blocks: [usize; LANES],
}

impl Place {
    /// # Safety
    /// The panel has room for the block, and the quad is below [`QUADS`].
    #[inline(always)]
    unsafe fn put<S: Native>(&self, s: S, block: usize, quad: usize, v: S::NB) {
        // SAFETY: the caller gives room.
        unsafe { s.nb_store(self.quants.add((self.blocks[block] * QUADS + quad) * 2 * S::ROWS * 4), v) };
    }

    /// # Safety
    /// The panel has room for the block.
    #[inline(always)]
    unsafe fn factor<S: Native>(&self, block: usize, half: usize) -> *mut f32 {
        // SAFETY: the caller gives room.
        unsafe { self.factors.add((self.blocks[block] * 2 + half) * 2 * S::ROWS) }
    }

    /// # Safety
    /// The panel has room for the block.
    #[inline(always)]
    unsafe fn min<S: Native>(&self, block: usize, half: usize) -> *mut f32 {
        // SAFETY: the caller gives room.
        unsafe { self.mins.add((self.blocks[block] * 2 + half) * 2 * S::ROWS) }
    }
}

/// Packs by way of the natural order.
/// # Safety
/// As [`Format::pack`].
#[inline(always)]
pub(super) unsafe fn pack_natural<S: Native, F: Format>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place) {
    for first in (0..S::ROWS).step_by(LANES) {
        each_block!(B, {
            let mut q = [s.b_splat(0); LANES];
            for lane in 0..LANES {
                // SAFETY: the caller gives a whole group.
                q[lane] = unsafe { weights::<S, F>(s, rows[first + lane], B) };
            }
            let q = s.transpose(q);
            for quad in 0..QUADS {
                // SAFETY: the caller gives room.
                unsafe {
                    let block = to.quants.add((to.blocks[B] * QUADS + quad) * 2 * S::ROWS * 4);
                    s.b_store(block.add(first * 4), q[quad]);
                }
            }
        });
    }
}

/// Packs blocks of 16 bytes of nibbles, the low ones first, which begin at `at + block * stride`.
/// # Safety
/// As [`Format::pack`].
#[inline(always)]
unsafe fn pack_nibbles<S: Native, const TABLE: bool>(
    s: S,
    rows: &[*const u8; ROWS_MAX],
    to: &Place,
    [at, stride]: [usize; 2],
) {
    for block in 0..LANES {
        // SAFETY: the caller gives a whole group, and room.
        unsafe {
            let both = s.nb_rows_16(rows, at + block * stride);
            for quad in 0..QUADS {
                let q = both[quad % 4];
                let q = s.nb_and(if quad < 4 { q } else { s.nb_shr::<4>(q) }, s.nb_splat(15));
                to.put(s, block, quad, if TABLE { s.nb_signed(s.nb_lookup(&IQ4_BYTES, q)) } else { q });
            }
        }
    }
}

/// [`Format::MAX`] of formats whose `q` are signed bytes.
pub const SIGNED: u32 = 128;

macro_rules! format {
    (
        $name:ident { max $max:expr, offset $offset:literal, min $min:literal, halves $halves:literal }
        quants |$s:ident, $p:ident, $b:ident| $quants:expr,
        scales |$s2:ident, $p2:ident| $scales:expr,
        pack |$s3:ident, $rows:ident, $to:ident| $pack:expr
        $(, pack_scales |$s4:ident, $rows4:ident, $to4:ident| $pack_scales:expr)?
    ) => {
        #[doc = concat!("`", stringify!($name), "`.")]
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy)]
        pub struct $name;

        impl Format for $name {
            const BLOCK: [usize; 2] = [DType::$name.block_elems(), DType::$name.block_bytes()];
            const MAX: u32 = $max;
            const OFFSET: i32 = $offset;
            const HAS_MIN: bool = $min;
            const HALVES: bool = $halves;

            #[inline(always)]
            unsafe fn quants<S: Simd>($s: S, $p: *const u8, $b: usize) -> S::B {
                // SAFETY: the caller gives a whole group, and every offset is within it.
                unsafe { $quants }
            }

            #[inline(always)]
            unsafe fn scales<S: Simd>($s2: S, $p2: *const u8) -> Scales<S> {
                // SAFETY: as above.
                unsafe { $scales }
            }

            #[inline(always)]
            unsafe fn pack<S: Native>($s3: S, $rows: &[*const u8; ROWS_MAX], $to: &Place) {
                // SAFETY: as above, for each row; the caller gives room.
                unsafe { $pack }
            }

            $(#[inline(always)]
            unsafe fn pack_scales<S: Native>($s4: S, $rows4: &[*const u8; ROWS_MAX], $to4: &Place) {
                // SAFETY: as above.
                unsafe { $pack_scales }
            })?
        }
    };
}

/// Scales of eight blocks of `BYTES` bytes with `d` in front.
/// # Safety
/// Eight blocks are readable at `p`.
#[inline(always)]
unsafe fn d_only<S: Simd, const BYTES: usize>(s: S, p: *const u8) -> Scales<S> {
    // SAFETY: as the caller says.
    let d = unsafe { s.f_gather_f16::<BYTES, 0>(p) };
    Scales { s: [d, d], m: [d, d] }
}

/// Scales of eight blocks of `BYTES` bytes with `d` and `m` in front.
/// # Safety
/// Eight blocks are readable at `p`.
#[inline(always)]
unsafe fn d_and_m<S: Simd, const BYTES: usize>(s: S, p: *const u8) -> Scales<S> {
    // SAFETY: as the caller says.
    let (d, m) = unsafe { (s.f_gather_f16::<BYTES, 0>(p), s.f_gather_f16::<BYTES, 2>(p)) };
    Scales { s: [d, d], m: [m, m] }
}

format!(Q4_0 { max 15, offset 8, min false, halves false }
    quants |s, p, b| s.b_nibbles(p.add(b * 18 + 2)),
    scales |s, p| d_only::<S, 18>(s, p),
    pack |s, rows, to| pack_nibbles::<S, false>(s, rows, to, [2, 18]));
format!(Q4_1 { max 15, offset 0, min true, halves false }
    quants |s, p, b| s.b_nibbles(p.add(b * 20 + 4)),
    scales |s, p| d_and_m::<S, 20>(s, p),
    pack |s, rows, to| pack_nibbles::<S, false>(s, rows, to, [4, 20]));
format!(Q5_0 { max 31, offset 16, min false, halves false }
    quants |s, p, b| fifth_bit(s, s.b_nibbles(p.add(b * 22 + 6)), p.add(b * 22 + 2)),
    scales |s, p| d_only::<S, 22>(s, p),
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));
format!(Q5_1 { max 31, offset 0, min true, halves false }
    quants |s, p, b| fifth_bit(s, s.b_nibbles(p.add(b * 24 + 8)), p.add(b * 24 + 4)),
    scales |s, p| d_and_m::<S, 24>(s, p),
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));
format!(Q8_0 { max SIGNED, offset 0, min false, halves false }
quants |s, p, b| s.b_load(p.add(b * 34 + 2)),
scales |s, p| d_only::<S, 34>(s, p),
pack |s, rows, to| {
    for block in 0..LANES {
        let q = s.nb_rows_32(rows, block * 34 + 2);
        for quad in 0..QUADS {
            to.put(s, block, quad, s.nb_signed(q[quad]));
        }
    }
});
format!(IQ4_NL { max SIGNED, offset 0, min false, halves false }
    quants |s, p, b| s.b_lookup(&IQ4_BYTES, s.b_nibbles(p.add(b * 18 + 2))),
    scales |s, p| d_only::<S, 18>(s, p),
    pack |s, rows, to| pack_nibbles::<S, true>(s, rows, to, [2, 18]));
format!(Q2_K { max 3, offset 0, min true, halves true }
quants |s, p, b| s.b_and(crumbs(s, s.b_load(p.add(16 + b / 4 * 32)), b), s.b_splat(3)),
scales |s, p| {
    let (d, neg_dmin) = (s.f_splat_f16(p.add(80)), s.f_sub(s.f_splat(0.0), s.f_splat_f16(p.add(82))));
    let packed = p.cast::<[u8; 16]>().read();
    let (mut sc, mut mn) = ([0i8; 16], [0i8; 16]);
    for k in 0..16 {
        sc[k] = (packed[k] & 15) as i8;
        mn[k] = (packed[k] >> 4) as i8;
    }
    let (sc, mn) = (s.i_load_pairs(sc.as_ptr()), s.i_load_pairs(mn.as_ptr()));
    Scales { s: times(s, sc, d), m: times(s, mn, neg_dmin) }
},
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));
format!(Q3_K { max 7, offset 4, min false, halves true }
quants |s, p, b| {
    let low = s.b_and(crumbs(s, s.b_load(p.add(32 + b / 4 * 32)), b), s.b_splat(3));
    s.b_or(low, s.b_and(bit_to::<_, 2>(s, s.b_load(p), b), s.b_splat(4)))
},
scales |s, p| {
    let (packed, d) = (p.add(96).cast::<[u8; 12]>().read(), s.f_splat_f16(p.add(108)));
    let mut sc = [0i8; 16];
    for k in 0..16 {
        let low = packed[k % 8] >> (k / 8 * 4) & 15;
        let high = packed[8 + k % 4] >> (k / 4 * 2) & 3;
        sc[k] = (low | high << 4) as i8 - 32;
    }
    let sc = times(s, s.i_load_pairs(sc.as_ptr()), d);
    Scales { s: sc, m: sc }
},
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));
format!(Q4_K { max 15, offset 0, min true, halves false }
    quants |s, p, b| half_bytes(s, s.b_load(p.add(16 + b / 2 * 32)), b % 2),
    scales |s, p| scales_6bit(s, p),
    pack |s, rows, to| {
        for pair in 0..LANES / 2 {
            let both = s.nb_rows_32(rows, 16 + pair * 32);
            for quad in 0..QUADS {
                to.put(s, 2 * pair, quad, s.nb_and(both[quad], s.nb_splat(15)));
                to.put(s, 2 * pair + 1, quad, s.nb_and(s.nb_shr::<4>(both[quad]), s.nb_splat(15)));
            }
        }
    },
    pack_scales |s, rows, to| pack_scales_6bit(s, rows, to));
format!(Q5_K { max 31, offset 0, min true, halves false }
    quants |s, p, b| {
        let low = half_bytes(s, s.b_load(p.add(48 + b / 2 * 32)), b % 2);
        s.b_or(low, s.b_and(bit_to::<_, 4>(s, s.b_load(p.add(16)), b), s.b_splat(16)))
    },
    scales |s, p| scales_6bit(s, p),
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to),
    pack_scales |s, rows, to| pack_scales_6bit(s, rows, to));
format!(Q6_K { max 63, offset 32, min false, halves true }
quants |s, p, b| {
    let low = half_bytes(s, s.b_load(p.add(b / 4 * 64 + b % 2 * 32)), b % 4 / 2);
    let high = s.b_load(p.add(128 + b / 4 * 32));
    let high = match b % 4 {
        0 => s.b_shl::<4>(high),
        1 => s.b_shl::<2>(high),
        2 => high,
        _ => s.b_shr::<2>(high),
    };
    s.b_or(low, s.b_and(high, s.b_splat(0x30)))
},
scales |s, p| {
    let sc = times(s, s.i_load_pairs(p.add(192).cast()), s.f_splat_f16(p.add(208)));
    Scales { s: sc, m: sc }
},
    pack |s, rows, to| {
        for half in 0..2 {
            let high = s.nb_rows_32(rows, 128 + half * 32);
            let low = [s.nb_rows_32(rows, half * 64), s.nb_rows_32(rows, half * 64 + 32)];
            let nibble = |v: S::NB| s.nb_and(v, s.nb_splat(15));
            let top = |v: S::NB| s.nb_and(v, s.nb_splat(0x30));
            for quad in 0..QUADS {
                let (l0, l1, h) = (low[0][quad], low[1][quad], high[quad]);
                to.put(s, 4 * half, quad, s.nb_or(nibble(l0), top(s.nb_shl::<4>(h))));
                to.put(s, 4 * half + 1, quad, s.nb_or(nibble(l1), top(s.nb_shl::<2>(h))));
                to.put(s, 4 * half + 2, quad, s.nb_or(nibble(s.nb_shr::<4>(l0)), top(h)));
                to.put(s, 4 * half + 3, quad, s.nb_or(nibble(s.nb_shr::<4>(l1)), top(s.nb_shr::<2>(h))));
            }
        }
    },
    pack_scales |s, rows, to| {
        let d = s.nf_from_half::<1>(s.nb_rows_4(rows, 206));
        let sc = s.nb_rows_16(rows, 192);
        for pair in 0..LANES / 2 {
            let bytes = [
                s.nf_from_signed_byte::<0>(sc[pair]),
                s.nf_from_signed_byte::<1>(sc[pair]),
                s.nf_from_signed_byte::<2>(sc[pair]),
                s.nf_from_signed_byte::<3>(sc[pair]),
            ];
            for k in 0..4 {
                s.nf_store(to.factor::<S>(2 * pair + k / 2, k % 2), s.nf_mul(bytes[k], d));
            }
        }
    });
format!(IQ4_XS { max SIGNED, offset 0, min false, halves false }
quants |s, p, b| s.b_lookup(&IQ4_BYTES, s.b_nibbles(p.add(8 + b * 16))),
scales |s, p| {
    let (high, low) = (p.add(2).cast::<u16>().read_unaligned(), p.add(4).cast::<u32>().read_unaligned());
    let mut sc = [0i32; LANES];
    for b in 0..LANES {
        sc[b] = (low >> (4 * b) & 15) as i32 + (i32::from(high >> (2 * b) & 3) << 4) - 32;
    }
    let d = s.f_mul(s.f_from_i(s.i_load(sc.as_ptr())), s.f_splat_f16(p));
    Scales { s: [d, d], m: [d, d] }
},
    pack |s, rows, to| pack_nibbles::<S, true>(s, rows, to, [8, 16]));

format!(IQ3_S { max SIGNED, offset 0, min false, halves false }
quants |s, p, b| s.b_load(iq3_s_values(&*p.cast::<[u8; 110]>(), b).as_ptr().cast()),
scales |s, p| {
    let packed = p.add(106).cast::<u32>().read_unaligned();
    let mut sc = [0i32; LANES];
    for b in 0..LANES {
        sc[b] = 1 + 2 * (packed >> (4 * b) & 15) as i32;
    }
    let d = s.f_mul(s.f_from_i(s.i_load(sc.as_ptr())), s.f_splat_f16(p));
    Scales { s: [d, d], m: [d, d] }
},
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));
format!(IQ2_XXS { max SIGNED, offset 0, min false, halves false }
quants |s, p, b| s.b_load(iq2_xxs_values(&*p.cast::<[u8; 66]>(), b).as_ptr().cast()),
scales |s, p| {
    let mut sc = [0i32; LANES];
    for b in 0..LANES {
        // Half units, so that they are whole numbers.
        sc[b] = 1 + 2 * i32::from(p.add(2 + 8 * b + 7).read() >> 4);
    }
    let d = s.f_mul(s.f_splat_f16(p), s.f_splat(0.125));
    let d = s.f_mul(s.f_from_i(s.i_load(sc.as_ptr())), d);
    Scales { s: [d, d], m: [d, d] }
},
    pack |s, rows, to| pack_natural::<S, Self>(s, rows, to));

/// The codebook of the IQ4 formats.
const IQ4_BYTES: [u8; 16] = {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = IQ4_VALUES[i] as u8;
        i += 1;
    }
    table
};

/// Both vectors, as floats, times `d`.
#[inline(always)]
fn times<S: Simd>(s: S, v: [S::I; 2], d: S::F) -> [S::F; 2] {
    [s.f_mul(s.f_from_i(v[0]), d), s.f_mul(s.f_from_i(v[1]), d)]
}

/// Scales of Q4_K and Q5_K: `d`, `dmin`, then twelve bytes of 6-bit scales and mins.
/// # Safety
/// 16 bytes are readable at `p`.
#[inline(always)]
unsafe fn scales_6bit<S: Simd>(s: S, p: *const u8) -> Scales<S> {
    // SAFETY: as the caller says.
    let ([sc, mn], d, dmin) =
        unsafe { (s.i_unpack_6bit(p.add(4)), s.f_splat_f16(p), s.f_splat_f16(p.add(2))) };
    let sc = s.f_mul(s.f_from_i(sc), d);
    let mn = s.f_mul(s.f_from_i(mn), s.f_sub(s.f_splat(0.0), dmin));
    Scales { s: [sc, sc], m: [mn, mn] }
}

/// [`scales_6bit`] of `S::ROWS` rows.
/// # Safety
/// As [`Format::pack`].
#[inline(always)]
unsafe fn pack_scales_6bit<S: Native>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place) {
    // SAFETY: the caller gives a whole group of each row, and room.
    unsafe {
        let [head, a, b, c] = s.nb_rows_16(rows, 0);
        let (d, neg_dmin) =
            (s.nf_from_half::<0>(head), s.nf_mul(s.nf_from_half::<1>(head), s.nf_splat(-1.0)));
        let low = |v: S::NB| s.nb_and(v, s.nb_splat(0x3f));
        let high = |nibbles: S::NB, top: S::NB| {
            let top = s.nb_and(s.nb_shr::<2>(top), s.nb_splat(0x30));
            s.nb_or(s.nb_and(nibbles, s.nb_splat(15)), top)
        };
        let sc = [low(a), high(c, a)];
        let mn = [low(b), high(s.nb_shr::<4>(c), b)];
        for half in 0..2 {
            let sc = bytes(s, sc[half]);
            let mn = bytes(s, mn[half]);
            for k in 0..4 {
                s.nf_store(to.factor::<S>(4 * half + k, 0), s.nf_mul(sc[k], d));
                s.nf_store(to.min::<S>(4 * half + k, 0), s.nf_mul(mn[k], neg_dmin));
            }
        }
    }
}

/// The four bytes of each lane, without sign.
#[inline(always)]
fn bytes<S: Native>(s: S, v: S::NB) -> [S::NF; 4] {
    [s.nf_from_byte::<0>(v), s.nf_from_byte::<1>(v), s.nf_from_byte::<2>(v), s.nf_from_byte::<3>(v)]
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

/// Moves the `block % 4`-th pair of bits of each byte down; the bits above are not cleared.
#[inline(always)]
fn crumbs<S: Simd>(s: S, v: S::B, block: usize) -> S::B {
    match block % 4 {
        0 => v,
        1 => s.b_shr::<2>(v),
        2 => s.b_shr::<4>(v),
        _ => s.b_shr::<6>(v),
    }
}

/// Moves bit `block` of each byte to bit `TO`; the other bits are not cleared.
#[inline(always)]
fn bit_to<S: Simd, const TO: usize>(s: S, v: S::B, block: usize) -> S::B {
    match block as i32 - TO as i32 {
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
