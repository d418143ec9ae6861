//! The configuration as config.json spells it, in all its generations.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};
use undine_core::LayerKind;

use crate::Error;
use crate::declared::{Declared, DeclaredMoe, Presence, within};
use crate::limits::{LAYERS_MAX, WIDTH_MAX};

/// Values of `model_type` whose language model Undine runs.
pub(crate) const MODEL_TYPES: [&str; 6] =
    ["lfm2", "lfm2_moe", "lfm2_vl", "lfm2-vl", "lfm2_audio", "lfm2-audio"];
/// Keys under which composite models keep the configuration of their language model.
const TEXT_KEYS: [&str; 2] = ["text_config", "lfm"];
/// `rope_theta` of a configuration that names none: the reference implementation's default.
const ROPE_THETA_DEFAULT: f64 = 1e6;
/// `norm_eps` of a configuration that names none.
const NORM_EPS_DEFAULT: f64 = 1e-5;
/// `conv_L_cache` of a configuration that names none.
const CONV_TAPS_DEFAULT: usize = 3;
/// `num_dense_layers` of a configuration that names none.
const DENSE_LAYERS_DEFAULT: usize = 2;
/// `block_multiple_of` of a configuration that names none.
const MULTIPLE_OF_DEFAULT: usize = 256;

/// The language model's part of a config.json and what surrounds it.
pub(crate) struct HfConfig<'a> {
    text: &'a Map<String, Json>,
    root: &'a Map<String, Json>,
    /// What was odd and is passed over, one sentence each.
    odd: RefCell<Vec<String>>,
}

impl<'a> HfConfig<'a> {
    pub(crate) fn new(config: &'a Json) -> Result<Self, Error> {
        let Json::Object(root) = config else {
            return Err(Error::Json {
                file: "config.json".to_owned(),
                reason: "expected an object".to_owned(),
            });
        };
        let text = TEXT_KEYS.iter().find_map(|&key| root.get(key)?.as_object()).unwrap_or(root);
        Ok(Self { text, root, odd: RefCell::default() })
    }

    /// What was odd and passed over so far.
    pub(crate) fn take_odd(&self) -> Vec<String> {
        self.odd.take()
    }

    /// The value of the first of `keys` that is present and not null; the language model's own come first.
    fn get(&self, keys: &[&'a str]) -> Option<(&'a str, &'a Json)> {
        [self.text, self.root].into_iter().find_map(|object| {
            keys.iter()
                .find_map(|&key| object.get(key).filter(|value| !value.is_null()).map(|value| (key, value)))
        })
    }

    fn integer(&self, keys: &[&'a str]) -> Result<Option<usize>, Error> {
        self.typed(keys, "a non-negative integer", json_integer)
    }

    fn required(&self, keys: &[&'a str]) -> Result<usize, Error> {
        let missing = || match self.get(keys) {
            Some((key, value)) => {
                Error::config(key, format!("expected a non-negative integer, found {}", shorten(value)))
            }
            None => Error::config(keys[0], "the key is required and absent"),
        };
        self.integer(keys)?.ok_or_else(missing)
    }

    fn number(&self, keys: &[&'a str]) -> Result<Option<f64>, Error> {
        self.typed(keys, "a number", json_number)
    }

    fn boolean(&self, keys: &[&'a str]) -> Result<Option<bool>, Error> {
        self.typed(keys, "true or false", json_boolean)
    }

    fn typed<T>(
        &self,
        keys: &[&'a str],
        what: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some((key, value)) = self.get(keys) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            // Somebody's way to say that there is none: what is needed is asked for again, by those who need
            // it.
            None if is_no_number(value) => {
                let found = shorten(value);
                self.odd
                    .borrow_mut()
                    .push(format!("config.json: {key} is {found}; it was ignored, as if it were absent."));
                Ok(None)
            }
            None => Err(Error::config(key, format!("expected {what}, found {}", shorten(value)))),
        }
    }

    /// Reads the configuration.
    pub(crate) fn declare(&self) -> Result<Declared, Error> {
        self.refuse_unsupported()?;
        let hidden = self.required(&["hidden_size", "block_dim"])?;
        let heads = self.required(&["num_attention_heads", "num_heads"])?;
        let head_dim = match self.integer(&["head_dim"])? {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!("absent, and {heads} heads do not divide the hidden size {hidden}");
                return Err(Error::config("head_dim", reason));
            }
        };
        let moe = self.moe()?;
        let tied =
            self.boolean(&["tie_embedding"])?.or(self.boolean(&["tie_word_embeddings"])?).unwrap_or(true);
        let conv_bias = self.boolean(&["conv_bias"])?.unwrap_or(false);
        Ok(Declared {
            hidden,
            vocab: self.required(&["vocab_size"])?,
            layers: self.layers()?,
            heads,
            kv_heads: self.required(&["num_key_value_heads"])?,
            head_dim,
            conv_taps: self.integer(&["conv_L_cache"])?.unwrap_or(CONV_TAPS_DEFAULT),
            norm_eps: self
                .number(&["norm_eps", "block_norm_eps", "rms_norm_eps"])?
                .unwrap_or(NORM_EPS_DEFAULT),
            rope_theta: self.rope_theta()?,
            context_max: self.required(&["max_position_embeddings"])?,
            dense_width: self.dense_width(moe.is_some())?,
            moe,
            head: if tied { Presence::Absent } else { Presence::Required },
            conv_bias: if conv_bias { Presence::Required } else { Presence::Absent },
        })
    }

    /// Refuses what would be computed wrongly.
    fn refuse_unsupported(&self) -> Result<(), Error> {
        for object in [self.root, self.text] {
            if let Some(kind) = object.get("model_type").and_then(Json::as_str)
                && !MODEL_TYPES.contains(&kind)
            {
                return Err(Error::Unsupported(format!(
                    "model_type {kind:?}; Undine runs {}",
                    MODEL_TYPES.join(", ")
                )));
            }
        }
        let architectures = self.root.get("architectures").and_then(Json::as_array);
        let bidirectional = architectures
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .find(|name| name.to_ascii_lowercase().contains("bidirectional"));
        if let Some(name) = bidirectional {
            return Err(Error::Unsupported(format!(
                "architecture {name:?}: this is a bidirectional embedding model"
            )));
        }
        if self.boolean(&["is_causal"])? == Some(false) {
            return Err(Error::Unsupported(
                "is_causal is false: this is a bidirectional embedding model".to_owned(),
            ));
        }
        for object in ["rope_parameters", "rope_scaling"] {
            let Some((_, value)) = self.get(&[object]) else { continue };
            for kind in ["rope_type", "type"] {
                let Some(found) = value.get(kind).filter(|found| !found.is_null()) else { continue };
                // Scaling by 1 is none.
                let is_plain = matches!(found.as_str(), Some("default" | "none"))
                    || value.get("factor").and_then(json_number) == Some(1.0);
                if !is_plain {
                    let found = shorten(found);
                    let reason = format!("{object}.{kind} {found}; expected \"default\", or a factor of 1");
                    return Err(Error::Unsupported(reason));
                }
            }
        }
        Ok(())
    }

    fn rope_theta(&self) -> Result<f64, Error> {
        if let Some((_, parameters)) = self.get(&["rope_parameters"])
            && let Some(theta) = parameters.get("rope_theta").filter(|theta| !theta.is_null())
        {
            let fail = || {
                Error::config(
                    "rope_parameters.rope_theta",
                    format!("expected a number, found {}", shorten(theta)),
                )
            };
            return json_number(theta).ok_or_else(fail);
        }
        Ok(self.number(&["rope_theta", "theta"])?.unwrap_or(ROPE_THETA_DEFAULT))
    }

    /// Layer kinds from `layer_types`, else `full_attn_idxs`, else all attention, as in the reference
    /// implementation.
    fn layers(&self) -> Result<Vec<LayerKind>, Error> {
        let types = self.typed(&["layer_types"], "a list", Json::as_array)?;
        let count = match (self.integer(&["num_hidden_layers"])?, types) {
            (Some(count), _) => count,
            (None, Some(types)) => types.len(),
            (None, None) => return Err(Error::config("num_hidden_layers", "the key is required and absent")),
        };
        within("num_hidden_layers", count, LAYERS_MAX)?;
        if let Some(types) = types {
            if types.len() != count {
                let reason = format!("expected one entry for each of {count} layers, found {}", types.len());
                return Err(Error::config("layer_types", reason));
            }
            return types.iter().map(layer_kind).collect();
        }
        let Some(indices) = self.typed(&["full_attn_idxs"], "a list", Json::as_array)? else {
            return Ok(vec![LayerKind::FullAttention; count]);
        };
        let mut layers = vec![LayerKind::Conv; count];
        for index in indices {
            let layer = json_integer(index).and_then(|index| layers.get_mut(index));
            let Some(layer) = layer else {
                let reason = format!("expected layer numbers below {count}, found {}", shorten(index));
                return Err(Error::config("full_attn_idxs", reason));
            };
            *layer = LayerKind::FullAttention;
        }
        Ok(layers)
    }

    /// The feed-forward width the keys mean. `block_ff_dim` is the older name and wins; only dense models
    /// adjust it.
    fn dense_width(&self, moe: bool) -> Result<Option<usize>, Error> {
        let Some(start) = (if moe {
            self.integer(&["intermediate_size"])?
        } else {
            self.integer(&["block_ff_dim", "intermediate_size"])?
        }) else {
            return Ok(None);
        };
        within("intermediate_size", start, WIDTH_MAX)?;
        if moe || !self.boolean(&["block_auto_adjust_ff_dim"])?.unwrap_or(true) {
            return Ok(Some(start));
        }
        let width = 2 * start / 3;
        // An explicit null means: neither multiply nor round.
        let explicit_null = self.text.get("block_ffn_dim_multiplier").is_some_and(Json::is_null);
        if explicit_null {
            return Ok(Some(width));
        }
        let multiplier = self.number(&["block_ffn_dim_multiplier"])?.unwrap_or(1.0);
        let multiple = self.integer(&["block_multiple_of"])?.unwrap_or(MULTIPLE_OF_DEFAULT);
        within("block_multiple_of", multiple, WIDTH_MAX)?;
        // The conversion saturates, and the tensors decide in the end.
        let scaled = ((multiplier * width as f64) as usize).min(WIDTH_MAX);
        Ok(Some(scaled.next_multiple_of(multiple)))
    }

    fn moe(&self) -> Result<Option<DeclaredMoe>, Error> {
        let named_moe = self.get(&["model_type"]).and_then(|(_, kind)| kind.as_str()) == Some("lfm2_moe");
        let experts = self.integer(&["num_experts"])?.unwrap_or(0);
        if experts == 0 && !named_moe {
            return Ok(None);
        }
        let bias = self.boolean(&["use_expert_bias"])?.unwrap_or(true);
        Ok(Some(DeclaredMoe {
            experts,
            experts_active: self.required(&["num_experts_per_tok"])?,
            width: self.integer(&["moe_intermediate_size"])?,
            dense_layers: self.integer(&["num_dense_layers"])?.unwrap_or(DENSE_LAYERS_DEFAULT),
            norm_topk_prob: self.boolean(&["norm_topk_prob"])?.unwrap_or(true),
            routed_scaling_factor: self.number(&["routed_scaling_factor"])?.unwrap_or(1.0),
            expert_bias: if bias { Presence::Required } else { Presence::Absent },
        }))
    }
}

fn layer_kind(kind: &Json) -> Result<LayerKind, Error> {
    match kind.as_str() {
        Some("conv" | "short_conv") => Ok(LayerKind::Conv),
        Some("full_attention" | "attention") => Ok(LayerKind::FullAttention),
        _ => Err(Error::Unsupported(format!(
            "layer type {}; expected \"conv\" or \"full_attention\"",
            shorten(kind)
        ))),
    }
}

/// A non-negative integer, also one written as `3.0` or `"3"`.
pub(crate) fn json_integer(value: &Json) -> Option<usize> {
    /// Above this a double no longer holds every integer.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let integer = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok()).or_else(|| {
        json_number(value).filter(|x| x.fract() == 0.0 && (0.0..EXACT_MAX).contains(x)).map(|x| x as u64)
    });
    integer?.try_into().ok()
}

/// A number, also one written as a string. What no number is, such as `"NaN"`, is none.
pub(crate) fn json_number(value: &Json) -> Option<f64> {
    let written = || value.as_str()?.trim().parse::<f64>().ok();
    value.as_f64().or_else(written).filter(|number| number.is_finite())
}

/// True or false, also as 1, 0 or a string.
pub(crate) fn json_boolean(value: &Json) -> Option<bool> {
    let written = || match value.as_str()?.trim() {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    };
    let number = || json_integer(value).filter(|&number| number <= 1).map(|number| number == 1);
    value.as_bool().or_else(written).or_else(number)
}

/// A number that says that there is none: not finite, or -1.
fn is_no_number(value: &Json) -> bool {
    json_number(value) == Some(-1.0)
        || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok_and(|number| !number.is_finite()))
}

/// A value for a message, cut to a readable length.
pub(crate) fn shorten(value: &impl ToString) -> String {
    /// Characters of a value that a message shows.
    const SHOWN_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
