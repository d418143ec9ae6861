//! The server under test: its process as the system sees it, its numbers as it tells them.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::http::Target;

/// The key that clients have.
const KEY: &str = "soak-key";
/// Memory for keys and values: less than eight sequences of [`CONTEXT`] take, so that some are preempted.
pub const KV_BYTES: &str = "32M";
/// Tokens of prompt and answer.
pub const CONTEXT: &str = "2K";
/// Sequences at once.
pub const SEQUENCES: &str = "8";
/// Longest time until a server that was told to end has ended.
const END_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Server {
    child: Child,
    pub target: Target,
}

/// The process at one moment.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Sample {
    /// Resident memory that is the process's own, and that of files.
    pub anonymous_kib: u64,
    pub file_kib: u64,
    pub fds: u64,
    pub threads: u64,
    pub running: f64,
    pub waiting: f64,
    /// Part of the pages of keys and values that sequences hold.
    pub kv_usage: f64,
    pub preemptions: f64,
}

impl Sample {
    pub fn resident_kib(&self) -> u64 {
        self.anonymous_kib + self.file_kib
    }
}

/// A release build of this workspace.
pub fn build(repository: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "undine"]).current_dir(repository);
    match command.status() {
        Ok(status) if status.success() => Ok(target_folder(repository).join("release/undine")),
        Ok(status) => Err(format!("cargo build: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}

/// Where cargo builds.
pub fn target_folder(repository: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from)
}

/// A model with random weights of a true shape, made once.
pub fn synthetic(program: &Path, folder: &Path) -> Result<PathBuf, String> {
    let model = folder.join("soak-350m-q4_0.gguf");
    if model.exists() {
        return Ok(model);
    }
    let mut command = Command::new(program);
    command.args(["synth", "LFM2-350M", "--type", "q4_0", "-o"]).arg(&model);
    match command.status() {
        Ok(status) if status.success() => Ok(model),
        Ok(status) => Err(format!("undine synth: {status}")),
        Err(error) => Err(format!("{}: {error}", program.display())),
    }
}

impl Server {
    /// Starts the server and waits until it answers.
    pub fn start(program: &Path, model: &Path) -> Result<Self, String> {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("UNDINE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg(model).args(["--port", "0", "--threads", "2", "--api-key", KEY]);
        command.args(["--max-num-seqs", SEQUENCES, "--max-model-len", CONTEXT]);
        command.args(["--kv-cache-memory-bytes", KV_BYTES, "--log-level", "error"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let mut line = String::new();
        let read = child.stdout.as_mut().map(|out| BufReader::new(out).read_line(&mut line));
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        match (read, address) {
            (Some(Ok(_)), Some(address)) => {
                let target = Target { address: address.to_owned(), key: KEY.to_owned() };
                Ok(Self { child, target })
            }
            _ => {
                drop(child.kill());
                Err(format!("the server did not start; it said {line:?}"))
            }
        }
    }

    /// What the system and `/metrics` say now.
    pub fn sample(&self) -> Sample {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        let metrics = self.metrics();
        Sample {
            anonymous_kib: number(&status, "RssAnon:") + number(&status, "RssShmem:"),
            file_kib: number(&status, "RssFile:"),
            fds: std::fs::read_dir(folder.join("fd")).map_or(0, |entries| entries.count() as u64),
            threads: number(&status, "Threads:"),
            running: sum(&metrics, "vllm:num_requests_running"),
            waiting: sum(&metrics, "vllm:num_requests_waiting"),
            kv_usage: sum(&metrics, "vllm:kv_cache_usage_perc"),
            preemptions: sum(&metrics, "vllm:num_preemptions_total"),
        }
    }

    /// The most memory the process has held at once.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        number(&status.unwrap_or_default(), "VmHWM:")
    }

    fn metrics(&self) -> String {
        self.target.get("/metrics").map(|answer| answer.body).unwrap_or_default()
    }

    /// SIGTERM; the exit code, which is none if a signal ended it.
    pub fn terminate(mut self) -> io::Result<Option<i32>> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status()?;
        let start = Instant::now();
        while start.elapsed() < END_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.kill()?;
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not end on SIGTERM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The number behind a name in a file of the system.
fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// The sum of all samples of a metric.
fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
