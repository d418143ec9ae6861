//! Inputs of the matrix products: rows of f32, and the same rows as signed bytes with scales.
//!
//! * `Block32`: per 32 values `d = max|x| / 127`, `q = round(x / d)`, and the sum of the `q`. For weights in blocks of 32.
//! * `Block256`: per 256 values `d` as above, and the sum of the `q` per 16. For weights in blocks of 256.
//!
//! Rounding is to nearest even. A quantized row depends on that row alone.

use undine_core::DType;
use undine_core::dtype::{QK, QK_K};

use crate::memory::SharedSlice;
use crate::simd::{Kernel, LANES, Simd};

/// How a weight format wants its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActivationKind {
    /// f32.
    Float,
    /// Bytes with a scale per 32.
    Block32,
    /// Bytes with a scale per 256.
    Block256,
}

impl ActivationKind {
    /// The kind for a weight type.
    pub fn of(dtype: DType) -> Self {
        match dtype.block_elems() {
            1 => Self::Float,
            QK => Self::Block32,
            _ => Self::Block256,
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ActivationKinds(u8);

impl ActivationKinds {
    /// The kinds these weight types need.
    pub fn of(dtypes: impl IntoIterator<Item = DType>) -> Self {
        Self(dtypes.into_iter().fold(0, |set, dtype| set | 1 << ActivationKind::of(dtype) as u8))
    }

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: ActivationKind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }
}

/// Rows of input in every form; a form is valid only where it was asked for. Row `t` starts at `t * width` values.
pub struct Activations {
    /// f32 rows.
    pub f32s: SharedSlice<f32>,
    /// Bytes of `Block32`.
    pub q32: SharedSlice<i8>,
    /// Scales of `Block32`, one per 32 values.
    pub d32: SharedSlice<f32>,
    /// Sums of `Block32`, one per 32 values.
    pub s32: SharedSlice<i32>,
    /// Bytes of `Block256`.
    pub q256: SharedSlice<i8>,
    /// Scales of `Block256`, one per 256 values.
    pub d256: SharedSlice<f32>,
    /// Sums of `Block256`, one per 16 values.
    pub s256: SharedSlice<i16>,
}

impl Activations {
    /// Room for `elems` values (rows times width), in the given kinds.
    pub fn new(elems: usize, kinds: ActivationKinds) -> Self {
        let room = |kind, n: usize| if kinds.contains(kind) { n } else { 0 };
        Self {
            f32s: SharedSlice::new(elems),
            q32: SharedSlice::new(room(ActivationKind::Block32, elems)),
            d32: SharedSlice::new(room(ActivationKind::Block32, elems / QK)),
            s32: SharedSlice::new(room(ActivationKind::Block32, elems / QK)),
            q256: SharedSlice::new(room(ActivationKind::Block256, elems)),
            d256: SharedSlice::new(room(ActivationKind::Block256, elems / QK_K)),
            s256: SharedSlice::new(room(ActivationKind::Block256, elems / 16)),
        }
    }
}

/// Quantizes row `row` of `activations.f32s` into the other kinds.
pub struct QuantizeRow<'a> {
    /// The rows.
    pub activations: &'a Activations,
    /// Which row.
    pub row: usize,
    /// Values in a row.
    pub width: usize,
    /// What is wanted.
    pub kinds: ActivationKinds,
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activations: a, row, width, kinds } = self;
        let range = row * width..(row + 1) * width;
        // SAFETY: each row is quantized by one thread, and read by others only after a barrier.
        unsafe {
            let x = a.f32s.read(range.clone());
            if kinds.contains(ActivationKind::Block32) {
                let q = a.q32.write(range.clone());
                let d = a.d32.write(range.start / QK..range.end / QK);
                let sums = a.s32.write(range.start / QK..range.end / QK);
                for (i, x) in x.chunks_exact(QK).enumerate() {
                    let (scale, inverse) = scales(max_abs(s, x));
                    d[i] = scale;
                    sums[i] = quantize_32(s, x, inverse, &mut q[i * QK..(i + 1) * QK])[..].iter().sum();
                }
            }
            if kinds.contains(ActivationKind::Block256) {
                let q = a.q256.write(range.clone());
                let d = a.d256.write(range.start / QK_K..range.end / QK_K);
                let sums = a.s256.write(range.start / 16..range.end / 16);
                for (i, x) in x.chunks_exact(QK_K).enumerate() {
                    let (scale, inverse) = scales(max_abs(s, x));
                    d[i] = scale;
                    for (j, x) in x.chunks_exact(QK).enumerate() {
                        let at = i * QK_K + j * QK;
                        let [low, high] = quantize_32(s, x, inverse, &mut q[at..at + QK]);
                        sums[at / 16] = low as i16;
                        sums[at / 16 + 1] = high as i16;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn scales(max: f32) -> (f32, f32) {
    (max / 127.0, if max > 0.0 { 127.0 / max } else { 0.0 })
}

#[inline(always)]
fn max_abs<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut max = s.f_splat(0.0);
    for lanes in x.chunks_exact(LANES) {
        // SAFETY: the chunk has 8 values.
        max = s.f_max(max, s.f_abs(unsafe { s.f_load(lanes.as_ptr()) }));
    }
    s.f_max_lane(max)
}

/// Quantizes 32 values and returns the sums of the first and the last 16 bytes.
#[inline(always)]
fn quantize_32<S: Simd>(s: S, x: &[f32], inverse: f32, q: &mut [i8]) -> [i32; 2] {
    assert!(x.len() == QK && q.len() == QK);
    let inverse = s.f_splat(inverse);
    // SAFETY: `x` has 32 values and `q` 32 bytes.
    unsafe {
        let at = |i: usize| s.f_load(x.as_ptr().add(i * LANES));
        let v = [
            s.f_to_i(s.f_mul(at(0), inverse)),
            s.f_to_i(s.f_mul(at(1), inverse)),
            s.f_to_i(s.f_mul(at(2), inverse)),
            s.f_to_i(s.f_mul(at(3), inverse)),
        ];
        s.b_store(q.as_mut_ptr().cast(), s.b_pack(v));
        [s.i_sum(s.i_add(v[0], v[1])), s.i_sum(s.i_add(v[2], v[3]))]
    }
}
