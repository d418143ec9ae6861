//! The arguments of `undine quantize` and `undine convert`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use undine_core::DType;
use undine_quantize::{Mix, TypeOverride, parse_dtype};

/// `undine quantize`.
#[derive(Debug, Args)]
#[command(after_help = QUANTIZE_EXAMPLES)]
pub struct QuantizeArgs {
    /// A .gguf file (a model, any part of a split one, or an mmproj file), a checkpoint folder, or a name
    /// (see `undine models`).
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The .gguf file to write; a vision tower of a folder goes beside it, as mmproj-OUT.
    #[arg(value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Mix of types, such as Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, IQ4_XS, Q3_K_M, IQ3_M, Q2_K, BF16; IQ2_XXS
    /// needs an importance matrix.
    #[arg(long = "type", value_name = "TYPE", default_value_t = Mix::Q4_K_M)]
    pub mix: Mix,
    /// Importance matrix of this model (.gguf or .dat): errors count where text goes, and one of `undine
    /// calibrate` also says where they can be made up for. `auto` makes one first, from --text or from a text
    /// in the program (see `undine calibrate`); a file of that name is ./auto.
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<ImatrixSource>,
    /// Type of matrices whose names match a regular expression, such as ffn_down=Q6_K; may be repeated, the
    /// first counts.
    #[arg(long, value_name = "PATTERN=TYPE")]
    pub tensor_type: Vec<TypeOverride>,
    /// Type of the head, or of the token embedding that serves as one.
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub output_tensor_type: Option<DType>,
    /// Type of the token embedding.
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub token_embedding_type: Option<DType>,
    /// Mix of types of a folder's vision tower [default: Q8_0, or the model's if that is a float type].
    #[arg(long, value_name = "TYPE")]
    pub mmproj_type: Option<Mix>,
    /// Give every matrix the same type, the head too.
    #[arg(long)]
    pub pure: bool,
    /// Write nothing; print the type and size of each tensor.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Replace OUT if it exists.
    #[arg(short, long, visible_alias = "yes", short_alias = 'y')]
    pub force: bool,
    /// Accepted for compatibility: a source that is quantized already is always taken, with a note.
    #[arg(long, hide = true)]
    pub allow_requantize: bool,
    /// Types chosen by measuring.
    #[command(flatten)]
    pub target: crate::args_target::TargetArgs,
}

/// Where an importance matrix comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImatrixSource {
    /// It is made from the model that is quantized.
    Auto,
    /// A file.
    File(PathBuf),
}

impl ImatrixSource {
    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Auto => None,
            Self::File(path) => Some(path),
        }
    }
}

impl From<OsString> for ImatrixSource {
    fn from(text: OsString) -> Self {
        if text == "auto" { Self::Auto } else { Self::File(text.into()) }
    }
}

const QUANTIZE_EXAMPLES: &str = "Examples:
  undine quantize ./LFM2-1.2B LFM2-1.2B-Q4_K_M.gguf
  undine quantize model-BF16.gguf model-Q4_0.gguf --type Q4_0 --imatrix imatrix.gguf
  undine quantize ./LFM2-1.2B LFM2-1.2B-IQ4_XS.gguf --type IQ4_XS --imatrix auto
  undine quantize model-BF16.gguf small.gguf --type Q3_K_M --tensor-type 'blk\\.[01]\\.=Q8_0'
  undine quantize ./LFM2-VL-450M LFM2-VL-450M-Q8_0.gguf --type Q8_0 --mmproj-type F16
  undine quantize model-BF16.gguf --type Q2_K --dry-run
  undine quantize model-BF16.gguf small.gguf --target-size 500MB --text calibration.txt
  undine quantize model-BF16.gguf good.gguf --target-kl 0.01 --text calibration.txt --imatrix imatrix.gguf

A file appears when it is complete; a run that was killed leaves no OUT, and the next one removes what it left.

--target-size and --target-kl measure, over windows of the text, how far the model's predictions move when one tensor is \
put into a smaller type, and choose each tensor's type by that; the divergence of the finished file is measured and printed. \
The whole model is computed once per tensor. Measured is the language model; a vision tower is a file of its own. \
Memory holds one tensor in another type at a time, and the predictions of the original (at most 2 GiB); a choice that \
--target-kl tries is a file beside OUT while it is measured.";

/// Float type of a conversion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum FloatType {
    /// Each matrix as it is.
    #[default]
    Auto,
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value, up to 65504.
    F16,
    /// 2 bytes a value, with the range of F32.
    Bf16,
}

/// `undine convert`.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct ConvertArgs {
    /// A .gguf file, a checkpoint folder, or a name (see `undine models`).
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// A .gguf file to write, or else a folder; a vision tower goes beside a .gguf file, as mmproj-OUT.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Float type of the matrices; norms and other small tensors of a GGUF file are always F32.
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value_t)]
    pub float_type: FloatType,
    /// For a folder: the GGUF file with IN's vision tower [default: the first one beside IN with mmproj in
    /// its name that fits].
    #[arg(long, value_name = "FILE")]
    pub mmproj: Option<PathBuf>,
    /// Leave the vision tower out.
    #[arg(long, conflicts_with = "mmproj")]
    pub no_mmproj: bool,
    /// Take quantized matrices too: their values are written as floats (F16 unless --type says otherwise).
    #[arg(long)]
    pub dequantize: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Replace OUT if it exists.
    #[arg(short, long, visible_alias = "yes", short_alias = 'y')]
    pub force: bool,
}

const CONVERT_EXAMPLES: &str = "Examples:
  undine convert ./LFM2-1.2B LFM2-1.2B-BF16.gguf
  undine convert LFM2-1.2B-BF16.gguf ./LFM2-1.2B
  undine convert LFM2-1.2B-Q4_0.gguf ./LFM2-1.2B-dequantized --dequantize --type bf16
  undine convert ./LFM2-1.2B-MLX-4bit LFM2-1.2B-Q4_1.gguf
  undine convert ./LFM2-VL-450M LFM2-VL-450M-BF16.gguf
  undine convert LFM2-VL-450M-BF16.gguf ./LFM2-VL-450M --mmproj mmproj-LFM2-VL-450M-BF16.gguf

A vision model is one folder, or two GGUF files: OUT and mmproj-OUT. Both ways the tower keeps its own float type. \
Weights in float types come back as they were: IN to GGUF and back to a folder gives the same values. \
A folder that another program quantized (MLX, GPTQ, AWQ, compressed-tensors) keeps its blocks in a GGUF file. \
To write quantized types, see `undine quantize`.";
