//! The arguments of `undine eval`.

use std::path::PathBuf;

use clap::Args;

use crate::args::ExecutorArgs;
use crate::format::parse_count_u32;

/// Fewest tokens of a window: one to read and one to predict in its second half.
const CONTEXT_MIN: u32 = 4;
/// Most windows that are computed together.
const BATCH_MAX: i64 = 256;

/// How a text is cut into windows and computed.
#[derive(Clone, Debug, Args)]
pub struct WindowArgs {
    /// The text, a UTF-8 file.
    #[arg(long, short = 'f', value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens of a window.
    #[arg(long, short = 'c', value_name = "TOKENS", default_value = "512", value_parser = parse_context)]
    pub context: u32,
    /// Only the first windows of the text [default: all].
    #[arg(long, value_name = "WINDOWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Windows that are computed together.
    #[arg(long, short = 'b', value_name = "WINDOWS", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=BATCH_MAX))]
    pub batch: u32,
}

/// `undine eval`.
#[derive(Debug, Args)]
#[command(after_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    /// A .gguf file or a checkpoint folder; without one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// The checkpoint to compare with, usually the one in float types that the model was made from.
    #[arg(long, value_name = "REFERENCE")]
    pub against: Option<PathBuf>,
    /// The text.
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

const EVAL_EXAMPLES: &str = "Examples:
  undine eval model.gguf --text wiki.test.raw
  undine eval model.gguf --text notes.txt --context 2048 --chunks 20 --json
  undine eval model-Q4_K_M.gguf --against model-BF16.gguf --text wiki.test.raw

The text becomes tokens, with the beginning-of-sequence token in front if the model wants one, and is cut into windows
of --context tokens; what is left over at the end is not used. Each window is computed by itself, its first token
replaced by the beginning-of-sequence token, and only predictions of the tokens in its second half count, so that each
has at least half a window before it. Perplexity is exp of the mean of -ln p of these tokens; the error is one standard
error. This is how llama-perplexity counts, except that the text of special tokens stands for the tokens here.

With --against, for the same tokens: KL(reference || model) per token in nats, how often both have the same best token,
by how much the probability of the token that really follows changes (dp, model minus reference), and the largest
change of a logit. Sums are made in 64 bits from the 32-bit logits. Both models must have the same tokenizer.";

/// Tokens of a window.
pub fn parse_context(text: &str) -> Result<u32, String> {
    match parse_count_u32(text)? {
        short @ ..CONTEXT_MIN => Err(format!("expected at least {CONTEXT_MIN} tokens, found {short}")),
        tokens => Ok(tokens),
    }
}
