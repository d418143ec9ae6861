//! What a pull shows: a bar per file on a terminal, a line now and then elsewhere, or JSON.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use serde_json::json;
use undine_hub::{Event, HubName, Progress};

use crate::format::{Bytes, counted};
use crate::progress::{self, Unit};
use crate::shown::{self, say};

/// Lines about one file on its way, where there is no terminal.
const STEPS: u64 = 10;
/// Characters of a file's name beside its bar.
const NAME_CHARS_MAX: usize = 24;

/// Bars, if standard error is a terminal, and lines otherwise.
pub fn on_stderr(name: &HubName) -> impl Fn(Event<'_>) + Send + Sync + 'static {
    let name = name.to_string();
    let bars = progress::is_shown().then(Bars::default);
    let steps = Mutex::new(HashMap::new());
    move |event| {
        if let Event::Planned { commit, quant, files, bytes, missing_bytes } = event {
            let quant = quant.filter(|quant| !name.contains(quant));
            let what = quant.map_or_else(|| name.clone(), |quant| format!("{name}, {quant}"));
            let (bytes, missing) = (Bytes(bytes), Bytes(missing_bytes));
            let files = counted(files, "file");
            say!("{what} at {}: {files} of {bytes}, {missing} to fetch", &commit[..7]);
            return;
        }
        let Event::File { path, bytes, progress } = event else { return };
        match &bars {
            Some(bars) => bars.update(path, bytes, &progress),
            None => {
                let step = &mut *steps.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = line(step, path, bytes, &progress) {
                    say!("{line}");
                }
            }
        }
    }
}

/// One JSON object per event; of the bytes that arrive, one per hundredth.
pub fn as_json() -> impl Fn(Event<'_>) + Send + Sync + 'static {
    let hundredths: Mutex<HashMap<String, u64>> = Mutex::new(HashMap::new());
    move |event| {
        let json = match event {
            Event::Planned { commit, quant, files, bytes, missing_bytes } => json!({
                "event": "planned", "commit": commit, "quant": quant, "files": files, "bytes": bytes,
                "missing_bytes": missing_bytes,
            }),
            Event::File { path, bytes, progress } => {
                let mut json = json!({"event": kind(&progress), "file": path, "bytes": bytes});
                match progress {
                    Progress::Started { done } => json["done"] = done.into(),
                    Progress::Advanced { done } => {
                        let known = &mut *hundredths.lock().unwrap_or_else(PoisonError::into_inner);
                        let now = done * 100 / bytes.max(1);
                        if known.insert(path.to_owned(), now) == Some(now) {
                            return;
                        }
                        json["done"] = done.into();
                    }
                    Progress::Retrying { reason, delay } => {
                        json["reason"] = reason.into();
                        json["delay_ms"] = (delay.as_millis() as u64).into();
                    }
                    Progress::Waiting | Progress::Checking | Progress::Finished => {}
                }
                json
            }
        };
        // Nobody may be reading; the files are wanted all the same.
        drop(writeln!(shown::stdout(), "{json}"));
    }
}

fn kind(progress: &Progress) -> &'static str {
    match progress {
        Progress::Waiting => "waiting",
        Progress::Started { .. } => "started",
        Progress::Advanced { .. } => "advanced",
        Progress::Retrying { .. } => "retrying",
        Progress::Checking => "checking",
        Progress::Finished => "finished",
    }
}

/// What is worth a line. `steps` has the tenths that were told of each file.
fn line(steps: &mut HashMap<String, u64>, path: &str, bytes: u64, progress: &Progress) -> Option<String> {
    let size = Bytes(bytes);
    match progress {
        Progress::Waiting => Some(format!("{path}: another process is fetching it, waiting")),
        Progress::Started { done: 0 } => Some(format!("{path}: fetching {size}")),
        Progress::Started { done } => {
            Some(format!("{path}: fetching {size}, of which {} are there", Bytes(*done)))
        }
        Progress::Advanced { done } => {
            let step = done * STEPS / bytes.max(1);
            let told = steps.insert(path.to_owned(), step).unwrap_or(0);
            (step > told && step < STEPS).then(|| format!("{path}: {} of {size}", Bytes(*done)))
        }
        Progress::Retrying { reason, delay } => {
            Some(format!("{path}: {reason}; trying again in {:.1} s", delay.as_secs_f64()))
        }
        Progress::Checking => None,
        Progress::Finished => Some(format!("{path}: done")),
    }
}

/// A bar for each file.
#[derive(Default)]
struct Bars {
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn update(&self, path: &str, bytes: u64, event: &Progress) {
        let bars = &mut *self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars
            .entry(path.to_owned())
            .or_insert_with(|| progress::named(bytes, Unit::Bytes, shortened(&shown::line(path))));
        match event {
            Progress::Waiting => bar.set_message("another process is fetching it"),
            Progress::Started { done } => {
                bar.set_message("");
                bar.set_position(*done);
                // The speed is that of what arrives now.
                bar.reset_eta();
            }
            Progress::Advanced { done } => {
                bar.set_message("");
                bar.set_position(*done);
            }
            Progress::Retrying { reason, .. } => bar.set_message(shown::line(reason)),
            Progress::Checking => bar.set_message("checking"),
            Progress::Finished => {
                bar.finish_and_clear();
                progress::suspend(|| say!("{path}: done"));
            }
        }
    }
}

/// The end of a long name, which is what tells files apart.
fn shortened(path: &str) -> String {
    let count = path.chars().count();
    match count > NAME_CHARS_MAX {
        true => std::iter::once('…').chain(path.chars().skip(count - NAME_CHARS_MAX + 1)).collect(),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_say_what_happens() {
        let mut steps = HashMap::new();
        let mut lines = Vec::new();
        let mut tell = |progress| lines.extend(line(&mut steps, "m.gguf", 10_000, &progress));
        tell(Progress::Started { done: 2000 });
        (2001..=10_000).for_each(|done| tell(Progress::Advanced { done }));
        tell(Progress::Checking);
        tell(Progress::Finished);
        assert_eq!(lines[0], "m.gguf: fetching 9.77 KiB, of which 1.95 KiB are there");
        assert_eq!(lines.len(), 2 + 8, "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("m.gguf: done"));
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shortened("a.gguf"), "a.gguf");
        let name = shortened(&format!("{}-Q4_K_M.gguf", "x".repeat(60)));
        assert!(name.starts_with('…') && name.ends_with("-Q4_K_M.gguf"), "{name}");
        assert_eq!(name.chars().count(), NAME_CHARS_MAX);
    }
}
