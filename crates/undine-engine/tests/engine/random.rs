//! Random requests, limits, arrivals, cancellations and device timings.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use undine_core::{
    CacheRoot, Capacity, GenerateRequest, Origin, RequestId, SamplingParams, StopRules, TenantId, Thought,
    TokenId,
};
use undine_engine::{AddError, EngineConfig, PrefixCaching};

use crate::driver::{Driver, HIDDEN, Setup};
use crate::eye::{append, show};

/// Small, so that end tokens are drawn often.
const VOCAB: u32 = 23;

#[derive(Clone, Debug)]
enum Action {
    Add(GenerateRequest),
    /// The prompt of the request this many places from the latest, once more.
    Repeat(u64, GenerateRequest),
    /// What the request this many places from the latest has asked and been answered so far, and more.
    Continue(u64, GenerateRequest),
    /// The request this many places from the latest.
    Cancel(u64),
    Step(u32),
}

fn setup() -> impl Strategy<Value = Setup> {
    let capacity = (1..14u32, 1..5u32, 1..5u32, 1..12u32, 1..8u32, 1..4u32);
    let config = (1..6u32, 1..12u32, 2..40u32, 1..6u32, 1..10u32);
    let caching = prop_oneof![7 => Just(PrefixCaching::On), 1 => Just(PrefixCaching::Off)];
    // Nothing, a few tiles, all.
    let image_cache = prop_oneof![Just(0u64), 8..80u64, Just(1 << 20)];
    let cache = (0..5u32, 0..9u32, caching, image_cache);
    (capacity, config, cache).prop_map(|(capacity, config, cache)| {
        let (snapshots, replay, prefix_caching, image_cache_bytes) = cache;
        let (blocks, block_size, slots, rows, outputs, steps_in_flight) = capacity;
        Setup {
            capacity: Capacity {
                blocks,
                block_size,
                slots,
                snapshots,
                replay,
                rows,
                outputs,
                vocab: VOCAB,
                hidden: HIDDEN,
                steps_in_flight,
            },
            config: EngineConfig {
                max_num_seqs: config.0,
                max_num_batched_tokens: config.1,
                max_model_len: config.2,
                max_waiting: config.3,
                prefill_chunk: config.4,
                prefix_caching,
                image_cache_bytes,
            },
        }
    })
}

/// Prompts that share beginnings of any length.
fn prompt() -> impl Strategy<Value = Vec<TokenId>> {
    let shared =
        (0..2u32, 0..24u32).prop_map(|(text, len)| (0..len).map(|i| (i * i + text * 7) % VOCAB).collect());
    (shared, vec(0..VOCAB, 1..24)).prop_map(|(mut prompt, end): (Vec<TokenId>, _)| {
        prompt.extend(end);
        prompt.truncate(24);
        prompt
    })
}

/// What may be in a prompt: each colour is an image of its own, and of two of them the tiles are of one size.
const IMAGES: [&[u32]; 5] = [&[2], &[2], &[3, 1], &[5], &[1, 1, 2]];

/// Some tenants, most of one root.
fn origin() -> impl Strategy<Value = Origin> {
    let salt = option::weighted(0.2, 0..2u32).prop_map(|salt| salt.map(|salt| salt.to_string().into()));
    let root = (prop_oneof![4 => Just(0u64), 1 => 1..3u64], salt);
    let root = root.prop_map(|(domain, salt)| CacheRoot { domain, salt });
    (0..4u64, root, prop_oneof![3 => Just(0i64), 1 => -2..3i64])
        .prop_map(|(tenant, cache_root, priority)| Origin { tenant: TenantId(tenant), cache_root, priority })
}

prop_compose! {
    fn request()(
        origin in origin(),
        images in vec((0..IMAGES.len(), 0..3usize), 0..3),
        prompt in prompt(),
        seed in 0..1000u64,
        presence_penalty in prop_oneof![3 => Just(0.0f32), 1 => Just(0.5)],
        logprobs in option::of(0..3u32),
        logit_bias in vec((0..VOCAB, prop_oneof![Just(f32::NEG_INFINITY), Just(1.0)]), 0..3),
        max_tokens in 0..20u32,
        min_tokens in 0..8u32,
        stop_tokens in vec(0..VOCAB, 0..2),
        eos_tokens in vec(0..VOCAB, 0..2),
        thought in option::of((0..VOCAB, 0..VOCAB, any::<bool>())),
        prompt_logprobs in option::weighted(0.3, 0..3u32),
    ) -> GenerateRequest {
        let sampling = SamplingParams { seed, presence_penalty, logprobs, ..SamplingParams::default() };
        let thought = thought.map(|(start, end, begun)| Thought { start, end, begun });
        let stop = StopRules { max_tokens, min_tokens, stop_tokens, eos_tokens, thought };
        let images_first = prompt.len() % 2 == 0;
        let mut request =
            GenerateRequest { prompt: Vec::new(), images: Vec::new(), sampling, logit_bias, stop, prompt_logprobs, origin };
        let text = |from: usize, to: usize| prompt[from.min(prompt.len())..to.min(prompt.len())].to_vec();
        let mut at = if images_first { 0 } else { prompt.len() / 2 };
        request.prompt.extend(text(0, at));
        for (image, words) in images {
            show(&mut request, image as u8, IMAGES[image]);
            request.prompt.extend(text(at, at + words));
            at += words;
        }
        request.prompt.extend(text(at, prompt.len()));
        request
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => request().prop_map(Action::Add),
        2 => (0..8u64, request()).prop_map(|(back, request)| Action::Continue(back, request)),
        2 => (0..8u64, request()).prop_map(|(back, request)| Action::Repeat(back, request)),
        1 => (0..8u64).prop_map(Action::Cancel),
        4 => (1..6u32).prop_map(Action::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks and slots are conserved after every step, and every request that is not cancelled has exactly
    /// the events it has alone, which end in its one `Finished`.
    #[test]
    fn everything_ends_and_nothing_is_lost(setup in setup(), delay in 0..3u32, actions in vec(action(), 1..40)) {
        let mut driver = Driver::with_eye(setup, None, |device| device.with_delay(delay));
        let mut added = 0;
        for action in actions {
            let action = match action {
                Action::Continue(back, mut request) => {
                    let last = u64::min(back + 1, added);
                    if last > 0 {
                        let GenerateRequest { prompt, images, .. } = driver.so_far(RequestId(added - last));
                        let more = request.clone();
                        (request.prompt, request.images) = (prompt, images);
                        append(&mut request, &more);
                    }
                    Action::Add(request)
                }
                Action::Repeat(back, mut request) => {
                    let last = u64::min(back + 1, added);
                    if last > 0 {
                        let before = driver.request(RequestId(added - last));
                        (request.prompt, request.images) = (before.prompt, before.images);
                    }
                    Action::Add(request)
                }
                action => action,
            };
            match action {
                Action::Continue(..) | Action::Repeat(..) => unreachable!("it has become an addition"),
                Action::Add(request) => match driver.add(&request) {
                    Ok(id) => added = id.0 + 1,
                    Err(AddError::QueueFull { .. }) => {
                        prop_assert_eq!(driver.engine.stats().waiting.min(setup.config.max_waiting), setup.config.max_waiting);
                    }
                    Err(AddError::PromptTooLong { prompt, limit }) => prop_assert!(prompt > u64::from(limit)),
                    Err(error) => prop_assert!(false, "{error}"),
                },
                Action::Cancel(back) => {
                    if let Some(id) = added.checked_sub(back + 1) {
                        driver.cancel(RequestId(id));
                    }
                }
                Action::Step(steps) => (0..steps).for_each(|_| driver.step()),
            }
        }
        driver.run();
        driver.check_events();
    }
}
