//! What a test must read and compute at the least, and how fast the machine could do that.
//!
//! Bytes: every weight matrix once a step in the type of the file, keys and values of every position attended to, one
//! embedding row a token. Of experts, those that the tokens of a step are expected to choose. A prefill could do with
//! reading everything once. Operations: two per weight and token, and the head's only for rows with an output.
//! Left out: norms and filters (below one part in a thousand of the bytes) and the arithmetic of attention, so at depth
//! the limit of a prefill is higher than any implementation's.

use serde::Serialize;
use undine_core::DType;
use undine_cpu::{KvType, Roofline};
use undine_model::{BoundFeedForward, Linear, MatrixId, Model, Operator};

use super::test::{Kind, Test};

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

/// What keeps a test from being faster.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Reading.
    Memory,
    /// Multiplying and adding.
    Arithmetic,
}

/// The limit of a test on this machine.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Limit {
    /// Tokens per second that nothing could exceed here.
    pub limit_ts: f64,
    /// The median speed as a part of that.
    pub percent_of_limit: f64,
    /// What sets it.
    pub limited_by: Bound,
    /// Bytes per token, all sequences together.
    pub bytes_per_token: f64,
    /// Operations per token.
    pub operations_per_token: f64,
}

impl Limit {
    /// The limit of a test that costs `work`, and where a speed of `ts` tokens per second stands.
    pub fn new(test: Test, work: Work, roofline: &Roofline, ts: f64) -> Self {
        let memory_s = work.bytes / roofline.read_bytes_per_s;
        let arithmetic_s = work.int8_ops / roofline.int8_ops_per_s()
            + work.bf16_ops / roofline.bf16_ops_per_s()
            + work.f32_ops / roofline.f32_ops_per_s();
        let limited_by = if memory_s > arithmetic_s { Bound::Memory } else { Bound::Arithmetic };
        let tokens = test.total() as f64;
        let limit_ts = tokens / memory_s.max(arithmetic_s);
        Self {
            limit_ts,
            percent_of_limit: 100.0 * ts / limit_ts,
            limited_by,
            bytes_per_token: work.bytes / tokens,
            operations_per_token: (work.int8_ops + work.bf16_ops + work.f32_ops) / tokens,
        }
    }
}

/// How many of `experts` experts are chosen by at least one of `tokens` tokens that each choose `active` at random.
fn distinct_experts(experts: usize, active: usize, tokens: f64) -> f64 {
    let experts = experts as f64;
    experts * (1.0 - (1.0 - active as f64 / experts).powf(tokens))
}

/// What a test costs with keys and values of type `kv`.
pub fn work(model: &Model, kv: KvType, test: Test) -> Work {
    let config = model.config();
    // A decode is so many steps of one row per sequence, a prefill at best one step.
    let (steps, rows) = match test.kind {
        Kind::Prefill => (1.0, f64::from(test.tokens)),
        Kind::Decode => (f64::from(test.tokens), f64::from(test.sequences)),
    };
    let head_rows = if test.kind == Kind::Prefill { 1.0 } else { rows };
    let mut work = Work::default();
    for layer in &model.layers {
        for matrix in operator_matrices(layer.operator).into_iter().flatten().chain([layer.out.weight]) {
            work.add(model, matrix, Use { read: steps, rows: steps * rows });
        }
        match layer.feed_forward {
            BoundFeedForward::Dense { swiglu, down } => {
                for matrix in [swiglu.gate, swiglu.up, down.weight] {
                    work.add(model, matrix, Use { read: steps, rows: steps * rows });
                }
            }
            BoundFeedForward::Moe(moe) => {
                work.add(model, moe.router, Use { read: steps, rows: steps * rows });
                let active = config.moe.expect("a MoE layer means a MoE configuration").experts_active;
                let count = moe.experts.count as usize;
                // Every expert is as likely as the others.
                let read = steps * distinct_experts(count, active, rows) / count as f64;
                let rows = steps * rows * active as f64 / count as f64;
                for matrix in (0..count).flat_map(|expert| moe.experts.of(expert)) {
                    work.add(model, matrix, Use { read, rows });
                }
            }
        }
    }
    work.add(model, model.head, Use { read: steps, rows: steps * head_rows });
    let embedding = model.matrix(model.embedding);
    work.bytes += steps * rows * matrix_bytes(model, model.embedding) / embedding.rows as f64;
    let kv_token_bytes = kv.token_bytes(config) as f64;
    let depth = f64::from(test.depth);
    work.bytes += kv_token_bytes
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
    fn add(&mut self, model: &Model, matrix: MatrixId, Use { read, rows }: Use) {
        let weight = model.matrix(matrix);
        self.bytes += read * matrix_bytes(model, matrix);
        let ops = 2.0 * (weight.rows * weight.cols) as f64 * rows;
        match weight.dtype {
            DType::BF16 => self.bf16_ops += ops,
            DType::F16 | DType::F32 => self.f32_ops += ops,
            _ => self.int8_ops += ops,
        }
    }
}

fn matrix_bytes(model: &Model, matrix: MatrixId) -> f64 {
    model.matrix_bytes(matrix).len() as f64
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

    use undine_cpu::roofline::Peaks;
    use undine_weights::Checkpoint;

    use super::*;

    fn roofline(read_bytes_per_s: f64, ops_per_s: f64) -> Roofline {
        let peaks = Peaks {
            instructions: "none",
            int8_ops_per_s: ops_per_s,
            f32_ops_per_s: ops_per_s,
            bf16_ops_per_s: None,
        };
        Roofline { threads: 1, read_bytes_per_s, peaks: vec![peaks] }
    }

    #[test]
    fn experts_are_counted_once() {
        assert_eq!(distinct_experts(32, 4, 1.0), 4.0);
        assert_eq!(distinct_experts(32, 4, 2.0), 7.5);
        assert!((distinct_experts(32, 4, 1000.0) - 32.0).abs() < 1e-9);
        assert_eq!(distinct_experts(4, 4, 3.0), 4.0);
    }

    #[test]
    fn the_nearer_of_two_limits_counts() {
        let test = Test { kind: Kind::Decode, depth: 0, tokens: 10, sequences: 1 };
        let work = Work { bytes: 100.0, int8_ops: 30.0, bf16_ops: 10.0, f32_ops: 10.0 };
        let limit = Limit::new(test, work, &roofline(10.0, 10.0), 0.5);
        assert_eq!((limit.limit_ts, limit.percent_of_limit, limit.limited_by), (1.0, 50.0, Bound::Memory));
        assert_eq!((limit.bytes_per_token, limit.operations_per_token), (10.0, 5.0));
        let limit = Limit::new(test, work, &roofline(100.0, 10.0), 1.0);
        assert_eq!((limit.limit_ts, limit.limited_by), (2.0, Bound::Arithmetic));
    }

    #[test]
    fn a_dense_token_reads_every_matrix_once() {
        let demo = Checkpoint::from_static_gguf(include_bytes!("../../../../demo/undine-demo.gguf"));
        let model = Model::bind(Arc::new(demo.expect("the demo opens")));
        let of = |kind, tokens, sequences, depth| {
            work(&model, KvType::F16, Test { kind, depth, tokens, sequences })
        };
        let matrices: f64 = (0..model.matrix_count()).map(|i| matrix_bytes(&model, MatrixId(i as u32))).sum();
        let token = of(Kind::Decode, 1, 1, 0);
        let kv = 2.0 * model.config().kv_elems_per_token() as f64;
        let embedding = matrix_bytes(&model, model.embedding) / model.config().vocab as f64;
        assert_eq!(token.bytes, matrices + embedding + kv);
        // More sequences read more keys and values, and the same weights.
        assert_eq!(of(Kind::Decode, 1, 4, 0).bytes - token.bytes, 3.0 * (embedding + kv));
        assert_eq!(of(Kind::Decode, 1, 4, 0).int8_ops, 4.0 * token.int8_ops);
        assert_eq!(of(Kind::Decode, 1, 1, 100).bytes - token.bytes, 100.0 * kv);
        assert_eq!(of(Kind::Prefill, 64, 1, 0).bytes, matrices + 64.0 * embedding);
    }
}
