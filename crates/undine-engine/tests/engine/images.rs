//! Images: encoded once, when they are needed and no more than that, and never mistaken for one another.

use undine_core::{CacheRoot, GenerateRequest, ImageKey, ImageSpan, TenantId, Tile};
use undine_engine::{AddError, PrefixCaching};

use crate::driver::{Driver, SLICES, Setup, request};
use crate::eye::{self, show, tile};

/// Room in the cache of encoded tiles for so many tokens.
fn with_cache(tokens: u64) -> Setup {
    Setup::with(|_, config| config.image_cache_bytes = tokens * 8)
}

/// A question of 6 tokens about an image of one colour.
fn about(colour: u8, tiles: &[u32], max_tokens: u32) -> GenerateRequest {
    let mut asked = request(3, 4, max_tokens);
    show(&mut asked, colour, tiles);
    asked.prompt.extend([11, 12]);
    asked
}

fn driver(setup: Setup) -> Driver {
    Driver::with_eye(setup, None, |device| device)
}

/// Answers one request after the other; the tiles that each of them had encoded.
fn encoded(driver: &mut Driver, requests: &[GenerateRequest]) -> Vec<usize> {
    let mut before = 0;
    let each = requests.iter().map(|asked| {
        driver.add(asked).expect("a request that fits");
        driver.run();
        let all = driver.passes().concat().len();
        std::mem::replace(&mut before, all).abs_diff(all)
    });
    let each = each.collect();
    driver.check_events();
    each
}

#[test]
fn an_image_is_encoded_once() {
    let off = |tokens| {
        let mut setup = with_cache(tokens);
        setup.config.prefix_caching = PrefixCaching::Off;
        setup
    };
    let (red, blue) = (about(1, &[3, 1], 2), about(2, &[3, 1], 2));
    let mut later = request(9, 3, 1);
    eye::append(&mut later, &red);
    // Three questions and another image's, with how many tiles each has encoded.
    let cases: [(&str, Setup, [usize; 4]); 4] = [
        ("everything is kept", with_cache(100), [2, 0, 2, 0]),
        ("keys and values are, rows are not", with_cache(0), [2, 0, 2, 2]),
        ("rows are kept, keys and values are not", off(100), [2, 0, 2, 0]),
        ("nothing is kept", off(0), [2, 2, 2, 2]),
    ];
    for (what, setup, expected) in cases {
        let mut driver = driver(setup);
        let found = encoded(&mut driver, &[red.clone(), red.clone(), blue.clone(), later.clone()]);
        assert_eq!(found, expected, "{what}");
        let stats = driver.engine.stats();
        assert_eq!(stats.images_total, 4, "{what}");
        assert_eq!(stats.image_tiles_encoded_total as usize, found.iter().sum::<usize>(), "{what}");
    }
}

#[test]
fn a_prefix_behind_the_image_needs_none_of_it() {
    let mut setup = with_cache(0);
    setup.capacity.replay = 2;
    let first = about(1, &[3], 2);
    let mut second = first.clone();
    second.prompt.extend((20..40).collect::<Vec<_>>());
    let mut third = second.clone();
    third.prompt.extend([50, 51, 52]);
    let mut driver = driver(setup);
    assert_eq!(encoded(&mut driver, &[first, second.clone(), third]), [1, 0, 0]);
    // The same text, another image of the same size.
    let mut other = request(3, 4, 2);
    show(&mut other, 2, &[3]);
    other.prompt.extend_from_slice(&second.prompt[other.prompt.len()..]);
    let id = driver.add(&other).unwrap();
    driver.run();
    driver.check_events();
    // Of the other conversation it has the four tokens and the one before the tile.
    assert!(driver.cached[&id] <= 5, "{} tokens of another image's prompt", driver.cached[&id]);
    assert_eq!(driver.passes().concat().last(), Some(&tile(3, 2)));
}

#[test]
fn the_tile_used_longest_ago_goes_first() {
    let mut setup = with_cache(4);
    setup.config.prefix_caching = PrefixCaching::Off;
    let mut driver = driver(setup);
    let [a, b, c, large] = [(1, 2), (2, 2), (3, 2), (4, 5)].map(|(colour, size)| about(colour, &[size], 1));
    let order = [&a, &b, &a, &c, &a, &b, &large, &large, &b].map(GenerateRequest::clone);
    // c replaces b, then b replaces c; what is larger than all of the cache replaces nothing.
    assert_eq!(encoded(&mut driver, &order), [1, 1, 0, 1, 0, 1, 1, 1, 0]);
    assert_eq!(driver.engine.stats().image_cache_bytes, 4 * 8);
}

#[test]
fn others_go_on_between_the_tiles_of_a_large_image() {
    let mut setup = with_cache(100);
    setup.config.max_num_batched_tokens = 64;
    let mut driver = driver(setup);
    let talker = driver.add(&request(1, 2, 30)).unwrap();
    driver.step();
    let large = driver.add(&about(1, &[4, 4, 4, 1, 1, 1, 1, 5], 3)).unwrap();
    let before = driver.answer(talker).len();
    let mut passes = Vec::new();
    while driver.answer(large).is_empty() {
        let (said, seen) = (driver.answer(talker).len(), driver.passes().len());
        driver.step();
        assert_eq!(driver.answer(talker).len(), said + 1, "the other answer stood still");
        passes.extend(driver.passes()[seen..].iter().map(Vec::len));
        assert!(driver.passes().len() <= seen + 1, "more than one pass in a step");
    }
    // Four tokens are what is encoded together, and a larger tile alone; each in slices, between which the
    // other answer goes on.
    assert_eq!(passes, [1, 1, 1, 4, 1]);
    assert_eq!(driver.answer(talker).len() - before, 5 * SLICES as usize + 1);
    driver.run();
    driver.check_events();
}

#[test]
fn two_who_need_a_tile_in_one_step_share_it() {
    let mut setup = with_cache(0);
    setup.config.prefix_caching = PrefixCaching::Off;
    let mut driver = driver(setup);
    for _ in 0..3 {
        driver.add(&about(1, &[4], 2)).unwrap();
    }
    driver.add(&about(2, &[4], 2)).unwrap();
    driver.run();
    driver.check_events();
    assert_eq!(driver.passes().iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    // All begin with what comes before their image, and go on when it is there.
    let rows = |batch: usize| -> Vec<usize> {
        driver.batches()[batch].sequences.iter().map(|sequence| sequence.rows.len()).collect()
    };
    assert_eq!([rows(0), rows(1)], [vec![5, 5, 5, 5], vec![6, 6, 6]]);
}

/// One tenant shows eight small pictures in requests of their own; another one's picture is the next but one
/// at most.
#[test]
fn pictures_are_encoded_in_turns() {
    let mut driver = driver(with_cache(100));
    for colour in 0..8 {
        driver.add(&about(colour, &[4], 2)).unwrap();
    }
    (0..2).for_each(|_| driver.step());
    let mut other = about(50, &[4], 2);
    other.origin.tenant = TenantId(2);
    let other = driver.add(&other).unwrap();
    while driver.answer(other).is_empty() {
        driver.step();
    }
    assert_eq!(driver.passes().len(), 2, "the one that had begun, and its own");
    driver.run();
    driver.check_events();
}

/// What has been encoded is kept for those of its root only.
#[test]
fn an_image_of_another_root_is_encoded_again() {
    let salted = |salt: &str| {
        let mut asked = about(1, &[3, 1], 2);
        asked.origin.cache_root = CacheRoot { domain: 0, salt: Some(salt.into()) };
        asked
    };
    let mut driver = driver(with_cache(100));
    let asked = [about(1, &[3, 1], 2), salted("a"), salted("a"), about(1, &[3, 1], 2), salted("b")];
    assert_eq!(encoded(&mut driver, &asked), [2, 2, 0, 0, 2]);
}

#[test]
fn whoever_leaves_in_the_middle_of_an_image_leaves_nothing() {
    let mut setup = with_cache(8);
    setup.config.max_num_batched_tokens = 3;
    let mut driver = driver(setup);
    for steps in 1..5 {
        let id = driver.add(&about(steps as u8, &[4, 4, 4], 3)).unwrap();
        (0..steps).for_each(|_| driver.step());
        driver.cancel(id);
        driver.run();
    }
    driver.add(&about(1, &[4, 4, 4], 3)).unwrap();
    driver.run();
    driver.check_events();
}

#[test]
fn a_tower_that_fails_ends_the_engine_and_loses_nothing() {
    let mut driver = Driver::with_eye(with_cache(100), Some(1), |device| device);
    driver.add(&about(1, &[4], 2)).unwrap();
    driver.run();
    driver.add(&about(2, &[4, 4], 2)).unwrap();
    let mut events = Vec::new();
    let mut steps = 0;
    let error = loop {
        if let Err(error) = driver.engine.step(&mut events) {
            break error;
        }
        steps += 1;
        assert!(steps < 10, "it does not fail");
    };
    assert!(error.to_string().contains("it closed"), "{error}");
    driver.engine.check_integrity();
    let stats = driver.engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used, stats.slots_used), (0, 0, 0, 0));
    assert_eq!(driver.engine.add(request(1, 2, 1)), Err(AddError::DeviceFailed(error)));
}

#[test]
fn images_that_do_not_fit_their_prompt_are_refused() {
    let good = about(1, &[2, 1], 1);
    let changed = |change: fn(&mut Vec<ImageSpan>)| {
        let mut asked = good.clone();
        change(&mut asked.images[0].spans);
        asked
    };
    let resized = |rows, cols, pixels: usize| Tile { rows, cols, pixels: vec![0; pixels].into() };
    let cases: [(GenerateRequest, &str); 7] = [
        (changed(Vec::clear), "at least one tile"),
        (changed(|spans| spans.reverse()), "tiles from token"),
        (changed(|spans| spans[1].first = spans[0].first + 1), "tiles from token"),
        (changed(|spans| spans[1].first = u32::MAX), "a prompt of"),
        (changed(|spans| spans[1].first += 3), "a prompt of"),
        (changed(|spans| spans[0].tile.rows = 8), "whole tokens"),
        (changed(|spans| spans[0].tile.pixels = vec![0; 3].into()), "values in a tile"),
    ];
    let mut driver = driver(with_cache(100));
    for (asked, part) in cases {
        let error = driver.add(&asked).unwrap_err();
        assert!(matches!(error, AddError::InvalidImage { image: 0, .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}, expected {part}");
    }
    let mut huge = good.clone();
    huge.images[0].spans[0].tile = resized(u32::MAX - 15, u32::MAX - 15, 0);
    assert!(driver.add(&huge).unwrap_err().to_string().contains("at most 16384 patches"));
    assert_eq!(driver.engine.stats().images_total, 0);
    let mut other = good.clone();
    other.images[0].key = ImageKey([0; 32]);
    assert!(driver.add(&other).is_ok());
    assert_eq!(Driver::new(with_cache(100)).add(&good), Err(AddError::NoVision));
}
