//! Products of many rows of quantized input: weights are unpacked once into a panel and used for all of them.
//!
//! A panel holds a tile of weight rows, two wide vectors of them with one row per lane, over one [`CHUNK`] of
//! K: for each block of 32 values eight times `rows x 4 bytes`, and the scales of the rows as vectors. One
//! load of four activation bytes, broadcast, then feeds two vectors of outputs, and no sum crosses lanes. The
//! order of f32 operations per output is that of [`super::rows`]: the lanes of that kernel are done one after
//! the other here, so the panel keeps its blocks in the order 0, 8, 16, 24, 4, 12, ....
//!
//! Blocking: the panel (16 or 32 KiB) and the rows passing by it stay in the first-level cache. The loop over
//! K is outside that over tiles, so that the chunk of [`INPUTS`] input rows stays in the second, beside the
//! running sums.
//!
//! With few input rows most of the time goes into reading weights from memory. The next tile is asked for
//! while the inputs pass by, a part of it with each of them, not while the panel is packed: a core can wait
//! for some 16 lines at a time, and packing waits for lines itself.
//!
//! What was tried, in 10^9 operations a second in cache (AVX-512 VNNI, Q4_K, one thread; the peak is 546)
//! with 4, 8, 64 and 512 input rows: unpacking before transposing, scales row by row and a conversion of
//! every sum, 83, 138, 313, 338; transposing first, scales of sixteen rows at a time and sums that begin with
//! the bits of a float, 124, 184, 398, 408. On a noisier day, packing a chunk for few inputs too, 115, 175,
//! 344, 363; a group at a time, with running lanes in memory, 179, 235, 410, 430; storing by slices and not
//! clearing the sums first, 197, 277, 420, 443. From memory with two threads, 4, 6 and 8 input rows, 10^9
//! bytes of weights a second: asking for the next tile while packing 13.2, 12.3, 11.2, as above 16.2, 14.0,
//! 12.4; asking for it in the order of memory gained nothing. All of it with the first inputs or a part with
//! each, prefill of 16 tokens (LFM2-1.2B Q4_K_M, two threads, three turns): 161, 161, 138 tokens/s, and 200,
//! 191, 186. Starts of integer sums worked out before and addresses kept from the optimizer, 64 inputs in
//! cache: Q6_K 296 to 312, Q4_0 389 to 403, Q4_K as before.
//!
//! What equal bits cost here, with 512 inputs: one running sum per output instead of eight lanes would give
//! 424 instead of 408 (Q4_0), 417 for 404 (Q8_0), 430 for 398 (Q4_K) and 327 for 307 (Q6_K): 3 to 8% more,
//! medians of three turns in one run.
//!
//! With the 16 registers of AVX2, lanes in memory lost a tenth.

use std::ops::Range;

use undine_core::dtype::QK;

use super::activations::{GROUP, groups};
use super::formats::{Format, Place, QUADS, SIGNED};
use super::rows::{Accumulate, CHUNK, CHUNK_GROUPS, GROUP_BYTES_MAX, LINE, Quantized, offset, padded};
use crate::memory::SharedSlice;
use crate::simd::{Kernel, LANES, Native, ROWS_MAX};

/// Rows of weights in the largest tile. Threads share matrices in multiples of it.
pub const TILE_MAX: usize = 32;
/// Weight rows whose sums are kept while K goes by.
pub const ROWS: usize = 128;
/// Input rows at a time.
pub const INPUTS: usize = 256;
/// Up to this many input rows a panel holds one group of K instead of a chunk.
const FEW: usize = 16;
/// The largest [`Native::INPUTS`].
const INPUTS_AT_ONCE_MAX: usize = 6;
/// Blocks in a chunk.
const BLOCKS: usize = CHUNK / QK;
/// Integer sums begin with the bits of this float, 1.5 * 2^23. As long as they stay below 2^22 in magnitude
/// they are then, read as a float, this number plus the sum, and need no conversion. Times a scale of at most
/// 21 significant bits it is exact, so that `fma(scale, bits, -scale * SUM_START)` rounds once, as `scale *
/// sum` does.
const SUM_START: f32 = 12_582_912.0;
/// Its bits.
const SUM_BITS: i32 = SUM_START.to_bits() as i32;
/// Where lane `l` stands in the order of the panel: summing in this order folds as
/// [`crate::simd::Simd::f_sum`] does.
const PLACE: [usize; LANES] = [0, 4, 2, 6, 1, 5, 3, 7];

/// What a cache line holds.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line<T>([T; 16]);

/// Memory of one thread for a panel and running sums.
#[derive(Default)]
pub struct Panel {
    /// `[block][quad][row][4]`.
    quants: Vec<Line<u32>>,
    /// `[block][half][row]`: `s`.
    s: Vec<Line<f32>>,
    /// `[block][half][row]`: `m`.
    m: Vec<Line<f32>>,
    /// `[input row][weight row]`.
    sums: Vec<Line<f32>>,
    /// `[input row][lane][weight row]`: lanes of the chunk so far.
    lanes: Vec<Line<f32>>,
    /// `[half][input row][block]`: what the integer sums of the chunk begin with, where weights have an
    /// offset.
    starts: Vec<Line<i32>>,
    /// Rows of rare formats.
    pub(super) expanded: Vec<u8>,
}

impl Panel {
    fn reserve(&mut self) {
        self.quants.resize(BLOCKS * QUADS * TILE_MAX / 16, Line([0; 16]));
        for v in [&mut self.s, &mut self.m] {
            v.resize(BLOCKS * 2 * TILE_MAX / 16, Line([0.0; 16]));
        }
        self.sums.resize(INPUTS * ROWS / 16, Line([0.0; 16]));
        self.lanes.resize((FEW + INPUTS_AT_ONCE_MAX) * LANES * TILE_MAX / 16, Line([0.0; 16]));
        self.starts.resize((2 * INPUTS + INPUTS_AT_ONCE_MAX) * BLOCKS / 16, Line([0; 16]));
    }

    /// Works the starts out, so that tiles load and broadcast them: from a register that would be one more
    /// vector operation for each input row and half block.
    #[inline(always)]
    fn start<S: Native, F: Format>(&mut self, g: &Quantized<F>, inputs: Range<usize>, chunk: &Range<usize>) {
        if offset::<S, F>() == 0 {
            return;
        }
        let blocks = chunk.len() * LANES;
        for half in 0..if F::HALVES { 2 } else { 1 } {
            for (i, input) in inputs.clone().enumerate() {
                let at = (input * groups(g.cols) + chunk.start) * LANES;
                // SAFETY: the memory has room for a chunk of each input row; nobody writes the activations
                // during a product.
                let (starts, sums) = unsafe {
                    let starts = std::slice::from_raw_parts_mut(
                        self.starts.as_mut_ptr().cast::<i32>().add(starts_at(half, i)),
                        blocks,
                    );
                    (starts, half_sums::<F>(g, half).read(at..at + blocks))
                };
                for (start, sum) in starts.iter_mut().zip(sums) {
                    *start = SUM_BITS - offset::<S, F>() * sum;
                }
            }
        }
    }
}

/// Where the starts of an input row are.
const fn starts_at(half: usize, input: usize) -> usize {
    (half * INPUTS + input) * BLOCKS
}

/// The sums of the activations that one scale of a block is for.
#[inline(always)]
fn half_sums<'a, F: Format>(g: &Quantized<'a, F>, half: usize) -> &'a SharedSlice<i32> {
    match (F::HALVES, half) {
        (false, _) => &g.x.sum,
        (true, 0) => &g.x.low,
        (true, _) => &g.x.high,
    }
}

/// Any number of input rows against a range of weight rows.
pub struct PanelKernel<'a, F> {
    /// What to compute.
    pub product: Quantized<'a, F>,
    /// The thread's memory.
    pub memory: &'a mut Panel,
}

impl<F: Format> Kernel for PanelKernel<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        let Self { product: g, memory } = self;
        g.check();
        memory.reserve();
        let groups = groups(g.cols);
        for rows in g.rows.clone().step_by(ROWS) {
            let rows = rows..(rows + ROWS).min(g.rows.end);
            for first in g.inputs.clone().step_by(INPUTS) {
                let inputs = first..(first + INPUTS).min(g.inputs.end);
                for chunk in (0..groups).step_by(CHUNK_GROUPS) {
                    let chunk = chunk..(chunk + CHUNK_GROUPS).min(groups);
                    let at_once = if inputs.len() <= few::<S>() { 1 } else { CHUNK_GROUPS };
                    memory.start::<S, F>(&g, inputs.clone(), &chunk);
                    for tile in rows.clone().step_by(2 * S::ROWS) {
                        let sums = memory.sums.as_mut_ptr().cast::<f32>().wrapping_add(tile - rows.start);
                        let tile = Tile::new::<S, F>(&g, tile..rows.end, rows.start, &chunk);
                        for at in chunk.clone().step_by(at_once) {
                            let part = at..(at + at_once).min(chunk.end);
                            pack::<S, F>(s, &g, memory, &tile, part.clone());
                            let lanes = memory.lanes.as_mut_ptr().cast::<f32>();
                            let lanes = (lanes, if at_once == 1 { LANES * 2 * S::ROWS } else { 0 });
                            let chunk = chunk.clone();
                            Pass { g: &g, panel: memory, sums, lanes, first, chunk, part, tile: &tile }
                                .run(s, inputs.len());
                        }
                    }
                }
                store(&g, memory, rows.clone(), inputs);
            }
        }
    }
}

/// Up to this many input rows a panel holds one group of K instead of a chunk, so that it and the running
/// lanes of all inputs stay in the first-level cache. With few registers keeping lanes in memory costs more
/// than it saves.
const fn few<S: Native>() -> usize {
    if S::INPUTS == INPUTS_AT_ONCE_MAX { FEW } else { 0 }
}

/// The weight rows of a panel.
struct Tile {
    /// Where each begins. Rows past the end repeat the last one and are never stored.
    starts: [*const u8; TILE_MAX],
    /// Bytes from a group to the one at its place in the next panel.
    ahead: isize,
}

impl Tile {
    /// The first of `rows`, which end a block of rows that begins at `first`. The next panel has the same
    /// chunk of the rows that follow, else the next chunk of the block.
    fn new<S: Native, F: Format>(
        g: &Quantized<F>,
        rows: Range<usize>,
        first: usize,
        chunk: &Range<usize>,
    ) -> Self {
        let row_bytes = g.row_bytes();
        let mut starts = [std::ptr::null(); TILE_MAX];
        for (i, start) in starts.iter_mut().enumerate() {
            let n = (rows.start + i).min(rows.end - 1);
            *start = g.weight.as_ptr().wrapping_add(n * row_bytes);
        }
        let last = rows.start + 2 * S::ROWS >= rows.end && chunk.end < groups(g.cols);
        let ahead = if last {
            (chunk.len() * F::GROUP_BYTES) as isize - ((rows.start - first) * row_bytes) as isize
        } else {
            (2 * S::ROWS * row_bytes) as isize
        };
        Self { starts, ahead }
    }
}

/// Fills the panel with a tile over some groups of K, and asks for the next one's weights meanwhile.
#[inline(always)]
fn pack<S: Native, F: Format>(s: S, g: &Quantized<F>, panel: &mut Panel, tile: &Tile, part: Range<usize>) {
    let (whole, count) = (g.cols / GROUP, part.len());
    for first in [0, S::ROWS] {
        for (i, at) in part.clone().enumerate() {
            let mut row = [std::ptr::null(); ROWS_MAX];
            for lane in 0..S::ROWS {
                row[lane] = tile.starts[first + lane].wrapping_add(at * F::GROUP_BYTES);
            }
            let mut blocks = PLACE;
            for b in &mut blocks {
                *b = *b * count + i;
            }
            let to = Place {
                quants: panel.quants.as_mut_ptr().cast::<u8>().wrapping_add(first * 4),
                factors: panel.s.as_mut_ptr().cast::<f32>().wrapping_add(first),
                mins: panel.m.as_mut_ptr().cast::<f32>().wrapping_add(first),
                blocks,
            };
            if at < whole {
                // SAFETY: each row has a whole group, and the panel has room for every block of a chunk.
                unsafe { pack_group::<S, F>(s, &row, &to) };
            } else {
                let mut pad = [[0; GROUP_BYTES_MAX]; ROWS_MAX];
                for lane in 0..S::ROWS {
                    // SAFETY: as above, as many bytes as there are.
                    pad[lane] = unsafe { padded(row[lane], g.tail_bytes()) };
                    row[lane] = pad[lane].as_ptr();
                }
                // SAFETY: each row has a whole group now.
                unsafe { pack_group::<S, F>(s, &row, &to) };
            }
        }
    }
}

/// # Safety
/// As [`Format::pack`].
#[inline(always)]
unsafe fn pack_group<S: Native, F: Format>(s: S, rows: &[*const u8; ROWS_MAX], to: &Place) {
    // SAFETY: as the caller says.
    unsafe {
        F::pack(s, rows, to);
        F::pack_scales(s, rows, to);
    }
}

/// One panel against a block of input rows.
struct Pass<'a, F> {
    g: &'a Quantized<'a, F>,
    panel: &'a Panel,
    /// Sums of the first input row and the tile's first weight row.
    sums: *mut f32,
    /// The first input row.
    first: usize,
    /// Lanes of the first input row, and how far those of the next one are.
    lanes: (*mut f32, usize),
    /// The groups whose lanes are summed together.
    chunk: Range<usize>,
    /// Those that the panel holds.
    part: Range<usize>,
    /// Its weight rows.
    tile: &'a Tile,
}

impl<F: Format> Pass<'_, F> {
    #[inline(always)]
    fn run<S: Native>(&self, s: S, count: usize) {
        let mut t = 0;
        while t < count {
            let left = count - t;
            // Each size is compiled for each format: few sizes, and a lone last row goes twice through a
            // pair.
            t += match left {
                6 | 9.. if S::INPUTS == 6 => self.rows::<S, 6>(s, t, count),
                4.. if S::INPUTS == 6 => self.rows::<S, 4>(s, t, count),
                3 | 5.. if S::INPUTS == 3 => self.rows::<S, 3>(s, t, count),
                _ => self.rows::<S, 2>(s, t, count),
            };
        }
    }

    /// Adds the panel's products with `NT` of the input rows, from `t` on, to their sums, and returns how
    /// many these were.
    #[inline(always)]
    fn rows<S: Native, const NT: usize>(&self, s: S, t: usize, inputs: usize) -> usize {
        let left = inputs - t;
        let stride = if left < NT { 0 } else { groups(self.g.cols) * LANES };
        // Kept from the optimizer, which else works all addresses out anew for each block, on ports that
        // products need.
        let rows: [usize; NT] = std::hint::black_box(std::array::from_fn(|t| t * stride * size_of::<f32>()));
        let at = ((self.first + t) * groups(self.g.cols) + self.part.start) * LANES;
        let start = t * BLOCKS + (self.part.start - self.chunk.start) * LANES;
        let count = self.part.len();
        // Rows of the next panel to ask for: some with each of the input rows.
        let coming = 2 * S::ROWS * t / inputs..2 * S::ROWS * (t + NT.min(left)) / inputs;
        let lanes = self.lanes.0.wrapping_add(t * self.lanes.1);
        let place =
            |lane: usize, i: usize, v: usize| lanes.wrapping_add(((i * LANES + lane) * 2 + v) * S::ROWS);
        for lane in 0..LANES {
            self.ask(
                s,
                coming.start + coming.len() * lane / LANES..coming.start + coming.len() * (lane + 1) / LANES,
            );
            let mut acc = [[s.nf_splat(0.0); 2]; NT];
            if self.part.start != self.chunk.start {
                for i in 0..NT {
                    for v in 0..2 {
                        // SAFETY: there are lanes for each row of the block, and more than fill it up to
                        // `NT`.
                        acc[i][v] = unsafe { s.nf_load(place(lane, i, v)) };
                    }
                }
            }
            for i in 0..count {
                // SAFETY: the panel holds the block, the activations hold it for each row (checked in `run`).
                unsafe {
                    let b = i * LANES + PLACE[lane];
                    self.block(s, lane * count + i, [at + b, start + b], &rows, &mut acc);
                }
            }
            for i in 0..NT {
                for v in 0..2 {
                    // SAFETY: as above.
                    unsafe { s.nf_store(place(lane, i, v), acc[i][v]) };
                }
            }
        }
        if self.part.end < self.chunk.end {
            return NT.min(left);
        }
        for i in 0..NT.min(left) {
            for v in 0..2 {
                // SAFETY: as above; the sums have a vector for each row of the tile and the block.
                unsafe {
                    let l = |lane: usize| s.nf_load(place(lane, i, v));
                    let even = s.nf_add(s.nf_add(l(0), l(1)), s.nf_add(l(2), l(3)));
                    let odd = s.nf_add(s.nf_add(l(4), l(5)), s.nf_add(l(6), l(7)));
                    let place = self.sums.add((t + i) * ROWS + v * S::ROWS);
                    let before = if self.chunk.start == 0 { s.nf_splat(0.0) } else { s.nf_load(place) };
                    s.nf_store(place, s.nf_add(before, s.nf_add(even, odd)));
                }
            }
        }
        NT.min(left)
    }

    /// Asks for what comes to the place of some of the panel's weights next.
    #[inline(always)]
    fn ask<S: Native>(&self, s: S, rows: Range<usize>) {
        let lines = (self.part.start * F::GROUP_BYTES).div_ceil(LINE)
            ..(self.part.end * F::GROUP_BYTES).div_ceil(LINE);
        for row in rows {
            let next = self.tile.starts[row].wrapping_offset(self.tile.ahead);
            for line in lines.clone() {
                s.prefetch_far(next.wrapping_add(line * LINE));
            }
        }
    }

    /// Adds block `place` of the panel, whose input is block `at`; `rows` says how many bytes further each
    /// row has its scale. Its starts are those of block `start`, and for the next row [`BLOCKS`] further.
    /// # Safety
    /// The panel and the inputs have these blocks.
    #[inline(always)]
    unsafe fn block<S: Native, const NT: usize>(
        &self,
        s: S,
        place: usize,
        [at, start]: [usize; 2],
        rows: &[usize; NT],
        acc: &mut [[S::NF; 2]; NT],
    ) {
        let x = self.g.x;
        let halves = if F::HALVES { 2 } else { 1 };
        let mut values = [[s.nf_splat(0.0); 2]; NT];
        // SAFETY: the caller vouches for the panel's block and each input row's.
        unsafe {
            for half in 0..halves {
                let mut isum = [[s.ni_splat(SUM_BITS); 2]; NT];
                if offset::<S, F>() != 0 {
                    let starts = self.panel.starts.as_ptr().cast::<i32>().add(starts_at(half, 0) + start);
                    for t in 0..NT {
                        isum[t] = [s.ni_splat(*starts.add(t * BLOCKS)); 2];
                    }
                }
                let quads = half * QUADS / halves..(half + 1) * QUADS / halves;
                self.dots(s, place, at, rows, quads, &mut isum);
                let scale = (place * 2 + half) * 2 * S::ROWS;
                let factors = self.panel.s.as_ptr().cast::<f32>().add(scale);
                let mins = self.panel.m.as_ptr().cast::<f32>().add(scale);
                for v in 0..2 {
                    let factor = s.nf_load(factors.add(v * S::ROWS));
                    let start = s.nf_mul(factor, s.nf_splat(-SUM_START));
                    for t in 0..NT {
                        let f = s.nf_from_bits(isum[t][v]);
                        values[t][v] = if half == 0 {
                            s.nf_fma(factor, f, start)
                        } else {
                            s.nf_fma(factor, s.nf_add(f, s.nf_splat(-SUM_START)), values[t][v])
                        };
                    }
                    if F::HAS_MIN {
                        let min = s.nf_load(mins.add(v * S::ROWS));
                        for t in 0..NT {
                            let sum = if F::HALVES {
                                *half_sums::<F>(self.g, half).as_ptr().add(at).byte_add(rows[t]) as f32
                            } else {
                                *x.sum_f32.as_ptr().add(at).byte_add(rows[t])
                            };
                            values[t][v] = s.nf_fma(min, s.nf_splat(sum), values[t][v]);
                        }
                    }
                }
            }
            for t in 0..NT {
                let d = s.nf_splat(*x.d.as_ptr().add(at).byte_add(rows[t]));
                for v in 0..2 {
                    acc[t][v] = s.nf_fma(d, values[t][v], acc[t][v]);
                }
            }
        }
    }

    /// Adds the integer products of some quads of a block.
    /// # Safety
    /// As [`Self::block`].
    #[inline(always)]
    unsafe fn dots<S: Native, const NT: usize>(
        &self,
        s: S,
        place: usize,
        at: usize,
        rows: &[usize; NT],
        quads: Range<usize>,
        isum: &mut [[S::NI; 2]; NT],
    ) {
        let panel = self.panel.quants.as_ptr().cast::<u8>().wrapping_add(place * QUADS * 2 * S::ROWS * 4);
        let x = self.g.x.q.as_ptr().cast_const().wrapping_add(at * QK);
        // How many products of small weights fit into 16 bits, if that is where they are summed.
        let steps = if S::SUMS_IN_32_BITS { QUADS } else { (32767 / (2 * 127 * F::MAX)) as usize };
        // SAFETY: the caller vouches for the panel's block and each input row's.
        unsafe {
            let mut quad = quads.start;
            while quad < quads.end {
                let end = if F::MAX == SIGNED { quads.end } else { (quad + steps).min(quads.end) };
                let mut sum = [[s.d_zero(); 2]; NT];
                if S::SUMS_IN_32_BITS {
                    for t in 0..NT {
                        sum[t] = [s.d_from(isum[t][0]), s.d_from(isum[t][1])];
                    }
                }
                for q in quad..end {
                    let w = panel.add(q * 2 * S::ROWS * 4);
                    let w = [s.nb_load(w), s.nb_load(w.add(S::ROWS * 4))];
                    for t in 0..NT {
                        let a = s.nb_broadcast(x.add(rows[t] * (QK / size_of::<f32>()) + q * 4));
                        for v in 0..2 {
                            if F::MAX == SIGNED {
                                isum[t][v] = s.d_step_signed(isum[t][v], w[v], a);
                            } else {
                                sum[t][v] = s.d_step(sum[t][v], w[v], a);
                            }
                        }
                    }
                }
                if F::MAX != SIGNED {
                    for t in 0..NT {
                        for v in 0..2 {
                            isum[t][v] = s.d_add(isum[t][v], sum[t][v]);
                        }
                    }
                }
                quad = end;
            }
        }
    }
}

/// Writes the sums of a block of input rows to where they belong.
#[inline(always)]
fn store<F>(g: &Quantized<F>, memory: &Panel, rows: Range<usize>, inputs: Range<usize>) {
    for (t, sums) in inputs.zip(memory.sums.chunks_exact(ROWS / 16)) {
        // SAFETY: a block of rows is at most `ROWS` wide, and the caller gave this range of outputs to this
        // call alone.
        let (sums, out) = unsafe {
            let start = g.out.start.wrapping_add(t * g.out.stride + rows.start);
            let sums = std::slice::from_raw_parts(sums.as_ptr().cast::<f32>(), rows.len());
            (sums, std::slice::from_raw_parts_mut(start, rows.len()))
        };
        match (g.bias, g.out.accumulate) {
            (None, Accumulate::No) => out.copy_from_slice(sums),
            (None, Accumulate::Yes) => out.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
            (Some(bias), accumulate) => {
                for ((y, sum), bias) in out.iter_mut().zip(sums).zip(&bias[rows.clone()]) {
                    let value = sum + bias;
                    *y = if accumulate == Accumulate::Yes { *y + value } else { value };
                }
            }
        }
    }
}
