//! The weights of an LFM2 model by their role, independent of how a file spells them.

use undine_core::DType;

/// Names a weight by its role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightName {
    /// `vocab x hidden`.
    TokenEmbedding,
    /// `1 x hidden`: the norm before the head.
    FinalNorm,
    /// `vocab x hidden`; absent when the head shares the token embedding.
    Head,
    /// A weight of one layer.
    Layer(usize, LayerWeight),
    /// A matrix of one expert.
    Expert {
        /// The layer.
        layer: usize,
        /// The expert in it.
        expert: usize,
        /// Which of its matrices.
        part: ExpertPart,
    },
}

/// A weight of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LayerWeight {
    /// `1 x hidden`: the norm before the operator.
    OperatorNorm,
    /// `1 x hidden`: the norm before the feed-forward.
    FfnNorm,
    /// `3 hidden x hidden`: rows are B, C, X.
    ConvIn,
    /// `1 x 3 hidden`; optional.
    ConvInBias,
    /// `hidden x taps`: one filter per channel, the last tap for the current token.
    Conv,
    /// `1 x hidden`; optional.
    ConvBias,
    /// `hidden x hidden`.
    ConvOut,
    /// `1 x hidden`; optional.
    ConvOutBias,
    /// `heads head_dim x hidden`.
    Query,
    /// `kv_heads head_dim x hidden`.
    Key,
    /// `kv_heads head_dim x hidden`.
    Value,
    /// `hidden x heads head_dim`.
    AttentionOut,
    /// `1 x head_dim`, shared by the heads.
    QueryNorm,
    /// `1 x head_dim`, shared by the heads.
    KeyNorm,
    /// `width x hidden` (w1).
    Gate,
    /// `width x hidden` (w3).
    Up,
    /// `hidden x width` (w2).
    Down,
    /// `experts x hidden`.
    Router,
    /// `1 x experts`, added for selection only; optional.
    ExpertBias,
}

impl ExpertPart {
    /// All of them, in the order a layer uses them.
    pub(crate) const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];
}

/// A matrix of an expert.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExpertPart {
    /// `width x hidden` (w1).
    Gate,
    /// `width x hidden` (w3).
    Up,
    /// `hidden x width` (w2).
    Down,
}

/// Where a weight lies and how it is stored: row-major `rows x cols`, a vector has one row.
///
/// Only meaningful together with the [`Checkpoint`](crate::Checkpoint) it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weight {
    /// Element type.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Values in a row; a whole number of blocks of `dtype`.
    pub cols: usize,
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

impl LayerWeight {
    /// All of them, in the order a layer uses them.
    pub(crate) const ALL: [Self; 19] = [
        Self::OperatorNorm,
        Self::ConvIn,
        Self::ConvInBias,
        Self::Conv,
        Self::ConvBias,
        Self::ConvOut,
        Self::ConvOutBias,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOut,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Router,
        Self::ExpertBias,
    ];

    /// Whether the weight is a vector or the convolution filter: small, and kept in a float type by every
    /// format.
    pub(crate) fn is_float_only(self) -> bool {
        !matches!(
            self,
            Self::ConvIn
                | Self::ConvOut
                | Self::Query
                | Self::Key
                | Self::Value
                | Self::AttentionOut
                | Self::Gate
                | Self::Up
                | Self::Down
                | Self::Router
        )
    }
}

/// Names a weight of the vision tower or its projector by its role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VisionWeight {
    /// `width x patch values`, in the order that [`undine_core::VisionConfig::patch_order`] says.
    PatchEmbedding,
    /// `1 x width`.
    PatchEmbeddingBias,
    /// `grid² x width`: the position table, in raster order.
    Positions,
    /// `1 x width`: the gain of the norm after the last layer.
    PostNorm,
    /// `1 x width`.
    PostNormBias,
    /// `1 x token values`: the gain of the norm before the projector; optional.
    ProjectorNorm,
    /// `1 x token values`; there if the gain is.
    ProjectorNormBias,
    /// `projector x token values`.
    Projector1,
    /// `1 x projector`; optional.
    Projector1Bias,
    /// `hidden x projector`.
    Projector2,
    /// `1 x hidden`; optional.
    Projector2Bias,
    /// A weight of one layer.
    Layer(usize, VisionLayerWeight),
}

/// A weight of a layer of the vision tower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VisionLayerWeight {
    /// `1 x width`: the gain of the norm before the attention.
    Norm1,
    /// `1 x width`.
    Norm1Bias,
    /// `1 x width`: the gain of the norm before the feed-forward.
    Norm2,
    /// `1 x width`.
    Norm2Bias,
    /// `width x width`.
    Query,
    /// `1 x width`.
    QueryBias,
    /// `width x width`.
    Key,
    /// `1 x width`.
    KeyBias,
    /// `width x width`.
    Value,
    /// `1 x width`.
    ValueBias,
    /// `width x width`.
    Out,
    /// `1 x width`.
    OutBias,
    /// `feed_forward x width` (fc1).
    Up,
    /// `1 x feed_forward`.
    UpBias,
    /// `width x feed_forward` (fc2).
    Down,
    /// `1 x width`.
    DownBias,
}

impl VisionWeight {
    /// Those outside of layers, in the order they are used.
    pub(crate) const OUTER: [Self; 11] = [
        Self::PatchEmbedding,
        Self::PatchEmbeddingBias,
        Self::Positions,
        Self::PostNorm,
        Self::PostNormBias,
        Self::ProjectorNorm,
        Self::ProjectorNormBias,
        Self::Projector1,
        Self::Projector1Bias,
        Self::Projector2,
        Self::Projector2Bias,
    ];
}

impl VisionLayerWeight {
    /// All of them, in the order a layer uses them.
    pub(crate) const ALL: [Self; 16] = [
        Self::Norm1,
        Self::Norm1Bias,
        Self::Query,
        Self::QueryBias,
        Self::Key,
        Self::KeyBias,
        Self::Value,
        Self::ValueBias,
        Self::Out,
        Self::OutBias,
        Self::Norm2,
        Self::Norm2Bias,
        Self::Up,
        Self::UpBias,
        Self::Down,
        Self::DownBias,
    ];
}
