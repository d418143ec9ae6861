//! One world from its first step to its last: the engine's thread takes turns with everything else.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use undine_engine::{Engine, EngineStats};

use super::accelerator::Accelerator;
use super::checks::Checks;
use super::eye::Eye;
use super::outside::{Outside, Sabotage, clock};
use super::plan::{Moment, Plan, Trouble};
use crate::engine_room::{EngineRoom, Turn};
use crate::engine_thread::{Command, EngineHandle};
use crate::metrics::{EndReason, EngineMetrics};

/// More steps than any world needs.
const STEPS_MAX: u32 = 20_000;

/// What happened in a world, or in many.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    pub worlds: u64,
    pub steps: u64,
    pub device_steps: u64,
    pub sequences: u64,
    pub tokens: u64,
    pub refused: u64,
    pub left: u64,
    pub preemptions: u64,
    pub cached_tokens: u64,
    pub tiles: u64,
    pub device_errors: u64,
    pub stops: u64,
    /// Steps that the device took while a sequence came no further and later ones did.
    pub longest_silence: u32,
    /// A hash of all that clients saw.
    pub trace: u64,
}

impl Summary {
    /// Takes in another world.
    pub fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.steps += other.steps;
        self.device_steps += other.device_steps;
        self.sequences += other.sequences;
        self.tokens += other.tokens;
        self.refused += other.refused;
        self.left += other.left;
        self.preemptions += other.preemptions;
        self.cached_tokens += other.cached_tokens;
        self.tiles += other.tiles;
        self.device_errors += other.device_errors;
        self.stops += other.stops;
        self.longest_silence = self.longest_silence.max(other.longest_silence);
        self.trace ^= other.trace;
    }
}

/// The engine's thread without a thread.
struct Thread {
    room: EngineRoom,
    commands: mpsc::Receiver<Command>,
    stop: AtomicBool,
}

struct World {
    /// None once it has ended.
    thread: Option<Thread>,
    outside: Rc<Outside>,
    checks: Checks,
    metrics: Arc<EngineMetrics>,
    stats: Arc<Mutex<EngineStats>>,
    stop_at: Option<Moment>,
}

/// Runs a world to its end, or to what is wrong in it.
pub fn run(plan: &Plan, sabotage: Option<Sabotage>) -> Result<Summary, String> {
    let pixels = pixel_owners(plan);
    let mut world = World::new(plan, sabotage);
    let summary = world.run().map_err(|wrong| format!("step {}: {wrong}", world.outside.step.get()))?;
    drop(world);
    if pixel_owners(plan) != pixels {
        return Err("the pixels of an image are still held when everything is gone".to_owned());
    }
    Ok(summary)
}

/// How often the pixels of the plan's images are held.
fn pixel_owners(plan: &Plan) -> Vec<usize> {
    let sequences = plan.clients.iter().flat_map(|client| &client.turns).flat_map(|turn| &turn.sequences);
    let spans = sequences.flat_map(|sequence| &sequence.request.images).flat_map(|image| &image.spans);
    spans.map(|span| Arc::strong_count(&span.tile.pixels)).collect()
}

impl World {
    fn new(plan: &Plan, sabotage: Option<Sabotage>) -> Self {
        let (sender, commands) = mpsc::channel(plan.commands_max);
        let stats = Arc::<Mutex<EngineStats>>::default();
        let metrics = Arc::new(EngineMetrics::new("m", &plan.config, &plan.capacity, plan.context()));
        let (clock, hands) = clock();
        let handle = EngineHandle {
            commands: sender,
            stats: Arc::clone(&stats),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        };
        let outside = Rc::new(Outside::new(plan, sabotage, handle, hands));
        let device = Accelerator::new(plan, Rc::clone(&outside));
        let Trouble { vision_slices: slices, vision_fails_at: fails_at, .. } = plan.trouble;
        let eye = Eye { passes: Rc::<RefCell<_>>::default(), fails_at, slices, begun: None };
        let engine = Engine::new(Box::new(device), plan.config).expect("no limit of a plan is zero");
        let engine = engine.with_vision(Box::new(eye)).expect("it is as wide as the device");
        let room = EngineRoom::new(engine, Arc::clone(&stats), Arc::clone(&metrics), clock);
        Self {
            thread: Some(Thread { room, commands, stop: AtomicBool::new(false) }),
            checks: Checks::new(plan, Arc::clone(&metrics), Arc::clone(&stats)),
            outside,
            metrics,
            stats,
            stop_at: plan.trouble.stop_at,
        }
    }

    fn run(&mut self) -> Result<Summary, String> {
        let mut summary = Summary { worlds: 1, ..Summary::default() };
        loop {
            self.outside.pass();
            self.outside.verdict()?;
            let is_idle = self.turn(&mut summary)?;
            if is_idle && self.outside.clients.borrow().iter().all(|client| client.is_gone()) {
                break;
            }
            if self.outside.step.get() >= STEPS_MAX {
                return Err("there is no end to it".to_owned());
            }
        }
        self.checks.at_rest(&self.outside)?;
        let stats = *self.stats.lock().expect("no test panics with it");
        let ledger = self.outside.ledger.borrow();
        Ok(Summary {
            steps: self.outside.step.get().into(),
            device_steps: stats.steps_total,
            sequences: ledger.accepted() as u64,
            tokens: stats.generation_tokens_total,
            refused: ledger.refused.into(),
            left: self.metrics.ended[EndReason::Abort as usize].get(),
            preemptions: stats.preemptions,
            cached_tokens: stats.prefix_cache_hits_total,
            tiles: stats.image_tiles_encoded_total,
            longest_silence: self.checks.longest_silence,
            trace: self.outside.trace.get(),
            ..summary
        })
    }

    /// A turn of the engine's thread, unless it is kept from running. Returns whether it has nothing to do.
    fn turn(&mut self, summary: &mut Summary) -> Result<bool, String> {
        let Some(thread) = &mut self.thread else { return Ok(true) };
        let is_time = |moment| match moment {
            Moment::Step(step) => step <= self.outside.step.get(),
            Moment::Ends(count) => count as usize <= self.outside.ledger.borrow().over(),
        };
        if self.stop_at.is_some_and(is_time) {
            thread.stop.store(true, Ordering::Release);
        }
        let open_before = thread.room.sequences.len();
        if self.outside.random(7) == 0 {
            self.outside.ledger.borrow_mut().opened(open_before);
            return Ok(false);
        }
        let turned = thread.room.turn(&mut thread.commands, &thread.stop);
        self.outside.verdict()?;
        let end = match turned {
            Ok(Turn::Over) => EndReason::Abort,
            Err(_) => EndReason::Error,
            Ok(turn @ (Turn::Stepped | Turn::Idle)) => {
                self.sabotage();
                let thread = self.thread.as_ref().expect("it has just had its turn");
                self.checks.after_turn(&thread.room, &self.outside, open_before)?;
                return Ok(turn == Turn::Idle);
            }
        };
        summary.device_errors += u64::from(end == EndReason::Error);
        summary.stops += u64::from(end == EndReason::Abort);
        thread.room.close(end);
        thread.room.engine.check_integrity();
        self.outside.over.set(Some(end));
        let accepted = self.checks.accepted_in_this_turn();
        self.outside.ledger.borrow_mut().opened(open_before + accepted);
        self.thread = None;
        Ok(true)
    }

    /// Commits faults that are the thread's.
    fn sabotage(&mut self) {
        let Some(thread) = &mut self.thread else { return };
        if !thread.room.sequences.is_empty() && self.outside.commits(Sabotage::LostSequence) {
            thread.room.sequences.pop_first();
        }
        if self.outside.commits(Sabotage::EndCountedTwice) {
            self.metrics.ended(EndReason::Stop);
        }
        if self.outside.commits(Sabotage::StaleGauge) {
            self.metrics.running.add(1);
        }
    }
}
