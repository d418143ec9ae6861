//! Attention on this thread: projections into the cache, and the rows' attention over it.

use std::marker::PhantomData;
use std::ops::Range;

use undine_model::{Qkv, Rows, VectorId};

use super::{Product, kinds_of, multiply, norm_input, output, values};
use crate::executor::{KvType, State};
use crate::kernels::attention::{Attend, KvF16, KvF32, KvFloat, StoreKv};
use crate::kernels::elementwise::NormRope;
use crate::kernels::rows::Accumulate;
use crate::pool::Worker;

/// This thread's heads: projections, norms, rotary embedding, and the cache.
pub(super) fn qkv(state: &State, worker: Worker, op: Qkv, [x, key, value, query]: [Rows; 4]) {
    let (heads, kv_heads, dim) = (state.config().heads, state.config().kv_heads, state.config().head_dim);
    let rows = state.rows.len();
    let kinds = kinds_of(state, [op.query.weight, op.key.weight, op.value.weight]);
    norm_input(state, worker, x, op.norm, kinds, rows);
    let (q_heads, kv_heads) = (worker.share(heads, 1), worker.share(kv_heads, 1));
    for (op, handle, heads) in
        [(op.query, query, &q_heads), (op.key, key, &kv_heads), (op.value, value, &kv_heads)]
    {
        let out = output(state, handle, Accumulate::No);
        let weights = heads.start * dim..heads.end * dim;
        multiply(state, worker, Product { op, weights, input: &state.input, inputs: 0..rows, out });
    }
    for row in 0..rows {
        norm_rope(state, query, row, &q_heads, op.query_norm);
        norm_rope(state, key, row, &kv_heads, op.key_norm);
        for head in kv_heads.clone() {
            match state.kv_layout.kind {
                KvType::F32 => store_kv::<KvF32>(state, op.layer, [key, value], row, head),
                KvType::F16 => store_kv::<KvF16>(state, op.layer, [key, value], row, head),
            }
        }
    }
}

fn norm_rope(state: &State, handle: Rows, row: usize, heads: &Range<usize>, norm: Option<VectorId>) {
    let (dim, half) = (state.config().head_dim, state.frequencies.len());
    // SAFETY: these heads of the row are this thread's, and the angles are complete since `embed`.
    unsafe {
        let place = state.plan.place(handle);
        let at = place.start + row * place.width;
        state.isa.run(NormRope {
            heads: state.arena.write(at + heads.start * dim..at + heads.end * dim),
            gain: norm.map(|norm| state.model.vector(norm)),
            eps: state.config().norm_eps,
            cos: state.cos.read(row * half..(row + 1) * half),
            sin: state.sin.read(row * half..(row + 1) * half),
        });
    }
}

fn store_kv<T: KvFloat>(state: &State, layer: u32, [key, value]: [Rows; 2], row: usize, head: usize) {
    let dim = state.config().head_dim;
    let at = state.rows[row];
    let sequence = &state.batch.sequences[at.sequence as usize];
    let size = crate::BLOCK_SIZE as usize;
    let block = state.batch.block_tables[sequence.blocks.start as usize + at.position as usize / size];
    let layout = &state.kv_layout;
    let page = state.kv[layer as usize]
        .as_ptr()
        .wrapping_add(block.0 as usize * layout.page_bytes + 2 * head * layout.head_bytes);
    // SAFETY: this head of the rows and of the page is this thread's; `check` has put the block within the cache.
    unsafe {
        state.isa.run(StoreKv::<T> {
            key: &values(state, key, row..row + 1)[head * dim..][..dim],
            value: &values(state, value, row..row + 1)[head * dim..][..dim],
            keys: page,
            values: page.add(layout.head_bytes),
            offset: at.position as usize % size,
            kind: PhantomData,
        });
    }
}

/// Attention of every row, for this thread's share of rows and heads.
pub(super) fn attend(state: &State, worker: Worker, query: Rows, layer: u32, y: Rows) {
    match state.kv_layout.kind {
        KvType::F32 => attend_as::<KvF32>(state, worker, query, layer, y),
        KvType::F16 => attend_as::<KvF16>(state, worker, query, layer, y),
    }
}

fn attend_as<T: KvFloat>(state: &State, worker: Worker, query: Rows, layer: u32, y: Rows) {
    let (heads, kv_heads, dim) = (state.config().heads, state.config().kv_heads, state.config().head_dim);
    let group = heads / kv_heads;
    // An item is a key head of a row. Threads take every n-th, so that the longer rows are shared evenly.
    for item in (worker.index..state.rows.len() * kv_heads).step_by(worker.count) {
        let (row, head) = (item / kv_heads, item % kv_heads);
        let at = state.rows[row];
        let sequence = &state.batch.sequences[at.sequence as usize];
        let width = state.plan.place(y).width;
        let part = head * group * dim..(head + 1) * group * dim;
        // SAFETY: these heads of the row are this thread's; queries and cache are complete since the last barrier.
        unsafe {
            let start = state.plan.place(y).start + row * width;
            state.isa.run(Attend::<T> {
                query: &values(state, query, row..row + 1)[part.clone()],
                y: state.arena.write(start + part.start..start + part.end),
                head_dim: dim,
                table: &state.batch.block_tables
                    [sequence.blocks.start as usize..sequence.blocks.end as usize],
                positions: at.position as usize + 1,
                cache: state.kv[layer as usize].as_ptr(),
                page_bytes: state.kv_layout.page_bytes,
                keys_at: 2 * head * state.kv_layout.head_bytes,
                values_at: (2 * head + 1) * state.kv_layout.head_bytes,
                kind: PhantomData,
            });
        }
    }
}
