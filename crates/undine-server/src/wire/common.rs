//! The request fields that chat and completions share: sampling, stopping, streaming, output form.

use std::sync::Arc;

use serde_json::Value;
use undine_core::{SamplingParams, TokenId};

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, integer, mismatch};
use crate::wire::foreign;
use crate::wire::format::{Format, read_format};

/// Most choices of one request (`n`).
pub(crate) const CHOICES_MAX: u32 = 128;
/// Most stop strings.
pub(crate) const STOP_STRINGS_MAX: usize = 64;
/// Longest stop string in bytes; that much text may be held back while streaming.
pub(crate) const STOP_STRING_BYTES_MAX: usize = 1024;
/// Most stop token ids.
pub(crate) const STOP_TOKENS_MAX: usize = 1024;
/// Most entries of `logit_bias`.
pub(crate) const LOGIT_BIAS_MAX: usize = 1024;
/// Largest accepted repetition penalty.
const REPETITION_PENALTY_MAX: f64 = 10.0;
/// Longest `request_id` or `user` style identifier in bytes.
pub(crate) const IDENTIFIER_BYTES_MAX: usize = 128;

/// Longest `cache_salt` in bytes; vLLM advises 256 bits as base64, which are 43.
pub(crate) const CACHE_SALT_BYTES_MAX: usize = 256;

/// Where token usage is reported in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamUsage {
    /// Nowhere.
    None,
    /// In a chunk of its own at the end (`include_usage`).
    Final,
    /// In every chunk (`continuous_usage_stats`).
    Continuous,
}

/// How token texts are written in log-probabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenNames {
    /// Their text.
    Text,
    /// `token_id:123` (`return_tokens_as_token_ids`).
    Ids,
}

/// What becomes of special tokens in the text of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpecialTokensWanted {
    /// Removed, the default.
    Skip,
    /// Shown (`skip_special_tokens: false`).
    Keep,
}

/// The fields both generating endpoints have, checked.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Common {
    pub(crate) model: Option<String>,
    /// `None` answers in one piece.
    pub(crate) stream: Option<StreamUsage>,
    pub(crate) choices: u32,
    pub(crate) sampling: SamplingFields,
    pub(crate) stop: StopFields,
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) special: SpecialTokensWanted,
    pub(crate) token_names: TokenNames,
    pub(crate) return_token_ids: bool,
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) format: Option<Format>,
    /// Separates what is cached from that of requests with another one or none.
    pub(crate) cache_salt: Option<Arc<str>>,
    /// Lower values come first among the requests of one tenant.
    pub(crate) priority: i64,
    /// Fields of the body that nobody knows.
    pub(crate) ignored: Vec<String>,
    pub(crate) sent: Sent,
}

/// What the client calls fields that are checked later.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) max_tokens: String,
    pub(crate) min_tokens: String,
}

/// Sampling fields as given; what is absent comes from the model's defaults.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SamplingFields {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    pub(crate) seed: Option<u64>,
}

/// Stop rules as given.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct StopFields {
    pub(crate) strings: Vec<String>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) include_in_output: bool,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: u32,
}

/// Fields of OpenAI and vLLM that would change the answer and are not built, each with what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("bad_words", "forbid single tokens with `logit_bias`"),
    ("allowed_token_ids", "raise single tokens with `logit_bias`"),
    ("logits_processors", "remove the field"),
    ("logprob_token_ids", "ask for `top_logprobs`"),
    ("use_beam_search", "remove the field; sampling is supported"),
    ("truncate_prompt_tokens", "shorten the prompt in the client"),
    ("prompt_embeds", "send text or token ids"),
    ("kv_transfer_params", "remove the field"),
    ("vllm_xargs", "remove the field"),
    ("repetition_detection", "use `repetition_penalty` and `stop`"),
];

/// Fields that cannot change the answer: bookkeeping of the client, hints about speed and caching.
const IGNORED: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "request_id",
    // Only byte-level vocabularies exist here: there are no spaces between tokens to add or leave out.
    "spaces_between_special_tokens",
    // Only meaningful with beam search, which is refused.
    "length_penalty",
    "early_stopping",
    // Changes how bytes travel, not which.
    "stream_interval",
];

impl Common {
    /// Reads the shared fields and refuses those that are known and not built.
    pub(crate) fn read(fields: &mut Fields) -> ApiResult<Self> {
        foreign::translate(fields)?;
        let common = Self {
            model: fields.string("model")?,
            stream: read_stream(fields)?,
            choices: fields.count("n", 1..=CHOICES_MAX)?.unwrap_or(1),
            sampling: SamplingFields::read(fields)?,
            stop: StopFields::read(fields)?,
            logit_bias: read_logit_bias(fields)?,
            prompt_logprobs: fields.count("prompt_logprobs", 0..=u32::MAX)?,
            special: match fields.boolean("skip_special_tokens")?.unwrap_or(true) {
                true => SpecialTokensWanted::Skip,
                false => SpecialTokensWanted::Keep,
            },
            token_names: match fields.boolean("return_tokens_as_token_ids")?.unwrap_or(false) {
                true => TokenNames::Ids,
                false => TokenNames::Text,
            },
            return_token_ids: fields.boolean("return_token_ids")?.unwrap_or(false),
            add_special_tokens: fields.boolean("add_special_tokens")?,
            format: read_format(fields)?,
            cache_salt: read_cache_salt(fields)?,
            priority: fields.integer("priority", i64::MIN..=i64::MAX)?.unwrap_or(0),
            ignored: Vec::new(),
            sent: Sent { max_tokens: fields.path("max_tokens"), min_tokens: fields.path("min_tokens") },
        };
        if let Some(best_of) = fields.count("best_of", 1..=CHOICES_MAX)?
            && best_of != common.choices
        {
            let message = format!(
                "expected the value of `n`, {}, found {best_of}; choices are not ranked",
                common.choices
            );
            return Err(ApiError::field("best_of", message));
        }
        if common.prompt_logprobs.is_some() && common.stream.is_some() {
            return Err(ApiError::field(
                "prompt_logprobs",
                "not available with `stream`; remove one of the two",
            ));
        }
        fields.refuse(REFUSED)?;
        fields.ignore(IGNORED);
        Ok(common)
    }
}

impl SamplingFields {
    fn read(fields: &mut Fields) -> ApiResult<Self> {
        let all = |top_k: i64| u32::try_from(top_k).unwrap_or(0);
        Ok(Self {
            temperature: fields.number("temperature", 0.0..=2.0)?,
            // vLLM writes "all tokens" as -1 or 0.
            top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map(all),
            top_p: fields.positive("top_p", 1.0)?,
            min_p: fields.number("min_p", 0.0..=1.0)?,
            repetition_penalty: fields.positive("repetition_penalty", REPETITION_PENALTY_MAX)?,
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
        })
    }

    /// The complete parameters of one choice; `seed` is already that choice's own.
    pub(crate) fn resolve(
        &self,
        defaults: &SamplingParams,
        seed: u64,
        logprobs: Option<u32>,
    ) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            seed,
            logprobs,
        }
    }
}

impl StopFields {
    fn read(fields: &mut Fields) -> ApiResult<Self> {
        Ok(Self {
            strings: read_stop_strings(fields)?,
            tokens: read_token_list(fields, "stop_token_ids", STOP_TOKENS_MAX)?.unwrap_or_default(),
            include_in_output: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            min_tokens: fields.count("min_tokens", 0..=u32::MAX)?.unwrap_or(0),
        })
    }
}

/// A list of token ids. Whether the vocabulary has them is checked where the vocabulary is.
pub(crate) fn read_token_list(
    fields: &mut Fields,
    name: &str,
    entries_max: usize,
) -> ApiResult<Option<Vec<TokenId>>> {
    let path = fields.path(name);
    fields.list(name, entries_max)?.map(|list| token_ids(&path, &list)).transpose()
}

/// Token ids out of JSON values at `path`.
pub(crate) fn token_ids(path: &str, list: &[Value]) -> ApiResult<Vec<TokenId>> {
    // u32::MAX is not an id: the engine uses it as a marker.
    let id = |(i, value)| integer(&format!("{path}[{i}]"), value, 0..=i64::from(u32::MAX - 1));
    list.iter().enumerate().map(|entry| id(entry).map(|id| id as TokenId)).collect()
}

fn read_stream(fields: &mut Fields) -> ApiResult<Option<StreamUsage>> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.take("stream_options") else {
        return Ok(stream.then_some(StreamUsage::None));
    };
    if !stream {
        return Err(ApiError::field("stream_options", "only allowed when `stream` is true"));
    }
    let mut options = Fields::nested("stream_options", options)?;
    let include = options.boolean("include_usage")?.unwrap_or(false);
    let continuous = options.boolean("continuous_usage_stats")?.unwrap_or(false);
    options.ignore(&["include_obfuscation"]);
    options.finish()?;
    Ok(Some(match (include, continuous) {
        (true, true) => StreamUsage::Continuous,
        (true, false) => StreamUsage::Final,
        // As in vLLM, continuous statistics are part of included usage.
        (false, _) => StreamUsage::None,
    }))
}

fn read_cache_salt(fields: &mut Fields) -> ApiResult<Option<Arc<str>>> {
    const NAME: &str = "cache_salt";
    let Some(salt) = fields.string(NAME)? else { return Ok(None) };
    match salt.len() {
        0 => Err(ApiError::field(
            NAME,
            "expected a string with at least one character, found \"\"; remove the field",
        )),
        1..=CACHE_SALT_BYTES_MAX => Ok(Some(salt.into())),
        bytes => {
            let message = format!("expected at most {CACHE_SALT_BYTES_MAX} bytes, found {bytes}");
            Err(ApiError::field(NAME, message))
        }
    }
}

fn read_stop_strings(fields: &mut Fields) -> ApiResult<Vec<String>> {
    let path = fields.path("stop");
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(text @ Value::String(_)) => vec![text],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(mismatch(&path, "a string or a list of strings", &other)),
    };
    if list.len() > STOP_STRINGS_MAX {
        let message = format!("expected at most {STOP_STRINGS_MAX} strings, found {}", list.len());
        return Err(ApiError::field(path, message));
    }
    let mut strings = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        match value {
            Value::String(text) if text.is_empty() => {
                return Err(ApiError::field(
                    path,
                    "expected a string with at least one character, found \"\"",
                ));
            }
            Value::String(text) if text.len() > STOP_STRING_BYTES_MAX => {
                let message = format!("expected at most {STOP_STRING_BYTES_MAX} bytes, found {}", text.len());
                return Err(ApiError::field(path, message));
            }
            Value::String(text) => strings.push(text),
            other => return Err(mismatch(&path, "a string", &other)),
        }
    }
    Ok(strings)
}

fn read_logit_bias(fields: &mut Fields) -> ApiResult<Vec<(TokenId, f32)>> {
    let own = fields.path("logit_bias");
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    if map.len() > LOGIT_BIAS_MAX {
        let message = format!("expected at most {LOGIT_BIAS_MAX} entries, found {}", map.len());
        return Err(ApiError::field(own, message));
    }
    let mut biases = Vec::with_capacity(map.len());
    for (key, value) in map {
        let token: TokenId = key.parse().map_err(|_| {
            let key = crate::wire::fields::excerpt(&key);
            ApiError::field(&own, format!("expected token ids as keys, such as \"17\", found {key:?}"))
        })?;
        let path = format!("{own}.{token}");
        let bias = value.as_f64().ok_or_else(|| mismatch(&path, "a number", &value))?;
        if !(-100.0..=100.0).contains(&bias) {
            return Err(ApiError::field(path, format!("expected a number from -100 to 100, found {bias}")));
        }
        biases.push((token, bias as f32));
    }
    Ok(biases)
}
