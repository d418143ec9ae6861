//! The arguments of `undine calibrate`.

use std::path::PathBuf;

use clap::Args;

use crate::args::ExecutorArgs;
use crate::args_eval::WindowArgs;

/// `undine calibrate`.
#[derive(Debug, Args)]
#[command(after_help = CALIBRATE_EXAMPLES)]
pub struct CalibrateArgs {
    /// A .gguf file or a checkpoint folder, best in float types; without one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<PathBuf>,
    /// The text.
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
  undine calibrate model-BF16.gguf --text calibration.txt -o imatrix.gguf
  undine calibrate ./LFM2-1.2B --text calibration.txt --chunks 100 -o imatrix.gguf

An importance matrix holds, for each weight matrix, the sum over all tokens of the square of each input value, and the
number of tokens; for a mixture of experts, of each expert those tokens that it was chosen for. Quantizers use it to put
errors where they matter least. The file has the form and the names of llama.cpp's, and either program reads it. Unlike
llama-imatrix this keeps the head too: as output.weight, or as token_embd.weight where the head is the embedding table.

Take text like that which the model will read and write, in all its languages and with its chat template, some 50,000
tokens or more. It is cut into windows as undine eval cuts it. Do not measure the quantized model on the same text.";
