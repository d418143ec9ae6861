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
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`); without one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// The text, a UTF-8 file.
    #[arg(long, short = 'f', value_name = "FILE")]
    pub text: PathBuf,
    /// The checkpoint to compare with (a file, a folder or a name), usually the one in float types that the
    /// model was made from.
    #[arg(long, value_name = "REFERENCE")]
    pub against: Option<PathBuf>,
    /// Compare with the logits in this file, which --save-logits of the reference or llama-perplexity's
    /// --kl-divergence-base wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub logits: Option<PathBuf>,
    /// Write the model's logits of every prediction that counts to this file, for --logits; 2 bytes for each
    /// token of the vocabulary.
    #[arg(long, value_name = "FILE")]
    pub save_logits: Option<PathBuf>,
    /// Begin a window every so many tokens; each token of the text counts once, with as much of the text
    /// before it as its window has.
    #[arg(long, value_name = "TOKENS", value_parser = parse_count_u32, conflicts_with_all = ["logits", "save_logits"])]
    pub stride: Option<u32>,
    /// How the text is cut.
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
  undine eval model-BF16.gguf --text wiki.test.raw --save-logits reference.logits
  undine eval model-Q4_K_M.gguf --text wiki.test.raw --logits reference.logits
  undine eval model.gguf --text wiki.test.raw --context 2048 --stride 512

The text becomes tokens, with the beginning-of-sequence token in front if the model wants one, and is cut into windows \
of --context tokens; what is left over at the end is not used. Each window is computed by itself, its first token \
replaced by the beginning-of-sequence token, and only predictions of the tokens in its second half count, so that each \
has at least half a window before it. Perplexity is exp of the mean of -ln p of these tokens; the error is one standard \
error. This is how llama-perplexity counts, except that the text of special tokens stands for the tokens here.

With --against, for the same tokens: KL(reference || model) per token in nats, how often both have the same best token, \
by how much the probability of the token that really follows changes (dp, model minus reference), and the largest \
change of a logit. Sums are made in 64 bits from the 32-bit logits. Both models must have the same tokenizer.

--save-logits and --logits do the same in two runs, so that the reference is computed once and need not be there again. \
The file has the form of llama-perplexity's --kl-divergence-base, and either program reads the other's: the tokens of the \
windows, and of each prediction all log-probabilities in 16 bits, over 16 nats below the best. That rounds each by at most \
0.00013, and what is further below counts as nothing; where the text surprises the reference more than that, its own \
perplexity comes out too low, which is said, and nothing else. Another text, tokenizer or --context is refused.

--stride is the sliding window of the perplexity guide of transformers: windows of --context tokens begin every --stride \
tokens, the last one ends with the text, and of each the tokens count that no earlier one had. The beginning-of-sequence \
token stands once, at the beginning of the text. --stride C/2 costs twice as much as none, and gives every token more \
before it. (llama-perplexity's --ppl-stride S is near to it, with windows of its context and S/2 more.)";

/// Tokens of a window.
pub fn parse_context(text: &str) -> Result<u32, String> {
    match parse_count_u32(text)? {
        short @ ..CONTEXT_MIN => Err(format!("expected at least {CONTEXT_MIN} tokens, found {short}")),
        tokens => Ok(tokens),
    }
}
