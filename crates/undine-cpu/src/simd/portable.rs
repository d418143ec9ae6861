//! The leaf every CPU has: arrays and loops. The slow twin of the others.

use half::{bf16, f16};

use super::{LANES, Native, ROWS_MAX, Simd};

/// Plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type F = [f32; LANES];
type I = [i32; LANES];
type B = [u8; 32];

fn f(g: impl Fn(usize) -> f32) -> F {
    std::array::from_fn(g)
}

fn i(g: impl Fn(usize) -> i32) -> I {
    std::array::from_fn(g)
}

fn b(g: impl Fn(usize) -> u8) -> B {
    std::array::from_fn(g)
}

fn words(a: B) -> [u16; 16] {
    std::array::from_fn(|k| u16::from_le_bytes([a[2 * k], a[2 * k + 1]]))
}

fn dot(w: B, a: B, weight: impl Fn(u8) -> i32) -> I {
    i(|lane| (4 * lane..4 * lane + 4).map(|k| weight(w[k]) * i32::from(a[k] as i8)).sum())
}

impl Simd for Portable {
    type F = F;
    type I = I;
    type B = B;
    const SIGNED_OFFSET: i32 = 0;

    fn f_splat(self, v: f32) -> F {
        [v; LANES]
    }
    unsafe fn f_load(self, p: *const f32) -> F {
        // SAFETY: the caller gives 8 readable floats.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    unsafe fn f_store(self, p: *mut f32, v: F) {
        // SAFETY: the caller gives 8 writable floats.
        unsafe { p.cast::<F>().write_unaligned(v) }
    }
    unsafe fn f_load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller gives 8 readable half floats.
        unsafe { p.cast::<[u16; 8]>().read_unaligned() }.map(|v| f16::from_bits(v).to_f32())
    }
    unsafe fn f_store_f16(self, p: *mut u16, v: F) {
        // SAFETY: the caller gives 8 writable half floats.
        unsafe { p.cast::<[u16; 8]>().write_unaligned(v.map(|v| f16::from_f32(v).to_bits())) }
    }
    unsafe fn f_load_bf16(self, p: *const u16) -> F {
        // SAFETY: the caller gives 8 readable brain floats.
        unsafe { p.cast::<[u16; 8]>().read_unaligned() }.map(|v| bf16::from_bits(v).to_f32())
    }
    unsafe fn f_splat_f16(self, p: *const u8) -> F {
        // SAFETY: the caller gives two readable bytes.
        [f16::from_bits(unsafe { p.cast::<u16>().read_unaligned() }).to_f32(); LANES]
    }
    unsafe fn f_gather_f16<const STRIDE: usize, const AT: usize>(self, p: *const u8) -> F {
        // SAFETY: the caller gives eight blocks of `STRIDE` bytes.
        f(|k| f16::from_bits(unsafe { p.add(k * STRIDE + AT).cast::<u16>().read_unaligned() }).to_f32())
    }
    fn f_add(self, a: F, b: F) -> F {
        f(|k| a[k] + b[k])
    }
    fn f_sub(self, a: F, b: F) -> F {
        f(|k| a[k] - b[k])
    }
    fn f_mul(self, a: F, b: F) -> F {
        f(|k| a[k] * b[k])
    }
    fn f_div(self, a: F, b: F) -> F {
        f(|k| a[k] / b[k])
    }
    fn f_fma(self, a: F, b: F, c: F) -> F {
        f(|k| a[k].mul_add(b[k], c[k]))
    }
    fn f_max(self, a: F, b: F) -> F {
        f(|k| a[k].max(b[k]))
    }
    fn f_abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    fn f_mask_above(self, a: F, limit: F, value: F) -> F {
        f(|k| if a[k] > limit[k] { value[k] } else { 0.0 })
    }
    fn f_select_negative(self, a: F, then: F, other: F) -> F {
        f(|k| if a[k].is_sign_negative() { then[k] } else { other[k] })
    }
    fn f_sum(self, a: F) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    fn f_max_lane(self, a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    fn f_from_i(self, a: I) -> F {
        a.map(|v| v as f32)
    }
    fn f_to_i(self, a: F) -> I {
        a.map(|v| v.round_ties_even() as i32)
    }
    fn f_pow2(self, n: I) -> F {
        n.map(|n| f32::from_bits(((n + 127) << 23) as u32))
    }

    fn i_splat(self, v: i32) -> I {
        [v; LANES]
    }
    unsafe fn i_load(self, p: *const i32) -> I {
        // SAFETY: the caller gives 8 readable integers.
        unsafe { p.cast::<I>().read_unaligned() }
    }
    unsafe fn i_store(self, p: *mut i32, v: I) {
        // SAFETY: the caller gives 8 writable integers.
        unsafe { p.cast::<I>().write_unaligned(v) }
    }
    fn i_add(self, a: I, b: I) -> I {
        i(|k| a[k].wrapping_add(b[k]))
    }
    fn i_sub(self, a: I, b: I) -> I {
        i(|k| a[k].wrapping_sub(b[k]))
    }
    fn i_shl(self, a: I, n: u32) -> I {
        a.map(|v| v << n)
    }
    fn i_sum(self, a: I) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }
    fn i_sum8_halves<const MAX: u32>(self, v: [I; 8]) -> [I; 2] {
        [v.map(|v| v[..4].iter().sum()), v.map(|v| v[4..].iter().sum())]
    }
    unsafe fn i_load_pairs(self, p: *const i8) -> [I; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { p.cast::<[i8; 16]>().read() };
        [i(|k| bytes[2 * k].into()), i(|k| bytes[2 * k + 1].into())]
    }
    unsafe fn i_unpack_6bit(self, p: *const u8) -> [I; 2] {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { p.cast::<[u8; 12]>().read() };
        let unpack = |low: usize, shift: u32| {
            i(|k| match k {
                0..4 => i32::from(bytes[low + k] & 63),
                _ => i32::from(bytes[4 + k] >> shift & 15 | bytes[low + k - 4] >> 6 << 4),
            })
        };
        [unpack(0, 0), unpack(4, 4)]
    }
    fn transpose(self, v: [B; 8]) -> [B; 8] {
        std::array::from_fn(|r| b(|k| v[k / 4][4 * r + k % 4]))
    }
    fn f_transpose(self, v: [F; 8]) -> [F; 8] {
        std::array::from_fn(|r| f(|k| v[k][r]))
    }

    unsafe fn b_load(self, p: *const u8) -> B {
        // SAFETY: the caller gives 32 readable bytes.
        unsafe { p.cast::<B>().read_unaligned() }
    }
    unsafe fn b_nibbles(self, p: *const u8) -> B {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { p.cast::<[u8; 16]>().read() };
        b(|k| bytes[k % 16] >> (k / 16 * 4) & 15)
    }
    unsafe fn b_store(self, p: *mut u8, v: B) {
        // SAFETY: the caller gives 32 writable bytes.
        unsafe { p.cast::<B>().write_unaligned(v) }
    }
    fn b_splat(self, v: u8) -> B {
        [v; 32]
    }
    fn b_and(self, x: B, y: B) -> B {
        b(|k| x[k] & y[k])
    }
    fn b_or(self, x: B, y: B) -> B {
        b(|k| x[k] | y[k])
    }
    fn b_xor(self, x: B, y: B) -> B {
        b(|k| x[k] ^ y[k])
    }
    fn b_shr<const N: i32>(self, a: B) -> B {
        let words = words(a);
        b(|k| (words[k / 2] >> N).to_le_bytes()[k % 2])
    }
    fn b_shl<const N: i32>(self, a: B) -> B {
        let words = words(a);
        b(|k| (words[k / 2] << N).to_le_bytes()[k % 2])
    }
    fn b_from_bits(self, bits: u32) -> B {
        b(|k| if bits >> k & 1 == 1 { 0xff } else { 0 })
    }
    fn b_lookup(self, table: &[u8; 16], index: B) -> B {
        b(|k| table[usize::from(index[k])])
    }
    fn b_pack(self, v: [I; 4]) -> B {
        b(|k| v[k / 8][k % 8].clamp(-128, 127) as u8)
    }
    fn b_signed(self, a: B) -> B {
        a
    }

    fn dot_small(self, w: B, a: B) -> I {
        dot(w, a, i32::from)
    }
    fn dot_signed(self, w: B, a: B) -> I {
        dot(w, a, |w| i32::from(w as i8))
    }
}

impl Native for Portable {
    const ROWS: usize = LANES;
    const INPUTS: usize = 2;
    const SUMS_IN_32_BITS: bool = true;
    type NF = F;
    type NI = I;
    type NB = B;
    type D = I;

    fn nf_splat(self, v: f32) -> F {
        self.f_splat(v)
    }
    unsafe fn nf_load(self, p: *const f32) -> F {
        // SAFETY: as the caller says.
        unsafe { self.f_load(p) }
    }
    unsafe fn nf_store(self, p: *mut f32, v: F) {
        // SAFETY: as the caller says.
        unsafe { self.f_store(p, v) }
    }
    fn nf_add(self, a: F, b: F) -> F {
        self.f_add(a, b)
    }
    fn nf_mul(self, a: F, b: F) -> F {
        self.f_mul(a, b)
    }
    fn nf_fma(self, a: F, b: F, c: F) -> F {
        self.f_fma(a, b, c)
    }
    fn ni_splat(self, v: i32) -> I {
        self.i_splat(v)
    }
    unsafe fn nb_load(self, p: *const u8) -> B {
        // SAFETY: as the caller says.
        unsafe { self.b_load(p) }
    }
    unsafe fn nb_broadcast(self, p: *const i8) -> B {
        // SAFETY: the caller gives 4 readable bytes.
        let bytes = unsafe { p.cast::<[u8; 4]>().read() };
        b(|k| bytes[k % 4])
    }
    fn prefetch_far(self, _: *const u8) {}
    unsafe fn nb_store(self, p: *mut u8, v: B) {
        // SAFETY: as the caller says.
        unsafe { self.b_store(p, v) }
    }
    fn nb_splat(self, v: u8) -> B {
        self.b_splat(v)
    }
    fn nb_and(self, x: B, y: B) -> B {
        self.b_and(x, y)
    }
    fn nb_or(self, x: B, y: B) -> B {
        self.b_or(x, y)
    }
    fn nb_shr<const N: u32>(self, a: B) -> B {
        let words = words(a);
        b(|k| (words[k / 2] >> N).to_le_bytes()[k % 2])
    }
    fn nb_shl<const N: u32>(self, a: B) -> B {
        let words = words(a);
        b(|k| (words[k / 2] << N).to_le_bytes()[k % 2])
    }
    fn nb_lookup(self, table: &[u8; 16], index: B) -> B {
        self.b_lookup(table, index)
    }
    fn nb_signed(self, a: B) -> B {
        a
    }
    unsafe fn nb_rows_32(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [B; 8] {
        // SAFETY: the caller gives 32 readable bytes in each row.
        std::array::from_fn(|k| unsafe { self.nb_rows_4(rows, offset + 4 * k) })
    }
    unsafe fn nb_rows_16(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> [B; 4] {
        // SAFETY: the caller gives 16 readable bytes in each row.
        std::array::from_fn(|k| unsafe { self.nb_rows_4(rows, offset + 4 * k) })
    }
    unsafe fn nb_rows_4(self, rows: &[*const u8; ROWS_MAX], offset: usize) -> B {
        // SAFETY: the caller gives 4 readable bytes in each row.
        b(|k| unsafe { *rows[k / 4].add(offset + k % 4) })
    }
    fn nf_from_byte<const K: u32>(self, a: B) -> F {
        f(|lane| a[4 * lane + K as usize].into())
    }
    fn nf_from_signed_byte<const K: u32>(self, a: B) -> F {
        f(|lane| (a[4 * lane + K as usize] as i8).into())
    }
    fn nf_from_half<const K: u32>(self, a: B) -> F {
        f(|lane| f16::from_bits(words(a)[2 * lane + K as usize]).to_f32())
    }
    fn nf_from_bits(self, a: I) -> F {
        a.map(|v| f32::from_bits(v as u32))
    }
    fn d_zero(self) -> I {
        [0; LANES]
    }
    fn d_from(self, sum: I) -> I {
        sum
    }
    fn d_step(self, sum: I, w: B, a: B) -> I {
        self.i_add(sum, self.dot_small(w, a))
    }
    fn d_add(self, _: I, d: I) -> I {
        d
    }
    fn d_step_signed(self, sum: I, w: B, a: B) -> I {
        self.i_add(sum, self.dot_signed(w, a))
    }
}
