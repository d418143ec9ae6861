//! `cargo xtask soak`: many clients that behave as badly as clients do, against the release binary, for
//! minutes or hours.
//!
//! First the server is asked when nobody else asks, so that the answers of some questions are known, and its
//! memory for keys and values is filled. Then all clients begin; every answer is judged. At the end
//! everything is at rest for a while. Each second the process is looked at: memory, file descriptors,
//! threads, and the numbers it tells itself. What was seen goes to a file of JSON lines and to a picture
//! beside it. A promise that was broken is an error.

mod client;
mod flags;
mod http;
mod kinds;
mod picture;
mod promises;
mod record;
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use client::{Client, Judgement, Kind, Known, Outcome, Truth};
use flags::Flags;
use record::{Phase, Record};
use server::Server;

pub use flags::USAGE;

/// Between two looks at the process.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is asked before the clients come. Threads that wait for work leave after ten seconds.
const QUIET: Duration = Duration::from_secs(15);
/// How long nothing is asked after the clients have left.
pub const REST: Duration = Duration::from_secs(30);
/// Longest time until all that runs has ended.
const END_TIMEOUT: Duration = Duration::from_secs(300);
/// Prompts that fill the memory for keys and values, and their tokens.
const FILLERS: u64 = 8;
const FILLER_TOKENS: u32 = 1_200;
/// Most wrong answers that are told in words.
const WRONG_TOLD_MAX: usize = 40;

/// What became of the requests of each kind.
#[derive(Default)]
pub struct Counts {
    /// Right, refused, full, left, wrong.
    pub by_kind: BTreeMap<&'static str, [u64; 5]>,
    /// The first wrong answers.
    pub wrong: Vec<String>,
}

impl Counts {
    fn add(&mut self, kind: &'static str, judgement: Judgement) {
        let place = match &judgement {
            Ok(Outcome::Right) => 0,
            Ok(Outcome::Refused) => 1,
            Ok(Outcome::Full) => 2,
            Ok(Outcome::Left) => 3,
            Err(_) => 4,
        };
        self.by_kind.entry(kind).or_default()[place] += 1;
        if let Err(what) = judgement
            && self.wrong.len() < WRONG_TOLD_MAX
        {
            self.wrong.push(format!("{kind}: {what}"));
        }
    }

    /// Requests with this outcome; 4 is wrong.
    pub fn sum(&self, place: usize) -> u64 {
        self.by_kind.values().map(|counts| counts[place]).sum()
    }
}

/// Runs the command; the promises that were broken.
///
/// # Errors
/// If the soak could not be run to its end.
pub fn run(repository: &Path, words: &[&str]) -> Result<Vec<String>, String> {
    let flags = Flags::parse(words)?;
    let program = match &flags.server {
        Some(path) => path.clone(),
        None => server::build(repository)?,
    };
    let model = match &flags.model {
        Some(path) => path.clone(),
        None => server::synthetic(&program, &server::target_folder(repository))?,
    };
    let server = Server::start(&program, &model)?;
    let mut record = Record::new(&flags, &model);
    let mut counts = Counts::default();
    let truth = find_truth(&server)?;
    fill(&server)?;
    watch(&server, &mut record, Phase::Before, QUIET);
    storm(&server, &truth, &flags, &mut record, &mut counts);
    wait_until_idle(&server)?;
    watch(&server, &mut record, Phase::Rest, REST);
    record.peak_kib = server.peak_kib();
    for known in &truth.known {
        let again = ask_known(&server, known.path, known.body.clone())?;
        if again.choices != known.choices {
            counts.add("known afterwards", Err(format!("{} to {}", again.choices, known.body)));
        }
    }
    let mut broken = promises::broken(&record, &counts);
    match server.terminate() {
        Ok(Some(0)) => {}
        Ok(code) => broken.push(format!("SIGTERM ends the server well: its exit code is {code:?}")),
        Err(error) => broken.push(format!("SIGTERM ends the server well: {error}")),
    }
    record
        .write(&flags.record, &counts, &broken)
        .map_err(|error| format!("{}: {error}", flags.record.display()))?;
    picture::write(&flags, &record)?;
    println!("{}", record.summary(&counts));
    counts.wrong.iter().for_each(|wrong| println!("wrong: {wrong}"));
    Ok(broken)
}

/// Asks the questions whose answers clients will compare.
fn find_truth(server: &Server) -> Result<Truth, String> {
    let mut questions = Vec::new();
    for i in 0..6 {
        let text = ["One two three", "The river", "水 and 🐟", "def f(x):\n", "{\"a\": ", "Why?"][i];
        let seed = i as u64;
        questions.push((
            "/v1/completions",
            json!({"prompt": text, "max_tokens": 8 + 6 * i, "temperature": 0, "ignore_eos": true}),
        ));
        questions.push((
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0.8, "seed": seed}),
        ));
    }
    questions.push((
        "/v1/completions",
        json!({"prompt": "Numbers", "max_tokens": 8, "temperature": 0, "logprobs": 4}),
    ));
    let known: Result<_, String> =
        questions.into_iter().map(|(path, body)| ask_known(server, path, body)).collect();
    let seen = server.target.post("/v1/chat/completions", &kinds::picture_question().to_string());
    Ok(Truth { known: known?, sees: seen.is_ok_and(|answer| answer.status == 200) })
}

fn ask_known(server: &Server, path: &'static str, body: Value) -> Result<Known, String> {
    let answer = server.target.post(path, &body.to_string()).map_err(|error| format!("{path}: {error}"))?;
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match answer.status {
        200 => Ok(Known { path, body, choices: json["choices"].clone() }),
        status => Err(format!("{path} {body}: {status} {}", answer.body)),
    }
}

/// Fills the memory for keys and values, which is taken as it is used and stays taken.
fn fill(server: &Server) -> Result<(), String> {
    for first in 0..FILLERS {
        // Token ids that every vocabulary has, in an order that no other prompt has.
        let mut random = fastrand::Rng::with_seed(first);
        let prompt: Vec<u32> = (0..FILLER_TOKENS).map(|_| random.u32(10..250)).collect();
        ask_known(server, "/v1/completions", json!({"prompt": prompt, "max_tokens": 1}))?;
    }
    Ok(())
}

/// Looks at the process for a time.
fn watch(server: &Server, record: &mut Record, phase: Phase, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        record.add(phase, server.sample());
        sleep(LOOK_EVERY);
    }
}

/// All clients at once.
fn storm(server: &Server, truth: &Truth, flags: &Flags, record: &mut Record, counts: &mut Counts) {
    let (stop, kinds) = (AtomicBool::new(false), client::all());
    let shared = Mutex::new(counts);
    record.kinds = kinds.len();
    std::thread::scope(|scope| {
        for number in 0..flags.clients {
            let (stop, kinds, shared) = (&stop, &kinds, &shared);
            let random = fastrand::Rng::with_seed(flags.seed.wrapping_add(number));
            let client = Client { target: &server.target, truth, random };
            scope.spawn(move || act(client, kinds, stop, shared));
        }
        watch(server, record, Phase::Storm, Duration::from_secs(60 * flags.minutes));
        stop.store(true, Ordering::Relaxed);
    });
}

fn act(mut client: Client<'_>, kinds: &[Kind], stop: &AtomicBool, counts: &Mutex<&mut Counts>) {
    while !stop.load(Ordering::Relaxed) {
        let kind = &kinds[client.random.usize(0..kinds.len())];
        let judgement = (kind.act)(&mut client);
        counts.lock().expect("no client panics with the lock").add(kind.name, judgement);
    }
}

fn wait_until_idle(server: &Server) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let load = server.target.get("/load").map_err(|error| format!("/load: {error}"))?;
        if load.body.contains("{\"server_load\":0}") {
            return Ok(());
        }
        if start.elapsed() > END_TIMEOUT {
            return Err(format!("the server is still busy: {}", load.body));
        }
        sleep(LOOK_EVERY);
    }
}
