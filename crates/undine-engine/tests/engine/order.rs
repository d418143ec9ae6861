//! First come, first served, and nobody starves.

use crate::driver::{Driver, ROOMY, Setup, request};
use undine_core::RequestId;
use undine_engine::{AddError, Engine, EngineError};

#[test]
fn the_queue_is_bounded() {
    let mut driver = Driver::new(Setup::with(|_, config| (config.max_waiting, config.max_num_seqs) = (3, 2)));
    for seed in 0..3 {
        driver.add(&request(seed, 4, 5)).unwrap();
    }
    let full = AddError::QueueFull { waiting: 3, limit: 3 };
    assert_eq!(driver.add(&request(3, 4, 5)), Err(full.clone()));
    assert_eq!(full.to_string(), "3 requests are waiting and the limit is 3; try again later");
    driver.step();
    assert_eq!((driver.engine.stats().running, driver.engine.stats().waiting), (2, 1));
    driver.add(&request(3, 4, 5)).unwrap();
    driver.add(&request(4, 4, 5)).unwrap();
    assert_eq!(driver.add(&request(5, 4, 5)), Err(full));
    driver.run();
    driver.check_events();
}

/// While prompts far longer than a step are computed, a sequence that answers gets a token every step.
#[test]
fn long_prompts_do_not_stop_answers() {
    let mut driver = Driver::new(Setup::with(|capacity, _| capacity.rows = 8));
    let first = driver.add(&request(1, 4, 60)).unwrap();
    driver.step();
    for seed in 2..6 {
        driver.add(&request(seed, 90, 4)).unwrap();
    }
    for tokens in 2..=45 {
        driver.step();
        assert_eq!(driver.answer(first).len(), tokens);
        assert_eq!(driver.engine.stats().last_step_rows, 8, "the rest of the step goes to the prompts");
    }
    driver.run();
    driver.check_events();
}

/// However many streams there are, long prompts, cached prefixes and requests that wait for one: every stream
/// gets a token in every step, and no step has more rows than the budget.
#[test]
fn nothing_stops_many_streams() {
    let mut driver = Driver::new(Setup::with(|capacity, config| {
        (capacity.rows, capacity.snapshots) = (12, 2);
        config.max_num_seqs = 10;
    }));
    let streams: Vec<_> = (0..5).map(|seed| driver.add(&request(seed, 3, 60)).unwrap()).collect();
    driver.step();
    driver.step();
    let begun: Vec<_> = streams.iter().map(|&id| driver.answer(id).len()).collect();
    // Three prompts, each wanted twice.
    for seed in [20, 21, 22, 20, 21, 22] {
        driver.add(&request(seed, 80, 3)).unwrap();
    }
    for step in 1..=40 {
        driver.step();
        assert!(driver.engine.stats().last_step_rows <= 12);
        for (&id, begun) in streams.iter().zip(&begun) {
            assert_eq!(driver.answer(id).len(), begun + step);
        }
    }
    driver.run();
    driver.check_events();
    assert!(driver.engine.stats().prefix_cache_hits_total >= 3 * (80 - 7));
}

/// One token of an answer comes before many of a prompt, even of a prompt that arrived earlier.
#[test]
fn answers_come_before_prompts() {
    let setup = Setup::with(|capacity, config| {
        (capacity.rows, capacity.steps_in_flight, config.prefill_chunk) = (8, 2, 7);
    });
    let mut driver = Driver::new(setup);
    // The penalty makes the first sequence pause every other step; the rest is then too small for everybody.
    let mut pausing = request(1, 1, 30);
    pausing.sampling.presence_penalty = 0.5;
    driver.add(&pausing).unwrap();
    driver.add(&request(2, 90, 4)).unwrap();
    let late = driver.add(&request(3, 1, 30)).unwrap();
    driver.step();
    driver.step();
    for tokens in 1..=10 {
        driver.step();
        assert_eq!(driver.answer(late).len(), tokens);
    }
    driver.run();
    driver.check_events();
}

/// However short the rows, outputs or slots: a sequence only starts if it gets a token in every later step.
#[test]
fn whoever_runs_is_served_every_step() {
    let scarce = [
        (1, Setup::with(|capacity, _| capacity.rows = 3)),
        (1, Setup::with(|capacity, _| capacity.outputs = 3)),
        // Chunks that do not end the prompt need no output yet.
        (9, Setup::with(|capacity, config| (capacity.outputs, config.prefill_chunk) = (3, 4))),
        (9, Setup::with(|capacity, _| capacity.slots = 3)),
        (9, Setup::with(|_, config| config.max_num_seqs = 3)),
        (1, Setup::with(|_, config| config.max_num_batched_tokens = 3)),
    ];
    for (prompt, setup) in scarce {
        let mut driver = Driver::new(setup);
        for seed in 0..6 {
            driver.add(&request(seed, prompt, 20)).unwrap();
        }
        for _ in 0..19 {
            driver.step();
            let stats = driver.engine.stats();
            assert_eq!((stats.running, stats.last_step_sequences), (3, 3), "{setup:?}");
        }
        driver.run();
        driver.check_events();
    }
}

/// A newcomer waits if those who run would soon need the blocks back.
#[test]
fn a_newcomer_leaves_room_to_grow() {
    let mut driver = Driver::new(Setup::with(|capacity, _| capacity.blocks = 5));
    driver.add(&request(1, 8, 12)).unwrap();
    driver.add(&request(2, 4, 12)).unwrap();
    driver.run();
    driver.check_events();
    assert_eq!(driver.engine.stats().preemptions, 0);
}

/// Equal requests finish in the order of arrival, whatever is scarce.
#[test]
fn equal_requests_finish_in_order() {
    let scarce = [
        Setup::with(|_, config| config.max_num_seqs = 3),
        Setup::with(|capacity, _| capacity.rows = 5),
        Setup::with(|capacity, _| capacity.blocks = 12),
        Setup::with(|capacity, _| (capacity.blocks, capacity.steps_in_flight) = (12, 2)),
    ];
    for setup in scarce {
        let mut driver = Driver::new(setup);
        let ids: Vec<_> = (0..10).map(|seed| driver.add(&request(seed, 12, 12)).unwrap()).collect();
        let mut finished: Vec<RequestId> = Vec::new();
        while driver.engine.has_work() {
            driver.step();
            let now: Vec<_> =
                ids.iter().filter(|&&id| driver.finished(id) && !finished.contains(&id)).collect();
            finished.extend(now);
        }
        driver.check_events();
        assert_eq!(finished, ids, "{setup:?}");
    }
}

/// A prompt that does not fit yet is not overtaken by a small one that would.
#[test]
fn the_queue_is_not_overtaken() {
    let mut driver = Driver::new(Setup::with(|capacity, _| capacity.blocks = 20));
    driver.add(&request(1, 40, 20)).unwrap();
    let long = driver.add(&request(2, 60, 4)).unwrap();
    let short = driver.add(&request(3, 2, 2)).unwrap();
    while driver.answer(short).is_empty() {
        driver.step();
    }
    assert!(!driver.answer(long).is_empty());
    driver.run();
    driver.check_events();
}

#[test]
fn limits_of_zero_are_refused() {
    let setup = Setup::with(|_, config| config.prefill_chunk = 0);
    let device = crate::device::Device::new(ROOMY.capacity, Default::default());
    let error = Engine::new(Box::new(device), setup.config).err();
    assert_eq!(error, Some(EngineError::ZeroLimit { name: "prefill_chunk" }));
}
