//! How fast a model could be on a device.
//!
//! On a CPU a step is estimated as reading its bytes at a share of the bandwidth and then computing its
//! operations at a share of the peak; both shares are from this program's own recorded measurements, and so
//! is that their times add up. Elsewhere nothing has been measured, so the slower of the two at full speed is
//! given as a bound.

use serde::Serialize;
use undine_core::Config;
use undine_cpu::KvType;

use super::devices::{Device, Kind};
use crate::args_fit::Price;
use crate::bench::test::{self, Test};
use crate::work::{self, Matrices};

/// Part of the bandwidth that a step reads at: 64 to 92% were measured for decode of 350M, 1.2B and 8B-A1B in
/// several types.
pub const BANDWIDTH_SHARE: f64 = 0.73;
/// Part of the arithmetic peak that a step computes at: 46 to 54% were measured for prefill.
pub const PEAK_SHARE: f64 = 0.50;
/// Tokens of a prompt whose speed is given.
pub const PROMPT_TOKENS: u32 = 512;
/// Seconds in an hour.
const HOUR_S: f64 = 3600.0;
/// Tokens that a cost is for.
const MILLION: f64 = 1e6;

/// How a number is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// As it was measured for other models and machines.
    Estimate,
    /// An estimate, corrected by what this model did on this machine with empty contexts.
    Measured,
    /// Nothing can be faster.
    Bound,
}

/// Tokens per second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Speed {
    /// All sequences together.
    pub tokens_per_s: f64,
    /// How to read it.
    pub certainty: Certainty,
}

/// What a million tokens cost.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// Of answers, with all users at once.
    pub output: Option<f64>,
    /// Of prompts.
    pub prompt: Option<f64>,
}

/// The speeds of a device.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Speeds {
    /// Decode of one sequence.
    pub decode_one: Option<Speed>,
    /// Decode of all users.
    pub decode_all: Option<Speed>,
    /// A prompt.
    pub prefill: Option<Speed>,
}

/// A model in the quantization and with the keys and values it would run with.
#[derive(Clone, Copy)]
pub struct Runnable<'a> {
    /// The shape.
    pub config: &'a Config,
    /// The weights.
    pub matrices: &'a [Matrices],
    /// Type of keys and values.
    pub kv: KvType,
}

impl Runnable<'_> {
    /// The speed of a test, or `None` where the device says too little.
    pub fn speed(self, device: &Device, test: Test) -> Option<Speed> {
        let work = work::work(self.config, self.matrices, self.kv, test);
        let read_s = work.bytes / device.bytes_per_s?;
        let tokens = test.total() as f64;
        let (seconds, certainty) = match (device.kind, device.peaks) {
            (Kind::Cpu, Some(peaks)) => {
                (read_s / BANDWIDTH_SHARE + peaks.seconds(work) / PEAK_SHARE, Certainty::Estimate)
            }
            (_, Some(peaks)) => (read_s.max(peaks.seconds(work)), Certainty::Bound),
            // Arithmetic decides, and is not known.
            (_, None) if test.kind == test::Kind::Prefill => return None,
            (Kind::Cpu, None) if test.sequences == 1 => (read_s / BANDWIDTH_SHARE, Certainty::Estimate),
            (_, None) => (read_s, Certainty::Bound),
        };
        Some(Speed { tokens_per_s: tokens / seconds, certainty })
    }

    /// The speeds with `users` sequences of `context` tokens, nearly full.
    pub fn speeds(self, device: &Device, users: u32, context: u32) -> Speeds {
        let depth = context.saturating_sub(1);
        let decode = |sequences| Test { kind: test::Kind::Decode, depth, tokens: 1, sequences };
        let tokens = PROMPT_TOKENS.min(context);
        let prefill = Test { kind: test::Kind::Prefill, depth: 0, tokens, sequences: 1 };
        Speeds {
            decode_one: self.speed(device, decode(1)),
            decode_all: self.speed(device, decode(users)),
            prefill: self.speed(device, prefill),
        }
    }
}

/// Measured speeds as parts of the estimated ones.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Correction {
    /// Of [`Speeds::decode_one`].
    pub decode_one: f64,
    /// Of [`Speeds::decode_all`].
    pub decode_all: f64,
    /// Of [`Speeds::prefill`].
    pub prefill: f64,
}

impl Speeds {
    /// The same, less by what measurements were less than estimates.
    pub fn corrected(self, by: Correction) -> Self {
        let corrected = |speed: Option<Speed>, ratio: f64| {
            speed.map(|speed| Speed {
                tokens_per_s: speed.tokens_per_s * ratio,
                certainty: Certainty::Measured,
            })
        };
        Self {
            decode_one: corrected(self.decode_one, by.decode_one),
            decode_all: corrected(self.decode_all, by.decode_all),
            prefill: corrected(self.prefill, by.prefill),
        }
    }

    /// What a million tokens cost at these speeds. At a bound the true cost is higher.
    pub fn cost(&self, price: Price) -> Cost {
        let cost =
            |speed: Option<Speed>| speed.map(|speed| price.per_hour / HOUR_S / speed.tokens_per_s * MILLION);
        Cost { output: cost(self.decode_all), prompt: cost(self.prefill) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::DevicePeaks;
    use super::super::subject::Subject;
    use super::*;

    /// The machine of `bench/runs/2026-11-21.md`: its limits as the shares and speeds in that file give them.
    fn recorded_machine() -> Device {
        let peaks = DevicePeaks { int8: 1.48e12, bf16: 0.55e12, float: 0.55e12 };
        Device {
            name: "recorded".to_owned(),
            kind: Kind::Cpu,
            class: String::new(),
            usable_bytes: 0,
            memory_bytes: 0,
            bytes_per_s: Some(32.5e9),
            peaks: Some(peaks),
            price: None,
            price_per_hour: None,
            shown: true,
            gigabytes: 0.0,
            names: Vec::new(),
            source: String::new(),
        }
    }

    #[test]
    fn estimates_are_near_the_recorded_measurements() {
        let decode = |tokens, sequences| Test { kind: test::Kind::Decode, depth: 0, tokens, sequences };
        let prefill = |tokens| Test { kind: test::Kind::Prefill, depth: 0, tokens, sequences: 1 };
        for (shape, mix, test, measured) in [
            ("1.2B", "Q4_0", decode(32, 1), 31.0),
            ("1.2B", "Q4_K_M", decode(32, 1), 28.5),
            ("1.2B", "Q8_0", decode(32, 1), 19.3),
            ("350M", "Q4_K_M", decode(32, 1), 112.0),
            ("350M", "F16", decode(32, 1), 38.3),
            ("8B-A1B", "Q4_K_M", decode(32, 1), 22.9),
            ("1.2B", "Q4_K_M", decode(16, 4), 80.1),
            ("1.2B", "Q4_K_M", decode(16, 32), 239.0),
            ("8B-A1B", "Q4_K_M", decode(16, 8), 45.7),
            ("8B-A1B", "Q4_K_M", decode(16, 32), 84.5),
            ("1.2B", "Q4_K_M", prefill(512), 371.0),
            ("8B-A1B", "Q4_K_M", prefill(512), 237.0),
        ] {
            let subject = Subject::find(Some(shape), mix.parse().ok()).expect("a known shape");
            let kv = KvType::F16;
            let runnable = Runnable { config: &subject.config, matrices: &subject.chosen.matrices, kv };
            let speed = runnable.speed(&recorded_machine(), test).expect("all is known").tokens_per_s;
            let ratio = speed / measured;
            assert!((0.8..1.25).contains(&ratio), "{shape} {mix} {test}: {speed:.1}, measured {measured}");
        }
    }

    #[test]
    fn a_cost_is_time_times_price() {
        let speed = |tokens_per_s| Some(Speed { tokens_per_s, certainty: Certainty::Estimate });
        let speeds = Speeds { decode_one: None, decode_all: speed(100.0), prefill: speed(1000.0) };
        let Cost { output, prompt } = speeds.cost(Price { per_hour: 0.72 });
        assert!((output.expect("known") - 2.0).abs() < 1e-9);
        assert!((prompt.expect("known") - 0.2).abs() < 1e-9);
    }
}
