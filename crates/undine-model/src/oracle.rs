//! The oracle: the plainest possible backend, against which every other one is checked verb by verb.
//!
//! f32 values, one thread, no `unsafe`, nothing fused, nothing clever; dot products are summed in f64 so that
//! the oracle's own rounding stays out of the comparison. It executes while it "records": each step runs
//! [`crate::lfm2::record`] anew. Source of the arithmetic: the reference implementation in transformers
//! (`lfm2`, `lfm2_moe`).

use std::collections::HashMap;
use std::sync::Arc;

use undine_core::sampling::{SamplerScratch, finish_row};
use undine_core::{
    Batch, Capacity, Config, Executor, ExecutorError, RowOutput, StateSource, StepOutput, TOKEN_FROM_SLOT,
    Ticket, quant,
};

use crate::recorder::{Linear, MatrixId, Moe, Qkv, Recorder, Rows, ShortConv, Swiglu, VectorId};
use crate::{Model, lfm2};

/// The reference backend.
pub struct Oracle {
    model: Arc<Model>,
    capacity: Capacity,
    batch: Batch,
    /// Per attention layer and position (block * block_size + offset): K then V, each `kv_heads * head_dim`.
    kv: Vec<HashMap<usize, Vec<f32>>>,
    /// Per convolution layer and slot: the last K-1 gated inputs, oldest first.
    conv: Vec<HashMap<u32, Vec<f32>>>,
    /// The same per snapshot.
    snapshots: Vec<HashMap<u32, Vec<f32>>>,
    last_token: Vec<u32>,
    arena: Vec<Vec<f32>>,
    done: Option<StepOutput>,
    tickets: u64,
    /// The residual stream after `embed` and after each addition to it, and the normed rows before the head.
    pub trace: Vec<Vec<f32>>,
}

impl Oracle {
    /// A backend for `model` with room for `capacity`.
    pub fn new(model: Arc<Model>, capacity: Capacity) -> Self {
        let config = model.config();
        let (kv, conv) = (config.attention_layers(), config.conv_layers());
        Self {
            capacity,
            batch: Batch::default(),
            kv: vec![HashMap::new(); kv],
            conv: vec![HashMap::new(); conv],
            snapshots: vec![HashMap::new(); conv],
            last_token: vec![0; capacity.slots as usize],
            arena: Vec::new(),
            done: None,
            tickets: 0,
            trace: Vec::new(),
            model,
        }
    }

    /// Prepares a step whose verbs the caller will call one by one, as conformance tests do.
    pub fn begin(&mut self, batch: &Batch) {
        batch.check(&self.capacity);
        self.batch = batch.clone();
        for sequence in &self.batch.sequences {
            for token in &mut self.batch.tokens[sequence.rows.start as usize..sequence.rows.end as usize] {
                if *token == TOKEN_FROM_SLOT {
                    *token = self.last_token[sequence.slot.0 as usize];
                }
            }
        }
        self.arena.clear();
        self.trace.clear();
        for save in &batch.slot_saves {
            for (slots, snapshots) in self.conv.iter().zip(&mut self.snapshots) {
                snapshots.insert(save.snapshot.0, slots[&save.slot.0].clone());
            }
        }
        let size = self.capacity.block_size as usize;
        for copy in &batch.block_copies {
            for cache in &mut self.kv {
                for offset in 0..size {
                    if let Some(kv) = cache.get(&(copy.from.0 as usize * size + offset)).cloned() {
                        cache.insert(copy.to.0 as usize * size + offset, kv);
                    }
                }
            }
        }
    }

    /// The values behind a handle, `rows x width`.
    pub fn read(&self, rows: Rows) -> &[f32] {
        &self.arena[rows.0 as usize]
    }

    /// Outputs of the step, once `sample` was called.
    pub fn outputs(&self) -> &[RowOutput] {
        self.done.as_ref().map_or(&[], |output| &output.rows)
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    fn push(&mut self, values: Vec<f32>) -> Rows {
        self.arena.push(values);
        Rows(self.arena.len() as u32 - 1)
    }

    /// `W x + b` for every row of `x`.
    fn linear(&self, x: &[f32], op: Linear) -> Vec<f32> {
        let weight = *self.model.matrix(op.weight);
        let bytes = self.model.matrix_bytes(op.weight);
        let row_bytes = weight.dtype.row_bytes(weight.cols).expect("validated at open");
        let rows = x.len() / weight.cols;
        let mut y = vec![0.0; rows * weight.rows];
        let mut w = vec![0.0; weight.cols];
        for (o, blocks) in bytes.chunks_exact(row_bytes).enumerate() {
            quant::decode(weight.dtype, blocks, &mut w);
            for (x, y) in x.chunks_exact(weight.cols).zip(y.chunks_exact_mut(weight.rows)) {
                y[o] = dot(&w, x) + op.bias.map_or(0.0, |bias| self.model.vector(bias)[o]);
            }
        }
        y
    }

    fn norm(&self, x: &[f32], norm: VectorId) -> Vec<f32> {
        let gain = self.model.vector(norm);
        x.chunks_exact(gain.len()).flat_map(|row| rms_norm(row, gain, self.config().norm_eps)).collect()
    }

    fn swiglu(&self, x: &[f32], gate: MatrixId, up: MatrixId) -> Vec<f32> {
        let gate = self.linear(x, Linear { weight: gate, bias: None });
        let up = self.linear(x, Linear { weight: up, bias: None });
        gate.iter().zip(up).map(|(&gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    }

    /// Where position `position` of sequence `s` lives in the K/V caches.
    fn place(&self, s: usize, position: usize) -> usize {
        let size = self.capacity.block_size as usize;
        let table = &self.batch.block_tables[self.batch.sequences[s].blocks.start as usize..];
        table[position / size].0 as usize * size + position % size
    }

    fn add(&mut self, residual: Rows, values: &[f32]) {
        let target = &mut self.arena[residual.0 as usize];
        target.iter_mut().zip(values).for_each(|(x, y)| *x += y);
        self.trace.push(target.clone());
    }
}

impl Recorder for Oracle {
    fn embed(&mut self, table: MatrixId) -> Rows {
        let weight = *self.model.matrix(table);
        let row_bytes = weight.dtype.row_bytes(weight.cols).expect("validated at open");
        let mut x = vec![0.0; self.batch.rows() * weight.cols];
        for (row, (&token, x)) in self.batch.tokens.iter().zip(x.chunks_exact_mut(weight.cols)).enumerate() {
            let bytes = &self.model.matrix_bytes(table)[token as usize * row_bytes..][..row_bytes];
            quant::decode(weight.dtype, bytes, x);
            if let Some(encoded) = self.batch.image_row(row as u32, weight.cols) {
                x.copy_from_slice(encoded);
            }
        }
        self.trace.push(x.clone());
        self.push(x)
    }

    fn norm_short_conv(&mut self, x: Rows, op: ShortConv) -> Rows {
        let (hidden, taps) = (self.config().hidden, self.config().conv_taps);
        let p = self.linear(&self.norm(self.read(x), op.norm), op.in_proj);
        let filter = self.model.vector(op.filter).to_vec();
        let mut y = vec![0.0; self.batch.rows() * hidden];
        for sequence in self.batch.sequences.clone() {
            let snapshots = &mut self.snapshots[op.layer as usize];
            let state = self.conv[op.layer as usize].entry(sequence.slot.0).or_default();
            match sequence.state {
                StateSource::Empty => *state = vec![0.0; (taps - 1) * hidden],
                StateSource::Slot => {}
                StateSource::Snapshot(id) => state.clone_from(&snapshots[&id.0]),
            }
            for row in sequence.rows.start as usize..sequence.rows.end as usize {
                let (b, rest) = p[row * 3 * hidden..][..3 * hidden].split_at(hidden);
                let (c, x) = rest.split_at(hidden);
                state.extend(b.iter().zip(x).map(|(b, x)| b * x));
                for channel in 0..hidden {
                    let mut v = op.filter_bias.map_or(0.0, |bias| self.model.vector(bias)[channel]);
                    for tap in 0..taps {
                        v += filter[channel * taps + tap] * state[tap * hidden + channel];
                    }
                    y[row * hidden + channel] = c[channel] * v;
                }
                state.drain(..hidden);
                for save in self.batch.row_saves.iter().filter(|save| save.row as usize == row) {
                    snapshots.insert(save.snapshot.0, state.clone());
                }
            }
        }
        self.push(y)
    }

    fn norm_qkv(&mut self, x: Rows, op: Qkv) -> Rows {
        let config = self.config();
        let (dim, eps, theta) = (config.head_dim, config.norm_eps, config.rope_theta);
        let normed = self.norm(self.read(x), op.norm);
        let mut q = self.linear(&normed, op.query);
        let mut k = self.linear(&normed, op.key);
        let v = self.linear(&normed, op.value);
        let (q_width, kv_width) = (config.heads * dim, config.kv_heads * dim);
        let query_norm = op.query_norm.map(|norm| self.model.vector(norm).to_vec());
        let key_norm = op.key_norm.map(|norm| self.model.vector(norm).to_vec());
        for s in 0..self.batch.sequences.len() {
            let sequence = self.batch.sequences[s].clone();
            for row in sequence.rows.start as usize..sequence.rows.end as usize {
                let position = sequence.start as usize + row - sequence.rows.start as usize;
                norm_rope(
                    &mut q[row * q_width..][..q_width],
                    query_norm.as_deref(),
                    eps,
                    dim,
                    theta,
                    position,
                );
                norm_rope(
                    &mut k[row * kv_width..][..kv_width],
                    key_norm.as_deref(),
                    eps,
                    dim,
                    theta,
                    position,
                );
                let kv = [&k[row * kv_width..][..kv_width], &v[row * kv_width..][..kv_width]].concat();
                if row < (sequence.rows.start + sequence.cached_rows) as usize {
                    continue;
                }
                let place = self.place(s, position);
                self.kv[op.layer as usize].insert(place, kv);
            }
        }
        self.push(q)
    }

    fn attend(&mut self, query: Rows, layer: u32) -> Rows {
        let Config { heads, kv_heads, head_dim: dim, .. } = *self.config();
        let kv_width = kv_heads * dim;
        let mut y = vec![0.0; self.batch.rows() * heads * dim];
        for (s, sequence) in self.batch.sequences.iter().enumerate() {
            for row in sequence.rows.start as usize..sequence.rows.end as usize {
                let positions = sequence.start as usize + row - sequence.rows.start as usize + 1;
                let cache = &self.kv[layer as usize];
                let keys: Vec<&[f32]> = (0..positions).map(|p| cache[&self.place(s, p)].as_slice()).collect();
                for head in 0..heads {
                    let q = &self.read(query)[(row * heads + head) * dim..][..dim];
                    let offset = head / (heads / kv_heads) * dim;
                    let scale = 1.0 / (dim as f32).sqrt();
                    let mut p: Vec<f32> =
                        keys.iter().map(|k| dot(q, &k[offset..offset + dim]) * scale).collect();
                    softmax(&mut p);
                    for (p, kv) in p.iter().zip(&keys) {
                        let v = &kv[kv_width + offset..][..dim];
                        y[(row * heads + head) * dim..][..dim]
                            .iter_mut()
                            .zip(v)
                            .for_each(|(y, v)| *y += p * v);
                    }
                }
            }
        }
        self.push(y)
    }

    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows) {
        let y = self.linear(self.read(x), op);
        self.add(residual, &y);
    }

    fn norm_swiglu(&mut self, x: Rows, op: Swiglu) -> Rows {
        let h = self.swiglu(&self.norm(self.read(x), op.norm), op.gate, op.up);
        self.push(h)
    }

    fn norm_moe_add(&mut self, x: Rows, op: Moe) {
        let hidden = self.config().hidden;
        let moe = self.config().moe.expect("the model has a mixture of experts");
        let normed = self.norm(self.read(x), op.norm);
        let scores = self.linear(&normed, Linear { weight: op.router, bias: None });
        let mut y = vec![0.0; normed.len()];
        for ((x, scores), y) in
            normed.chunks_exact(hidden).zip(scores.chunks_exact(moe.experts)).zip(y.chunks_exact_mut(hidden))
        {
            let scores: Vec<f32> = scores.iter().map(|r| 1.0 / (1.0 + (-r).exp())).collect();
            let bias = |e: usize| op.bias.map_or(0.0, |bias| self.model.vector(bias)[e]);
            let mut order: Vec<usize> = (0..moe.experts).collect();
            order.sort_by(|&a, &b| (scores[b] + bias(b)).total_cmp(&(scores[a] + bias(a))).then(a.cmp(&b)));
            order.truncate(moe.experts_active);
            order.sort_unstable();
            let sum: f32 = order.iter().map(|&e| scores[e]).sum();
            for e in order {
                let weight = if moe.norm_topk_prob { scores[e] / (sum + 1e-6) } else { scores[e] }
                    * moe.routed_scaling_factor;
                let [gate, up, down] = op.experts.of(e);
                let out = self.linear(&self.swiglu(x, gate, up), Linear { weight: down, bias: None });
                y.iter_mut().zip(out).for_each(|(y, out)| *y += weight * out);
            }
        }
        self.add(x, &y);
    }

    fn select_rows(&mut self, x: Rows) -> Rows {
        let hidden = self.config().hidden;
        let rows = self
            .batch
            .outputs
            .iter()
            .flat_map(|o| &self.read(x)[o.row as usize * hidden..][..hidden])
            .copied()
            .collect();
        self.push(rows)
    }

    fn norm_logits(&mut self, x: Rows, norm: VectorId, head: MatrixId) -> Rows {
        let normed = self.norm(self.read(x), norm);
        let logits = self.linear(&normed, Linear { weight: head, bias: None });
        self.trace.push(normed);
        self.push(logits)
    }

    fn sample(&mut self, logits: Rows) {
        let vocab = self.config().vocab;
        let mut logits = self.read(logits).to_vec();
        let mut scratch = SamplerScratch::default();
        let rows: Vec<RowOutput> = (self.batch.outputs.iter().zip(logits.chunks_exact_mut(vocab)))
            .map(|(output, logits)| finish_row(&self.batch, output, logits, &mut scratch))
            .collect();
        self.batch.for_each_sampled(&rows, |slot, token| self.last_token[slot.0 as usize] = token);
        self.done = Some(StepOutput { rows });
    }
}

impl Executor for Oracle {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError> {
        self.begin(batch);
        let model = Arc::clone(&self.model);
        lfm2::record(&model, self);
        self.tickets += 1;
        Ok(Ticket(self.tickets))
    }

    fn try_collect(&mut self, _: Ticket) -> Result<Option<StepOutput>, ExecutorError> {
        Ok(self.done.take())
    }
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

fn rms_norm<'a>(x: &'a [f32], gain: &'a [f32], eps: f32) -> impl Iterator<Item = f32> + 'a {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    x.iter().zip(gain).map(move |(x, gain)| x * scale * gain)
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// Norm of each head, then the rotary embedding: pairs `(i, i + dim/2)` turn by `position * theta^(-2i/dim)`.
fn norm_rope(heads: &mut [f32], norm: Option<&[f32]>, eps: f32, dim: usize, theta: f32, position: usize) {
    for head in heads.chunks_exact_mut(dim) {
        if let Some(gain) = norm {
            let normed: Vec<f32> = rms_norm(head, gain, eps).collect();
            head.copy_from_slice(&normed);
        }
        let (low, high) = head.split_at_mut(dim / 2);
        for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
            let frequency = f64::from(theta).powf(-2.0 * i as f64 / dim as f64) as f32;
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
