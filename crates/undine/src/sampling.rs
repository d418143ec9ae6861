//! Sampling settings: what the checkpoint recommends, else the model's published preset, else the plain
//! distribution; flags and `/set` override each on its own.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::{Map, Value as Json};
use undine_core::SamplingParams;
use undine_text::preset;
use undine_weights::Checkpoint;

use crate::args::{
    SamplingArgs, parse_fraction, parse_non_negative, parse_penalty, parse_positive, parse_top_p,
};
use crate::command::nearest;
use crate::format::parse_count_u32;

/// How to answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// How to choose tokens; its seed is not used.
    pub params: SamplingParams,
    /// The seed of every answer, or a fresh one each time.
    pub seed: Option<u64>,
    /// Most tokens of an answer; `None` is as many as fit.
    pub max_tokens: Option<u32>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

/// What a checkpoint is sampled with unless a request says otherwise. `name` is that of its file or folder.
pub fn defaults(checkpoint: &Checkpoint, name: &str) -> SamplingParams {
    let stated = checkpoint.sampling_defaults();
    let preset = preset(checkpoint.name()).or_else(|| preset(name)).unwrap_or_default();
    let plain = SamplingParams::default();
    SamplingParams {
        temperature: stated.temperature.or(preset.temperature).unwrap_or(plain.temperature),
        top_k: stated.top_k.or(preset.top_k).unwrap_or(plain.top_k),
        top_p: stated.top_p.or(preset.top_p).unwrap_or(plain.top_p),
        min_p: stated.min_p.or(preset.min_p).unwrap_or(plain.min_p),
        repetition_penalty: stated
            .repetition_penalty
            .or(preset.repetition_penalty)
            .unwrap_or(plain.repetition_penalty),
        ..plain
    }
}

/// The names of a generation_config.json that are defaults of sampling.
pub const DEFAULTS: [&str; 7] =
    ["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"];

/// Everything that `/set` changes, in the order of the list.
pub const SETTINGS: [&str; 13] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
    "stop",
    "verbose",
    "wordwrap",
    "think",
];

/// `params` with the entries of a JSON object, under the names of [`DEFAULTS`], in their place.
pub fn override_defaults(params: SamplingParams, map: &Map<String, Json>) -> Result<SamplingParams, String> {
    let mut settings = Settings { params, seed: None, max_tokens: None, stop: Vec::new() };
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        if !DEFAULTS.contains(&name.as_str()) {
            return Err(format!("expected some of {}, found {name:?}", DEFAULTS.join(", ")));
        }
        settings.set(name, &value.to_string()).map_err(|message| format!("{name}: {message}"))?;
    }
    Ok(settings.params)
}

/// A seed nobody chose.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Settings {
    /// `defaults` with what the command line says instead.
    pub fn new(defaults: SamplingParams, args: &SamplingArgs) -> Self {
        let params = SamplingParams {
            temperature: args.temperature.unwrap_or(defaults.temperature),
            top_k: args.top_k.unwrap_or(defaults.top_k),
            top_p: args.top_p.unwrap_or(defaults.top_p),
            min_p: args.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: args.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: args.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: args.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            ..defaults
        };
        Self { params, seed: args.seed, max_tokens: None, stop: Vec::new() }
    }

    /// Parameters for one answer.
    pub fn for_answer(&self) -> SamplingParams {
        SamplingParams { seed: self.seed.unwrap_or_else(fresh_seed), ..self.params }
    }

    /// Changes one setting; both are as the user wrote them. An empty value of `seed`, `max_tokens` or `stop`
    /// resets it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let whole = || value.parse().map_err(|_| format!("expected a whole number, found {value:?}"));
        let params = &mut self.params;
        match name.replace('-', "_").as_str() {
            "temperature" | "temp" => params.temperature = parse_non_negative(value)?,
            "top_k" => {
                params.top_k =
                    value.parse().map_err(|_| format!("expected a whole number, found {value:?}"))?;
            }
            "top_p" => params.top_p = parse_top_p(value)?,
            "min_p" => params.min_p = parse_fraction(value)?,
            "repetition_penalty" | "repeat_penalty" => params.repetition_penalty = parse_positive(value)?,
            "presence_penalty" => params.presence_penalty = parse_penalty(value)?,
            "frequency_penalty" => params.frequency_penalty = parse_penalty(value)?,
            "seed" if value.is_empty() => self.seed = None,
            "seed" => self.seed = Some(whole()?),
            "max_tokens" | "num_predict" if matches!(value, "" | "-1" | "-2") => self.max_tokens = None,
            "max_tokens" | "num_predict" => self.max_tokens = Some(parse_count_u32(value)?),
            "stop" if value.is_empty() => self.stop.clear(),
            "stop" => self.stop.push(value.to_owned()),
            "num_ctx" | "max_model_len" => {
                return Err("the context is chosen at the start: undine run MODEL -c TOKENS".to_owned());
            }
            other => {
                let guess = nearest(other, &SETTINGS)
                    .map_or_else(String::new, |meant| format!(", did you mean {meant}?"));
                return Err(format!("there is no setting {name:?}{guess}; /set alone lists them"));
            }
        }
        Ok(())
    }

    /// One line per setting.
    pub fn describe(&self) -> String {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.params;
        let or = |value: Option<String>, other: &str| value.unwrap_or_else(|| other.to_owned());
        let seed = or(self.seed.map(|seed| seed.to_string()), "another each time");
        let max_tokens = or(self.max_tokens.map(|max| max.to_string()), "as many as fit");
        let quoted: Vec<String> = self.stop.iter().map(|stop| format!("{stop:?}")).collect();
        let stop = if quoted.is_empty() { "at none".to_owned() } else { quoted.join(" ") };
        format!(
            "temperature {temperature}\ntop_k {top_k}\ntop_p {top_p}\nmin_p {min_p}\n\
             repetition_penalty {repetition_penalty}\npresence_penalty {presence_penalty}\n\
             frequency_penalty {frequency_penalty}\nseed {seed}\nmax_tokens {max_tokens}\nstop {stop}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_or_say_why_not() {
        let mut settings = Settings::new(SamplingParams::default(), &SamplingArgs::default());
        for (name, value, accepted) in [
            ("temperature", "0.2", true),
            ("top-k", "50", true),
            ("top_p", "1.5", false),
            ("min_p", "0.15", true),
            ("seed", "7", true),
            ("max_tokens", "1K", true),
            ("stop", "END", true),
            ("temperature", "hot", false),
            ("top_k", "-1", false),
            ("colour", "blue", false),
        ] {
            assert_eq!(settings.set(name, value).is_ok(), accepted, "{name} {value}");
        }
        let error = settings.set("temprature", "1").expect_err("misspelt");
        assert!(error.contains("did you mean temperature?"), "{error}");
        assert_eq!((settings.params.temperature, settings.params.top_k), (0.2, 50));
        assert_eq!((settings.seed, settings.max_tokens), (Some(7), Some(1024)));
        assert_eq!(settings.for_answer().seed, 7);
        assert!(settings.describe().contains("stop \"END\""));
        settings.set("seed", "").expect("resets");
        assert_eq!(settings.seed, None);
    }
}
