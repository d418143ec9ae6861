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
    /// Whether the weight is a vector or the convolution filter: small, and kept in a float type by every format.
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
