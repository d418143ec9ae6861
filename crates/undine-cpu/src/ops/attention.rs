//! Attention on this thread: projections into the cache, and the rows' attention over it.

use std::marker::PhantomData;
use std::ops::Range;

use undine_core::BatchSequence;
use undine_model::{Qkv, Rows, VectorId};

use super::{Product, multiply, norm_input, output, values, values_mut};
use crate::executor::{KvType, PIECES_PER_THREAD, State};
use crate::kernels::attention::{
    Attend, BLOCK_HEADS, Destination, KvElement, KvF16, KvF32, KvQ8, MergeRanges, PAGE, RANGE, StoreKv,
    state_len,
};
use crate::kernels::elementwise::NormRope;
use crate::kernels::rows::Accumulate;
use crate::pool::Worker;

/// This thread's heads: projections, norms, rotary embedding, and the cache.
pub(super) fn qkv(state: &State, worker: Worker, op: Qkv, [x, key, value, query]: [Rows; 4]) {
    let (heads, kv_heads, dim) = (state.config().heads, state.config().kv_heads, state.config().head_dim);
    let rows = state.rows.len();
    norm_input(state, worker, x, op.norm, [op.query.weight, op.key.weight, op.value.weight], rows);
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
        if state.rows[row].cached {
            continue;
        }
        norm_rope(state, key, row, &kv_heads, op.key_norm);
        for head in kv_heads.clone() {
            match state.kv.kind {
                KvType::F32 => store_kv::<KvF32>(state, op.layer, [key, value], row, head),
                KvType::F16 => store_kv::<KvF16>(state, op.layer, [key, value], row, head),
                KvType::Q8_0 => store_kv::<KvQ8>(state, op.layer, [key, value], row, head),
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

fn store_kv<T: KvElement>(state: &State, layer: u32, [key, value]: [Rows; 2], row: usize, head: usize) {
    let dim = state.config().head_dim;
    let at = state.rows[row];
    let sequence = &state.batch.sequences[at.sequence as usize];
    let block = state.batch.block_tables[sequence.blocks.start as usize + at.position as usize / PAGE];
    let page = block.0 as usize * state.kv.page_stride;
    let [keys, page_values] = state.kv.head(layer, head);
    // SAFETY: this head of the rows and of the page is this thread's; `check` has put the block within the
    // cache.
    unsafe {
        state.isa.run(StoreKv::<T> {
            key: &values(state, key, row..row + 1)[head * dim..][..dim],
            value: &values(state, value, row..row + 1)[head * dim..][..dim],
            keys: keys.add(page),
            values: page_values.add(page),
            offset: at.position as usize % PAGE,
            kind: PhantomData,
        });
    }
}

/// Attention of every row, for this thread's share of the work.
pub(super) fn attend(state: &State, worker: Worker, query: Rows, layer: u32, y: Rows) {
    match state.kv.kind {
        KvType::F32 => attend_as::<KvF32>(state, worker, query, layer, y),
        KvType::F16 => attend_as::<KvF16>(state, worker, query, layer, y),
        KvType::Q8_0 => attend_as::<KvQ8>(state, worker, query, layer, y),
    }
}

/// Some rows of a sequence and a key head.
struct Piece<'a> {
    sequence: &'a BatchSequence,
    rows: Range<usize>,
    head: usize,
}

impl Piece<'_> {
    /// Position of the first row.
    fn start(&self) -> usize {
        self.sequence.start as usize + self.rows.start - self.sequence.rows.start as usize
    }

    /// Ranges of keys that a row looks at.
    fn ranges_of(&self, row: usize) -> usize {
        (self.start() + row - self.rows.start + 1).div_ceil(RANGE)
    }

    fn ranges(&self) -> usize {
        self.ranges_of(self.rows.end - 1)
    }
}

/// The pieces of a step, in order.
fn pieces(state: &State) -> impl Iterator<Item = Piece<'_>> {
    let config = state.config();
    let rows = (BLOCK_HEADS / (config.heads / config.kv_heads)).max(1);
    state.batch.sequences.iter().flat_map(move |sequence| {
        (0..config.kv_heads).flat_map(move |head| {
            let all = sequence.rows.start as usize..sequence.rows.end as usize;
            all.clone().step_by(rows).map(move |row| Piece {
                sequence,
                rows: row..(row + rows).min(all.end),
                head,
            })
        })
    })
}

/// Which thread does an item: forwards and backwards in turn, since a sequence's items become longer and
/// longer.
fn is_mine(worker: Worker, item: usize) -> bool {
    let (round, place) = (item / worker.count, item % worker.count);
    let place = if round.is_multiple_of(2) { place } else { worker.count - 1 - place };
    place == worker.index
}

fn attend_as<T: KvElement>(state: &State, worker: Worker, query: Rows, layer: u32, y: Rows) {
    let group = state.config().heads / state.config().kv_heads;
    let state_len = state_len(state.config().head_dim);
    let (mut count, mut states) = (0, 0);
    for piece in pieces(state) {
        count += 1;
        states += piece.rows.len() * group * piece.ranges() * state_len;
    }
    if count >= PIECES_PER_THREAD * worker.count || states > state.kv.states.len() {
        for (i, piece) in pieces(state).enumerate() {
            if is_mine(worker, i) {
                let to = Destination::Rows(row_of(state, y, &piece));
                attend_piece::<T>(state, worker, query, layer, &piece, to);
            }
        }
        return;
    }
    let (mut item, mut at) = (0, state.kv.states.as_ptr());
    for piece in pieces(state) {
        for range in 0..piece.ranges() {
            if is_mine(worker, item) {
                let to = Destination::Range(range, at);
                attend_piece::<T>(state, worker, query, layer, &piece, to);
            }
            item += 1;
            at = at.wrapping_add(piece.rows.len() * group * state_len);
        }
    }
    worker.barrier();
    merge_ranges(state, worker, y);
}

/// The first row's first head of a piece.
fn row_of(state: &State, rows: Rows, piece: &Piece) -> *mut f32 {
    let group = state.config().heads / state.config().kv_heads;
    let place = state.plan.place(rows);
    let at = place.start + piece.rows.start * place.width + piece.head * group * state.config().head_dim;
    state.arena.as_ptr().wrapping_add(at)
}

fn attend_piece<T: KvElement>(
    state: &State,
    worker: Worker,
    query: Rows,
    layer: u32,
    piece: &Piece,
    to: Destination,
) {
    let [keys, page_values] = state.kv.head(layer, piece.head);
    let blocks = piece.sequence.blocks.start as usize..piece.sequence.blocks.end as usize;
    // SAFETY: each thread has memory of its own.
    let memory = unsafe { &mut state.threads.write(worker.index..worker.index + 1)[0] };
    state.isa.run(Attend::<T> {
        queries: row_of(state, query, piece),
        stride: state.plan.place(query).width,
        rows: piece.rows.len(),
        start: piece.start(),
        group: state.config().heads / state.config().kv_heads,
        head_dim: state.config().head_dim,
        table: &state.batch.block_tables[blocks],
        keys,
        values: page_values,
        page_stride: state.kv.page_stride,
        scratch: &mut memory.attention,
        to,
        kind: PhantomData,
    });
}

/// Puts the ranges of every row and head together, for this thread's share of them.
fn merge_ranges(state: &State, worker: Worker, y: Rows) {
    let (dim, group) = (state.config().head_dim, state.config().heads / state.config().kv_heads);
    let (mut item, mut at) = (0, 0);
    for piece in pieces(state) {
        let heads = piece.rows.len() * group;
        for i in 0..heads {
            if is_mine(worker, item) {
                let row = piece.rows.start + i / group;
                let part = (piece.head * group + i % group) * dim;
                // SAFETY: the states are complete since the barrier, and this head of the row is this
                // thread's.
                unsafe {
                    let states = state.kv.states.as_ptr().add(at + i * state_len(dim));
                    let y = &mut values_mut(state, y, row..row + 1)[part..part + dim];
                    let (stride, ranges) = (heads * state_len(dim), piece.ranges_of(row));
                    state.isa.run(MergeRanges { states, stride, ranges, y });
                }
            }
            item += 1;
        }
        at += heads * piece.ranges() * state_len(dim);
    }
}
