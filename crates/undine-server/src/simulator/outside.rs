//! What is around the engine's thread: chance, time, the clients, the threads that work out masks. Between
//! two turns of the thread, and while the device computes, it goes on.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::client::Client;
use super::device::mix;
use super::grammar::{self, Desk, SharedDesk};
use super::ledger::Ledger;
use super::plan::{ClockKind, Plan};
use crate::engine_thread::{Clock, EngineHandle, Running};
use crate::metrics::EndReason;

/// Where the clock starts, in milliseconds: it can be set back.
const CLOCK_START_MS: u64 = 1 << 40;
/// Most milliseconds between two looks at it.
const TICK_MS_MAX: u64 = 40;
/// How far it jumps.
const JUMP_MS_MAX: u64 = 100 * 3600 * 1000;
/// Nothing is sabotaged before this step: there is nothing to harm.
const SABOTAGE_FROM: u32 = 6;

/// A fault of the server's that is committed on purpose, once, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// The thread forgets a sequence that the engine goes on with.
    LostSequence,
    /// An update does not arrive.
    LostUpdate,
    /// An end is counted twice.
    EndCountedTwice,
    /// That a client has left is not seen.
    UnseenLeave,
    /// A gauge is not of this step.
    StaleGauge,
    /// A token is another sequence's.
    WrongToken,
    /// A client is not woken.
    LostWake,
}

pub struct Outside {
    pub handle: Arc<EngineHandle>,
    pub clients: RefCell<Vec<Client>>,
    pub ledger: RefCell<Ledger>,
    /// Receivers whose leaving was sabotaged.
    pub attic: RefCell<Vec<Running>>,
    /// How the engine's thread ended what was left when it ended.
    pub over: Cell<Option<EndReason>>,
    pub step: Cell<u32>,
    /// Most tokens of a sequence.
    pub context: u32,
    /// Places in the engine's queue.
    pub waiting_max: usize,
    /// A hash of all that clients have seen: equal seeds give equal worlds.
    pub trace: Cell<u64>,
    /// The first thing that was wrong while a turn was under way.
    wrong: RefCell<Option<String>>,
    rng: RefCell<Rng>,
    desk: SharedDesk,
    sabotage: Cell<Option<Sabotage>>,
    clock_kind: ClockKind,
    clock_ms: Arc<AtomicU64>,
}

/// A clock, and where its hands are.
pub fn clock() -> (Clock, Arc<AtomicU64>) {
    let (start, hands) = (Instant::now(), Arc::new(AtomicU64::new(CLOCK_START_MS)));
    let shown = Arc::clone(&hands);
    (Arc::new(move || start + Duration::from_millis(shown.load(Ordering::Relaxed))), hands)
}

impl Outside {
    pub fn new(
        plan: &Plan,
        sabotage: Option<Sabotage>,
        handle: EngineHandle,
        clock_ms: Arc<AtomicU64>,
    ) -> Self {
        Self {
            handle: Arc::new(handle),
            clients: RefCell::new(plan.clients.iter().cloned().map(Client::new).collect()),
            ledger: RefCell::default(),
            attic: RefCell::default(),
            over: Cell::new(None),
            step: Cell::new(0),
            context: plan.context(),
            waiting_max: plan.config.max_waiting as usize,
            trace: Cell::new(plan.seed),
            wrong: RefCell::new(None),
            rng: RefCell::new(Rng::with_seed(!plan.seed)),
            desk: SharedDesk::default(),
            sabotage: Cell::new(sabotage),
            clock_kind: plan.trouble.clock,
            clock_ms,
        }
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        grammar::lock(&self.desk)
    }

    pub fn shared_desk(&self) -> &SharedDesk {
        &self.desk
    }

    /// A number up to `most`.
    pub fn random(&self, most: u32) -> u32 {
        self.rng.borrow_mut().u32(..=most)
    }

    /// Whether this is the moment for a fault.
    pub fn commits(&self, sabotage: Sabotage) -> bool {
        let now = self.sabotage.get() == Some(sabotage) && self.step.get() >= SABOTAGE_FROM;
        if now {
            self.sabotage.set(None);
        }
        now
    }

    /// A step of the world.
    pub fn pass(&self) {
        self.step.set(self.step.get() + 1);
        self.move_clock();
        self.desk().tick();
        self.let_clients_act(1);
    }

    /// What happens while the device is busy.
    pub fn meanwhile(&self) {
        self.move_clock();
        if self.random(3) == 0 {
            self.desk().tick();
            self.let_clients_act(7);
        }
    }

    /// What was wrong, if anything was.
    pub fn verdict(&self) -> Result<(), String> {
        self.wrong.take().map_or(Ok(()), Err)
    }

    /// Writes down what somebody saw.
    pub fn note(&self, what: u64) {
        self.trace.set(mix(mix(self.trace.get(), self.step.get().into()), what));
    }

    fn move_clock(&self) {
        let mut rng = self.rng.borrow_mut();
        let now = self.clock_ms.load(Ordering::Relaxed) + rng.u64(..TICK_MS_MAX);
        let now = match (self.clock_kind, rng.u32(..16)) {
            (ClockKind::Jumping, 0) => now + rng.u64(..JUMP_MS_MAX),
            (ClockKind::Jumping, 1) => now - rng.u64(..JUMP_MS_MAX),
            _ => now,
        };
        self.clock_ms.store(now, Ordering::Relaxed);
    }

    /// One of so many and one clients does something, in any order.
    fn let_clients_act(&self, others: u32) {
        let mut clients = self.clients.borrow_mut();
        if clients.is_empty() {
            return;
        }
        let first = self.random(clients.len() as u32 - 1) as usize;
        let (behind, before) = clients.split_at_mut(first);
        for client in before.iter_mut().chain(behind) {
            if self.random(others) > 0 {
                continue;
            }
            if let Err(wrong) = client.act(self) {
                self.wrong.borrow_mut().get_or_insert(wrong);
            }
        }
    }
}
