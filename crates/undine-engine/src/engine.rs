//! The step loop: schedule, submit step n, collect step n-1, finish.

use std::collections::VecDeque;

use undine_core::{
    Batch, Capacity, Constraint, Executor, ExecutorError, GenerateRequest, RequestId, StepOutput, Ticket,
    VisionExecutor,
};

use crate::config::check_request;
use crate::images::{IMAGE_BIT, SequenceImages};
use crate::running::Part;
use crate::scheduler::Scheduler;
use crate::sequence::Sequence;
use crate::{AddError, EngineConfig, EngineError, EngineStats, Event};

/// A submitted step: its name, and whose outputs it will have, in order.
struct Flight {
    ticket: Ticket,
    parts: Vec<Part>,
}

/// Turns requests into tokens on one executor. Not `Send`, because the executor is not.
pub struct Engine {
    executor: Box<dyn Executor>,
    /// What makes rows of images, if the model takes any.
    vision: Option<Box<dyn VisionExecutor>>,
    capacity: Capacity,
    config: EngineConfig,
    scheduler: Scheduler,
    /// Submitted steps, oldest first.
    in_flight: VecDeque<Flight>,
    /// The step being written; its memory is reused.
    batch: Batch,
    /// Memory of collected steps, reused.
    spare_parts: Vec<Vec<Part>>,
    next_id: u64,
    failure: Option<ExecutorError>,
    stats: EngineStats,
}

impl Engine {
    /// An idle engine. Fails if a limit in `config` or in the executor's capacity is zero.
    pub fn new(executor: Box<dyn Executor>, config: EngineConfig) -> Result<Self, EngineError> {
        let capacity = executor.capacity();
        config.check(&capacity)?;
        assert!(capacity.vocab <= IMAGE_BIT, "a vocabulary of {} entries", capacity.vocab);
        Ok(Self {
            scheduler: Scheduler::new(&config, &capacity),
            executor,
            vision: None,
            capacity,
            config,
            in_flight: VecDeque::with_capacity(capacity.steps_in_flight as usize),
            batch: Batch::default(),
            spare_parts: Vec::new(),
            next_id: 0,
            failure: None,
            stats: EngineStats::default(),
        })
    }

    /// The same engine for requests with images. Fails if `vision` does not belong to its language model.
    pub fn with_vision(self, vision: Box<dyn VisionExecutor>) -> Result<Self, EngineError> {
        let (expected, found) = (self.capacity.hidden, vision.config().hidden);
        if found != expected as usize {
            return Err(EngineError::VisionWidth { expected, found });
        }
        Ok(Self { vision: Some(vision), ..self })
    }

    /// The limits it was made with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// What its executor has reserved.
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// Most tokens a sequence can have, prompt and answer: the configured length or all of the cache.
    pub fn max_context(&self) -> u32 {
        self.config.context(&self.capacity)
    }

    /// Queues a request, or says why it can never run or cannot be queued now. Ids ascend and are never
    /// reused.
    pub fn add(&mut self, request: GenerateRequest) -> Result<RequestId, AddError> {
        self.add_sequence(request, None)
    }

    /// The same for an answer that is restricted. A request and its constraint are of one vocabulary.
    pub fn add_constrained(
        &mut self,
        request: GenerateRequest,
        constraint: Box<dyn Constraint>,
    ) -> Result<RequestId, AddError> {
        self.add_sequence(request, Some(constraint))
    }

    fn add_sequence(
        &mut self,
        mut request: GenerateRequest,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<RequestId, AddError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        let vision = self.vision.as_ref().map(|vision| *vision.config());
        check_request(&request, self.capacity.vocab, self.max_context(), vision.as_ref())?;
        let tenants = &mut self.scheduler.tenants;
        if !tenants.has_room(request.origin.tenant, self.config.max_waiting as usize) {
            let waiting = tenants.waiting() as u32;
            return Err(AddError::QueueFull { waiting, limit: self.config.max_waiting });
        }
        let images = match (std::mem::take(&mut request.images), vision) {
            (images, Some(config)) if !images.is_empty() => {
                let root = &request.origin.cache_root;
                self.scheduler.images.place(root, &request.prompt, images, &config)?
            }
            _ => SequenceImages::default(),
        };
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let tenant = self.scheduler.tenants.place(request.origin.tenant);
        let sequence = Sequence::new(id, tenant, request, images, constraint, self.max_context());
        self.scheduler.tenants.enqueue(sequence);
        Ok(id)
    }

    /// Forgets a request. It has no further events. Its blocks and slot are free at once, or, if a step in
    /// flight uses them, when that step is collected. Unknown and finished ids are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.scheduler.cancel(id);
    }

    /// Runs one step and appends what happened to `events`.
    ///
    /// Returns without progress if the device is not ready and may not be given more; call it again.
    /// After an error every request is lost, without a `Finished`, and the engine only repeats the error.
    pub fn step(&mut self, events: &mut Vec<(RequestId, Event)>) -> Result<(), ExecutorError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.advance(events).inspect_err(|error| {
            self.failure = Some(error.clone());
            self.in_flight.clear();
            self.scheduler.clear();
        })
    }

    /// Whether a step would do anything: a request is waiting or running, or a step is in flight.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// The engine's numbers now.
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.stats;
        self.scheduler.describe(&mut stats);
        stats.steps_in_flight = self.in_flight.len() as u32;
        stats
    }

    /// Panics if a block or a slot is lost or has two owners, or if the queues are out of order. For tests,
    /// and cheap enough to be called whenever the engine is idle.
    pub fn check_integrity(&self) {
        self.scheduler.check_integrity();
        assert!(self.in_flight.len() <= self.capacity.steps_in_flight as usize, "too many steps in flight");
    }

    fn advance(&mut self, events: &mut Vec<(RequestId, Event)>) -> Result<(), ExecutorError> {
        if let Some(vision) = &mut self.vision {
            self.scheduler.encode_images(vision.as_mut())?;
        }
        let parts = self.schedule();
        if let Some(vision) = &mut self.vision {
            self.scheduler.show_images(&mut self.batch, &parts);
            self.scheduler.begin_images(vision.as_mut());
        }
        let started = parts.iter().filter_map(|part| Some((part.id, part.started?)));
        events.extend(started.map(|(id, cached_tokens)| (id, Event::Started { cached_tokens })));
        let stay_in_flight = self.submit(parts)?;
        while let Some((flight, output)) = self.collect(stay_in_flight)? {
            self.finish(flight, output, events);
        }
        Ok(())
    }

    /// Writes the next step into `self.batch`; leaves it empty if nobody can run or the device is busy.
    fn schedule(&mut self) -> Vec<Part> {
        let mut parts = self.spare_parts.pop().unwrap_or_default();
        parts.clear();
        self.batch.clear();
        if self.in_flight.len() < self.capacity.steps_in_flight as usize {
            self.scheduler.schedule(&mut self.batch, &mut parts);
        }
        parts
    }

    /// Submits the written step. Returns how many steps may stay in flight: one fewer than the device takes,
    /// so that the next call can submit; without a new step one fewer than there are, so that every call gets
    /// on.
    fn submit(&mut self, parts: Vec<Part>) -> Result<usize, ExecutorError> {
        if parts.is_empty() {
            self.spare_parts.push(parts);
            return Ok(self.in_flight.len().saturating_sub(1));
        }
        // The backend checks again when it reads the batch.
        self.batch.check(&self.capacity);
        let ticket = self.executor.submit(&self.batch)?;
        self.stats.steps_total += 1;
        self.stats.last_step_rows = self.batch.rows() as u32;
        self.stats.last_step_sequences = parts.len() as u32;
        self.in_flight.push_back(Flight { ticket, parts });
        Ok(self.capacity.steps_in_flight as usize - 1)
    }

    /// The oldest step, if more than `stay_in_flight` are in flight and the device has finished it.
    fn collect(&mut self, stay_in_flight: usize) -> Result<Option<(Flight, StepOutput)>, ExecutorError> {
        if self.in_flight.len() <= stay_in_flight {
            return Ok(None);
        }
        let oldest = self.in_flight.front().expect("more than none are in flight");
        let Some(output) = self.executor.try_collect(oldest.ticket)? else { return Ok(None) };
        Ok(self.in_flight.pop_front().map(|flight| (flight, output)))
    }

    /// Hands the outputs of a step to its sequences, reports what follows, and frees who has ended.
    fn finish(&mut self, flight: Flight, output: StepOutput, events: &mut Vec<(RequestId, Event)>) {
        let Flight { parts, .. } = flight;
        let expected: u32 = parts.iter().map(|part| part.scores + part.samples).sum();
        assert_eq!(output.rows.len(), expected as usize, "the executor returns one output per output row");
        let mut outputs = output.rows.into_iter();
        for &part in &parts {
            let tokens = self.scheduler.running_mut(part.begun).collect(part, &mut outputs, events);
            self.stats.generation_tokens_total += u64::from(tokens);
            self.scheduler.settle_after_step(part.begun);
        }
        self.spare_parts.push(parts);
    }
}
