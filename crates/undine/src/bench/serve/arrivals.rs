//! When requests are sent: a Poisson process, or another gamma renewal process.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Gamma};

/// Requests per second, and how evenly they come; see `--burstiness`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Per second; infinite for all at once.
    pub per_second: f64,
    /// Shape of the gamma distribution of the times between; infinite for equal times.
    pub burstiness: f64,
}

/// The seconds after the start at which `count` requests are sent, ascending. They are stretched so that the
/// last one is sent when so many are due: two runs then offer the same load whatever their seeds.
pub fn arrivals(count: usize, rate: Rate, seed: u64) -> Vec<f64> {
    if rate.per_second.is_infinite() {
        return vec![0.0; count];
    }
    let mut random = SmallRng::seed_from_u64(seed);
    // Times between requests relative to their mean; infinitely even ones have no distribution to draw from.
    let gamma =
        Gamma::new(rate.burstiness, 1.0 / rate.burstiness).ok().filter(|_| rate.burstiness.is_finite());
    let mut at = 0.0;
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            at += gamma.map_or(1.0, |gamma| gamma.sample(&mut random));
            at
        })
        .collect();
    // Extremely bursty times may all be 0.
    let stretch = if at > 0.0 { count as f64 / rate.per_second / at } else { 0.0 };
    times.iter_mut().for_each(|time| *time *= stretch);
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::statistics::{mean, standard_deviation};

    fn gaps(rate: Rate) -> Vec<f64> {
        let times = arrivals(20_000, rate, 7);
        std::iter::once(times[0]).chain(times.windows(2).map(|pair| pair[1] - pair[0])).collect()
    }

    #[test]
    fn times_between_requests_have_the_mean_and_spread_asked_for() {
        // A gamma distribution of shape k has the standard deviation mean / sqrt(k).
        for (burstiness, spread) in [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5), (f64::INFINITY, 0.0)] {
            let gaps = gaps(Rate { per_second: 4.0, burstiness });
            assert!((mean(&gaps) - 0.25).abs() < 1e-9, "{burstiness}");
            let found = standard_deviation(&gaps) / 0.25;
            assert!((found - spread).abs() < 0.05, "{burstiness}: {found}");
        }
    }

    #[test]
    fn the_seed_decides_and_inf_sends_all_at_once() {
        let rate = Rate { per_second: 2.0, burstiness: 1.0 };
        assert_eq!(arrivals(10, rate, 1), arrivals(10, rate, 1));
        assert_ne!(arrivals(10, rate, 1), arrivals(10, rate, 2));
        assert_eq!(arrivals(3, Rate { per_second: f64::INFINITY, ..rate }, 1), [0.0; 3]);
    }
}
