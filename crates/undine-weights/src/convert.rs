//! Any opened checkpoint as a GGUF file.

use std::path::Path;

use undine_core::{Config, DType, FeedForward, LayerKind, SpecialTokens, Vocabulary};

use crate::Error;
use crate::chat_templates::gguf_key;
use crate::checkpoint::Checkpoint;
use crate::config_gguf::{ARCHITECTURE_DENSE, ARCHITECTURE_MOE, GATING_SIGMOID};
use crate::names::{gguf_name, gguf_packed};
use crate::source::{Source, SourceTensor, TensorRole};
use crate::tokenizer_json::gguf_vocabulary;
use crate::value::{Array, Value};
use crate::weight::{ExpertPart, LayerWeight, Weight, WeightName};

/// Writes `checkpoint` to a GGUF file at `out`: its weights, configuration, vocabulary, special tokens, chat
/// template and sampling defaults. `out` appears when everything is written.
///
/// `dtype_of` chooses the type of each matrix from its GGUF name and its present form (for experts, which
/// become one tensor per layer and part, that of the first expert). Norms, convolution filters, biases and
/// routers are always F32.
///
/// # Errors
/// If rows are not whole blocks of the chosen type, the vocabulary cannot be expressed in GGUF, or the system
/// refuses.
pub fn write_gguf(
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str, &Weight) -> DType,
    out: &Path,
) -> Result<(), Error> {
    Source::language(checkpoint)?.write_as(dtype_of, out)
}

/// The tensors of the language model, in the order they are written.
pub(crate) fn tensors(checkpoint: &Checkpoint) -> Vec<SourceTensor> {
    let mut tensors = Vec::new();
    let mut add = |name: WeightName| {
        let Some(weight) = checkpoint.weight(name) else { return };
        let shape = if weight.rows == 1 { vec![weight.cols] } else { vec![weight.rows, weight.cols] };
        tensors.push(SourceTensor {
            name: gguf_name(name),
            shape,
            role: TensorRole::Text(name),
            parts: vec![weight],
        });
    };
    [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head].into_iter().for_each(&mut add);
    for layer in 0..checkpoint.config().layers.len() {
        LayerWeight::ALL.into_iter().for_each(|part| add(WeightName::Layer(layer, part)));
    }
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    for layer in 0..checkpoint.config().layers.len() {
        for part in ExpertPart::ALL {
            let weight = |expert| checkpoint.weight(WeightName::Expert { layer, expert, part });
            let parts: Vec<Weight> = (0..experts).filter_map(weight).collect();
            let Some(first) = parts.first() else { continue };
            let shape = vec![parts.len(), first.rows, first.cols];
            let role = TensorRole::Text(WeightName::Expert { layer, expert: 0, part });
            tensors.push(SourceTensor { name: gguf_packed(layer, part), shape, role, parts });
        }
    }
    tensors
}

/// Metadata but for the types of the tensors.
pub(crate) fn metadata(checkpoint: &Checkpoint) -> Result<Vec<(String, Value)>, Error> {
    let config = checkpoint.config();
    let mut entries = Entries(Vec::new());
    let architecture = if config.moe.is_some() { ARCHITECTURE_MOE } else { ARCHITECTURE_DENSE };
    entries.text("general.architecture", architecture);
    entries.text("general.type", "model");
    entries.text("general.name", checkpoint.name());
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
    for (name, template) in checkpoint.chat_templates().iter() {
        entries.text(&gguf_key(name), template);
    }
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
