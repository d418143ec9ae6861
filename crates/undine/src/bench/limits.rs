//! How fast this machine could do a test, and where a measured speed stands beside that.

use serde::Serialize;
use undine_cpu::Roofline;

use super::test::Test;
use crate::work::Work;

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

#[cfg(test)]
mod tests {
    use undine_cpu::roofline::Peaks;

    use super::super::test::Kind;
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
    fn the_nearer_of_two_limits_counts() {
        let test = Test { kind: Kind::Decode, depth: 0, tokens: 10, sequences: 1 };
        let work = Work { bytes: 100.0, int8_ops: 30.0, bf16_ops: 10.0, f32_ops: 10.0 };
        let limit = Limit::new(test, work, &roofline(10.0, 10.0), 0.5);
        assert_eq!((limit.limit_ts, limit.percent_of_limit, limit.limited_by), (1.0, 50.0, Bound::Memory));
        assert_eq!((limit.bytes_per_token, limit.operations_per_token), (10.0, 5.0));
        let limit = Limit::new(test, work, &roofline(100.0, 10.0), 1.0);
        assert_eq!((limit.limit_ts, limit.limited_by), (2.0, Bound::Arithmetic));
    }
}
