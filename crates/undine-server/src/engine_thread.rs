//! The one thread that owns the engine. Commands come in over a bounded channel, updates go out over one bounded
//! channel per sequence, which has room for everything the sequence can produce: a slow client never stalls a step.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use undine_core::{Constraint, ExecutorError, FinishReason, GenerateRequest, RequestId, RowOutput};
use undine_engine::{AddError, Engine, EngineStats, Event};

use crate::prompt;
use crate::serve::{Load, Loaded, ServerError};
use crate::state::{Ready, Status, unix_time};
use crate::wire::error::{ApiError, ApiResult};

/// Requests on their way to the engine; the engine's own queue comes after it.
const COMMANDS_MAX: usize = 256;
/// Most sequences of one request (prompts times choices), if the engine's queue is longer.
const SEQUENCES_MAX: usize = 1024;
/// Updates of a sequence beside one per token: its start, prompt scores and an end of its own.
const UPDATES_BESIDE_TOKENS: usize = 3;

/// Everything that happened to one sequence in one step.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Update {
    /// Prompt tokens that were found in the prefix cache; in the first update.
    pub(crate) cached_tokens: Option<u32>,
    pub(crate) prompt_scores: Option<Vec<RowOutput>>,
    pub(crate) token: Option<RowOutput>,
    pub(crate) finish: Option<FinishReason>,
}

/// One sequence to generate, and what restricts it.
pub(crate) struct Sequence {
    pub(crate) request: GenerateRequest,
    pub(crate) constraint: Option<Box<dyn Constraint>>,
}

enum Command {
    Generate(Submission),
    /// Only wakes the thread, which then sees that it is to stop.
    Wake,
}

/// Sequences that are accepted together or not at all.
struct Submission {
    sequences: Vec<(Sequence, mpsc::Sender<Update>)>,
    reply: oneshot::Sender<Result<(), AddError>>,
}

/// Sends requests to the engine thread.
pub(crate) struct EngineHandle {
    commands: mpsc::Sender<Command>,
    stats: Arc<Mutex<EngineStats>>,
}

/// Makes the engine thread end after its current step.
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    commands: mpsc::Sender<Command>,
}

/// A started thread.
pub(crate) struct EngineThread {
    pub(crate) stop: Stop,
    /// Gets the error if loading fails, and nothing otherwise.
    pub(crate) load_failed: oneshot::Receiver<ServerError>,
    /// Closed when the thread has dropped the engine.
    pub(crate) ended: oneshot::Receiver<()>,
}

/// The updates of the sequences of one request. Dropping it cancels those that still run.
pub(crate) struct Running {
    receivers: Vec<Option<mpsc::Receiver<Update>>>,
    /// Who is asked first next time, so that no sequence starves the others.
    next: usize,
}

impl Stop {
    pub(crate) fn stop(&self) {
        self.flag.store(true, Ordering::Release);
        // A full channel means that the thread is awake.
        drop(self.commands.try_send(Command::Wake));
    }
}

impl EngineHandle {
    /// The engine's numbers after its latest step.
    pub(crate) fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues all of `sequences`, or none.
    pub(crate) async fn submit(&self, sequences: Vec<Sequence>) -> ApiResult<Running> {
        let mut receivers = Vec::with_capacity(sequences.len());
        let sequences = sequences.into_iter().map(|sequence| {
            let max_tokens = sequence.request.stop.max_tokens as usize;
            let (sender, receiver) = mpsc::channel(max_tokens + UPDATES_BESIDE_TOKENS);
            receivers.push(Some(receiver));
            (sequence, sender)
        });
        let (reply, accepted) = oneshot::channel();
        let submission = Submission { sequences: sequences.collect(), reply };
        match self.commands.try_send(Command::Generate(submission)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ApiError::queue_full()),
            Err(TrySendError::Closed(_)) => return Err(ApiError::internal("the engine has stopped")),
        }
        match accepted.await {
            Ok(Ok(())) => Ok(Running { receivers, next: 0 }),
            Ok(Err(AddError::QueueFull { .. })) => Err(ApiError::queue_full()),
            Ok(Err(AddError::DeviceFailed(error))) => Err(ApiError::internal(error.to_string())),
            // Everything else was checked before; the engine has the last word all the same.
            Ok(Err(error)) => Err(ApiError::bad_request(error.to_string())),
            Err(_) => Err(ApiError::internal("the engine stopped before it took the request")),
        }
    }
}

impl Running {
    /// The next update and the index of its sequence; no update if the engine is gone; `None` if all have ended.
    pub(crate) async fn next(&mut self) -> Option<(usize, Option<Update>)> {
        poll_fn(|context| {
            let count = self.receivers.len();
            let mut open = false;
            for step in 0..count {
                let i = (self.next + step) % count;
                let Some(receiver) = &mut self.receivers[i] else { continue };
                open = true;
                if let Poll::Ready(update) = receiver.poll_recv(context) {
                    self.next = i + 1;
                    if update.as_ref().is_none_or(|update| update.finish.is_some()) {
                        self.receivers[i] = None;
                    }
                    return Poll::Ready(Some((i, update)));
                }
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// Cancels one sequence: nobody wants the rest of it.
    pub(crate) fn cancel(&mut self, sequence: usize) {
        self.receivers[sequence] = None;
    }
}

/// Starts the thread, which loads the model and then runs the engine.
pub(crate) fn spawn(load: Load, status: watch::Sender<Status>) -> Result<EngineThread, ServerError> {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (load_failed_sender, load_failed) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel::<()>();
    let flag = Arc::new(AtomicBool::new(false));
    let stop = Stop { flag: Arc::clone(&flag), commands: commands.clone() };
    let lifeline = Lifeline { status, load_failed: Some(load_failed_sender), _ended: ended_sender };
    let run = move || run(lifeline, load, commands, receiver, &flag);
    std::thread::Builder::new().name("undine-engine".to_owned()).spawn(run)?;
    Ok(EngineThread { stop, load_failed, ended })
}

/// Tells the server how the thread ended, also when it panics. Dropped after the engine.
struct Lifeline {
    status: watch::Sender<Status>,
    load_failed: Option<oneshot::Sender<ServerError>>,
    _ended: oneshot::Sender<()>,
}

impl Lifeline {
    fn loading_failed(&mut self, error: ServerError) {
        self.status.send_replace(Status::Failed(error.to_string()));
        if let Some(sender) = self.load_failed.take() {
            drop(sender.send(error));
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.load_failed {
                Some(_) => self.loading_failed(ServerError::LoadPanicked),
                None => {
                    drop(self.status.send_replace(Status::Failed("the engine thread panicked".to_owned())))
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
    let (engine, model) = match start(load) {
        Ok(started) => started,
        Err(error) => return lifeline.loading_failed(error),
    };
    lifeline.load_failed = None;
    let stats = Arc::new(Mutex::new(engine.stats()));
    let prompt_bytes_max = prompt::text_bytes_max(&model, engine.max_context());
    let ready = Ready {
        model,
        prompt_bytes_max,
        vocab: engine.capacity().vocab,
        max_model_len: engine.max_context(),
        sequences_max: SEQUENCES_MAX.min(engine.config().max_waiting as usize),
        engine: EngineHandle { commands, stats: Arc::clone(&stats) },
        created: unix_time(),
    };
    lifeline.status.send_replace(Status::Ready(Arc::new(ready)));
    let mut room = EngineRoom { engine, sequences: HashMap::new(), events: Vec::new(), stats };
    let reason = match room.run(receiver, stop) {
        Ok(()) => "the server is shutting down".to_owned(),
        Err(error) => error.to_string(),
    };
    // Before the senders go, so that whoever misses its updates can read why.
    lifeline.status.send_replace(Status::Failed(reason));
    drop(room);
}

fn start(load: Load) -> Result<(Engine, crate::ServerModel), ServerError> {
    let Loaded { model, factory, engine } = load().map_err(ServerError::Load)?;
    if model.names.is_empty() {
        return Err(ServerError::NoModelName);
    }
    let executor = factory().map_err(|error| ServerError::Load(error.into()))?;
    let engine = Engine::new(executor, engine).map_err(|error| ServerError::Load(error.into()))?;
    Ok((engine, model))
}

/// The engine and whom to tell.
struct EngineRoom {
    engine: Engine,
    sequences: HashMap<RequestId, mpsc::Sender<Update>>,
    /// Reused from step to step.
    events: Vec<(RequestId, Event)>,
    stats: Arc<Mutex<EngineStats>>,
}

impl EngineRoom {
    /// Steps until told to stop or until nobody can send any more; sleeps while there is no work.
    fn run(&mut self, mut commands: mpsc::Receiver<Command>, stop: &AtomicBool) -> Result<(), ExecutorError> {
        loop {
            if !self.engine.has_work() {
                self.publish_stats();
                match commands.blocking_recv() {
                    Some(command) => self.take(command),
                    None => return Ok(()),
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            self.engine.step(&mut self.events)?;
            if self.events.is_empty() {
                // Nothing was ready: a device that runs on its own may need this core.
                std::thread::yield_now();
            }
            self.deliver();
            self.cancel_abandoned();
            self.publish_stats();
        }
    }

    fn take(&mut self, command: Command) {
        let Command::Generate(Submission { sequences, reply }) = command else { return };
        let mut added = Vec::with_capacity(sequences.len());
        let mut result = Ok(());
        for (Sequence { request, constraint }, sender) in sequences {
            let id = match constraint {
                None => self.engine.add(request),
                Some(constraint) => self.engine.add_constrained(request, constraint),
            };
            match id {
                Ok(id) => added.push((id, sender)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let accepted = result.is_ok();
        // A client may have left while its request was in the channel.
        if reply.send(result).is_ok() && accepted {
            self.sequences.extend(added);
        } else {
            added.iter().for_each(|(id, _)| self.engine.cancel(*id));
        }
    }

    /// Sends what the step brought, one update per sequence.
    fn deliver(&mut self) {
        let mut events = self.events.drain(..).peekable();
        while let Some((id, event)) = events.next() {
            let mut update = Update::default();
            update.absorb(event);
            while let Some((_, event)) =
                events.next_if(|(next, event)| *next == id && update.has_room_for(event))
            {
                update.absorb(event);
            }
            let finished = update.finish.is_some();
            let Some(sender) = self.sequences.get(&id) else { continue };
            let sent = sender.try_send(update);
            debug_assert!(
                !matches!(sent, Err(TrySendError::Full(_))),
                "the channel has room for every update"
            );
            if finished {
                self.sequences.remove(&id);
            } else if sent.is_err() {
                self.sequences.remove(&id);
                self.engine.cancel(id);
            }
        }
    }

    /// Cancels sequences whose receiver is gone, also those that wait or whose prompt is still being computed.
    fn cancel_abandoned(&mut self) {
        let engine = &mut self.engine;
        self.sequences.retain(|&id, sender| {
            if sender.is_closed() {
                engine.cancel(id);
                return false;
            }
            true
        });
    }

    fn publish_stats(&self) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = self.engine.stats();
    }
}

impl Update {
    fn has_room_for(&self, event: &Event) -> bool {
        match event {
            Event::Started { .. } | Event::PromptScores(_) => false,
            Event::Token(_) => self.token.is_none() && self.finish.is_none(),
            Event::Finished(_) => self.finish.is_none(),
        }
    }

    fn absorb(&mut self, event: Event) {
        match event {
            Event::Started { cached_tokens } => self.cached_tokens = Some(cached_tokens),
            Event::PromptScores(scores) => self.prompt_scores = Some(scores),
            Event::Token(token) => self.token = Some(token),
            Event::Finished(reason) => self.finish = Some(reason),
        }
    }
}
