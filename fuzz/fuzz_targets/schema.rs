//! A JSON schema as the form of an answer: refused, or every answer that its masks allow is taken and is
//! JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_text::AnswerFormat;

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(schema) = serde_json::from_slice(bytes) else { return };
    let answer = undine_fuzz::answers::answer(AnswerFormat::JsonSchema(schema, undine_text::tools::Strictness::BestEffort), None, undine_fuzz::seed(bytes));
    if let Some(text) = answer {
        undine_fuzz::assert_json(&text);
    }
});
