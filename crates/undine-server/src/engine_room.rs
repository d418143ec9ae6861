//! The thread that owns the engine: takes commands between steps, hands out what a step brought, measures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use undine_core::{ExecutorError, RequestId};
use undine_engine::{Engine, EngineStats, Event};
use undine_text::grammar::STACK_BYTES;

use crate::engine_thread::{Clock, Command, EngineHandle, Outlet, Sequence, Submission, Update};
use crate::files;
use crate::images::Vision;
use crate::kept_tokens::KeptTokens;
use crate::lifetime::{Lifetime, Siblings};
use crate::metrics::{EndReason, EngineMetrics};
use crate::prompt;
use crate::rules::Grammars;
use crate::serve::{FileCheck, Load, Loaded, ServerError, ServerModel};
use crate::state::{Ready, Status, unix_time};

/// Requests on their way to the engine; the engine's own queue comes after it.
const COMMANDS_MAX: usize = 256;
/// Most sequences of one request (prompts times choices), if the engine's queue is longer.
const SEQUENCES_MAX: usize = 1024;
/// What clients are told when a file of the model has changed; its path is in the log.
const FILES_CHANGED: &str = "the model's file was changed while it was in use, so the server ends; ask again when it has been started anew";

/// The part of a step's time that is left to work in the background, and the most of it.
const BREATH: u32 = 10;
const BREATH_MAX: Duration = Duration::from_millis(5);

/// Makes the engine thread end after its current step.
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    commands: mpsc::Sender<Command>,
}

/// A started thread.
pub(crate) struct EngineThread {
    pub(crate) stop: Stop,
    /// Gets the error if loading fails or the model's files change, and nothing otherwise.
    pub(crate) failed: oneshot::Receiver<ServerError>,
    /// Closed when the thread has dropped the engine.
    pub(crate) ended: oneshot::Receiver<()>,
}

impl Stop {
    pub(crate) fn stop(&self) {
        self.flag.store(true, Ordering::Release);
        // A full channel means that the thread is awake.
        drop(self.commands.try_send(Command::Wake));
    }
}

/// Starts the thread, which loads the model and then runs the engine.
pub(crate) fn spawn(load: Load, status: watch::Sender<Status>) -> Result<EngineThread, ServerError> {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (failed_sender, failed) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel::<()>();
    let flag = Arc::new(AtomicBool::new(false));
    let stop = Stop { flag: Arc::clone(&flag), commands: commands.clone() };
    let lifeline =
        Lifeline { status, failed: Some(failed_sender), phase: Phase::Loading, _ended: ended_sender };
    let run = move || run(lifeline, load, commands, receiver, &flag);
    // Answers of a given form are followed here.
    let thread = std::thread::Builder::new().name("undine-engine".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(run).map_err(ServerError::NoThread)?;
    Ok(EngineThread { stop, failed, ended })
}

/// Tells the server how the thread ended, also when it panics. Dropped after the engine.
struct Lifeline {
    status: watch::Sender<Status>,
    failed: Option<oneshot::Sender<ServerError>>,
    phase: Phase,
    _ended: oneshot::Sender<()>,
}

/// How far the thread is.
enum Phase {
    Loading,
    Running,
}

impl Lifeline {
    fn loading_failed(&mut self, error: ServerError) {
        self.status.send_modify(|status| status.fail(error.to_string()));
        self.end_server(error);
    }

    /// Makes the server end with an error.
    fn end_server(&mut self, error: ServerError) {
        if let Some(sender) = self.failed.take() {
            drop(sender.send(error));
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.phase {
                Phase::Loading => self.loading_failed(ServerError::LoadPanicked),
                Phase::Running => {
                    self.status.send_modify(|status| status.fail("the engine thread panicked".to_owned()))
                }
            }
        }
    }
}

fn run(
    mut lifeline: Lifeline,
    load: Load,
    commands: mpsc::Sender<Command>,
    receiver: mpsc::Receiver<Command>,
    stop: &AtomicBool,
) {
    let Started { engine, model, files, on_ready } = match start(load) {
        Ok(started) => started,
        Err(error) => return lifeline.loading_failed(error),
    };
    lifeline.phase = Phase::Running;
    if let Some(files) = &files {
        files::watch(Arc::clone(files), commands.downgrade());
    }
    let stats = Arc::new(Mutex::new(engine.stats()));
    let (config, capacity, context) = (*engine.config(), *engine.capacity(), engine.max_context());
    let metrics = Arc::new(EngineMetrics::new(&model.names[0], &config, &capacity, context));
    let clock: Clock = Arc::new(Instant::now);
    let prompt_bytes_max = prompt::text_bytes_max(&model, engine.max_context());
    let grammars = Arc::new(Grammars::new(model.tokenizer.as_deref()));
    let ready = Ready {
        vision: model.images.map(Vision::new),
        model,
        prompt_bytes_max,
        vocab: engine.capacity().vocab,
        max_model_len: engine.max_context(),
        sequences_max: SEQUENCES_MAX.min(engine.config().max_waiting as usize),
        engine: EngineHandle {
            commands,
            stats: Arc::clone(&stats),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        },
        config,
        capacity,
        grammars,
        turns: Arc::default(),
        tokens: KeptTokens::default(),
        created: unix_time(),
        seeds: AtomicU64::new(0),
    };
    lifeline.status.send_replace(Status::Ready(Arc::new(ready)));
    on_ready();
    let mut room = EngineRoom::new(engine, stats, metrics, clock);
    let result = room.run(receiver, stop);
    // Whatever failed, changed files are the reason.
    let changed = result.is_err().then(|| files.and_then(|files| files().err())).flatten();
    let (reason, end) = match (&result, &changed) {
        (Ok(()), _) => ("the server is shutting down".to_owned(), EndReason::Abort),
        // Clients need not know paths of the server.
        (Err(_), Some(changed)) => {
            tracing::error!("{changed}");
            (FILES_CHANGED.to_owned(), EndReason::Error)
        }
        (Err(error), None) => {
            tracing::error!("the engine has failed: {error}");
            (error.to_string(), EndReason::Error)
        }
    };
    // Before the senders go, so that whoever misses its updates can read why.
    lifeline.status.send_modify(|status| status.fail(reason));
    room.close(end);
    drop(room);
    if let Some(changed) = changed {
        lifeline.end_server(ServerError::FilesChanged(changed));
    }
}

/// What comes of a load.
struct Started {
    engine: Engine,
    model: ServerModel,
    files: Option<FileCheck>,
    on_ready: Box<dyn FnOnce() + Send>,
}

fn start(load: Load) -> Result<Started, ServerError> {
    let Loaded { model, factory, vision, engine, files, on_ready } = load().map_err(ServerError::Load)?;
    if model.names.is_empty() {
        return Err(ServerError::NoModelName);
    }
    let executor = factory().map_err(|error| ServerError::Load(error.into()))?;
    let mut engine = Engine::new(executor, engine).map_err(|error| ServerError::Load(error.into()))?;
    if let Some(make) = vision {
        let vision = make().map_err(|error| ServerError::Load(error.into()))?;
        engine = engine.with_vision(vision).map_err(|error| ServerError::Load(error.into()))?;
    }
    Ok(Started { engine, model, files, on_ready })
}

/// The engine and whom to tell.
pub(crate) struct EngineRoom {
    pub(crate) engine: Engine,
    /// Those that have not ended. In the order of their ids, so that the same commands at the same times give
    /// the same steps.
    pub(crate) sequences: BTreeMap<RequestId, Tracked>,
    /// Reused from step to step.
    events: Vec<(RequestId, Event)>,
    stats: Arc<Mutex<EngineStats>>,
    metrics: Arc<EngineMetrics>,
    clock: Clock,
}

/// A sequence in the engine.
pub(crate) struct Tracked {
    pub(crate) outlet: Outlet,
    pub(crate) lifetime: Lifetime,
}

/// What came of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// A step, after which there may be more to do.
    Stepped,
    /// Nothing: there is no work until a command comes.
    Idle,
    /// The thread is to stop.
    Over,
}

impl EngineRoom {
    pub(crate) fn new(
        engine: Engine,
        stats: Arc<Mutex<EngineStats>>,
        metrics: Arc<EngineMetrics>,
        clock: Clock,
    ) -> Self {
        Self { engine, sequences: BTreeMap::new(), events: Vec::new(), stats, metrics, clock }
    }

    /// Steps until told to stop or until nobody can send any more; sleeps while there is no work.
    fn run(&mut self, mut commands: mpsc::Receiver<Command>, stop: &AtomicBool) -> Result<(), ExecutorError> {
        let mut begin = (self.clock)();
        loop {
            match self.turn(&mut commands, stop)? {
                Turn::Stepped => begin = self.breathe(begin),
                Turn::Idle => {
                    match commands.blocking_recv() {
                        Some(command) => self.take(command)?,
                        None => return Ok(()),
                    }
                    begin = (self.clock)();
                }
                Turn::Over => return Ok(()),
            }
        }
    }

    /// Leaves the processors to work in the background for a moment, after a step that began then: requests
    /// are prepared there, and would wait for as long as others get answers. The next step begins when this
    /// returns.
    fn breathe(&self, begin: Instant) -> Instant {
        let end = (self.clock)();
        if !undine_text::is_work_in_background() {
            return end;
        }
        std::thread::sleep(((end - begin) / BREATH).min(BREATH_MAX));
        (self.clock)()
    }

    /// Takes the commands there are and runs one step. Never sleeps.
    pub(crate) fn turn(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stop: &AtomicBool,
    ) -> Result<Turn, ExecutorError> {
        // No more than the channel holds: those who are refused and ask again must not keep the others from
        // their step.
        for _ in 0..COMMANDS_MAX {
            let Ok(command) = commands.try_recv() else { break };
            self.take(command)?;
        }
        if stop.load(Ordering::Acquire) {
            return Ok(Turn::Over);
        }
        if !self.engine.has_work() {
            self.publish_stats();
            return Ok(Turn::Idle);
        }
        let stepped = self.step();
        // Also if the device has failed: what was there before is its owners', and counted.
        self.deliver();
        self.cancel_abandoned();
        self.publish_stats();
        stepped.map(|()| Turn::Stepped)
    }

    fn step(&mut self) -> Result<(), ExecutorError> {
        let steps = self.engine.stats().steps_total;
        let stepped = self.engine.step(&mut self.events);
        let stats = self.engine.stats();
        if stats.steps_total > steps {
            self.metrics.step_rows.observe(stats.last_step_rows.into());
        }
        if self.events.is_empty() {
            // Nothing was ready: a device that runs on its own may need this core.
            std::thread::yield_now();
        }
        stepped
    }

    /// Ends the sequences that are left: the engine has lost them, or goes with them.
    pub(crate) fn close(&mut self, reason: EndReason) {
        let now = (self.clock)();
        while let Some((_, Tracked { outlet, lifetime })) = self.sequences.pop_first() {
            // Who had left before did not lose anything.
            let reason = if outlet.updates.is_closed() { outlet.reason_it_closed() } else { reason };
            lifetime.end(reason, now, &self.metrics);
        }
        // The engine is not asked to let go of them, as it might be what panicked.
        let stats = EngineStats {
            running: 0,
            waiting: 0,
            waiting_deferred: 0,
            blocks_used: 0,
            slots_used: 0,
            steps_in_flight: 0,
            ..self.engine.stats()
        };
        self.publish(stats);
    }

    fn take(&mut self, command: Command) -> Result<(), ExecutorError> {
        match command {
            Command::Generate(submission) => self.add(submission),
            Command::Wake => {}
            Command::GiveUp(error) => return Err(error),
        }
        Ok(())
    }

    fn add(&mut self, Submission { sequences, tally, at, reply }: Submission) {
        let siblings = Siblings::new(sequences.len());
        let mut added = Vec::with_capacity(sequences.len());
        let mut result = Ok(());
        for (Sequence { request, constraint }, outlet) in sequences {
            let lifetime = Lifetime::new(at, &request, &tally, &siblings);
            let id = match constraint {
                None => self.engine.add(request),
                Some(constraint) => self.engine.add_constrained(request, constraint),
            };
            match id {
                Ok(id) => added.push((id, Tracked { outlet, lifetime })),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let accepted = result.is_ok();
        // A client may have left while its request was in the channel.
        if reply.send(result).is_ok() && accepted {
            siblings.accepted(&self.metrics);
            self.sequences.extend(added);
        } else {
            added.iter().for_each(|(id, _)| self.engine.cancel(*id));
        }
    }

    /// Sends what the step brought, one update per sequence.
    fn deliver(&mut self) {
        let now = (self.clock)();
        let mut events = self.events.drain(..).peekable();
        while let Some((id, event)) = events.next() {
            let mut update = Update::default();
            update.absorb(event);
            while let Some((_, event)) =
                events.next_if(|(next, event)| *next == id && update.has_room_for(event))
            {
                update.absorb(event);
            }
            let Some(tracked) = self.sequences.get_mut(&id) else { continue };
            tracked.lifetime.observe(&update, now, &self.metrics);
            let finish = update.finish;
            let sent = tracked.outlet.updates.try_send(update);
            debug_assert!(
                !matches!(sent, Err(TrySendError::Full(_))),
                "the channel has room for every update"
            );
            // Whoever has left is cancelled after the step, when all that it brought has been counted.
            if let Some(reason) = finish
                && let Some(tracked) = self.sequences.remove(&id)
            {
                tracked.lifetime.end(EndReason::of(reason), now, &self.metrics);
            }
        }
    }

    /// Cancels sequences whose receiver is gone, also those that wait or whose prompt is still being
    /// computed.
    fn cancel_abandoned(&mut self) {
        let now = (self.clock)();
        for (id, tracked) in self.sequences.extract_if(.., |_, tracked| tracked.outlet.updates.is_closed()) {
            self.engine.cancel(id);
            tracked.lifetime.end(tracked.outlet.reason_it_closed(), now, &self.metrics);
        }
    }

    fn publish_stats(&self) {
        self.publish(self.engine.stats());
    }

    fn publish(&self, stats: EngineStats) {
        self.metrics.publish(&stats);
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// However the thread ends, by a panic of its device too, nothing stays open in the metrics.
impl Drop for EngineRoom {
    fn drop(&mut self) {
        self.close(EndReason::Error);
    }
}

impl Outlet {
    /// Why a sequence has no receiver any more.
    fn reason_it_closed(&self) -> EndReason {
        if self.is_complete.load(Ordering::Acquire) { EndReason::Stop } else { EndReason::Abort }
    }
}
