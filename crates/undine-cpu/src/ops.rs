//! What each thread does for each recorded operation.
//!
//! Rows are split between threads where rows are independent (norms, quantization), outputs where a weight
//! matrix is read (so that every thread reads its own part of the file, the same in every step). A barrier
//! separates the two.

mod attention;

use std::ops::Range;

use undine_core::sampling::finish_row;
use undine_core::{BatchSequence, Slot, SnapshotId, StateSource, quant};
use undine_model::{Linear, MatrixId, Rows, ShortConv, Swiglu, VectorId};

use crate::executor::State;
use crate::kernels::activations::{ActivationKind, ActivationKinds, Activations, QuantizeRow};
use crate::kernels::elementwise::{RmsNorm, ShortConvRows, SiluMul};
use crate::kernels::matmul::MatMul;
use crate::kernels::panels::{INPUTS, Panel, ROWS, TILE_MAX};
use crate::kernels::rows::{Accumulate, Output};
use crate::memory::SharedSlice;
use crate::moe;
use crate::plan::Op;
use crate::pool::Worker;
use crate::simd::LANES;

/// Runs this thread's part of `op`. All threads meet at a barrier afterwards.
pub(crate) fn run(state: &State, op: &Op, worker: Worker) {
    match *op {
        Op::Embed { table, y } => embed(state, worker, table, y),
        Op::NormShortConv { x, op, bcx, y } => short_conv(state, worker, op, [x, bcx, y]),
        Op::NormQkv { x, op, key, value, query } => attention::qkv(state, worker, op, [x, key, value, query]),
        Op::Attend { query, layer, y } => attention::attend(state, worker, query, layer, y),
        Op::LinearAdd { x, op, residual } => linear_add(state, worker, x, op, residual),
        Op::NormSwiglu { x, op, y } => swiglu(state, worker, op, [x, y]),
        Op::NormMoeAdd { x, op } => moe::run(state, worker, x, op),
        Op::SelectRows { x, y } => select_rows(state, worker, x, y),
        Op::NormLogits { x, norm, head, y } => logits(state, worker, norm, head, [x, y]),
        Op::Sample { logits } => sample(state, worker, logits),
    }
}

/// Copies this thread's share of the pages that are to be copied before the step.
pub(crate) fn copy_blocks(state: &State, worker: Worker) {
    for part in worker.share(state.kv.parts(), 1) {
        for &copy in &state.batch.block_copies {
            // SAFETY: this part of every page is this thread's, and `check` has put the pages within the
            // cache.
            unsafe { state.kv.copy_part(part, copy) };
        }
    }
}

/// Rows `rows` of a handle.
/// # Safety
/// Nobody writes to them meanwhile.
pub(crate) unsafe fn values(state: &State, handle: Rows, rows: Range<usize>) -> &[f32] {
    let place = state.plan.place(handle);
    // SAFETY: as the caller says.
    unsafe { state.arena.read(place.start + rows.start * place.width..place.start + rows.end * place.width) }
}

/// Rows `rows` of a handle, to write.
/// # Safety
/// Nobody else reads or writes them meanwhile.
#[allow(clippy::mut_from_ref)]
pub(crate) unsafe fn values_mut(state: &State, handle: Rows, rows: Range<usize>) -> &mut [f32] {
    let place = state.plan.place(handle);
    // SAFETY: as the caller says.
    unsafe { state.arena.write(place.start + rows.start * place.width..place.start + rows.end * place.width) }
}

/// A handle as the destination of a matrix product.
pub(crate) fn output(state: &State, handle: Rows, accumulate: Accumulate) -> Output {
    let place = state.plan.place(handle);
    Output { start: state.arena.as_ptr().wrapping_add(place.start), stride: place.width, accumulate }
}

/// This thread's packing memory.
#[allow(clippy::mut_from_ref)]
pub(crate) fn panel<'a>(state: &'a State, worker: Worker) -> &'a mut Panel {
    // SAFETY: each thread has an element of its own.
    unsafe { &mut state.threads.write(worker.index..worker.index + 1)[0].panel }
}

/// What the matrices want as input.
fn kinds_of<const N: usize>(state: &State, matrices: [MatrixId; N]) -> ActivationKinds {
    ActivationKinds::of(matrices.map(|id| state.model.matrix(id).dtype))
}

/// Norms this thread's share of rows, makes them the input of matrices, and waits for the other threads.
pub(crate) fn norm_input<const N: usize>(
    state: &State,
    worker: Worker,
    x: Rows,
    norm: VectorId,
    matrices: [MatrixId; N],
    rows: usize,
) {
    let kinds = kinds_of(state, matrices);
    let gain = state.model.vector(norm);
    let width = gain.len();
    for row in worker.share(rows, 1) {
        // SAFETY: the row of the input buffer is this thread's, and `x` is not written until the barrier.
        unsafe {
            let y = state.input.f32s.write(row * width..(row + 1) * width);
            let x = values(state, x, row..row + 1);
            state.isa.run(RmsNorm { x, gain, eps: state.config().norm_eps, y });
            state.isa.run(QuantizeRow { x: y, activations: &state.input, row, kinds });
        }
    }
    worker.barrier();
    note_inputs(state, worker, &matrices, &state.input, 0..rows);
}

/// Makes a row as it is a row of the input of products.
/// # Safety
/// The row of the input is this thread's.
pub(crate) unsafe fn put_input(
    state: &State,
    x: &[f32],
    activations: &Activations,
    row: usize,
    kinds: ActivationKinds,
) {
    if kinds.contains(ActivationKind::Float) || state.inputs.is_some() {
        // SAFETY: as the caller says.
        unsafe { activations.f32s.write(row * x.len()..(row + 1) * x.len()) }.copy_from_slice(x);
    }
    state.isa.run(QuantizeRow { x, activations, row, kinds });
}

/// Makes rows as they are the input of a matrix, and waits for the other threads.
fn plain_input(state: &State, worker: Worker, x: Rows, matrix: MatrixId, rows: usize) {
    let kinds = kinds_of(state, [matrix]);
    for row in worker.share(rows, 1) {
        // SAFETY: the row of the input buffer is this thread's, and `x` is not written until the barrier.
        unsafe { put_input(state, values(state, x, row..row + 1), &state.input, row, kinds) };
    }
    worker.barrier();
    note_inputs(state, worker, &[matrix], &state.input, 0..rows);
}

/// Adds rows of an input to what has gone into these matrices, if that is wanted. Call between the barrier
/// after the rows were written and the next.
pub(crate) fn note_inputs(
    state: &State,
    worker: Worker,
    matrices: &[MatrixId],
    input: &Activations,
    rows: Range<usize>,
) {
    if let Some(inputs) = &state.inputs {
        inputs.add(state.isa, worker, matrices, input, rows);
    }
}

/// Products of some rows of a matrix with some rows of an input.
pub(crate) struct Product<'a> {
    pub op: Linear,
    pub weights: Range<usize>,
    pub input: &'a Activations,
    pub inputs: Range<usize>,
    pub out: Output,
}

/// Computes a product on this thread.
pub(crate) fn multiply(state: &State, worker: Worker, product: Product) {
    let Product { op, weights, input, inputs, out } = product;
    let weight = state.model.matrix(op.weight);
    let matmul = MatMul {
        weight: state.weights.bytes(op.weight),
        dtype: weight.dtype,
        cols: weight.cols,
        rows: weights,
        x: input,
        inputs,
        bias: op.bias.map(|bias| state.model.vector(bias)),
        out,
    };
    matmul.run(state.isa, panel(state, worker));
}

fn embed(state: &State, worker: Worker, table: MatrixId, y: Rows) {
    let weight = state.model.matrix(table);
    let row_bytes = weight.dtype.row_bytes(weight.cols).expect("validated at open");
    let bytes = state.weights.bytes(table);
    let half = state.frequencies.len();
    for row in worker.share(state.rows.len(), 1) {
        let token = state.rows[row].token as usize;
        let position = state.rows[row].position as f32;
        // SAFETY: the row of each buffer is this thread's.
        unsafe {
            let x = values_mut(state, y, row..row + 1);
            match state.batch.image_row(row as u32, weight.cols) {
                Some(encoded) => x.copy_from_slice(encoded),
                None => quant::decode(weight.dtype, &bytes[token * row_bytes..][..row_bytes], x),
            }
            let cos = state.cos.write(row * half..(row + 1) * half);
            let sin = state.sin.write(row * half..(row + 1) * half);
            for (i, frequency) in state.frequencies.iter().enumerate() {
                (sin[i], cos[i]) = (position * frequency).sin_cos();
            }
        }
    }
}

fn short_conv(state: &State, worker: Worker, op: ShortConv, [x, bcx, y]: [Rows; 3]) {
    let hidden = state.config().hidden;
    let rows = state.rows.len();
    norm_input(state, worker, x, op.norm, [op.in_proj.weight], rows);
    let channels = worker.share(hidden, TILE_MAX);
    let out = output(state, bcx, Accumulate::No);
    for part in 0..3 {
        let weights = part * hidden + channels.start..part * hidden + channels.end;
        multiply(
            state,
            worker,
            Product { op: op.in_proj, weights, input: &state.input, inputs: 0..rows, out },
        );
    }
    let states = ConvStates { state, layer: op.layer as usize, channels: channels.clone() };
    for save in &state.batch.slot_saves {
        states.save(save.slot, save.snapshot);
    }
    for sequence in &state.batch.sequences {
        states.begin(sequence);
        let run = |rows: Range<u32>| {
            state.isa.run(ShortConvRows {
                bcx: out.start,
                y: output(state, y, Accumulate::No).start,
                hidden,
                rows: rows.start as usize..rows.end as usize,
                channels: channels.clone(),
                filter: &state.filters[states.layer],
                bias: op.filter_bias.map(|bias| state.model.vector(bias)),
                state: states.slot(sequence.slot),
            });
        };
        let mut done = sequence.rows.start;
        for save in state.batch.row_saves_of(sequence) {
            run(done..save.row + 1);
            states.save(sequence.slot, save.snapshot);
            done = save.row + 1;
        }
        run(done..sequence.rows.end);
    }
}

/// This thread's channels of the states of a convolution layer.
struct ConvStates<'a> {
    state: &'a State,
    layer: usize,
    channels: Range<usize>,
}

impl ConvStates<'_> {
    /// Values of one state.
    fn len(&self) -> usize {
        (self.state.config().conv_taps - 1) * self.state.config().hidden
    }

    /// The first value of a slot's state, all channels.
    fn slot(&self, slot: Slot) -> *mut f32 {
        self.state.conv[self.layer].as_ptr().wrapping_add(slot.0 as usize * self.len())
    }

    /// Puts a sequence's state where its rows expect it.
    fn begin(&self, sequence: &BatchSequence) {
        let (conv, snapshots) = (&self.state.conv[self.layer], &self.state.snapshots[self.layer]);
        let slot = sequence.slot.0 as usize * self.len();
        match sequence.state {
            StateSource::Slot => {}
            StateSource::Empty => {
                for channels in self.taps(slot) {
                    // SAFETY: these channels of the slot are this thread's.
                    unsafe { conv.write(channels) }.fill(0.0);
                }
            }
            StateSource::Snapshot(id) => self.copy(snapshots, id.0 as usize * self.len(), conv, slot),
        }
    }

    /// Keeps a slot's state.
    fn save(&self, slot: Slot, id: SnapshotId) {
        let (conv, snapshots) = (&self.state.conv[self.layer], &self.state.snapshots[self.layer]);
        self.copy(conv, slot.0 as usize * self.len(), snapshots, id.0 as usize * self.len());
    }

    fn copy(&self, from: &SharedSlice<f32>, from_start: usize, to: &SharedSlice<f32>, to_start: usize) {
        for (from_channels, to_channels) in self.taps(from_start).zip(self.taps(to_start)) {
            // SAFETY: these channels of slots and snapshots are this thread's.
            unsafe { to.write(to_channels).copy_from_slice(from.read(from_channels)) };
        }
    }

    /// Where this thread's channels are in the state that begins at `start`, one range per kept input.
    fn taps(&self, start: usize) -> impl Iterator<Item = Range<usize>> {
        let (hidden, channels) = (self.state.config().hidden, self.channels.clone());
        let taps = 0..self.state.config().conv_taps - 1;
        taps.map(move |tap| start + tap * hidden + channels.start..start + tap * hidden + channels.end)
    }
}

fn linear_add(state: &State, worker: Worker, x: Rows, op: Linear, residual: Rows) {
    let rows = state.rows.len();
    plain_input(state, worker, x, op.weight, rows);
    let weights = worker.share(state.model.matrix(op.weight).rows, TILE_MAX);
    let out = output(state, residual, Accumulate::Yes);
    multiply(state, worker, Product { op, weights, input: &state.input, inputs: 0..rows, out });
}

fn swiglu(state: &State, worker: Worker, op: Swiglu, [x, y]: [Rows; 2]) {
    let rows = state.rows.len();
    norm_input(state, worker, x, op.norm, [op.gate, op.up], rows);
    let columns = worker.share(state.model.matrix(op.gate).rows, TILE_MAX);
    let y = output(state, y, Accumulate::No);
    gated(
        state,
        worker,
        Gated { gate: op.gate, up: op.up, input: &state.input, inputs: 0..rows, columns, y },
    );
}

/// `y = silu(gate x) * up x` for some rows of input and some columns of `y`.
pub(crate) struct Gated<'a> {
    pub gate: MatrixId,
    pub up: MatrixId,
    pub input: &'a Activations,
    pub inputs: Range<usize>,
    pub columns: Range<usize>,
    pub y: Output,
}

/// Values that [`gated`] keeps of `up x`: what the kernel of many rows stores at a time, so that both factors
/// are still in the second-level cache when they meet. With 512 rows that is worth 3% (1.2B, Q4_K_M) and 6%
/// (8B-A1B) of the time of a step. What was tried to fill the waits at barriers: asking for the next matrix
/// meanwhile, and leaving an eighth of the outputs to the thread that is first, 1.7% of a decode step of 1.2B
/// and nothing for 350M and 8B-A1B.
pub(crate) const UP_VALUES: usize = ROWS * INPUTS;

/// Computes it on this thread.
pub(crate) fn gated(state: &State, worker: Worker, op: Gated) {
    let Gated { gate, up, input, inputs, columns, y } = op;
    // SAFETY: each thread has an element of its own.
    let memory = unsafe { state.threads.write(worker.index..worker.index + 1)[0].up.as_mut_ptr() };
    let rows_at_once = inputs.len().clamp(1, INPUTS);
    let width = (UP_VALUES / rows_at_once / TILE_MAX * TILE_MAX).min(columns.len());
    for start in columns.clone().step_by(width.max(1)) {
        let columns = start..(start + width).min(columns.end);
        for first in inputs.clone().step_by(rows_at_once) {
            let inputs = first..(first + rows_at_once).min(inputs.end);
            // Row `first`, output `start` comes first in the memory.
            let up_at = Output {
                start: memory.wrapping_sub(first * width + start),
                stride: width,
                accumulate: Accumulate::No,
            };
            for (weight, out) in [(gate, y), (up, up_at)] {
                let op = Linear { weight, bias: None };
                let (weights, inputs) = (columns.clone(), inputs.clone());
                multiply(state, worker, Product { op, weights, input, inputs, out });
            }
            for row in inputs {
                // SAFETY: these columns of `y` are this thread's, and the products have written both.
                unsafe {
                    let place = |out: Output| out.start.wrapping_add(row * out.stride + columns.start);
                    let gate = std::slice::from_raw_parts_mut(place(y), columns.len());
                    let up = std::slice::from_raw_parts(place(up_at), columns.len());
                    state.isa.run(SiluMul { gate, up });
                }
            }
        }
    }
}

fn select_rows(state: &State, worker: Worker, x: Rows, y: Rows) {
    for i in worker.share(state.batch.outputs.len(), 1) {
        let row = state.batch.outputs[i].row as usize;
        // SAFETY: row `i` of `y` is this thread's, and nobody writes `x`.
        unsafe { values_mut(state, y, i..i + 1).copy_from_slice(values(state, x, row..row + 1)) };
    }
}

fn logits(state: &State, worker: Worker, norm: VectorId, head: MatrixId, [x, y]: [Rows; 2]) {
    let rows = state.batch.outputs.len();
    norm_input(state, worker, x, norm, [head], rows);
    let weights = worker.share(state.config().vocab, LANES);
    let op = Linear { weight: head, bias: None };
    let out = output(state, y, Accumulate::No);
    multiply(state, worker, Product { op, weights, input: &state.input, inputs: 0..rows, out });
}

fn sample(state: &State, worker: Worker, logits: Rows) {
    for i in worker.share(state.batch.outputs.len(), 1) {
        // SAFETY: row `i`, its output and this thread's memory are this thread's.
        unsafe {
            let scratch = &mut state.threads.write(worker.index..worker.index + 1)[0].sampler;
            let logits = values_mut(state, logits, i..i + 1);
            state.outputs.write(i..i + 1)[0] =
                finish_row(&state.batch, &state.batch.outputs[i], logits, scratch);
        }
    }
}
