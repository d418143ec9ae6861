//! The table people read: that of `vllm bench serve`, and the times of each turn of a chat.

use std::io::{self, Write};

use super::metrics::{Metrics, Times};
use super::sample::Sample;
use crate::args_bench::Metric;
use crate::bench::statistics::{mean, percent_name};

/// Width of the rules.
const WIDTH: usize = 50;

/// How requests were sent.
#[derive(Clone, Copy)]
pub struct Traffic {
    /// Most at a time.
    pub max_concurrency: Option<u32>,
    /// Per second.
    pub request_rate: f64,
}

/// What a metric is called: in JSON, in a line, in a heading.
pub fn names(metric: Metric) -> [&'static str; 3] {
    match metric {
        Metric::Ttft => ["ttft", "TTFT", "Time to First Token"],
        Metric::Tpot => ["tpot", "TPOT", "Time per Output Token (excl. 1st token)"],
        Metric::Itl => ["itl", "ITL", "Inter-token Latency"],
        Metric::E2el => ["e2el", "E2EL", "End-to-end Latency"],
    }
}

/// Prints the numbers.
pub fn print(out: &mut impl Write, metrics: &Metrics, traffic: Traffic) -> io::Result<()> {
    writeln!(out, "{:=^WIDTH$}", " Serving Benchmark Result ")?;
    count(out, "Successful requests:", metrics.completed as u64)?;
    count(out, "Failed requests:", metrics.failed as u64)?;
    if let Some(max) = traffic.max_concurrency {
        count(out, "Maximum request concurrency:", max.into())?;
    }
    if traffic.request_rate.is_finite() {
        number(out, "Request rate configured (RPS):", traffic.request_rate)?;
    }
    number(out, "Benchmark duration (s):", metrics.duration)?;
    count(out, "Total input tokens:", metrics.total_input)?;
    count(out, "Total generated tokens:", metrics.total_output)?;
    number(out, "Request throughput (req/s):", metrics.request_throughput)?;
    if let Some(goodput) = metrics.request_goodput {
        number(out, "Request goodput (req/s):", goodput)?;
    }
    number(out, "Output token throughput (tok/s):", metrics.output_throughput)?;
    number(out, "Peak output token throughput (tok/s):", metrics.max_output_tokens_per_s)?;
    number(out, "Peak concurrent requests:", metrics.max_concurrent_requests as f64)?;
    number(out, "Total token throughput (tok/s):", metrics.total_token_throughput)?;
    for (metric, times) in &metrics.times {
        let [_, name, heading] = names(*metric);
        writeln!(out, "{heading:-^WIDTH$}")?;
        number(out, &format!("Mean {name} (ms):"), times.mean)?;
        number(out, &format!("Median {name} (ms):"), times.median)?;
        for &(percent, value) in &times.percentiles {
            number(out, &format!("P{} {name} (ms):", percent_name(percent)), value)?;
        }
    }
    writeln!(out, "{:=^WIDTH$}", "")
}

fn count(out: &mut impl Write, name: &str, value: u64) -> io::Result<()> {
    writeln!(out, "{name:<40} {value:<10}")
}

fn number(out: &mut impl Write, name: &str, value: f64) -> io::Result<()> {
    writeln!(out, "{name:<40} {value:<10.2}")
}

/// The successful requests of one turn, of all chats.
#[derive(Clone, PartialEq, Debug)]
pub struct Turn {
    /// From 1.
    pub number: u32,
    /// How many.
    pub completed: usize,
    /// Mean tokens of their prompts.
    pub input_tokens: f64,
    /// Mean tokens of these that the server had cached, if it says so for every one.
    pub cached_tokens: Option<f64>,
    /// Time to first token.
    pub ttft: Times,
}

/// Every turn of which something has been measured.
pub fn turns(samples: &[Sample], percents: &[f64]) -> Vec<Turn> {
    let last = samples.iter().map(|sample| sample.turn).max();
    let turn = |turn: u32| {
        let of_turn: Vec<&Sample> =
            samples.iter().filter(|sample| sample.turn == turn && sample.is_success()).collect();
        let input: Vec<f64> = of_turn.iter().map(|sample| sample.prompt_tokens.into()).collect();
        let cached: Option<Vec<f64>> =
            of_turn.iter().map(|sample| sample.cached_tokens.map(f64::from)).collect();
        Turn {
            number: turn + 1,
            completed: of_turn.len(),
            input_tokens: mean(&input),
            cached_tokens: cached.map(|cached| mean(&cached)),
            ttft: Times::of(of_turn.iter().map(|sample| sample.ttft).collect(), percents),
        }
    };
    last.into_iter().flat_map(|last| 0..=last).map(turn).filter(|turn| turn.completed > 0).collect()
}

/// Prints the times to first token, turn by turn.
pub fn print_turns(out: &mut impl Write, turns: &[Turn]) -> io::Result<()> {
    writeln!(out, "{:-^WIDTH$}", "Time to First Token by Turn")?;
    write!(
        out,
        "{:<5}{:>6}{:>8}{:>8}{:>11}{:>12}",
        "Turn", "Chats", "Input", "Cached", "Mean (ms)", "Median (ms)"
    )?;
    for (percent, _) in turns.first().map_or(&[][..], |turn| &turn.ttft.percentiles) {
        write!(out, "{:>11}", format!("P{} (ms)", percent_name(*percent)))?;
    }
    writeln!(out)?;
    for Turn { number, completed, input_tokens, cached_tokens, ttft } in turns {
        let cached = cached_tokens.map_or_else(|| "-".to_owned(), |cached| format!("{cached:.0}"));
        write!(
            out,
            "{number:<5}{completed:>6}{input_tokens:>8.0}{cached:>8}{:>11.2}{:>12.2}",
            ttft.mean, ttft.median
        )?;
        for (_, value) in &ttft.percentiles {
            write!(out, "{value:>11.2}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{:=^WIDTH$}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
============ Serving Benchmark Result ============
Successful requests:                     10
Failed requests:                         2
Maximum request concurrency:             4
Request rate configured (RPS):           2.50
Benchmark duration (s):                  12.35
Total input tokens:                      10240
Total generated tokens:                  1280
Request throughput (req/s):              0.81
Request goodput (req/s):                 0.50
Output token throughput (tok/s):         103.68
Peak output token throughput (tok/s):    160.00
Peak concurrent requests:                5.00
Total token throughput (tok/s):          933.12
---------------Time to First Token----------------
Mean TTFT (ms):                          100.12
Median TTFT (ms):                        99.00
P50 TTFT (ms):                           99.00
P99.9 TTFT (ms):                         234.57
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          100.12
Median TPOT (ms):                        99.00
P50 TPOT (ms):                           99.00
P99.9 TPOT (ms):                         234.57
---------------Inter-token Latency----------------
Mean ITL (ms):                           100.12
Median ITL (ms):                         99.00
P50 ITL (ms):                            99.00
P99.9 ITL (ms):                          234.57
----------------End-to-end Latency----------------
Mean E2EL (ms):                          100.12
Median E2EL (ms):                        99.00
P50 E2EL (ms):                           99.00
P99.9 E2EL (ms):                         234.57
==================================================
";

    fn trimmed(bytes: Vec<u8>) -> String {
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn the_table_is_that_of_vllm() {
        let percentiles = vec![(50.0, 99.0), (99.9, 234.567)];
        let times = Times { mean: 100.123, median: 99.0, std: 1.0, percentiles };
        let metrics = Metrics {
            duration: 12.346,
            completed: 10,
            failed: 2,
            total_input: 10240,
            total_output: 1280,
            request_throughput: 0.81,
            request_goodput: Some(0.5),
            output_throughput: 103.68,
            total_token_throughput: 933.12,
            max_output_tokens_per_s: 160.0,
            max_concurrent_requests: 5,
            times: [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el]
                .map(|m| (m, times.clone()))
                .to_vec(),
        };
        let mut out = Vec::new();
        print(&mut out, &metrics, Traffic { max_concurrency: Some(4), request_rate: 2.5 }).expect("memory");
        // Values are padded, as there.
        assert!(out.starts_with(TABLE.lines().next().expect("a line").as_bytes()));
        assert!(out.windows(12).any(|part| part == b" 12.35     \n"));
        assert_eq!(trimmed(out), TABLE);
        let mut out = Vec::new();
        let traffic = Traffic { max_concurrency: None, request_rate: f64::INFINITY };
        print(&mut out, &Metrics { request_goodput: None, times: Vec::new(), ..metrics }, traffic)
            .expect("memory");
        let text = trimmed(out);
        assert!(!["concurrency:", "RPS", "goodput", "TTFT"].iter().any(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn turns_are_told_apart() {
        let sample = |turn, ttft, prompt_tokens, cached_tokens| Sample {
            turn,
            ttft,
            prompt_tokens,
            cached_tokens,
            ..Sample::default()
        };
        let samples = [
            sample(0, 1.0, 100, Some(0)),
            sample(1, 0.25, 200, Some(100)),
            sample(0, 3.0, 102, Some(50)),
            Sample { error: Some("x".to_owned()), ..sample(1, 9.0, 9, None) },
            sample(2, 0.5, 300, None),
        ];
        let mut out = Vec::new();
        print_turns(&mut out, &turns(&samples, &[99.0])).expect("memory");
        let expected = "\
-----------Time to First Token by Turn------------
Turn  Chats   Input  Cached  Mean (ms) Median (ms)   P99 (ms)
1         2     101      25    2000.00     2000.00    2980.00
2         1     200     100     250.00      250.00     250.00
3         1     300       -     500.00      500.00     500.00
==================================================
";
        assert_eq!(trimmed(out), expected);
    }
}
