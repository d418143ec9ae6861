//! What `undine serve` takes for a model, term by term, each with the formula it comes from.
//!
//! Weights stay in the mapped file. Keys and values, states and what a step works in are reserved at start
//! and taken as they are first used, so these are the bytes once every sequence has been full.

use std::collections::BTreeMap;

use serde::Serialize;
use undine_core::{Config, DType, FeedForward, VisionConfig};
use undine_cpu::kernels::activations::{GROUP, groups};
use undine_cpu::{BLOCK_SIZE, KvType, pass_bytes, shared_attention_bytes};
use undine_engine::IMAGE_CACHE_BYTES;
use undine_server::MediaConfig;

use crate::format::{Bytes, grouped};
use crate::serve_load::OUTPUTS_MIN;
use crate::session;

/// Rows of a step, as `undine serve` has them.
pub const ROWS: u64 = 512;
/// Bytes of a value outside keys, values and weights.
const F32_BYTES: u64 = 4;
/// Bytes of a value in an input of quantized products: one, and of each block of 32 a scale and four sums.
const QUANTIZED_INPUT_BYTES: f64 = 1.0 + 5.0 * 4.0 / 32.0;
/// Pages of the program that are used, threads and small tables. Measured.
const PROGRAM_BYTES: u64 = 14 << 20;
/// A vocabulary entry with its merge, in the tokenizer and its tables. Measured.
const TOKEN_BYTES: u64 = 600;
/// Name of the part that holds keys and values.
pub const KV: &str = "K/V";
/// Patches of the largest tile that images are cut into as checkpoints have it, and of a step.
const TILE_PATCHES: usize = undine_engine::STEP_PATCHES;
/// Name of the part that holds images.
const IMAGES: &str = "images";
/// Most sequences looked for.
const USERS_MAX: u32 = 1 << 20;

/// How many sequences of which length, and how they are computed.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Sequences at once.
    pub users: u32,
    /// Tokens of each.
    pub context: u32,
    /// Type of keys and values.
    pub kv: KvType,
    /// Threads.
    pub threads: usize,
    /// What sees, for a model with vision.
    pub tower: Option<Tower>,
}

/// A vision tower.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tower {
    /// The shape.
    pub config: VisionConfig,
    /// Type of its matrices.
    pub dtype: DType,
}

/// One part of the memory.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Term {
    /// What it holds.
    pub name: &'static str,
    /// How much.
    pub bytes: u64,
    /// Where the number comes from.
    pub formula: String,
}

/// All of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Demand {
    /// Parts, in the order they are shown.
    pub terms: Vec<Term>,
    /// Their sum.
    pub total_bytes: u64,
}

impl Demand {
    /// What a model with weights of these types takes under a load.
    pub fn new(config: &Config, types: &BTreeMap<DType, u64>, load: Load) -> Self {
        let mut terms = vec![
            weights(types),
            keys_and_values(config, load),
            states(config, load),
            activations(config, types, load),
        ];
        terms.extend(load.tower.into_iter().flat_map(|tower| [vision(tower, load), images()]));
        terms.push(program(config));
        // A hostile configuration may multiply to more than there is anywhere.
        let total_bytes = terms.iter().fold(0_u64, |sum, term| sum.saturating_add(term.bytes));
        Self { terms, total_bytes }
    }

    /// The part of that name.
    #[cfg(test)]
    pub fn term(&self, name: &str) -> u64 {
        self.terms.iter().find(|term| term.name == name).expect("a part of every model").bytes
    }
}

fn weights(types: &BTreeMap<DType, u64>) -> Term {
    let mut parts: Vec<(&DType, &u64)> = types.iter().collect();
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let texts: Vec<_> = parts.iter().map(|(dtype, bytes)| format!("{dtype} {}", Bytes(**bytes))).collect();
    Term { name: "weights", bytes: types.values().sum(), formula: texts.join(" + ") }
}

/// Tokens of whole pages.
fn page_tokens(load: Load) -> u64 {
    u64::from(load.context.div_ceil(BLOCK_SIZE)) * u64::from(BLOCK_SIZE)
}

fn keys_and_values(config: &Config, load: Load) -> Term {
    let token = load.kv.token_bytes(config) as u64;
    let value = load.kv.head_bytes(config.head_dim) as f64 / config.head_dim as f64;
    let formula = format!(
        "{} x {} tokens x {} B; a token: {} attention layers x 2 x {} heads x {} x {value} B",
        users(load.users),
        grouped(page_tokens(load)),
        grouped(token),
        config.attention_layers(),
        config.kv_heads,
        config.head_dim,
    );
    let tokens = u64::from(load.users) * page_tokens(load);
    Term { name: KV, bytes: tokens.saturating_mul(token), formula }
}

fn users(count: u32) -> String {
    if count == 1 { "1 user".to_owned() } else { format!("{} users", grouped(count.into())) }
}

fn states(config: &Config, load: Load) -> Term {
    let state = config.conv_state_elems() as u64 * F32_BYTES;
    let snapshots = session::snapshots(load.users);
    let formula = format!(
        "({} + {} kept for reuse) x {} B; a state: {} convolutions x {} x {} x 4 B",
        users(load.users),
        grouped(snapshots.into()),
        grouped(state),
        config.conv_layers(),
        config.conv_taps - 1,
        grouped(config.hidden as u64),
    );
    Term { name: "conv state", bytes: (u64::from(load.users) + u64::from(snapshots)) * state, formula }
}

/// What a step works in: the rows between operations, whose widest place is a feed-forward, an operator or
/// the logits; the inputs of products; the pairs of rows and experts; cosines and sines; and what threads
/// that share a long context put together.
fn activations(config: &Config, types: &BTreeMap<DType, u64>, load: Load) -> Term {
    let outputs = u64::from(load.users.max(OUTPUTS_MIN));
    let (hidden, vocab) = (config.hidden as u64, config.vocab as u64);
    let kv_width = (config.kv_heads * config.head_dim) as u64;
    let query_width = (config.heads * config.head_dim) as u64;
    let dense = config.feed_forward.iter().filter_map(|feed_forward| match feed_forward {
        FeedForward::Dense { width } => Some(*width as u64),
        FeedForward::Moe => None,
    });
    let dense = dense.max().unwrap_or(0);
    let expert = config.moe.map_or(0, |moe| moe.width as u64);
    let operator = (4 * hidden).max(2 * kv_width + 2 * query_width);
    let beside = operator.max(dense);
    let in_layers = ROWS * (hidden + beside);
    // Logits take the place of the residual stream where they fit there.
    let logits = outputs * vocab;
    let in_head = if logits <= ROWS * hidden { 0 } else { ROWS * hidden + outputs * hidden + logits };
    let rows_between = in_layers.max(in_head) * F32_BYTES;
    let is_quantized = types.keys().any(|dtype| !dtype.is_float());
    // Beside quantized matrices, F32 is the type of vectors and routers.
    let is_float = !is_quantized || types.contains_key(&DType::F16) || types.contains_key(&DType::BF16);
    let input = |rows: u64, width: u64, least: u64| {
        let padded = groups(width as usize) * GROUP;
        let quantized = if is_quantized { (padded as f64 * QUANTIZED_INPUT_BYTES) as u64 } else { 0 };
        let floats = if is_float { width } else { least };
        rows * (floats * F32_BYTES + quantized)
    };
    let inputs = input(ROWS.max(outputs), hidden.max(query_width).max(dense).max(expert), hidden);
    let experts = config.moe.map_or(0, |moe| {
        let (active, all) = (moe.experts_active as u64, moe.experts as u64);
        let numbers = ROWS * all + ROWS * active * (4 + expert + hidden) + all + 1;
        numbers * F32_BYTES + input(ROWS * active, hidden.max(expert), 0)
    });
    let rotary = ROWS * config.head_dim as u64 * F32_BYTES;
    let pages = u64::from(load.users) * page_tokens(load) / u64::from(BLOCK_SIZE);
    let shared = shared_attention_bytes(config, pages as usize, load.threads) as u64;
    let place = match in_head > in_layers {
        true => format!("({ROWS} x {hidden} + {outputs} x ({hidden} + {vocab})) x 4 B"),
        false => format!("{ROWS} rows x ({hidden} + {beside}) x 4 B"),
    };
    let inputs_shown = Bytes(inputs + rotary);
    let experts_shown = if experts > 0 { format!(" + experts {}", Bytes(experts)) } else { String::new() };
    let formula =
        format!("{place} + inputs {inputs_shown}{experts_shown} + shared attention {}", Bytes(shared));
    Term { name: "activations", bytes: rows_between + inputs + experts + rotary + shared, formula }
}

/// What the tower works in, for a full tile at a time.
fn vision(tower: Tower, load: Load) -> Term {
    let bytes = pass_bytes(&tower.config, [DType::F32, tower.dtype], TILE_PATCHES, load.threads);
    let VisionConfig { width, feed_forward, downsample, projector, hidden, .. } = tower.config;
    let tokens = TILE_PATCHES / (downsample * downsample);
    let formula = format!(
        "{} patches x (5 x {width} + {feed_forward}) x 4 B + {tokens} tokens x ({} + {projector} + {hidden}) x 4 B + \
         inputs, packed keys and values, positions",
        grouped(TILE_PATCHES as u64),
        tower.config.token_elems(),
    );
    Term { name: "vision", bytes: bytes as u64, formula }
}

/// Images that are kept for the next question, once there have been so many.
fn images() -> Term {
    let pixels = MediaConfig::default().cache_bytes_max as u64;
    let formula = format!(
        "at most {} as the model sees them (--image-cache-memory-bytes) + {} of pixels (--mm-processor-cache-gb)",
        Bytes(IMAGE_CACHE_BYTES),
        Bytes(pixels)
    );
    Term { name: IMAGES, bytes: IMAGE_CACHE_BYTES + pixels, formula }
}

fn program(config: &Config) -> Term {
    let vocab = config.vocab as u64;
    let formula =
        format!("measured: {} and a tokenizer of {} x {TOKEN_BYTES} B", Bytes(PROGRAM_BYTES), grouped(vocab));
    Term { name: "program", bytes: PROGRAM_BYTES + vocab * TOKEN_BYTES, formula }
}

/// The longest context, in whole pages and at most the model's, that fits `bytes` with the users of `load`.
pub fn longest_context(config: &Config, types: &BTreeMap<DType, u64>, load: Load, bytes: u64) -> Option<u32> {
    let model = u32::try_from(config.context_max).unwrap_or(u32::MAX);
    let fits = |context| Demand::new(config, types, Load { context, ..load }).total_bytes <= bytes;
    let pages = largest(model.div_ceil(BLOCK_SIZE), |pages| fits((pages * BLOCK_SIZE).min(model)))?;
    Some((pages * BLOCK_SIZE).min(model))
}

/// The most users with the context of `load` that fit `bytes`.
pub fn most_users(config: &Config, types: &BTreeMap<DType, u64>, load: Load, bytes: u64) -> Option<u32> {
    largest(USERS_MAX, |users| Demand::new(config, types, Load { users, ..load }).total_bytes <= bytes)
}

/// The largest of `1..=max` that holds, given that all smaller ones do too.
fn largest(max: u32, holds: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut low, mut high) = (0, max);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) { low = middle } else { high = middle - 1 }
    }
    (low > 0).then_some(low)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use undine_cpu::{CpuExecutor, CpuOptions, Isa};

    use super::super::subject::Subject;
    use super::*;
    use crate::args::SynthArgs;
    use crate::synth;

    /// Published parameter counts, and by hand from the published shapes: attention layers x 1024 values of
    /// keys and values a token, convolutions x 2 x hidden values of state.
    const SHAPES: [(&str, u64, u64, u64); 9] = [
        ("LFM2.5-230M", 229_693_184, 12_288, 65_536),
        ("LFM2-350M", 354_483_968, 12_288, 81_920),
        ("LFM2-700M", 742_489_344, 12_288, 122_880),
        ("LFM2-1.2B", 1_170_340_608, 12_288, 163_840),
        ("LFM2-2.6B", 2_569_272_320, 16_384, 360_448),
        ("LFM2.5-2.6B", 2_697_198_592, 16_384, 360_448),
        ("LFM2-8B-A1B", 8_339_930_560, 12_288, 294_912),
        ("LFM2.5-8B-A1B", 8_467_856_832, 12_288, 294_912),
        ("LFM2-24B-A2B", 23_843_661_440, 20_480, 491_520),
    ];

    /// Sizes of published files in 10^9 bytes, as their pages and guides give them.
    const FILES: [(&str, &str, f64); 13] = [
        ("LFM2-24B-A2B", "Q4_0", 13.5),
        ("LFM2-24B-A2B", "Q4_K_M", 14.4),
        ("LFM2-24B-A2B", "Q5_K_M", 16.9),
        ("LFM2-24B-A2B", "Q6_K", 19.6),
        ("LFM2-24B-A2B", "Q8_0", 25.4),
        ("LFM2-24B-A2B", "F16", 47.7),
        ("LFM2.5-8B-A1B", "Q4_0", 4.84),
        ("LFM2.5-8B-A1B", "Q4_K_M", 5.16),
        ("LFM2.5-8B-A1B", "Q5_K_M", 6.03),
        ("LFM2.5-8B-A1B", "Q6_K", 6.96),
        ("LFM2.5-8B-A1B", "Q8_0", 9.01),
        ("LFM2.5-8B-A1B", "BF16", 16.9),
        ("LFM2.5-2.6B", "Q8_0", 2.874_779_456),
    ];

    fn load(users: u32, context: u32) -> Load {
        Load { users, context, kv: KvType::F16, threads: 2, tower: None }
    }

    #[test]
    fn shapes_take_what_was_computed_by_hand() {
        for (name, parameters, kv_token, state) in SHAPES {
            let subject = Subject::find(Some(name), None).expect("a known shape");
            assert_eq!(subject.parameters, parameters, "{name}");
            let of = |load| Demand::new(&subject.config, &subject.chosen.types, load);
            assert_eq!(of(load(3, 32_768)).term("K/V"), 3 * 32_768 * kv_token, "{name}");
            // Pages of 32 tokens.
            assert_eq!(of(load(1, 33)).term("K/V"), 64 * kv_token, "{name}");
            let bytes = Load { kv: KvType::Q8_0, ..load(1, 32) };
            assert_eq!(
                of(bytes).term("K/V"),
                32 * kv_token * 17 / 32,
                "{name}: a byte, and a scale for 64 of them"
            );
            // Each user's, four snapshots of each, and twelve more.
            assert_eq!(of(load(5, 32)).term("conv state"), (5 + 5 * 4 + 12) * state, "{name}");
        }
    }

    #[test]
    fn weights_are_as_large_as_published_files() {
        for (name, mix, gigabytes) in FILES {
            let subject = Subject::find(Some(name), mix.parse().ok()).expect("a known shape");
            let ratio = subject.chosen.bytes() as f64 / 1e9 / gigabytes;
            assert!((0.98..1.01).contains(&ratio), "{name} {mix}: {ratio}");
        }
    }

    #[test]
    fn the_executor_reserves_what_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        for (shape, mix, load) in [
            ("tiny", "Q4_K_M", load(1, 1000)),
            ("tiny", "F16", Load { kv: KvType::F32, ..load(9, 64) }),
            ("tiny-moe", "Q8_0", Load { kv: KvType::Q8_0, threads: 1, ..load(3, 4096) }),
            ("tiny-moe", "Q4_0", load(200, 32)),
            // The logits of so many sequences take more room than any layer.
            ("tiny", "Q4_0", load(700, 32)),
            ("LFM2.5-230M", "Q4_0", load(2, 2048)),
        ] {
            let path = folder.path().join("model.gguf");
            let mix = mix.parse().expect("a type");
            let name = Some(shape.to_owned());
            synth::run(&SynthArgs { shape: name, mix, output: Some(path.clone()), seed: 0, list: false })
                .expect("writes");
            let subject = Subject::find(path.to_str(), None).expect("opens");
            let demand = Demand::new(&subject.config, &subject.chosen.types, load);
            let known = Subject::find(Some(shape), Some(mix)).expect("a known shape");
            assert_eq!(known.chosen.types, subject.chosen.types, "{shape}: planned and written");
            let model = Arc::clone(subject.model.as_ref().expect("the weights are there"));
            let options = CpuOptions {
                threads: load.threads,
                blocks: load.users * load.context.div_ceil(BLOCK_SIZE),
                slots: load.users,
                snapshots: session::snapshots(load.users),
                rows: ROWS as u32,
                outputs: load.users.max(OUTPUTS_MIN),
                kv: load.kv,
                huge_pages: false,
                isa: Isa::detect(),
            };
            let reserved = CpuExecutor::new(Arc::clone(&model), options).expect("runs").reserved_bytes();
            // Keys of each layer begin at a cache line.
            let alignment = 64 * subject.config.attention_layers();
            assert_eq!(demand.term("K/V"), (reserved.kv - alignment) as u64, "{shape} {load:?}");
            let states = (reserved.states + reserved.snapshots) as u64;
            assert_eq!(demand.term("conv state"), states, "{shape} {load:?}");
            assert_eq!(demand.term("activations"), reserved.activations as u64, "{shape} {load:?}");
        }
    }

    #[test]
    fn no_configuration_is_too_large_to_be_sized() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        let layers = vec!["full_attention"; 256];
        let text = serde_json::json!({
            "model_type": "lfm2_moe", "hidden_size": 1 << 20, "num_attention_heads": 1 << 10, "num_key_value_heads": 1 << 10,
            "vocab_size": 1 << 21, "layer_types": layers, "max_position_embeddings": 1 << 26, "intermediate_size": 1 << 20,
            "num_experts": 512, "num_experts_per_tok": 512, "moe_intermediate_size": 1 << 20, "num_dense_layers": 1,
        });
        std::fs::write(&path, text.to_string()).expect("writes");
        let subject = Subject::find(path.to_str(), "F32".parse().ok()).expect("within every limit");
        let (config, types) = (&subject.config, &subject.chosen.types);
        let most = Load { kv: KvType::F32, ..load(u32::MAX, 1 << 26) };
        assert_eq!(Demand::new(config, types, most).total_bytes, u64::MAX);
        assert_eq!(most_users(config, types, load(1, 1 << 26), 1 << 40), None);
    }

    #[test]
    fn what_fits_is_the_most_that_does() {
        let subject = Subject::find(Some("LFM2-1.2B"), None).expect("a known shape");
        let (config, types) = (&subject.config, &subject.chosen.types);
        let total = |load| Demand::new(config, types, load).total_bytes;
        let bytes = total(load(4, 8192));
        assert_eq!(longest_context(config, types, load(4, 1), bytes), Some(8192));
        assert_eq!(longest_context(config, types, load(4, 1), bytes - 1), Some(8192 - 32));
        assert_eq!(most_users(config, types, load(1, 8192), bytes), Some(4));
        assert_eq!(most_users(config, types, load(1, 8192), bytes - 1), Some(3));
        assert_eq!(most_users(config, types, load(1, 32), 1 << 20), None, "not even the weights");
        assert_eq!(longest_context(config, types, load(1, 1), u64::MAX), Some(128_000), "the model's");
    }
}
