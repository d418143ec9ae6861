//! The arguments of `undine quantize` that choose types by measuring.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::args_eval::parse_context;
use crate::format::parse_count;

/// What a quantized file is to reach.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Types by measured sensitivity")]
pub struct TargetArgs {
    /// Choose a type for each tensor so that the file has at most this size, such as 500MB or 1.2GiB.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "text", group = "goal",
          conflicts_with_all = ["target_kl", "mix", "pure", "tensor_type", "output_tensor_type", "token_embedding_type"])]
    pub target_size: Option<u64>,
    /// Choose a type for each tensor so that the mean KL divergence from IN is at most this, in nats per
    /// token, such as 0.01.
    #[arg(long, value_name = "NATS", value_parser = parse_kl, requires = "text", group = "goal",
          conflicts_with_all = ["mix", "pure", "tensor_type", "output_tensor_type", "token_embedding_type"])]
    pub target_kl: Option<f64>,
    /// The text to measure on, a UTF-8 file; without --imatrix, or with --imatrix auto, the importance matrix
    /// is made from it too.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokens of a window of the text.
    #[arg(long, value_name = "TOKENS", default_value = "512", value_parser = parse_context, requires = "goal")]
    pub context: u32,
    /// Windows of the text to measure on: more take longer and are more exact.
    #[arg(long, value_name = "WINDOWS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..),
          requires = "goal")]
    pub chunks: u32,
    /// How to find out what a tensor's type costs.
    #[arg(long, value_enum, default_value_t, requires = "goal")]
    pub sensitivity: Sensitivity,
    /// Threads to measure with [default: one per core].
    #[arg(short, long, env = "UNDINE_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

impl TargetArgs {
    /// What is to be reached, if anything.
    pub fn target(&self) -> Option<Target> {
        self.target_size.map(Target::Size).or(self.target_kl.map(Target::Kl))
    }
}

/// What a file is to reach.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Target {
    /// At most so many bytes.
    Size(u64),
    /// At most this mean divergence, in nats per token.
    Kl(f64),
}

/// How to find out what a tensor costs in a type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Sensitivity {
    /// Measure the divergence with each tensor alone in one type; other types in proportion to their weighted
    /// error.
    #[default]
    Probe,
    /// Measure it with each tensor alone in each type.
    Every,
    /// Measure nothing: the weighted error itself. Fast, and worse.
    Error,
}

/// A size in bytes: 500MB is 500,000,000, 500MiB 524,288,000; without a B as every other count.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let decimal = |number: &str| parse_count(&number.to_ascii_lowercase());
    let bytes = match (text.strip_suffix("iB"), text.strip_suffix('B')) {
        (Some(number), _) => parse_count(&number.to_ascii_uppercase())?,
        (None, Some(number)) => decimal(number)?,
        (None, None) => parse_count(text)?,
    };
    if bytes == 0 { Err("expected a size above 0, such as 500MB".to_owned()) } else { Ok(bytes) }
}

fn parse_kl(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number of nats per token above 0, such as 0.01".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("500MB", Some(500_000_000)),
            ("500mb", None),
            ("1.5GB", Some(1_500_000_000)),
            ("1GiB", Some(1 << 30)),
            ("2K", Some(2048)),
            ("2k", Some(2000)),
            ("700000", Some(700_000)),
            ("700000B", Some(700_000)),
            ("0MB", None),
            ("-1MB", None),
            ("MB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn divergences_are_positive() {
        for (text, accepted) in [("0.01", true), ("1e-3", true), ("0", false), ("nan", false), ("inf", false)]
        {
            assert_eq!(parse_kl(text).is_ok(), accepted, "{text}");
        }
    }
}
