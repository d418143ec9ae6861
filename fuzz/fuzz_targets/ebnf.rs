//! A grammar in llama.cpp's notation (GBNF) as the form of an answer: refused, or whatever its masks allow is
//! taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_text::AnswerFormat;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The sign of the other notation.
    if !text.contains("::=") {
        return;
    }
    undine_fuzz::answers::answer(AnswerFormat::Grammar(text.to_owned()), None, undine_fuzz::seed(bytes));
});
