//! What each thread does for each recorded operation of the tower.
//!
//! Rows are split between threads where rows are independent, outputs where a weight matrix is read, and
//! heads with blocks of queries in attention.

use std::marker::PhantomData;
use std::ops::Range;

use undine_core::vision::CHANNELS;
use undine_core::{DType, PatchOrder};
use undine_model::vision::{Gelu, LayerNorm, LinearGelu, VisionQkv};
use undine_model::{Linear, Rows};

use super::attention::{AttendHead, PackHead, QUERIES, keys_len, scores_len, values_len};
use super::elementwise::{GeluRow, NormRow};
use super::gemm::{FloatProduct, InputRows, PANEL_ROWS_MAX};
use super::plan::{Length, VisionOp};
use super::{PlacedTile, State, ThreadMemory};
use crate::kernels::activations::{ActivationKind, ActivationKinds, QuantizeRow};
use crate::kernels::floats::{self, Float};
use crate::kernels::matmul::MatMul;
use crate::kernels::rows::{Accumulate, Output};
use crate::pool::Worker;

/// Runs this thread's part of `op`. All threads meet at a barrier afterwards.
pub(super) fn run(state: &State, op: &VisionOp, worker: Worker) {
    match *op {
        VisionOp::EmbedPatches { op, y } => embed_patches(state, worker, op, y),
        VisionOp::NormQkv { x, op, y } => norm_qkv(state, worker, op, [x, y]),
        VisionOp::Attend { qkv, y } => attend(state, worker, [qkv, y]),
        VisionOp::LinearAdd { x, op, residual } => {
            let source = Source::new(state, worker, x, None, kinds_of(state, [op]));
            multiply(state, worker, op, source, output(state, residual, Accumulate::Yes));
        }
        VisionOp::LinearGelu { x, op, y } => linear_gelu(state, worker, op, [x, y]),
        VisionOp::NormUnshuffle { x, norm, y } => norm_unshuffle(state, worker, norm, [x, y]),
        VisionOp::Project { x, op, y } => {
            let source = Source::new(state, worker, x, None, kinds_of(state, [op]));
            multiply(state, worker, op, source, output(state, y, Accumulate::No));
        }
    }
}

fn rows(state: &State, handle: Rows) -> usize {
    match state.plan.buffers[handle.0 as usize].length {
        Length::Patches => state.patches,
        Length::Tokens => state.tokens,
    }
}

fn width(state: &State, handle: Rows) -> usize {
    state.plan.buffers[handle.0 as usize].width
}

/// Row `row` of a handle.
/// # Safety
/// Nobody writes to it meanwhile.
unsafe fn value(state: &State, handle: Rows, row: usize) -> &[f32] {
    let width = width(state, handle);
    // SAFETY: as the caller says.
    unsafe { state.memory.buffers[handle.0 as usize].read(row * width..(row + 1) * width) }
}

fn start(state: &State, handle: Rows) -> *mut f32 {
    state.memory.buffers[handle.0 as usize].as_ptr()
}

fn output(state: &State, handle: Rows, accumulate: Accumulate) -> Output {
    Output { start: start(state, handle), stride: width(state, handle), accumulate }
}

fn kinds_of<const N: usize>(state: &State, ops: [Linear; N]) -> ActivationKinds {
    ActivationKinds::of(ops.map(|op| state.model.matrix(op.weight).dtype))
}

/// This thread's memory.
#[allow(clippy::mut_from_ref)]
fn memory<'a>(state: &'a State, worker: Worker) -> &'a mut ThreadMemory {
    // SAFETY: each thread has an element of its own.
    unsafe { &mut state.threads.write(worker.index..worker.index + 1)[0] }
}

/// The input of a matrix product.
#[derive(Clone, Copy)]
struct Source {
    rows: InputRows,
}

impl Source {
    /// Prepares the rows of `x`: normed if there is a norm, quantized if a matrix wants that, else as they
    /// are.
    fn new(state: &State, worker: Worker, x: Rows, norm: Option<LayerNorm>, kinds: ActivationKinds) -> Self {
        let (count, width) = (rows(state, x), width(state, x));
        if norm.is_none() && !kinds.contains(ActivationKind::Block32) {
            return Self { rows: InputRows { start: start(state, x), stride: width, count } };
        }
        for row in worker.share(count, 1) {
            // SAFETY: the row of the input buffer is this thread's, and `x` is not written until the barrier.
            let (x, y) = unsafe {
                (value(state, x, row), state.memory.input.f32s.write(row * width..(row + 1) * width))
            };
            match norm {
                Some(norm) => norm_row(state, norm, x, y),
                None => y.copy_from_slice(x),
            }
            quantize(state, y, row, kinds);
        }
        worker.barrier();
        Self::input(state, count, width)
    }

    /// The input buffer.
    fn input(state: &State, count: usize, width: usize) -> Self {
        Self { rows: InputRows { start: state.memory.input.f32s.as_ptr(), stride: width, count } }
    }
}

fn norm_row(state: &State, norm: LayerNorm, x: &[f32], y: &mut [f32]) {
    let (gain, bias) = (state.model.vector(norm.gain), state.model.vector(norm.bias));
    state.isa.run(NormRow { x, gain, bias, eps: norm.eps, y });
}

fn quantize(state: &State, x: &[f32], row: usize, kinds: ActivationKinds) {
    state.isa.run(QuantizeRow { x, activations: &state.memory.input, row, kinds });
}

/// The outputs of a matrix that are this thread's.
fn share(state: &State, worker: Worker, op: Linear) -> Range<usize> {
    worker.share(state.model.matrix(op.weight).rows, PANEL_ROWS_MAX)
}

/// Computes this thread's outputs.
fn multiply(state: &State, worker: Worker, op: Linear, source: Source, out: Output) {
    match state.model.matrix(op.weight).dtype {
        DType::F32 => multiply_floats(state, worker, op, source, out, PhantomData::<floats::F32>),
        DType::F16 => multiply_floats(state, worker, op, source, out, PhantomData::<floats::F16>),
        DType::BF16 => multiply_floats(state, worker, op, source, out, PhantomData::<floats::BF16>),
        dtype => {
            let product = MatMul {
                weight: state.model.matrix_bytes(op.weight),
                dtype,
                cols: state.model.matrix(op.weight).cols,
                rows: share(state, worker, op),
                x: &state.memory.input,
                inputs: 0..source.rows.count,
                bias: op.bias.map(|bias| state.model.vector(bias)),
                out,
            };
            product.run(state.isa, &mut memory(state, worker).panel);
        }
    }
}

fn multiply_floats<W: Float>(
    state: &State,
    worker: Worker,
    op: Linear,
    source: Source,
    out: Output,
    float: PhantomData<W>,
) {
    state.isa.run(FloatProduct {
        weight: state.model.matrix_bytes(op.weight),
        cols: state.model.matrix(op.weight).cols,
        rows: share(state, worker, op),
        x: source.rows,
        bias: op.bias.map(|bias| state.model.vector(bias)),
        out,
        memory: &mut memory(state, worker).floats,
        float,
    });
}

/// The tile that holds a patch of the pass.
fn tile_of(state: &State, patch: usize) -> &PlacedTile {
    &state.tiles[state.tiles.partition_point(|tile| tile.first_patch <= patch) - 1]
}

/// Columns `columns` of row `row`, to write.
/// # Safety
/// They are this thread's.
#[allow(clippy::mut_from_ref)]
unsafe fn columns_mut(state: &State, handle: Rows, row: usize, columns: Range<usize>) -> &mut [f32] {
    let at = row * width(state, handle);
    // SAFETY: as the caller says.
    unsafe { state.memory.buffers[handle.0 as usize].write(at + columns.start..at + columns.end) }
}

fn embed_patches(state: &State, worker: Worker, op: Linear, y: Rows) {
    let config = state.model.config();
    let (elems, area) = (config.patch_elems(), config.patch * config.patch);
    for row in worker.share(state.patches, 1) {
        let tile = tile_of(state, row);
        let pixels = &tile.tile.pixels[(row - tile.first_patch) * elems..][..elems];
        // SAFETY: the row of the input buffer is this thread's until the barrier.
        let x = unsafe { state.memory.input.f32s.write(row * elems..(row + 1) * elems) };
        for (i, pixel) in pixels.chunks_exact(CHANNELS).enumerate() {
            for channel in 0..CHANNELS {
                let place = match config.patch_order {
                    PatchOrder::RowColumnChannel => i * CHANNELS + channel,
                    PatchOrder::ChannelRowColumn => channel * area + i,
                };
                x[place] = state.normalized[channel][usize::from(pixel[channel])];
            }
        }
        quantize(state, x, row, kinds_of(state, [op]));
    }
    worker.barrier();
    let source = Source::input(state, state.patches, elems);
    multiply(state, worker, op, source, output(state, y, Accumulate::No));
    let columns = share(state, worker, op);
    for row in 0..state.patches {
        let tile = tile_of(state, row);
        let positions = &tile.positions[(row - tile.first_patch) * config.width..][columns.clone()];
        // SAFETY: this thread has just written these columns.
        let x = unsafe { columns_mut(state, y, row, columns.clone()) };
        x.iter_mut().zip(positions).for_each(|(x, position)| *x += position);
    }
}

fn norm_qkv(state: &State, worker: Worker, op: VisionQkv, [x, y]: [Rows; 2]) {
    let parts = [op.query, op.key, op.value];
    let source = Source::new(state, worker, x, Some(op.norm), kinds_of(state, parts));
    for (i, part) in parts.into_iter().enumerate() {
        let mut out = output(state, y, Accumulate::No);
        out.start = out.start.wrapping_add(i * state.model.config().width);
        multiply(state, worker, part, source, out);
    }
}

fn linear_gelu(state: &State, worker: Worker, op: LinearGelu, [x, y]: [Rows; 2]) {
    let source = Source::new(state, worker, x, op.norm, kinds_of(state, [op.linear]));
    multiply(state, worker, op.linear, source, output(state, y, Accumulate::No));
    let columns = share(state, worker, op.linear);
    for row in 0..rows(state, y) {
        // SAFETY: this thread has just written these columns.
        let x = unsafe { columns_mut(state, y, row, columns.clone()) };
        gelu(state, x, op.gelu);
    }
}

fn gelu(state: &State, x: &mut [f32], kind: Gelu) {
    state.isa.run(GeluRow { x, kind });
}

fn norm_unshuffle(state: &State, worker: Worker, norm: LayerNorm, [x, y]: [Rows; 2]) {
    let config = state.model.config();
    let (side, width) = (config.downsample, config.width);
    for token in worker.share(state.tokens, 1) {
        let tile = &state.tiles[state.tiles.partition_point(|tile| tile.first_token <= token) - 1];
        let cols = tile.tile.cols as usize;
        let (row, col) =
            ((token - tile.first_token) / (cols / side), (token - tile.first_token) % (cols / side));
        // SAFETY: the token's row is this thread's.
        let y = unsafe { columns_mut(state, y, token, 0..config.token_elems()) };
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let patch = tile.first_patch + (row * side + i / side) * cols + col * side + i % side;
            // SAFETY: nobody writes `x`.
            norm_row(state, norm, unsafe { value(state, x, patch) }, y);
        }
    }
}

/// Places of one head of a tile in the packed keys and values.
fn head_places(state: &State, tile: &PlacedTile, head: usize) -> (*mut f32, *mut f32) {
    let (patches, dim) = (tile.tile.patches(), state.model.config().head_dim());
    let (keys, values) = (keys_len(patches, dim), values_len(patches, dim));
    let (key, value) = (tile.first_key + head * keys, tile.first_value + head * values);
    assert!(key + keys <= state.memory.keys.len() && value + values <= state.memory.values.len());
    (state.memory.keys.as_ptr().wrapping_add(key), state.memory.values.as_ptr().wrapping_add(value))
}

fn attend(state: &State, worker: Worker, [qkv, y]: [Rows; 2]) {
    let config = state.model.config();
    let (width, dim, heads) = (config.width, config.head_dim(), config.heads);
    let base = start(state, qkv).cast_const();
    for item in worker.share(state.tiles.len() * heads, 1) {
        let (tile, head) = (&state.tiles[item / heads], item % heads);
        let (keys, values) = head_places(state, tile, head);
        let first = base.wrapping_add(tile.first_patch * 3 * width + head * dim);
        let (key, value) = (first.wrapping_add(width), first.wrapping_add(2 * width));
        let patches = tile.tile.patches();
        state.isa.run(PackHead { key, value, stride: 3 * width, patches, dim, keys, values });
    }
    worker.barrier();
    let blocks = |tile: &PlacedTile| heads * tile.tile.patches().div_ceil(QUERIES);
    let mine = worker.share(state.tiles.iter().map(blocks).sum(), 1);
    let mut first_item = 0;
    for tile in &state.tiles {
        let patches = tile.tile.patches();
        let scores = memory(state, worker).scores.reserve(scores_len(patches));
        let items = mine.start.max(first_item)..mine.end.min(first_item + blocks(tile));
        for item in items {
            let item = item - first_item;
            let (head, block) = (item % heads, item / heads);
            let (keys, values) = head_places(state, tile, head);
            let first = tile.first_patch + block * QUERIES;
            state.isa.run(AttendHead {
                query: base.wrapping_add(first * 3 * width + head * dim),
                stride: 3 * width,
                queries: QUERIES.min(patches - block * QUERIES),
                patches,
                dim,
                keys,
                values,
                scores,
                out: start(state, y).wrapping_add(first * width + head * dim),
                out_stride: width,
            });
        }
        first_item += blocks(tile);
    }
}
