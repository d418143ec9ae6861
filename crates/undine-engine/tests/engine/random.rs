//! Random requests, limits, arrivals, cancellations and device timings.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use undine_core::{Capacity, GenerateRequest, RequestId, SamplingParams, StopRules, TokenId};
use undine_engine::{AddError, EngineConfig, PrefixCaching};

use crate::driver::{Driver, Setup};

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
    let cache = (0..5u32, 0..9u32, prop_oneof![7 => Just(PrefixCaching::On), 1 => Just(PrefixCaching::Off)]);
    (capacity, config, cache).prop_map(|(capacity, config, (snapshots, replay, prefix_caching))| {
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
                steps_in_flight,
            },
            config: EngineConfig {
                max_num_seqs: config.0,
                max_num_batched_tokens: config.1,
                max_model_len: config.2,
                max_waiting: config.3,
                prefill_chunk: config.4,
                prefix_caching,
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

prop_compose! {
    fn request()(
        prompt in prompt(),
        seed in 0..1000u64,
        presence_penalty in prop_oneof![3 => Just(0.0f32), 1 => Just(0.5)],
        logprobs in option::of(0..3u32),
        logit_bias in vec((0..VOCAB, prop_oneof![Just(f32::NEG_INFINITY), Just(1.0)]), 0..3),
        max_tokens in 0..20u32,
        min_tokens in 0..8u32,
        stop_tokens in vec(0..VOCAB, 0..2),
        eos_tokens in vec(0..VOCAB, 0..2),
        prompt_logprobs in option::weighted(0.3, 0..3u32),
    ) -> GenerateRequest {
        let sampling = SamplingParams { seed, presence_penalty, logprobs, ..SamplingParams::default() };
        let stop = StopRules { max_tokens, min_tokens, stop_tokens, eos_tokens };
        GenerateRequest { prompt, images: Vec::new(), sampling, logit_bias, stop, prompt_logprobs }
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
        let mut driver = Driver::on(setup, |device| device.with_delay(delay));
        let mut added = 0;
        for action in actions {
            let action = match action {
                Action::Continue(back, mut request) => {
                    let last = u64::min(back + 1, added);
                    if let Some(mut prompt) = (last > 0).then(|| driver.conversation(RequestId(added - last))) {
                        prompt.append(&mut request.prompt);
                        request.prompt = prompt;
                    }
                    Action::Add(request)
                }
                Action::Repeat(back, mut request) => {
                    let last = u64::min(back + 1, added);
                    if last > 0 {
                        request.prompt = driver.prompt(RequestId(added - last));
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
