//! The body of a completion request: an answer or an error that names what is wrong, never a failure of the
//! server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    undine_fuzz::api::TEXT.post("/v1/completions", bytes);
});
