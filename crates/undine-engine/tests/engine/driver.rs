//! Runs an engine on the device and keeps every request's events.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use undine_core::{
    Batch, Capacity, Constraint, GenerateRequest, Origin, RequestId, SamplingParams, StopRules, Tile, TokenId,
};
use undine_engine::{AddError, Engine, EngineConfig, Event, PrefixCaching};

use crate::device::{Device, Log, expected};
use crate::eye::Eye;
pub use crate::eye::HIDDEN;

/// More steps than any test needs.
const STEPS_MAX: u32 = 20_000;

/// Slices of a pass of the vision tower.
pub const SLICES: u32 = 3;

/// Room for everything, one step in flight.
pub const ROOMY: Setup = Setup {
    capacity: Capacity {
        blocks: 256,
        block_size: 4,
        slots: 16,
        snapshots: 8,
        replay: 6,
        rows: 512,
        outputs: 512,
        vocab: 97,
        hidden: HIDDEN,
        steps_in_flight: 1,
    },
    config: EngineConfig {
        max_num_seqs: 16,
        max_num_batched_tokens: 512,
        max_model_len: 96,
        max_waiting: 64,
        prefill_chunk: 512,
        prefix_caching: PrefixCaching::On,
        image_cache_bytes: 1 << 10,
    },
};

/// Device and engine limits.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub capacity: Capacity,
    pub config: EngineConfig,
}

impl Setup {
    /// [`ROOMY`] with something changed.
    pub fn with(change: impl FnOnce(&mut Capacity, &mut EngineConfig)) -> Self {
        let mut setup = ROOMY;
        change(&mut setup.capacity, &mut setup.config);
        setup
    }
}

/// An engine under test.
pub struct Driver {
    pub engine: Engine,
    /// All but [`Event::Started`].
    pub events: BTreeMap<RequestId, Vec<Event>>,
    /// What [`Event::Started`] said.
    pub cached: BTreeMap<RequestId, u32>,
    log: Rc<RefCell<Log>>,
    passes: Rc<RefCell<Vec<Vec<Tile>>>>,
    step_events: Vec<(RequestId, Event)>,
    requests: BTreeMap<RequestId, GenerateRequest>,
    cancelled: Vec<RequestId>,
    constrained: Vec<RequestId>,
}

impl Driver {
    pub fn new(setup: Setup) -> Self {
        Self::on(setup, |device| device)
    }

    /// With a vision tower, whose pass number `fails_at` fails.
    pub fn with_eye(setup: Setup, fails_at: Option<usize>, change: impl FnOnce(Device) -> Device) -> Self {
        let mut driver = Self::on(setup, change);
        let eye = Eye { passes: Rc::clone(&driver.passes), fails_at, slices: SLICES, begun: None };
        driver.engine = driver.engine.with_vision(Box::new(eye)).expect("it is as wide as the device");
        driver
    }

    /// On a device that was changed.
    pub fn on(setup: Setup, change: impl FnOnce(Device) -> Device) -> Self {
        let log = Rc::new(RefCell::new(Log::default()));
        let device = change(Device::new(setup.capacity, log.clone()));
        let engine = Engine::new(Box::new(device), setup.config).expect("no limit of a setup is zero");
        let (events, cached, requests) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            engine,
            events,
            cached,
            log,
            passes: Rc::default(),
            step_events: Vec::new(),
            requests,
            cancelled: Vec::new(),
            constrained: Vec::new(),
        }
    }

    pub fn add(&mut self, request: &GenerateRequest) -> Result<RequestId, AddError> {
        let id = self.engine.add(request.clone())?;
        self.requests.insert(id, request.clone());
        self.events.insert(id, Vec::new());
        Ok(id)
    }

    /// A request whose answer is not what [`expected`] says.
    pub fn add_constrained(
        &mut self,
        request: &GenerateRequest,
        constraint: impl Constraint + 'static,
    ) -> RequestId {
        let id = self.engine.add_constrained(request.clone(), Box::new(constraint)).expect("it can run");
        self.requests.insert(id, request.clone());
        self.events.insert(id, Vec::new());
        self.constrained.push(id);
        id
    }

    pub fn cancel(&mut self, id: RequestId) {
        self.engine.cancel(id);
        self.cancelled.push(id);
        self.engine.check_integrity();
    }

    /// One step. Events of a cancelled or finished request are a failure.
    pub fn step(&mut self) {
        self.step_events.clear();
        self.engine.step(&mut self.step_events).expect("this device does not fail");
        self.engine.check_integrity();
        let mut started = Vec::new();
        for (id, event) in self.step_events.drain(..) {
            assert!(!self.cancelled.contains(&id), "{id:?} was cancelled and says {event:?}");
            let events = self.events.get_mut(&id).expect("events name requests that were added");
            assert!(
                !matches!(events.last(), Some(Event::Finished(_))),
                "{id:?} had finished and says {event:?}"
            );
            if let Event::Started { cached_tokens } = event {
                assert!(events.is_empty() && self.cached.insert(id, cached_tokens).is_none(), "{id:?}");
                assert!(
                    (cached_tokens as usize) < self.requests[&id].prompt.len(),
                    "{id:?}: nothing to compute"
                );
                started.push((id, cached_tokens));
                continue;
            }
            assert!(self.cached.contains_key(&id), "{id:?} has not started and says {event:?}");
            events.push(event);
        }
        for (id, found) in started {
            let most = self.findable(id);
            assert!(found <= most, "{id:?} finds {found} tokens, and its root has {most} of them");
        }
    }

    /// Most tokens that a request can find: those that it shares with another one of its root.
    fn findable(&self, id: RequestId) -> u32 {
        let own = &self.requests[&id];
        let others = self
            .requests
            .iter()
            .filter(|(other, request)| **other != id && request.origin.cache_root == own.origin.cache_root);
        let shared = others.map(|(&other, _)| {
            let conversation = self.conversation(other);
            own.prompt.iter().zip(&conversation).take_while(|(a, b)| a == b).count() as u32
        });
        shared.max().unwrap_or(0)
    }

    /// Steps until there is nothing to do; then everything must have been given back.
    pub fn run(&mut self) {
        let mut steps = 0;
        while self.engine.has_work() {
            self.step();
            steps += 1;
            assert!(steps < STEPS_MAX, "no end: {:?}", self.engine.stats());
        }
        let stats = self.engine.stats();
        let left = (stats.running, stats.waiting, stats.blocks_used, stats.slots_used, stats.steps_in_flight);
        assert_eq!(left, (0, 0, 0, 0, 0));
        let computed = stats.prompt_tokens_computed_total + stats.prompt_tokens_cached_total;
        assert_eq!(computed, stats.prompt_tokens_total);
    }

    /// Every request has had the events it has without an engine; a cancelled one the first of them.
    pub fn check_events(&self) {
        for (id, request) in self.requests.iter().filter(|(id, _)| !self.constrained.contains(id)) {
            let events = &self.events[id];
            let expected = expected(request, self.engine.max_context(), self.engine.capacity().vocab);
            if self.cancelled.contains(id) && events.len() < expected.len() {
                assert_eq!(events[..], expected[..events.len()], "{id:?}");
            } else {
                assert_eq!(*events, expected, "{id:?}");
            }
        }
    }

    /// Rows computed so far.
    pub fn rows(&self) -> usize {
        self.log.borrow().batches.iter().map(Batch::rows).sum()
    }

    /// The batches so far.
    pub fn batches(&self) -> Vec<Batch> {
        self.log.borrow().batches.clone()
    }

    /// The tiles of each pass of the vision tower.
    pub fn passes(&self) -> Vec<Vec<Tile>> {
        self.passes.borrow().clone()
    }

    /// A request that asks what this one has asked and been answered so far.
    pub fn so_far(&self, id: RequestId) -> GenerateRequest {
        GenerateRequest { prompt: self.conversation(id), ..self.requests[&id].clone() }
    }

    pub fn finished(&self, id: RequestId) -> bool {
        matches!(self.events[&id].last(), Some(Event::Finished(_)))
    }

    /// A request as it was added.
    pub fn request(&self, id: RequestId) -> GenerateRequest {
        self.requests[&id].clone()
    }

    /// The prompt of a request and its answer so far.
    pub fn conversation(&self, id: RequestId) -> Vec<TokenId> {
        [&self.requests[&id].prompt[..], &self.answer(id)].concat()
    }

    /// The tokens of a request's answer.
    pub fn answer(&self, id: RequestId) -> Vec<TokenId> {
        let token = |event: &Event| match event {
            Event::Token(output) => Some(output.chosen.token),
            _ => None,
        };
        self.events[&id].iter().filter_map(token).collect()
    }
}

/// A prompt of `prompt` tokens, different for every `seed`, answered with `max_tokens` tokens.
pub fn request(seed: u64, prompt: u32, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: (0..prompt).map(|i| (seed as u32 * 31 + i * 7) % ROOMY.capacity.vocab).collect(),
        images: Vec::new(),
        sampling: SamplingParams { seed, ..SamplingParams::default() },
        logit_bias: Vec::new(),
        stop: StopRules::after(max_tokens),
        prompt_logprobs: None,
        origin: Origin::default(),
    }
}

/// Eight requests of every kind.
pub fn mixed_requests() -> Vec<GenerateRequest> {
    let mut requests: Vec<_> = [(1, 30), (5, 40), (17, 20), (40, 25), (3, 1), (64, 80), (9, 0), (23, 33)]
        .into_iter()
        .zip(0..)
        .map(|((prompt, max_tokens), seed)| request(seed, prompt, max_tokens))
        .collect();
    requests[1].sampling.repetition_penalty = 1.1;
    requests[2].prompt_logprobs = Some(2);
    requests[3].stop.eos_tokens = vec![1, 2, 3, 4, 5, 6, 7, 8];
    requests[3].stop.min_tokens = 12;
    requests[5].prompt_logprobs = Some(0);
    requests[5].sampling.logprobs = Some(3);
    requests[6].prompt_logprobs = Some(1);
    requests[7].logit_bias = vec![(11, f32::NEG_INFINITY), (12, 0.5)];
    requests[7].stop.stop_tokens = vec![20, 21];
    requests
}
