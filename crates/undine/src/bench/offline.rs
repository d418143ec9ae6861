//! `undine bench throughput` and `latency`: requests of random tokens through the engine, without a server.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use fastrand::Rng;
use indicatif::ProgressBar;
use serde_json::{Map, Value as Json, json};
use undine_core::{GenerateRequest, Origin, RequestId, SamplingParams, StopRules, TokenId};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_model::Model;

use super::serve::length;
use super::statistics::{mean, percent_name, percentile};
use crate::args_bench::{BenchLatencyArgs, BenchThroughputArgs, OfflineArgs};
use crate::error::Error;
use crate::progress::{self, Unit};
use crate::shown;
use crate::{interrupt, open, session};

/// Percentiles of latencies, as vLLM's tool prints them.
const LATENCY_PERCENTS: [f64; 6] = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];

/// Most there is to compute at once.
struct Size {
    sequences: u32,
    /// Tokens of the longest prompt and its answer.
    tokens: u32,
    waiting: u32,
}

/// A request of a measurement.
struct Request {
    prompt: Vec<TokenId>,
    output_len: u32,
}

/// What a run of the engine did.
#[derive(Default)]
struct Done {
    seconds: f64,
    requests: usize,
    prompt_tokens: usize,
    output_tokens: usize,
}

/// The engine over a model, and the tokens prompts are made of.
struct Offline {
    engine: Engine,
    vocab: TokenId,
    random: Rng,
}

/// Whether Ctrl-C ended a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    ByItself,
    Interrupted,
}

impl Offline {
    fn new(args: &OfflineArgs, size: &Size) -> Result<Self, Error> {
        let checkpoint = open::open(args.model().as_deref())?;
        let context = session::context(checkpoint.config(), Some(size.tokens))?;
        let vocab = checkpoint.config().vocab as TokenId;
        let blocks = context.div_ceil(BLOCK_SIZE).checked_mul(size.sequences);
        let rows = args.max_num_batched_tokens;
        let kv = session::kv_type(&args.executor, &checkpoint);
        let options = CpuOptions {
            threads: session::threads(&args.executor),
            blocks: blocks
                .ok_or_else(|| Error::refused("so many sequences of such a length have no place"))?,
            slots: size.sequences,
            snapshots: 0,
            rows,
            outputs: size.sequences,
            kv,
            huge_pages: session::huge_pages(
                args.executor.huge_pages,
                &checkpoint,
                kv,
                [size.sequences, context],
            ),
            isa: Isa::detect(),
        };
        let executor = CpuExecutor::new(Arc::new(Model::bind(checkpoint)), options)?;
        let config = EngineConfig {
            max_num_seqs: size.sequences,
            max_num_batched_tokens: rows,
            max_model_len: context,
            max_waiting: size.waiting,
            prefill_chunk: rows,
            prefix_caching: PrefixCaching::Off,
            image_cache_bytes: 0,
        };
        let engine = Engine::new(Box::new(executor), config)?;
        Ok(Self { engine, vocab, random: Rng::with_seed(args.seed) })
    }

    fn request(&mut self, input_len: u32, output_len: u32) -> Request {
        let prompt = (0..input_len).map(|_| self.random.u32(..self.vocab)).collect();
        Request { prompt, output_len }
    }

    /// Computes all requests together, each to its full length.
    fn run(
        &mut self,
        requests: &[Request],
        interrupted: &AtomicBool,
        bar: &ProgressBar,
    ) -> Result<(Done, Ended), Error> {
        let mut done = Done::default();
        let started = Instant::now();
        let mut running: Vec<(RequestId, usize)> = Vec::with_capacity(requests.len());
        for request in requests {
            running.push((self.engine.add(request.generate())?, request.prompt.len()));
        }
        let mut events = Vec::new();
        while self.engine.has_work() {
            if interrupted.load(Ordering::Relaxed) {
                running.iter().for_each(|&(id, _)| self.engine.cancel(id));
                done.seconds = started.elapsed().as_secs_f64();
                return Ok((done, Ended::Interrupted));
            }
            self.engine.step(&mut events)?;
            for (id, event) in events.drain(..) {
                match event {
                    Event::Token(_) => done.output_tokens += 1,
                    Event::Finished(_) => {
                        done.requests += 1;
                        bar.inc(1);
                        let place = running.iter().position(|&(running, _)| running == id);
                        let (_, prompt) = running.swap_remove(place.expect("each request finishes once"));
                        done.prompt_tokens += prompt;
                    }
                    Event::Started { .. } | Event::PromptScores(_) => {}
                }
            }
        }
        done.seconds = started.elapsed().as_secs_f64();
        Ok((done, Ended::ByItself))
    }
}

impl Request {
    fn generate(&self) -> GenerateRequest {
        GenerateRequest {
            prompt: self.prompt.clone(),
            images: Vec::new(),
            sampling: SamplingParams::greedy(),
            logit_bias: Vec::new(),
            // Nothing but the length ends an answer.
            stop: StopRules::after(self.output_len),
            prompt_logprobs: None,
            origin: Origin::default(),
        }
    }
}

/// Runs `undine bench throughput`.
pub fn throughput(args: &BenchThroughputArgs) -> Result<(), Error> {
    let mut random = Rng::with_seed(args.offline.seed);
    let ratio = args.random_range_ratio;
    let mut lengths =
        || (length(args.input_len, ratio, &mut random), length(args.output_len, ratio, &mut random));
    let lengths: Vec<(u32, u32)> = (0..args.num_prompts).map(|_| lengths()).collect();
    let longest = lengths.iter().map(|&(input, output)| input.saturating_add(output)).max();
    let size = Size {
        sequences: args.max_num_seqs.min(args.num_prompts),
        tokens: longest.unwrap_or(1),
        waiting: args.num_prompts,
    };
    let mut offline = Offline::new(&args.offline, &size)?;
    let requests: Vec<Request> =
        lengths.iter().map(|&(input, output)| offline.request(input, output)).collect();
    interrupt::install()?;
    let bar = progress::bar(requests.len() as u64, Unit::Count("requests"));
    let (done, ended) = offline.run(&requests, interrupt::rearm(), &bar)?;
    bar.finish_and_clear();
    let per_second = |count: usize| if done.seconds > 0.0 { count as f64 / done.seconds } else { 0.0 };
    let total = done.prompt_tokens + done.output_tokens;
    let (all, output) = (per_second(total), per_second(done.output_tokens));
    let text = format!(
        "Throughput: {:.2} requests/s, {all:.2} total tokens/s, {output:.2} output tokens/s\n\
         Total num prompt tokens:  {}\nTotal num output tokens:  {}\n",
        per_second(done.requests),
        done.prompt_tokens,
        done.output_tokens,
    );
    let result = json!({
        "elapsed_time": done.seconds,
        "num_requests": done.requests,
        "total_num_tokens": total,
        "requests_per_second": per_second(done.requests),
        "tokens_per_second": all,
        "output_tokens_per_second": output,
    });
    finish(&args.offline, &text, &result, ended)
}

/// Runs `undine bench latency`.
pub fn latency(args: &BenchLatencyArgs) -> Result<(), Error> {
    let size = Size {
        sequences: args.batch_size,
        tokens: args.input_len.saturating_add(args.output_len),
        waiting: args.batch_size,
    };
    let mut offline = Offline::new(&args.offline, &size)?;
    let requests: Vec<Request> =
        (0..args.batch_size).map(|_| offline.request(args.input_len, args.output_len)).collect();
    interrupt::install()?;
    let interrupted = interrupt::rearm();
    let (warmups, total) = (args.num_iters_warmup, args.num_iters_warmup.saturating_add(args.num_iters));
    let bar = progress::bar(total.into(), Unit::Count("batches"));
    let mut latencies = Vec::new();
    let mut ended = Ended::ByItself;
    for iteration in 0..total {
        let (done, end) = offline.run(&requests, interrupted, &ProgressBar::hidden())?;
        bar.inc(1);
        if end == Ended::Interrupted {
            ended = end;
            break;
        }
        if iteration >= warmups {
            latencies.push(done.seconds);
        }
    }
    bar.finish_and_clear();
    if latencies.is_empty() {
        return Err(Error::Interrupted);
    }
    let average = mean(&latencies);
    let mut sorted = latencies.clone();
    sorted.sort_by(f64::total_cmp);
    let mut text = format!("Avg latency: {average} seconds\n");
    let mut percentiles = Map::new();
    for percent in LATENCY_PERCENTS {
        let value = percentile(&sorted, percent);
        let name = percent_name(percent);
        text.push_str(&format!("{name}% percentile latency: {value} seconds\n"));
        percentiles.insert(name, value.into());
    }
    let result = json!({ "avg_latency": average, "latencies": latencies, "percentiles": percentiles });
    finish(&args.offline, &text, &result, ended)
}

/// Prints and writes what was measured.
fn finish(args: &OfflineArgs, text: &str, result: &Json, ended: Ended) -> Result<(), Error> {
    let json = format!("{result:#}\n");
    let mut out = shown::stdout();
    out.write_all(if args.json { &json } else { text }.as_bytes())?;
    out.flush()?;
    if let Some(path) = &args.output_json {
        std::fs::write(path, &json).map_err(|source| Error::file(path, source))?;
    }
    match ended {
        Ended::Interrupted => Err(Error::Interrupted),
        Ended::ByItself => Ok(()),
    }
}
