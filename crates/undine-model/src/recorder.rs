//! Seam 1: the model above, a backend below.
//!
//! A backend records one forward pass as a sequence of these verbs and replays it for every
//! [`undine_core::Batch`]. Each verb is one phase that a kernel engineer would launch as one kernel. Handles
//! are `Copy` indices: [`Rows`] into the backend's arena of activations, [`MatrixId`] and [`VectorId`] into
//! the [`crate::Model`] the backend was made with. No verb returns data to the host, and none has a default
//! body.
//!
//! Shapes: `rows` is the number of tokens of the step (after [`Recorder::select_rows`]: of wanted rows),
//! weights are `out x in` row-major, and `W x` is applied to every row.

/// Activations: f32, `rows x width`, the width fixed when recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rows(pub u32);

/// A weight matrix of the model, in any [`undine_core::DType`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MatrixId(pub u32);

/// A small f32 vector of the model: a norm, a filter, a bias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorId(pub u32);

/// `W x + b`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Linear {
    /// `W`, `out x in`.
    pub weight: MatrixId,
    /// `b`, `out`.
    pub bias: Option<VectorId>,
}

/// A gated short convolution up to, not including, its output projection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ShortConv {
    /// RMS norm of the input, `hidden`.
    pub norm: VectorId,
    /// Projection to `B, C, X`: `3 hidden x hidden`, in this order.
    pub in_proj: Linear,
    /// One filter per channel, `hidden x taps`, the last tap on the current token.
    pub filter: VectorId,
    /// Bias of the filter, `hidden`.
    pub filter_bias: Option<VectorId>,
    /// Which convolution state, counted over convolution layers.
    pub layer: u32,
}

/// Projections of an attention layer with the per-head norms and the rotary embedding.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Qkv {
    /// RMS norm of the input, `hidden`.
    pub norm: VectorId,
    /// `heads * head_dim x hidden`.
    pub query: Linear,
    /// `kv_heads * head_dim x hidden`.
    pub key: Linear,
    /// `kv_heads * head_dim x hidden`.
    pub value: Linear,
    /// RMS norm over each query head, `head_dim`, before the rotary embedding.
    pub query_norm: Option<VectorId>,
    /// RMS norm over each key head, `head_dim`, before the rotary embedding.
    pub key_norm: Option<VectorId>,
    /// Which K/V cache, counted over attention layers.
    pub layer: u32,
}

/// `silu(gate x) * (up x)` of the normed input.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Swiglu {
    /// RMS norm of the input, `hidden`.
    pub norm: VectorId,
    /// `width x hidden` (w1).
    pub gate: MatrixId,
    /// `width x hidden` (w3).
    pub up: MatrixId,
}

/// The experts of one layer: for expert `e` the matrices `first + 3e` (gate), `+ 1` (up) and `+ 2` (down).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Experts {
    /// Gate of expert 0.
    pub first: MatrixId,
    /// How many experts.
    pub count: u32,
}

impl Experts {
    /// Gate, up (`width x hidden`) and down (`hidden x width`) of one expert.
    pub fn of(self, expert: usize) -> [MatrixId; 3] {
        assert!(expert < self.count as usize, "expert {expert} of {}", self.count);
        let first = self.first.0 + 3 * expert as u32;
        [MatrixId(first), MatrixId(first + 1), MatrixId(first + 2)]
    }
}

/// A sparse mixture of SwiGLU experts; active count, normalisation and scaling are in
/// [`undine_core::MoeConfig`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moe {
    /// RMS norm of the input, `hidden`.
    pub norm: VectorId,
    /// `experts x hidden`; the scores are sigmoids.
    pub router: MatrixId,
    /// Added to the scores for the choice only, `experts`.
    pub bias: Option<VectorId>,
    /// The experts.
    pub experts: Experts,
}

/// What a backend can do. See the module's doc for the contract.
pub trait Recorder {
    /// The embedding of each row's token, `hidden` wide: the residual stream.
    fn embed(&mut self, table: MatrixId) -> Rows;
    /// `C * conv(B * X)` of the normed input; moves the sequence's convolution state on.
    fn norm_short_conv(&mut self, x: Rows, op: ShortConv) -> Rows;
    /// Queries, `heads * head_dim` wide; keys and values go to the K/V cache.
    fn norm_qkv(&mut self, x: Rows, op: Qkv) -> Rows;
    /// Causal grouped-query attention of the queries over the sequence's cache of attention layer `layer`.
    fn attend(&mut self, query: Rows, layer: u32) -> Rows;
    /// `residual += W x + b`.
    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows);
    /// The hidden values of a dense feed-forward.
    fn norm_swiglu(&mut self, x: Rows, op: Swiglu) -> Rows;
    /// `x += mixture of experts (norm x)`.
    fn norm_moe_add(&mut self, x: Rows, op: Moe);
    /// The rows the batch wants an output of.
    fn select_rows(&mut self, x: Rows) -> Rows;
    /// Logits of the normed rows, `vocab` wide.
    fn norm_logits(&mut self, x: Rows, norm: VectorId, head: MatrixId) -> Rows;
    /// Turns each row of logits into the output the batch asks for ([`undine_core::sampling::finish_row`]).
    fn sample(&mut self, logits: Rows);
}
