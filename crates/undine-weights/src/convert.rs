//! Any opened checkpoint as a GGUF file.

use std::num::NonZero;
use std::path::Path;
use std::thread::{self, available_parallelism};

use undine_core::{Config, DType, FeedForward, LayerKind, SpecialTokens, Vocabulary, quant};

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::config_gguf::{ARCHITECTURE_DENSE, ARCHITECTURE_MOE, GATING_SIGMOID};
use crate::gguf_write::{GgufWriter, TensorDeclaration};
use crate::names::{Names, gguf_packed};
use crate::tokenizer_json::gguf_vocabulary;
use crate::value::{Array, Value};
use crate::weight::{ExpertPart, LayerWeight, Weight, WeightName};

/// Values converted at a time by all threads together: bounds memory, whatever the model's size.
const CHUNK_ELEMS: usize = 1 << 22;
/// `general.quantization_version` of today's block layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// Every weight a layer can have, in the order a layer uses them.
const LAYER_WEIGHTS: [LayerWeight; 19] = [
    LayerWeight::OperatorNorm,
    LayerWeight::ConvIn,
    LayerWeight::ConvInBias,
    LayerWeight::Conv,
    LayerWeight::ConvBias,
    LayerWeight::ConvOut,
    LayerWeight::ConvOutBias,
    LayerWeight::Query,
    LayerWeight::Key,
    LayerWeight::Value,
    LayerWeight::AttentionOut,
    LayerWeight::QueryNorm,
    LayerWeight::KeyNorm,
    LayerWeight::FfnNorm,
    LayerWeight::Gate,
    LayerWeight::Up,
    LayerWeight::Down,
    LayerWeight::Router,
    LayerWeight::ExpertBias,
];

/// Writes `checkpoint` to a GGUF file at `out`: its weights, configuration, vocabulary, special tokens, chat template and
/// sampling defaults. `out` appears when everything is written.
///
/// `dtype_of` chooses the type of each matrix from its GGUF name and its present form (for experts, which become one tensor
/// per layer and part, that of the first expert). Norms, convolution filters, biases and routers are always F32.
///
/// # Errors
/// If rows are not whole blocks of the chosen type, the vocabulary cannot be expressed in GGUF, or the system refuses.
pub fn write_gguf(
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str, &Weight) -> DType,
    out: &Path,
) -> Result<(), Error> {
    let tensors = plan(checkpoint, dtype_of);
    let declarations: Vec<_> = tensors.iter().map(|tensor| tensor.declaration.clone()).collect();
    let metadata = metadata(checkpoint, &declarations)?;
    let mut writer = GgufWriter::create(out, &metadata, &declarations)?;
    let mut scratch = Scratch::default();
    for tensor in &tensors {
        for weight in &tensor.weights {
            convert(checkpoint, weight, tensor.declaration.dtype, &mut scratch, &mut writer)?;
        }
    }
    writer.commit()
}

/// A tensor to write and the weights it is made of, in order.
struct Planned {
    declaration: TensorDeclaration,
    weights: Vec<Weight>,
}

fn plan(checkpoint: &Checkpoint, dtype_of: impl Fn(&str, &Weight) -> DType) -> Vec<Planned> {
    let mut tensors = Vec::new();
    let mut add = |name: WeightName| {
        let Some(weight) = checkpoint.weight(name) else { return };
        let gguf_name = Names::Gguf.spellings(name).swap_remove(0);
        let dtype = if always_f32(name) { DType::F32 } else { dtype_of(&gguf_name, &weight) };
        let shape = if weight.rows == 1 { vec![weight.cols] } else { vec![weight.rows, weight.cols] };
        let declaration = TensorDeclaration { name: gguf_name, dtype, shape };
        tensors.push(Planned { declaration, weights: vec![weight] });
    };
    [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head].into_iter().for_each(&mut add);
    for layer in 0..checkpoint.config().layers.len() {
        LAYER_WEIGHTS.into_iter().for_each(|part| add(WeightName::Layer(layer, part)));
    }
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    for layer in 0..checkpoint.config().layers.len() {
        for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
            let weight = |expert| checkpoint.weight(WeightName::Expert { layer, expert, part });
            let weights: Vec<Weight> = (0..experts).filter_map(weight).collect();
            let Some(first) = weights.first() else { continue };
            let name = gguf_packed(layer, part);
            let dtype = dtype_of(&name, first);
            let shape = vec![weights.len(), first.rows, first.cols];
            tensors.push(Planned { declaration: TensorDeclaration { name, dtype, shape }, weights });
        }
    }
    tensors
}

/// Weights every reader expects in F32: small, and read value by value.
fn always_f32(name: WeightName) -> bool {
    match name {
        WeightName::FinalNorm => true,
        WeightName::Layer(_, part) => part == LayerWeight::Router || part.is_float_only(),
        WeightName::TokenEmbedding | WeightName::Head | WeightName::Expert { .. } => false,
    }
}

/// Memory reused from chunk to chunk.
#[derive(Default)]
pub(crate) struct Scratch {
    values: Vec<f32>,
    blocks: Vec<u8>,
}

/// Appends a weight in type `dtype`.
pub(crate) fn convert<W: std::io::Write>(
    checkpoint: &Checkpoint,
    weight: &Weight,
    dtype: DType,
    scratch: &mut Scratch,
    writer: &mut GgufWriter<W>,
) -> Result<(), Error> {
    let bytes = checkpoint.bytes(weight);
    if weight.dtype == dtype {
        return writer.append(bytes);
    }
    let row_bytes = |dtype: DType| dtype.row_bytes(weight.cols).expect("shapes were checked when declared");
    let (row_bytes_in, row_bytes_out) = (row_bytes(weight.dtype), row_bytes(dtype));
    let rows_max = (CHUNK_ELEMS / weight.cols).max(1);
    let threads = available_parallelism().map_or(1, NonZero::get);
    for chunk in bytes.chunks(rows_max * row_bytes_in) {
        let rows = chunk.len() / row_bytes_in;
        scratch.values.resize(rows * weight.cols, 0.0);
        scratch.blocks.resize(rows * row_bytes_out, 0);
        // Rows are independent, so the result does not depend on the number of threads.
        let rows_each = rows.div_ceil(threads);
        let values = scratch.values.chunks_mut(rows_each * weight.cols);
        let blocks = scratch.blocks.chunks_mut(rows_each * row_bytes_out);
        thread::scope(|scope| {
            for ((from, values), to) in chunk.chunks(rows_each * row_bytes_in).zip(values).zip(blocks) {
                scope.spawn(|| {
                    quant::decode(weight.dtype, from, values);
                    quant::encode(dtype, values, to);
                });
            }
        });
        writer.append(&scratch.blocks)?;
    }
    Ok(())
}

fn metadata(checkpoint: &Checkpoint, tensors: &[TensorDeclaration]) -> Result<Vec<(String, Value)>, Error> {
    let config = checkpoint.config();
    let mut entries = Entries(Vec::new());
    let architecture = if config.moe.is_some() { ARCHITECTURE_MOE } else { ARCHITECTURE_DENSE };
    entries.text("general.architecture", architecture);
    entries.text("general.type", "model");
    entries.text("general.name", checkpoint.name());
    entries.put("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    if let Some(file_type) = file_type(tensors) {
        entries.put("general.file_type", Value::U32(file_type));
    }
    let sampling = checkpoint.sampling_defaults();
    for (key, value) in [
        ("temp", sampling.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("penalty_repeat", sampling.repetition_penalty),
    ] {
        entries.optional(&format!("general.sampling.{key}"), value.map(Value::F32));
    }
    let top_k = sampling.top_k.map(|k| Value::I32(i32::try_from(k).unwrap_or(i32::MAX)));
    entries.optional("general.sampling.top_k", top_k);
    shape(&mut entries, architecture, config);
    vocabulary(&mut entries, checkpoint)?;
    special_tokens(&mut entries, checkpoint.special_tokens());
    entries.optional(
        "tokenizer.chat_template",
        checkpoint.chat_template().map(|text| Value::String(text.to_owned())),
    );
    Ok(entries.0)
}

struct Entries(Vec<(String, Value)>);

impl Entries {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push((key.to_owned(), value));
    }

    fn optional(&mut self, key: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, Value::String(text.to_owned()));
    }
}

fn shape(entries: &mut Entries, architecture: &str, config: &Config) {
    // Limits checked at open keep every count far below 2^32.
    let count = |n: usize| Value::U32(n as u32);
    let kv_heads = |kind: &LayerKind| match kind {
        LayerKind::Conv => 0,
        LayerKind::FullAttention => config.kv_heads as i32,
    };
    let width = |feed_forward: &FeedForward| match feed_forward {
        FeedForward::Dense { width } => Some(*width),
        FeedForward::Moe => None,
    };
    let dense_layers = config.feed_forward.iter().take_while(|&layer| width(layer).is_some()).count();
    let expert_width = config.moe.map_or(0, |moe| moe.width);
    let dense_width = config.feed_forward.iter().find_map(width).unwrap_or(expert_width);
    let mut values = vec![
        ("block_count", count(config.layers.len())),
        ("context_length", count(config.context_max)),
        ("embedding_length", count(config.hidden)),
        ("feed_forward_length", count(dense_width)),
        ("vocab_size", count(config.vocab)),
        ("attention.head_count", count(config.heads)),
        ("attention.head_count_kv", Value::Array(Array::I32(config.layers.iter().map(kv_heads).collect()))),
        ("attention.key_length", count(config.head_dim)),
        ("attention.value_length", count(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps)),
        ("rope.freq_base", Value::F32(config.rope_theta)),
        ("shortconv.l_cache", count(config.conv_taps)),
    ];
    if let Some(moe) = config.moe {
        values.extend([
            ("expert_count", count(moe.experts)),
            ("expert_used_count", count(moe.experts_active)),
            ("expert_feed_forward_length", count(moe.width)),
            ("leading_dense_block_count", count(dense_layers)),
            ("expert_gating_func", Value::U32(GATING_SIGMOID)),
            ("expert_weights_norm", Value::Bool(moe.norm_topk_prob)),
            ("expert_weights_scale", Value::F32(moe.routed_scaling_factor)),
        ]);
    }
    values.into_iter().for_each(|(key, value)| entries.put(&format!("{architecture}.{key}"), value));
}

fn vocabulary(entries: &mut Entries, checkpoint: &Checkpoint) -> Result<(), Error> {
    let vocab = checkpoint.config().vocab;
    let converted = match checkpoint.vocabulary() {
        Vocabulary::None => return Ok(()),
        Vocabulary::HuggingFace(bytes) => gguf_vocabulary(bytes, vocab)?,
        gguf => gguf.clone(),
    };
    if let Vocabulary::Gguf { tokens, kinds, merges, pre } = converted {
        entries.text("tokenizer.ggml.model", "gpt2");
        entries.text("tokenizer.ggml.pre", &pre);
        entries.put("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));
        entries.put("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds)));
        entries.put("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
    }
    Ok(())
}

fn special_tokens(entries: &mut Entries, tokens: &SpecialTokens) {
    entries.optional("tokenizer.ggml.bos_token_id", tokens.bos.map(Value::U32));
    entries.optional("tokenizer.ggml.eos_token_id", tokens.eos.first().copied().map(Value::U32));
    if tokens.eos.len() > 1 {
        entries.put("tokenizer.ggml.eos_token_ids", Value::Array(Array::U32(tokens.eos.clone())));
    }
    entries.optional("tokenizer.ggml.padding_token_id", tokens.pad.map(Value::U32));
    entries.optional("tokenizer.ggml.add_bos_token", tokens.add_bos.map(Value::Bool));
}

/// `general.file_type`: the number other programs know for the type most values have. Source: llama.cpp's public header.
fn file_type(tensors: &[TensorDeclaration]) -> Option<u32> {
    let elems = |dtype: DType| -> usize {
        tensors
            .iter()
            .filter(|tensor| tensor.dtype == dtype)
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum()
    };
    let most = DType::ALL.iter().copied().max_by_key(|&dtype| elems(dtype))?;
    Some(match most {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q2_K => 10,
        DType::Q3_K => 12,
        DType::Q4_K => 15,
        DType::Q5_K => 17,
        DType::Q6_K => 18,
        DType::IQ4_NL => 25,
        DType::IQ4_XS => 30,
        DType::BF16 => 32,
    })
}
