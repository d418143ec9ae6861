//! Calls in the text of an answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use serde_json::json;
use undine_text::Piece;
use undine_text::tools::{ToolFormat, ToolParser, ToolSet};

#[test]
fn smoke() {
    let set = Arc::new(ToolSet::new(&[json!({"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}}}}})]).unwrap());
    for text in [
        r#"hi <|tool_call_start|>[f(a="x\n\u00e9", b=1), g()]<|tool_call_end|> done"#,
        r#"<|tool_call_start|>[f(a="say "hi", b=07)]"#,
        r#"<|tool_call_start|>[f(a="say "hi" and "b", ok"), g(x=[1, {'a': None}])]"#,
        r#"[f(a=5, b="5")]"#,
        r#"<|tool_call_start|>[{"name": "f", "arguments": {"a": "x"}}]<|tool_call_end|>"#,
        r#"<|tool_call_start|>[f(a="x", b="#,
        r#"<|tool_call_start|>[f("x", 3)]<|tool_call_end|>[f("x", 3)]"#,
    ] {
        let mut out = Vec::new();
        let mut parser = ToolParser::new(Arc::clone(&set), ToolFormat::Lfm2);
        parser.push(text, &mut out);
        parser.finish(&mut out);
        println!("{text}\n  {out:?}");
        assert!(out.iter().all(|piece| *piece != Piece::Content(String::new())));
    }
}
