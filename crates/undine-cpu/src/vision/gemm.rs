//! Products of float weights with many rows of f32, by panels.
//!
//! A panel is some columns of a tile of weight rows, turned so that the rows lie side by side, in f32. Each
//! value of an input row then feeds whole vectors of outputs, and no sum crosses lanes. Packing costs one
//! pass over the weights for hundreds of input rows. The decoder's kernels ([`crate::kernels::floats`]) read
//! the file's layout instead, which is better for few rows and worse for many: 57% of the f32 peak with 512
//! of them.
//!
//! Order: the columns are cut into chunks of [`CHUNK`]; within a chunk an output is one chain of fused
//! multiply-adds, ascending; the bias is added to the first chunk, and the chunks in ascending order to what
//! the output holds. It depends on the number of columns alone.

use std::ops::Range;

use crate::kernels::floats::Float;
use crate::kernels::rows::{Accumulate, Output};
use crate::simd::{Kernel, LANES, Native, ROWS_MAX, WIDE};

/// Columns in a panel: with the rows of [`Native`] vectors it stays in the second-level cache, and the input
/// rows that pass by in the first.
pub const CHUNK: usize = 768;
/// Outputs that a panel is for, at the most. Threads share matrices in multiples of it.
pub const PANEL_ROWS_MAX: usize = 2 * ROWS_MAX;

/// Memory of one thread for a panel.
#[derive(Default)]
pub struct PanelMemory(Vec<Line>);

/// What a cache line holds.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "reached through pointers")] [f32; 16]);

impl PanelMemory {
    /// Room for `len` values, on a cache line.
    pub fn reserve(&mut self, len: usize) -> *mut f32 {
        self.0.resize(self.0.len().max(len.div_ceil(16)), Line::default());
        self.0.as_mut_ptr().cast()
    }
}

/// Rows of f32, each `stride` values after the one before.
#[derive(Clone, Copy)]
pub struct InputRows {
    /// The first.
    pub start: *const f32,
    /// From one row to the next.
    pub stride: usize,
    /// How many.
    pub count: usize,
}

/// `out[t][n] = W[n] · x[t] + bias[n]` for a range of `n` and all `t`.
pub struct FloatProduct<'a, W> {
    /// The whole matrix.
    pub weight: &'a [u8],
    /// Its columns.
    pub cols: usize,
    /// Weight rows to do.
    pub rows: Range<usize>,
    /// The input, `cols` values of each row.
    pub x: InputRows,
    /// Added to each output.
    pub bias: Option<&'a [f32]>,
    /// Where to: input row `t` gives row `t`.
    pub out: Output,
    /// The thread's memory.
    pub memory: &'a mut PanelMemory,
    /// The weight's type.
    pub float: std::marker::PhantomData<W>,
}

impl<W: Float> Kernel for FloatProduct<'_, W> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let Self { weight, cols, rows, x, bias, out, memory, .. } = self;
        let row_bytes = cols * W::DTYPE.block_bytes();
        assert!(rows.end * row_bytes <= weight.len() && bias.is_none_or(|bias| rows.end <= bias.len()));
        let lanes = 2 * S::ROWS;
        let panel = memory.reserve(CHUNK * lanes);
        for first in rows.clone().step_by(lanes) {
            let count = lanes.min(rows.end - first);
            let mut biases = [0.0; PANEL_ROWS_MAX];
            for chunk in (0..cols).step_by(CHUNK) {
                let depth = CHUNK.min(cols - chunk);
                let from = &weight[first * row_bytes + chunk * W::DTYPE.block_bytes()..];
                let accumulate = if chunk == 0 { out.accumulate } else { Accumulate::Yes };
                biases[..count].fill(0.0);
                if let (0, Some(bias)) = (chunk, bias) {
                    biases[..count].copy_from_slice(&bias[first..first + count]);
                }
                // SAFETY: the assertion puts `count` rows of `depth` columns in bounds and the panel has room
                // for them; the caller vouches for the input, and for the outputs, which no other thread
                // touches.
                unsafe {
                    pack::<S, W>(s, PackRows { from: from.as_ptr(), row_bytes, count, depth }, lanes, panel);
                    let start = out.start.add(first);
                    let x = InputRows { start: x.start.add(chunk), ..x };
                    let to = PanelOutput { start, stride: out.stride, count, biases: &biases, accumulate };
                    multiply_panel::<S, 2>(s, panel, depth, x, to);
                }
            }
        }
    }
}

/// Rows to turn into a panel.
#[derive(Clone, Copy)]
pub struct PackRows {
    /// The first value of the first row.
    pub from: *const u8,
    /// From one row to the next.
    pub row_bytes: usize,
    /// Rows.
    pub count: usize,
    /// Values of each row.
    pub depth: usize,
}

/// Turns rows: value `k` of row `n` goes to `k * lanes + n`; rows that are missing to `lanes` are 0.
/// # Safety
/// The rows are readable, and `depth * lanes` values are writable at `to`.
#[inline(always)]
pub unsafe fn pack<S: Native, W: Float>(s: S, rows: PackRows, lanes: usize, to: *mut f32) {
    let bytes = W::DTYPE.block_bytes();
    let mut sixteen = [[0.0f32; WIDE]; LANES];
    for group in (0..lanes).step_by(LANES) {
        let present = rows.count.saturating_sub(group).min(LANES);
        for i in present..LANES {
            sixteen[i] = [0.0; WIDE];
        }
        for k in (0..rows.depth).step_by(WIDE) {
            let width = WIDE.min(rows.depth - k);
            for i in 0..present {
                // SAFETY: `width` values of the row are left; fewer than sixteen are copied to where sixteen
                // may be read.
                unsafe {
                    let from = rows.from.add((group + i) * rows.row_bytes + k * bytes);
                    if width == WIDE {
                        s.w_store(sixteen[i].as_mut_ptr(), W::load(s, from));
                    } else {
                        let mut padded = [0u8; WIDE * 4];
                        std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), width * bytes);
                        s.w_store(sixteen[i].as_mut_ptr(), W::load(s, padded.as_ptr()));
                    }
                }
            }
            for half in (0..width).step_by(LANES) {
                let mut v = [s.f_splat(0.0); LANES];
                for i in 0..LANES {
                    // SAFETY: each row has sixteen values, `half` is 0 or 8.
                    v[i] = unsafe { s.f_load(sixteen[i].as_ptr().add(half)) };
                }
                let v = s.f_transpose(v);
                for i in 0..LANES.min(width - half) {
                    // SAFETY: `k + half + i` is below `depth`, and `group + 8` is at most `lanes`.
                    unsafe { s.f_store(to.add((k + half + i) * lanes + group), v[i]) };
                }
            }
        }
    }
}

/// Where the products with a panel go.
#[derive(Clone, Copy)]
pub struct PanelOutput<'a> {
    /// The first row's first output.
    pub start: *mut f32,
    /// From one row to the next.
    pub stride: usize,
    /// Outputs that there are; the panel's further lanes are dropped.
    pub count: usize,
    /// Added to each, by lane.
    pub biases: &'a [f32; PANEL_ROWS_MAX],
    /// What happens to the values that are there.
    pub accumulate: Accumulate,
}

/// Multiplies a panel of `NV` vectors with input rows.
/// # Safety
/// `depth` vectors are readable in the panel and `depth` values in each input row; the outputs are the
/// caller's alone.
#[inline(always)]
pub unsafe fn multiply_panel<S: Native, const NV: usize>(
    s: S,
    panel: *const f32,
    depth: usize,
    x: InputRows,
    to: PanelOutput,
) {
    // SAFETY: as the caller says; each function does whole tiles of the rows that are left.
    unsafe {
        let mut t = 0;
        if S::ROWS == ROWS_MAX {
            t = tiles::<S, NV, 12>(s, panel, depth, x, to, t);
            t = tiles::<S, NV, 4>(s, panel, depth, x, to, t);
        } else {
            t = tiles::<S, NV, 6>(s, panel, depth, x, to, t);
        }
        tiles::<S, NV, 1>(s, panel, depth, x, to, t);
    }
}

/// Does input rows from `t` on by `NX`, and returns the first that is left.
/// # Safety
/// As [`multiply_panel`].
#[inline(always)]
unsafe fn tiles<S: Native, const NV: usize, const NX: usize>(
    s: S,
    panel: *const f32,
    depth: usize,
    x: InputRows,
    to: PanelOutput,
    mut t: usize,
) -> usize {
    while t + NX <= x.count {
        // SAFETY: rows `t..t + NX` are there.
        unsafe {
            let acc = tile::<S, NV, NX>(s, panel, depth, x.start.add(t * x.stride), x.stride);
            for j in 0..NX {
                put(s, acc[j], to.start.add((t + j) * to.stride), to);
            }
        }
        t += NX;
    }
    t
}

/// The sums of `NX` input rows.
/// # Safety
/// As [`multiply_panel`], for these rows.
#[inline(always)]
unsafe fn tile<S: Native, const NV: usize, const NX: usize>(
    s: S,
    panel: *const f32,
    depth: usize,
    x: *const f32,
    stride: usize,
) -> [[S::NF; NV]; NX] {
    let mut acc = [[s.nf_splat(0.0); NV]; NX];
    for k in 0..depth {
        // SAFETY: `k` is below `depth`.
        unsafe {
            let mut w = [s.nf_splat(0.0); NV];
            for v in 0..NV {
                w[v] = s.nf_load(panel.add((k * NV + v) * S::ROWS));
            }
            for j in 0..NX {
                let x = s.nf_splat(*x.add(j * stride + k));
                for v in 0..NV {
                    acc[j][v] = s.nf_fma(w[v], x, acc[j][v]);
                }
            }
        }
    }
    acc
}

/// Stores the sums of one input row.
/// # Safety
/// `to.count` values at `row` are the caller's alone.
#[inline(always)]
unsafe fn put<S: Native, const NV: usize>(s: S, acc: [S::NF; NV], row: *mut f32, to: PanelOutput) {
    let mut sums = [0.0f32; PANEL_ROWS_MAX];
    for v in 0..NV {
        // SAFETY: a panel has at most as many lanes as `biases` and `sums`; whole vectors are within `count`.
        unsafe {
            let at = v * S::ROWS;
            let mut sum = s.nf_add(acc[v], s.nf_load(to.biases.as_ptr().add(at)));
            if at + S::ROWS <= to.count {
                if to.accumulate == Accumulate::Yes {
                    sum = s.nf_add(s.nf_load(row.add(at)), sum);
                }
                s.nf_store(row.add(at), sum);
            } else {
                s.nf_store(sums.as_mut_ptr().add(at), sum);
                for lane in at..to.count.max(at) {
                    let place = row.add(lane);
                    *place = if to.accumulate == Accumulate::Yes { *place + sums[lane] } else { sums[lane] };
                }
            }
        }
    }
}
