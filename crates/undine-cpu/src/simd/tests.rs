//! Every leaf against the portable one, to the bit, operation by operation. What belongs to [`Native`] alone
//! is covered by the tests of the matrix products.

use super::{Isa, Kernel, LANES, Native, Portable, Simd, WIDE};

/// Rounds of random values.
const ROUNDS: u64 = 200;
/// Bytes of a block of halves in the test of gathering, and where in it the half is.
const STRIDE: usize = 18;
const AT: usize = 4;

/// What the operations work on.
struct Values {
    /// Not zero, of either sign.
    x: [f32; WIDE],
    y: [f32; WIDE],
    z: [f32; WIDE],
    /// Integral, as an exponent.
    n: [f32; WIDE],
    bytes: [[u8; 32]; 8],
    /// Signed, at least -127.
    activations: [u8; 32],
    /// Any half floats but infinities and NaN.
    halves: [u16; 8 * STRIDE / 2],
    bits: u32,
}

impl Values {
    fn random(random: &mut fastrand::Rng) -> Self {
        let mut floats = |span: f32| std::array::from_fn(|_| (random.f32() + 1e-3) * span - span / 2.0);
        let (x, y, z) = (floats(16.0), floats(3.0), floats(100.0));
        let n = std::array::from_fn(|_| random.i32(-126..128) as f32);
        // Extremes are where sums of 16 bits would overflow.
        let extreme = random.u8(0..4) == 0;
        let mut byte = |lowest: i8| match extreme {
            true => random.choice([lowest as u8, 127]).expect("there are two"),
            false => random.i8(lowest..) as u8,
        };
        let bytes = std::array::from_fn(|_| std::array::from_fn(|_| byte(-128)));
        let activations = std::array::from_fn(|_| byte(-127));
        let halves = std::array::from_fn(|_| random.u16(..) & !0x4000);
        Self { x, y, z, n, bytes, activations, halves, bits: random.u32(..) }
    }
}

/// All operations; a name and the bits for each.
struct Operations<'a>(&'a Values);

type Results = Vec<(&'static str, Vec<u32>)>;

impl Kernel for Operations<'_> {
    type Out = Results;

    #[inline(always)]
    fn run<S: Native>(self, s: S) -> Results {
        let mut out = Vec::new();
        floats(s, self.0, &mut out);
        conversions(s, self.0, &mut out);
        integers(s, self.0, &mut out);
        bytes(s, self.0, &mut out);
        wide(s, self.0, &mut out);
        out
    }
}

#[inline(always)]
fn f<S: Simd>(s: S, v: S::F) -> Vec<u32> {
    let mut lanes = [0.0; LANES];
    // SAFETY: the array has eight values.
    unsafe { s.f_store(lanes.as_mut_ptr(), v) };
    lanes.iter().map(|lane: &f32| lane.to_bits()).collect()
}

#[inline(always)]
fn i<S: Simd>(s: S, v: impl IntoIterator<Item = S::I>) -> Vec<u32> {
    let mut lanes = [0; LANES];
    let mut all = Vec::new();
    for v in v {
        // SAFETY: the array has eight values.
        unsafe { s.i_store(lanes.as_mut_ptr(), v) };
        all.extend(lanes.iter().map(|&lane| lane as u32));
    }
    all
}

#[inline(always)]
fn b<S: Simd>(s: S, v: impl IntoIterator<Item = S::B>) -> Vec<u32> {
    let mut lanes = [0; 32];
    let mut all = Vec::new();
    for v in v {
        // SAFETY: the array has 32 bytes.
        unsafe { s.b_store(lanes.as_mut_ptr(), v) };
        all.extend(lanes.iter().map(|&lane| u32::from(lane)));
    }
    all
}

#[inline(always)]
fn w<S: Simd>(s: S, v: S::W) -> Vec<u32> {
    let mut lanes = [0.0; WIDE];
    // SAFETY: the array has sixteen values.
    unsafe { s.w_store(lanes.as_mut_ptr(), v) };
    lanes.iter().map(|lane: &f32| lane.to_bits()).collect()
}

#[inline(always)]
fn floats<S: Simd>(s: S, v: &Values, out: &mut Results) {
    // SAFETY: the arrays have eight values or more.
    let [x, y, z, n] = [&v.x, &v.y, &v.z, &v.n].map(|v| unsafe { s.f_load(v.as_ptr()) });
    out.extend([
        ("f_splat", f(s, s.f_splat(v.x[0]))),
        ("f_add", f(s, s.f_add(x, y))),
        ("f_sub", f(s, s.f_sub(x, y))),
        ("f_mul", f(s, s.f_mul(x, y))),
        ("f_div", f(s, s.f_div(x, y))),
        ("f_fma", f(s, s.f_fma(x, y, z))),
        ("f_max", f(s, s.f_max(x, y))),
        ("f_abs", f(s, s.f_abs(x))),
        ("f_mask_above", f(s, s.f_mask_above(x, y, z))),
        ("f_select_negative", f(s, s.f_select_negative(x, y, z))),
        ("f_sum", vec![s.f_sum(x).to_bits()]),
        ("f_max_lane", vec![s.f_max_lane(x).to_bits()]),
        ("f_to_i", i(s, [s.f_to_i(x), s.f_to_i(s.f_mul(n, s.f_splat(0.5)))])),
        ("f_pow2", f(s, s.f_pow2(s.f_to_i(n)))),
        ("f_transpose", s.f_transpose([x, y, z, n, z, y, x, x]).into_iter().flat_map(|v| f(s, v)).collect()),
    ]);
}

#[inline(always)]
fn conversions<S: Simd>(s: S, v: &Values, out: &mut Results) {
    let (halves, at) = (v.halves.as_ptr(), v.halves.as_ptr().cast::<u8>());
    let mut stored = [0u16; LANES];
    // SAFETY: there are eight blocks of halves, and eight floats in each array.
    unsafe {
        out.extend([
            ("f_load_f16", f(s, s.f_load_f16(halves))),
            ("f_load_bf16", f(s, s.f_load_bf16(halves))),
            ("f_splat_f16", f(s, s.f_splat_f16(at))),
            ("f_gather_f16", f(s, s.f_gather_f16::<STRIDE, AT>(at))),
        ]);
        // Among them what becomes infinite and subnormal.
        for scale in [1e4, 1.0, 1e-3, 1e-7] {
            s.f_store_f16(stored.as_mut_ptr(), s.f_mul(s.f_load(v.z.as_ptr()), s.f_splat(scale)));
            out.push(("f_store_f16", stored.iter().map(|&v| v.into()).collect()));
        }
    }
}

#[inline(always)]
fn integers<S: Simd>(s: S, v: &Values, out: &mut Results) {
    let pointers = v.bytes.each_ref().map(|bytes| bytes.as_ptr());
    // SAFETY: the arrays have 32 bytes, and loads take any alignment.
    let v = pointers.map(|p| unsafe { s.i_load(p.cast()) });
    // SAFETY: as above.
    let (pairs, six) = unsafe { (s.i_load_pairs(pointers[0].cast()), s.i_unpack_6bit(pointers[0])) };
    // SAFETY: as above. Values are small enough for sums of all.
    let small = pointers.map(|p| unsafe { s.i_load_pairs(p.cast()) }[0]);
    out.extend([
        ("f_from_i", f(s, s.f_from_i(v[0]))),
        ("i_splat", i(s, [s.i_splat(-7)])),
        ("i_add", i(s, [s.i_add(v[0], v[1])])),
        ("i_sub", i(s, [s.i_sub(v[0], v[1])])),
        ("i_shl", i(s, [s.i_shl(v[0], 0), s.i_shl(v[0], 5)])),
        ("i_sum", vec![s.i_sum(v[0]) as u32]),
        ("i_sum8_halves", i(s, s.i_sum8_halves::<255>(small))),
        ("i_load_pairs", i(s, pairs)),
        ("i_unpack_6bit", i(s, six)),
        ("b_pack", b(s, [s.b_pack([v[0], small[1], small[2], v[3]])])),
    ]);
}

#[inline(always)]
fn bytes<S: Simd>(s: S, v: &Values, out: &mut Results) {
    let pointers = v.bytes.each_ref().map(|bytes| bytes.as_ptr());
    // SAFETY: the arrays have 32 bytes.
    let (a, activations) = unsafe { (pointers.map(|p| s.b_load(p)), s.b_load(v.activations.as_ptr())) };
    // SAFETY: as above.
    let nibbles = unsafe { s.b_nibbles(pointers[0]) };
    let table: &[u8; 16] = v.bytes[1][..16].try_into().expect("sixteen bytes");
    let masked = |a, mask| s.b_and(a, s.b_splat(mask));
    // The offset that a leaf may add to signed weights goes off again.
    let ones = s.dot_small(s.b_splat(1), activations);
    let offset = s.i_shl(ones, S::SIGNED_OFFSET.trailing_zeros() % 32);
    let offset = if S::SIGNED_OFFSET == 0 { s.i_splat(0) } else { offset };
    let dot = s.i_sub(s.dot_signed(s.b_signed(a[0]), activations), offset);
    let (left, right) = ([s.b_shl::<1>(a[0]), s.b_shl::<4>(a[0])], [s.b_shr::<2>(a[0]), s.b_shr::<5>(a[0])]);
    out.extend([
        ("b_nibbles", b(s, [nibbles])),
        ("b_splat", b(s, [s.b_splat(200)])),
        ("b_and", b(s, [s.b_and(a[0], a[1])])),
        ("b_or", b(s, [s.b_or(a[0], a[1])])),
        ("b_xor", b(s, [s.b_xor(a[0], a[1])])),
        ("b_shl", b(s, [masked(left[0], 0xfe), masked(left[1], 0xf0)])),
        ("b_shr", b(s, [masked(right[0], 0x3f), masked(right[1], 0x07)])),
        ("b_from_bits", b(s, [s.b_from_bits(v.bits)])),
        ("b_lookup", b(s, [s.b_lookup(table, nibbles)])),
        ("transpose", b(s, s.transpose(a))),
        ("dot_small", i(s, [s.dot_small(masked(a[0], 127), activations)])),
        ("dot_signed", i(s, [dot])),
    ]);
}

#[inline(always)]
fn wide<S: Simd>(s: S, v: &Values, out: &mut Results) {
    // SAFETY: the arrays have sixteen values.
    let [x, y, z, n] = [&v.x, &v.y, &v.z, &v.n].map(|v| unsafe { s.w_load(v.as_ptr()) });
    // SAFETY: there are as many halves and bytes.
    let (halves, bytes) =
        unsafe { (s.w_load_f16(v.halves.as_ptr()), s.w_load_i8(v.bytes[0].as_ptr().cast())) };
    out.extend([
        ("w_splat", w(s, s.w_splat(v.x[0]))),
        ("w_load_f16", w(s, halves)),
        ("w_load_i8", w(s, bytes)),
        ("w_add", w(s, s.w_add(x, y))),
        ("w_sub", w(s, s.w_sub(x, y))),
        ("w_mul", w(s, s.w_mul(x, y))),
        ("w_fma", w(s, s.w_fma(x, y, z))),
        ("w_max", w(s, s.w_max(x, y))),
        ("w_round", w(s, s.w_round(s.w_mul(n, s.w_splat(0.5))))),
        ("w_scale2", w(s, s.w_scale2(x, n))),
        ("w_mask_above", w(s, s.w_mask_above(x, y, z))),
    ]);
}

#[test]
fn every_leaf_computes_the_bits_of_the_portable_one() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..ROUNDS {
        let values = Values::random(&mut random);
        let expected = Operations(&values).run(Portable);
        for isa in Isa::available() {
            for (found, expected) in isa.run(Operations(&values)).iter().zip(&expected) {
                assert_eq!(found, expected, "{}", isa.name());
            }
        }
    }
}
