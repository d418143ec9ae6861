//! `--measure`: what this machine can do, what the model does on it, and how far the estimate was off.

use std::sync::Arc;

use serde::Serialize;
use undine_cpu::{Isa, Roofline};
use undine_model::Model;

use super::devices;
use super::memory::{Load, ROWS};
use super::speed::{Correction, PROMPT_TOKENS, Runnable};
use super::subject::Subject;
use crate::args::HugePagesChoice;
use crate::bench::runner::{Runner, Settings};
use crate::bench::test::{Kind, Test};
use crate::error::Error;
use crate::session;

/// Tokens decoded for a measurement.
const DECODE_TOKENS: u32 = 16;
/// Most sequences decoded together for a measurement.
const DECODE_SEQUENCES_MAX: u32 = 32;
/// How often each test is run; the fastest counts, because others may be using the machine.
const REPETITIONS: usize = 3;

/// What has been measured.
pub struct Measured {
    /// The machine's limits.
    pub roofline: Roofline,
    /// All of it.
    pub report: MeasuredReport,
}

/// What has been measured, as it is said.
#[derive(Serialize)]
pub struct MeasuredReport {
    /// Threads that measured.
    pub threads: usize,
    /// Bytes read per second.
    pub read_bytes_per_s: f64,
    /// Operations on quantized weights per second.
    pub int8_ops_per_s: f64,
    /// Operations on float weights per second.
    pub float_ops_per_s: f64,
    /// Tests of the model: a prompt, decode of one sequence, decode of several if there are several; none
    /// without a file.
    pub tests: Vec<MeasuredTest>,
}

impl MeasuredReport {
    /// How far off estimates were, if the model has been measured.
    pub fn correction(&self) -> Option<Correction> {
        let ratio = |test: &MeasuredTest| test.measured_tokens_per_s / test.estimated_tokens_per_s;
        let [prefill, decode_one, rest @ ..] = &self.tests[..] else { return None };
        Some(Correction {
            prefill: ratio(prefill),
            decode_one: ratio(decode_one),
            decode_all: ratio(rest.first().unwrap_or(decode_one)),
        })
    }
}

/// A test of the model.
#[derive(Serialize)]
pub struct MeasuredTest {
    /// Its name, as `undine bench` has it.
    pub test: String,
    /// Tokens per second, all sequences together.
    pub measured_tokens_per_s: f64,
    /// What would have been said without measuring.
    pub estimated_tokens_per_s: f64,
    /// How much more the estimate is, in percent of the measured speed.
    pub error_percent: f64,
}

/// Measures the machine, and the model if its weights are there.
pub fn measure(subject: &Subject, load: Load) -> Result<Measured, Error> {
    let threads = load.threads;
    // Before the model takes memory, because this does too.
    let roofline = Roofline::measure(threads)?;
    let tests = match &subject.model {
        Some(model) => measure_model(subject, model, load, &roofline)?,
        None => Vec::new(),
    };
    let report = MeasuredReport {
        threads,
        read_bytes_per_s: roofline.read_bytes_per_s,
        int8_ops_per_s: roofline.int8_ops_per_s(),
        float_ops_per_s: roofline.f32_ops_per_s(),
        tests,
    };
    Ok(Measured { roofline, report })
}

fn measure_model(
    subject: &Subject,
    model: &Arc<Model>,
    load: Load,
    roofline: &Roofline,
) -> Result<Vec<MeasuredTest>, Error> {
    let context = load.context;
    let decode =
        |sequences| Test { kind: Kind::Decode, depth: 0, tokens: DECODE_TOKENS.min(context), sequences };
    let prefill = Test { kind: Kind::Prefill, depth: 0, tokens: PROMPT_TOKENS.min(context), sequences: 1 };
    let mut tests = vec![prefill, decode(1)];
    let together = load.users.min(DECODE_SEQUENCES_MAX);
    tests.extend((together > 1).then(|| decode(together)));
    let settings = Settings {
        threads: load.threads,
        kv: load.kv,
        huge_pages: session::huge_pages(
            HugePagesChoice::Auto,
            model.checkpoint(),
            load.kv,
            [load.users, context],
        ),
        isa: Isa::detect(),
        ubatch: ROWS as u32,
    };
    let mut runner = Runner::new(Arc::clone(model), &settings, &tests)?;
    let here = devices::here(Some(roofline))
        .ok_or_else(|| Error::refused("--measure: this system does not say how much memory it has"))?;
    let runnable = Runnable { config: &subject.config, matrices: &subject.chosen.matrices, kv: load.kv };
    let mut measured = Vec::new();
    for test in tests {
        runner.warm_up(test)?;
        let mut best: f64 = 0.0;
        for _ in 0..REPETITIONS {
            let (time, _) = runner.run(test)?;
            best = best.max(session::speed(test.total() as usize, time));
        }
        let estimate = runnable.speed(&here, test).expect("the machine has just been measured").tokens_per_s;
        measured.push(MeasuredTest {
            test: test.to_string(),
            measured_tokens_per_s: best,
            estimated_tokens_per_s: estimate,
            error_percent: 100.0 * (estimate / best - 1.0),
        });
    }
    Ok(measured)
}
