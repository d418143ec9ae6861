//! The flags of `undine pull`, `list`, `show`, `rm` and `models`, and the words by which other programs name a model.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::error::Error;

/// Flags of llama.cpp that stand before a repository or a file; here a model's name needs none.
const MODEL_FLAGS: [&str; 4] = ["-hf", "-hfr", "--hf-repo", "-m"];
const HF_FLAG_WITH_VALUE: &str = "--hf-repo=";

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
    /// Quantization, such as Q4_K_M [default: the best that fits this machine's free memory]; the same as NAME:QUANT.
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

Without a quantization, the largest file of 4 to 8 bits is taken that needs at most half of the memory that is free.";

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
    /// Print a JSON list.
    #[arg(long)]
    pub json: bool,
}

const MODELS_EXAMPLES: &str = "Examples:
  undine models
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

/// The command line without the flags of llama.cpp that stand before a model: `-hf REPO` is the model REPO, `-m FILE` the
/// model FILE.
///
/// # Errors
/// If no model stands after such a flag: without one, another model would be taken.
pub fn without_model_flags(words: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let mut kept = Vec::with_capacity(words.len());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            kept.push(word);
            kept.extend(words);
            break;
        }
        if let Some(value) = text.strip_prefix(HF_FLAG_WITH_VALUE) {
            kept.push(value.into());
        } else if MODEL_FLAGS.contains(&text) {
            let is_model = |next: &OsString| !next.is_empty() && !next.to_string_lossy().starts_with('-');
            if !words.peek().is_some_and(is_model) {
                return Err(Error::usage(format!(
                    "{text}: expected a model after it, such as {text} OWNER/NAME"
                )));
            }
        } else {
            kept.push(word);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_before_a_model_are_not_needed() {
        for (line, expected) in [
            ("undine run -hf a/b:Q4_0 -p hi", Some("undine run a/b:Q4_0 -p hi")),
            ("undine serve --hf-repo a/b --port 1", Some("undine serve a/b --port 1")),
            ("undine run --hf-repo=a/b", Some("undine run a/b")),
            ("undine run -m m.gguf -p hi", Some("undine run m.gguf -p hi")),
            ("undine run -- -hf", Some("undine run -- -hf")),
            ("undine run m.gguf", Some("undine run m.gguf")),
            ("undine run -hf", None),
            ("undine run -hf -p hi", None),
            ("undine run -m ", None),
        ] {
            let words = without_model_flags(line.split(' ').map(OsString::from).collect());
            let joined = words.ok().map(|words| words.join(std::ffi::OsStr::new(" ")));
            assert_eq!(joined, expected.map(OsString::from), "{line}");
        }
    }
}
