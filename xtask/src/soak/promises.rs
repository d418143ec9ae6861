//! What a soak holds the server to.

use super::Counts;
use super::record::{Phase, Record};

/// Resident memory at rest, as a multiple of what it was before the clients came.
const REST_RATIO_MAX: f64 = 1.3;
/// Resident memory in the last quarter, as a multiple of that in the third minute, and besides.
const GROWTH_RATIO_MAX: f64 = 1.1;
const GROWTH_KIB_MAX: f64 = 16.0 * 1024.0;
/// Minutes until memory must be flat; a shorter soak does not tell.
const FLAT_FROM_MINUTE: usize = 2;
const FLAT_MINUTES_MIN: usize = 6;
/// File descriptors and threads that may be there at rest beside those there were before.
const FDS_MORE_MAX: u64 = 4;
const THREADS_MORE_MAX: u64 = 4;
const SECONDS_A_MINUTE: usize = 60;

/// The promises that were broken, a sentence each.
pub fn broken(record: &Record, counts: &Counts) -> Vec<String> {
    let mut broken = Vec::new();
    let mut must = |holds: bool, promise: String| {
        if !holds {
            broken.push(promise);
        }
    };
    must(counts.sum(4) == 0, format!("no answer is wrong: {} are", counts.sum(4)));
    must(counts.sum(0) > 0, "some answers are right: none was".to_owned());
    let (Some(before), Some(rest)) = (record.last(Phase::Before), record.last(Phase::Rest)) else {
        return vec!["the process is there to be looked at: it is not".to_owned()];
    };
    for (name, value) in [("running", rest.running), ("waiting", rest.waiting), ("kv_usage", rest.kv_usage)] {
        must(value == 0.0, format!("nothing is held at rest: {name} is {value}"));
    }
    let (resident, most) = (rest.resident_kib() as f64, before.resident_kib() as f64 * REST_RATIO_MAX);
    must(
        resident <= most,
        format!(
            "memory at rest is at most {REST_RATIO_MAX} times that before: {resident:.0} of {most:.0} KiB"
        ),
    );
    must(
        rest.fds <= before.fds + FDS_MORE_MAX,
        format!("file descriptors are closed: {} before, {} at rest", before.fds, rest.fds),
    );
    must(
        rest.threads <= before.threads + THREADS_MORE_MAX,
        format!("threads end: {} before, {} at rest", before.threads, rest.threads),
    );
    let storm: Vec<f64> = record.of(Phase::Storm).map(|sample| sample.resident_kib() as f64).collect();
    if storm.len() >= FLAT_MINUTES_MIN * SECONDS_A_MINUTE {
        let early =
            mean(&storm[FLAT_FROM_MINUTE * SECONDS_A_MINUTE..(FLAT_FROM_MINUTE + 1) * SECONDS_A_MINUTE]);
        let late = mean(&storm[storm.len() * 3 / 4..]);
        let most = early * GROWTH_RATIO_MAX + GROWTH_KIB_MAX;
        must(
            late <= most,
            format!("memory is flat: {early:.0} KiB in the third minute, {late:.0} in the last quarter"),
        );
    }
    broken
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
