//! Answers that are restricted: the constraint sees every token once, and is asked for every token once.

use std::sync::{Arc, Mutex};

use undine_core::{Constraint, ConstraintError, FinishReason, TokenId, TokenMask};
use undine_engine::Event;

use crate::driver::{Driver, ROOMY, Setup, request};

/// What a [`Script`] has seen.
#[derive(Default)]
struct Seen {
    asked: usize,
    accepted: Vec<TokenId>,
}

/// Allows one token at each place.
struct Script {
    tokens: Vec<TokenId>,
    /// The place whose token it does not accept.
    fails_at: Option<usize>,
    seen: Arc<Mutex<Seen>>,
}

impl Constraint for Script {
    fn allowed(&mut self) -> Option<TokenMask> {
        let mut seen = self.seen.lock().expect("no test panics with it");
        assert_eq!(seen.asked, seen.accepted.len(), "asked before the last token was accepted, or twice");
        seen.asked += 1;
        let token = self.tokens[seen.accepted.len()];
        let mut words = vec![0; ROOMY.capacity.vocab.div_ceil(32) as usize];
        words[token as usize / 32] = 1 << (token % 32);
        // Worked out elsewhere while the step runs.
        let (mask, promise) = TokenMask::pending();
        std::thread::spawn(move || promise.fulfil(words));
        Some(mask)
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        let mut seen = self.seen.lock().expect("no test panics with it");
        seen.accepted.push(token);
        match self.fails_at {
            Some(place) if place + 1 == seen.accepted.len() => Err(ConstraintError("no".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Tokens that a plain answer would hardly have.
fn script(len: u32) -> Vec<TokenId> {
    (0..len).map(|i| (i * 13 + 5) % 97).collect()
}

fn few_blocks(steps_in_flight: u32) -> Setup {
    Setup::with(|capacity, _| (capacity.blocks, capacity.steps_in_flight) = (13, steps_in_flight))
}

#[test]
fn every_token_once_also_across_preemption() {
    for steps in [1, 2, 3] {
        for (setup, preempts) in
            [(Setup::with(|c, _| c.steps_in_flight = steps), false), (few_blocks(steps), true)]
        {
            let mut driver = Driver::new(setup);
            driver.add(&request(1, 20, 17)).unwrap();
            let seen = Arc::new(Mutex::new(Seen::default()));
            let constraint = Script { tokens: script(17), fails_at: None, seen: Arc::clone(&seen) };
            let id = driver.add_constrained(&request(2, 20, 17), constraint);
            driver.run();
            driver.check_events();
            assert_eq!(driver.answer(id), script(17));
            assert_eq!(driver.events[&id].last(), Some(&Event::Finished(FinishReason::MaxTokens)));
            let seen = seen.lock().unwrap();
            assert_eq!((seen.asked, &seen.accepted), (17, &script(17)));
            assert_eq!(driver.engine.stats().preemptions > 0, preempts);
        }
    }
}

/// What is not accepted ends the answer, whatever else the token is.
#[test]
fn a_token_that_is_refused_is_the_end() {
    for (fails_at, eos) in [(0, None), (3, None), (3, Some(3))] {
        let mut driver = Driver::new(Setup::with(|capacity, _| capacity.steps_in_flight = 2));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let constraint = Script { tokens: script(9), fails_at: Some(fails_at), seen: Arc::clone(&seen) };
        let mut request = request(2, 5, 9);
        request.stop.eos_tokens = eos.map(|place| script(9)[place]).into_iter().collect();
        let id = driver.add_constrained(&request, constraint);
        driver.run();
        assert_eq!(driver.answer(id), script(9)[..=fails_at]);
        assert_eq!(driver.events[&id].last(), Some(&Event::Finished(FinishReason::ConstraintFailed)));
        assert_eq!(seen.lock().unwrap().asked, fails_at + 1, "nothing is asked after the end");
    }
}
