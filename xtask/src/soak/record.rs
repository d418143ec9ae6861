//! What was seen, second by second, as a file of JSON lines: a head, samples, an end.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Counts;
use super::flags::Flags;
use super::server::{CONTEXT, KV_BYTES, SEQUENCES, Sample};

/// What clients did when a sample was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// They had not come.
    Before,
    /// They asked.
    Storm,
    /// They had left.
    Rest,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Before, Self::Storm, Self::Rest];

    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Storm => "clients",
            Self::Rest => "rest",
        }
    }
}

pub struct Record {
    model: String,
    minutes: u64,
    clients: u64,
    seed: u64,
    pub kinds: usize,
    pub peak_kib: u64,
    start: Instant,
    /// Seconds since the start, and what was seen then.
    samples: Vec<(f64, Phase, Sample)>,
}

impl Record {
    pub fn new(flags: &Flags, model: &Path) -> Self {
        Self {
            model: model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            minutes: flags.minutes,
            clients: flags.clients,
            seed: flags.seed,
            kinds: 0,
            peak_kib: 0,
            start: Instant::now(),
            samples: Vec::new(),
        }
    }

    pub fn add(&mut self, phase: Phase, sample: Sample) {
        self.samples.push((self.start.elapsed().as_secs_f64(), phase, sample));
    }

    /// The samples of a phase.
    pub fn of(&self, phase: Phase) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |(_, of, _)| *of == phase).map(|(_, _, sample)| sample)
    }

    pub fn last(&self, phase: Phase) -> Option<&Sample> {
        self.of(phase).last()
    }

    /// The lines of the file.
    fn lines(&self, counts: &Counts, broken: &[String]) -> Vec<Value> {
        let date = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let head = json!({
            "soak": {"model": self.model, "minutes": self.minutes, "clients": self.clients, "kinds": self.kinds, "seed": self.seed,
                     "sequences": SEQUENCES, "context": CONTEXT, "kv_cache": KV_BYTES, "unix_time": date},
        });
        let samples = self.samples.iter().map(|(second, phase, sample)| {
            let Sample { anonymous_kib, file_kib, fds, threads, running, waiting, kv_usage, preemptions } = *sample;
            json!({
                "second": (second * 10.0).round() / 10.0, "phase": phase.name(), "anonymous_kib": anonymous_kib,
                "file_kib": file_kib, "fds": fds, "threads": threads, "running": running, "waiting": waiting,
                "kv_usage": (kv_usage * 1000.0).round() / 1000.0, "preemptions": preemptions,
            })
        });
        let by_kind: serde_json::Map<String, Value> = counts
            .by_kind
            .iter()
            .map(|(kind, [right, refused, full, left, wrong])| {
                let counts =
                    json!({"right": right, "refused": refused, "full": full, "left": left, "wrong": wrong});
                ((*kind).to_owned(), counts)
            })
            .collect();
        let end = json!({"end": {"peak_kib": self.peak_kib, "requests": by_kind, "wrong": counts.wrong, "broken": broken}});
        std::iter::once(head).chain(samples).chain([end]).collect()
    }

    pub fn write(&self, path: &Path, counts: &Counts, broken: &[String]) -> io::Result<()> {
        let mut file = io::BufWriter::new(std::fs::File::create(path)?);
        self.lines(counts, broken).iter().try_for_each(|line| writeln!(file, "{line}"))?;
        file.flush()
    }

    /// For people.
    pub fn summary(&self, counts: &Counts) -> String {
        let names = ["right", "refused", "full", "left", "wrong"];
        let outcomes: Vec<String> =
            names.iter().enumerate().map(|(i, name)| format!("{} {name}", counts.sum(i))).collect();
        let mut text = format!(
            "{} minutes, {} clients, {} kinds of requests: {}\n",
            self.minutes,
            self.clients,
            self.kinds,
            outcomes.join(", ")
        );
        for phase in Phase::ALL {
            let most = self.of(phase).map(Sample::resident_kib).max().unwrap_or_default();
            let Some(last) = self.last(phase) else { continue };
            text += &format!(
                "{}: most {} MiB; last {} MiB ({} of files), {} file descriptors, {} threads\n",
                phase.name(),
                most >> 10,
                last.resident_kib() >> 10,
                last.file_kib >> 10,
                last.fds,
                last.threads
            );
        }
        let preemptions = self.last(Phase::Rest).map_or(0.0, |sample| sample.preemptions);
        text + &format!("peak {} MiB, {preemptions} preemptions", self.peak_kib >> 10)
    }

    /// Seconds, and numbers at them, for a line of a picture.
    pub fn line(&self, number: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
        self.samples.iter().map(|(second, _, sample)| (*second, number(sample))).collect()
    }

    /// Seconds in which clients asked.
    pub fn storm(&self) -> (f64, f64) {
        let mut seconds =
            self.samples.iter().filter(|(_, phase, _)| *phase == Phase::Storm).map(|(second, _, _)| *second);
        let first = seconds.next().unwrap_or_default();
        (first, seconds.next_back().unwrap_or(first))
    }
}

/// Seconds and resident KiB of a record in a file.
pub fn read_resident(path: &Path) -> Result<Vec<(f64, f64)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let samples = text.lines().filter_map(|line| {
        let sample: Value = serde_json::from_str(line).ok()?;
        Some((sample["second"].as_f64()?, sample["anonymous_kib"].as_f64()? + sample["file_kib"].as_f64()?))
    });
    Ok(samples.collect())
}
