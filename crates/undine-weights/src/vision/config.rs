//! The tower's configuration as config.json spells it.

use serde_json::{Map, Value as Json};
use undine_core::{PatchOrder, vision};

use super::DeclaredVision;
use crate::Error;
use crate::config_hf::{json_integer, shorten};

/// A JSON object whose values are asked for by key.
pub(super) struct Keys<'a>(pub &'a Map<String, Json>);

impl<'a> Keys<'a> {
    fn typed<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.0.get(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| Error::config(key, format!("expected {what}, found {}", shorten(value)))),
        }
    }

    pub(super) fn integer(&self, key: &str, default: usize) -> Result<usize, Error> {
        Ok(self.typed(key, "a non-negative integer", json_integer)?.unwrap_or(default))
    }

    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64, Error> {
        Ok(self.typed(key, "a number", Json::as_f64)?.unwrap_or(default))
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> Result<bool, Error> {
        Ok(self.typed(key, "true or false", Json::as_bool)?.unwrap_or(default))
    }

    pub(super) fn text(&self, key: &str, default: &'a str) -> Result<&'a str, Error> {
        Ok(self.typed(key, "a string", Json::as_str)?.unwrap_or(default))
    }

    /// A number for each channel, or one for all.
    pub(super) fn channels(&self, key: &str, default: f64) -> Result<[f64; vision::CHANNELS], Error> {
        let read = |value: &Json| match value {
            Json::Array(items) => {
                items.iter().map(Json::as_f64).collect::<Option<Vec<f64>>>()?.try_into().ok()
            }
            value => Some([value.as_f64()?; vision::CHANNELS]),
        };
        Ok(self.typed(key, "three numbers", read)?.unwrap_or([default; vision::CHANNELS]))
    }
}

/// Reads the tower's part of config.json; `None` if it describes none. Absent keys mean the reference's
/// defaults.
pub(crate) fn declare_hf(
    config: &Json,
    normalization: vision::Normalization,
) -> Result<Option<DeclaredVision>, Error> {
    let Some(root) = config.as_object() else { return Ok(None) };
    let Some(tower) = root.get("vision_config").and_then(Json::as_object) else { return Ok(None) };
    let (root, tower) = (Keys(root), Keys(tower));
    for (keys, key, expected) in
        [(&tower, "hidden_act", "gelu_pytorch_tanh"), (&root, "projector_hidden_act", "gelu")]
    {
        let found = keys.text(key, expected)?;
        if found != expected {
            return Err(Error::Unsupported(format!("{key} {found:?}; expected {expected:?}")));
        }
    }
    let channels = tower.integer("num_channels", vision::CHANNELS)?;
    if channels != vision::CHANNELS {
        return Err(Error::Unsupported(format!("num_channels {channels}; expected {}", vision::CHANNELS)));
    }
    Ok(Some(DeclaredVision {
        width: tower.integer("hidden_size", 768)?,
        layers: tower.integer("num_hidden_layers", 12)?,
        heads: tower.integer("num_attention_heads", 12)?,
        feed_forward: tower.integer("intermediate_size", 3072)?,
        patch: tower.integer("patch_size", 16)?,
        positions: tower.integer("num_patches", 256)?,
        norm_eps: tower.number("layer_norm_eps", 1e-6)?,
        downsample: root.integer("downsample_factor", 2)?,
        patch_order: PatchOrder::RowColumnChannel,
        normalization,
    }))
}
