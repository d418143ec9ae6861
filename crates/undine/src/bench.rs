//! `undine bench`: prefill and decode speed on random tokens, straight on the executor, as llama-bench measures them.
//!
//! A `pp` test computes a prompt from an empty context, with logits of its last row only. A `tg` test computes single
//! tokens from an empty context. Tokens are random and nothing is sampled but the best token, which nobody uses.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use undine_core::{
    Batch, BatchSequence, BlockId, Executor, OutputKind, OutputRow, SamplingParams, Slot, TokenId,
};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;
use undine_weights::Checkpoint;

use crate::args::BenchArgs;
use crate::error::Error;
use crate::format::Bytes;
use crate::open;
use crate::session::{self, speed};

/// Seed of the random tokens: every run computes the same.
const TOKEN_SEED: u64 = 1;

/// What a test computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Test {
    /// A prompt of so many tokens.
    Prefill(u32),
    /// So many single tokens.
    Decode(u32),
}

impl Test {
    fn tokens(self) -> u32 {
        match self {
            Self::Prefill(tokens) | Self::Decode(tokens) => tokens,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Prefill(tokens) => format!("pp{tokens}"),
            Self::Decode(tokens) => format!("tg{tokens}"),
        }
    }
}

/// One line of the report; speeds in tokens per second.
#[derive(Serialize)]
struct Report {
    model: String,
    model_bytes: u64,
    parameters: u64,
    backend: &'static str,
    isa: String,
    threads: usize,
    kv_cache_dtype: &'static str,
    batch: u32,
    test: String,
    n_prompt: u32,
    n_gen: u32,
    repetitions: u32,
    median_ts: f64,
    min_ts: f64,
    max_ts: f64,
    mean_ts: f64,
    samples_ts: Vec<f64>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    let mut tests: Vec<Test> = args.n_prompt.iter().map(|&tokens| Test::Prefill(tokens)).collect();
    tests.extend(args.n_gen.iter().map(|&tokens| Test::Decode(tokens)));
    tests.retain(|test| test.tokens() > 0);
    let Some(longest) = tests.iter().map(|test| test.tokens()).max() else {
        return Err(Error::usage("nothing to measure: every -p and -n is 0"));
    };
    let checkpoint = open::open(args.model.as_deref())?;
    let context = checkpoint.config().context_max;
    if longest as usize > context {
        return Err(Error::refused(format!(
            "a test of {longest} tokens does not fit the model's context of {context}"
        )));
    }
    let mut bench = Bench::new(args, Arc::clone(&checkpoint), longest)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        print_header(&mut out, &checkpoint, &bench)?;
    }
    let mut reports = Vec::new();
    for test in tests {
        for _ in 0..args.warmup {
            bench.run(test)?;
        }
        let mut samples = Vec::with_capacity(args.repetitions as usize);
        for _ in 0..args.repetitions {
            samples.push(speed(test.tokens() as usize, bench.run(test)?));
        }
        let report = bench.report(args, &checkpoint, test, samples);
        if !args.json {
            print_line(&mut out, &report)?;
        }
        reports.push(report);
    }
    if args.json {
        let json = serde_json::to_string_pretty(&reports).expect("numbers and texts are JSON");
        writeln!(out, "{json}")?;
    }
    Ok(())
}

struct Bench {
    executor: CpuExecutor,
    batch: Batch,
    random: fastrand::Rng,
    vocab: TokenId,
    blocks: u32,
    rows: u32,
    threads: usize,
    kv: KvType,
    isa: Isa,
}

impl Bench {
    fn new(args: &BenchArgs, checkpoint: Arc<Checkpoint>, longest: u32) -> Result<Self, Error> {
        let (threads, kv) = (session::threads(&args.executor), session::kv_type(&args.executor, &checkpoint));
        let (blocks, rows, isa) = (longest.div_ceil(BLOCK_SIZE), args.batch.min(longest), Isa::detect());
        let vocab = checkpoint.config().vocab as TokenId;
        let options = CpuOptions { threads, blocks, slots: 1, rows, outputs: 1, kv, isa };
        let executor = CpuExecutor::new(Arc::new(Model::bind(checkpoint)), options)?;
        let random = fastrand::Rng::with_seed(TOKEN_SEED);
        Ok(Self { executor, batch: Batch::default(), random, vocab, blocks, rows, threads, kv, isa })
    }

    /// The time one test takes, from an empty context.
    fn run(&mut self, test: Test) -> Result<Duration, Error> {
        let started = Instant::now();
        let (total, step) = match test {
            Test::Prefill(tokens) => (tokens, self.rows),
            Test::Decode(tokens) => (tokens, 1),
        };
        let mut position = 0;
        while position < total {
            let rows = step.min(total - position);
            let wants_logits = matches!(test, Test::Decode(_)) || position + rows == total;
            self.fill(position, rows);
            if wants_logits {
                self.batch.outputs.push(best_token_of(rows - 1));
            }
            let ticket = self.executor.submit(&self.batch)?;
            while self.executor.try_collect(ticket)?.is_none() {
                std::thread::yield_now();
            }
            position += rows;
        }
        Ok(started.elapsed())
    }

    /// Writes rows `position..position + rows` of the only sequence, without outputs.
    fn fill(&mut self, position: u32, rows: u32) {
        self.batch.clear();
        self.batch.tokens.extend((0..rows).map(|_| self.random.u32(..self.vocab)));
        self.batch.block_tables.extend((0..self.blocks).map(BlockId));
        let sequence =
            BatchSequence { rows: 0..rows, start: position, slot: Slot(0), blocks: 0..self.blocks };
        self.batch.sequences.push(sequence);
    }

    fn report(&self, args: &BenchArgs, checkpoint: &Checkpoint, test: Test, samples: Vec<f64>) -> Report {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (n_prompt, n_gen) = match test {
            Test::Prefill(tokens) => (tokens, 0),
            Test::Decode(tokens) => (0, tokens),
        };
        Report {
            model: open::display_name(args.model.as_deref()),
            model_bytes: checkpoint.file_bytes(),
            parameters: crate::inspect::parameters(checkpoint),
            backend: "cpu",
            isa: self.isa.name().to_owned(),
            threads: self.threads,
            kv_cache_dtype: kv_name(self.kv),
            batch: self.rows,
            test: test.name(),
            n_prompt,
            n_gen,
            repetitions: args.repetitions,
            median_ts: median(&sorted),
            min_ts: sorted[0],
            max_ts: sorted[sorted.len() - 1],
            mean_ts: sorted.iter().sum::<f64>() / sorted.len() as f64,
            samples_ts: samples,
        }
    }
}

fn best_token_of(row: u32) -> OutputRow {
    let kind = OutputKind::Sample {
        params: SamplingParams::greedy(),
        output_index: 0,
        history: 0..0,
        history_prompt: 0,
        biases: 0..0,
        mask: 0..0,
    };
    OutputRow { row, kind }
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

fn print_header(out: &mut impl Write, checkpoint: &Checkpoint, bench: &Bench) -> Result<(), Error> {
    let parameters = crate::inspect::parameters(checkpoint) as f64 / 1e9;
    let size = Bytes(checkpoint.file_bytes());
    writeln!(out, "{}: {size}, {parameters:.2}B parameters", checkpoint.name())?;
    let kv = kv_name(bench.kv);
    writeln!(out, "cpu {}, {} threads, K/V {kv}, batch {}", bench.isa.name(), bench.threads, bench.rows)?;
    writeln!(out, "\n{:<10} {:>12} {:>26}", "test", "tok/s", "min .. max")?;
    Ok(())
}

fn print_line(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    let spread = format!("{:.2} .. {:.2}", report.min_ts, report.max_ts);
    writeln!(out, "{:<10} {:>12.2} {:>26}", report.test, report.median_ts, spread)?;
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
}
