//! What `undine eval` prints.

use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::measures::{Divergence, KL_PERCENTS, Mean, Summary};
use crate::bench::statistics::percent_name;
use crate::format::grouped;
use crate::session::speed;

/// What was measured, and how.
pub struct Subject<'a> {
    /// The model's name.
    pub model: String,
    /// The reference's.
    pub reference: Option<String>,
    /// The text.
    pub text: &'a str,
    /// Most tokens of a window.
    pub context: usize,
    /// Tokens from the beginning of a window to that of the next, if they slide.
    pub stride: Option<u32>,
    /// Windows.
    pub windows: usize,
    /// Tokens of all windows.
    pub computed: usize,
    /// Time in the model.
    pub time: Duration,
}

/// The measurements for people.
pub fn table(subject: &Subject, summary: &Summary) -> String {
    let mut lines = vec![
        format!("{} on {}", subject.model, subject.text),
        format!(
            "{} windows of {} tokens{}, {} predictions, {:.0} tokens/s",
            grouped(subject.windows as u64),
            subject.context,
            subject.stride.map_or_else(String::new, |stride| format!(", one every {stride}")),
            grouped(summary.tokens as u64),
            speed(subject.computed, subject.time)
        ),
        String::new(),
        line("perplexity", summary.perplexity, 4, ""),
    ];
    if let (Some(found), Some(reference)) = (&summary.against, &subject.reference) {
        lines.extend(comparison(found, reference));
    }
    lines.join("\n") + "\n"
}

fn comparison(found: &Divergence, reference: &str) -> Vec<String> {
    let percent = |mean: Mean| Mean { value: 100.0 * mean.value, error: 100.0 * mean.error };
    let plain =
        |name: &str, value: f64, digits: usize, unit: &str| format!("{name:<24}{value:>12.digits$}{unit}");
    let mut lines = vec![
        line("perplexity of reference", found.reference_perplexity, 4, ""),
        line("perplexity ratio", found.perplexity_ratio, 6, ""),
    ];
    if found.cut_off > 0 {
        lines.push(format!(
            "{} predictions of the reference are further off than its file tells: its perplexity is at least this, the \
             ratio at most",
            grouped(found.cut_off as u64)
        ));
    }
    lines.extend([String::new(), format!("against {reference}"), line("mean KL", found.kl, 6, " nats")]);
    for (percent, value) in KL_PERCENTS.iter().zip(found.kl_percentiles) {
        let name = match percent_name(*percent).as_str() {
            "50" => "median KL".to_owned(),
            "100" => "largest KL".to_owned(),
            percent => format!("KL, {percent}%"),
        };
        lines.push(plain(&name, value, 6, " nats"));
    }
    lines.extend([
        line("same best token", percent(found.same_top), 2, " %"),
        line("mean dp", percent(found.delta_p), 3, " %"),
        plain("mean |dp|", 100.0 * found.delta_p_abs, 3, " %"),
        plain("RMS dp", 100.0 * found.delta_p_rms, 3, " %"),
        plain("largest |dp|", 100.0 * found.delta_p_max, 3, " %"),
    ]);
    lines.extend(found.logit_change_max.map(|change| plain("largest logit change", change, 4, "")));
    lines
}

fn line(name: &str, mean: Mean, digits: usize, unit: &str) -> String {
    format!("{name:<24}{:>12.digits$} +/- {:.digits$}{unit}", mean.value, mean.error)
}

/// The measurements as one object.
pub fn json(subject: &Subject, summary: &Summary) -> Json {
    let mean = |mean: Mean| json!({ "value": mean.value, "error": mean.error });
    let mut object = json!({
        "model": subject.model,
        "reference": subject.reference,
        "text": subject.text,
        "context": subject.context,
        "stride": subject.stride,
        "windows": subject.windows,
        "predictions": summary.tokens,
        "tokens_per_second": speed(subject.computed, subject.time),
        "perplexity": mean(summary.perplexity),
    });
    if let Some(found) = &summary.against {
        let mut kl = Map::new();
        kl.insert("mean".to_owned(), mean(found.kl));
        for (percent, value) in KL_PERCENTS.iter().zip(found.kl_percentiles) {
            let name =
                if *percent == 100.0 { "max".to_owned() } else { format!("p{}", percent_name(*percent)) };
            kl.insert(name, value.into());
        }
        object["reference_perplexity"] = mean(found.reference_perplexity);
        object["reference_cut_off"] = found.cut_off.into();
        object["perplexity_ratio"] = mean(found.perplexity_ratio);
        object["kl"] = kl.into();
        object["same_top"] = mean(found.same_top);
        object["delta_p"] = json!({
            "mean": mean(found.delta_p),
            "mean_abs": found.delta_p_abs,
            "rms": found.delta_p_rms,
            "max_abs": found.delta_p_max,
        });
        object["logit_change_max"] = found.logit_change_max.into();
    }
    object
}
