//! The text of an answer with calls: the pieces, joined, do not depend on how it was cut, and no marker is
//! among them.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use undine_text::Piece;
use undine_text::tools::{TOOL_CALL_START, ToolFormat, ToolParser, ToolSet};

static TOOLS: LazyLock<Arc<ToolSet>> = LazyLock::new(|| {
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let properties = json!({
        "a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "array", "items": {"type": "number"}},
        "d": {"type": "object"}, "e": {"type": ["boolean", "null"]}
    });
    let tools = [
        tool("f", json!({"type": "object", "properties": properties, "required": ["a"]})),
        tool("g", json!({"type": "object", "properties": {}})),
        tool("free", json!({})),
    ];
    Arc::new(ToolSet::new(&tools).expect("the tools are good"))
});

fn pieces<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<Piece> {
    let mut parser = ToolParser::new(Arc::clone(&TOOLS), ToolFormat::Lfm2);
    let mut pieces = Vec::new();
    parts.for_each(|part| parser.push(part, &mut pieces));
    parser.finish(&mut pieces);
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Content(last)), Piece::Content(text)) => last.push_str(&text),
            (
                Some(Piece::ToolArguments { index, json }),
                Piece::ToolArguments { index: other, json: more },
            ) if *index == other => {
                json.push_str(&more);
            }
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let whole = pieces([text].into_iter());
    assert_eq!(whole, pieces(text.split_inclusive(|_| true)), "one by one");
    let mut state = undine_fuzz::seed(bytes);
    let cut = |_: char| undine_fuzz::draw(&mut state, 3) == 0;
    assert_eq!(whole, pieces(text.split_inclusive(cut)), "cut at random");
    let mut open: Option<(usize, String)> = None;
    let complete = |open: Option<(usize, String)>| {
        if let Some((_, json)) = open {
            undine_fuzz::assert_json_object(&json);
        }
    };
    for piece in whole {
        match piece {
            Piece::Content(text) => assert!(!text.contains(TOOL_CALL_START), "{text}"),
            Piece::ToolCall { index, .. } => complete(open.replace((index, String::new()))),
            Piece::ToolArguments { index, json } => {
                let (of, text) = open.as_mut().expect("arguments of a call");
                assert_eq!(*of, index);
                text.push_str(&json);
            }
            Piece::ToolAborted { index } => assert_eq!(open.take().map(|(of, _)| of), Some(index)),
            Piece::Reasoning(text) => panic!("{text} is no reasoning"),
            Piece::ToolCut { index } => panic!("{index} is cut, and the answer is not"),
        }
    }
    complete(open);
});
