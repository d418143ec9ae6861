//! The tensors of a shape with their types, in the order they are written, and the file's metadata.

use undine_core::DType;
use undine_quantize::{Circumstances, Mix, Place, Role};
use undine_weights::{Array, TensorDeclaration, Value};

use super::shapes::Shape;

/// How the name of a file ends whose weights are random.
pub const RANDOM_WEIGHTS: &str = "(random weights)";

/// How a tensor's values are made.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fill {
    /// All ones: a norm.
    Ones,
    /// Random with this standard deviation.
    Random {
        /// Root mean square.
        deviation: f32,
    },
}

/// A tensor to write.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Name, type and shape.
    pub declaration: TensorDeclaration,
    /// Its values.
    pub fill: Fill,
}

/// Standard deviation of a router's bias: small beside the spread of a sigmoid.
const EXPERT_BIAS_DEVIATION: f32 = 0.01;

/// Collects tensors.
struct Planner<'a> {
    shape: &'a Shape,
    mix: Mix,
    tensors: Vec<Tensor>,
}

impl Planner<'_> {
    /// A matrix or a stack of them, outermost dimension first; its values keep the magnitude of what goes
    /// through it.
    fn matrix(&mut self, name: String, shape: Vec<usize>, role: Role, place: Place) {
        let dtype =
            self.mix.dtype(role, place, Circumstances { imatrix: false, experts: self.shape.moe.is_some() });
        self.random(name, shape, dtype);
    }

    /// As [`Self::matrix`], for those that are F32 in every file: convolution filters and routers.
    fn small(&mut self, name: String, shape: Vec<usize>) {
        self.random(name, shape, DType::F32);
    }

    fn random(&mut self, name: String, shape: Vec<usize>, dtype: DType) {
        let cols = *shape.last().expect("a matrix has columns");
        let fill = Fill::Random { deviation: 1.0 / (cols as f32).sqrt() };
        self.tensors.push(Tensor { declaration: TensorDeclaration { name, dtype, shape }, fill });
    }

    fn norm(&mut self, name: String, width: usize) {
        let declaration = TensorDeclaration { name, dtype: DType::F32, shape: vec![width] };
        self.tensors.push(Tensor { declaration, fill: Fill::Ones });
    }

    fn layer(&mut self, layer: usize, attention: Place) {
        let shape = self.shape;
        let place = Place { index: layer, count: shape.pattern.len() };
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (hidden, head_dim) = (shape.hidden, shape.head_dim());
        let kv_width = shape.kv_heads * head_dim;
        self.norm(name("attn_norm"), hidden);
        if shape.pattern.as_bytes()[layer] == b'a' {
            self.matrix(name("attn_q"), vec![hidden, hidden], Role::Matrix, place);
            self.matrix(name("attn_k"), vec![kv_width, hidden], Role::Matrix, place);
            self.matrix(name("attn_v"), vec![kv_width, hidden], Role::Value, attention);
            self.matrix(name("attn_output"), vec![hidden, hidden], Role::AttentionOut, place);
            self.norm(name("attn_q_norm"), head_dim);
            self.norm(name("attn_k_norm"), head_dim);
        } else {
            self.matrix(name("shortconv.in_proj"), vec![3 * hidden, hidden], Role::Matrix, place);
            self.small(name("shortconv.conv"), vec![hidden, shape.conv_taps]);
            self.matrix(name("shortconv.out_proj"), vec![hidden, hidden], Role::Matrix, place);
        }
        self.norm(name("ffn_norm"), hidden);
        match shape.moe {
            Some(moe) if layer >= moe.dense_layers => {
                let (experts, width) = (moe.experts, moe.width);
                self.small(name("ffn_gate_inp"), vec![experts, hidden]);
                let bias = TensorDeclaration {
                    name: format!("blk.{layer}.exp_probs_b.bias"),
                    dtype: DType::F32,
                    shape: vec![experts],
                };
                let fill = Fill::Random { deviation: EXPERT_BIAS_DEVIATION };
                self.tensors.push(Tensor { declaration: bias, fill });
                self.matrix(name("ffn_gate_exps"), vec![experts, width, hidden], Role::Matrix, place);
                self.matrix(name("ffn_up_exps"), vec![experts, width, hidden], Role::Matrix, place);
                self.matrix(name("ffn_down_exps"), vec![experts, hidden, width], Role::Down, place);
            }
            _ => {
                let width = shape.feed_forward;
                self.matrix(name("ffn_gate"), vec![width, hidden], Role::Matrix, place);
                self.matrix(name("ffn_up"), vec![width, hidden], Role::Matrix, place);
                self.matrix(name("ffn_down"), vec![hidden, width], Role::Down, place);
            }
        }
    }
}

/// Every tensor of `shape` in a file of type `mix`.
pub fn tensors(shape: &Shape, mix: Mix) -> Vec<Tensor> {
    let mut planner = Planner { shape, mix, tensors: Vec::new() };
    let whole = Place { index: 0, count: 1 };
    planner.matrix("token_embd.weight".to_owned(), vec![shape.vocab, shape.hidden], Role::Head, whole);
    planner.norm("token_embd_norm.weight".to_owned(), shape.hidden);
    let mut attention = Place { index: 0, count: shape.pattern.matches('a').count() };
    for (layer, kind) in shape.pattern.chars().enumerate() {
        planner.layer(layer, attention);
        attention.index += usize::from(kind == 'a');
    }
    planner.tensors
}

/// The configuration as GGUF metadata; the vocabulary is added by the caller. `name` is which model of the
/// shape it is.
pub fn metadata(shape: &Shape, name: &str, mix: Mix) -> Vec<(String, Value)> {
    let architecture = if shape.moe.is_some() { "lfm2moe" } else { "lfm2" };
    let mut pairs = vec![
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.name".to_owned(), Value::String(format!("{name} {RANDOM_WEIGHTS}"))),
        ("general.file_type".to_owned(), Value::U32(mix.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION)),
    ];
    let mut put = |key: &str, value: Value| pairs.push((format!("{architecture}.{key}"), value));
    let count = |n: usize| Value::U32(n as u32);
    let heads = shape.pattern.chars().map(|kind| if kind == 'a' { shape.kv_heads as i32 } else { 0 });
    put("block_count", count(shape.pattern.len()));
    put("context_length", Value::U32(shape.context));
    put("embedding_length", count(shape.hidden));
    put("feed_forward_length", count(shape.feed_forward));
    put("attention.head_count", count(shape.heads));
    put("attention.head_count_kv", Value::Array(Array::I32(heads.collect())));
    put("attention.layer_norm_rms_epsilon", Value::F32(shape.norm_eps));
    put("rope.freq_base", Value::F32(shape.rope_theta));
    put("vocab_size", count(shape.vocab));
    put("shortconv.l_cache", count(shape.conv_taps));
    if let Some(moe) = shape.moe {
        put("expert_count", count(moe.experts));
        put("expert_used_count", count(moe.experts_active));
        put("expert_feed_forward_length", count(moe.width));
        put("leading_dense_block_count", count(moe.dense_layers));
        put("expert_gating_func", Value::U32(GATING_SIGMOID));
    }
    pairs
}

/// `general.quantization_version` of today's block layouts.
const QUANTIZATION_VERSION: u32 = 2;
/// GGUF's number for routers with a sigmoid.
const GATING_SIGMOID: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::shapes;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for (name, published) in [
            ("LFM2.5-230M", 229_693_184),
            ("LFM2-350M", 354_483_968),
            ("LFM2-700M", 742_489_344),
            ("LFM2-1.2B", 1_170_340_608),
            ("LFM2-2.6B", 2_569_272_320),
            ("LFM2.5-2.6B", 2_697_198_592),
            ("LFM2-8B-A1B", 8_339_930_560),
            ("LFM2.5-8B-A1B", 8_467_856_832),
            ("LFM2-24B-A2B", 23_843_661_440_usize),
        ] {
            let shape = shapes::find(name).expect("carried");
            let tensors = tensors(&shape, Mix::F16);
            let total: usize =
                tensors.iter().map(|tensor| tensor.declaration.shape.iter().product::<usize>()).sum();
            assert_eq!(total, published, "{name}");
        }
    }

    #[test]
    fn a_1_2b_q8_0_has_as_many_tensors_of_each_type_as_the_published_file() {
        let tensors = tensors(&shapes::find("LFM2-1.2B").expect("carried"), Mix::Q8_0);
        let floats = tensors.iter().filter(|tensor| tensor.declaration.dtype == DType::F32).count();
        assert_eq!((tensors.len(), floats), (148, 55));
    }
}
