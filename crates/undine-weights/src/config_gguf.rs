//! The configuration as GGUF metadata spells it.

use std::collections::HashMap;

use undine_core::LayerKind;

use crate::Error;
use crate::declared::{Declared, DeclaredMoe, Presence, within};
use crate::limits::LAYERS_MAX;
use crate::names::Names;
use crate::tensor::TensorTable;
use crate::value::{Array, Value};
use crate::weight::{LayerWeight, WeightName};

/// `general.architecture` of dense models.
pub(crate) const ARCHITECTURE_DENSE: &str = "lfm2";
/// `general.architecture` of mixture-of-experts models.
pub(crate) const ARCHITECTURE_MOE: &str = "lfm2moe";
/// `expert_gating_func` of a sigmoid router.
pub(crate) const GATING_SIGMOID: u32 = 2;

/// Metadata by key.
pub(crate) struct Metadata<'a> {
    entries: HashMap<&'a str, &'a Value>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(entries: &'a [(String, Value)]) -> Self {
        Self { entries: entries.iter().map(|(key, value)| (key.as_str(), value)).collect() }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.entries.get(key).copied()
    }

    fn typed<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::config(key, format!("expected {what}, found {} {value}", value.kind_name()))),
        }
    }

    /// A non-negative integer of any width.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "a non-negative integer", |value| value.as_u64()?.try_into().ok())
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// True or false, also as 1 or 0.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        let number = |value: &Value| value.as_u64().filter(|&number| number <= 1).map(|number| number == 1);
        self.typed(key, "a boolean", |value| value.as_bool().or_else(|| number(value)))
    }

    /// Entries whose keys begin so, by key.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(&'a str, &'a Value)> {
        let mut found: Vec<_> = self.entries.iter().map(|(key, value)| (*key, *value)).collect();
        found.retain(|(key, _)| key.starts_with(prefix));
        found.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<&'a [String]>, Error> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(array) => array.as_strings(),
            _ => None,
        })
    }
}

/// Reads the configuration; `table` answers what the metadata leaves open.
pub(crate) fn declare(metadata: &Metadata<'_>, table: &TensorTable) -> Result<Declared, Error> {
    let architecture = metadata.text("general.architecture")?.unwrap_or("(none)");
    if architecture != ARCHITECTURE_DENSE && architecture != ARCHITECTURE_MOE {
        return Err(Error::Unsupported(format!(
            "general.architecture {architecture:?}; Undine runs {ARCHITECTURE_DENSE} and {ARCHITECTURE_MOE}"
        )));
    }
    let keys = Keys { metadata, architecture };
    keys.refuse_unsupported()?;
    let layers = keys.layers(table)?;
    let heads = keys.heads()?;
    let hidden = keys.required("embedding_length")?;
    let kv_heads = layers.iter().map(|&(_, kv_heads)| kv_heads).max().filter(|&kv_heads| kv_heads > 0);
    let moe = match architecture {
        ARCHITECTURE_MOE => Some(keys.moe()?),
        _ => None,
    };
    Ok(Declared {
        hidden,
        vocab: keys.vocab(table)?,
        layers: layers.into_iter().map(|(kind, _)| kind).collect(),
        heads,
        // A model without attention has no use for the number.
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim: keys.head_dim(hidden, heads)?,
        conv_taps: keys.required("shortconv.l_cache")?,
        norm_eps: keys.required_number("attention.layer_norm_rms_epsilon")?,
        rope_theta: keys.required_number("rope.freq_base")?,
        context_max: keys.required("context_length")?,
        dense_width: keys.dense_width()?,
        moe,
        head: Presence::IfPresent,
        conv_bias: Presence::IfPresent,
    })
}

/// The keys under an architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn optional(&self, name: &str) -> Result<Option<usize>, Error> {
        self.metadata.integer(&self.key(name))
    }

    fn required(&self, name: &str) -> Result<usize, Error> {
        self.optional(name)?.ok_or_else(|| self.absent(name))
    }

    fn required_number(&self, name: &str) -> Result<f64, Error> {
        self.metadata.number(&self.key(name))?.ok_or_else(|| self.absent(name))
    }

    fn absent(&self, name: &str) -> Error {
        Error::config(self.key(name), "the key is required and absent")
    }

    /// Refuses what would be computed wrongly.
    fn refuse_unsupported(&self) -> Result<(), Error> {
        if self.metadata.boolean(&self.key("attention.causal"))? == Some(false) {
            let key = self.key("attention.causal");
            return Err(Error::Unsupported(format!(
                "{key} is false: this is a bidirectional embedding model"
            )));
        }
        let scaling = self.metadata.text(&self.key("rope.scaling.type"))?.unwrap_or("none");
        let factor = self.metadata.number(&self.key("rope.scaling.factor"))?;
        // Converters write 0 for "not used", and scaling by 1 is none.
        let changes_nothing = match scaling {
            "none" => true,
            "linear" => matches!(factor, None | Some(0.0 | 1.0)),
            _ => factor == Some(1.0),
        };
        if !changes_nothing {
            return Err(Error::Unsupported(format!(
                "{} {scaling:?} with a factor of {}; expected none",
                self.key("rope.scaling.type"),
                factor.unwrap_or(1.0)
            )));
        }
        for (name, expected) in [
            ("attention.sliding_window", 0),
            ("expert_shared_count", 0),
            ("expert_group_count", 1),
            ("expert_gating_func", GATING_SIGMOID as usize),
        ] {
            match self.optional(name)? {
                // Converters write 0 for "not used".
                None | Some(0) => {}
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(Error::Unsupported(format!(
                        "{} is {found}, expected {expected}",
                        self.key(name)
                    )));
                }
            }
        }
        Ok(())
    }

    /// The number of query heads: one number, or an array that says the same for every attention layer.
    fn heads(&self) -> Result<usize, Error> {
        let name = "attention.head_count";
        let key = self.key(name);
        match self.metadata.get(&key) {
            Some(Value::Array(array)) => {
                let counts = integers(&key, array)?;
                one_value(&key, counts.into_iter().filter(|&count| count > 0))
            }
            _ => self.required(name),
        }
    }

    /// Kind and key-value heads of every layer.
    fn layers(&self, table: &TensorTable) -> Result<Vec<(LayerKind, usize)>, Error> {
        let count = self.required("block_count")?;
        within(&self.key("block_count"), count, LAYERS_MAX)?;
        let key = self.key("attention.head_count_kv");
        match self.metadata.get(&key) {
            Some(Value::Array(array)) => {
                let counts = integers(&key, array)?;
                if counts.len() != count {
                    let reason =
                        format!("expected one entry for each of {count} layers, found {}", counts.len());
                    return Err(Error::config(key, reason));
                }
                if counts.iter().any(|&kv_heads| kv_heads > 0) {
                    one_value(&key, counts.iter().copied().filter(|&kv_heads| kv_heads > 0))?;
                }
                let kind = |kv_heads| if kv_heads == 0 { LayerKind::Conv } else { LayerKind::FullAttention };
                Ok(counts.into_iter().map(|kv_heads| (kind(kv_heads), kv_heads)).collect())
            }
            _ => {
                // One number does not say which layers are convolutions: the tensors do.
                let kv_heads = self.required("attention.head_count_kv")?;
                let kind = |layer| {
                    let conv = Names::Gguf.spellings(WeightName::Layer(layer, LayerWeight::ConvIn));
                    if table.contains(&conv[0]) {
                        (LayerKind::Conv, 0)
                    } else {
                        (LayerKind::FullAttention, kv_heads)
                    }
                };
                Ok((0..count).map(kind).collect())
            }
        }
    }

    fn vocab(&self, table: &TensorTable) -> Result<usize, Error> {
        if let Some(vocab) = self.optional("vocab_size")? {
            return Ok(vocab);
        }
        let names = Names::Gguf.spellings(WeightName::TokenEmbedding);
        match table.find(&names)?.map(|index| table.tensors[index].shape.as_slice()) {
            Some(&[vocab, _]) => Ok(vocab),
            _ => Err(self.absent("vocab_size")),
        }
    }

    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, Error> {
        let head_dim = match self.optional("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("absent, and {heads} heads do not divide the hidden size {hidden}");
                return Err(Error::config(self.key("attention.key_length"), reason));
            }
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = self.optional(name)?.filter(|&found| found != head_dim) {
                return Err(Error::Unsupported(format!(
                    "{} is {found}, expected {head_dim}",
                    self.key(name)
                )));
            }
        }
        Ok(head_dim)
    }

    /// The width of dense layers, as a hint: one number. An array is legal and says nothing the tensors do
    /// not.
    fn dense_width(&self) -> Result<Option<usize>, Error> {
        let name = "feed_forward_length";
        match self.metadata.get(&self.key(name)) {
            Some(Value::Array(_)) => Ok(None),
            _ => self.optional(name),
        }
    }

    fn moe(&self) -> Result<DeclaredMoe, Error> {
        let scale = self.metadata.number(&self.key("expert_weights_scale"))?;
        Ok(DeclaredMoe {
            experts: self.required("expert_count")?,
            experts_active: self.required("expert_used_count")?,
            width: self.optional("expert_feed_forward_length")?,
            dense_layers: self.required("leading_dense_block_count")?,
            norm_topk_prob: self.metadata.boolean(&self.key("expert_weights_norm"))?.unwrap_or(true),
            // Converters write 0 for "not used".
            routed_scaling_factor: scale.filter(|&scale| scale != 0.0).unwrap_or(1.0),
            expert_bias: Presence::IfPresent,
        })
    }
}

fn integers(key: &str, array: &Array) -> Result<Vec<usize>, Error> {
    within(key, array.len(), LAYERS_MAX)?;
    (0..array.len())
        .map(|i| array.get(i).and_then(|value| value.as_u64()?.try_into().ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::config(key, "expected non-negative integers"))
}

/// The value all of `counts` have.
fn one_value(key: &str, mut counts: impl Iterator<Item = usize>) -> Result<usize, Error> {
    let first = counts.next().ok_or_else(|| Error::config(key, "expected a number above 0 in some layer"))?;
    match counts.find(|&count| count != first) {
        None => Ok(first),
        Some(other) => {
            let reason =
                format!("expected the same number in every attention layer, found {first} and {other}");
            Err(Error::Unsupported(format!("{key}: {reason}")))
        }
    }
}
