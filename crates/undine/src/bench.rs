//! `undine bench`: prefill and decode speed on random tokens, straight on the executor, as llama-bench
//! measures them.
//!
//! A `pp` test computes a prompt, with logits of its last row only. A `tg` test computes single tokens of one
//! or several sequences. Both start from an empty context or from a depth that is filled before the clock
//! starts. Nothing is sampled but the best token. The answers of every test are computed a second time in
//! other steps, outside the timed part, and must be equal to the bit.
//!
//! `serve` measures any server over HTTP; `offline` drives the engine, for `throughput` and `latency`.

mod formats;
mod limits;
mod offline;
mod report;
pub mod runner;
mod serve;
pub mod statistics;
pub mod test;

use std::io::Write;
use std::sync::Arc;

use undine_cpu::{Isa, Roofline};
use undine_model::Model;

use crate::args::{BenchArgs, BenchOutput};
use crate::args_bench::BenchCommand;
use crate::error::Error;
use crate::open;
use crate::progress::{self, Unit};
use crate::session::{self, speed};
use crate::shown;
use report::{Subject, print_line};
use runner::{Runner, Settings, compare};
use test::{Kind, Test};

/// What `--isa` calls the best instruction set of the CPU.
const ISA_AUTO: &str = "auto";

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    match &args.command {
        None => executor(args),
        Some(BenchCommand::Serve(args)) => serve::run(args),
        Some(BenchCommand::Throughput(args)) => offline::throughput(args),
        Some(BenchCommand::Latency(args)) => offline::latency(args),
    }
}

/// `undine bench` without a subcommand.
fn executor(args: &BenchArgs) -> Result<(), Error> {
    let tests = tests(args)?;
    let isa = isa(&args.isa)?;
    let checkpoint = open::open(args.model.as_deref())?;
    let context = checkpoint.config().context_max;
    if let Some(test) = tests.iter().find(|test| test.end() as usize > context) {
        let tokens = test.end();
        let message = format!("{test}: {tokens} tokens do not fit the model's context of {context}");
        return Err(Error::refused(message));
    }
    let threads = session::threads(&args.executor);
    let kv = session::kv_type(&args.executor, &checkpoint);
    let sequences = tests.iter().map(|test| test.sequences).max().unwrap_or(0);
    let longest = tests.iter().map(|test| test.end()).max().unwrap_or(0);
    let huge_pages = session::huge_pages(args.executor.huge_pages, &checkpoint, kv, [sequences, longest]);
    let model = Arc::new(Model::bind(checkpoint));
    // Before the model takes memory, because this does too.
    let roofline = args.roofline.then(|| Roofline::measure(threads)).transpose()?;
    let settings = Settings { threads, kv, huge_pages, isa, ubatch: args.ubatch };
    let mut runner = Runner::new(Arc::clone(&model), &settings, &tests)?;
    let settings = Settings { ubatch: runner.ubatch(), ..settings };
    let subject = Subject { path: args.model.as_deref(), model: &model, settings, roofline };
    let mut out = shown::stdout();
    let output = if args.json { BenchOutput::Json } else { args.output };
    match output {
        BenchOutput::Table => subject.print_header(&mut out)?,
        BenchOutput::Md | BenchOutput::Csv => formats::head(&mut out, output)?,
        BenchOutput::Json | BenchOutput::Jsonl => {}
    }
    let mut reports = Vec::new();
    // A test is run once more in the end, to be compared.
    let runs = tests.len() as u64 * u64::from(args.warmup + args.repetitions + 1);
    let progress = progress::bar(runs, Unit::Count("runs"));
    for test in tests {
        progress.set_message(test.to_string());
        for _ in 0..args.warmup {
            runner.warm_up(test)?;
            progress.inc(1);
        }
        let (time, answers) = runner.run(test)?;
        progress.inc(1);
        let mut samples = vec![speed(test.total() as usize, time)];
        for _ in 1..args.repetitions {
            let (time, again) = runner.run(test)?;
            compare(test, &again, &answers)?;
            progress.inc(1);
            samples.push(speed(test.total() as usize, time));
        }
        let report = subject.report(test, samples);
        let mut printed = Ok(());
        progress::suspend(|| {
            printed = match output {
                BenchOutput::Table => print_line(&mut out, &report),
                BenchOutput::Json => Ok(()),
                _ => formats::line(&mut out, output, &report),
            }
        });
        printed?;
        runner.check(test, &answers)?;
        progress.inc(1);
        reports.push(report);
    }
    progress.finish_and_clear();
    if output == BenchOutput::Json {
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

#[cfg(test)]
mod tests {
    use super::*;

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
