//! A request's answer does not depend on its company, on chunks, on the cache or on the device's timing.

use crate::device::Device;
use crate::driver::{Driver, Setup, mixed_requests, request};
use undine_core::batch::TOKEN_FROM_SLOT;
use undine_core::{OutputKind, SamplingParams};

/// Every limit that may change a schedule, each with one and with two or three steps in flight.
fn setups() -> Vec<(&'static str, Setup)> {
    let mut setups = Vec::new();
    for steps in 1..=3 {
        let mut add = |name, change: fn(&mut undine_core::Capacity, &mut undine_engine::EngineConfig)| {
            setups.push((
                name,
                Setup::with(|capacity, config| {
                    capacity.steps_in_flight = steps;
                    change(capacity, config);
                }),
            ));
        };
        add("roomy", |_, _| {});
        add("one row per chunk", |_, config| config.prefill_chunk = 1);
        add("chunks of 7", |_, config| config.prefill_chunk = 7);
        add("chunks of 64", |_, config| config.prefill_chunk = 64);
        add("8 rows a step", |capacity, _| capacity.rows = 8);
        add("1 row a step", |_, config| config.max_num_batched_tokens = 1);
        add("3 outputs a step", |capacity, _| capacity.outputs = 3);
        add("1 output a step", |capacity, _| capacity.outputs = 1);
        add("2 slots", |capacity, _| capacity.slots = 2);
        add("1 sequence", |_, config| config.max_num_seqs = 1);
        add("blocks of 1", |capacity, _| capacity.block_size = 1);
        add("blocks of 64", |capacity, _| capacity.block_size = 64);
        add("few blocks", |capacity, _| capacity.blocks = 38);
        add("fewer blocks", |capacity, config| {
            capacity.blocks = 24;
            config.prefill_chunk = 5;
        });
        add("fewest blocks", |capacity, _| (capacity.blocks, capacity.block_size) = (65, 1));
    }
    setups
}

#[test]
fn alone_or_together_whatever_the_limits() {
    for (name, setup) in setups() {
        for requests in mixed_requests().iter().map(std::slice::from_ref).chain([&mixed_requests()[..]]) {
            println!("{name}, {} requests, {setup:?}", requests.len());
            let mut driver = Driver::new(setup);
            for request in requests {
                driver.add(request).unwrap();
            }
            driver.run();
            driver.check_events();
            let stats = driver.engine.stats();
            let prompts: usize = requests.iter().map(|request| request.prompt.len()).sum();
            assert_eq!(stats.prompt_tokens_total, prompts as u64);
            let answers: usize = driver.events.keys().map(|&id| driver.answer(id).len()).sum();
            assert_eq!(stats.generation_tokens_total, answers as u64);
            let pressed = name.starts_with("few") && requests.len() > 1;
            assert_eq!(stats.preemptions > 0, pressed, "{stats:?}");
        }
    }
}

#[test]
fn a_busy_device_costs_calls_and_changes_nothing() {
    for (_, setup) in setups() {
        let mut driver = Driver::on(setup, |device: Device| device.with_delay(2));
        for request in &mixed_requests() {
            driver.add(request).unwrap();
        }
        driver.run();
        driver.check_events();
    }
}

/// With two steps in flight, a token is used before the host knows it, except where a penalty needs it.
#[test]
fn runs_ahead_unless_a_penalty_needs_the_token() {
    let plain = SamplingParams::default();
    let penalized = SamplingParams { presence_penalty: 0.5, ..plain };
    for (steps, sampling, ahead) in [(1, plain, 0), (2, plain, 9), (2, penalized, 0)] {
        let mut driver = Driver::new(Setup::with(|capacity, _| capacity.steps_in_flight = steps));
        let mut request = request(1, 6, 10);
        request.sampling = sampling;
        request.stop.min_tokens = 5;
        driver.add(&request).unwrap();
        driver.run();
        driver.check_events();
        let tokens: Vec<_> = driver.batches().into_iter().flat_map(|batch| batch.tokens).collect();
        assert_eq!(tokens.len(), 6 + 9, "no row beyond the last token");
        assert_eq!(tokens.iter().filter(|&&token| token == TOKEN_FROM_SLOT).count(), ahead);
    }
}

/// A scored prompt token takes one row of the head, and each is scored once.
#[test]
fn prompt_scores_are_limited_by_the_head() {
    for outputs in [1, 2, 5, 64] {
        let mut driver = Driver::new(Setup::with(|capacity, _| capacity.outputs = outputs));
        let mut request = request(1, 21, 2);
        request.prompt_logprobs = Some(1);
        driver.add(&request).unwrap();
        driver.run();
        driver.check_events();
        let batches = driver.batches();
        let is_score = |kind: &OutputKind| matches!(kind, OutputKind::Score { .. });
        let scores = batches.iter().flat_map(|batch| &batch.outputs).filter(|output| is_score(&output.kind));
        assert_eq!(scores.count(), 20);
        assert_eq!(batches.len() as u32, 21u32.div_ceil(outputs) + 1, "{outputs} outputs a step");
    }
}

/// Preempted in the middle of its prompt, a sequence keeps the scores it has.
#[test]
fn a_preempted_scored_prompt_is_scored_once() {
    let setup = Setup::with(|capacity, config| {
        (capacity.blocks, capacity.outputs, config.prefill_chunk) = (12, 3, 3);
    });
    let mut driver = Driver::new(setup);
    driver.add(&request(1, 4, 36)).unwrap();
    let mut scored = request(2, 30, 4);
    scored.prompt_logprobs = Some(1);
    driver.step();
    driver.add(&scored).unwrap();
    driver.run();
    driver.check_events();
    assert!(driver.engine.stats().preemptions > 0);
    let batches = driver.batches();
    let scores = batches.iter().flat_map(|batch| &batch.outputs);
    assert_eq!(scores.filter(|output| matches!(output.kind, OutputKind::Score { .. })).count(), 29);
}
