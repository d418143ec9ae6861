//! Means and percentiles, as numpy computes them.

/// The arithmetic mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The standard deviation of the values themselves, not of a population they are drawn from; 0 of nothing.
pub fn standard_deviation(values: &[f64]) -> f64 {
    let centre = mean(values);
    mean(&values.iter().map(|value| (value - centre).powi(2)).collect::<Vec<_>>()).sqrt()
}

/// The value below which `percent` of the sorted values lie, between two of them in proportion; 0 of nothing.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = percent / 100.0 * last as f64;
    let below = place.floor();
    let (low, high) = (sorted[below as usize], sorted[(below as usize + 1).min(last)]);
    low + (high - low) * (place - below)
}

/// A percentile in the name of a result: `99`, `99.9`.
pub fn percent_name(percent: f64) -> String {
    percent.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_values_in_proportion() {
        for (sorted, percent, expected) in [
            (&[][..], 50.0, 0.0),
            (&[7.0][..], 99.0, 7.0),
            (&[1.0, 2.0, 9.0][..], 50.0, 2.0),
            (&[1.0, 2.0, 4.0, 9.0][..], 50.0, 3.0),
            (&[1.0, 2.0, 4.0, 9.0][..], 0.0, 1.0),
            (&[1.0, 2.0, 4.0, 9.0][..], 100.0, 9.0),
            // Place 0.9 * 3 = 2.7: 4 + 0.7 * 5.
            (&[1.0, 2.0, 4.0, 9.0][..], 90.0, 7.5),
            (&[10.0, 20.0, 30.0, 40.0, 50.0][..], 25.0, 20.0),
            (&[10.0, 20.0, 30.0, 40.0, 50.0][..], 99.0, 49.6),
        ] {
            let found = percentile(sorted, percent);
            assert!((found - expected).abs() < 1e-12, "{sorted:?} {percent}: {found}");
        }
    }

    #[test]
    fn means_and_deviations() {
        assert_eq!((mean(&[]), standard_deviation(&[])), (0.0, 0.0));
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!((mean(&values), standard_deviation(&values)), (5.0, 2.0));
    }

    #[test]
    fn percentiles_have_short_names() {
        assert_eq!((percent_name(99.0), percent_name(99.9)), ("99".to_owned(), "99.9".to_owned()));
    }
}
