//! Perplexity of one model, and how far its predictions are from another's.
//!
//! Everything is in natural logarithms and summed in 64 bits. KL divergence: Kullback and Leibler 1951, of
//! the reference's distribution from the model's, so that what the reference finds likely counts. Standard
//! errors are those of a mean of independent values.

use std::thread;

use undine_core::TokenId;
use undine_core::sampling::argmax;

use super::saved::SavedRow;
use crate::bench::statistics::{mean, percentile};

/// One prediction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prediction {
    /// `-ln p` of the token that really follows.
    pub nll: f64,
    /// Against the reference, if there is one.
    pub against: Option<Difference>,
}

/// How a prediction differs from the reference's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// The reference's `-ln p`.
    pub reference_nll: f64,
    /// How it is to be read.
    pub known: Known,
    /// KL(reference || model), in nats.
    pub kl: f64,
    /// Whether both find the same token best.
    pub same_top: SameTop,
    /// Probability of the token that really follows: model minus reference.
    pub delta_p: f64,
    /// Largest change of a logit, where the reference's are known.
    pub logit_change: Option<f64>,
}

/// How well a reference's prediction is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// As it is.
    Exactly,
    /// It is further off than its file tells.
    AtLeast,
}

/// Whether two models find the same token best.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SameTop {
    /// They do.
    Yes,
    /// They do not.
    No,
}

/// A reference's prediction, of as many tokens as the model's.
#[derive(Clone, Copy)]
pub enum Reference<'a> {
    /// Its logits.
    Logits(&'a [f32]),
    /// Its log-probabilities, rounded.
    Saved(&'a SavedRow),
}

/// A row of logits and the token that really follows.
#[derive(Clone, Copy)]
pub struct Scored<'a> {
    /// Of the model.
    pub logits: &'a [f32],
    /// Of the reference.
    pub reference: Option<Reference<'a>>,
    /// The token.
    pub target: TokenId,
}

impl Reference<'_> {
    /// `ln sum exp` of what [`Self::get`] gives; `None` unless all is finite.
    fn log_sum_exp(self) -> Option<f64> {
        match self {
            Self::Logits(logits) => log_sum_exp(logits),
            Self::Saved(row) => {
                let sum: f64 = (0..row.len()).filter_map(|token| self.get(token)).map(f64::exp).sum();
                (sum > 0.0).then(|| sum.ln())
            }
        }
    }

    /// The log-probability of a token but for a constant; `None` if it counts as nothing.
    fn get(self, token: usize) -> Option<f64> {
        match self {
            Self::Logits(logits) => Some(f64::from(logits[token])),
            Self::Saved(row) => (!row.is_cut_off(token)).then(|| row.log_prob(token)),
        }
    }

    /// The same of the token that really follows, which counts at its most.
    fn of_target(self, target: usize) -> (f64, Known) {
        match self {
            Self::Logits(logits) => (f64::from(logits[target]), Known::Exactly),
            Self::Saved(row) if row.is_cut_off(target) => (row.log_prob(target), Known::AtLeast),
            Self::Saved(row) => (row.log_prob(target), Known::Exactly),
        }
    }

    fn best(self) -> TokenId {
        match self {
            Self::Logits(logits) => argmax(logits),
            Self::Saved(row) => row.best(),
        }
    }

    fn logit_change(self, model: &[f32]) -> Option<f64> {
        let Self::Logits(logits) = self else { return None };
        let changes = model.iter().zip(logits).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
        Some(changes.fold(0.0, f64::max))
    }
}

impl Scored<'_> {
    /// Measures; `None` if logits are not finite numbers.
    pub fn prediction(&self) -> Option<Prediction> {
        let target = self.target as usize;
        let norm = log_sum_exp(self.logits)?;
        let log_prob = f64::from(self.logits[target]) - norm;
        let Some(reference) = self.reference else {
            return Some(Prediction { nll: -log_prob, against: None });
        };
        let reference_norm = reference.log_sum_exp()?;
        let (reference_log_prob, known) = reference.of_target(target);
        let reference_log_prob = reference_log_prob - reference_norm;
        let mut kl = 0.0;
        for (token, &model) in self.logits.iter().enumerate() {
            let Some(log_p) = reference.get(token) else { continue };
            let log_p = log_p - reference_norm;
            kl += log_p.exp() * (log_p - (f64::from(model) - norm));
        }
        let same_top = if argmax(self.logits) == reference.best() { SameTop::Yes } else { SameTop::No };
        let against = Difference {
            reference_nll: -reference_log_prob,
            known,
            // Rounding may bring a divergence of nothing below 0.
            kl: kl.max(0.0),
            same_top,
            delta_p: log_prob.exp() - reference_log_prob.exp(),
            logit_change: reference.logit_change(self.logits),
        };
        Some(Prediction { nll: -log_prob, against: Some(against) })
    }
}

/// Measures rows on several threads; `None` if some logits are not finite numbers.
pub fn predictions(rows: &[Scored], threads: usize) -> Option<Vec<Prediction>> {
    let each = rows.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let measure = |rows: &[Scored]| rows.iter().map(Scored::prediction).collect::<Option<Vec<_>>>();
        let parts: Vec<_> = rows.chunks(each).map(|rows| scope.spawn(move || measure(rows))).collect();
        let mut all = Vec::with_capacity(rows.len());
        for part in parts {
            all.extend(part.join().expect("measuring does not panic")?);
        }
        Some(all)
    })
}

/// `ln sum exp` of a row; `None` unless all are finite.
pub fn log_sum_exp(logits: &[f32]) -> Option<f64> {
    if !logits.iter().all(|logit| logit.is_finite()) {
        return None;
    }
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    Some(max + sum.ln())
}

/// A mean with its standard error.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error; 0 of a single value.
    pub error: f64,
}

impl Mean {
    /// Of these values.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut count, mut centre, mut squares) = (0.0, 0.0, 0.0);
        // Welford's recurrence: no difference of large sums.
        for value in values {
            count += 1.0;
            let from = value - centre;
            centre += from / count;
            squares += from * (value - centre);
        }
        let error = if count > 1.0 { (squares / count / (count - 1.0)).sqrt() } else { 0.0 };
        Self { value: centre, error }
    }

    /// `exp` of it, the error in proportion.
    pub fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: value * self.error }
    }
}

/// What was measured over a text.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// Predictions.
    pub tokens: usize,
    /// Of the model.
    pub perplexity: Mean,
    /// Against the reference, if there is one.
    pub against: Option<Divergence>,
}

/// How far a model is from a reference.
#[derive(Clone, PartialEq, Debug)]
pub struct Divergence {
    /// Of the reference.
    pub reference_perplexity: Mean,
    /// Predictions of the reference that are further off than its file tells, so that its perplexity is at
    /// least what is said, and the ratio at most.
    pub cut_off: usize,
    /// The model's perplexity divided by the reference's.
    pub perplexity_ratio: Mean,
    /// KL(reference || model) per token, in nats.
    pub kl: Mean,
    /// The same of single tokens: at the percentiles of [`KL_PERCENTS`].
    pub kl_percentiles: [f64; KL_PERCENTS.len()],
    /// Part of the predictions with the same best token, from 0 to 1.
    pub same_top: Mean,
    /// Mean change of the probability of the token that really follows.
    pub delta_p: Mean,
    /// Mean of its absolute value.
    pub delta_p_abs: f64,
    /// Root of the mean of its square.
    pub delta_p_rms: f64,
    /// Largest absolute value of it.
    pub delta_p_max: f64,
    /// Largest change of a logit, where the reference's are known.
    pub logit_change_max: Option<f64>,
}

/// Which percentiles of the divergence are reported: median to largest.
pub const KL_PERCENTS: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 100.0];

impl Summary {
    /// Of at least one prediction.
    pub fn of(predictions: &[Prediction]) -> Self {
        let perplexity = Mean::of(predictions.iter().map(|prediction| prediction.nll)).exp();
        let differences: Vec<Difference> =
            predictions.iter().filter_map(|prediction| prediction.against).collect();
        let against = (!differences.is_empty()).then(|| divergence(predictions, &differences));
        Self { tokens: predictions.len(), perplexity, against }
    }
}

fn divergence(predictions: &[Prediction], differences: &[Difference]) -> Divergence {
    let mut kl: Vec<f64> = differences.iter().map(|difference| difference.kl).collect();
    kl.sort_by(f64::total_cmp);
    let all = |value: fn(&Difference) -> f64| differences.iter().map(value);
    let max = |value: fn(&Difference) -> f64| all(value).fold(0.0, f64::max);
    let log_ratios =
        predictions.iter().zip(differences).map(|(prediction, d)| prediction.nll - d.reference_nll);
    let squares: Vec<f64> = all(|d| d.delta_p * d.delta_p).collect();
    let changes: Vec<f64> = all(|d| d.delta_p.abs()).collect();
    Divergence {
        reference_perplexity: Mean::of(all(|d| d.reference_nll)).exp(),
        cut_off: differences.iter().filter(|d| d.known == Known::AtLeast).count(),
        perplexity_ratio: Mean::of(log_ratios).exp(),
        kl: Mean::of(all(|d| d.kl)),
        kl_percentiles: KL_PERCENTS.map(|percent| percentile(&kl, percent)),
        same_top: Mean::of(all(|d| f64::from(u8::from(d.same_top == SameTop::Yes)))),
        delta_p: Mean::of(all(|d| d.delta_p)),
        delta_p_abs: mean(&changes),
        delta_p_rms: mean(&squares).sqrt(),
        delta_p_max: max(|d| d.delta_p.abs()),
        logit_change_max: differences.iter().filter_map(|d| d.logit_change).reduce(f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn a_prediction_by_hand() {
        // Probabilities 1/4, 3/4 and 1/2, 1/2.
        let (model, reference) = ([0.0, 3f32.ln()], [7.0, 7.0]);
        let row = Scored { logits: &model, reference: Some(Reference::Logits(&reference)), target: 0 };
        let found = row.prediction().expect("finite");
        let against = found.against.expect("a reference");
        assert!((found.nll - 4f64.ln()).abs() < 1e-7 && (against.reference_nll - 2f64.ln()).abs() < 1e-12);
        // 1/2 ln(2) + 1/2 ln(2/3)
        assert!((against.kl - 0.5 * (4f64 / 3.0).ln()).abs() < 1e-7, "{}", against.kl);
        assert!((against.delta_p + 0.25).abs() < 1e-7);
        assert_eq!(against.same_top, SameTop::No);
        assert!((against.logit_change.expect("known") - 7.0).abs() < 1e-6);
        let itself = Scored { logits: &model, reference: Some(Reference::Logits(&model)), target: 0 };
        let against = itself.prediction().and_then(|found| found.against).expect("a reference");
        assert_eq!((against.kl, against.delta_p, against.logit_change), (0.0, 0.0, Some(0.0)));
        for bad in [f32::NAN, f32::INFINITY] {
            let row = Scored { logits: &[0.0, bad], reference: None, target: 0 };
            assert_eq!(row.prediction(), None);
        }
    }

    #[test]
    fn rows_are_measured_alike_on_any_number_of_threads() {
        let logits = [[0.0, 1.0], [3.0, -1.0], [0.5, 0.25]];
        let reference = Some(Reference::Logits(&[0.0, 0.0]));
        let rows: Vec<Scored> = logits.iter().map(|logits| Scored { logits, reference, target: 1 }).collect();
        let one = predictions(&rows, 1).expect("finite");
        assert_eq!(one.len(), 3);
        assert_eq!(predictions(&rows, 2), Some(one.clone()));
        assert_eq!(predictions(&rows, 8), Some(one));
        assert_eq!(predictions(&[], 2), Some(Vec::new()));
    }

    #[test]
    fn means_and_percentiles_over_a_text() {
        let difference = |reference_nll, kl, same_top, delta_p| Difference {
            reference_nll,
            known: Known::Exactly,
            kl,
            same_top,
            delta_p,
            logit_change: Some(kl * 10.0),
        };
        let predictions = [
            Prediction { nll: 1.0, against: Some(difference(1.0, 0.0, SameTop::Yes, 0.1)) },
            Prediction { nll: 3.0, against: Some(difference(2.0, 0.4, SameTop::No, -0.3)) },
        ];
        let summary = Summary::of(&predictions);
        close(summary.perplexity.value, 2f64.exp());
        // Deviation 1, divided by the root of n - 1.
        close(summary.perplexity.error, 2f64.exp());
        let found = summary.against.expect("a reference");
        close(found.perplexity_ratio.value, 0.5f64.exp());
        close(found.kl.value, 0.2);
        close(found.kl.error, 0.2);
        close(found.kl_percentiles[0], 0.2);
        close(found.kl_percentiles[4], 0.4);
        close(found.same_top.value, 0.5);
        close(found.delta_p.value, -0.1);
        close(found.delta_p_abs, 0.2);
        close(found.delta_p_rms, 0.05f64.sqrt());
        close(found.delta_p_max, 0.3);
        close(found.logit_change_max.expect("known"), 4.0);
    }
}
