//! Tenants get equal parts of what all want, and no tenant can keep another one waiting.

use undine_core::{CacheRoot, GenerateRequest, RequestId, TenantId};
use undine_engine::{AddError, Event};

use crate::driver::{Driver, Setup, request};

/// More steps than anybody may wait.
const STEPS_MAX: u32 = 2000;

/// A request of a tenant.
fn of(tenant: u64, mut request: GenerateRequest) -> GenerateRequest {
    request.origin.tenant = TenantId(tenant);
    request
}

/// The same under a root of its own.
fn salted(salt: &str, mut request: GenerateRequest) -> GenerateRequest {
    request.origin.cache_root = CacheRoot { domain: 0, salt: Some(salt.into()) };
    request
}

/// Steps until a request has begun.
fn steps_to_begin(driver: &mut Driver, id: RequestId) -> u32 {
    (1..STEPS_MAX)
        .find(|_| {
            driver.step();
            driver.cached.contains_key(&id)
        })
        .expect("it begins")
}

fn has_answered(driver: &Driver, id: RequestId) -> bool {
    driver.events[&id].iter().any(|event| matches!(event, Event::Token(_)))
}

/// One tenant computes a long prompt and has 500 more requests in the queue. Another one's short request is
/// answered in the next step.
#[test]
fn a_short_request_does_not_wait_for_another_tenants_queue() {
    for steps_in_flight in [1, 2] {
        let mut driver = Driver::new(Setup::with(|capacity, config| {
            (capacity.rows, capacity.steps_in_flight) = (8, steps_in_flight);
            config.max_waiting = 512;
        }));
        driver.add(&of(1, request(1, 90, 2))).unwrap();
        for seed in 0..500 {
            driver.add(&of(1, request(2 + seed, 6, 2))).unwrap();
        }
        driver.step();
        let short = driver.add(&of(2, request(600, 4, 2))).unwrap();
        assert_eq!(steps_to_begin(&mut driver, short), 1, "{steps_in_flight} steps in flight");
        (0..steps_in_flight).for_each(|_| driver.step());
        assert!(has_answered(&driver, short));
        driver.run();
        driver.check_events();
    }
}

/// The same when every seat is taken by answers that go on for long: the seat comes from the tenant that has
/// most.
#[test]
fn a_seat_is_found_for_whoever_has_none() {
    for (steps_in_flight, within) in [(1, 2), (2, 4)] {
        let mut driver = Driver::new(Setup::with(|capacity, config| {
            (capacity.steps_in_flight, config.max_num_seqs) = (steps_in_flight, 4);
        }));
        for seed in 0..20 {
            driver.add(&of(1, request(seed, 6, 80))).unwrap();
        }
        (0..5).for_each(|_| driver.step());
        assert_eq!(driver.engine.stats().running, 4, "alone it has all seats");
        for tenant in 2..5 {
            let one = driver.add(&of(tenant, request(100 + tenant, 6, 80))).unwrap();
            let steps = steps_to_begin(&mut driver, one);
            assert!(steps <= within, "tenant {tenant} has waited for {steps} steps");
        }
        // Each has one seat now: a fifth tenant waits until somebody ends.
        let fifth = driver.add(&of(5, request(200, 6, 2))).unwrap();
        let preemptions = driver.engine.stats().preemptions;
        assert_eq!(preemptions, 3);
        assert!(steps_to_begin(&mut driver, fifth) > 10);
        driver.run();
        driver.check_events();
    }
}

/// Whoever is alone is asked to give nothing up, and a single seat is given up for nobody.
#[test]
fn seats_are_given_up_for_those_without_only() {
    for (seats, tenants) in [(4, 1), (1, 3)] {
        let mut driver = Driver::new(Setup::with(|_, config| config.max_num_seqs = seats));
        for seed in 0..12 {
            driver.add(&of(seed % tenants, request(seed, 6, 10))).unwrap();
        }
        driver.run();
        driver.check_events();
        assert_eq!(driver.engine.stats().preemptions, 0, "{seats} seats, {tenants} tenants");
    }
}

/// Tenants that all have more to compute than a step get equal parts of it, whatever the length of their
/// prompts and however many requests they send.
#[test]
fn prompts_are_computed_in_turns() {
    // Tokens of each prompt and how many there are, of each tenant.
    let loads: [&[(u32, u64)]; 4] = [
        &[(90, 8), (90, 8)],
        &[(90, 8), (5, 60)],
        &[(90, 4), (30, 12), (7, 40)],
        &[(60, 30), (90, 2), (90, 2)],
    ];
    for load in loads {
        let rows = 12;
        let mut driver = Driver::new(Setup::with(|capacity, config| {
            (capacity.rows, capacity.blocks) = (rows, 2048);
            (config.max_waiting, config.max_num_seqs) = (512, 12);
        }));
        let mut ids = vec![Vec::new(); load.len()];
        let mut seed = 0;
        for (tenant, &(prompt, count)) in load.iter().enumerate() {
            for _ in 0..count {
                seed += 1;
                let mut request = of(tenant as u64, request(seed, prompt, 1));
                // Nothing of it is known.
                request.prompt[0] = seed as u32 % 97;
                request.origin.cache_root.domain = seed;
                ids[tenant].push(driver.add(&request).unwrap());
            }
        }
        let total = |driver: &Driver, tenant: usize| -> u32 {
            let begun = ids[tenant].iter().filter(|id| driver.cached.contains_key(id)).count() as u32;
            begun * load[tenant].0
        };
        let all_wait =
            |driver: &Driver| ids.iter().all(|ids| !driver.cached.contains_key(&ids[ids.len() - 1]));
        while all_wait(&driver) {
            driver.step();
            let totals: Vec<u32> = (0..load.len()).map(|tenant| total(&driver, tenant)).collect();
            let prompts = load.iter().map(|&(prompt, _)| prompt).max().unwrap();
            let difference = totals.iter().max().unwrap() - totals.iter().min().unwrap();
            assert!(difference <= prompts + 2 * rows, "{load:?}: {totals:?}");
        }
        driver.run();
        driver.check_events();
    }
}

/// However many new tenants come, one after the other and each with a request that fills a step: the turn of
/// those who were there before comes.
#[test]
fn newcomers_do_not_keep_others_waiting() {
    let mut driver = Driver::new(Setup::with(|capacity, config| {
        (capacity.rows, config.max_num_seqs) = (8, 4);
    }));
    let old: Vec<_> = (0..2).map(|seed| driver.add(&of(seed, request(seed, 80, 3))).unwrap()).collect();
    let mut newcomer = 10;
    let mut steps = 0;
    while old.iter().any(|&id| !driver.finished(id)) {
        while driver.engine.stats().waiting < 4 {
            driver.add(&of(newcomer, request(newcomer, 8, 1))).unwrap();
            newcomer += 1;
        }
        driver.step();
        steps += 1;
        assert!(steps < 400, "{:?}", old.iter().map(|&id| driver.finished(id)).collect::<Vec<_>>());
    }
    driver.run();
    driver.check_events();
}

/// Two tenants come back with one request as soon as the last was answered, and there is one seat. A third,
/// which has several in the queue, is not behind them each time: its turn comes after one of each, although
/// all have waited until they had most credit.
#[test]
fn who_comes_back_is_no_newcomer() {
    let mut driver = Driver::new(Setup::with(|capacity, config| {
        (capacity.rows, config.max_num_seqs) = (8, 1);
    }));
    let own: Vec<_> = (0..6).map(|seed| driver.add(&of(1, request(seed, 6, 20))).unwrap()).collect();
    let mut others = Vec::new();
    while own.iter().any(|&id| !driver.finished(id)) {
        for tenant in [2, 3] {
            let is_away =
                others.iter().rfind(|(one, _)| *one == tenant).is_none_or(|&(_, id)| driver.finished(id));
            if is_away {
                let id = driver.add(&of(tenant, request(100 + others.len() as u64, 6, 20))).unwrap();
                others.push((tenant, id));
            }
        }
        driver.step();
        let had = own.iter().filter(|&&id| driver.finished(id)).count();
        let have = others.iter().filter(|&&(_, id)| driver.finished(id)).count();
        assert!(have <= 2 * (had + 1), "after {have} answers of the others {had} of its own");
    }
    driver.run();
    driver.check_events();
}

/// When blocks are short, the tenant that holds most gives some up, although another one came later.
#[test]
fn blocks_come_from_whoever_holds_most() {
    let mut driver = Driver::new(Setup::with(|capacity, _| capacity.blocks = 24));
    let many: Vec<_> = (0..3).map(|seed| driver.add(&of(1, request(seed, 16, 30))).unwrap()).collect();
    driver.step();
    let one = driver.add(&of(2, request(9, 4, 30))).unwrap();
    let steps = (1..STEPS_MAX).find(|_| {
        driver.step();
        driver.finished(one)
    });
    // It waits for a block that is on its way back, a step each time, and never gives up its own.
    assert!(driver.engine.stats().preemptions > 0);
    assert!(steps.unwrap() <= 30 + 8, "{steps:?} steps for 30 tokens");
    driver.run();
    driver.check_events();
    assert!(many.iter().all(|&id| driver.finished(id)));
}

/// The queue is full for the one that fills it.
#[test]
fn nobody_fills_the_queue_for_all() {
    let mut driver = Driver::new(Setup::with(|_, config| (config.max_waiting, config.max_num_seqs) = (8, 1)));
    let mut seed = 0;
    let mut add = |driver: &mut Driver, tenant| {
        seed += 1;
        driver.add(&of(tenant, request(seed, 4, 2)))
    };
    let fill = |driver: &mut Driver,
                tenant,
                add: &mut dyn FnMut(&mut Driver, u64) -> Result<RequestId, AddError>| {
        (0..).find(|_| add(driver, tenant).is_err()).unwrap()
    };
    // Alone all of it; then half, a third, a quarter; and no more than twice as many in all.
    assert_eq!([1, 2, 3, 4, 5].map(|tenant| fill(&mut driver, tenant, &mut add)), [8, 4, 2, 2, 0]);
    assert_eq!(add(&mut driver, 1), Err(AddError::QueueFull { waiting: 16, limit: 8 }));
    driver.run();
    driver.check_events();
}

/// Lower values first, equal ones in order of arrival; among the requests of one tenant only.
#[test]
fn priorities_order_a_tenants_own_requests() {
    let mut driver = Driver::new(Setup::with(|capacity, config| {
        (capacity.rows, config.max_num_seqs) = (8, 1);
    }));
    let mut ids = Vec::new();
    for (seed, priority) in [(1, 5), (2, 0), (3, -1), (4, 0), (5, 5), (6, -1)] {
        let mut request = request(seed, 4, 2);
        request.origin.priority = priority;
        ids.push(driver.add(&request).unwrap());
    }
    let mut begun = Vec::new();
    while driver.engine.has_work() {
        driver.step();
        begun.extend(
            ids.iter()
                .filter(|id| driver.cached.contains_key(id))
                .copied()
                .filter(|id| !begun.contains(id))
                .collect::<Vec<_>>(),
        );
    }
    driver.check_events();
    let order: Vec<_> = [2, 5, 1, 3, 0, 4].map(|i: usize| ids[i]).to_vec();
    assert_eq!(begun, order);
}

/// A request finds what its own root has, whoever asked for it, and neither finds nor waits for anything
/// else.
#[test]
fn roots_share_nothing() {
    let prompt = |seed| request(seed, 40, 3);
    let mut driver = Driver::new(Setup::with(|_, _| {}));
    let requests = [
        (of(1, prompt(1)), 0),
        (of(2, prompt(1)), 33),
        (salted("a", prompt(1)), 0),
        (salted("b", prompt(1)), 0),
        (of(2, salted("a", prompt(1))), 33),
        (prompt(1), 33),
    ];
    for (request, found) in &requests {
        let id = driver.add(request).unwrap();
        driver.run();
        assert!(
            driver.cached[&id] >= *found && (*found > 0 || driver.cached[&id] == 0),
            "{:?}",
            request.origin
        );
    }
    driver.check_events();
    // At once: those of one root wait for one another, others do not.
    let mut driver = Driver::new(Setup::with(|_, _| {}));
    for request in [prompt(1), prompt(1), salted("a", prompt(1)), salted("b", prompt(1))] {
        driver.add(&request).unwrap();
    }
    driver.step();
    // The queue is one tenant's, so those behind the one that waits do, too.
    assert_eq!(driver.engine.stats().last_step_sequences, 1);
    driver.run();
    driver.check_events();
    let mut driver = Driver::new(Setup::with(|_, _| {}));
    for request in [prompt(1), salted("a", prompt(1)), salted("b", prompt(1)), prompt(1)] {
        driver.add(&request).unwrap();
    }
    driver.step();
    assert_eq!(driver.engine.stats().last_step_sequences, 3);
    driver.run();
    driver.check_events();
}
