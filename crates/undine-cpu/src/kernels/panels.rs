//! Products of many rows of quantized input: weights are unpacked once into a panel and used for all of them.
//!
//! A panel holds a tile of [`TILE`] weight rows, one per lane, over at most [`CHUNK`] values of K: for each block of 32
//! values eight vectors of `8 rows x 4 bytes`, and the scales of the 8 rows as vectors. One load of four activation
//! bytes, broadcast, then feeds eight outputs, and no sum crosses lanes.
//! The order of f32 operations per output is that of [`super::rows`]: for 32-value formats the lanes of that kernel
//! are done one after the other here, so blocks are visited as 0, 8, 16, ..., 4, 12, ....
//!
//! Blocking: [`Group`] panels of several tiles are packed for the whole of K and stay in the second-level cache,
//! where a block of input rows ([`super::matmul`]) joins them; one panel chunk (16 KiB) stays in the first level
//! while all rows of the block pass by it, four at a time.

use std::marker::PhantomData;

use undine_core::dtype::{QK, QK_K};

use super::activations::Activations;
use super::each_sub;
use super::formats::{Format32, Format256};
use super::rows::{CHUNK, Output};
use crate::simd::{Kernel, LANES, Simd};

/// Weight rows in a tile.
pub const TILE: usize = LANES;
/// Groups of four bytes in a block of 32.
const QUADS: usize = QK / 4;

/// Memory of one thread for packed tiles, over the whole of K.
#[derive(Default)]
pub struct Group {
    /// `[tile][block of 32][quad][row][4]`.
    quants: Vec<u8>,
    /// `[tile][block][row]`: `d`.
    d: Vec<f32>,
    /// `[tile][block][row]`: `m`, or `-dmin`.
    m: Vec<f32>,
    /// 256-value formats: `[tile][block][16][row]`, `sc` in both halves of an i32.
    sc: Vec<i32>,
    /// 256-value formats: `[tile][block][8][row]`, pairs of `sc`, then as many pairs of `mn`.
    pairs: Vec<i32>,
    /// Running sums of a block of input rows: `[tile][row of input][row of weights]`.
    sums: Vec<f32>,
}

/// A group of tiles against a block of input rows.
pub struct GroupKernel<'a, F> {
    /// The whole matrix.
    pub weight: &'a [u8],
    /// Its columns.
    pub cols: usize,
    /// Weight rows of this group.
    pub rows: std::ops::Range<usize>,
    /// The input, `cols` wide.
    pub x: &'a Activations,
    /// Input rows.
    pub inputs: std::ops::Range<usize>,
    /// Input rows at a time.
    pub input_block: usize,
    /// Added to each output.
    pub bias: Option<&'a [f32]>,
    /// Where to.
    pub out: Output,
    /// The thread's memory.
    pub memory: &'a mut Group,
    /// The weight's format.
    pub format: PhantomData<F>,
}

/// [`GroupKernel`] for a format with blocks of 32.
pub struct Panels32<'a, F>(pub GroupKernel<'a, F>);
/// [`GroupKernel`] for a format with blocks of 256.
pub struct Panels256<'a, F>(pub GroupKernel<'a, F>);

impl<F: Format32> Kernel for Panels32<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut g = self.0;
        let blocks = g.cols / QK;
        assert!(g.rows.end * blocks * F::DTYPE.block_bytes() <= g.weight.len());
        assert!(g.inputs.end * g.cols <= g.x.q32.len());
        let tiles = g.rows.len().div_ceil(TILE);
        g.memory.reserve_32(tiles, blocks, g.input_block);
        for tile in 0..tiles {
            pack_tile_32::<S, F>(s, &mut g, tile);
        }
        let mut first = g.inputs.start;
        while first < g.inputs.end {
            let count = g.input_block.min(g.inputs.end - first);
            g.memory.sums[..tiles * g.input_block * TILE].fill(0.0);
            for tile in 0..tiles {
                for chunk in (0..blocks).step_by(CHUNK / QK) {
                    let range = chunk..(chunk + CHUNK / QK).min(blocks);
                    let mut t = 0;
                    while t + 4 <= count {
                        chunk_32::<S, F, 4>(s, &mut g, tile, range.clone(), [first, t]);
                        t += 4;
                    }
                    while t < count {
                        chunk_32::<S, F, 1>(s, &mut g, tile, range.clone(), [first, t]);
                        t += 1;
                    }
                }
            }
            store(&g, tiles, first, count);
            first += count;
        }
    }
}

impl<F: Format256> Kernel for Panels256<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut g = self.0;
        let blocks = g.cols / QK_K;
        assert!(g.rows.end * blocks * F::DTYPE.block_bytes() <= g.weight.len());
        assert!(g.inputs.end * g.cols <= g.x.q256.len());
        let tiles = g.rows.len().div_ceil(TILE);
        g.memory.reserve_256(tiles, blocks, g.input_block);
        for tile in 0..tiles {
            pack_tile_256::<S, F>(s, &mut g, tile);
        }
        let mut first = g.inputs.start;
        while first < g.inputs.end {
            let count = g.input_block.min(g.inputs.end - first);
            g.memory.sums[..tiles * g.input_block * TILE].fill(0.0);
            for tile in 0..tiles {
                for chunk in (0..blocks).step_by(CHUNK / QK_K) {
                    let range = chunk..(chunk + CHUNK / QK_K).min(blocks);
                    let mut t = 0;
                    while t + 4 <= count {
                        chunk_256::<S, F, 4>(s, &mut g, tile, range.clone(), [first, t]);
                        t += 4;
                    }
                    while t < count {
                        chunk_256::<S, F, 1>(s, &mut g, tile, range.clone(), [first, t]);
                        t += 1;
                    }
                }
            }
            store(&g, tiles, first, count);
            first += count;
        }
    }
}

impl Group {
    fn reserve(&mut self, tiles: usize, blocks_32: usize, scales: usize, input_block: usize) {
        grow(&mut self.quants, tiles * blocks_32 * QK * TILE);
        grow(&mut self.d, tiles * scales * TILE);
        grow(&mut self.m, tiles * scales * TILE);
        grow(&mut self.sums, tiles * input_block * TILE);
    }

    fn reserve_32(&mut self, tiles: usize, blocks: usize, input_block: usize) {
        self.reserve(tiles, blocks, blocks, input_block);
    }

    fn reserve_256(&mut self, tiles: usize, blocks: usize, input_block: usize) {
        self.reserve(tiles, blocks * (QK_K / QK), blocks, input_block);
        grow(&mut self.sc, tiles * blocks * 16 * TILE);
        grow(&mut self.pairs, tiles * blocks * 16 * TILE);
    }
}

fn grow<T: Clone + Default>(v: &mut Vec<T>, len: usize) {
    if v.len() < len {
        v.resize(len, T::default());
    }
}

/// The weight row of lane `lane` of a tile; rows past the end repeat the last one and are never stored.
#[inline(always)]
fn lane_row<F>(g: &GroupKernel<F>, tile: usize, lane: usize) -> usize {
    (g.rows.start + tile * TILE + lane).min(g.rows.end - 1)
}

#[inline(always)]
fn pack_tile_32<S: Simd, F: Format32>(s: S, g: &mut GroupKernel<F>, tile: usize) {
    let blocks = g.cols / QK;
    let bytes = F::DTYPE.block_bytes();
    // SAFETY: the rows are within the matrix (asserted by the caller) and the panel has room (reserved there).
    unsafe {
        let row: [*const u8; TILE] =
            std::array::from_fn(|lane| g.weight.as_ptr().add(lane_row(g, tile, lane) * blocks * bytes));
        for b in 0..blocks {
            let at = tile * blocks + b;
            let mut quants = [s.b_splat(0); TILE];
            for lane in 0..TILE {
                quants[lane] = F::quants(s, row[lane].add(b * bytes), 0);
            }
            pack_quads(s, quants, g.memory.quants.as_mut_ptr().add(at * QK * TILE));
            for lane in 0..TILE {
                let half = |p: *const u8| half::f16::from_bits(p.cast::<u16>().read_unaligned()).to_f32();
                g.memory.d[at * TILE + lane] = half(row[lane].add(b * bytes));
                if F::HAS_MIN {
                    g.memory.m[at * TILE + lane] = half(row[lane].add(b * bytes + F::MIN_AT));
                }
            }
        }
    }
}

#[inline(always)]
fn pack_tile_256<S: Simd, F: Format256>(s: S, g: &mut GroupKernel<F>, tile: usize) {
    let blocks = g.cols / QK_K;
    let bytes = F::DTYPE.block_bytes();
    // SAFETY: the rows are within the matrix (asserted by the caller) and the panel has room (reserved there).
    unsafe {
        let row: [*const u8; TILE] =
            std::array::from_fn(|lane| g.weight.as_ptr().add(lane_row(g, tile, lane) * blocks * bytes));
        for b in 0..blocks {
            let at = tile * blocks + b;
            let panel = g.memory.quants.as_mut_ptr().add(at * QK_K * TILE);
            each_sub!(SUB, {
                let mut quants = [s.b_splat(0); TILE];
                for lane in 0..TILE {
                    quants[lane] = F::quants(s, row[lane].add(b * bytes), SUB);
                }
                pack_quads(s, quants, panel.add(SUB * QK * TILE));
            });
            for (lane, row) in row.into_iter().enumerate() {
                let scales = F::scales(row.add(b * bytes));
                g.memory.d[at * TILE + lane] = scales.d;
                g.memory.m[at * TILE + lane] = scales.neg_dmin;
                for k in 0..16 {
                    g.memory.sc[(at * 16 + k) * TILE + lane] = both_halves(scales.sc[k], scales.sc[k]);
                }
                for k in 0..8 {
                    let place = (at * 16 + k) * TILE + lane;
                    g.memory.pairs[place] = both_halves(scales.sc[2 * k], scales.sc[2 * k + 1]);
                    g.memory.pairs[place + 8 * TILE] = both_halves(scales.mn[2 * k], scales.mn[2 * k + 1]);
                }
            }
        }
    }
}

#[inline(always)]
fn both_halves(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | i32::from(high) << 16
}

/// Stores 8 rows of 32 bytes as 8 groups of `8 rows x 4 bytes`.
/// # Safety
/// 256 bytes are writable at `panel`.
#[inline(always)]
unsafe fn pack_quads<S: Simd>(s: S, rows: [S::B; TILE], panel: *mut u8) {
    let quads = s.transpose(rows);
    for (i, quad) in quads.into_iter().enumerate() {
        // SAFETY: the caller gives 256 writable bytes.
        unsafe { s.b_store(panel.add(i * 4 * TILE), quad) };
    }
}

/// Adds one chunk of K of one tile to the sums of `NT` input rows, from `first + t`.
#[inline(always)]
fn chunk_32<S: Simd, F: Format32, const NT: usize>(
    s: S,
    g: &mut GroupKernel<F>,
    tile: usize,
    range: std::ops::Range<usize>,
    [first, t]: [usize; 2],
) {
    let blocks = g.cols / QK;
    // Sums of lanes 0, 4, 2, 6, 1, 5, 3, 7, in this order, fold as `Simd::f_sum` does.
    let mut lanes = [[s.f_splat(0.0); LANES]; NT];
    for (slot, lane) in [0, 4, 2, 6, 1, 5, 3, 7].into_iter().enumerate() {
        let mut acc = [s.f_splat(0.0); NT];
        for b in (range.start + lane..range.end).step_by(LANES) {
            // SAFETY: the panel holds block `b` of the tile, the activations hold it for each row (asserted in `run`).
            unsafe {
                let at = tile * blocks + b;
                let d = s.f_load(g.memory.d.as_ptr().add(at * TILE));
                let m = if F::HAS_MIN { s.f_load(g.memory.m.as_ptr().add(at * TILE)) } else { d };
                let isum = block_32::<S, F, NT>(
                    s,
                    g.memory.quants.as_ptr().add(at * QK * TILE),
                    g.x,
                    (first + t) * blocks + b,
                    blocks,
                );
                for i in 0..NT {
                    let at = (first + t + i) * blocks + b;
                    let da = s.f_splat(*g.x.d32.as_ptr().add(at));
                    let sum = *g.x.s32.as_ptr().add(at);
                    let isum =
                        if F::OFFSET == 0 { isum[i] } else { s.i_sub(isum[i], s.i_splat(F::OFFSET * sum)) };
                    acc[i] = s.f_fma(s.f_mul(d, da), s.f_from_i(isum), acc[i]);
                    if F::HAS_MIN {
                        acc[i] = s.f_fma(m, s.f_mul(da, s.f_splat(sum as f32)), acc[i]);
                    }
                }
            }
        }
        for i in 0..NT {
            lanes[i][slot] = acc[i];
        }
    }
    for (i, l) in lanes.into_iter().enumerate() {
        let even = s.f_add(s.f_add(l[0], l[1]), s.f_add(l[2], l[3]));
        let odd = s.f_add(s.f_add(l[4], l[5]), s.f_add(l[6], l[7]));
        // SAFETY: the sums have a vector for each tile and row of the block.
        unsafe {
            let place = g.memory.sums.as_mut_ptr().add((tile * g.input_block + t + i) * TILE);
            s.f_store(place, s.f_add(s.f_load(place), s.f_add(even, odd)));
        }
    }
}

/// `sum q a` over one block of 32 for `NT` input rows. The input's block is `at`, that of the next row `stride` further.
/// # Safety
/// `panel` holds a block of 32 for each row of the tile, and the input has those blocks.
#[inline(always)]
unsafe fn block_32<S: Simd, F: Format32, const NT: usize>(
    s: S,
    panel: *const u8,
    x: &Activations,
    at: usize,
    stride: usize,
) -> [S::I; NT] {
    let mut isum = [s.i_splat(0); NT];
    // SAFETY: the caller vouches for the panel's block and each input row's.
    unsafe {
        let a = x.q32.as_ptr().cast_const();
        let a: [*const i8; NT] = std::array::from_fn(|i| a.add((at + i * stride) * QK));
        if F::STEPS == 0 {
            for quad in 0..QUADS {
                let w = s.b_load(panel.add(quad * 4 * TILE));
                for i in 0..NT {
                    isum[i] = s.dot_wide_step(isum[i], w, s.i_broadcast(a[i].add(quad * 4)));
                }
            }
            return isum;
        }
        let mut quad = 0;
        while quad < QUADS {
            let mut sum = [s.d_zero(); NT];
            for q in quad..(quad + F::STEPS).min(QUADS) {
                let w = s.b_load(panel.add(q * 4 * TILE));
                for i in 0..NT {
                    sum[i] = s.d_step(sum[i], w, s.i_broadcast(a[i].add(q * 4)));
                }
            }
            for i in 0..NT {
                isum[i] = s.i_add(isum[i], s.d_finish(sum[i]));
            }
            quad += F::STEPS;
        }
    }
    isum
}

/// Adds one chunk of K of one tile to the sums of `NT` input rows, from `first + t`.
#[inline(always)]
fn chunk_256<S: Simd, F: Format256, const NT: usize>(
    s: S,
    g: &mut GroupKernel<F>,
    tile: usize,
    range: std::ops::Range<usize>,
    [first, t]: [usize; 2],
) {
    let blocks = g.cols / QK_K;
    // SAFETY: the panel holds these blocks of the tile, the activations hold them for each row (asserted in `run`), and
    // the sums have a vector for each tile and row of the block.
    unsafe {
        let place = g.memory.sums.as_mut_ptr().add((tile * g.input_block + t) * TILE);
        let mut acc = [s.f_splat(0.0); NT];
        for i in 0..NT {
            acc[i] = s.f_load(place.add(i * TILE));
        }
        for b in range {
            let at = tile * blocks + b;
            let d = s.f_load(g.memory.d.as_ptr().add(at * TILE));
            let m = s.f_load(g.memory.m.as_ptr().add(at * TILE));
            let isum = super_block::<S, F, NT>(s, g, at, [(first + t) * blocks + b, blocks]);
            for i in 0..NT {
                let at_x = (first + t + i) * blocks + b;
                let da = s.f_splat(*g.x.d256.as_ptr().add(at_x));
                let sums = g.x.s256.as_ptr().cast::<i8>().cast_const().add(at_x * 32);
                let mut isum = isum[i];
                if F::OFFSET != 0 {
                    let offset = weighted(s, g.memory.pairs.as_ptr().add(at * 16 * TILE), sums);
                    isum = s.i_sub(isum, s.i_mul(offset, s.i_splat(F::OFFSET)));
                }
                acc[i] = s.f_fma(s.f_mul(d, da), s.f_from_i(isum), acc[i]);
                if F::HAS_MIN {
                    let msum = weighted(s, g.memory.pairs.as_ptr().add((at * 16 + 8) * TILE), sums);
                    acc[i] = s.f_fma(s.f_mul(m, da), s.f_from_i(msum), acc[i]);
                }
            }
        }
        for (i, acc) in acc.into_iter().enumerate() {
            s.f_store(place.add(i * TILE), acc);
        }
    }
}

/// `sum over 16 of scale * sum of activations`, per lane.
/// # Safety
/// 8 vectors are readable at `pairs`, and 32 bytes at `sums`.
#[inline(always)]
unsafe fn weighted<S: Simd>(s: S, pairs: *const i32, sums: *const i8) -> S::I {
    let mut total = s.i_splat(0);
    for k in 0..8 {
        // SAFETY: the caller gives 8 vectors of pairs and 16 sums.
        unsafe {
            total = s.i_add(total, s.i_madd16(s.i_load(pairs.add(k * TILE)), s.i_broadcast(sums.add(k * 4))));
        }
    }
    total
}

/// `sum over sub-blocks of sc * sum q a` over one block of 256. `[at_x, stride]` find the input's blocks.
/// # Safety
/// The panel holds block `at`, and the input has its blocks.
#[inline(always)]
unsafe fn super_block<S: Simd, F: Format256, const NT: usize>(
    s: S,
    g: &GroupKernel<F>,
    at: usize,
    [at_x, stride]: [usize; 2],
) -> [S::I; NT] {
    let mut isum = [s.i_splat(0); NT];
    let quads_per_scale = F::SUB / 4;
    // SAFETY: the caller vouches for the panel's block and each input row's.
    unsafe {
        let panel = g.memory.quants.as_ptr().add(at * QK_K * TILE);
        let a = g.x.q256.as_ptr().cast_const();
        let a: [*const i8; NT] = std::array::from_fn(|i| a.add((at_x + i * stride) * QK_K));
        for sub in 0..QK_K / F::SUB {
            let scale = s.i_load(g.memory.sc.as_ptr().add((at * 16 + sub * (F::SUB / 16)) * TILE));
            let first = sub * quads_per_scale;
            if F::STEPS == 0 {
                let mut sum = [s.i_splat(0); NT];
                for q in first..first + quads_per_scale {
                    let w = s.b_load(panel.add(q * 4 * TILE));
                    for i in 0..NT {
                        sum[i] = s.dot_wide_step(sum[i], w, s.i_broadcast(a[i].add(q * 4)));
                    }
                }
                for i in 0..NT {
                    isum[i] = s.i_add(isum[i], s.i_mul(sum[i], s.scale_lanes(scale)));
                }
                continue;
            }
            let mut quad = first;
            while quad < first + quads_per_scale {
                let mut sum = [s.d_zero(); NT];
                for q in quad..(quad + F::STEPS).min(first + quads_per_scale) {
                    let w = s.b_load(panel.add(q * 4 * TILE));
                    for i in 0..NT {
                        sum[i] = s.d_step(sum[i], w, s.i_broadcast(a[i].add(q * 4)));
                    }
                }
                for i in 0..NT {
                    isum[i] = s.i_add(isum[i], s.d_scale(sum[i], scale));
                }
                quad += F::STEPS;
            }
        }
    }
    isum
}

/// Writes the sums of a block of input rows to where they belong.
fn store<F>(g: &GroupKernel<F>, tiles: usize, first: usize, count: usize) {
    for tile in 0..tiles {
        let start = g.rows.start + tile * TILE;
        for t in 0..count {
            let sums = &g.memory.sums[(tile * g.input_block + t) * TILE..][..TILE];
            for (n, &sum) in (start..g.rows.end).zip(sums) {
                // SAFETY: the caller gave this range of outputs to this call alone.
                unsafe { g.out.put(first + t, n, sum + g.bias.map_or(0.0, |bias| bias[n])) };
            }
        }
    }
}
