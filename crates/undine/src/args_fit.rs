//! `undine fit` on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use undine_quantize::Mix;

use crate::args::ExecutorArgs;
use crate::format::parse_count_u32;

/// `undine fit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FitArgs {
    /// A .gguf file, a checkpoint folder, a config.json, or a name that `undine synth --list` has; without one, the demo
    /// model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<String>,
    /// Quantization to size [default: the file's own, or Q4_K_M where there is none].
    #[arg(long = "type", value_name = "TYPE")]
    pub mix: Option<Mix>,
    /// Tokens of prompt and answer together; takes 32K and the like [default: 4096, or what the model allows].
    #[arg(short, long, visible_alias = "ctx", value_name = "TOKENS", value_parser = parse_count_u32)]
    pub context: Option<u32>,
    /// Sequences at once.
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=USERS_MAX))]
    pub users: u32,
    /// A device by a part of its name, repeatable; `all` for every one there is [default: a choice].
    #[arg(long, value_name = "NAME")]
    pub device: Vec<String>,
    /// What a device costs, such as 0.72/h, for the cost of a million tokens.
    #[arg(long, value_name = "PRICE")]
    pub price: Option<Price>,
    /// Measure this machine (and the model, if there is a file) for a few seconds, and say how far off the estimate is.
    #[arg(long)]
    pub measure: bool,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// Print Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Write a picture: memory against context, for several numbers of users.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// How it would run.
    #[command(flatten)]
    pub executor: ExecutorArgs,
}

/// Most sequences that are sized.
pub const USERS_MAX: i64 = 65_536;

const EXAMPLES: &str = "Examples:
  undine fit LFM2-1.2B
  undine fit 8B-A1B --type Q8_0 --context 32K --users 16
  undine fit model.gguf --measure
  undine fit LFM2-24B-A2B --device H100 --device 4090 --users 64 --price 2.49/h
  undine fit ./LFM2-350M/config.json --json | jq .memory

Memory is what `undine serve --max-num-seqs USERS --max-model-len CONTEXT` takes when every sequence is full. \
Speeds are for full contexts. On CPUs they are estimates: reading at 73% of the bandwidth and computing at 50% of the peak, \
one after the other, which is how Undine's recorded measurements turn out. On everything else they are upper bounds by \
bandwidth and arithmetic (marked <): this program computes on CPUs only. A mixture of experts reads the experts that are \
chosen: for B sequences the distinct ones among E, if each takes k at random, E (1 - (1 - k/E)^B).";

/// Money per hour.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Price {
    /// In whatever currency.
    pub per_hour: f64,
}

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_start_matches(['$', '€', '£']);
        let number = number.strip_suffix("/h").or_else(|| number.strip_suffix("/hour")).unwrap_or(number);
        match number.trim().parse::<f64>() {
            Ok(per_hour) if per_hour.is_finite() && per_hour > 0.0 => Ok(Self { per_hour }),
            _ => Err("expected an amount above 0 per hour, such as 0.72/h".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_per_hour() {
        for (text, expected) in [
            ("0.72/h", Some(0.72)),
            ("$2/hour", Some(2.0)),
            ("1", Some(1.0)),
            ("0/h", None),
            ("free", None),
            ("1/d", None),
        ] {
            assert_eq!(text.parse::<Price>().ok().map(|price| price.per_hour), expected, "{text}");
        }
    }
}
