//! What is computed again: exact numbers of rows for every way to meet a prefix a second time.

use undine_core::{Batch, GenerateRequest, RequestId, StateSource, TokenId};
use undine_engine::PrefixCaching;

use crate::driver::{Driver, Setup, request};

/// Rows that rebuild the state of [`setup`].
const REPLAY: u32 = 6;

/// Blocks of 4 tokens, 6 rows to replay.
fn setup(snapshots: u32) -> Setup {
    Setup::with(|capacity, _| (capacity.snapshots, capacity.replay) = (snapshots, REPLAY))
}

fn ask(prompt: &[TokenId], max_tokens: u32) -> GenerateRequest {
    GenerateRequest { prompt: prompt.to_vec(), ..request(1, 1, max_tokens) }
}

/// Tokens that begin no other text.
fn text(name: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|i| if i == 0 { name } else { (name + i * 7) % 97 }).collect()
}

/// Rows that a request takes, alone, and its cached tokens.
fn cost(driver: &mut Driver, request: &GenerateRequest) -> (RequestId, u32, u32) {
    let before = driver.rows();
    let id = driver.add(request).expect("it can run");
    driver.run();
    driver.check_events();
    (id, (driver.rows() - before) as u32, driver.cached[&id])
}

/// Prompts that share a system prompt of 30 tokens, one after the other: the first of them rebuilds the state
/// where they part, and leaves it to the others.
#[test]
fn a_system_prompt() {
    let system = text(1, 30);
    let prompt = |i: u32| [&system[..], &text(10 + i, 5)].concat();
    for (snapshots, replayed) in [(0, [REPLAY; 3]), (8, [REPLAY, 0, 0])] {
        let mut driver = Driver::new(setup(snapshots));
        assert_eq!(cost(&mut driver, &ask(&prompt(0), 3)).1, 35 + 2);
        for (i, replayed) in (1..).zip(replayed) {
            let (_, rows, cached) = cost(&mut driver, &ask(&prompt(i), 3));
            assert_eq!(
                (rows, cached),
                (replayed + 5 + 2, 30 - replayed),
                "{snapshots} snapshots, client {i}"
            );
        }
        let stats = driver.engine.stats();
        assert_eq!(stats.prefix_cache_queries_total, 4 * 35);
        assert_eq!(stats.prefix_cache_hits_total, u64::from(90 - replayed.iter().sum::<u32>()));
        assert_eq!(stats.prompt_tokens_cached_total, stats.prefix_cache_hits_total);
        assert!(stats.blocks_cached > 0 && stats.blocks_used == 0);
    }
}

/// While the first client still runs, a second one shares what it has submitted, to the token.
#[test]
fn a_system_prompt_of_somebody_who_runs() {
    let system = text(1, 30);
    let mut driver = Driver::new(setup(8));
    driver.add(&ask(&[&system[..], &text(10, 5)].concat(), 40)).unwrap();
    (0..3).for_each(|_| driver.step());
    let before = driver.rows() as u32;
    let second = driver.add(&ask(&[&system[..], &text(11, 5)].concat(), 4)).unwrap();
    driver.step();
    assert_eq!((driver.cached[&second], driver.rows() as u32 - before), (30 - REPLAY, 1 + REPLAY + 5));
    driver.run();
    driver.check_events();
}

/// The next turn has the prompt, the answer and its end before the new question; all but the end is computed.
#[test]
fn the_next_turn() {
    for (snapshots, replayed) in [(0, REPLAY), (8, 0)] {
        let mut driver = Driver::new(setup(snapshots));
        let (mut id, ..) = cost(&mut driver, &ask(&text(1, 21), 10));
        for turn in 0..3 {
            let known = driver.conversation(id);
            // The last token of an answer has not been put through the model.
            let computed = known.len() as u32 - 1;
            let prompt = [&known[..], &text(20 + turn, 9)].concat();
            let (next, rows, cached) = cost(&mut driver, &ask(&prompt, 10));
            assert_eq!((rows, cached), (replayed + 1 + 9 + 9, computed - replayed), "turn {turn}");
            id = next;
        }
    }
}

/// The same prompt again: its last token, whose logits are needed.
#[test]
fn regenerate() {
    for (snapshots, replayed) in [(0, REPLAY), (8, 0)] {
        for len in [21, 24, 25] {
            let mut driver = Driver::new(setup(snapshots));
            let prompt = text(1, len);
            cost(&mut driver, &ask(&prompt, 10));
            for seed in 0..3 {
                let mut again = ask(&prompt, 10);
                again.sampling.seed = seed;
                let (_, rows, cached) = cost(&mut driver, &again);
                assert_eq!((rows, cached), (replayed + 1 + 9, len - 1 - replayed), "{len} tokens");
            }
        }
    }
}

/// An answer of one token to a prompt that is known as a whole ends with nothing of its own to publish.
#[test]
fn a_prompt_that_is_known_as_a_whole_and_one_token() {
    for (snapshots, replayed) in [(0, REPLAY), (8, 0)] {
        for len in [2, 3, 4, 21, 24] {
            let mut driver = Driver::new(setup(snapshots));
            let prompt = text(1, len);
            cost(&mut driver, &ask(&prompt, 10));
            for _ in 0..3 {
                let (_, rows, cached) = cost(&mut driver, &ask(&prompt, 1));
                let start = (len - 1).saturating_sub(replayed);
                assert_eq!((rows, cached), (len - start, start), "{snapshots} snapshots, {len} tokens");
            }
        }
    }
}

/// The last message is changed: the rest of the conversation is shared up to the first other token.
#[test]
fn edit_the_last_message() {
    for split in 12..30 {
        let mut driver = Driver::new(setup(8));
        let prompt = text(1, 32);
        cost(&mut driver, &ask(&prompt, 5));
        let edited = [&prompt[..split as usize], &text(50, 6)].concat();
        let (_, rows, cached) = cost(&mut driver, &ask(&edited, 5));
        assert_eq!((rows, cached), (REPLAY + 6 + 4, split - REPLAY), "split at {split}");
        // And changed back: the state before the last token was kept.
        let (_, rows, _) = cost(&mut driver, &ask(&prompt, 5));
        assert_eq!(rows, 1 + 4);
    }
}

/// `n` choices added in one go: the prompt is computed once.
#[test]
fn n_choices() {
    for (snapshots, replayed, chunk) in [(0, REPLAY, 512), (8, 0, 512), (8, 0, 7)] {
        for len in [14, 16, 40] {
            let mut setup = setup(snapshots);
            setup.config.prefill_chunk = chunk;
            let mut driver = Driver::new(setup);
            let prompt = text(1, len);
            for seed in 0..8 {
                let mut choice = ask(&prompt, 5);
                choice.sampling.seed = seed;
                driver.add(&choice).unwrap();
            }
            let mut steps = 0;
            while driver.cached.len() < 8 {
                driver.step();
                steps += 1;
                let deferred = driver.engine.stats().waiting_deferred;
                assert_eq!(deferred, u32::from(driver.cached.len() < 8));
            }
            assert_eq!(steps, len.div_ceil(chunk) + 1, "they wait for the prompt, and no longer");
            driver.run();
            driver.check_events();
            let rows = len + 4 + 7 * (replayed + 1 + 4);
            assert_eq!(driver.rows() as u32, rows, "{snapshots} snapshots, {len} tokens, chunks of {chunk}");
        }
    }
}

/// A copy of what somebody else still holds ends before anything was added to it: it can be found like the
/// rest.
#[test]
fn a_copy_that_is_not_continued() {
    for max_tokens in [0, 1] {
        let mut driver = Driver::new(setup(8));
        let prompt = text(1, 22);
        driver.add(&ask(&prompt, 30)).unwrap();
        (0..3).for_each(|_| driver.step());
        driver.add(&ask(&prompt, max_tokens)).unwrap();
        driver.step();
        driver.run();
        driver.check_events();
        assert_eq!(driver.batches().iter().map(|batch| batch.block_copies.len()).sum::<usize>(), 1);
    }
}

/// Clients with one system prompt, all at once: one computes it, the others their questions.
#[test]
fn many_clients_at_once() {
    let system = text(1, 60);
    let mut driver = Driver::new(setup(8));
    for i in 0..6 {
        driver.add(&ask(&[&system[..], &text(10 + i, 5)].concat(), 2)).unwrap();
    }
    driver.run();
    driver.check_events();
    assert_eq!(driver.rows() as u32, 65 + 1 + 5 * (REPLAY + 5 + 1));
}

/// Who shares too little does not wait.
#[test]
fn nobody_waits_for_little() {
    let mut driver = Driver::new(setup(8));
    let head = text(1, 10);
    for i in 0..4 {
        driver.add(&ask(&[&head[..], &text(10 + i, 20)].concat(), 2)).unwrap();
    }
    driver.step();
    assert_eq!(driver.cached.len(), 4);
    driver.run();
    driver.check_events();
}

/// A preempted sequence finds its own blocks again. It has no row twice but those of the replay.
#[test]
fn across_preemption() {
    for (snapshots, replayed) in [(0, REPLAY), (8, 0)] {
        let mut setup = setup(snapshots);
        // Both need a seventh block for their 25th token, and there is one.
        setup.capacity.blocks = 13;
        let mut driver = Driver::new(setup);
        driver.add(&ask(&text(1, 20), 7)).unwrap();
        driver.add(&ask(&text(2, 20), 17)).unwrap();
        driver.run();
        driver.check_events();
        assert_eq!(driver.engine.stats().preemptions, 1);
        assert_eq!(driver.rows() as u32, 20 + 6 + 20 + 16 + replayed, "{snapshots} snapshots");
        let batches = driver.batches();
        let mut sequences = batches.iter().flat_map(|batch| &batch.sequences).skip_while(|s| s.start < 24);
        let resumed = sequences.find(|s| s.state != StateSource::Slot).expect("it has started again");
        assert_eq!((resumed.start, resumed.cached_rows), (24 - replayed, replayed));
    }
}

/// Cached blocks go before anybody is preempted, the oldest first, and ones in use never.
#[test]
fn the_cache_gives_way() {
    let mut setup = setup(8);
    setup.capacity.blocks = 24;
    let mut driver = Driver::new(setup);
    let prompt = |i: u32| text(1 + i, 20);
    // 22 computed tokens take 6 blocks: four conversations fill the cache.
    for i in 0..4 {
        cost(&mut driver, &ask(&prompt(i), 3));
    }
    assert_eq!(driver.engine.stats().blocks_cached, 24);
    assert_eq!(cost(&mut driver, &ask(&prompt(0), 3)).2, 19, "the first is still there, and now the newest");
    cost(&mut driver, &ask(&prompt(4), 3));
    assert_eq!(cost(&mut driver, &ask(&prompt(0), 3)).2, 19);
    assert!(cost(&mut driver, &ask(&prompt(1), 3)).2 < 19, "the second made room");
    assert_eq!(driver.engine.stats().preemptions, 0);
}

/// Who wants the scores of a prompt needs all of its rows; others may use what it leaves.
#[test]
fn scored_prompts_fill_the_cache_only() {
    let mut driver = Driver::new(setup(8));
    let prompt = text(1, 21);
    let mut scored = ask(&prompt, 2);
    scored.prompt_logprobs = Some(1);
    for _ in 0..2 {
        assert_eq!(cost(&mut driver, &scored).1, 21 + 1);
    }
    assert_eq!(driver.engine.stats().prefix_cache_queries_total, 0);
    assert_eq!(cost(&mut driver, &ask(&prompt, 2)).1, 1 + 1);
}

#[test]
fn off_is_off() {
    let mut setup = setup(8);
    setup.config.prefix_caching = PrefixCaching::Off;
    let mut driver = Driver::new(setup);
    for _ in 0..2 {
        let (_, rows, cached) = cost(&mut driver, &ask(&text(1, 21), 3));
        assert_eq!((rows, cached), (21 + 2, 0));
    }
    let nothing = |batch: &Batch| {
        batch.row_saves.is_empty() && batch.slot_saves.is_empty() && batch.block_copies.is_empty()
    };
    assert!(driver.batches().iter().all(nothing));
    let stats = driver.engine.stats();
    assert_eq!((stats.blocks_cached, stats.prefix_cache_queries_total), (0, 0));
}

/// A replay longer than a step is cut, and none of its rows writes.
#[test]
fn a_replay_is_cut_by_the_budget() {
    let mut setup = setup(0);
    setup.config.max_num_batched_tokens = 4;
    let mut driver = Driver::new(setup);
    let prompt = text(1, 30);
    cost(&mut driver, &ask(&prompt, 2));
    let before = driver.batches().len();
    let (_, rows, _) = cost(&mut driver, &ask(&[&prompt[..20], &text(9, 3)].concat(), 2));
    assert_eq!(rows, REPLAY + 3 + 1);
    let steps: Vec<_> = driver.batches()[before..]
        .iter()
        .map(|b| {
            (
                b.sequences[0].state,
                b.sequences[0].start,
                b.sequences[0].rows.len(),
                b.sequences[0].cached_rows,
            )
        })
        .collect();
    use StateSource::{Empty, Slot};
    assert_eq!(steps, [(Empty, 14, 4, 4), (Slot, 18, 4, 2), (Slot, 22, 1, 0), (Slot, 23, 1, 0)]);
}
