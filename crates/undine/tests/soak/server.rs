//! The server under test, its memory and its numbers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest time until everything that was given up is free.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Server {
    child: Mutex<Child>,
    id: u32,
    pub address: String,
}

/// Samples of `/metrics`.
pub struct Metrics(String);

fn undine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undine"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UNDINE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The smallest shape with random weights; without a tokenizer's text its answers are noise.
pub fn synthetic() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak");
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("tiny.gguf");
    let made = undine().args(["synth", "tiny", "--type", "q8_0", "-o"]).arg(&path).status().expect("starts");
    assert!(made.success());
    path
}

impl Server {
    pub fn start(words: &[&str]) -> Self {
        let mut command = undine();
        command.args(["serve", "--port", "0", "--threads", "2"]).args(words).stdout(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned();
        Self { id: child.id(), child: Mutex::new(child), address }
    }

    /// Resident memory of the process.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches("kB").trim().parse().unwrap_or_default()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receives");
        answer
    }

    pub fn metrics(&self) -> Metrics {
        Metrics(self.get("/metrics"))
    }

    pub fn wait_until_idle(&self) {
        let start = Instant::now();
        while !self.get("/load").ends_with("{\"server_load\":0}") {
            assert!(start.elapsed() < IDLE_TIMEOUT, "still busy: {}", self.get("/load"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn kill(&self) {
        let mut child = self.child.lock().expect("one owner");
        drop(child.kill());
        drop(child.wait());
    }

    /// SIGTERM; the exit code.
    pub fn terminate(self) -> Option<i32> {
        let sent = Command::new("kill").args(["-TERM", &self.id.to_string()]).status().expect("kill starts");
        assert!(sent.success());
        self.child.lock().expect("one owner").wait().expect("ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Metrics {
    /// The sum of all samples of a name whose labels contain a text.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let samples = self.0.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && rest.contains(label)
        });
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
