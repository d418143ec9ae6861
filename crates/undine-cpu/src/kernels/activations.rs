//! Inputs of the matrix products: rows of f32, and the same rows as signed bytes with scales.
//!
//! Per block of 32 values: `d = max|x| / 127`, `q = round(x / d)` to nearest even, and the sums of the `q`. A
//! quantized row depends on that row alone. Rows of bytes are padded with zeros to whole groups of 256
//! values, so that kernels know no shorter groups.

use undine_core::DType;
use undine_core::dtype::QK;

use crate::memory::SharedSlice;
use crate::simd::{Kernel, LANES, Simd};

/// Values in a group: eight blocks, one per lane.
pub const GROUP: usize = QK * LANES;

/// How a weight format wants its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActivationKind {
    /// f32.
    Float,
    /// Bytes with a scale per 32.
    Block32,
}

impl ActivationKind {
    /// The kind for a weight type.
    pub fn of(dtype: DType) -> Self {
        if dtype.block_elems() == 1 { Self::Float } else { Self::Block32 }
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

/// Groups in a row of `width` values.
pub fn groups(width: usize) -> usize {
    width.div_ceil(GROUP)
}

/// Rows of input in both forms; a form is valid only where it was asked for. Row `t` of `f32s` starts at `t *
/// width`, row `t` of the others at group `t * groups(width)`.
pub struct Activations {
    /// f32 rows.
    pub f32s: SharedSlice<f32>,
    /// Bytes.
    pub q: SharedSlice<i8>,
    /// Scale of each block.
    pub d: SharedSlice<f32>,
    /// Sum of the bytes of each block.
    pub sum: SharedSlice<i32>,
    /// The same as f32.
    pub sum_f32: SharedSlice<f32>,
    /// Sum of the first 16 bytes of each block.
    pub low: SharedSlice<i32>,
    /// Sum of the last 16 bytes of each block.
    pub high: SharedSlice<i32>,
}

impl Activations {
    /// Bytes of so many rows in the given kinds.
    pub fn bytes_of(rows: usize, width: usize, kinds: ActivationKinds) -> usize {
        let block_bytes = QK + 2 * size_of::<f32>() + 3 * size_of::<i32>();
        rows * width * size_of::<f32>() + blocks(rows, width, kinds) * block_bytes
    }

    /// Room for `rows` rows of at most `width` values, in the given kinds; as f32 of at most `float_width`.
    pub fn new(rows: usize, width: usize, kinds: ActivationKinds, float_width: usize) -> Self {
        let blocks = blocks(rows, width, kinds);
        Self {
            f32s: SharedSlice::new(rows * float_width),
            q: SharedSlice::new(blocks * QK),
            d: SharedSlice::new(blocks),
            sum: SharedSlice::new(blocks),
            sum_f32: SharedSlice::new(blocks),
            low: SharedSlice::new(blocks),
            high: SharedSlice::new(blocks),
        }
    }

    /// Size of all of it.
    pub fn bytes(&self) -> usize {
        let Self { f32s, q, d, sum, sum_f32, low, high } = self;
        f32s.bytes() + q.bytes() + d.bytes() + sum.bytes() + sum_f32.bytes() + low.bytes() + high.bytes()
    }
}

fn blocks(rows: usize, width: usize, kinds: ActivationKinds) -> usize {
    if kinds.contains(ActivationKind::Block32) { rows * groups(width) * LANES } else { 0 }
}

/// Quantizes a row of input, if that is wanted.
pub struct QuantizeRow<'a> {
    /// The row.
    pub x: &'a [f32],
    /// Where to.
    pub activations: &'a Activations,
    /// As which row.
    pub row: usize,
    /// What is wanted.
    pub kinds: ActivationKinds,
}

impl Kernel for QuantizeRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, activations: a, row, kinds } = self;
        if !kinds.contains(ActivationKind::Block32) {
            return;
        }
        let blocks = row * groups(x.len()) * LANES..(row + 1) * groups(x.len()) * LANES;
        // SAFETY: each row is quantized by one thread, and read by others only after a barrier.
        let (q, d, sum, sum_f32, low, high) = unsafe {
            (
                a.q.write(blocks.start * QK..blocks.end * QK),
                a.d.write(blocks.clone()),
                a.sum.write(blocks.clone()),
                a.sum_f32.write(blocks.clone()),
                a.low.write(blocks.clone()),
                a.high.write(blocks),
            )
        };
        let whole = x.len() / QK;
        for b in 0..whole {
            let x = &x[b * QK..(b + 1) * QK];
            let max = max_abs(s, x);
            d[b] = max / 127.0;
            let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
            [low[b], high[b]] = quantize_32(s, x, inverse, &mut q[b * QK..(b + 1) * QK]);
            sum[b] = low[b] + high[b];
            sum_f32[b] = sum[b] as f32;
        }
        q[whole * QK..].fill(0);
        d[whole..].fill(0.0);
        sum[whole..].fill(0);
        sum_f32[whole..].fill(0.0);
        low[whole..].fill(0);
        high[whole..].fill(0);
    }
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
        let x = x.as_ptr();
        let v = [
            s.f_to_i(s.f_mul(s.f_load(x), inverse)),
            s.f_to_i(s.f_mul(s.f_load(x.add(LANES)), inverse)),
            s.f_to_i(s.f_mul(s.f_load(x.add(2 * LANES)), inverse)),
            s.f_to_i(s.f_mul(s.f_load(x.add(3 * LANES)), inverse)),
        ];
        s.b_store(q.as_mut_ptr().cast(), s.b_pack(v));
        [s.i_sum(s.i_add(v[0], v[1])), s.i_sum(s.i_add(v[2], v[3]))]
    }
}
