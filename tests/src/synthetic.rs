//! Small models with random weights in any shape and any type, as GGUF files in memory.
//!
//! Every matrix takes its rows from a few random ones of its width, which are encoded once: the encoders
//! search, and whole matrices would take longer than all the rest of a test.

use std::sync::Arc;

use undine_core::quant::{self, RandomBlocks};
use undine_core::{DType, LayerKind, MoeConfig};
use undine_model::Model;
use undine_weights::{Array, Checkpoint, GgufWriter, TensorDeclaration, Value};

/// Different rows of a width.
const ROWS: usize = 67;

/// Whether a model has something that is optional.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Has {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What to make. Matrices whose width is not a whole number of blocks are F32, as are vectors and routers.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Type of the matrices.
    pub dtype: DType,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Hidden values of a dense feed-forward.
    pub width: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Taps of the convolution.
    pub taps: usize,
    /// The layers.
    pub layers: Vec<LayerKind>,
    /// Biases of the convolution layers.
    pub conv_bias: Has,
    /// A head of its own; otherwise it is tied to the embedding.
    pub head: Has,
    /// The mixture, in all layers but the first.
    pub moe: Option<MoeConfig>,
    /// Biases of the experts' scores.
    pub expert_bias: Has,
}

impl Shape {
    /// Writes the file and binds it.
    pub fn model(&self) -> Arc<Model> {
        let mut file = File { shape: self, random: 1, pools: Vec::new(), tensors: Vec::new() };
        file.tensors();
        let declarations: Vec<_> = file.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        let mut writer =
            GgufWriter::new(Vec::new(), &self.metadata(), &declarations).expect("a valid header");
        file.tensors.iter().for_each(|(_, data)| writer.append(data).expect("as much as was declared"));
        let bytes = writer.finish().expect("every tensor is there");
        let checkpoint =
            Checkpoint::from_gguf_bytes(bytes).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        Arc::new(Model::bind(Arc::new(checkpoint)))
    }

    fn metadata(&self) -> Vec<(String, Value)> {
        let architecture = if self.moe.is_some() { "lfm2moe" } else { "lfm2" };
        let number = |n: usize| Value::U32(n as u32);
        let kv_heads = |&kind: &LayerKind| if kind == LayerKind::Conv { 0 } else { self.kv_heads as i32 };
        let mut shape = vec![
            ("block_count", number(self.layers.len())),
            ("context_length", number(4096)),
            ("embedding_length", number(self.hidden)),
            ("feed_forward_length", number(self.width)),
            ("vocab_size", number(self.vocab)),
            ("attention.head_count", number(self.heads)),
            ("attention.head_count_kv", Value::Array(Array::I32(self.layers.iter().map(kv_heads).collect()))),
            ("attention.key_length", number(self.head_dim)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("rope.freq_base", Value::F32(1e6)),
            ("shortconv.l_cache", number(self.taps)),
        ];
        if let Some(moe) = self.moe {
            shape.extend([
                ("expert_count", number(moe.experts)),
                ("expert_used_count", number(moe.experts_active)),
                ("expert_feed_forward_length", number(moe.width)),
                ("leading_dense_block_count", number(1)),
                ("expert_weights_norm", Value::Bool(moe.norm_topk_prob)),
                ("expert_weights_scale", Value::F32(moe.routed_scaling_factor)),
            ]);
        }
        let tokens = (0..self.vocab).map(|i| format!("t{i}")).collect();
        let mut metadata = vec![
            ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
            ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
            ("tokenizer.ggml.pre".to_owned(), Value::String("lfm2".to_owned())),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(Array::String(tokens))),
            ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::I32(vec![1; self.vocab]))),
            ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::String(Vec::new()))),
            ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
            ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
        ];
        metadata.extend(shape.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)));
        metadata
    }
}

/// Encoded random rows.
struct Pool {
    dtype: DType,
    cols: usize,
    rows: Vec<Vec<u8>>,
}

struct File<'a> {
    shape: &'a Shape,
    random: u64,
    pools: Vec<Pool>,
    tensors: Vec<(TensorDeclaration, Vec<u8>)>,
}

impl File<'_> {
    fn tensors(&mut self) {
        let shape = self.shape;
        self.matrix("token_embd.weight", shape.dtype, &[shape.vocab, shape.hidden]);
        self.vector("token_embd_norm.weight", &[shape.hidden], 1.0, 0.5);
        if shape.head == Has::Yes {
            self.matrix("output.weight", shape.dtype, &[shape.vocab, shape.hidden]);
        }
        for (i, kind) in shape.layers.iter().enumerate() {
            let name = |name: &str| format!("blk.{i}.{name}");
            self.vector(&name("attn_norm.weight"), &[shape.hidden], 1.0, 0.5);
            self.vector(&name("ffn_norm.weight"), &[shape.hidden], 1.0, 0.5);
            match kind {
                LayerKind::Conv => self.conv(name),
                LayerKind::FullAttention => self.attention(name),
            }
            match shape.moe.filter(|_| i > 0) {
                Some(moe) => self.experts(name, moe),
                None => {
                    self.matrix(&name("ffn_gate.weight"), shape.dtype, &[shape.width, shape.hidden]);
                    self.matrix(&name("ffn_up.weight"), shape.dtype, &[shape.width, shape.hidden]);
                    self.matrix(&name("ffn_down.weight"), shape.dtype, &[shape.hidden, shape.width]);
                }
            }
        }
    }

    fn conv(&mut self, name: impl Fn(&str) -> String) {
        let &Shape { dtype, hidden, taps, conv_bias, .. } = self.shape;
        self.matrix(&name("shortconv.in_proj.weight"), dtype, &[3 * hidden, hidden]);
        self.vector(&name("shortconv.conv.weight"), &[hidden, taps], 0.0, 1.0);
        self.matrix(&name("shortconv.out_proj.weight"), dtype, &[hidden, hidden]);
        if conv_bias == Has::Yes {
            self.vector(&name("shortconv.in_proj.bias"), &[3 * hidden], 0.0, 0.5);
            self.vector(&name("shortconv.conv.bias"), &[hidden], 0.0, 0.5);
            self.vector(&name("shortconv.out_proj.bias"), &[hidden], 0.0, 0.5);
        }
    }

    fn attention(&mut self, name: impl Fn(&str) -> String) {
        let &Shape { dtype, hidden, heads, kv_heads, head_dim, .. } = self.shape;
        self.matrix(&name("attn_q.weight"), dtype, &[heads * head_dim, hidden]);
        self.matrix(&name("attn_k.weight"), dtype, &[kv_heads * head_dim, hidden]);
        self.matrix(&name("attn_v.weight"), dtype, &[kv_heads * head_dim, hidden]);
        self.matrix(&name("attn_output.weight"), dtype, &[hidden, heads * head_dim]);
        self.vector(&name("attn_q_norm.weight"), &[head_dim], 0.8, 0.4);
        self.vector(&name("attn_k_norm.weight"), &[head_dim], 0.8, 0.4);
    }

    fn experts(&mut self, name: impl Fn(&str) -> String, moe: MoeConfig) {
        let &Shape { dtype, hidden, expert_bias, .. } = self.shape;
        self.matrix(&name("ffn_gate_inp.weight"), DType::F32, &[moe.experts, hidden]);
        self.matrix(&name("ffn_gate_exps.weight"), dtype, &[moe.experts, moe.width, hidden]);
        self.matrix(&name("ffn_up_exps.weight"), dtype, &[moe.experts, moe.width, hidden]);
        self.matrix(&name("ffn_down_exps.weight"), dtype, &[moe.experts, hidden, moe.width]);
        if expert_bias == Has::Yes {
            self.vector(&name("exp_probs_b.bias"), &[moe.experts], 0.0, 0.2);
        }
    }

    fn vector(&mut self, name: &str, shape: &[usize], center: f32, spread: f32) {
        let count = shape.iter().product();
        let data = (0..count).flat_map(|_| (center + spread * self.next()).to_le_bytes()).collect();
        self.push(name, DType::F32, shape, data);
    }

    fn matrix(&mut self, name: &str, dtype: DType, shape: &[usize]) {
        let (cols, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].iter().product());
        let dtype = if cols.is_multiple_of(dtype.block_elems()) { dtype } else { DType::F32 };
        let found = self.pools.iter().position(|pool| pool.dtype == dtype && pool.cols == cols);
        let pool = found.unwrap_or_else(|| self.add_pool(dtype, cols));
        let mut data = Vec::new();
        for _ in 0..rows {
            let row = ((self.next() + 1.0) / 2.0 * ROWS as f32) as usize % ROWS;
            data.extend_from_slice(&self.pools[pool].rows[row]);
        }
        self.push(name, dtype, shape, data);
    }

    fn add_pool(&mut self, dtype: DType, cols: usize) -> usize {
        // Of this size, products with a normed input have a variance of about 1.
        let size = (3.0 / cols as f32).sqrt();
        let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
        // Uniform values have a root mean square of `size / sqrt(3)`.
        let random = (!dtype.is_written())
            .then(|| RandomBlocks::new(dtype, size / 3f32.sqrt(), |bytes| self.fill(bytes)));
        let rows = (0..ROWS).map(|_| {
            let mut blocks = vec![0; row_bytes];
            match random {
                None => {
                    let values: Vec<f32> = (0..cols).map(|_| size * self.next()).collect();
                    quant::encode(dtype, &values, &mut blocks);
                }
                Some(random) => {
                    self.fill(&mut blocks);
                    random.mend(&mut blocks);
                }
            }
            blocks
        });
        let rows = rows.collect();
        self.pools.push(Pool { dtype, cols, rows });
        self.pools.len() - 1
    }

    fn push(&mut self, name: &str, dtype: DType, shape: &[usize], data: Vec<u8>) {
        self.tensors.push((TensorDeclaration { name: name.to_owned(), dtype, shape: shape.to_vec() }, data));
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = ((self.next() + 1.0) * 128.0) as u8);
    }

    /// A number in -1..1 (SplitMix64, Steele et al. 2014).
    fn next(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
