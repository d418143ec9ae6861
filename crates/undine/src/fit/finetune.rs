//! Memory that fine-tuning a model takes, by formula: `--finetune lora|qlora|full`.
//!
//! What is counted is what any trainer must hold, in the usual types:
//!
//! - weights: frozen in BF16 (LoRA), or matrices in 4 bits with scales that are quantized themselves (QLoRA:
//!   blocks of 64, a byte of scale each, an f32 for 256 of these), the embedding in BF16;
//! - what is trained, 16 bytes a value: f32 value, f32 gradient, and AdamW's two f32 moments. Full training
//!   holds each weight in BF16 with a BF16 gradient, and an f32 copy with both moments: 16 bytes as well;
//! - activations: with recomputation layer by layer, one f32 vector of the width of the model for each layer
//!   and token in flight, which is the layer's input;
//! - the layer that is being recomputed: keys, values and their gradients of all tokens, and the rest of it
//!   for a block of rows at a time; and a block of logits with their gradients.
//!
//! An adapter of rank r on a matrix of `out x in` has r (in + out) values. Experts are packed in two tensors
//! a layer, as their files have them: gate and up share one A.

use serde::Serialize;
use undine_core::{Config, FeedForward};

use super::memory::Term;
use crate::args_fit::Finetune;
use crate::error::Error;
use crate::format::{Bytes, grouped};

/// Bytes of a BF16 value.
const BF16_BYTES: u64 = 2;
/// Bytes of an f32 value.
const F32_BYTES: u64 = 4;
/// Bits of a weight in 4 bits: its code, an eighth of a bit of scale, and 32 bits for 256 scales of 64
/// weights each.
const FOUR_BITS: f64 = 4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0);
/// Bytes of a trained value: itself, its gradient and two moments.
const TRAINED_BYTES: u64 = 4 * F32_BYTES;
/// Rows of a layer, or of logits, that are worked on at a time.
const BLOCK_ROWS: u64 = 512;

/// How a model is to be trained.
#[derive(Clone, Debug)]
pub struct Training {
    /// The method.
    pub method: Finetune,
    /// Rank of adapters.
    pub rank: u32,
    /// Tokens between forward and backward.
    pub tokens: u64,
    /// Modules that get an adapter; all but experts if there are none.
    pub targets: Vec<String>,
    /// Whether experts are trained too.
    pub experts: Experts,
}

/// Whether experts get adapters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Experts {
    /// They do.
    Trained,
    /// They stay as they are.
    Frozen,
}

/// Matrices of one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Module {
    /// As Hugging Face names it.
    name: &'static str,
    /// How many there are.
    count: usize,
    outputs: usize,
    inputs: usize,
}

/// Name of what holds all experts of a layer.
const EXPERTS: &str = "experts";

impl Module {
    fn is_expert(&self) -> bool {
        self.name.contains(EXPERTS)
    }

    fn values(&self) -> u64 {
        (self.count * self.outputs * self.inputs) as u64
    }

    fn adapter(&self, rank: u32) -> u64 {
        (self.count * (self.outputs + self.inputs)) as u64 * u64::from(rank)
    }

    /// Whether a target names it: by whole parts of the name, `out_proj`, `conv.out_proj` or `experts`.
    fn is_named(&self, target: &str) -> bool {
        format!(".{}.", self.name).contains(&format!(".{target}."))
    }
}

/// Every matrix that can have an adapter.
fn modules(config: &Config) -> Vec<Module> {
    let hidden = config.hidden;
    let (attention, conv) = (config.attention_layers(), config.conv_layers());
    let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let of = |name, count, outputs, inputs| Module { name, count, outputs, inputs };
    let mut modules = vec![
        of("self_attn.q_proj", attention, query, hidden),
        of("self_attn.k_proj", attention, key, hidden),
        of("self_attn.v_proj", attention, key, hidden),
        of("self_attn.out_proj", attention, hidden, query),
        of("conv.in_proj", conv, 3 * hidden, hidden),
        of("conv.out_proj", conv, hidden, hidden),
    ];
    let mut widths: Vec<usize> = config.feed_forward.iter().filter_map(dense_width).collect();
    widths.sort_unstable();
    for run in widths.chunk_by(|a, b| a == b) {
        let (count, width) = (run.len(), run[0]);
        modules.extend([
            of("feed_forward.w1", count, width, hidden),
            of("feed_forward.w2", count, hidden, width),
            of("feed_forward.w3", count, width, hidden),
        ]);
    }
    if let Some(moe) = config.moe {
        let layers = config.feed_forward.iter().filter(|kind| dense_width(kind).is_none()).count();
        modules.extend([
            of("feed_forward.experts.gate_up_proj", layers * moe.experts, 2 * moe.width, hidden),
            of("feed_forward.experts.down_proj", layers * moe.experts, hidden, moe.width),
        ]);
    }
    modules.retain(|module| module.count > 0);
    modules
}

fn dense_width(feed_forward: &FeedForward) -> Option<usize> {
    match feed_forward {
        FeedForward::Dense { width } => Some(*width),
        FeedForward::Moe => None,
    }
}

/// What training takes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TrainingDemand {
    /// The method.
    pub method: &'static str,
    /// Values that are trained.
    pub trained: u64,
    /// Of which kinds, with how many matrices each.
    pub modules: Vec<TrainedModule>,
    /// Parts.
    pub terms: Vec<Term>,
    /// Their sum.
    pub total_bytes: u64,
}

/// Trained matrices of one name.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TrainedModule {
    /// The name.
    pub name: &'static str,
    /// How many.
    pub count: usize,
    /// Values of their adapters, or their own in full training.
    pub values: u64,
}

impl TrainingDemand {
    /// For a model with so many parameters.
    ///
    /// # Errors
    /// A target that names no matrix of the model.
    pub fn new(config: &Config, parameters: u64, training: &Training) -> Result<Self, Error> {
        let all = modules(config);
        let chosen = chosen(&all, config, training)?;
        let values = |module: &Module| match training.method {
            Finetune::Full => module.values(),
            Finetune::Lora | Finetune::Qlora => module.adapter(training.rank),
        };
        let modules: Vec<TrainedModule> = chosen
            .iter()
            .map(|module| TrainedModule { name: module.name, count: module.count, values: values(module) })
            .collect();
        let trained = match training.method {
            // Norms, filters and the embedding too.
            Finetune::Full => parameters,
            _ => modules.iter().map(|module| module.values).sum(),
        };
        let mut terms = vec![weights(&all, parameters, training)];
        if training.method != Finetune::Full {
            let formula = format!(
                "{} values at rank {} x {TRAINED_BYTES} B: value, gradient and two moments in f32",
                grouped(trained),
                training.rank
            );
            terms.push(Term { name: "adapter", bytes: trained * TRAINED_BYTES, formula });
        }
        terms.extend([activations(config, training.tokens), layer(config, training.tokens), head(config)]);
        let total_bytes = terms.iter().fold(0_u64, |sum, term| sum.saturating_add(term.bytes));
        Ok(Self { method: training.method.name(), trained, modules, terms, total_bytes })
    }
}

/// The matrices that are trained.
fn chosen<'a>(all: &'a [Module], config: &Config, training: &Training) -> Result<Vec<&'a Module>, Error> {
    if training.method == Finetune::Full {
        return Ok(all.iter().collect());
    }
    if training.experts == Experts::Trained && config.moe.is_none() {
        return Err(Error::refused("--train-experts: this model has no experts"));
    }
    for target in &training.targets {
        if !all.iter().any(|module| module.is_named(target)) {
            let names: Vec<&str> = all.iter().map(|module| module.name).collect();
            return Err(Error::usage(format!(
                "--targets {target}: no matrix of this model is called so; it has {}",
                names.join(", ")
            )));
        }
    }
    let is_chosen = |module: &&Module| {
        if module.is_expert() && training.experts == Experts::Trained {
            return true;
        }
        match training.targets.is_empty() {
            true => !module.is_expert(),
            false => training.targets.iter().any(|target| module.is_named(target)),
        }
    };
    Ok(all.iter().filter(is_chosen).collect())
}

fn weights(all: &[Module], parameters: u64, training: &Training) -> Term {
    let in_matrices: u64 = all.iter().map(Module::values).sum();
    let shown = grouped(parameters);
    let (bytes, formula) = match training.method {
        Finetune::Lora => {
            (parameters.saturating_mul(BF16_BYTES), format!("{shown} parameters x {BF16_BYTES} B (BF16)"))
        }
        Finetune::Qlora => {
            let rest = parameters.saturating_sub(in_matrices);
            let bytes = (in_matrices as f64 * FOUR_BITS / 8.0) as u64 + rest * BF16_BYTES;
            let formula = format!(
                "{} in matrices x {FOUR_BITS:.3} bits + {} of the embedding and the like x {BF16_BYTES} B; trainers that \
                 quantize no packed experts take more",
                grouped(in_matrices),
                grouped(rest)
            );
            (bytes, formula)
        }
        Finetune::Full => {
            let each = 2 * BF16_BYTES + 3 * F32_BYTES;
            let formula = format!(
                "{shown} parameters x {each} B: BF16 with a BF16 gradient, an f32 copy and two moments in f32"
            );
            (parameters.saturating_mul(each), formula)
        }
    };
    Term { name: "weights", bytes, formula }
}

fn activations(config: &Config, tokens: u64) -> Term {
    let (layers, hidden) = (config.layers.len() as u64, config.hidden as u64);
    let formula = format!(
        "{} tokens x {layers} layers x {} x {F32_BYTES} B: each layer's input, the rest is computed again",
        grouped(tokens),
        grouped(hidden)
    );
    Term { name: "activations", bytes: tokens.saturating_mul(layers * hidden * F32_BYTES), formula }
}

fn layer(config: &Config, tokens: u64) -> Term {
    let hidden = config.hidden as u64;
    let dense = config.feed_forward.iter().filter_map(dense_width).max().unwrap_or(0);
    let experts = config.moe.map_or(0, |moe| moe.width * moe.experts_active);
    let feed_forward = dense.max(experts) as u64;
    let kv = (2 * config.kv_heads * config.head_dim) as u64;
    let keys = tokens.saturating_mul(2 * kv * F32_BYTES);
    let rows = BLOCK_ROWS * 2 * (4 * hidden + 3 * feed_forward) * F32_BYTES;
    let formula = format!(
        "{} tokens x 2 x {kv} x {F32_BYTES} B of keys, values and their gradients + {BLOCK_ROWS} rows x 2 x (4 x {hidden} + 3 \
         x {feed_forward}) x {F32_BYTES} B",
        grouped(tokens)
    );
    Term { name: "one layer", bytes: keys.saturating_add(rows), formula }
}

fn head(config: &Config) -> Term {
    let vocab = config.vocab as u64;
    let formula =
        format!("{BLOCK_ROWS} rows x 2 x {} x {F32_BYTES} B: logits and their gradients", grouped(vocab));
    Term { name: "logits", bytes: BLOCK_ROWS * 2 * vocab * F32_BYTES, formula }
}

/// The trained matrices on one line.
pub fn trained_line(demand: &TrainingDemand) -> String {
    let parts: Vec<String> = demand
        .modules
        .iter()
        .map(|module| format!("{} x {}", grouped(module.count as u64), module.name))
        .collect();
    format!("trains {} values: {}", grouped(demand.trained), parts.join(", "))
}

/// The parts on one line.
pub fn terms_line(demand: &TrainingDemand) -> String {
    let parts: Vec<String> =
        demand.terms.iter().map(|term| format!("{} {}", term.name, Bytes(term.bytes))).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::subject::Subject;
    use super::*;

    fn lora(experts: Experts) -> Training {
        Training { method: Finetune::Lora, rank: 16, tokens: 32_768, targets: Vec::new(), experts }
    }

    fn demand(name: &str, training: &Training) -> TrainingDemand {
        let subject = Subject::find(Some(name), None).expect("a known shape");
        TrainingDemand::new(&subject.config, subject.parameters, training).expect("its matrices")
    }

    fn gigabytes(demand: &TrainingDemand, name: &str) -> f64 {
        demand.terms.iter().find(|term| term.name == name).expect("a part").bytes as f64 / 1e9
    }

    #[test]
    fn a_mixture_of_experts_takes_what_was_checked() {
        for name in ["LFM2-8B-A1B", "LFM2.5-8B-A1B"] {
            let (frozen, trained) =
                (demand(name, &lora(Experts::Frozen)), demand(name, &lora(Experts::Trained)));
            assert!((16.5..17.5).contains(&gigabytes(&frozen, "weights")), "{name}");
            assert!((0.05..0.15).contains(&gigabytes(&frozen, "adapter")), "{name}");
            assert!((1.75..1.85).contains(&gigabytes(&trained, "adapter")), "{name}");
            assert!((6.4..6.5).contains(&gigabytes(&trained, "activations")), "{name}");
            // Published guides say 52 to 63 GB.
            assert!(trained.total_bytes < 27_000_000_000, "{name}: {}", trained.total_bytes);
        }
    }

    #[test]
    fn adapters_have_as_many_values_as_published() {
        for (name, values) in [("LFM2-350M", 6.00e6), ("LFM2-1.2B", 11.1e6), ("LFM2-2.6B", 24.5e6)] {
            let demand = demand(name, &lora(Experts::Frozen));
            assert!((demand.trained as f64 / values - 1.0).abs() < 0.005, "{name}: {}", demand.trained);
        }
    }

    #[test]
    fn methods_differ_in_the_weights() {
        let of = |method| demand("LFM2-1.2B", &Training { method, ..lora(Experts::Frozen) });
        let (lora, qlora, full) = (of(Finetune::Lora), of(Finetune::Qlora), of(Finetune::Full));
        assert!((2.33..2.35).contains(&gigabytes(&lora, "weights")));
        // 134 million of the embedding in two bytes, the rest in half a byte and a little.
        assert!((0.80..0.82).contains(&gigabytes(&qlora, "weights")), "{}", gigabytes(&qlora, "weights"));
        assert!((18.7..18.8).contains(&gigabytes(&full, "weights")));
        assert_eq!(full.trained, 1_170_340_608);
        assert!(full.terms.iter().all(|term| term.name != "adapter"));
        assert_eq!(gigabytes(&lora, "activations"), gigabytes(&full, "activations"));
    }

    #[test]
    fn targets_name_matrices_or_are_refused() {
        let with = |targets: &[&str]| Training {
            targets: targets.iter().map(|&target| target.to_owned()).collect(),
            ..lora(Experts::Frozen)
        };
        let names = |targets: &[&str]| -> Vec<&'static str> {
            demand("LFM2-8B-A1B", &with(targets)).modules.iter().map(|module| module.name).collect()
        };
        assert_eq!(names(&["out_proj"]), ["self_attn.out_proj", "conv.out_proj"]);
        assert_eq!(names(&["conv.out_proj"]), ["conv.out_proj"]);
        assert_eq!(names(&["w1", "q_proj"]), ["self_attn.q_proj", "feed_forward.w1"]);
        assert_eq!(names(&["experts"]).len(), 2);
        for target in ["o_proj", "gate_proj", "up_proj", "proj"] {
            let subject = Subject::find(Some("LFM2-8B-A1B"), None).expect("a known shape");
            let error = TrainingDemand::new(&subject.config, subject.parameters, &with(&[target]));
            let message = error.expect_err(target).to_string();
            assert!(message.contains("it has self_attn.q_proj"), "{message}");
        }
        let dense = Subject::find(Some("LFM2-1.2B"), None).expect("a known shape");
        let error = TrainingDemand::new(&dense.config, dense.parameters, &lora(Experts::Trained));
        assert!(error.expect_err("no experts").to_string().contains("no experts"));
    }
}
