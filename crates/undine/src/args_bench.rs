//! The flags of `undine bench serve`, `throughput` and `latency`. Names, units and defaults are those of
//! `vllm bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value as Json};

use crate::args::ExecutorArgs;
use crate::format::parse_count_u32;

/// Smallest rate and burstiness: less would put requests further apart than clocks count.
const RATE_MIN: f64 = 1e-6;

/// What `undine bench` measures besides prefill and decode.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Measure a running server, any that speaks OpenAI's interface.
    Serve(Box<BenchServeArgs>),
    /// Measure how many requests and tokens per second the engine does, without a server.
    Throughput(BenchThroughputArgs),
    /// Measure how long one batch of requests takes, without a server.
    Latency(BenchLatencyArgs),
}

/// What the server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Backend {
    /// OpenAI's completions; the same as openai.
    Vllm,
    /// OpenAI's completions.
    Openai,
    /// OpenAI's chat completions.
    OpenaiChat,
}

/// Where prompts come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Dataset {
    /// Random words.
    Random,
    /// A file with a JSON object {"prompt": "..."} per line.
    Custom,
}

/// A time that requests are judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Metric {
    /// Time to first token.
    Ttft,
    /// Mean time per output token after the first.
    Tpot,
    /// Time between two chunks of an answer.
    Itl,
    /// Time from the request to the end of the answer.
    E2el,
}

/// The most a request may take, in milliseconds, to count as good.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Objective {
    /// Which time; never [`Metric::Itl`], which is not one number per request.
    pub metric: Metric,
    /// At most this.
    pub milliseconds: f64,
}

/// `undine bench serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct BenchServeArgs {
    /// What the server speaks.
    #[arg(long, value_enum, default_value_t = Backend::Openai)]
    pub backend: Backend,
    /// The server, such as https://example.com:8000, instead of host and port.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// The server's address.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The server's port.
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// The server's unix socket, instead of host and port.
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// Path of the interface [default: /v1/completions, or /v1/chat/completions with --backend openai-chat].
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// The model to ask for [default: the first of the server's /v1/models].
    #[arg(long)]
    pub model: Option<String>,
    /// The name to ask for, if it is not --model.
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`) whose tokenizer makes prompts of
    /// exact length.
    #[arg(long, value_name = "MODEL")]
    pub tokenizer: Option<PathBuf>,
    /// A header of each request; $OPENAI_API_KEY is sent as a bearer token unless one is given.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub header: Vec<(String, String)>,
    /// Fields to add to each request, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    pub extra_body: Option<Map<String, Json>>,
    /// Do not check the server's certificate.
    #[arg(long)]
    pub insecure: bool,
    /// Wait so long for the server to answer /v1/models.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ready_check_timeout_sec: u32,
    /// Prompts and answers.
    #[command(flatten)]
    pub data: DataArgs,
    /// When to send.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Sampling.
    #[command(flatten)]
    pub sampling: BenchSamplingArgs,
    /// What to report.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Prompts and answers of `bench serve`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts and answers")]
pub struct DataArgs {
    /// Where prompts come from.
    #[arg(long, value_enum, default_value_t = Dataset::Random)]
    pub dataset_name: Dataset,
    /// The file of --dataset-name custom.
    #[arg(long, value_name = "FILE")]
    pub dataset_path: Option<PathBuf>,
    /// Number of requests; with --multi-turn-turns, of chats.
    #[arg(long, default_value = "1000", value_parser = parse_count_u32)]
    pub num_prompts: u32,
    /// Tokens of a prompt, after the prefix.
    #[arg(long, visible_alias = "input-len", value_name = "TOKENS", default_value = "1024", value_parser = parse_count_u32)]
    pub random_input_len: u32,
    /// Tokens of an answer [default: 128; 256 with --dataset-name custom].
    #[arg(long, visible_aliases = ["output-len", "custom-output-len"], value_name = "TOKENS", value_parser = parse_count_u32)]
    pub random_output_len: Option<u32>,
    /// Lengths are spread evenly over (1 - R) to (1 + R) times what they are said to be.
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = parse_range_ratio)]
    pub random_range_ratio: f64,
    /// Tokens in front of each prompt that are the same in all; the system prompt of a chat of several turns.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub random_prefix_len: u32,
    /// Turns of each chat: the answer and a new message are appended, and all of it is sent again.
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_count_u32)]
    pub multi_turn_turns: u32,
    /// Seed of prompts and arrival times.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Go on after the end of the answer, to the length asked for; always so with random prompts.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Let answers to random prompts end where they end.
    #[arg(long, conflicts_with = "ignore_eos")]
    pub no_ignore_eos: bool,
}

/// When requests of `bench serve` are sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Requests per second; inf sends all at once.
    #[arg(long, value_name = "RPS", default_value_t = f64::INFINITY, value_parser = parse_rate)]
    pub request_rate: f64,
    /// Shape of the gamma distribution of the times between requests: 1 is a Poisson process, less comes in
    /// bursts.
    #[arg(long, default_value_t = 1.0, value_parser = parse_rate)]
    pub burstiness: f64,
    /// Most requests at a time.
    #[arg(long, value_name = "N", value_parser = parse_count_u32)]
    pub max_concurrency: Option<u32>,
    /// Requests before the measured ones, with prompts of their own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub num_warmups: u32,
}

/// Sampling fields of the requests; what is not given is not sent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct BenchSamplingArgs {
    /// Divides the logits.
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Keep the k best tokens.
    #[arg(long, allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// Keep the smallest set of best tokens with this probability.
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Keep tokens with this fraction of the best token's probability.
    #[arg(long)]
    pub min_p: Option<f64>,
    /// Makes tokens seen before less likely.
    #[arg(long)]
    pub repetition_penalty: Option<f64>,
    /// Subtracted once from tokens seen in the answer.
    #[arg(long, allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// Subtracted per occurrence in the answer.
    #[arg(long, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// Ask for so many log-probabilities per token.
    #[arg(long, value_name = "N")]
    pub logprobs: Option<u32>,
}

/// What `bench serve` reports.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
pub struct ReportArgs {
    /// Times to report.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ttft,tpot,itl")]
    pub percentile_metrics: Vec<Metric>,
    /// Percentiles to report.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "99", value_parser = parse_percent)]
    pub metric_percentiles: Vec<f64>,
    /// Count requests that meet all of these, in milliseconds: ttft, tpot, e2el.
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_delimiter = ',', value_parser = parse_objective)]
    pub goodput: Vec<Objective>,
    /// Print the result as one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Show no progress bar.
    #[arg(long, alias = "disable-tqdm")]
    pub no_progress: bool,
    /// Write the result to a JSON file.
    #[arg(long)]
    pub save_result: bool,
    /// Times, texts and errors of each request too.
    #[arg(long)]
    pub save_detailed: bool,
    /// Append the result to the file, as one more line.
    #[arg(long)]
    pub append_result: bool,
    /// Folder of the file; made if it does not exist.
    #[arg(long, value_name = "FOLDER")]
    pub result_dir: Option<PathBuf>,
    /// Name of the file [default: LABEL-RATEqps[-concurrencyN]-MODEL-TIME.json].
    #[arg(long, value_name = "FILE")]
    pub result_filename: Option<PathBuf>,
    /// What the file's name begins with [default: the backend].
    #[arg(long)]
    pub label: Option<String>,
    /// Fields to add to the result.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = parse_pair)]
    pub metadata: Vec<(String, String)>,
}

const SERVE_EXAMPLES: &str = "Examples:
  undine bench serve --num-prompts 32 --max-concurrency 8 --input-len 512 --output-len 64
  undine bench serve --tokenizer model.gguf --request-rate 2 --goodput ttft:500 tpot:50
  undine bench serve --base-url https://example.com --backend openai-chat --header \"Authorization=Bearer x\"
  undine bench serve --backend openai-chat --num-prompts 4 --max-concurrency 1 --multi-turn-turns 20 \\
                     --random-prefix-len 2000 --input-len 50 --output-len 50
  undine bench serve --num-prompts 100 --save-result --save-detailed --result-dir results --metadata cpu=x

Flags, table and JSON are those of `vllm bench serve`, so that any two servers are compared with one tool.

Prompts are random words. With --tokenizer a word is a token, and lengths are exact; without one, two small requests \
find out how many tokens the server makes of a word. Tokens are counted by the server, in `usage`; where it says \
nothing, a chunk of the answer counts as a token, and a note says so. The time to first token ends with the first \
chunk that has text (or, for completions, stands for a token); chunks that only open or close an answer are not tokens.

The same seed gives the same prompts, and a server may have them cached from an earlier run: change --seed, or measure \
that. Ctrl-C prints what has been measured so far.

Exit codes: 0 if any request succeeded, 1 if none did, 2 for wrong arguments, 130 after Ctrl-C.";

/// `undine bench throughput`.
#[derive(Debug, Args)]
#[command(after_help = THROUGHPUT_EXAMPLES)]
pub struct BenchThroughputArgs {
    /// The engine.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// Tokens of a prompt.
    #[arg(long, visible_alias = "random-input-len", value_name = "TOKENS", default_value = "1024", value_parser = parse_count_u32)]
    pub input_len: u32,
    /// Tokens of an answer.
    #[arg(long, visible_alias = "random-output-len", value_name = "TOKENS", default_value = "128", value_parser = parse_count_u32)]
    pub output_len: u32,
    /// Lengths are spread evenly over (1 - R) to (1 + R) times what they are said to be.
    #[arg(long, value_name = "R", default_value_t = 0.0, value_parser = parse_range_ratio)]
    pub random_range_ratio: f64,
    /// Number of requests.
    #[arg(long, default_value = "1000", value_parser = parse_count_u32)]
    pub num_prompts: u32,
    /// Most sequences computed at once.
    #[arg(long, default_value = "64", value_parser = parse_count_u32)]
    pub max_num_seqs: u32,
}

/// `undine bench latency`.
#[derive(Debug, Args)]
#[command(after_help = LATENCY_EXAMPLES)]
pub struct BenchLatencyArgs {
    /// The engine.
    #[command(flatten)]
    pub offline: OfflineArgs,
    /// Tokens of a prompt.
    #[arg(long, value_name = "TOKENS", default_value = "32", value_parser = parse_count_u32)]
    pub input_len: u32,
    /// Tokens of an answer.
    #[arg(long, value_name = "TOKENS", default_value = "128", value_parser = parse_count_u32)]
    pub output_len: u32,
    /// Requests in a batch.
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_count_u32)]
    pub batch_size: u32,
    /// Batches before the measured ones.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub num_iters_warmup: u32,
    /// Batches to measure.
    #[arg(long, value_name = "N", default_value = "30", value_parser = parse_count_u32)]
    pub num_iters: u32,
}

/// What both measurements of the engine take.
#[derive(Debug, Args)]
pub struct OfflineArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`); without one, the demo model.
    // Not `env`: a value from there would count as given, and contradict --model.
    pub model: Option<PathBuf>,
    /// The same as the positional MODEL.
    #[arg(long = "model", value_name = "MODEL", id = "model_flag", conflicts_with = "model")]
    pub model_flag: Option<PathBuf>,
    /// Most tokens computed in one step.
    #[arg(long, default_value = "512", value_parser = parse_count_u32)]
    pub max_num_batched_tokens: u32,
    /// Seed of the random prompts.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write the result to a JSON file.
    #[arg(long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

impl OfflineArgs {
    /// The model, from wherever it is named.
    pub fn model(&self) -> Option<PathBuf> {
        let given = self.model_flag.clone().or_else(|| self.model.clone());
        given.or_else(|| std::env::var_os("UNDINE_MODEL").map(PathBuf::from))
    }
}

const THROUGHPUT_EXAMPLES: &str = "Examples:
  undine bench throughput model.gguf --num-prompts 32 --input-len 512 --output-len 64
  undine bench throughput --model model.gguf --num-prompts 64 --max-num-seqs 16 --output-json throughput.json

Prompts are random tokens, all requests are there from the start, and answers always have their full length. \
Ctrl-C prints what has been measured so far.";

const LATENCY_EXAMPLES: &str = "Examples:
  undine bench latency model.gguf --input-len 512 --output-len 64 --batch-size 1 --num-iters 5
  undine bench latency --model model.gguf --num-iters-warmup 1 --num-iters 3 --output-json latency.json

A batch of requests with random prompts is computed again and again; answers always have their full length. \
Ctrl-C prints what has been measured so far.";

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn parse_object(text: &str) -> Result<Map<String, Json>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

fn parse_number(text: &str, range: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if holds(value) => Ok(value),
        _ => Err(format!("expected a number {range}")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    parse_number(text, &format!("of at least {RATE_MIN}, or inf"), |value| value >= RATE_MIN)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    parse_number(text, "from 0 to 100", |value| (0.0..=100.0).contains(&value))
}

fn parse_range_ratio(text: &str) -> Result<f64, String> {
    parse_number(text, "from 0 to below 1", |value| (0.0..1.0).contains(&value))
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    const EXPECTED: &str = "expected METRIC:MILLISECONDS with ttft, tpot or e2el, such as ttft:500";
    let (name, value) = text.split_once(':').ok_or(EXPECTED)?;
    let metric = match name {
        "ttft" => Metric::Ttft,
        "tpot" => Metric::Tpot,
        "e2el" => Metric::E2el,
        _ => return Err(EXPECTED.to_owned()),
    };
    let milliseconds = parse_number(value, "of milliseconds, at least 0", |value| value >= 0.0)?;
    Ok(Objective { metric, milliseconds })
}
