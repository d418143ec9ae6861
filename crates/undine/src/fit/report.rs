//! Everything that `undine fit` says, as data: the table, Markdown and JSON are views of it.

use serde::Serialize;
use undine_quantize::Mix;

use super::devices::{self, Device};
use super::measure::{Measured, MeasuredReport};
use super::memory::{self, Demand, Load};
use super::speed::{Cost, Runnable, Speeds};
use super::subject::{Subject, Variant};
use super::verdict::{self, Judged, Mark};
use crate::args::KvCacheDtype;
use crate::args_fit::{FitArgs, Price, Sort};
use crate::format::grouped;
use crate::serve_load::KV_BYTES_DEFAULT;
use crate::session;

/// Quantizations that are compared, smallest first.
pub const COMPARED: [Mix; 6] = [Mix::Q4_0, Mix::Q4_K_M, Mix::Q5_K_M, Mix::Q6_K, Mix::Q8_0, Mix::BF16];

/// What is said.
#[derive(Serialize)]
pub struct Report {
    /// The answer in one line.
    pub verdict: String,
    /// What the model is called.
    pub model: String,
    /// What is not certain about its shape.
    pub note: Option<String>,
    /// Parameters.
    pub parameters: u64,
    /// Those that one token is multiplied with, for a mixture of experts.
    pub active_parameters: Option<u64>,
    /// Layers by kind.
    pub layers: Layers,
    /// Tokens that the model allows.
    pub context_max: usize,
    /// The quantization.
    pub r#type: String,
    /// Sequences at once.
    pub users: u32,
    /// Tokens of each.
    pub context: u32,
    /// Type of keys and values.
    pub kv_cache_dtype: &'static str,
    /// What it takes.
    pub memory: Demand,
    /// The same in other quantizations.
    pub types: Vec<TypeDemand>,
    /// What fits where, and how fast.
    pub devices: Vec<DeviceFit>,
    /// What a device costs.
    pub price_per_hour: Option<f64>,
    /// How to run it so.
    pub command: String,
    /// What has been measured here.
    pub measured: Option<MeasuredReport>,
    /// What the devices are sorted by.
    #[serde(skip)]
    pub sort: Option<Sort>,
}

/// Layers by kind.
#[derive(Serialize)]
pub struct Layers {
    /// Short convolutions.
    pub conv: usize,
    /// Attention.
    pub attention: usize,
}

/// What a quantization takes under the load.
#[derive(Serialize)]
pub struct TypeDemand {
    /// The quantization.
    pub r#type: &'static str,
    /// Weights.
    pub weights_bytes: u64,
    /// Everything.
    pub total_bytes: u64,
}

/// A model on a device.
#[derive(Serialize)]
pub struct DeviceFit {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// Whether the load fits.
    pub fits: bool,
    /// How it runs there.
    pub runs: Mark,
    /// The largest quantization of those compared with which the load fits.
    pub best_type: Option<&'static str>,
    /// The longest context with these users.
    pub context_max: Option<u32>,
    /// The most users with this context.
    pub users_max: Option<u32>,
    /// How fast, if it fits.
    pub speeds: Option<Speeds>,
    /// Cost of a million tokens, if there is a price.
    pub cost_per_million_tokens: Option<Cost>,
}

impl Report {
    /// Sizes `subject` on the listed devices.
    pub fn new(
        subject: &Subject,
        load: Load,
        listed: Vec<Device>,
        measured: Option<Measured>,
        args: &FitArgs,
    ) -> Self {
        let config = &subject.config;
        let chosen = &subject.chosen;
        let memory = Demand::new(config, &chosen.types, load);
        let types: Vec<TypeDemand> =
            COMPARED.into_iter().filter_map(|mix| type_demand(subject, mix, load, args)).collect();
        let runnable = Runnable { config, matrices: &chosen.matrices, kv: load.kv };
        let correction = measured.as_ref().and_then(|measured| measured.report.correction());
        let fit = |device: Device| {
            let correction = correction.filter(|_| device.name == devices::HERE);
            let bytes = device.usable_bytes;
            let fits = memory.total_bytes <= bytes;
            let speeds = fits.then(|| runnable.speeds(&device, load.users, load.context));
            let speeds = match (speeds, correction) {
                (Some(speeds), Some(by)) => Some(speeds.corrected(by)),
                (speeds, _) => speeds,
            };
            let price = args.price.or(device.price_per_hour.map(|per_hour| Price { per_hour }));
            DeviceFit {
                fits,
                runs: Mark::new(memory.total_bytes, &device, speeds.and_then(|speeds| speeds.decode_one)),
                best_type: types.iter().rev().find(|kind| kind.total_bytes <= bytes).map(|kind| kind.r#type),
                context_max: memory::longest_context(config, &chosen.types, load, bytes),
                users_max: memory::most_users(config, &chosen.types, load, bytes),
                speeds,
                cost_per_million_tokens: price.and_then(|price| speeds.map(|speeds| speeds.cost(price))),
                device,
            }
        };
        let mut listed: Vec<DeviceFit> = listed.into_iter().map(fit).collect();
        if let Some(key) = args.sort {
            sort(&mut listed, key);
        }
        Self {
            verdict: verdict(&memory, &listed),
            model: subject.name.clone(),
            note: subject.note.clone(),
            parameters: subject.parameters,
            active_parameters: config.moe.map(|_| subject.active_parameters()),
            layers: Layers { conv: config.conv_layers(), attention: config.attention_layers() },
            context_max: config.context_max,
            r#type: chosen.name.clone(),
            users: load.users,
            context: load.context,
            kv_cache_dtype: load.kv.name(),
            price_per_hour: args.price.map(|price| price.per_hour),
            command: command(&memory, load, args),
            memory,
            types,
            devices: listed,
            measured: measured.map(|measured| measured.report),
            sort: args.sort,
        }
    }
}

fn verdict(memory: &Demand, listed: &[DeviceFit]) -> String {
    let judged: Vec<Judged<'_>> = listed
        .iter()
        .map(|fit| Judged {
            device: &fit.device,
            mark: fit.runs,
            decode: fit.speeds.and_then(|speeds| speeds.decode_one),
        })
        .collect();
    let here = listed.iter().find(|fit| fit.device.name == devices::HERE).or(listed.first());
    let best = here.and_then(|fit| fit.best_type);
    let context = here.and_then(|fit| fit.context_max);
    let smaller = match (context, best) {
        (Some(tokens), _) => Some(format!("a context of {} would fit (--context)", grouped(tokens.into()))),
        (None, Some(name)) => Some(format!("{name} would fit (--type {name})")),
        (None, None) => None,
    };
    verdict::line(memory.total_bytes, &judged, smaller.as_deref())
}

/// Sorts devices; what has no such number comes last, and this machine comes first.
fn sort(listed: &mut [DeviceFit], key: Sort) {
    let decode =
        |fit: &DeviceFit| fit.speeds.and_then(|speeds| speeds.decode_one).map_or(0.0, |s| s.tokens_per_s);
    let price = |fit: &DeviceFit| match (fit.device.price, fit.device.price_per_hour) {
        (Some(price), _) => (0, price),
        (None, Some(per_hour)) => (1, per_hour),
        (None, None) => (2, 0.0),
    };
    listed.sort_by(|a, b| {
        let order = match key {
            Sort::Speed => decode(b).total_cmp(&decode(a)),
            Sort::Memory => b.device.usable_bytes.cmp(&a.device.usable_bytes),
            Sort::Name => a.device.name.to_lowercase().cmp(&b.device.name.to_lowercase()),
            Sort::Price => {
                let (a, b) = (price(a), price(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            }
        };
        let is_other = |fit: &DeviceFit| fit.device.name != devices::HERE;
        is_other(a).cmp(&is_other(b)).then(order)
    });
}

fn type_demand(subject: &Subject, mix: Mix, load: Load, args: &FitArgs) -> Option<TypeDemand> {
    let variant: Variant = subject.variant(mix)?;
    // Float weights have keys and values of their own kind, unless asked for otherwise.
    let kv = session::kv_type_for(&args.executor, || variant.is_float());
    let load = Load { kv, tower: subject.tower(&variant), ..load };
    let total_bytes = Demand::new(&subject.config, &variant.types, load).total_bytes;
    Some(TypeDemand { r#type: mix.name(), weights_bytes: variant.bytes(), total_bytes })
}

/// The command line that takes this much.
fn command(memory: &Demand, load: Load, args: &FitArgs) -> String {
    let Load { users, context, .. } = load;
    let mut line = format!("undine serve MODEL --max-num-seqs {users} --max-model-len {context}");
    let kv = memory.terms.iter().find(|term| term.name == memory::KV).map_or(0, |term| term.bytes);
    if kv > KV_BYTES_DEFAULT {
        line.push_str(&format!(" --kv-cache-memory-bytes {kv}"));
    }
    if args.executor.kv_cache_dtype != KvCacheDtype::Auto {
        line.push_str(&format!(" --kv-cache-dtype {}", load.kv.name()));
    }
    line
}
