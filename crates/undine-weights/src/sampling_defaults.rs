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
    read(file, find, repairs)
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
}
