//! The way to the thread that owns the engine (`engine_room`). Commands go there over a bounded channel,
//! updates come back over one bounded channel per sequence, which has room for everything the sequence can
//! produce: a slow client never stalls a step. How long it may be slow is bounded by its connection.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use undine_core::{Constraint, ExecutorError, FinishReason, GenerateRequest, RowOutput};
use undine_engine::{AddError, EngineStats, Event};

use crate::account::Tally;
use crate::metrics::EngineMetrics;
use crate::wire::error::{ApiError, ApiResult};

/// Updates of a sequence beside one per token: its start, prompt scores and an end of its own.
const UPDATES_BESIDE_TOKENS: usize = 3;

/// Tells the time. The server's is [`Instant::now`]; a simulated one may jump.
pub(crate) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

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

pub(crate) enum Command {
    Generate(Submission),
    /// Only wakes the thread, which then sees that it is to stop.
    Wake,
    /// The model's files have changed: nothing can be computed any more.
    GiveUp(ExecutorError),
}

/// Sequences that are accepted together or not at all.
pub(crate) struct Submission {
    pub(crate) sequences: Vec<(Sequence, Outlet)>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) at: Instant,
    pub(crate) reply: oneshot::Sender<Result<(), AddError>>,
}

/// Where the updates of a sequence go.
pub(crate) struct Outlet {
    pub(crate) updates: mpsc::Sender<Update>,
    /// Set before the receiver goes, if it goes because a stop string has ended the answer.
    pub(crate) is_complete: Arc<AtomicBool>,
}

struct Inlet {
    updates: mpsc::Receiver<Update>,
    is_complete: Arc<AtomicBool>,
}

/// Sends requests to the engine thread.
pub(crate) struct EngineHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) stats: Arc<Mutex<EngineStats>>,
    pub(crate) metrics: Arc<EngineMetrics>,
    pub(crate) clock: Clock,
}

/// The updates of the sequences of one request. Dropping it cancels those that still run.
pub(crate) struct Running {
    receivers: Vec<Option<Inlet>>,
    /// Who is asked first next time, so that no sequence starves the others.
    next: usize,
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
            let is_complete = Arc::<AtomicBool>::default();
            receivers.push(Some(Inlet { updates: receiver, is_complete: Arc::clone(&is_complete) }));
            (sequence, Outlet { updates: sender, is_complete })
        });
        let (reply, accepted) = oneshot::channel();
        let (sequences, tally) = (sequences.collect(), Tally::current());
        let submission = Submission { sequences, tally, at: (self.clock)(), reply };
        // The thread takes all there are after each step; who waits here is bounded by the connections. Only
        // the engine knows whether its queue is full.
        if self.commands.send(Command::Generate(submission)).await.is_err() {
            return Err(ApiError::internal("the engine has stopped"));
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
    /// The next update and the index of its sequence; no update if the engine is gone; `None` if all have
    /// ended.
    pub(crate) async fn next(&mut self) -> Option<(usize, Option<Update>)> {
        poll_fn(|context| {
            let count = self.receivers.len();
            let mut open = false;
            for step in 0..count {
                let i = (self.next + step) % count;
                let Some(receiver) = &mut self.receivers[i] else { continue };
                open = true;
                if let Poll::Ready(update) = receiver.updates.poll_recv(context) {
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

    /// Cancels one sequence whose text is complete: a stop string, which the engine cannot see, has ended it.
    pub(crate) fn cancel(&mut self, sequence: usize) {
        if let Some(inlet) = self.receivers[sequence].take() {
            inlet.is_complete.store(true, Ordering::Release);
        }
    }
}

impl Update {
    /// Whether it says nothing but that the sequence has begun.
    pub(crate) fn is_only_a_beginning(&self) -> bool {
        self.prompt_scores.is_none() && self.token.is_none() && self.finish.is_none()
    }

    /// Whether an event of the same step can go into this update.
    pub(crate) fn has_room_for(&self, event: &Event) -> bool {
        match event {
            Event::Started { .. } | Event::PromptScores(_) => false,
            Event::Token(_) => self.token.is_none() && self.finish.is_none(),
            Event::Finished(_) => self.finish.is_none(),
        }
    }

    /// Takes an event in.
    pub(crate) fn absorb(&mut self, event: Event) {
        match event {
            Event::Started { cached_tokens } => self.cached_tokens = Some(cached_tokens),
            Event::PromptScores(scores) => self.prompt_scores = Some(scores),
            Event::Token(token) => self.token = Some(token),
            Event::Finished(reason) => self.finish = Some(reason),
        }
    }
}
