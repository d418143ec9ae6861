//! `undine bench`: prefill and decode speed on random tokens, straight on the executor, as llama-bench measures them.
//!
//! A `pp` test computes a prompt, with logits of its last row only. A `tg` test computes single tokens of one or
//! several sequences. Both start from an empty context or from a depth that is filled before the clock starts.
//! Nothing is sampled but the best token. The answers of every test are computed a second time in other steps, outside
//! the timed part, and must be equal to the bit.

mod runner;
mod test;

use std::io::Write;
use std::sync::Arc;

use serde::Serialize;
use undine_cpu::{Isa, KvType};
use undine_model::Model;
use undine_weights::Checkpoint;

use crate::args::BenchArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::open;
use crate::session::{self, speed};
use runner::{Runner, Settings, compare};
use test::{Kind, Test};

/// What `--isa` calls the best instruction set of the CPU.
const ISA_AUTO: &str = "auto";

/// One line of the report; speeds in tokens per second, all sequences together.
#[derive(Serialize)]
struct Report {
    model: String,
    model_bytes: u64,
    parameters: u64,
    backend: &'static str,
    isa: String,
    threads: usize,
    kv_cache_dtype: &'static str,
    ubatch: u32,
    test: String,
    n_prompt: u32,
    n_gen: u32,
    depth: u32,
    batch: u32,
    repetitions: u32,
    median_ts: f64,
    min_ts: f64,
    max_ts: f64,
    mean_ts: f64,
    samples_ts: Vec<f64>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    let tests = tests(args)?;
    let isa = isa(&args.isa)?;
    let checkpoint = open::open(args.model.as_deref())?;
    let context = checkpoint.config().context_max;
    if let Some(test) = tests.iter().find(|test| test.end() as usize > context) {
        return Err(Error::refused(format!(
            "{test}: {} tokens do not fit the model's context of {context}",
            test.end()
        )));
    }
    let threads = session::threads(&args.executor);
    let kv = session::kv_type(&args.executor, &checkpoint);
    let settings = Settings { threads, kv, isa, ubatch: args.ubatch };
    let mut runner = Runner::new(Arc::new(Model::bind(Arc::clone(&checkpoint))), &settings, &tests)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        print_header(&mut out, &checkpoint, &settings)?;
    }
    let mut reports = Vec::new();
    for test in tests {
        for _ in 0..args.warmup {
            runner.run(test)?;
        }
        let (time, answers) = runner.run(test)?;
        let mut samples = vec![speed(test.total() as usize, time)];
        for _ in 1..args.repetitions {
            let (time, again) = runner.run(test)?;
            compare(test, &again, &answers)?;
            samples.push(speed(test.total() as usize, time));
        }
        let settings = Settings { ubatch: runner.ubatch(), ..settings };
        let report = report(args, &checkpoint, &settings, test, samples);
        if !args.json {
            print_line(&mut out, &report)?;
        }
        runner.check(test, &answers)?;
        reports.push(report);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&reports).expect("numbers and texts are JSON");
        writeln!(out, "{json}")?;
    }
    Ok(())
}

/// Every prefill at every depth, then every decode at every depth with every number of sequences.
fn tests(args: &BenchArgs) -> Result<Vec<Test>, Error> {
    let mut tests = Vec::new();
    for &depth in &args.depth {
        for &tokens in &args.n_prompt {
            tests.push(Test { kind: Kind::Prefill, depth, tokens, sequences: 1 });
        }
    }
    for &sequences in &args.batch {
        for &depth in &args.depth {
            for &tokens in &args.n_gen {
                tests.push(Test { kind: Kind::Decode, depth, tokens, sequences });
            }
        }
    }
    tests.retain(|test| test.tokens > 0);
    if tests.is_empty() {
        return Err(Error::usage("nothing to measure: every -p and -n is 0"));
    }
    Ok(tests)
}

/// The instruction set of that name.
fn isa(name: &str) -> Result<Isa, Error> {
    if name.eq_ignore_ascii_case(ISA_AUTO) {
        return Ok(Isa::detect());
    }
    let available = Isa::available();
    let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
    let found = available.iter().find(|isa| isa.name().eq_ignore_ascii_case(name));
    found.copied().ok_or_else(|| {
        Error::usage(format!("--isa {name}: expected {ISA_AUTO} or what this CPU has: {}", names.join(", ")))
    })
}

fn report(
    args: &BenchArgs,
    checkpoint: &Checkpoint,
    settings: &Settings,
    test: Test,
    samples: Vec<f64>,
) -> Report {
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let (n_prompt, n_gen) = match test.kind {
        Kind::Prefill => (test.tokens, 0),
        Kind::Decode => (0, test.tokens),
    };
    Report {
        model: open::display_name(args.model.as_deref()),
        model_bytes: checkpoint.file_bytes(),
        parameters: crate::inspect::parameters(checkpoint),
        backend: "cpu",
        isa: settings.isa.name().to_owned(),
        threads: settings.threads,
        kv_cache_dtype: kv_name(settings.kv),
        ubatch: settings.ubatch,
        test: test.to_string(),
        n_prompt,
        n_gen,
        depth: test.depth,
        batch: test.sequences,
        repetitions: args.repetitions,
        median_ts: median(&sorted),
        min_ts: sorted[0],
        max_ts: sorted[sorted.len() - 1],
        mean_ts: sorted.iter().sum::<f64>() / sorted.len() as f64,
        samples_ts: samples,
    }
}

fn kv_name(kv: KvType) -> &'static str {
    match kv {
        KvType::F32 => "float32",
        KvType::F16 => "float16",
    }
}

/// The middle of sorted values; of an even number the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn print_header(out: &mut impl Write, checkpoint: &Checkpoint, settings: &Settings) -> Result<(), Error> {
    let parameters = crate::inspect::parameters(checkpoint) as f64 / 1e9;
    let size = Bytes(checkpoint.file_bytes());
    writeln!(out, "{}: {size}, {parameters:.2}B parameters", checkpoint.name())?;
    let Settings { threads, kv, isa, ubatch } = settings;
    let kv = kv_name(*kv);
    writeln!(out, "cpu {}, {threads} threads, K/V {kv}, prefill in steps of {ubatch} rows", isa.name())?;
    writeln!(out, "\n{:<18} {:>12} {:>26}", "test", "tok/s", "min .. max")?;
    Ok(())
}

fn print_line(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    let spread = format!("{:.2} .. {:.2}", report.min_ts, report.max_ts);
    writeln!(out, "{:<18} {:>12.2} {:>26}", report.test, report.median_ts, spread)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn instruction_sets_have_names() {
        for isa in Isa::available() {
            assert_eq!(super::isa(isa.name()).expect("available").name(), isa.name());
        }
        assert_eq!(super::isa("auto").expect("always").name(), Isa::detect().name());
        let error = super::isa("mmx").expect_err("unknown").to_string();
        assert!(error.contains("portable"), "{error}");
    }
}
