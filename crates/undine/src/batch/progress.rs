//! How far a batch is, and what it came to.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;

use super::results::{Kept, Outcome};
use crate::format::grouped;
use crate::progress::{self, Unit};
use crate::shown::say;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Counts of a batch.
pub struct Summary {
    /// Requests of the file.
    pub requests: u64,
    kept: Kept,
    answered: u64,
    refused: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    begin: Instant,
}

/// The same for programs. Tokens, time and speeds are of this run.
#[derive(Serialize)]
pub struct SummaryReport {
    requests: u64,
    answered: u64,
    failed: u64,
    skipped: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    seconds: f64,
    requests_per_s: f64,
    completion_tokens_per_s: f64,
}

impl Summary {
    /// Nothing done in this run yet.
    pub fn new(requests: u64, kept: Kept) -> Self {
        Self {
            requests,
            kept,
            answered: 0,
            refused: 0,
            prompt_tokens: 0,
            completion_tokens: 0,
            begin: Instant::now(),
        }
    }

    /// The time counts from here.
    pub fn start(&mut self) {
        self.begin = Instant::now();
    }

    /// Counts a result.
    pub fn count(&mut self, outcome: Outcome, prompt_tokens: u64, completion_tokens: u64) {
        *(if outcome == Outcome::Answered { &mut self.answered } else { &mut self.refused }) += 1;
        self.prompt_tokens += prompt_tokens;
        self.completion_tokens += completion_tokens;
    }

    /// Requests with a result.
    pub fn done(&self) -> u64 {
        self.kept.answered + self.kept.refused + self.answered + self.refused
    }

    /// Requests without one.
    pub fn left(&self) -> u64 {
        self.requests.saturating_sub(self.done())
    }

    fn per_second(&self, count: u64) -> f64 {
        let seconds = self.begin.elapsed().as_secs_f64();
        if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
    }

    /// How long the rest will take if it goes on like this; unknown before the first result.
    fn left_s(&self) -> Option<f64> {
        let speed = self.per_second(self.answered + self.refused);
        (speed > 0.0).then(|| self.left() as f64 / speed)
    }

    /// How it goes: before the first result, too, by the tokens that have been generated.
    fn speed(&self, generated: u64) -> String {
        let tokens = self.per_second(generated);
        match self.left_s() {
            Some(seconds) => {
                let requests = self.per_second(self.answered + self.refused);
                format!("{requests:.1} requests/s, {tokens:.0} tok/s, {} left", duration(seconds))
            }
            None => format!("{} tokens so far, {tokens:.0} tok/s", grouped(generated)),
        }
    }

    /// The end in one line.
    pub fn line(&self) -> String {
        let now = self.answered + self.refused;
        let earlier = self.done() - now;
        let skipped =
            if earlier > 0 { format!(" ({} of them earlier)", grouped(earlier)) } else { String::new() };
        let failed = self.kept.refused + self.refused;
        let (prompt, completion) = (grouped(self.prompt_tokens), grouped(self.completion_tokens));
        let work = match now {
            0 => String::new(),
            _ => format!(
                "; {prompt} prompt and {completion} output tokens in {}: {:.1} requests/s, {:.0} output tok/s",
                duration(self.begin.elapsed().as_secs_f64()),
                self.per_second(now),
                self.per_second(self.completion_tokens),
            ),
        };
        format!("{} requests{skipped}, {} failed{work}", grouped(self.done()), grouped(failed))
    }

    /// The end for programs.
    pub fn report(&self) -> SummaryReport {
        let now = self.answered + self.refused;
        SummaryReport {
            requests: self.requests,
            answered: self.kept.answered + self.answered,
            failed: self.kept.refused + self.refused,
            skipped: self.done() - now,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            seconds: self.begin.elapsed().as_secs_f64(),
            requests_per_s: self.per_second(now),
            completion_tokens_per_s: self.per_second(self.completion_tokens),
        }
    }
}

/// A time as people say it.
fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        60.0..3600.0 => format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0),
        _ => format!("{:.0} h {:.0} min", (seconds / 3600.0).floor(), seconds % 3600.0 / 60.0),
    }
}

/// Shows how far it is: a bar on a terminal, a line now and then elsewhere.
pub enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere.
    Lines {
        /// When the last one was written.
        last: Instant,
    },
}

impl Progress {
    /// Starts.
    pub fn new(summary: &Summary) -> Self {
        if !progress::is_shown() {
            return Self::Lines { last: Instant::now() };
        }
        let bar = progress::bar(summary.requests, Unit::Count("requests"));
        Self::Bar(bar.with_position(summary.done()))
    }

    /// Shows the counts, and the tokens that have been generated.
    pub fn show(&mut self, summary: &Summary, generated: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(summary.done());
                bar.set_message(summary.speed(generated));
            }
            Self::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                say!("{} of {} requests, {}", summary.done(), summary.requests, summary.speed(generated));
            }
            Self::Lines { .. } => {}
        }
    }

    /// Says something beside the bar.
    pub fn say(&self, text: &str) {
        match self {
            Self::Bar(_) => progress::suspend(|| say!("{text}")),
            Self::Lines { .. } => say!("{text}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let mut summary = Summary::new(10, Kept { answered: 3, refused: 1 });
        assert_eq!((summary.done(), summary.left(), summary.left_s()), (4, 6, None));
        summary.count(Outcome::Answered, 5, 7);
        summary.count(Outcome::Refused, 0, 0);
        assert_eq!((summary.done(), summary.left()), (6, 4));
        let report = summary.report();
        assert_eq!((report.answered, report.failed, report.skipped), (4, 2, 4));
        let line = summary.line();
        assert!(
            line.starts_with("6 requests (4 of them earlier), 2 failed; 5 prompt and 7 output"),
            "{line}"
        );
    }

    #[test]
    fn times_read_well() {
        for (seconds, text) in [(0.04, "0.0 s"), (59.0, "59.0 s"), (61.0, "1 min 1 s"), (7260.0, "2 h 1 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
