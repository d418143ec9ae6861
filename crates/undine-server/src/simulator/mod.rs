//! A simulator of the server's inside: the real engine behind the real loop of its thread
//! ([`EngineRoom::turn`]), asked through the real handle, with a device, clients, a clock and chance that are
//! all made from one seed and run in one thread. A *world* is such a run from its first step to its last;
//! what must hold is checked after every turn ([`checks`]) and by every client ([`client`]).
//!
//! Things go wrong in worlds: devices are slow, late or fail in submission, in collection or while they look
//! at an image; clients read slowly, or vanish at any moment, also while a step is computed; queues and
//! channels are full, blocks are few, masks come late or never, the clock jumps, the server is told to stop.
//!
//! ```text
//! cargo test -p undine-server simulator                                  # some hundred worlds
//! UNDINE_SIM_SECONDS=60 cargo test -p undine-server simulator -- --nocapture    # new ones, a minute
//! UNDINE_SIM_SECONDS=60 UNDINE_SIM_FIRST=0 cargo test -p undine-server simulator -- --nocapture  # the same
//! UNDINE_SIM_SEED=123 cargo test -p undine-server simulator -- --nocapture      # this one
//! ```
//!
//! [`EngineRoom::turn`]: crate::engine_room::EngineRoom::turn

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outside::Sabotage;
use plan::{Plan, Trouble};
use world::Summary;

mod accelerator;
mod checks;
mod client;
/// The engine tests' device: its answers depend on everything that can go wrong below.
#[allow(dead_code, reason = "the engine's tests use all of it")]
#[path = "../../../undine-engine/tests/engine/device.rs"]
mod device;
#[allow(dead_code, reason = "the engine's tests use all of it")]
#[path = "../../../undine-engine/tests/engine/eye.rs"]
mod eye;
mod grammar;
mod ledger;
mod outside;
mod plan;
mod world;

/// The only world to run.
const SEED: &str = "UNDINE_SIM_SEED";
/// Of that world, the clients that are left, as numbers with commas between them.
const CLIENTS: &str = "UNDINE_SIM_CLIENTS";
/// Run new worlds for so long, instead of always the same.
const SECONDS: &str = "UNDINE_SIM_SECONDS";
/// The first of them; without it they are those of the time of day.
const FIRST: &str = "UNDINE_SIM_FIRST";
/// Worlds of an ordinary run of the tests.
const WORLDS: u64 = 300;
/// Worlds that are tried until a planted fault shows.
const FAULT_WORLDS: u64 = 200;

/// A world that went wrong.
struct Failure {
    wrong: String,
    plan: Plan,
}

/// Runs a world; what panics in it is wrong too.
fn run(plan: &Plan, sabotage: Option<Sabotage>) -> Result<Summary, String> {
    let world = AssertUnwindSafe(|| world::run(plan, sabotage));
    catch_unwind(world).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Leaves out clients and troubles as long as something is wrong without them.
fn shrink(plan: Plan, wrong: String) -> Failure {
    let mut failure = Failure { wrong, plan };
    let try_with = |plan: Plan, failure: &mut Failure| match run(&plan, None) {
        Err(wrong) => {
            *failure = Failure { wrong, plan };
            true
        }
        Ok(_) => false,
    };
    let calm = Plan { trouble: Trouble::default(), ..failure.plan.clone() };
    try_with(calm, &mut failure);
    let mut at = 0;
    while at < failure.plan.clients.len() {
        let mut plan = failure.plan.clone();
        plan.clients.remove(at);
        if !try_with(plan, &mut failure) {
            at += 1;
        }
    }
    failure
}

/// Says what is wrong in which world, and how to see it again.
fn report(seed: u64, first: &str, failure: &Failure) -> String {
    let Failure { wrong, plan } = failure;
    let clients: Vec<String> = plan.clients.iter().map(|client| client.number.to_string()).collect();
    format!(
        "seed {seed}: {first}\n\
         again: {SEED}={seed} cargo test -p undine-server simulator -- --nocapture\n\
         with {} of its clients: {wrong}\n\
         again, if its troubles are left in: {CLIENTS}={} {SEED}={seed} cargo test -p undine-server simulator -- --nocapture\n\
         {plan:#?}",
        clients.len(),
        clients.join(",")
    )
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found `{text}`")))
}

/// The seeds to try: one that was asked for, those of some time, or the same as always.
fn seeds() -> Box<dyn Iterator<Item = u64>> {
    if let Some(seed) = number(SEED) {
        return Box::new(std::iter::once(seed));
    }
    let Some(seconds) = number(SECONDS) else { return Box::new(0..WORLDS) };
    let since = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let first = number(FIRST).unwrap_or_else(|| since().as_micros() as u64);
    let end = Instant::now() + Duration::from_secs(seconds);
    println!("worlds from seed {first} on");
    Box::new((first..).take_while(move |_| Instant::now() < end))
}

fn plan(seed: u64) -> Plan {
    let mut plan = Plan::new(seed);
    if let Ok(kept) = std::env::var(CLIENTS) {
        let kept: Vec<&str> = kept.split(',').collect();
        plan.clients.retain(|client| kept.contains(&client.number.to_string().as_str()));
    }
    plan
}

/// Everybody gets what they would get alone, in order and to the end, whatever goes wrong around them;
/// nothing is lost.
#[test]
fn every_world_holds_what_is_promised() {
    let (begin, mut all) = (Instant::now(), Summary::default());
    for seed in seeds() {
        let plan = plan(seed);
        match run(&plan, None) {
            Ok(summary) => all.add(&summary),
            Err(wrong) => panic!("{}", report(seed, &wrong, &shrink(plan, wrong.clone()))),
        }
    }
    println!("{all:?} in {:.1} s", begin.elapsed().as_secs_f64());
    if all.worlds >= WORLDS {
        // What never happens is not tested.
        let happened = [
            all.refused,
            all.left,
            all.preemptions,
            all.cached_tokens,
            all.tiles,
            all.device_errors,
            all.stops,
            all.tokens,
        ];
        assert!(happened.iter().all(|count| *count > all.worlds / 20), "{all:?}");
    }
}

#[test]
fn a_seed_makes_the_same_world_again() {
    for seed in 0..20 {
        let [once, again] = [(); 2].map(|()| run(&Plan::new(seed), None).unwrap());
        assert_eq!(once, again, "seed {seed}");
    }
}

#[test]
fn a_planted_fault_is_found() {
    for sabotage in [
        Sabotage::LostSequence,
        Sabotage::LostUpdate,
        Sabotage::EndCountedTwice,
        Sabotage::UnseenLeave,
        Sabotage::StaleGauge,
        Sabotage::WrongToken,
        Sabotage::LostWake,
    ] {
        let mut tried = 0;
        let found = (0..FAULT_WORLDS).find_map(|seed| {
            tried += 1;
            run(&Plan::new(seed), Some(sabotage)).err()
        });
        let found = found.unwrap_or_else(|| panic!("{sabotage:?} was not found in {tried} worlds"));
        println!("{sabotage:?} was found in world {tried}: {found}");
    }
}
