//! A regular expression as the form of an answer: refused, or whatever its masks allow is taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_text::AnswerFormat;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    undine_fuzz::answers::answer(AnswerFormat::Regex(text.to_owned()), None, undine_fuzz::seed(bytes));
});
