//! The sampling parameters that a checkpoint recommends. A file of a stranger must not make a model talk
//! garbage, nor refuse to load for one number: what makes no sense is told and ignored.

use serde_json::Value as Json;

use crate::config_gguf::Metadata;
use crate::config_hf::{json_integer, json_number, shorten};

/// The sampling parameters a checkpoint recommends; `None` where it says nothing, or nothing that makes
/// sense.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct SamplingDefaults {
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keep the k best tokens.
    pub top_k: Option<u32>,
    /// Keep the smallest set of best tokens with at least this probability.
    pub top_p: Option<f32>,
    /// Keep tokens with at least this fraction of the best token's probability.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens seen.
    pub repetition_penalty: Option<f32>,
}

/// What a parameter may be.
#[derive(Clone, Copy)]
struct Range {
    holds: fn(f32) -> bool,
    words: &'static str,
}

const TEMPERATURE: Range = Range { holds: |x| x.is_finite() && x >= 0.0, words: "a number of at least 0" };
const TOP_P: Range = Range { holds: |x| x > 0.0 && x <= 1.0, words: "a number above 0 and at most 1" };
const MIN_P: Range = Range { holds: |x| (0.0..=1.0).contains(&x), words: "a number from 0 to 1" };
/// Logits are divided by it and multiplied with it: beyond these it decides alone which token comes.
const PENALTY: Range = Range { holds: |x| (0.1..=10.0).contains(&x), words: "a number from 0.1 to 10" };
const TOP_K: &str = "a whole number, 0 or -1 for all tokens";

/// Whether a value changes answers.
type Changes = fn(&Json) -> bool;

/// What a generation_config.json may say that is not done here, and with which values it would change
/// answers.
const CHANGES: [(&str, Changes); 16] = [
    ("num_beams", |value| json_number(value).is_some_and(|beams| beams > 1.0)),
    ("num_beam_groups", |value| json_number(value).is_some_and(|groups| groups > 1.0)),
    ("penalty_alpha", |value| json_number(value).is_some_and(|alpha| alpha > 0.0)),
    ("typical_p", |value| json_number(value).is_some_and(|p| p < 1.0)),
    ("epsilon_cutoff", |value| json_number(value).is_some_and(|cutoff| cutoff > 0.0)),
    ("eta_cutoff", |value| json_number(value).is_some_and(|cutoff| cutoff > 0.0)),
    ("no_repeat_ngram_size", |value| json_number(value).is_some_and(|size| size > 0.0)),
    ("bad_words_ids", is_filled),
    ("suppress_tokens", is_filled),
    ("begin_suppress_tokens", is_filled),
    ("force_words_ids", is_filled),
    ("sequence_bias", is_filled),
    ("stop_strings", is_filled),
    ("max_new_tokens", |value| json_number(value).is_some_and(|tokens| tokens > 0.0)),
    ("min_new_tokens", |value| json_number(value).is_some_and(|tokens| tokens > 0.0)),
    ("guidance_scale", |value| json_number(value).is_some_and(|scale| scale != 1.0)),
];

/// Whether there is something in a list, a table or a text.
fn is_filled(value: &Json) -> bool {
    match value {
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::String(text) => !text.is_empty(),
        _ => false,
    }
}

/// A value as it stands in a file.
struct Found {
    number: Option<f64>,
    integer: Option<u64>,
    shown: String,
}

/// Reads the parameters of a file called `file`; `find` gives a value by the name that it has in a
/// generation_config.json.
fn read(
    file: &str,
    find: impl Fn(&str) -> Option<(String, Found)>,
    repairs: &mut Vec<String>,
) -> SamplingDefaults {
    let mut refuse = |key: &str, found: &Found, words: &str| {
        repairs.push(format!(
            "{file}: {key} is {}, expected {words}; it was ignored, as if it were absent.",
            found.shown
        ));
    };
    let mut number = |name: &str, range: Range| {
        let (key, found) = find(name)?;
        let value = found.number.map(|number| number as f32).filter(|&value| (range.holds)(value));
        if value.is_none() {
            refuse(&key, &found, range.words);
        }
        value
    };
    let (temperature, top_p) = (number("temperature", TEMPERATURE), number("top_p", TOP_P));
    let (min_p, repetition_penalty) = (number("min_p", MIN_P), number("repetition_penalty", PENALTY));
    let top_k = find("top_k").and_then(|(key, found)| {
        // Other engines write -1 for all tokens.
        let value =
            if found.number == Some(-1.0) { Some(0) } else { found.integer.and_then(|k| k.try_into().ok()) };
        if value.is_none() {
            refuse(&key, &found, TOP_K);
        }
        value
    });
    SamplingDefaults { temperature, top_k, top_p, min_p, repetition_penalty }
}

/// Those of a generation_config.json.
pub(crate) fn of_generation_config(file: &str, config: &Json, repairs: &mut Vec<String>) -> SamplingDefaults {
    let find = |name: &str| {
        let value = config.get(name).filter(|value| !value.is_null())?;
        let integer = json_integer(value).map(|integer| integer as u64);
        Some((name.to_owned(), Found { number: json_number(value), integer, shown: shorten(value) }))
    };
    let mut found = read(file, find, repairs);
    // Beams would choose, too, but what is then said is the most likely text as well.
    if config.get("do_sample") == Some(&Json::Bool(false)) {
        found.temperature = Some(0.0);
    }
    let ignored: Vec<&str> = CHANGES
        .iter()
        .filter(|(name, changes)| config.get(name).is_some_and(changes))
        .map(|(name, _)| *name)
        .collect();
    if !ignored.is_empty() {
        repairs.push(format!(
            "{file}: {} would change answers and has no effect here: tokens are chosen by temperature, top_k, top_p, min_p \
             and penalties; --stop and --max-tokens, or a request's stop and max_tokens, end answers.",
            ignored.join(", ")
        ));
    }
    found
}

/// Those of a GGUF file's metadata.
pub(crate) fn of_gguf(metadata: &Metadata<'_>, repairs: &mut Vec<String>) -> SamplingDefaults {
    let find = |name: &str| {
        let name = match name {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            other => other,
        };
        let key = format!("general.sampling.{name}");
        let value = metadata.get(&key)?;
        let whole =
            |x: f64| (x.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&x)).then_some(x as u64);
        let integer = value.as_u64().or_else(|| value.as_f64().and_then(whole));
        Some((key, Found { number: value.as_f64(), integer, shown: shorten(value) }))
    };
    read("GGUF metadata", find, repairs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn odd_values_are_told_and_ignored() {
        let one = |key: &str, value: Json| {
            let mut repairs = Vec::new();
            let found = of_generation_config("generation_config.json", &json!({key: value}), &mut repairs);
            (found, repairs)
        };
        for (key, value) in [
            ("temperature", json!(-1)),
            ("temperature", json!("NaN")),
            ("temperature", json!(1e300)),
            ("temperature", json!(true)),
            ("top_k", json!(-7)),
            ("top_k", json!(1.5)),
            ("top_k", json!(1u64 << 40)),
            ("top_p", json!(0)),
            ("top_p", json!(1.5)),
            ("top_p", json!([0.9])),
            ("min_p", json!(-0.1)),
            ("min_p", json!("Infinity")),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(0.0)),
            ("repetition_penalty", json!(-1.05)),
            ("repetition_penalty", json!(1e9)),
        ] {
            let (found, repairs) = one(key, value.clone());
            assert_eq!(found, SamplingDefaults::default(), "{key} {value}");
            let [line] = repairs.as_slice() else { panic!("one line for {key} {value}: {repairs:?}") };
            assert!(line.starts_with(&format!("generation_config.json: {key} is ")), "{line}");
        }
        for (key, value) in [
            ("temperature", json!(0)),
            ("temperature", json!("0.3")),
            ("top_k", json!(-1)),
            ("top_k", json!(50.0)),
            ("top_p", json!(1)),
            ("min_p", json!(0)),
            ("repetition_penalty", json!(1.05)),
            ("min_p", json!(null)),
            ("num_beams", json!("many")),
        ] {
            assert_eq!(one(key, value.clone()).1, [] as [&str; 0], "{key} {value}");
        }
        assert_eq!(one("top_k", json!(-1)).0.top_k, Some(0));
        assert_eq!(one("temperature", json!("0.3")).0.temperature, Some(0.3));
    }

    #[test]
    fn what_is_not_done_is_named_in_one_line_and_greedy_is_greedy() {
        let of = |config: Json| {
            let mut repairs = Vec::new();
            let found = of_generation_config("generation_config.json", &config, &mut repairs);
            (found.temperature, repairs)
        };
        assert_eq!(of(json!({"do_sample": false, "temperature": 0.7})), (Some(0.0), Vec::new()));
        assert_eq!(of(json!({"do_sample": true, "temperature": 0.5})), (Some(0.5), Vec::new()));
        let neutral = json!({
            "num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": null, "suppress_tokens": [],
            "stop_strings": null, "penalty_alpha": null, "guidance_scale": 1, "max_new_tokens": null,
        });
        assert_eq!(of(neutral), (None, Vec::new()));
        let (_, lines) = of(json!({
            "num_beams": 4, "bad_words_ids": [[1]], "suppress_tokens": [7], "no_repeat_ngram_size": 3, "typical_p": 0.9,
            "stop_strings": ["END"], "max_new_tokens": 64,
        }));
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        for name in [
            "num_beams",
            "bad_words_ids",
            "suppress_tokens",
            "no_repeat_ngram_size",
            "typical_p",
            "stop_strings",
            "max_new_tokens",
        ] {
            assert!(line.contains(name), "{name}: {line}");
        }
    }
}
