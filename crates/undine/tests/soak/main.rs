//! Many clients that behave as badly as clients do, against the real binary, for `UNDINE_SOAK_SECONDS` (20 if
//! unset). No answer but 2xx, 4xx and 503; afterwards nothing is held, memory is flat, and the server has
//! counted what the clients have. `cargo test --release -p undine --test soak -- --nocapture` prints the
//! curve.

mod client;
mod server;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Client, Seen};
use server::Server;

const CLIENTS: u64 = 32;
/// How long one soak lasts unless the environment says otherwise.
const SECONDS_DEFAULT: u64 = 20;
/// Samples of the resident memory in a soak.
const SAMPLES: u32 = 40;
/// How much the memory may grow from the second quarter of the samples to the last, beside a tenth of it.
const GROWTH_KIB_MAX: u64 = 24 << 10;
const FLAGS: [&str; 10] = [
    "--max-num-seqs",
    "8",
    "--max-queued-requests",
    "24",
    "--max-model-len",
    "2K",
    "--kv-cache-memory-bytes",
    "24M",
    "--log-level",
    "warning",
];

/// One server at a time: they would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds() -> Duration {
    let given = std::env::var("UNDINE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(SECONDS_DEFAULT))
}

/// Runs all clients for the time, and watches the memory meanwhile.
fn run_clients(server: &Server, time: Duration) -> (Seen, Vec<u64>) {
    let stop = AtomicBool::new(false);
    let mut memory = Vec::new();
    let seen = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let (stop, address) = (&stop, server.address.as_str());
                scope.spawn(move || {
                    let mut client = Client::new(address, seed);
                    while !stop.load(Ordering::Relaxed) {
                        client.act();
                    }
                    client.seen
                })
            })
            .collect();
        let start = Instant::now();
        for sample in 1..=SAMPLES {
            std::thread::sleep((time * sample / SAMPLES).saturating_sub(start.elapsed()));
            memory.push(server.resident_kib());
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).fold(Seen::default(), Seen::plus)
    });
    (seen, memory)
}

fn mean(samples: &[u64]) -> u64 {
    samples.iter().sum::<u64>() / samples.len().max(1) as u64
}

fn soak(model: &[&str]) {
    let _turn = alone();
    let server = Server::start(&[model, &FLAGS].concat());
    let (seen, memory) = run_clients(&server, seconds());
    println!("{model:?}: {seen:?}");
    println!("resident MiB: {:?}", memory.iter().map(|kib| kib >> 10).collect::<Vec<_>>());
    server.wait_until_idle();

    assert!(seen.complete > 0 && seen.streamed > 0 && seen.cancelled > 0 && seen.refused > 0, "{seen:?}");
    assert_eq!(seen.unexpected, Vec::<String>::new(), "answers that are neither 2xx nor 4xx nor 503");
    let metrics = server.metrics();
    let count = |name: &str, label: &str| metrics.sum(name, label) as u64;
    for gauge in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        assert_eq!(metrics.sum(gauge, ""), 0.0, "{gauge}");
    }
    // What was read to its end is known exactly; of what was cancelled, only how much it can have been.
    let between = |name: &str, found: u64, least: u64, most: u64| {
        assert!((least..=most).contains(&found), "{name}: {found}, expected {least} to {most}; {seen:?}");
    };
    let ended = |reason: &str| count("vllm:request_success_total", reason);
    let finished = seen.complete + seen.streamed;
    let normal = ended("stop") + ended("length");
    between("sequences that ended by themselves", normal, finished, finished + seen.cancelled);
    between("all sequences", normal + ended("abort"), finished, finished + seen.cancelled);
    assert_eq!(ended("error"), 0);
    let tokens = count("vllm:generation_tokens_total", "");
    between("generated tokens", tokens, seen.tokens, seen.tokens + seen.tokens_cancelled_max);
    let answered = count("http_requests_total", "POST");
    between("POST requests", answered, seen.requests - seen.cancelled, seen.requests);
    let failed = count("http_requests_total", "5xx");
    between("5xx", failed, seen.full, seen.full + seen.cancelled);
    let firsts = count("vllm:time_to_first_token_seconds_count", "");
    assert_eq!(count("vllm:inter_token_latency_seconds_count", "") + firsts, tokens);

    let quarter = memory.len() / 4;
    let (early, late) = (mean(&memory[quarter..2 * quarter]), mean(&memory[3 * quarter..]));
    assert!(
        late <= early + early / 10 + GROWTH_KIB_MAX,
        "resident memory grew from {early} to {late} KiB: {memory:?}"
    );
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn the_demo_model_withstands_its_clients() {
    soak(&[]);
}

#[test]
fn random_weights_withstand_their_clients() {
    let model = server::synthetic();
    soak(&[model.to_str().expect("UTF-8"), "--no-enable-prefix-caching"]);
}

#[test]
fn a_killed_server_starts_again() {
    let _turn = alone();
    let ask = |server: &Server| Client::new(&server.address, 0).fixed_answer();
    let server = Server::start(&FLAGS);
    let before = ask(&server);
    for _ in 0..3 {
        let server = Server::start(&FLAGS);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 0..CLIENTS {
                let (stop, address) = (&stop, server.address.as_str());
                scope.spawn(move || {
                    let mut client = Client::new(address, seed);
                    while !stop.load(Ordering::Relaxed) {
                        client.act();
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(500));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(ask(&Server::start(&FLAGS)), before, "there is nothing to repair");
    }
}
