//! The arguments of `undine calibrate`.

use std::path::PathBuf;

use clap::Args;

use crate::args::ExecutorArgs;
use crate::args_eval::WindowArgs;

/// `undine calibrate`.
#[derive(Debug, Args)]
#[command(after_help = CALIBRATE_EXAMPLES)]
pub struct CalibrateArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`), best in float types; without one,
    /// the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// The text, a UTF-8 file [default: a text in the program].
    #[arg(long, short = 'f', value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// How the text is cut.
    #[command(flatten)]
    pub windows: WindowArgs,
    /// The importance matrix to write, a GGUF file.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How to run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

const CALIBRATE_EXAMPLES: &str = "Examples:
  undine calibrate model-BF16.gguf -o imatrix.gguf
  undine calibrate model-BF16.gguf --text calibration.txt -o imatrix.gguf
  undine calibrate ./LFM2-1.2B --text calibration.txt --chunks 100 -o imatrix.gguf

An importance matrix holds, for each weight matrix, the sum over all tokens of the square of each input value, and the \
number of tokens; for a mixture of experts, of each expert those tokens that it was chosen for. Quantizers use it to put \
errors where they matter least. The file has the form and the names of llama.cpp's, and either program reads it. Unlike \
llama-imatrix this keeps the head too: as output.weight, or as token_embd.weight where the head is the embedding table.

Beside the sums it holds, for each matrix that is not an expert's, how input columns near each other go together, so that \
undine quantize can make up for an error in one column in others; other programs pass over these tensors. They take 512 \
bytes a column, some 5% of the model in BF16, and make calibrating about three times as long.

Take text like that which the model will read and write, in all its languages and with its chat template, some 50,000 \
tokens or more. It is cut into windows as undine eval cuts it. Do not measure the quantized model on the same text.

Without --text the program takes a text of its own, of about 30 kB: prose in twelve languages, code in nine, and chats \
with reasoning, tool calls and JSON, written with the model's template. It is a beginning; text of yours is better. \
undine quantize --imatrix auto calibrates with it, or with its --text, and quantizes in one go.";
