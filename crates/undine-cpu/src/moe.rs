//! A mixture of experts: rows are sorted by expert once, so that every expert's weights are read once for all
//! of its rows.
//!
//! The result of a row is `x + (w_a y_a + w_b y_b + ...)` with its experts in ascending order, whatever else
//! is in the batch.

use std::ops::Range;

use undine_core::{Config, MoeConfig};
use undine_model::{Experts, Linear, MatrixId, Moe, Rows};

use crate::executor::State;
use crate::kernels::activations::{ActivationKinds, Activations};
use crate::kernels::panels::TILE_MAX;
use crate::kernels::rows::{Accumulate, Output};
use crate::memory::SharedSlice;
use crate::ops::{Gated, Product, gated, multiply, norm_input, note_inputs, put_input};
use crate::pool::Worker;

/// Added to the sum that normalises the weights of a row's experts, as the reference does.
const NORM_EPS: f32 = 1e-6;

/// Columns of the residual stream that are summed at a time.
const SUM_COLUMNS: usize = 64;

/// Buffers of the mixture. A pair is a row with one of its experts.
pub(crate) struct MoeMemory {
    config: MoeConfig,
    /// `rows x experts`: router logits.
    scores: SharedSlice<f32>,
    /// `rows x active`: experts of a row, ascending.
    chosen: SharedSlice<u32>,
    /// `rows x active`: their weights.
    weights: SharedSlice<f32>,
    /// `rows x active`: where the pair is in the order of experts.
    place: SharedSlice<u32>,
    /// The row of each pair, in the order of experts.
    pair_row: SharedSlice<u32>,
    /// `experts + 1`: where each expert's pairs begin.
    starts: SharedSlice<u32>,
    /// Input rows of the pairs, then their hidden values.
    input: Activations,
    /// `pairs x width`: hidden values.
    hidden: SharedSlice<f32>,
    /// `pairs x hidden`.
    out: SharedSlice<f32>,
}

impl MoeMemory {
    pub fn new(
        config: &Config,
        moe: &MoeConfig,
        rows: usize,
        kinds: ActivationKinds,
        float_width: usize,
    ) -> Self {
        let pairs = rows * moe.experts_active;
        Self {
            config: *moe,
            scores: SharedSlice::new(rows * moe.experts),
            chosen: SharedSlice::new(pairs),
            weights: SharedSlice::new(pairs),
            place: SharedSlice::new(pairs),
            pair_row: SharedSlice::new(pairs),
            starts: SharedSlice::new(moe.experts + 1),
            input: Activations::new(pairs, config.hidden.max(moe.width), kinds, float_width),
            hidden: SharedSlice::new(pairs * moe.width),
            out: SharedSlice::new(pairs * config.hidden),
        }
    }

    /// Size of all of it.
    pub fn bytes(&self) -> usize {
        let Self { config: _, scores, chosen, weights, place, pair_row, starts, input, hidden, out } = self;
        let floats = [scores, weights, hidden, out].map(SharedSlice::bytes);
        let integers = [chosen, place, pair_row, starts].map(SharedSlice::bytes);
        floats.iter().chain(&integers).sum::<usize>() + input.bytes()
    }

    fn output(buffer: &SharedSlice<f32>, stride: usize) -> Output {
        Output { start: buffer.as_ptr(), stride, accumulate: Accumulate::No }
    }
}

/// Input kinds of the three matrices of all experts (a file may mix types).
fn expert_kinds(state: &State, experts: Experts) -> [ActivationKinds; 2] {
    let dtype = |id: MatrixId| state.model.matrix(id).dtype;
    let all = || (0..experts.count as usize).map(|e| experts.of(e));
    [
        ActivationKinds::of(all().flat_map(|[gate, up, _]| [dtype(gate), dtype(up)])),
        ActivationKinds::of(all().map(|[.., down]| dtype(down))),
    ]
}

pub(crate) fn run(state: &State, worker: Worker, x: Rows, op: Moe) {
    let memory = state.moe.as_ref().expect("a plan with experts has their memory");
    let rows = state.rows.len();
    let hidden = state.config().hidden;
    let (active, width) = (memory.config.experts_active, memory.config.width);
    let pairs = rows * active;
    let [input_kinds, hidden_kinds] = expert_kinds(state, op.experts);
    norm_input(state, worker, x, op.norm, [op.router], rows);
    route(state, memory, worker, op);
    worker.barrier();
    if worker.index == 0 {
        sort_by_expert(memory, rows);
    }
    worker.barrier();
    for pair in worker.share(pairs, 1) {
        // SAFETY: the pair's row of the buffer is this thread's; the normed rows are complete.
        unsafe {
            let row = memory.pair_row.read(pair..pair + 1)[0] as usize;
            let source = state.input.f32s.read(row * hidden..(row + 1) * hidden);
            put_input(state, source, &memory.input, pair, input_kinds);
        }
    }
    worker.barrier();
    let columns = worker.share(width, TILE_MAX);
    let y = MoeMemory::output(&memory.hidden, width);
    each_expert(memory, |expert, inputs| {
        let [gate, up, _] = op.experts.of(expert);
        note_inputs(state, worker, &[gate, up], &memory.input, inputs.clone());
        let columns = columns.clone();
        gated(state, worker, Gated { gate, up, input: &memory.input, inputs, columns, y });
    });
    worker.barrier();
    for pair in worker.share(pairs, 1) {
        // SAFETY: the pair's row of the buffer is this thread's; the hidden values are complete.
        unsafe {
            let source = memory.hidden.read(pair * width..(pair + 1) * width);
            put_input(state, source, &memory.input, pair, hidden_kinds);
        }
    }
    worker.barrier();
    let columns = worker.share(hidden, TILE_MAX);
    each_expert(memory, |expert, inputs| {
        let op = Linear { weight: op.experts.of(expert)[2], bias: None };
        note_inputs(state, worker, &[op.weight], &memory.input, inputs.clone());
        let out = MoeMemory::output(&memory.out, hidden);
        multiply(state, worker, Product { op, weights: columns.clone(), input: &memory.input, inputs, out });
    });
    for row in 0..rows {
        add_experts(state, memory, x, row, columns.clone());
    }
}

/// Adds the weighted outputs of a row's experts to some columns of the residual stream.
fn add_experts(state: &State, memory: &MoeMemory, x: Rows, row: usize, columns: Range<usize>) {
    let (active, hidden) = (memory.config.experts_active, state.config().hidden);
    let place = state.plan.place(x);
    for start in columns.clone().step_by(SUM_COLUMNS) {
        let columns = start..(start + SUM_COLUMNS).min(columns.end);
        let mut sum = [0.0; SUM_COLUMNS];
        // SAFETY: these columns of the pairs were written by this thread, and these of `x` are its own.
        unsafe {
            let weights = memory.weights.read(row * active..(row + 1) * active);
            let pairs = memory.place.read(row * active..(row + 1) * active);
            for (&pair, weight) in pairs.iter().zip(weights) {
                let from = pair as usize * hidden;
                let y = memory.out.read(from + columns.start..from + columns.end);
                sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += weight * y);
            }
            let at = place.start + row * place.width;
            let x = state.arena.write(at + columns.start..at + columns.end);
            x.iter_mut().zip(sum).for_each(|(x, sum)| *x += sum);
        }
    }
}

/// Calls `work` with each expert that has pairs, and which.
fn each_expert(memory: &MoeMemory, mut work: impl FnMut(usize, Range<usize>)) {
    // SAFETY: complete since the last barrier.
    let starts = unsafe { memory.starts.read(0..memory.config.experts + 1) };
    for (expert, range) in starts.windows(2).enumerate() {
        if range[0] < range[1] {
            work(expert, range[0] as usize..range[1] as usize);
        }
    }
}

/// Scores, choice and weights for this thread's rows.
fn route(state: &State, memory: &MoeMemory, worker: Worker, op: Moe) {
    let MoeConfig { experts, experts_active: active, .. } = memory.config;
    let rows = worker.share(state.rows.len(), 1);
    let router = Linear { weight: op.router, bias: None };
    let out = MoeMemory::output(&memory.scores, experts);
    multiply(
        state,
        worker,
        Product { op: router, weights: 0..experts, input: &state.input, inputs: rows.clone(), out },
    );
    let bias = op.bias.map(|bias| state.model.vector(bias));
    for row in rows {
        // SAFETY: this row of every buffer is this thread's.
        unsafe {
            let scores = memory.scores.write(row * experts..(row + 1) * experts);
            scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + (-*score).exp()));
            let chosen = memory.chosen.write(row * active..(row + 1) * active);
            choose(scores, bias, chosen);
            let weights = memory.weights.write(row * active..(row + 1) * active);
            let sum: f32 = chosen.iter().map(|&e| scores[e as usize]).sum();
            for (weight, &e) in weights.iter_mut().zip(chosen.iter()) {
                let score = scores[e as usize];
                let share = if memory.config.norm_topk_prob { score / (sum + NORM_EPS) } else { score };
                *weight = share * memory.config.routed_scaling_factor;
            }
        }
    }
}

/// The experts with the largest biased scores, in ascending order; the smaller index wins a tie.
fn choose(scores: &[f32], bias: Option<&[f32]>, chosen: &mut [u32]) {
    let biased = |e: u32| scores[e as usize] + bias.map_or(0.0, |bias| bias[e as usize]);
    for i in 0..chosen.len() {
        let (taken, rest) = chosen.split_at_mut(i);
        let mut best = None;
        for e in (0..scores.len() as u32).filter(|e| !taken.contains(e)) {
            if best.is_none_or(|best| biased(e) > biased(best)) {
                best = Some(e);
            }
        }
        rest[0] = best.expect("no more experts are active than there are");
    }
    chosen.sort_unstable();
}

/// A counting sort of all pairs by expert; rows stay in order.
fn sort_by_expert(memory: &MoeMemory, rows: usize) {
    let pairs = rows * memory.config.experts_active;
    // SAFETY: only one thread is between the two barriers.
    unsafe {
        let chosen = memory.chosen.read(0..pairs);
        let starts = memory.starts.write(0..memory.config.experts + 1);
        let place = memory.place.write(0..pairs);
        let pair_row = memory.pair_row.write(0..pairs);
        starts.fill(0);
        chosen.iter().for_each(|&e| starts[e as usize + 1] += 1);
        for e in 1..starts.len() {
            starts[e] += starts[e - 1];
        }
        for (pair, &e) in chosen.iter().enumerate() {
            let at = &mut starts[e as usize];
            place[pair] = *at;
            pair_row[*at as usize] = (pair / memory.config.experts_active) as u32;
            *at += 1;
        }
        // Each start has moved to its end, which is the next one's start.
        starts.copy_within(0..memory.config.experts, 1);
        starts[0] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_by_biased_score_and_ascending() {
        let mut chosen = [0; 2];
        choose(&[0.1, 0.9, 0.5, 0.9], None, &mut chosen);
        assert_eq!(chosen, [1, 3]);
        choose(&[0.1, 0.9, 0.5, 0.9], Some(&[1.0, -1.0, 0.0, -1.0]), &mut chosen);
        assert_eq!(chosen, [0, 2]);
    }
}
