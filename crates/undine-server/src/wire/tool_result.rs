//! What a tool gave back: clients send it as text, as parts, or as the JSON it is.

use serde_json::{Map, Value};
use undine_text::json_dumps;

/// Kinds of parts that a content may have.
const PARTS: [&str; 6] = ["text", "input_text", "output_text", "refusal", "image_url", "input_image"];

/// What a part of the type image has; without one of them it is a result like any other.
const IMAGE: [&str; 5] = ["image", "url", "source", "data", "base64"];
/// What it may have beside that.
const BESIDE: [&str; 9] =
    ["type", "media_type", "mimeType", "mime_type", "detail", "cache_control", "annotations", "id", "_meta"];

/// The content of a message of a tool: text and parts as they are, anything else as JSON text. A tool that
/// gave nothing gave `null`.
pub(crate) fn read(content: Option<Value>) -> Value {
    match content {
        None => "null".into(),
        Some(content @ Value::String(_)) => content,
        Some(Value::Array(list)) if !list.is_empty() && list.iter().all(is_part) => Value::Array(list),
        Some(part @ Value::Object(_)) if is_part(&part) => Value::Array(vec![part]),
        // As Python writes it: what models were trained on.
        Some(other) => json_dumps(&other).into(),
    }
}

fn is_part(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Object(part) => match part.get("type") {
            Some(Value::String(kind)) if kind == "image" => is_image(part),
            Some(kind) => kind.as_str().is_some_and(|kind| PARTS.contains(&kind)),
            None => part.contains_key("image_url"),
        },
        _ => false,
    }
}

/// Whether an object of the type image has the form of a part. A tool that finds pictures has its own fields.
fn is_image(part: &Map<String, Value>) -> bool {
    let holds_text = |fields: &Map<String, Value>| {
        fields.iter().any(|(name, value)| IMAGE.contains(&name.as_str()) && value.is_string())
    };
    part.keys().all(|name| IMAGE.contains(&name.as_str()) || BESIDE.contains(&name.as_str()))
        && (holds_text(part) || part.get("source").and_then(Value::as_object).is_some_and(holds_text))
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
            (json!({"type": "image", "size": 3}), json!("{\"type\": \"image\", \"size\": 3}")),
            (
                json!({"type": "image", "data": {"a": 1}}),
                json!("{\"type\": \"image\", \"data\": {\"a\": 1}}"),
            ),
            (
                json!([{"type": "image", "url": "https://a/b", "title": "Sunset"}]),
                json!("[{\"type\": \"image\", \"url\": \"https://a/b\", \"title\": \"Sunset\"}]"),
            ),
            (
                json!([{"type": "image", "source": {"type": "base64", "data": "AA"}}]),
                json!([{"type": "image", "source": {"type": "base64", "data": "AA"}}]),
            ),
            (json!([{"type": "image", "data": "AA"}]), json!([{"type": "image", "data": "AA"}])),
            (json!({"type": "text", "text": "a"}), json!([{"type": "text", "text": "a"}])),
        ] {
            assert_eq!(read(Some(given.clone())), want, "{given}");
        }
        assert_eq!(read(None), json!("null"));
    }
}
