//! What the fuzz targets share.
#![forbid(unsafe_code)]

pub mod answers;
pub mod api;
#[path = "../../crates/undine-server/tests/server/support/eye.rs"]
mod eye;
pub mod helpers;
#[path = "../../crates/undine-server/tests/server/support/mock.rs"]
mod mock;
pub mod vocabulary;

use std::alloc::System;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};

use cap::Cap;
use serde::de::IgnoredAny;
use undine_weights::{Checkpoint, ExpertPart, WeightName};

/// Most bytes of the heap at once, unless a target says otherwise. Beyond it an allocation fails, which ends
/// the process.
const HEAP_BYTES_MAX: usize = 256 << 20;
/// The same where templates and grammars are worked on: what is tried out in a helper is worked out again
/// here, twice, and kept; and pictures are decoded.
const PROGRAMS_HEAP_BYTES_MAX: usize = 1 << 30;
/// The token that ends the mock's scripts.
const EOS: u32 = api::EOS;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HEAP_BYTES_MAX);

/// Changes the limit of the heap, for a target that may hold more.
pub fn limit_heap(bytes: usize) {
    HEAP.set_limit(bytes).expect("little is allocated at the start");
}

/// Panics that are told.
const PANICS_TOLD_MAX: usize = 20;

/// The start of a target whose input reaches templates or grammars: makes a helper of a process that is to be
/// one, gives the heap room for what helpers let pass, and lets panics pass that a library or we catch.
pub fn start_with_helpers() {
    helpers::serve_if_asked();
    limit_heap(PROGRAMS_HEAP_BYTES_MAX);
    allow_caught_panics();
}

/// Lets panics pass that a library catches itself. One that nobody catches still ends the process.
pub fn allow_caught_panics() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|panic| {
        if TOLD.fetch_add(1, Ordering::Relaxed) < PANICS_TOLD_MAX {
            eprintln!("{panic}");
        }
    }));
}

/// Touches the first and last byte of what an opened checkpoint offers, so that a view beyond its file is
/// noticed.
pub fn read_all(checkpoint: &Checkpoint) {
    let layers = checkpoint.config().layers.len();
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    let outer = [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head];
    let parts = [ExpertPart::Gate, ExpertPart::Up, ExpertPart::Down];
    let of_expert = |layer| {
        (0..experts).flat_map(move |expert| parts.map(|part| WeightName::Expert { layer, expert, part }))
    };
    let names = outer.into_iter().chain((0..layers).flat_map(of_expert));
    for weight in names.filter_map(|name| checkpoint.weight(name)) {
        let bytes = checkpoint.bytes(&weight);
        assert_eq!(Some(bytes.len()), weight.dtype.row_bytes(weight.cols).map(|row| row * weight.rows));
        std::hint::black_box((bytes.first(), bytes.last()));
    }
    assert!(checkpoint.tensors().all(|tensor| tensor.bytes <= checkpoint.file_bytes()));
}

/// Panics if a text is not JSON. A number may be beyond what this machine's have room for: no grammar of
/// numbers bounds an exponent, and a call's numbers keep every digit.
pub fn assert_json(text: &str) {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        panic!("{error}: {text}");
    }
}

/// The same of an object.
pub fn assert_json_object(text: &str) {
    assert_json(text);
    assert!(text.trim_start().starts_with('{'), "no object: {text}");
}

/// A number that an input stands for, to choose by.
pub fn seed(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The next number of a sequence, and what of it is below `limit`.
pub fn draw(state: &mut u64, limit: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % limit.max(1)
}

/// The parts of an input that has several: between bytes that occur in no text.
pub fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == SEPARATOR)
}

/// What [`parts`] are separated by.
pub const SEPARATOR: u8 = 0xff;
