//! Tool calls as LFM2 models write them, for templates that do not write past calls themselves.

use serde_json::{Map, Value};
use undine_text::tools::{TOOL_CALL_END, TOOL_CALL_START};
use undine_text::{exact, json_dumps};

/// The calls of a message, arguments as objects, between their markers.
pub(crate) fn calls(calls: &[Value]) -> String {
    let empty = Map::new();
    let call = |call: &Value| {
        let function = &call["function"];
        let arguments = function["arguments"].as_object().unwrap_or(&empty);
        let arguments: Vec<String> =
            arguments.iter().map(|(name, argument)| format!("{name}={}", literal(argument))).collect();
        format!("{}({})", function["name"].as_str().unwrap_or_default(), arguments.join(", "))
    };
    let calls: Vec<String> = calls.iter().map(call).collect();
    format!("{TOOL_CALL_START}[{}]{TOOL_CALL_END}", calls.join(", "))
}

/// A value as a Python literal. The escapes of JSON's strings are Python's, too.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(_) => json_dumps(value),
        Value::String(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            if let Some(digits) = exact::of_fields(fields) {
                return digits.to_owned();
            }
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", Value::from(name.as_str()), literal(value))
            };
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_are_python() {
        let arguments = json!({"city": "Z\u{fc}rich \"2\"\n", "n": 1e-7, "ok": true, "no": null, "list": [1, {"a": false}]});
        let given = [
            json!({"id": "1", "function": {"name": "w.get", "arguments": arguments}}),
            json!({"function": {"name": "g", "arguments": {}}}),
        ];
        assert_eq!(
            calls(&given),
            "<|tool_call_start|>[w.get(city=\"Z\u{fc}rich \\\"2\\\"\\n\", n=1e-07, ok=True, no=None, \
             list=[1, {\"a\": False}]), g()]<|tool_call_end|>"
        );
    }
}
