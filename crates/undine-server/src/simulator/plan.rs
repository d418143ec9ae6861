//! What a seed stands for: the limits of an engine, who comes when with which requests, and what goes wrong.
//! Plain data, so that a world that fails can be tried again with less of it.

use std::collections::BTreeSet;
use std::ops::Range;

use fastrand::Rng;
use undine_core::{
    CacheRoot, Capacity, GenerateRequest, Origin, SamplingParams, StopRules, TenantId, TokenId,
};
use undine_engine::{EngineConfig, PrefixCaching};

use super::eye::{HIDDEN, show};
use super::grammar::Rules;

/// Small, so that end tokens are drawn often.
pub const VOCAB: u32 = 23;
/// Most tokens of the text that opens prompts; a few texts are shared by all.
const PROMPT_MAX: u32 = 24;
/// Requests that one client sends, one after the other.
const TURNS_MAX: usize = 3;
/// Tenants of a world.
const TENANTS_MAX: u64 = 4;
/// What may be in a prompt: each is an image of its own, in tiles of so many tokens.
const IMAGES: [&[u32]; 5] = [&[2], &[2], &[3, 1], &[5], &[1, 1, 2]];

/// A world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of everything that is not written here.
    pub seed: u64,
    /// The device's limits.
    pub capacity: Capacity,
    /// The engine's limits.
    pub config: EngineConfig,
    /// Places in the channel to the engine's thread.
    pub commands_max: usize,
    /// Who comes.
    pub clients: Vec<ClientPlan>,
    /// What goes wrong beside them.
    pub trouble: Trouble,
}

/// What the device, the clock and the operator do.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// How often `try_collect` says "not yet" before a step, at the most.
    pub delay_max: u32,
    /// The submission that fails.
    pub submit_fails_at: Option<u64>,
    /// The collection that fails.
    pub collect_fails_at: Option<u64>,
    /// Slices of its work between which others have their steps.
    pub vision_slices: u32,
    /// The pass of the vision tower that fails.
    pub vision_fails_at: Option<usize>,
    /// When the server is told to stop.
    pub stop_at: Option<Moment>,
    /// Whether the clock jumps by hours, forward and backward.
    pub clock: ClockKind,
}

impl Default for Trouble {
    /// None.
    fn default() -> Self {
        Self {
            delay_max: 0,
            submit_fails_at: None,
            collect_fails_at: None,
            vision_slices: 1,
            vision_fails_at: None,
            stop_at: None,
            clock: ClockKind::Steady,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Step(u32),
    /// When so many sequences are over for their clients.
    Ends(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockKind {
    Steady,
    Jumping,
}

/// One client: its requests, one after the other, and its manners.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Where it stood in the world as the seed made it.
    pub number: usize,
    pub arrives_at: u32,
    pub turns: Vec<TurnPlan>,
    pub reads: Reads,
    pub leaves: Leaves,
}

/// One request: sequences that are accepted together.
#[derive(Clone, Debug)]
pub struct TurnPlan {
    pub sequences: Vec<SequencePlan>,
    /// Whether what was asked and answered before comes first, as in a chat.
    pub opening: Opening,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    New,
    Continues,
}

#[derive(Clone, Debug)]
pub struct SequencePlan {
    pub request: GenerateRequest,
    pub rules: Option<Rules>,
    /// Tokens that end the answer for the client alone, as a stop string does.
    pub stop_text: Option<Vec<TokenId>>,
}

/// How fast a client takes what there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// All there is.
    Eagerly,
    /// One update now and then.
    Slowly,
    /// Nothing for so many steps.
    After(u32),
}

/// When a client vanishes, in each of its requests alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaves {
    Never,
    /// Once its request is in the channel, and perhaps taken.
    BeforeTheReply,
    /// Between being accepted and reading anything.
    OnceAccepted,
    /// After so many updates.
    AfterUpdates(u32),
    /// So many steps after it came.
    AfterSteps(u32),
}

impl Plan {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (capacity, config) = limits(&mut rng);
        let context = config.max_model_len.min(capacity.blocks * capacity.block_size);
        let makes_trouble = |rng: &mut Rng, share: u32| rng.u32(..share) == 0;
        // Now and then somebody comes for as long as the world lasts, else everybody soon.
        let last = [1, 20, 80, 200][rng.usize(..4)];
        let count = if makes_trouble(&mut rng, 8) { rng.usize(40..80) } else { rng.usize(1..24) };
        let sees = makes_trouble(&mut rng, 3);
        let tenants = [1, 2, TENANTS_MAX][rng.usize(..3)];
        let clients: Vec<_> = (0..count)
            .map(|number| {
                // A stream of its own, so that the others stay as they are when one is left out.
                let mut rng = Rng::with_seed(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let arrives_at = rng.u32(..last);
                client(&mut rng, Manners { number, arrives_at, context, sees, tenants })
            })
            .collect();
        let trouble = Trouble {
            delay_max: [0, 0, 1, 4, 12][rng.usize(..5)],
            submit_fails_at: makes_trouble(&mut rng, 12).then(|| rng.u64(..120)),
            collect_fails_at: makes_trouble(&mut rng, 12).then(|| rng.u64(..120)),
            vision_slices: rng.u32(1..5),
            vision_fails_at: makes_trouble(&mut rng, 12).then(|| rng.usize(..8)),
            stop_at: makes_trouble(&mut rng, 6).then(|| match rng.bool() {
                true => Moment::Step(rng.u32(..250)),
                false => Moment::Ends(rng.u32(1..24)),
            }),
            clock: if makes_trouble(&mut rng, 3) { ClockKind::Jumping } else { ClockKind::Steady },
        };
        Self { seed, capacity, config, commands_max: rng.usize(1..8), clients, trouble }
    }
}

impl Plan {
    /// Most tokens of a sequence.
    pub fn context(&self) -> u32 {
        self.config.max_model_len.min(self.capacity.blocks * self.capacity.block_size)
    }

    /// Everybody whose turn may come.
    pub fn tenants(&self) -> usize {
        let turns = self.clients.iter().flat_map(|client| &client.turns);
        let sequences = turns.flat_map(|turn| &turn.sequences);
        sequences.map(|sequence| sequence.request.origin.tenant).collect::<BTreeSet<_>>().len()
    }
}

fn limits(rng: &mut Rng) -> (Capacity, EngineConfig) {
    let mut within = |range: Range<u32>| rng.u32(range);
    let capacity = Capacity {
        blocks: within(4..18),
        block_size: within(1..5),
        slots: within(1..9),
        snapshots: within(0..5),
        replay: within(0..9),
        rows: within(1..16),
        outputs: within(1..10),
        vocab: VOCAB,
        hidden: HIDDEN,
        steps_in_flight: within(1..4),
    };
    let config = EngineConfig {
        max_num_seqs: within(1..9),
        max_num_batched_tokens: within(1..16),
        max_model_len: within(12..64),
        max_waiting: within(1..24),
        prefill_chunk: within(1..12),
        prefix_caching: if within(0..8) == 0 { PrefixCaching::Off } else { PrefixCaching::On },
        // Nothing, a few tiles, all.
        image_cache_bytes: [0, 40, 1 << 20][within(0..3) as usize],
    };
    (capacity, config)
}

/// What a client's plan depends on beside chance.
struct Manners {
    number: usize,
    arrives_at: u32,
    context: u32,
    /// Whether it shows images.
    sees: bool,
    tenants: u64,
}

fn client(rng: &mut Rng, manners: Manners) -> ClientPlan {
    let Manners { number, arrives_at, context, sees, tenants } = manners;
    // One of them sends more than the others.
    let tenant = TenantId(if rng.bool() { 0 } else { rng.u64(..tenants) });
    let turns = (0..rng.usize(1..=TURNS_MAX)).map(|turn| {
        let opening = if turn > 0 && rng.bool() { Opening::Continues } else { Opening::New };
        let origin = origin(rng, tenant);
        TurnPlan { sequences: sequences(rng, context, sees, &origin), opening }
    });
    ClientPlan {
        number,
        arrives_at,
        turns: turns.collect(),
        reads: match rng.u32(..6) {
            0 => Reads::Slowly,
            1 => Reads::After(rng.u32(..120)),
            _ => Reads::Eagerly,
        },
        leaves: match rng.u32(..12) {
            0 => Leaves::BeforeTheReply,
            1 => Leaves::OnceAccepted,
            2 => Leaves::AfterUpdates(rng.u32(1..12)),
            3 => Leaves::AfterSteps(rng.u32(..60)),
            _ => Leaves::Never,
        },
    }
}

/// Of one tenant; most share a root, and most are equally urgent.
fn origin(rng: &mut Rng, tenant: TenantId) -> Origin {
    let salt = (rng.u32(..6) == 0).then(|| ["a", "b"][rng.usize(..2)].into());
    let domain = if rng.u32(..4) == 0 { tenant.0 + 1 } else { 0 };
    let priority = if rng.u32(..4) == 0 { rng.i64(-2..3) } else { 0 };
    Origin { tenant, cache_root: CacheRoot { domain, salt }, priority }
}

/// Some prompts, each with some choices.
fn sequences(rng: &mut Rng, context: u32, sees: bool, origin: &Origin) -> Vec<SequencePlan> {
    let (prompts, choices) = match rng.u32(..6) {
        0 => (rng.u64(1..4), rng.u64(1..4)),
        1 => (1, rng.u64(1..5)),
        _ => (1, 1),
    };
    let mut sequences = Vec::new();
    for _ in 0..prompts {
        let first = SequencePlan {
            request: GenerateRequest { origin: origin.clone(), ..request(rng, context, sees) },
            rules: (rng.u32(..5) == 0).then(|| Rules::new(rng)),
            stop_text: (rng.u32(..6) == 0).then(|| (0..rng.u32(1..3)).map(|_| rng.u32(..VOCAB)).collect()),
        };
        sequences.extend((0..choices).map(|choice| {
            let mut sequence = first.clone();
            sequence.request.sampling.seed ^= choice;
            sequence
        }));
    }
    sequences
}

fn request(rng: &mut Rng, context: u32, sees: bool) -> GenerateRequest {
    let mut token = || rng.u32(..VOCAB);
    let ends: Vec<TokenId> = (0..4).map(|_| token()).collect();
    let penalty = [0.0, 0.0, 0.0, 0.5][rng.usize(..4)];
    let max_tokens = [0, rng.u32(1..8), rng.u32(1..16), rng.u32(8..40), rng.u32(8..40)][rng.usize(..5)];
    let mut request = GenerateRequest {
        prompt: prompt(rng),
        images: Vec::new(),
        sampling: SamplingParams {
            presence_penalty: penalty,
            seed: rng.u64(..4),
            logprobs: (rng.u32(..4) == 0).then(|| rng.u32(..3)),
            ..SamplingParams::default()
        },
        logit_bias: match rng.u32(..6) {
            0 => vec![(rng.u32(..VOCAB), f32::NEG_INFINITY), (rng.u32(..VOCAB), 0.5)],
            _ => Vec::new(),
        },
        stop: StopRules {
            max_tokens,
            min_tokens: [0, 0, 3][rng.usize(..3)],
            stop_tokens: ends[..rng.usize(..2)].to_vec(),
            eos_tokens: ends[2..2 + [0, 0, 1, 2][rng.usize(..4)]].to_vec(),
            thought: None,
        },
        prompt_logprobs: (max_tokens == 0 || rng.u32(..8) == 0).then(|| rng.u32(..3)),
        origin: Origin::default(),
    };
    if sees && context > PROMPT_MAX {
        // Where the same text comes first, or none, two images of one size differ in nothing else.
        let text = std::mem::take(&mut request.prompt);
        request.prompt.extend(&text[..[0, 0, text.len()][rng.usize(..3)]]);
        for _ in 0..rng.usize(..3) {
            let image = rng.usize(..IMAGES.len());
            show(&mut request, image as u8, IMAGES[image]);
            request.prompt.extend((0..rng.usize(..3)).map(|_| rng.u32(..VOCAB)));
        }
        request.prompt.extend(&text[..1]);
    }
    // One in a while is too long to be accepted.
    if rng.u32(..30) > 0 && request.images.is_empty() {
        request.prompt.truncate(context as usize / 2);
    }
    request
}

/// Prompts that share beginnings of any length.
fn prompt(rng: &mut Rng) -> Vec<TokenId> {
    let (text, shared) = (rng.u32(..2), rng.u32(..PROMPT_MAX));
    let mut prompt: Vec<TokenId> = (0..shared).map(|i| (i * i + text * 7) % VOCAB).collect();
    let own = rng.u32(1..PROMPT_MAX);
    prompt.extend((0..own).map(|_| rng.u32(..VOCAB)));
    prompt.truncate(PROMPT_MAX as usize);
    prompt
}
