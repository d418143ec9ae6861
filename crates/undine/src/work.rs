//! What a test must read and compute at the least, from the matrices of a model.
//!
//! Bytes: every weight matrix once a step in the type of the file, keys and values of every position attended
//! to, one embedding row a token. Of experts, those that the tokens of a step are expected to choose. A
//! prefill could do with reading everything once. Operations: two per weight and token, and the head's only
//! for rows with an output. Left out: norms and filters (below one part in a thousand of the bytes) and the
//! arithmetic of attention, so at depth the limit of a prefill is higher than any implementation's.

use undine_core::{Config, DType};
use undine_cpu::KvType;
use undine_model::{BoundFeedForward, Linear, MatrixId, Model, Operator};

use crate::bench::test::{Kind, Test};

/// The least a test costs, all its steps together.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Work {
    /// Bytes read.
    pub bytes: f64,
    /// Operations on quantized weights: products of bytes.
    pub int8_ops: f64,
    /// Operations on BF16 weights.
    pub bf16_ops: f64,
    /// Operations on other float weights.
    pub f32_ops: f64,
}

/// When a matrix is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// In every step, for every row.
    Layer,
    /// By the rows that choose it among the experts of its layer.
    Expert,
    /// For rows with an output.
    Head,
    /// One row of it for each row of a step.
    Embedding,
}

/// Matrices of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Matrices {
    /// When they are used.
    pub part: Part,
    /// Element type.
    pub dtype: DType,
    /// How many of them.
    pub count: usize,
    /// Outputs of one.
    pub rows: usize,
    /// Inputs of one.
    pub cols: usize,
}

impl Matrices {
    fn elems(self) -> f64 {
        (self.count * self.rows * self.cols) as f64
    }

    fn bytes(self) -> f64 {
        self.elems() / self.dtype.block_elems() as f64 * self.dtype.block_bytes() as f64
    }
}

/// How many of `experts` experts are chosen by at least one of `tokens` tokens that each choose `active` at
/// random.
pub fn distinct_experts(experts: usize, active: usize, tokens: f64) -> f64 {
    let experts = experts as f64;
    experts * (1.0 - (1.0 - active as f64 / experts).powf(tokens))
}

/// The matrices of a model.
pub fn matrices(model: &Model) -> Vec<Matrices> {
    let mut found = Vec::new();
    let mut put = |part, id: MatrixId| {
        let weight = model.matrix(id);
        found.push(Matrices { part, dtype: weight.dtype, count: 1, rows: weight.rows, cols: weight.cols });
    };
    for layer in &model.layers {
        for matrix in operator_matrices(layer.operator).into_iter().flatten().chain([layer.out.weight]) {
            put(Part::Layer, matrix);
        }
        match layer.feed_forward {
            BoundFeedForward::Dense { swiglu, down } => {
                [swiglu.gate, swiglu.up, down.weight].into_iter().for_each(|matrix| put(Part::Layer, matrix));
            }
            BoundFeedForward::Moe(moe) => {
                put(Part::Layer, moe.router);
                let experts = (0..moe.experts.count as usize).flat_map(|expert| moe.experts.of(expert));
                experts.for_each(|matrix| put(Part::Expert, matrix));
            }
        }
    }
    put(Part::Head, model.head);
    put(Part::Embedding, model.embedding);
    found
}

/// What a test costs with keys and values of type `kv`.
pub fn work(config: &Config, matrices: &[Matrices], kv: KvType, test: Test) -> Work {
    // A decode is so many steps of one row per sequence, a prefill at best one step.
    let (steps, rows) = match test.kind {
        Kind::Prefill => (1.0, f64::from(test.tokens)),
        Kind::Decode => (f64::from(test.tokens), f64::from(test.sequences)),
    };
    let head_rows = if test.kind == Kind::Prefill { 1.0 } else { rows };
    let mut work = Work::default();
    for &matrix in matrices {
        let each = match matrix.part {
            Part::Layer => Use { read: steps, rows: steps * rows },
            Part::Head => Use { read: steps, rows: steps * head_rows },
            // Every expert is as likely as the others.
            Part::Expert => {
                let moe = config.moe.expect("experts mean a MoE configuration");
                let (count, active) = (moe.experts as f64, moe.experts_active);
                let read = steps * distinct_experts(moe.experts, active, rows) / count;
                Use { read, rows: steps * rows * active as f64 / count }
            }
            Part::Embedding => Use { read: steps * rows / matrix.rows as f64, rows: 0.0 },
        };
        work.add(matrix, each);
    }
    let depth = f64::from(test.depth);
    work.bytes += kv.token_bytes(config) as f64
        * match test.kind {
            // What was there before; its own keys and values it has at hand.
            Kind::Prefill => depth,
            Kind::Decode => steps * rows * (depth + (steps + 1.0) / 2.0),
        };
    work
}

/// How often a matrix is read, and how many rows it is multiplied with.
#[derive(Clone, Copy)]
struct Use {
    read: f64,
    rows: f64,
}

impl Work {
    fn add(&mut self, matrix: Matrices, Use { read, rows }: Use) {
        self.bytes += read * matrix.bytes();
        let ops = 2.0 * matrix.elems() * rows;
        match matrix.dtype {
            DType::BF16 => self.bf16_ops += ops,
            DType::F16 | DType::F32 => self.f32_ops += ops,
            _ => self.int8_ops += ops,
        }
    }
}

fn operator_matrices(operator: Operator) -> [Option<MatrixId>; 3] {
    let weight = |linear: Linear| Some(linear.weight);
    match operator {
        Operator::ShortConv(op) => [weight(op.in_proj), None, None],
        Operator::Attention(op) => [weight(op.query), weight(op.key), weight(op.value)],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use undine_weights::Checkpoint;

    use super::*;

    #[test]
    fn experts_are_counted_once() {
        assert_eq!(distinct_experts(32, 4, 1.0), 4.0);
        assert_eq!(distinct_experts(32, 4, 2.0), 7.5);
        assert!((distinct_experts(32, 4, 1000.0) - 32.0).abs() < 1e-9);
        assert_eq!(distinct_experts(4, 4, 3.0), 4.0);
    }

    #[test]
    fn a_dense_token_reads_every_matrix_once() {
        let demo = Checkpoint::from_static_gguf(include_bytes!("../../../demo/undine-demo.gguf"));
        let model = Model::bind(Arc::new(demo.expect("the demo opens")));
        let of = |kind, tokens, sequences, depth| {
            work(model.config(), &matrices(&model), KvType::F16, Test { kind, depth, tokens, sequences })
        };
        let bytes = |id: MatrixId| model.matrix_bytes(id).len() as f64;
        let all: f64 = (0..model.matrix_count()).map(|i| bytes(MatrixId(i as u32))).sum();
        let token = of(Kind::Decode, 1, 1, 0);
        let kv = 2.0 * model.config().kv_elems_per_token() as f64;
        let embedding = bytes(model.embedding) / model.config().vocab as f64;
        assert_eq!(token.bytes, all + embedding + kv);
        // More sequences read more keys and values, and the same weights.
        assert_eq!(of(Kind::Decode, 1, 4, 0).bytes - token.bytes, 3.0 * (embedding + kv));
        assert_eq!(of(Kind::Decode, 1, 4, 0).int8_ops, 4.0 * token.int8_ops);
        assert_eq!(of(Kind::Decode, 1, 1, 100).bytes - token.bytes, 100.0 * kv);
        assert_eq!(of(Kind::Prefill, 64, 1, 0).bytes, all + 64.0 * embedding);
    }
}
