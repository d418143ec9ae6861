//! `undine fit` on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use undine_quantize::Mix;

use crate::args::ExecutorArgs;
use crate::format::parse_count_u32;

/// `undine fit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FitArgs {
    /// A .gguf file, a checkpoint folder, a config.json, or a name that `undine synth --list` has; without
    /// one, the demo model.
    #[arg(env = "UNDINE_MODEL")]
    pub model: Option<String>,
    /// Quantization to size [default: the file's own, or Q4_K_M where there is none].
    #[arg(long = "type", value_name = "TYPE")]
    pub mix: Option<Mix>,
    /// Tokens of prompt and answer together; takes 32K and the like [default: 4096, or what the model
    /// allows].
    #[arg(short, long, visible_alias = "ctx", value_name = "TOKENS", value_parser = parse_count_u32)]
    pub context: Option<u32>,
    /// Sequences at once.
    #[arg(short, long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=USERS_MAX))]
    pub users: u32,
    /// Devices by name (4090, "Mac mini M4 Pro", a100-80), by class (gpus, macs, phones, clouds, …), or all;
    /// several with commas or by repeating the flag [default: a choice].
    #[arg(long, visible_alias = "device", value_name = "NAMES", num_args = 0..=1, default_missing_value = "all")]
    pub devices: Vec<String>,
    /// Order of the devices [default: that of the list].
    #[arg(long, value_enum, ignore_case = true, value_name = "KEY")]
    pub sort: Option<Sort>,
    /// Size fine-tuning instead of running.
    #[arg(long, value_enum, ignore_case = true, value_name = "METHOD", conflicts_with_all = ["measure", "price", "svg", "users"])]
    pub finetune: Option<Finetune>,
    /// Rank of adapters.
    #[arg(long, requires = "finetune", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=RANK_MAX))]
    pub rank: u32,
    /// Tokens between forward and backward: sequences of a step times their length; takes 32K and the like.
    #[arg(long, requires = "finetune", default_value = "16K", value_parser = parse_count_u32)]
    pub tokens: u32,
    /// Matrices that get an adapter, such as q_proj,conv.out_proj,w1 [default: all but experts].
    #[arg(long, requires = "finetune", value_name = "NAMES", value_delimiter = ',')]
    pub targets: Vec<String>,
    /// Give experts adapters, too.
    #[arg(long, requires = "finetune")]
    pub train_experts: bool,
    /// What a device costs, such as 0.72/h, for the cost of a million tokens [default: what a cloud's list
    /// says].
    #[arg(long, value_name = "PRICE")]
    pub price: Option<Price>,
    /// Measure this machine (and the model, if there is a file) for a few seconds, and say how far off the
    /// estimate is.
    #[arg(long)]
    pub measure: bool,
    /// Show the formulas that the numbers come from.
    #[arg(short, long)]
    pub verbose: bool,
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
/// Highest rank of an adapter.
const RANK_MAX: i64 = 4096;

/// What devices are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sort {
    /// Fastest decode first.
    Speed,
    /// Most memory for models first.
    Memory,
    /// By name.
    Name,
    /// Cheapest first: what is sold, then what is let by the hour, then what has no price.
    Price,
}

/// How a model is trained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Finetune {
    /// Adapters on frozen BF16 weights.
    Lora,
    /// Adapters on frozen weights in 4 bits.
    Qlora,
    /// Every weight.
    Full,
}

impl Finetune {
    /// As the flag has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Qlora => "qlora",
            Self::Full => "full",
        }
    }
}

const EXAMPLES: &str = "Examples:
  undine fit LFM2-1.2B
  undine fit 8B-A1B --type Q8_0 --context 32K --users 16
  undine fit model.gguf --measure
  undine fit LFM2-8B-A1B --devices all --sort speed
  undine fit LFM2-24B-A2B --devices \"h100, 4090, Mac Studio M3 Ultra\" --users 64 --price 2.49/h
  undine fit LFM2-8B-A1B --finetune lora --tokens 32K --train-experts --devices gpus
  undine fit ./LFM2-350M/config.json --json | jq .memory

Memory is what `undine serve --max-num-seqs USERS --max-model-len CONTEXT` takes when every sequence is full; -v shows the \
formulas. Of devices, models can have 85% of a computer's memory, 75% where a GPU shares it, 2/3 under macOS (3/4 above 32 GB), \
half of a phone's, all of a card's.

WELL is a load that takes at most 90% of that and decodes at 10 tok/s or more, TIGHT one that fits otherwise, NO one that does not.

Speeds are for full contexts. Decode reads every weight once a token, and keys and values: bytes over bandwidth. Prefill computes: \
two operations for each weight and token, over the arithmetic. This machine is measured (for less than a second; --measure runs \
the model). On CPUs both are estimates: reading at 73% of the bandwidth and computing at 50% of the peak, one after the other, \
which is how Undine's recorded measurements turn out. On everything else they are upper bounds by bandwidth and arithmetic \
(marked <): this program computes on CPUs only. A mixture of experts reads the experts that are chosen: for B sequences the \
distinct ones among E, if each takes k at random, E (1 - (1 - k/E)^B).

--finetune counts what any trainer must hold: frozen weights in BF16 (lora) or 4 bits (qlora), 16 bytes for each trained value, \
one f32 vector for each layer and token in flight (the rest is computed again), and one layer's work. Undine itself does not train.";

/// Money per hour.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Price {
    /// In whatever currency.
    pub per_hour: f64,
}

/// What may stand behind a price.
const PER_HOUR: [&str; 6] = ["/h", "/hr", "/hour", "/hrs", "per hour", "an hour"];

impl FromStr for Price {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_start_matches(['$', '€', '£']);
        let number = number.trim_start();
        let number = PER_HOUR.iter().find_map(|end| number.strip_suffix(end)).unwrap_or(number);
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
            ("$0.5/hr", Some(0.5)),
            ("$ 3 per hour", Some(3.0)),
            ("1", Some(1.0)),
            ("0/h", None),
            ("free", None),
            ("1/d", None),
        ] {
            assert_eq!(text.parse::<Price>().ok().map(|price| price.per_hour), expected, "{text}");
        }
    }
}
