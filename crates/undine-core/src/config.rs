//! The shape of an LFM2 model as data. Nothing about a checkpoint is assumed that is not written here.

/// What the operator of a layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum LayerKind {
    /// Gated short convolution.
    Conv,
    /// Grouped-query attention over the whole context.
    FullAttention,
}

/// What the feed-forward of a layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FeedForward {
    /// SwiGLU with `width` hidden values.
    Dense {
        /// Hidden values.
        width: usize,
    },
    /// Sparse mixture of SwiGLU experts; the shape is in [`Config::moe`].
    Moe,
}

/// The mixture of experts, the same in every MoE layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MoeConfig {
    /// Experts in a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub experts_active: usize,
    /// Hidden values of one expert.
    pub width: usize,
    /// Divide the chosen weights by their sum (plus 1e-6).
    pub norm_topk_prob: bool,
    /// Factor on the weights after normalisation.
    pub routed_scaling_factor: f32,
}

/// The shape of a model. Widths are counts of values, not bytes.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Entries of the embedding table.
    pub vocab: usize,
    /// One entry per layer: the operator.
    pub layers: Vec<LayerKind>,
    /// One entry per layer: the feed-forward.
    pub feed_forward: Vec<FeedForward>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head; even.
    pub head_dim: usize,
    /// Taps of the short convolution (K); its state is the last K-1 gated inputs.
    pub conv_taps: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Base of the rotary embedding.
    pub rope_theta: f32,
    /// Positions the configuration allows.
    pub context_max: usize,
    /// The mixture of experts, if any layer has one.
    pub moe: Option<MoeConfig>,
}

impl Config {
    /// Number of attention layers.
    pub fn attention_layers(&self) -> usize {
        self.layers.iter().filter(|&&kind| kind == LayerKind::FullAttention).count()
    }

    /// Number of short-convolution layers.
    pub fn conv_layers(&self) -> usize {
        self.layers.len() - self.attention_layers()
    }

    /// K and V values stored per token, all layers together.
    pub fn kv_elems_per_token(&self) -> usize {
        self.attention_layers() * 2 * self.kv_heads * self.head_dim
    }

    /// Tokens after which convolution states that started empty are exact, given exact keys and values: each
    /// layer's state is the last K-1 of its inputs.
    pub fn replay(&self) -> usize {
        self.conv_layers() * (self.conv_taps - 1)
    }

    /// Convolution-state values per sequence, all layers together.
    pub fn conv_state_elems(&self) -> usize {
        self.conv_layers() * (self.conv_taps - 1) * self.hidden
    }
}
