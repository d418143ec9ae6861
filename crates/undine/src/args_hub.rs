//! The flags of `undine pull`, `list`, `show`, `rm` and `models`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// `undine pull`.
#[derive(Debug, Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct PullArgs {
    /// A short name (see `undine models`), or a repository of the hub: OWNER/NAME, OWNER/NAME:QUANT.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Branch, tag or commit [default: main]; the same as NAME@REVISION.
    #[arg(long)]
    pub revision: Option<String>,
    /// Quantization, such as Q4_K_M [default: the best that fits this machine's free memory]; the same as
    /// NAME:QUANT.
    #[arg(long, value_name = "QUANT")]
    pub quant: Option<String>,
    /// Fetch files that match this pattern instead of those that make up the model; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Leave out files that match this pattern; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Use this folder instead of the Hugging Face cache.
    #[arg(long, visible_alias = "cache-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub download_dir: Option<PathBuf>,
    /// Fetch it even if it would not run here.
    #[arg(short, long)]
    pub force: bool,
    /// Print what happens as JSON, one object per line; the last has the path.
    #[arg(long)]
    pub json: bool,
}

const PULL_EXAMPLES: &str = "Examples:
  undine pull lfm2.5:1.2b
  undine pull lfm2.5:8b-a1b-q4_k_m
  undine pull LiquidAI/LFM2-24B-A2B-GGUF:Q4_K_M
  undine pull LiquidAI/LFM2.5-1.2B-Instruct          safetensors with their configuration
  undine pull hf.co/LiquidAI/LFM2-VL-450M-GGUF       with its vision tower
  undine pull LiquidAI/LFM2-350M --include '*.json' --revision main

Files go to the cache that Hugging Face tools share: HF_HUB_CACHE, HF_HOME, or ~/.cache/huggingface. HF_TOKEN opens gated \
and private repositories, HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 forbids the network. An interrupted download \
goes on where it ended, whenever the same command runs again. The path of the model is printed at the end.

Before the weights are fetched, the beginnings of their files tell whether Undine can run them here; what it cannot is refused, at \
the cost of some kilobytes. What --include names is not looked at.

Without a quantization, of the files of 4 to 8 bits that need at most half of the memory that is free, the largest of up to \
2 GiB is taken, or Q4_K_M: a larger file waits longer for memory at every token.";

/// `undine list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// List models of other architectures too, with the name of each one's; undine cannot run them.
    #[arg(long)]
    pub all: bool,
    /// Print a JSON list.
    #[arg(long)]
    pub json: bool,
}

const LIST_EXAMPLES: &str = "Examples:
  undine list
  undine list --all
  undine list --json | jq '.[].name'

The cache is that of all Hugging Face tools, so it may hold models that undine cannot run. A model whose files cannot be \
read is listed too.";

/// `undine show`.
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// A model in the cache, or a path.
    #[arg(value_name = "NAME", env = "UNDINE_MODEL")]
    pub name: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const SHOW_EXAMPLES: &str = "Examples:
  undine show lfm2.5:1.2b
  undine show LiquidAI/LFM2-350M-GGUF:Q4_K_M --json | jq .hub.license
  undine show model.gguf";

/// `undine rm`.
#[derive(Debug, Args)]
#[command(after_help = RM_EXAMPLES)]
pub struct RmArgs {
    /// A model in the cache: all quantizations and revisions of it, unless NAME has :QUANT or @REVISION.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

const RM_EXAMPLES: &str = "Examples:
  undine rm lfm2.5:1.2b-q8_0
  undine rm LiquidAI/LFM2-350M --yes

Contents that another revision needs too are kept.";

/// `undine models`.
#[derive(Debug, Args)]
#[command(after_help = MODELS_EXAMPLES)]
pub struct ModelsArgs {
    /// List every model, not just those to begin with.
    #[arg(long)]
    pub all: bool,
    /// Print a JSON list of all.
    #[arg(long)]
    pub json: bool,
}

const MODELS_EXAMPLES: &str = "Examples:
  undine models
  undine models --all
  undine models --json | jq -r '.[].name'

FITS: yes if the weights take at most half of the memory that is free now, barely if they fit, no if they do not.";

/// Where `undine serve` finds a model that is named, under the names of vLLM.
#[derive(Clone, Default, Debug, Args)]
pub struct HubArgs {
    /// Branch, tag or commit of a model on the hub [default: main].
    #[arg(long)]
    pub revision: Option<String>,
    /// The folder that models are fetched to [default: the Hugging Face cache].
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub download_dir: Option<PathBuf>,
    /// Token for gated and private repositories [env: HF_TOKEN].
    // Not `env`: the library reads it, with the other places that a token can be in.
    #[arg(long, value_name = "TOKEN")]
    pub hf_token: Option<String>,
}
