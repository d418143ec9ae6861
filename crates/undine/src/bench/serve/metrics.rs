//! From samples to the numbers of the table. Definitions are those of `vllm bench serve`.

use super::sample::Sample;
use crate::args_bench::{Metric, Objective};
use crate::bench::statistics::{mean, percentile, standard_deviation};

/// One of the times over all requests, in milliseconds.
#[derive(Clone, PartialEq, Debug)]
pub struct Times {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// Standard deviation.
    pub std: f64,
    /// Percent and value, in the order asked for.
    pub percentiles: Vec<(f64, f64)>,
}

impl Times {
    /// Of values in seconds.
    pub fn of(mut seconds: Vec<f64>, percents: &[f64]) -> Self {
        seconds.iter_mut().for_each(|value| *value *= 1e3);
        seconds.sort_by(f64::total_cmp);
        Self {
            mean: mean(&seconds),
            median: percentile(&seconds, 50.0),
            std: standard_deviation(&seconds),
            percentiles: percents.iter().map(|&p| (p, percentile(&seconds, p))).collect(),
        }
    }
}

/// The numbers of a measurement. Tokens and times are of successful requests only.
#[derive(Clone, PartialEq, Debug)]
pub struct Metrics {
    /// Seconds from the first request to the last answer.
    pub duration: f64,
    /// Requests that succeeded.
    pub completed: usize,
    /// Requests that failed.
    pub failed: usize,
    /// Tokens of prompts.
    pub total_input: u64,
    /// Tokens of answers.
    pub total_output: u64,
    /// Requests that succeeded, per second.
    pub request_throughput: f64,
    /// Requests that met all objectives, per second; `None` without objectives.
    pub request_goodput: Option<f64>,
    /// Tokens of answers per second.
    pub output_throughput: f64,
    /// Tokens of prompts and answers per second.
    pub total_token_throughput: f64,
    /// Most chunks in one of the seconds since the first request.
    pub max_output_tokens_per_s: f64,
    /// Most requests under way within one of these seconds.
    pub max_concurrent_requests: usize,
    /// The times that were asked for.
    pub times: Vec<(Metric, Times)>,
}

/// What to compute.
pub struct Wanted<'a> {
    /// Which times.
    pub metrics: &'a [Metric],
    /// Which percentiles of them.
    pub percents: &'a [f64],
    /// What a good request meets.
    pub objectives: &'a [Objective],
}

impl Metrics {
    /// Of a measurement that took `duration` seconds.
    pub fn of(samples: &[Sample], duration: f64, wanted: &Wanted<'_>) -> Self {
        let good: Vec<&Sample> = samples.iter().filter(|sample| sample.is_success()).collect();
        let total_input = good.iter().map(|sample| u64::from(sample.prompt_tokens)).sum();
        let total_output = good.iter().map(|sample| u64::from(sample.output_tokens())).sum();
        let per_second = |count: f64| if duration > 0.0 { count / duration } else { 0.0 };
        let meets_all = |sample: &Sample| wanted.objectives.iter().all(|&objective| meets(sample, objective));
        let goodput = || per_second(good.iter().filter(|sample| meets_all(sample)).count() as f64);
        let (chunks, max_concurrent_requests) = peaks(&good);
        // Chunks may hold several tokens, and less than a second has no second: a peak is no lower than the
        // mean.
        let max_output_tokens_per_s = chunks.max(per_second(total_output as f64));
        let times =
            wanted.metrics.iter().map(|&metric| (metric, Times::of(values(&good, metric), wanted.percents)));
        Self {
            duration,
            completed: good.len(),
            failed: samples.len() - good.len(),
            total_input,
            total_output,
            request_throughput: per_second(good.len() as f64),
            request_goodput: (!wanted.objectives.is_empty()).then(goodput),
            output_throughput: per_second(total_output as f64),
            total_token_throughput: per_second((total_input + total_output) as f64),
            max_output_tokens_per_s,
            max_concurrent_requests,
            times: times.collect(),
        }
    }
}

/// One of the times of all requests, in seconds.
fn values(samples: &[&Sample], metric: Metric) -> Vec<f64> {
    match metric {
        Metric::Ttft => samples.iter().map(|sample| sample.ttft).collect(),
        Metric::Tpot => samples.iter().filter_map(|sample| sample.tpot()).collect(),
        Metric::Itl => samples.iter().flat_map(|sample| sample.itls.iter().copied()).collect(),
        Metric::E2el => samples.iter().map(|sample| sample.latency).collect(),
    }
}

/// An answer of one token takes no time per token after it.
fn meets(sample: &Sample, objective: Objective) -> bool {
    let slowest = values(&[sample], objective.metric).into_iter().fold(0.0, f64::max);
    slowest * 1e3 <= objective.milliseconds
}

/// Most chunks, and most requests under way, in one of the seconds since the first request.
fn peaks(samples: &[&Sample]) -> (f64, usize) {
    let Some(first) = samples.iter().map(|sample| sample.start).min_by(f64::total_cmp) else {
        return (0.0, 0);
    };
    let second = |at: f64| (at - first) as usize;
    let end = samples.iter().map(|sample| second(sample.start + sample.latency)).max().unwrap_or(0);
    let mut chunks = vec![0_u32; end + 1];
    let mut requests = vec![0_usize; end + 1];
    for sample in samples {
        let mut at = sample.start + sample.ttft;
        // A time that rounding puts after the end belongs to the end.
        chunks[second(at).min(end)] += 1;
        for itl in &sample.itls {
            at += itl;
            chunks[second(at).min(end)] += 1;
        }
        let under_way = second(sample.start)..=second(sample.start + sample.latency);
        requests[under_way].iter_mut().for_each(|count| *count += 1);
    }
    (chunks.into_iter().max().unwrap_or(0).into(), requests.into_iter().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];

    fn sample(start: f64, ttft: f64, itls: &[f64], tokens: u32) -> Sample {
        Sample {
            start,
            ttft,
            itls: itls.to_vec(),
            latency: ttft + itls.iter().sum::<f64>(),
            prompt_tokens: 10,
            counted_tokens: Some(tokens),
            ..Sample::default()
        }
    }

    /// TTFT 100, 200, 400 ms; TPOT 50, 100 ms; E2EL 200, 600, 400 ms.
    fn samples() -> Vec<Sample> {
        let failed = Sample { error: Some("no".to_owned()), latency: 9.0, ..sample(0.0, 9.0, &[], 1) };
        vec![
            sample(0.0, 0.1, &[0.05, 0.05], 3),
            sample(0.5, 0.2, &[0.1, 0.3], 5),
            sample(1.75, 0.4, &[], 1),
            failed,
        ]
    }

    #[test]
    fn the_numbers_are_those_computed_by_hand() {
        let wanted = Wanted { metrics: &ALL, percents: &[50.0, 99.0], objectives: &[] };
        let metrics = Metrics::of(&samples(), 2.0, &wanted);
        assert_eq!((metrics.completed, metrics.failed), (3, 1));
        assert_eq!((metrics.total_input, metrics.total_output), (30, 9));
        assert_eq!((metrics.request_throughput, metrics.output_throughput), (1.5, 4.5));
        assert_eq!((metrics.total_token_throughput, metrics.request_goodput), (19.5, None));
        // Chunks at 0.1, 0.15, 0.2; 0.7, 0.8, 1.1; 2.15. Under way in seconds 0; 0 and 1; 1 and 2.
        assert_eq!((metrics.max_output_tokens_per_s, metrics.max_concurrent_requests), (5.0, 2));
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
        for (i, mean, median, p99) in [
            (0, 700.0 / 3.0, 200.0, 200.0 + 0.98 * 200.0),
            (1, 75.0, 75.0, 50.0 + 0.99 * 50.0),
            (2, 125.0, 75.0, 100.0 + 0.97 * 200.0),
            (3, 400.0, 400.0, 400.0 + 0.98 * 200.0),
        ] {
            let (metric, times) = &metrics.times[i];
            assert_eq!(*metric, ALL[i]);
            assert!(close(times.mean, mean), "{times:?}");
            assert!(close(times.median, median) && close(times.percentiles[0].1, median), "{times:?}");
            assert!(times.percentiles[1].0 == 99.0 && close(times.percentiles[1].1, p99), "{times:?}");
        }
        // TPOT 50 and 100: 25 off the mean.
        assert!(close(metrics.times[1].1.std, 25.0));
    }

    #[test]
    fn good_requests_meet_every_objective() {
        let ttft = |milliseconds| Objective { metric: Metric::Ttft, milliseconds };
        let tpot = |milliseconds| Objective { metric: Metric::Tpot, milliseconds };
        let e2el = |milliseconds| Objective { metric: Metric::E2el, milliseconds };
        for (objectives, good) in [
            (vec![ttft(1000.0)], 3.0),
            (vec![ttft(200.0)], 2.0),
            (vec![ttft(99.0)], 0.0),
            // The answer of one token has no time per token.
            (vec![tpot(60.0)], 2.0),
            (vec![tpot(60.0), ttft(200.0)], 1.0),
            (vec![e2el(500.0)], 2.0),
            (vec![e2el(500.0), tpot(60.0), ttft(200.0)], 1.0),
        ] {
            let wanted = Wanted { metrics: &[], percents: &[], objectives: &objectives };
            let metrics = Metrics::of(&samples(), 2.0, &wanted);
            assert_eq!(metrics.request_goodput, Some(good / 2.0), "{objectives:?}");
        }
    }

    #[test]
    fn a_peak_is_no_lower_than_the_mean() {
        let wanted = Wanted { metrics: &[], percents: &[], objectives: &[] };
        let short = [sample(0.0, 0.1, &[0.1], 40)];
        let metrics = Metrics::of(&short, 0.25, &wanted);
        assert_eq!((metrics.output_throughput, metrics.max_output_tokens_per_s), (160.0, 160.0));
    }

    #[test]
    fn nothing_measured_is_zero() {
        let wanted = Wanted { metrics: &ALL, percents: &[99.0], objectives: &[] };
        let metrics = Metrics::of(&[], 0.0, &wanted);
        assert_eq!((metrics.completed, metrics.request_throughput), (0, 0.0));
        assert_eq!(
            metrics.times[0].1,
            Times { mean: 0.0, median: 0.0, std: 0.0, percentiles: vec![(99.0, 0.0)] }
        );
    }
}
