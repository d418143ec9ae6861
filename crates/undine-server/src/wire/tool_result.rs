//! What a tool gave back: clients send it as text, as parts, or as the JSON it is.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Kinds of parts that a content may have.
const PARTS: [&str; 6] = ["text", "input_text", "output_text", "refusal", "image_url", "input_image"];

/// The content of a message of a tool: text and parts as they are, anything else as JSON text. A tool that gave nothing gave `null`.
pub(crate) fn read(content: Option<Value>) -> Value {
    match content {
        None => "null".into(),
        Some(content @ Value::String(_)) => content,
        Some(Value::Array(list)) if !list.is_empty() && list.iter().all(is_part) => Value::Array(list),
        Some(part @ Value::Object(_)) if is_part(&part) => Value::Array(vec![part]),
        Some(other) => json(&other).into(),
    }
}

fn is_part(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Object(part) => match part.get("type") {
            Some(kind) => kind.as_str().is_some_and(|kind| PARTS.contains(&kind)),
            None => part.contains_key("image_url"),
        },
        _ => false,
    }
}

/// JSON with the spaces that Python puts into it: what models were trained on.
fn json(value: &Value) -> String {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)).expect("a value is JSON");
    String::from_utf8(text).expect("JSON is text")
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_text_or_parts() {
        for (given, want) in [
            (json!("sunny"), json!("sunny")),
            (
                json!({"degrees": 3.5, "tags": ["a", null]}),
                json!("{\"degrees\": 3.5, \"tags\": [\"a\", null]}"),
            ),
            (json!(42), json!("42")),
            (json!(true), json!("true")),
            (json!([1, {"type": "house"}]), json!("[1, {\"type\": \"house\"}]")),
            (json!([{"type": "house", "price": 3}]), json!("[{\"type\": \"house\", \"price\": 3}]")),
            (json!([]), json!("[]")),
            (json!([{"type": "text", "text": "a"}, "b"]), json!([{"type": "text", "text": "a"}, "b"])),
            (json!({"type": "text", "text": "a"}), json!([{"type": "text", "text": "a"}])),
        ] {
            assert_eq!(read(Some(given.clone())), want, "{given}");
        }
        assert_eq!(read(None), json!("null"));
    }
}
