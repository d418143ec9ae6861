//! A request can go away at any time, and takes nothing with it.

use crate::driver::{Driver, Setup, mixed_requests};
use undine_core::{ExecutorError, RequestId};
use undine_engine::AddError;

#[test]
fn at_every_step() {
    for steps_in_flight in [1, 2] {
        let setup = Setup::with(|capacity, config| {
            (capacity.steps_in_flight, capacity.blocks, config.prefill_chunk) = (steps_in_flight, 30, 9);
        });
        for victim in 0..8 {
            for cancel_at in 0.. {
                let mut driver = Driver::new(setup);
                for request in &mixed_requests() {
                    driver.add(request).unwrap();
                }
                for _ in 0..cancel_at {
                    driver.step();
                }
                let too_late = driver.finished(RequestId(victim));
                driver.cancel(RequestId(victim));
                driver.run();
                driver.check_events();
                assert!(too_late || !driver.finished(RequestId(victim)));
                if too_late {
                    break;
                }
            }
        }
    }
}

#[test]
fn blocks_are_free_at_once_or_when_the_step_is_collected() {
    for (steps_in_flight, used_after_cancel) in [(1, 0), (2, 1)] {
        let mut driver = Driver::new(Setup::with(|capacity, _| capacity.steps_in_flight = steps_in_flight));
        let id = driver.add(&crate::driver::request(1, 10, 50)).unwrap();
        driver.step();
        driver.step();
        driver.cancel(id);
        assert_eq!(driver.engine.stats().slots_used, used_after_cancel);
        assert_eq!(driver.engine.has_work(), used_after_cancel > 0);
        driver.run();
    }
}

#[test]
fn unknown_ids_are_ignored() {
    let mut driver = Driver::new(crate::driver::ROOMY);
    driver.engine.cancel(RequestId(7));
    let id = driver.add(&crate::driver::request(1, 3, 3)).unwrap();
    driver.run();
    driver.engine.cancel(id);
    driver.check_events();
}

#[test]
fn a_failed_device_ends_the_engine() {
    let mut driver = Driver::on(crate::driver::ROOMY, |device| device.failing_at(3));
    driver.add(&crate::driver::request(1, 3, 30)).unwrap();
    for _ in 0..3 {
        driver.step();
    }
    let failure = ExecutorError("it was unplugged".to_owned());
    for _ in 0..2 {
        assert_eq!(driver.engine.step(&mut Vec::new()), Err(failure.clone()));
        driver.engine.check_integrity();
        assert!(!driver.engine.has_work());
    }
    let refusal = driver.add(&crate::driver::request(2, 3, 3)).unwrap_err();
    assert_eq!(refusal, AddError::DeviceFailed(failure));
    assert_eq!(refusal.to_string(), "the device failed: it was unplugged");
}
