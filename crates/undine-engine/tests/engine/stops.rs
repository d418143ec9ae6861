//! How an answer ends, and which requests never begin.

use crate::driver::{Driver, ROOMY, Setup, request};
use undine_core::{FinishReason, GenerateRequest, TokenId};
use undine_engine::{AddError, Event, LOGPROBS_MAX};

/// Forces `token` at every place where it is not forbidden.
fn forced(mut request: GenerateRequest, token: TokenId) -> GenerateRequest {
    request.logit_bias = vec![(token, 100.0)];
    request
}

#[test]
fn an_answer_ends_as_its_rules_say() {
    use FinishReason::{ContextFull, Eos, MaxTokens, StopToken};
    let eos = |min_tokens| {
        let mut request = forced(request(1, 4, 9), 50);
        request.stop.eos_tokens = vec![49, 50];
        request.stop.min_tokens = min_tokens;
        request
    };
    let stop = |min_tokens| {
        let mut request = eos(min_tokens);
        (request.stop.stop_tokens, request.stop.eos_tokens) = (vec![50], vec![]);
        request
    };
    let both = {
        let mut request = eos(0);
        request.stop.stop_tokens = vec![50];
        request
    };
    let thought = |start, end, begun| {
        let mut request = stop(0);
        request.stop.thought = Some(undine_core::Thought { start, end, begun });
        request
    };
    let cases = [
        ("stop token in a thought", thought(7, 8, true), 9, MaxTokens),
        ("stop token outside of a thought", thought(7, 8, false), 1, StopToken(50)),
        ("the end of a thought as a stop token", thought(7, 50, true), 1, StopToken(50)),
        (
            "eos in a thought",
            GenerateRequest {
                stop: undine_core::StopRules { thought: thought(7, 8, true).stop.thought, ..eos(0).stop },
                ..eos(0)
            },
            1,
            Eos,
        ),
        ("eos", eos(0), 1, Eos),
        ("eos, but not before 5 tokens", eos(5), 6, Eos),
        ("eos, but never", eos(100), 9, MaxTokens),
        ("stop token", stop(0), 1, StopToken(50)),
        ("stop token, but not before 3 tokens", stop(3), 4, StopToken(50)),
        ("eos wins over stop token", both, 1, Eos),
        (
            "eos as the last token",
            GenerateRequest { stop: undine_core::StopRules { max_tokens: 1, ..eos(0).stop }, ..eos(0) },
            1,
            Eos,
        ),
        ("most tokens", request(1, 4, 7), 7, MaxTokens),
        ("one token", request(1, 4, 1), 1, MaxTokens),
        ("no token", request(1, 4, 0), 0, MaxTokens),
        ("no token, full context", request(1, 96, 0), 0, MaxTokens),
        ("context", request(1, 90, 100), 6, ContextFull),
        ("context, at once", request(1, 95, 100), 1, ContextFull),
        ("exactly the context", request(1, 90, 6), 6, MaxTokens),
    ];
    for steps_in_flight in [1, 2] {
        for (name, request, tokens, reason) in &cases {
            let mut driver =
                Driver::new(Setup::with(|capacity, _| capacity.steps_in_flight = steps_in_flight));
            let id = driver.add(request).unwrap();
            driver.run();
            driver.check_events();
            assert_eq!(driver.answer(id).len(), *tokens, "{name}");
            assert_eq!(driver.events[&id].last(), Some(&Event::Finished(*reason)), "{name}");
        }
    }
}

#[test]
fn all_of_the_cache_is_a_full_context() {
    for steps_in_flight in [1, 2] {
        let mut driver = Driver::new(Setup::with(|capacity, _| {
            (capacity.blocks, capacity.block_size, capacity.steps_in_flight) = (5, 4, steps_in_flight);
        }));
        let ids = [1, 2, 3].map(|seed| driver.add(&request(seed, 5, 100)).unwrap());
        driver.run();
        driver.check_events();
        for id in ids {
            assert_eq!(driver.answer(id).len(), 15);
            assert_eq!(driver.events[&id].last(), Some(&Event::Finished(FinishReason::ContextFull)));
        }
    }
}

#[test]
fn no_token_and_no_scores_is_only_an_end() {
    let mut driver = Driver::new(ROOMY);
    let plain = driver.add(&request(1, 4, 0)).unwrap();
    let mut scored = request(1, 1, 0);
    scored.prompt_logprobs = Some(3);
    let scored = driver.add(&scored).unwrap();
    driver.run();
    let end = Event::Finished(FinishReason::MaxTokens);
    assert_eq!(driver.events[&scored], [Event::PromptScores(vec![]), end.clone()]);
    assert_eq!(driver.events[&plain], [end]);
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let vocab = ROOMY.capacity.vocab;
    let base = request(1, 3, 5);
    let with = |change: fn(&mut GenerateRequest)| {
        let mut request = base.clone();
        change(&mut request);
        request
    };
    let cases = [
        (with(|r| r.prompt.clear()), "the prompt is empty, expected at least one token"),
        (
            with(|r| r.prompt = vec![0; 96]),
            "the prompt has 96 tokens, at most 95 fit beside an answer; shorten the prompt",
        ),
        (
            with(|r| r.prompt[1] = 97),
            "token 97 in the prompt is not in the vocabulary, expected ids below 97",
        ),
        (
            with(|r| r.prompt[1] = u32::MAX),
            "token 4294967295 in the prompt is not in the vocabulary, expected ids below 97",
        ),
        (
            with(|r| r.stop.stop_tokens = vec![1, 98]),
            "stop token 98 is not in the vocabulary, expected ids below 97",
        ),
        (
            with(|r| r.stop.eos_tokens = vec![99]),
            "stop token 99 is not in the vocabulary, expected ids below 97",
        ),
        (
            with(|r| r.logit_bias = vec![(97, 1.0)]),
            "logit_bias names token 97, which is not in the vocabulary, expected ids below 97",
        ),
        (
            with(|r| r.logit_bias = vec![(3, f32::NAN)]),
            "logit_bias of token 3 is NaN, expected a finite number, or negative infinity to forbid the token",
        ),
        (
            with(|r| r.logit_bias = vec![(3, f32::INFINITY)]),
            "logit_bias of token 3 is inf, expected a finite number, or negative infinity to forbid the token",
        ),
        (
            with(|r| r.prompt_logprobs = Some(LOGPROBS_MAX + 1)),
            "129 log-probabilities per token are asked for, at most 128 are returned",
        ),
        (
            with(|r| r.sampling.logprobs = Some(u32::MAX)),
            "4294967295 log-probabilities per token are asked for, at most 128 are returned",
        ),
    ];
    let mut driver = Driver::new(ROOMY);
    for (request, message) in &cases {
        assert_eq!(driver.add(request).unwrap_err().to_string(), *message);
    }
    assert!(!driver.engine.has_work());
    assert_eq!(driver.engine.capacity().vocab, vocab);
    // Less cache than context: the cache is the limit.
    let mut driver = Driver::new(Setup::with(|capacity, _| capacity.blocks = 2));
    assert_eq!(driver.add(&request(1, 8, 1)), Err(AddError::PromptTooLong { prompt: 8, limit: 7 }));
    driver.add(&request(1, 7, 1)).unwrap();
    driver.add(&request(1, 8, 0)).unwrap();
    driver.run();
    driver.check_events();
}
