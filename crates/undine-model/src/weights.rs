//! Binding: from a validated checkpoint to the handles the model is recorded with.
//!
//! Matrices stay where they are, in the mapped file. Vectors (norms, filters, biases) are small and become
//! f32.

use std::ops::Range;
use std::sync::Arc;

use undine_core::{Config, DType, FeedForward, LayerKind};
use undine_weights::{Checkpoint, ExpertPart, LayerWeight, Weight, WeightName};

use crate::recorder::{Experts, Linear, MatrixId, Moe, Qkv, ShortConv, Swiglu, VectorId};
use crate::store::WeightStore;

/// The operator of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operator {
    /// Gated short convolution.
    ShortConv(ShortConv),
    /// Grouped-query attention.
    Attention(Qkv),
}

/// The feed-forward of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum BoundFeedForward {
    /// SwiGLU and its projection back, `hidden x width`.
    Dense {
        /// Norm, gate and up.
        swiglu: Swiglu,
        /// Down.
        down: Linear,
    },
    /// Mixture of experts.
    Moe(Moe),
}

/// One layer's handles.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BoundLayer {
    /// What mixes tokens.
    pub operator: Operator,
    /// Projection of the operator's result back to the residual stream.
    pub out: Linear,
    /// What works on each token.
    pub feed_forward: BoundFeedForward,
}

/// A model ready to be recorded: handles for every layer, and the weights they stand for.
pub struct Model {
    store: WeightStore,
    matrix_names: Vec<WeightName>,
    /// Embedding table, `vocab x hidden`.
    pub embedding: MatrixId,
    /// Norm before the head, `hidden`.
    pub final_norm: VectorId,
    /// Head, `vocab x hidden`; the embedding table where the two are tied.
    pub head: MatrixId,
    /// The layers.
    pub layers: Vec<BoundLayer>,
}

impl Model {
    /// Binds every weight the checkpoint's configuration calls for.
    pub fn bind(checkpoint: Arc<Checkpoint>) -> Self {
        let layers = checkpoint.config().layers.len();
        let has_head = checkpoint.weight(WeightName::Head).is_some();
        let mut binder = Binder { store: WeightStore::new(checkpoint), matrix_names: Vec::new() };
        let embedding = binder.matrix(WeightName::TokenEmbedding);
        let final_norm = binder.vector(WeightName::FinalNorm);
        let head = if has_head { binder.matrix(WeightName::Head) } else { embedding };
        let mut operators = OperatorCount::default();
        let layers = (0..layers).map(|i| binder.layer(i, &mut operators)).collect();
        let Binder { store, matrix_names } = binder;
        Self { store, matrix_names, embedding, final_norm, head, layers }
    }

    /// The shape.
    pub fn config(&self) -> &Config {
        self.checkpoint().config()
    }

    /// Where the weights came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.store.checkpoint()
    }

    /// Type and shape of a matrix.
    pub fn matrix(&self, id: MatrixId) -> &Weight {
        self.store.matrix(id)
    }

    /// Bytes of a matrix, row-major blocks of its type; any alignment.
    pub fn matrix_bytes(&self, id: MatrixId) -> &[u8] {
        self.store.matrix_bytes(id)
    }

    /// Says that some of the bytes of a matrix will not be read again soon, because they were copied to where
    /// they are used: see [`Checkpoint::release`].
    pub fn release_matrix(&self, id: MatrixId, range: Range<usize>) {
        self.store.release_matrix(id, range);
    }

    /// What a matrix is. The head has the embedding's name where the two are tied.
    pub fn matrix_name(&self, id: MatrixId) -> WeightName {
        self.matrix_names[id.0 as usize]
    }

    /// Puts other values of the same shape in the place of a matrix, in any type: `bytes` are its rows of
    /// whole blocks. The checkpoint stays as it is.
    ///
    /// # Panics
    /// If `bytes` are not as many as the shape takes in this type.
    pub fn replace_matrix(&mut self, id: MatrixId, dtype: DType, bytes: Arc<[u8]>) {
        self.store.replace_matrix(id, dtype, bytes);
    }

    /// Number of matrices; ids are `0..count`.
    pub fn matrix_count(&self) -> usize {
        self.store.matrix_count()
    }

    /// A vector.
    pub fn vector(&self, id: VectorId) -> &[f32] {
        self.store.vector(id)
    }
}

/// Layers of each kind met so far: K/V caches and convolution states are counted separately.
#[derive(Default)]
struct OperatorCount {
    conv: u32,
    attention: u32,
}

struct Binder {
    store: WeightStore,
    matrix_names: Vec<WeightName>,
}

impl Binder {
    fn checkpoint(&self) -> &Checkpoint {
        self.store.checkpoint()
    }

    fn weight(&self, name: WeightName) -> Weight {
        self.checkpoint().weight(name).unwrap_or_else(|| panic!("a validated checkpoint has {name:?}"))
    }

    fn matrix(&mut self, name: WeightName) -> MatrixId {
        self.matrix_names.push(name);
        self.store.add_matrix(self.weight(name))
    }

    fn vector(&mut self, name: WeightName) -> VectorId {
        self.store.add_vector(self.weight(name))
    }

    fn optional_vector(&mut self, name: WeightName) -> Option<VectorId> {
        self.checkpoint().weight(name).is_some().then(|| self.vector(name))
    }

    fn linear(&mut self, layer: usize, weight: LayerWeight, bias: Option<LayerWeight>) -> Linear {
        Linear {
            weight: self.matrix(WeightName::Layer(layer, weight)),
            bias: bias.and_then(|bias| self.optional_vector(WeightName::Layer(layer, bias))),
        }
    }

    fn layer(&mut self, i: usize, operators: &mut OperatorCount) -> BoundLayer {
        use LayerWeight as W;
        let name = |weight| WeightName::Layer(i, weight);
        let norm = self.vector(name(W::OperatorNorm));
        let (operator, out) = match self.checkpoint().config().layers[i] {
            LayerKind::Conv => {
                operators.conv += 1;
                let op = ShortConv {
                    norm,
                    in_proj: self.linear(i, W::ConvIn, Some(W::ConvInBias)),
                    filter: self.vector(name(W::Conv)),
                    filter_bias: self.optional_vector(name(W::ConvBias)),
                    layer: operators.conv - 1,
                };
                (Operator::ShortConv(op), self.linear(i, W::ConvOut, Some(W::ConvOutBias)))
            }
            LayerKind::FullAttention => {
                operators.attention += 1;
                let op = Qkv {
                    norm,
                    query: self.linear(i, W::Query, None),
                    key: self.linear(i, W::Key, None),
                    value: self.linear(i, W::Value, None),
                    query_norm: self.optional_vector(name(W::QueryNorm)),
                    key_norm: self.optional_vector(name(W::KeyNorm)),
                    layer: operators.attention - 1,
                };
                (Operator::Attention(op), self.linear(i, W::AttentionOut, None))
            }
        };
        BoundLayer { operator, out, feed_forward: self.feed_forward(i) }
    }

    fn feed_forward(&mut self, i: usize) -> BoundFeedForward {
        use LayerWeight as W;
        let name = |weight| WeightName::Layer(i, weight);
        let norm = self.vector(name(W::FfnNorm));
        match self.checkpoint().config().feed_forward[i] {
            FeedForward::Dense { .. } => BoundFeedForward::Dense {
                swiglu: Swiglu { norm, gate: self.matrix(name(W::Gate)), up: self.matrix(name(W::Up)) },
                down: self.linear(i, W::Down, None),
            },
            FeedForward::Moe => {
                let moe = self.checkpoint().config().moe.expect("a MoE layer means a MoE configuration");
                let router = self.matrix(name(W::Router));
                let bias = self.optional_vector(name(W::ExpertBias));
                let first = MatrixId(self.store.matrix_count() as u32);
                for expert in 0..moe.experts {
                    for part in [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down] {
                        self.matrix(WeightName::Expert { layer: i, expert, part });
                    }
                }
                BoundFeedForward::Moe(Moe {
                    norm,
                    router,
                    bias,
                    experts: Experts { first, count: moe.experts as u32 },
                })
            }
        }
    }
}
