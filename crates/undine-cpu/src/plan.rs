//! The recorded forward pass: operations over an arena whose places are assigned once.

use undine_core::Config;
use undine_model::{Experts, Linear, MatrixId, Model, Moe, Qkv, Recorder, Rows, ShortConv, Swiglu, VectorId};

use crate::kernels::activations::ActivationKinds;

/// One recorded verb: the arguments and the result of the [`Recorder`] method of its name. Further [`Rows`]
/// are temporaries of the operation.
#[allow(missing_docs, reason = "the fields are the arguments that `Recorder` documents")]
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Embedding rows, and the rotary angles of the step.
    Embed { table: MatrixId, y: Rows },
    /// Norm, projection, gates and convolution.
    NormShortConv { x: Rows, op: ShortConv, bcx: Rows, y: Rows },
    /// Norm, projections, head norms, rotary embedding, cache write.
    NormQkv { x: Rows, op: Qkv, key: Rows, value: Rows, query: Rows },
    /// Attention.
    Attend { query: Rows, layer: u32, y: Rows },
    /// Projection into the residual stream.
    LinearAdd { x: Rows, op: Linear, residual: Rows },
    /// Norm, gate, up, SiLU.
    NormSwiglu { x: Rows, op: Swiglu, y: Rows },
    /// A mixture of experts into the residual stream.
    NormMoeAdd { x: Rows, op: Moe },
    /// Gathers the rows with outputs.
    SelectRows { x: Rows, y: Rows },
    /// Norm and head.
    NormLogits { x: Rows, norm: VectorId, head: MatrixId, y: Rows },
    /// Outputs from logits.
    Sample { logits: Rows },
}

impl Op {
    /// The handles it reads or writes.
    fn handles(&self) -> Vec<Rows> {
        match *self {
            Self::Embed { y, .. } => vec![y],
            Self::NormShortConv { x, bcx, y, .. } => vec![x, bcx, y],
            Self::NormQkv { x, key, value, query, .. } => vec![x, key, value, query],
            Self::Attend { query, y, .. } => vec![query, y],
            Self::LinearAdd { x, residual, .. } => vec![x, residual],
            Self::NormSwiglu { x, y, .. } => vec![x, y],
            Self::NormMoeAdd { x, .. } => vec![x],
            Self::SelectRows { x, y } => vec![x, y],
            Self::NormLogits { x, y, .. } => vec![x, y],
            Self::Sample { logits } => vec![logits],
        }
    }
}

/// Where the values of a handle are in the arena: row `t` at `start + t * width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First value.
    pub start: usize,
    /// Values per row.
    pub width: usize,
}

/// How many rows a handle can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    /// All rows of the step.
    Batch,
    /// Rows with outputs.
    Outputs,
}

/// A recorded forward pass.
#[derive(Debug)]
pub struct Plan {
    /// What to do, in order.
    pub ops: Vec<Op>,
    places: Vec<Place>,
    /// Values the arena holds.
    pub arena_len: usize,
    /// Widest input of any matrix product.
    pub input_width: usize,
    /// Widest input that is needed as f32: of float matrices, and of norms.
    pub float_width: usize,
    /// The same of experts.
    pub expert_float_width: usize,
    /// Input kinds of any matrix product.
    pub kinds: ActivationKinds,
}

impl Plan {
    /// Where a handle's values are.
    pub fn place(&self, rows: Rows) -> Place {
        self.places[rows.0 as usize]
    }
}

/// Records verbs into a [`Plan`].
pub struct PlanRecorder<'a> {
    config: &'a Config,
    model: &'a Model,
    ops: Vec<Op>,
    handles: Vec<(usize, Length)>,
}

impl<'a> PlanRecorder<'a> {
    /// Nothing recorded yet.
    pub fn new(model: &'a Model) -> Self {
        Self { config: model.config(), model, ops: Vec::new(), handles: Vec::new() }
    }

    fn handle(&mut self, width: usize, length: Length) -> Rows {
        self.handles.push((width, length));
        Rows(self.handles.len() as u32 - 1)
    }

    fn rows(&mut self, width: usize) -> Rows {
        self.handle(width, Length::Batch)
    }

    /// The widest of the matrices that are float.
    fn widest_float(&self, ids: impl Iterator<Item = MatrixId>) -> usize {
        let weights = ids.map(|id| self.model.matrix(id)).filter(|weight| weight.dtype.is_float());
        weights.map(|weight| weight.cols).max().unwrap_or(0)
    }

    /// Assigns places: a handle lives from its first to its last use, and dead ones make room for new ones.
    pub fn finish(self, rows_max: usize, outputs_max: usize) -> Plan {
        let mut last_use = vec![0; self.handles.len()];
        for (i, op) in self.ops.iter().enumerate() {
            op.handles().into_iter().for_each(|rows| last_use[rows.0 as usize] = i);
        }
        let mut places: Vec<Option<Place>> = vec![None; self.handles.len()];
        let mut live: Vec<(usize, usize, usize)> = Vec::new();
        let mut arena_len = 0;
        for (i, op) in self.ops.iter().enumerate() {
            live.retain(|&(.., last)| last >= i);
            for rows in op.handles().into_iter().map(|rows| rows.0 as usize) {
                if places[rows].is_none() {
                    let (width, length) = self.handles[rows];
                    let len = width * if length == Length::Batch { rows_max } else { outputs_max };
                    let start = first_gap(&mut live, len);
                    live.push((start, start + len, last_use[rows]));
                    arena_len = arena_len.max(start + len);
                    places[rows] = Some(Place { start, width });
                }
            }
        }
        let matrices = (0..self.model.matrix_count()).map(|i| *self.model.matrix(MatrixId(i as u32)));
        let kinds = ActivationKinds::of(matrices.clone().map(|weight| weight.dtype));
        let input_width = matrices.map(|weight| weight.cols).max().unwrap_or(0);
        let all = (0..self.model.matrix_count()).map(|i| MatrixId(i as u32));
        let float_width = self.widest_float(all).max(self.config.hidden);
        let experts = self.ops.iter().filter_map(|op| match op {
            Op::NormMoeAdd { op, .. } => Some(op.experts),
            _ => None,
        });
        let each = |experts: Experts| (0..experts.count as usize).flat_map(move |e| experts.of(e));
        let expert_float_width = self.widest_float(experts.flat_map(each));
        let unused = Place { start: 0, width: 0 };
        let places = places.into_iter().map(|place| place.unwrap_or(unused)).collect();
        Plan { ops: self.ops, places, arena_len, input_width, float_width, expert_float_width, kinds }
    }
}

/// The lowest start with `len` free values after it; `live` holds `(start, end, last use)`.
fn first_gap(live: &mut [(usize, usize, usize)], len: usize) -> usize {
    live.sort_unstable();
    let mut start = 0;
    for &(from, to, _) in live.iter() {
        if start + len <= from {
            break;
        }
        start = start.max(to);
    }
    start
}

impl Recorder for PlanRecorder<'_> {
    fn embed(&mut self, table: MatrixId) -> Rows {
        let y = self.rows(self.config.hidden);
        self.ops.push(Op::Embed { table, y });
        y
    }

    fn norm_short_conv(&mut self, x: Rows, op: ShortConv) -> Rows {
        let bcx = self.rows(3 * self.config.hidden);
        let y = self.rows(self.config.hidden);
        self.ops.push(Op::NormShortConv { x, op, bcx, y });
        y
    }

    fn norm_qkv(&mut self, x: Rows, op: Qkv) -> Rows {
        let kv_width = self.config.kv_heads * self.config.head_dim;
        let (key, value) = (self.rows(kv_width), self.rows(kv_width));
        let query = self.rows(self.config.heads * self.config.head_dim);
        self.ops.push(Op::NormQkv { x, op, key, value, query });
        query
    }

    fn attend(&mut self, query: Rows, layer: u32) -> Rows {
        let y = self.rows(self.config.heads * self.config.head_dim);
        self.ops.push(Op::Attend { query, layer, y });
        y
    }

    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows) {
        self.ops.push(Op::LinearAdd { x, op, residual });
    }

    fn norm_swiglu(&mut self, x: Rows, op: Swiglu) -> Rows {
        let width = self.model.matrix(op.gate).rows;
        let y = self.rows(width);
        self.ops.push(Op::NormSwiglu { x, op, y });
        y
    }

    fn norm_moe_add(&mut self, x: Rows, op: Moe) {
        self.ops.push(Op::NormMoeAdd { x, op });
    }

    fn select_rows(&mut self, x: Rows) -> Rows {
        let y = self.handle(self.config.hidden, Length::Outputs);
        self.ops.push(Op::SelectRows { x, y });
        y
    }

    fn norm_logits(&mut self, x: Rows, norm: VectorId, head: MatrixId) -> Rows {
        let y = self.handle(self.config.vocab, Length::Outputs);
        self.ops.push(Op::NormLogits { x, norm, head, y });
        y
    }

    fn sample(&mut self, logits: Rows) {
        self.ops.push(Op::Sample { logits });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_lowest_first() {
        let mut live = vec![(20, 30, 0), (0, 10, 0)];
        assert_eq!(first_gap(&mut live, 10), 10);
        assert_eq!(first_gap(&mut live, 11), 30);
        assert_eq!(first_gap(&mut [], 5), 0);
    }
}
