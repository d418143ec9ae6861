//! The command line as types. Everything a value alone can get wrong is refused here, with exit code 2.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use undine_quantize::Mix;

use crate::args_bench::BenchCommand;
use crate::format::{parse_count, parse_count_u32};

/// Runs, serves and measures LFM2 models.
// Of a flag that is given twice the last one counts, as in the programs whose command lines people bring
// along.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Chat with a model, or answer one prompt.
    Run(Box<RunArgs>),
    /// Serve a model over an OpenAI-compatible HTTP interface.
    Serve(Box<crate::args_serve::ServeArgs>),
    /// Write a GGUF file of a true shape with random weights.
    Synth(SynthArgs),
    /// Write a model in smaller types.
    Quantize(Box<crate::args_quantize::QuantizeArgs>),
    /// Convert between a Hugging Face folder and GGUF, without loss.
    Convert(crate::args_quantize::ConvertArgs),
    /// Show what is in a checkpoint.
    Inspect(InspectArgs),
    /// Measure prefill and decode speed, or with a subcommand a server or the engine.
    Bench(Box<BenchArgs>),
    /// Answer a file of requests, as fast as this machine can.
    Batch(Box<crate::args_batch::BatchArgs>),
    /// Look at this machine, and give advice.
    Doctor(crate::args_doctor::DoctorArgs),
    /// Tell whether a model will run on a device, and how fast.
    Fit(Box<crate::args_fit::FitArgs>),
    /// Measure how well a model predicts a text, and how far it is from another.
    Eval(Box<crate::args_eval::EvalArgs>),
    /// Write an importance matrix from text, for better quantization.
    Calibrate(Box<crate::args_calibrate::CalibrateArgs>),
    /// Fetch a model from the hub.
    Pull(crate::args_hub::PullArgs),
    /// List the models in the cache.
    #[command(visible_alias = "ls")]
    List(crate::args_hub::ListArgs),
    /// Show a model in the cache: where it comes from and what is in it.
    Show(crate::args_hub::ShowArgs),
    /// Remove models from the cache.
    Rm(crate::args_hub::RmArgs),
    /// List models to begin with, or all, and what fits this machine.
    Models(crate::args_hub::ModelsArgs),
    /// Write what a shell needs to complete commands and flags with Tab.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Type of keys and values in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum KvCacheDtype {
    /// float32 for a checkpoint in float types, float16 for a quantized one.
    #[default]
    Auto,
    /// 4 bytes a value.
    Float32,
    /// 2 bytes a value; bfloat16 means this too.
    #[value(alias = "bfloat16")]
    Float16,
    /// A byte a value and a scale for each key and value of a head: half of float16, and less exact. fp8
    /// means this too.
    #[value(name = "q8_0", aliases = ["fp8", "fp8_e4m3", "fp8_e5m2", "int8"])]
    Q8_0,
}

/// Type to compute in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum ComputeDtype {
    /// The checkpoint's own types.
    #[default]
    Auto,
    /// Keys and values in float32 too.
    #[value(alias = "float")]
    Float32,
    /// Accepted for compatibility: the same as auto.
    Bfloat16,
    /// Accepted for compatibility: the same as auto.
    #[value(alias = "half")]
    Float16,
}

/// When to copy weights to huge pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum HugePagesChoice {
    /// If the system gives such pages, the weights are large, and enough memory is left.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: weights are read where the file is mapped, and other processes with the same file share that
    /// memory.
    Off,
}

/// How to run a model.
#[derive(Clone, Debug, Args)]
pub struct ExecutorArgs {
    /// Threads to compute with [default: one per core].
    #[arg(short, long, env = "UNDINE_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Type of keys and values.
    #[arg(long, env = "UNDINE_KV_CACHE_DTYPE", value_enum, default_value_t)]
    pub kv_cache_dtype: KvCacheDtype,
    /// Type to compute in; weights always stay in the types of the file.
    #[arg(long, env = "UNDINE_DTYPE", value_enum, default_value_t)]
    pub dtype: ComputeDtype,
    /// Copy the weights to huge pages while running, which makes decoding faster.
    #[arg(long, env = "UNDINE_HUGE_PAGES", value_enum, default_value_t)]
    pub huge_pages: HugePagesChoice,
}

impl ExecutorArgs {
    /// The defaults with so many threads.
    pub fn with_threads(threads: Option<u16>) -> Self {
        Self {
            threads,
            kv_cache_dtype: KvCacheDtype::default(),
            dtype: ComputeDtype::default(),
            huge_pages: HugePagesChoice::default(),
        }
    }
}

/// How to choose tokens; what is left out comes from the checkpoint or the model's published preset.
#[derive(Clone, Default, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divides the logits; 0 always takes the best token.
    #[arg(long, alias = "temp", value_parser = parse_non_negative, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the k best tokens; 0 and -1 keep all.
    #[arg(long, value_parser = parse_top_k, allow_negative_numbers = true)]
    pub top_k: Option<u32>,
    /// Keep the smallest set of best tokens with this probability.
    #[arg(long, value_parser = parse_top_p, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens with this fraction of the best token's probability.
    #[arg(long, value_parser = parse_fraction, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Makes tokens seen in prompt or answer less likely, if above 1.
    #[arg(long, alias = "repeat-penalty", value_parser = parse_positive)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted once from tokens seen in the answer.
    #[arg(long, allow_negative_numbers = true, value_parser = parse_penalty)]
    pub presence_penalty: Option<f32>,
    /// Subtracted per occurrence in the answer.
    #[arg(long, allow_negative_numbers = true, value_parser = parse_penalty)]
    pub frequency_penalty: Option<f32>,
    /// Seed of the random numbers: the same seed gives the same text.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// `undine run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`); without one, the little demo model
    /// inside the program.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// The same as --prompt.
    #[arg(value_name = "PROMPT")]
    pub words: Vec<String>,
    /// Answer this and exit; piped input is appended to it.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Take the prompt from this file.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// In the prompt, \\n is a new line, \\t a tabulator, \\\\ a backslash.
    #[arg(short, long)]
    pub escape: bool,
    /// Go on with a chat after the answer to the prompt.
    #[arg(short, long, conflicts_with = "json")]
    pub interactive: bool,
    /// System prompt.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Take the system prompt from this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["raw", "system"])]
    pub system_file: Option<PathBuf>,
    /// Most tokens of an answer [default: as many as fit].
    #[arg(short = 'n', long, aliases = ["num-predict", "n-predict"], value_parser = parse_count_u32)]
    pub max_tokens: Option<u32>,
    /// End the answer where this text appears; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Most tokens of conversation and answer together; takes 32K and the like [default: the model's].
    #[arg(short = 'c', long, visible_alias = "ctx", alias = "ctx-size", value_name = "TOKENS", value_parser = parse_count_u32)]
    pub max_model_len: Option<u32>,
    /// Continue the text as it is, without a chat template.
    #[arg(long)]
    pub raw: bool,
    /// Print one JSON object with text, reasoning, usage and timings.
    #[arg(long)]
    pub json: bool,
    /// Print load time, time to first token and both speeds to standard error.
    #[arg(short, long)]
    pub verbose: bool,
    /// Show what the model thinks before it answers, between <think> and </think>, off a terminal too.
    #[arg(long, overrides_with = "hide_thinking")]
    pub show_thinking: bool,
    /// Show only the answer, on a terminal too.
    #[arg(long, overrides_with = "show_thinking")]
    pub hide_thinking: bool,
    /// Let the terminal break lines where it will, not at blanks.
    #[arg(long)]
    pub no_word_wrap: bool,
    /// Arguments of the chat template, such as '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON", value_parser = crate::args_serve::parse_object)]
    pub chat_template_kwargs: Option<crate::args_serve::JsonObject>,
    /// Show the model this PNG, JPEG, WebP, GIF or BMP file with the prompt, or with a chat's first message;
    /// may be repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub image: Vec<PathBuf>,
    /// How images are seen.
    #[command(flatten)]
    pub vision: crate::args_vision::VisionArgs,
    /// How to choose tokens.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

const RUN_EXAMPLES: &str = "Examples:
  undine run                                        chat with the demo model
  undine run LFM2-1.2B-Q4_K_M.gguf                  chat
  undine run lfm2.5:1.2b                            the same with a model of the hub, fetched if need be
  undine run -hf LiquidAI/LFM2-1.2B-GGUF:Q4_K_M
  undine run model.gguf \"Why is the sky blue?\"      one answer
  undine run LFM2-VL-450M-Q4_0.gguf --image cat.png -p \"What is this?\"
  cat notes.txt | undine run model.gguf -p \"Summarise:\"
  undine run ./LFM2-350M --raw -p \"Once upon a time\" --max-tokens 100
  undine run model.gguf --json -p Hi | jq .text";

/// `undine synth`.
#[derive(Debug, Args)]
#[command(after_help = SYNTH_EXAMPLES)]
pub struct SynthArgs {
    /// A checkpoint's name, such as LFM2-1.2B or 8B-A1B.
    #[arg(required_unless_present = "list")]
    pub shape: Option<String>,
    /// Quantization of the file.
    #[arg(long = "type", value_name = "TYPE", default_value_t = Mix::Q4_K_M)]
    pub mix: Mix,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    pub output: Option<PathBuf>,
    /// Seed of the random weights: the same seed gives the same file.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// List shapes and types.
    #[arg(long)]
    pub list: bool,
}

const SYNTH_EXAMPLES: &str = "Examples:
  undine synth --list
  undine synth LFM2-1.2B --type Q4_0 -o /tmp/1.2b.gguf
  undine synth 24B-A2B --type Q4_K_M -o /tmp/24b.gguf && undine bench /tmp/24b.gguf

The weights are random: such a file is for measuring speed and memory, its answers are noise.";

/// `undine inspect`.
#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub struct InspectArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`); without one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// List every tensor too.
    #[arg(long)]
    pub tensors: bool,
}

const INSPECT_EXAMPLES: &str = "Examples:
  undine inspect model.gguf
  undine inspect ./LFM2-350M --tensors
  undine inspect model.gguf --json | jq .memory";

/// `undine bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something else to measure.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`); without one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt lengths to measure prefill with; 0 for none.
    #[arg(short = 'p', long, value_name = "TOKENS", value_delimiter = ',', default_value = "512")]
    pub n_prompt: Vec<u32>,
    /// Numbers of tokens to measure decode with; 0 for none.
    #[arg(short = 'n', long, value_name = "TOKENS", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<u32>,
    /// Repetitions of each test.
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repetitions: u32,
    /// Runs before the measured ones, of at most 512 tokens of prefill or 16 of decode.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warmup: u32,
    /// Tokens of context before each test; filling it is not timed.
    #[arg(short, long, value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<u32>,
    /// Numbers of sequences to decode together; speeds are of all of them.
    #[arg(short = 'B', long, value_name = "SEQUENCES", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// Most rows in one step of the prefill.
    #[arg(short, long, value_name = "ROWS", default_value = "512", value_parser = parse_count_u32)]
    pub ubatch: u32,
    /// Instruction set to compute with: auto, or one that this CPU has.
    #[arg(long, default_value = "auto")]
    pub isa: String,
    /// Measure what this machine can read and compute (takes 1 GiB of memory for a moment), and say how much
    /// of that limit each test reaches.
    #[arg(long)]
    pub roofline: bool,
    /// Print a JSON list, one object per test; the same as --output json.
    #[arg(long)]
    pub json: bool,
    /// How to print results; md, csv, json and jsonl are llama-bench's, with its columns in md and csv.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    pub output: BenchOutput,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

/// How results of `undine bench` are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum BenchOutput {
    /// A table for people.
    #[default]
    Table,
    /// A table in Markdown.
    Md,
    /// Values separated by commas.
    Csv,
    /// A JSON list.
    Json,
    /// A JSON object a line.
    Jsonl,
}

const BENCH_EXAMPLES: &str = "Examples:
  undine bench model.gguf
  undine bench model.gguf -p 128,512,2048 -n 64 -t 2 -r 10 --json
  undine bench model.gguf -p 0 -n 32 --depth 0,4096,16384
  undine bench model.gguf -p 0 -n 32 --batch 1,4,8,16
  undine bench serve --help                         measure a server
  undine bench throughput --help                    measure the engine; also: undine bench latency

pp is prompt processing of random tokens, with logits of the last token only; tg is generation one token at a time. \
Both are what llama-bench measures under these names, @ d4096 meaning after 4096 tokens of context. tg32 x8 is \
generation of 32 tokens in each of eight sequences at once, as llama-batched-bench measures it.

The limit that --roofline compares with is the slower of two: reading each weight of the file that a step uses once, \
with keys and values of the context, at the measured bandwidth; and two operations per weight and token at the \
measured peak of byte products (of float products for float weights). A mixture of experts counts the experts a token \
chooses; for several tokens in a step the distinct ones among E, if each takes k at random: E (1 - (1 - k/E)^tokens).

The answers of every test are computed again in other steps, which is not timed; unless they are equal to the bit, the \
command fails.";

fn parse_float(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("expected a number".to_owned()),
    }
}

/// A number of at least 0.
pub fn parse_non_negative(text: &str) -> Result<f32, String> {
    parse_float(text).and_then(|value| within(value, value >= 0.0, "at least 0"))
}

/// A number above 0.
pub fn parse_positive(text: &str) -> Result<f32, String> {
    parse_float(text).and_then(|value| within(value, value > 0.0, "above 0"))
}

/// A number from 0 to 1.
pub fn parse_fraction(text: &str) -> Result<f32, String> {
    parse_float(text).and_then(|value| within(value, (0.0..=1.0).contains(&value), "from 0 to 1"))
}

/// A number above 0, up to 1.
pub fn parse_top_p(text: &str) -> Result<f32, String> {
    parse_float(text).and_then(|value| within(value, value > 0.0 && value <= 1.0, "above 0, at most 1"))
}

/// How many tokens to keep: 0 is all, and so is -1, as vLLM has it.
fn parse_top_k(text: &str) -> Result<u32, String> {
    match text.trim() {
        "-1" => Ok(0),
        text => text.parse().map_err(|_| format!("expected a whole number from 0 to {}, or -1", u32::MAX)),
    }
}

/// A number from -2 to 2, as OpenAI defines penalties.
pub fn parse_penalty(text: &str) -> Result<f32, String> {
    parse_float(text).and_then(|value| within(value, (-2.0..=2.0).contains(&value), "from -2 to 2"))
}

fn within(value: f32, holds: bool, range: &str) -> Result<f32, String> {
    if holds { Ok(value) } else { Err(format!("expected a number {range}, found {value}")) }
}

/// A size in bytes with an optional unit.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_count(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_parse_or_not() {
        for (line, accepted) in [
            ("run", true),
            ("run m.gguf -p hi --temperature 0.2 --top-k 50 --seed 1 --stop a --stop b", true),
            ("run m.gguf --ctx 32K", true),
            ("run m.gguf --max-model-len 25.6k", true),
            ("run m.gguf --presence-penalty -1", true),
            ("run --temperature -1", false),
            ("run --temperature nan", false),
            ("run --top-p 0", false),
            ("run --threads 0", false),
            ("run --raw --system x", false),
            ("run --no-such-flag", false),
            ("synth LFM2-350M -o x.gguf --type q4_k_m", true),
            ("synth LFM2-350M -o x.gguf --type q9", false),
            ("synth LFM2-350M", false),
            ("synth --list", true),
            ("bench m.gguf -p 128,512 -n 0,64 -t 2 -r 3", true),
            ("bench m.gguf -d 0,4096 -B 1,8 --ubatch 256 --isa avx2", true),
            ("bench m.gguf -r 0", false),
            ("bench m.gguf --batch 0", false),
            ("bench m.gguf serve", false),
            ("bench serve --port 1 --request-rate 2.5 --burstiness 0.5 --metric-percentiles 50,99", true),
            ("bench serve --goodput ttft:500 tpot:20,e2el:1000 --metadata a=1 b=2 --header x-a=b", true),
            ("bench serve --input-len 32 --output-len 8 --random-range-ratio 0.5 --request-rate inf", true),
            ("bench serve --percentile-metrics ttft,e2el --backend openai-chat", true),
            ("bench serve --goodput itl:5", false),
            ("bench serve --goodput ttft", false),
            ("bench serve --request-rate 0", false),
            ("bench serve --random-range-ratio 1", false),
            ("bench serve --metric-percentiles 101", false),
            ("bench serve --extra-body [1]", false),
            ("bench serve --metadata a", false),
            ("bench throughput m.gguf --input-len 32 --output-len 8 --num-prompts 4", true),
            ("bench latency --model m.gguf --batch-size 2 --num-iters 3 --num-iters-warmup 0", true),
            ("bench latency m.gguf --model n.gguf", false),
            ("serve m.gguf --port 1 --max-num-seqs 4 --enforce-eager --max-model-len 32K", true),
            ("serve --model m.gguf", true),
            ("serve m.gguf --model n.gguf", false),
            ("serve m.gguf --no-such-flag", false),
        ] {
            let parsed = Cli::try_parse_from(["undine"].into_iter().chain(line.split(' ')));
            assert_eq!(parsed.is_ok(), accepted, "{line}: {:?}", parsed.err().map(|error| error.to_string()));
        }
    }
}
