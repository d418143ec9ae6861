//! What a configuration says about the model, before the tensors have been asked: the meeting point of both formats.

use undine_core::LayerKind;

use crate::Error;
use crate::limits::{
    CONTEXT_MAX, CONV_TAPS_MAX, EXPERTS_MAX, HEAD_DIM_MAX, HEADS_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX,
};

/// Whether a configuration asks for a weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Required,
    Absent,
    /// The format has no key for it: the tensor decides.
    IfPresent,
}

/// The configuration as declared. Widths of feed-forward layers are hints: the tensors decide.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Declared {
    pub hidden: usize,
    pub vocab: usize,
    pub layers: Vec<LayerKind>,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub conv_taps: usize,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub context_max: usize,
    pub dense_width: Option<usize>,
    pub moe: Option<DeclaredMoe>,
    pub head: Presence,
    pub conv_bias: Presence,
}

/// The mixture of experts as declared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct DeclaredMoe {
    pub experts: usize,
    pub experts_active: usize,
    pub width: Option<usize>,
    /// Leading layers with a dense feed-forward.
    pub dense_layers: usize,
    pub norm_topk_prob: bool,
    pub routed_scaling_factor: f64,
    pub expert_bias: Presence,
}

impl Declared {
    /// Checks every value's range, so that later arithmetic cannot overflow.
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("hidden size", self.hidden, WIDTH_MAX)?;
        within("vocabulary size", self.vocab, VOCAB_MAX)?;
        within("number of layers", self.layers.len(), LAYERS_MAX)?;
        within("number of attention heads", self.heads, HEADS_MAX)?;
        within("number of key-value heads", self.kv_heads, HEADS_MAX)?;
        within("values per head", self.head_dim, HEAD_DIM_MAX)?;
        within("taps of the short convolution", self.conv_taps, CONV_TAPS_MAX)?;
        within("context length", self.context_max, CONTEXT_MAX)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason =
                format!("expected a divisor of the {} attention heads, found {}", self.heads, self.kv_heads);
            return Err(Error::config("number of key-value heads", reason));
        }
        if !self.head_dim.is_multiple_of(2) {
            let reason = format!("expected an even number for the rotary embedding, found {}", self.head_dim);
            return Err(Error::config("values per head", reason));
        }
        positive("norm epsilon", self.norm_eps)?;
        positive("rope theta", self.rope_theta)?;
        if let Some(width) = self.dense_width {
            within("feed-forward width", width, WIDTH_MAX)?;
        }
        let Some(moe) = &self.moe else { return Ok(()) };
        within("number of experts", moe.experts, EXPERTS_MAX)?;
        within("experts per token", moe.experts_active, moe.experts)?;
        if let Some(width) = moe.width {
            within("expert feed-forward width", width, WIDTH_MAX)?;
        }
        positive("expert weights scale", moe.routed_scaling_factor)
    }
}

/// Checks that `value` is in `1..=max`.
pub(crate) fn within(what: &str, value: usize, max: usize) -> Result<(), Error> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::config(what, format!("expected 1 to {max}, found {value}")))
}

/// Checks that `value` stays finite and positive in single precision.
fn positive(what: &str, value: f64) -> Result<(), Error> {
    let single = value as f32;
    if single.is_finite() && single > 0.0 {
        return Ok(());
    }
    Err(Error::config(what, format!("expected a positive number, found {value}")))
}
