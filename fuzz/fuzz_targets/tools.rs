//! The `tools` of a request: refused, or every call that the masks allow is read as calls of these tools.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use undine_text::grammar::Parallel;
use undine_text::tools::{ToolFormat, ToolParser, ToolSet};
use undine_text::{AnswerFormat, Piece, ToolChoice, ToolRules};

fuzz_target!(init: undine_fuzz::start_with_helpers(), |bytes: &[u8]| {
    let Ok(tools) = serde_json::from_slice::<Vec<Value>>(bytes) else { return };
    let Ok(set) = ToolSet::new(&tools).map(Arc::new) else { return };
    let mut seed = undine_fuzz::seed(bytes);
    let parallel = if undine_fuzz::draw(&mut seed, 2) == 0 { Parallel::One } else { Parallel::Allowed };
    let rules = ToolRules { set: Arc::clone(&set), choice: ToolChoice::Required, parallel };
    let Some(text) = undine_fuzz::answers::answer(AnswerFormat::Free, Some(rules), seed) else { return };
    let mut pieces = Vec::new();
    let mut parser = ToolParser::new(set.clone(), ToolFormat::Lfm2);
    parser.push(&text, &mut pieces);
    parser.finish(&mut pieces);
    let mut calls: Vec<String> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::ToolCall { name, .. } => {
                assert!(set.get(&name).is_some(), "{name} is not declared: {text}");
                calls.push(String::new());
            }
            Piece::ToolArguments { json, .. } => calls.last_mut().expect("a call before").push_str(&json),
            other => panic!("{other:?} of {text}"),
        }
    }
    assert!(!calls.is_empty(), "no call in {text}");
    for arguments in calls {
        undine_fuzz::assert_json_object(&arguments);
    }
});
