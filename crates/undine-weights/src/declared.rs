//! What a configuration says about the model, before the tensors have been asked: the meeting point of both
//! formats.

use undine_core::{Config, FeedForward, LayerKind, MoeConfig};

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
    /// The model's shape with these feed-forward layers, their experts being `moe_width` wide.
    pub(crate) fn config(&self, feed_forward: Vec<FeedForward>, moe_width: Option<usize>) -> Config {
        let moe = self.moe.as_ref().zip(moe_width).map(|(moe, width)| MoeConfig {
            experts: moe.experts,
            experts_active: moe.experts_active,
            width,
            norm_topk_prob: moe.norm_topk_prob,
            routed_scaling_factor: moe.routed_scaling_factor as f32,
        });
        Config {
            hidden: self.hidden,
            vocab: self.vocab,
            layers: self.layers.clone(),
            feed_forward,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            conv_taps: self.conv_taps,
            norm_eps: self.norm_eps as f32,
            rope_theta: self.rope_theta as f32,
            context_max: self.context_max,
            moe,
        }
    }

    /// The shape that the declaration alone gives, for a model whose weights are not there.
    pub(crate) fn config_without_weights(&self) -> Result<Config, Error> {
        self.check()?;
        let absent = |key| move || Error::config(key, "the key is required and absent");
        let dense_layers = self.moe.as_ref().map_or(self.layers.len(), |moe| moe.dense_layers);
        let moe_width = match &self.moe {
            Some(moe) => Some(moe.width.ok_or_else(absent("moe_intermediate_size"))?),
            None => None,
        };
        let width = self.dense_width.ok_or_else(absent("intermediate_size"))?;
        let kind = |layer| if layer < dense_layers { FeedForward::Dense { width } } else { FeedForward::Moe };
        Ok(self.config((0..self.layers.len()).map(kind).collect(), moe_width))
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
