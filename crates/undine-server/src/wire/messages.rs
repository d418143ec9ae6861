//! The messages and tools of a chat, checked and brought into the form chat templates expect.

use serde_json::{Map, Value};
use undine_text::exact;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, excerpt};
use crate::wire::parts::{ImagePart, read_content};
use crate::wire::tool_result;

/// Most messages of one request.
pub(crate) const MESSAGES_MAX: usize = 4096;
/// Most tool calls of one message.
pub(crate) const CALLS_MAX: usize = 512;

/// Fields of a message that a template may read, beside `role` and `content`.
const PASSED_ON: [&str; 2] = ["name", "tool_call_id"];
/// What templates and clients call the thoughts of a past turn: a template gets them under all names.
pub(crate) const THOUGHTS: [&str; 3] = ["reasoning", "reasoning_content", "thinking"];

/// The messages of a request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Messages {
    /// As templates take them, but for contents with images, which are as [`read_content`] makes them.
    pub(crate) list: Vec<Value>,
    /// In the order of the messages and of their parts.
    pub(crate) images: Vec<ImagePart>,
}

/// Reads `messages`: role and content as text, tool calls with their arguments as objects.
pub(crate) fn read_messages(fields: &mut Fields) -> ApiResult<Messages> {
    let messages = fields
        .list("messages", MESSAGES_MAX)?
        .ok_or_else(|| ApiError::field("messages", "missing; expected a list of messages"))?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message, found an empty list"));
    }
    let mut images = Vec::new();
    let read = |(i, value)| read_message(&format!("messages[{i}]"), value, &mut images);
    let list = messages.into_iter().enumerate().map(read).collect::<ApiResult<_>>()?;
    Ok(Messages { list, images })
}

fn read_message(path: &str, value: Value, images: &mut Vec<ImagePart>) -> ApiResult<Value> {
    let mut fields = Fields::nested(path, value)?;
    let role_path = fields.path("role");
    let role = match fields.string("role")?.as_deref() {
        // OpenAI's newer name for the same thing; LFM2 templates know only `system`.
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") => "tool",
        Some("function") => {
            return Err(ApiError::unsupported(&role_path, "use the role tool and `tool_calls`"));
        }
        other => {
            let found = other.map_or("nothing".to_owned(), |role| format!("{:?}", excerpt(role)));
            let message = format!("expected system, developer, user, assistant or tool, found {found}");
            return Err(ApiError::field(role_path, message));
        }
    };
    let content_path = fields.path("content");
    let content = fields.take("content");
    let tool_calls = read_tool_calls(&mut fields)?;
    let content = if role == "tool" { Some(tool_result::read(content)) } else { content };
    let content = match content {
        Some(content) => read_content(&content_path, content, images)?,
        // A turn of tool calls only, as OpenAI's clients send it back.
        None if role == "assistant" => "".into(),
        None => {
            return Err(ApiError::field(content_path, "missing; expected a string or a list of parts"));
        }
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content);
    for name in PASSED_ON {
        if let Some(text) = fields.string(name)? {
            message.insert(name.to_owned(), text.into());
        }
    }
    if let Some(thoughts) = read_thoughts(&mut fields)? {
        message.extend(THOUGHTS.map(|name| (name.to_owned(), thoughts.as_str().into())));
    }
    if !tool_calls.is_empty() {
        message.insert("tool_calls".to_owned(), tool_calls.into());
    }
    fields.refuse(&[("function_call", "use `tool_calls`")])?;
    // Clients send back what servers gave them (refusal, annotations, ids): no template reads the rest.
    Ok(Value::Object(message))
}

/// The thoughts of a past turn, which clients send back under any of their names.
fn read_thoughts(fields: &mut Fields) -> ApiResult<Option<String>> {
    let mut thoughts = None;
    for name in THOUGHTS {
        let text = fields.string(name)?.filter(|text| !text.is_empty());
        thoughts = thoughts.or(text);
    }
    Ok(thoughts)
}

/// Tool calls of an assistant turn. OpenAI sends arguments as JSON text, templates want the object.
fn read_tool_calls(fields: &mut Fields) -> ApiResult<Vec<Value>> {
    let path = fields.path("tool_calls");
    let calls = fields.list("tool_calls", CALLS_MAX)?.unwrap_or_default();
    let mut read = Vec::with_capacity(calls.len());
    for (i, mut call) in calls.into_iter().enumerate() {
        let path = format!("{path}[{i}].function");
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            return Err(ApiError::field(path, "missing; expected an object with name and arguments"));
        };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(ApiError::field(format!("{path}.name"), "missing; expected a string"));
        }
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
            Some(Value::String(text)) => match exact::from_str(text) {
                Ok(arguments @ Value::Object(_)) => arguments,
                Ok(_) | Err(_) => as_text(text),
            },
            Some(arguments @ Value::Object(_)) if exact::digits(arguments).is_none() => arguments.clone(),
            Some(other) => as_text(&exact::to_string(other)),
        };
        function.insert("arguments".to_owned(), arguments);
        read.push(call);
    }
    Ok(read)
}

/// Arguments that are no object, such as those of a call that was cut: as text, in the one argument that
/// there is then. The chat has to go on, and the model sees what became of its call.
pub(crate) fn as_text(arguments: &str) -> Value {
    serde_json::json!({ "arguments": arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Result<Vec<Value>, String> {
        let body = serde_json::to_vec(&json!({ "messages": messages })).unwrap();
        let read = read_messages(&mut Fields::parse(&body).unwrap());
        read.map(|messages| messages.list).map_err(|error| error.message)
    }

    #[test]
    fn messages_take_the_templates_form() {
        let cases = [
            (
                json!([{"role": "developer", "content": "be brief"}]),
                json!([{"role": "system", "content": "be brief"}]),
            ),
            (
                json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
                json!([{"role": "user", "content": "a\nb"}]),
            ),
            (
                json!([{"role": "assistant", "content": null, "refusal": null, "tool_calls":
                    [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]}]),
                json!([{"role": "assistant", "content": "", "tool_calls":
                    [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}]),
            ),
            (
                json!([{"role": "assistant", "tool_calls": [
                    {"function": {"name": "f", "arguments": "{\"a\":\"cut of"}}, {"function": {"name": "g", "arguments": "[1]"}},
                    {"function": {"name": "h", "arguments": 7}}, {"function": {"name": "i", "arguments": " "}}]}]),
                json!([{"role": "assistant", "content": "", "tool_calls": [
                    {"function": {"name": "f", "arguments": {"arguments": "{\"a\":\"cut of"}}},
                    {"function": {"name": "g", "arguments": {"arguments": "[1]"}}},
                    {"function": {"name": "h", "arguments": {"arguments": "7"}}}, {"function": {"name": "i", "arguments": {}}}]}]),
            ),
            (
                json!([{"role": "tool", "content": {"degrees": 3.5}}, {"role": "tool", "content": null}, {"role": "tool"}]),
                json!([{"role": "tool", "content": "{\"degrees\": 3.5}"}, {"role": "tool", "content": "null"},
                    {"role": "tool", "content": "null"}]),
            ),
            (
                json!([{"role": "assistant", "content": "4", "reasoning": "", "reasoning_content": "2+2"}]),
                json!([{"role": "assistant", "content": "4", "reasoning": "2+2", "reasoning_content": "2+2", "thinking": "2+2"}]),
            ),
        ];
        for (given, want) in cases {
            assert_eq!(Value::from(read(given.clone()).unwrap()), want, "{given}");
        }
    }

    #[test]
    fn wrong_messages_name_their_place() {
        let cases = [
            (json!([]), "`messages`: expected at least one message"),
            (json!("hi"), "`messages`: expected a list, found the string \"hi\""),
            (json!(["hi"]), "`messages[0]`: expected an object"),
            (
                json!([{"content": "x"}]),
                "`messages[0].role`: expected system, developer, user, assistant or tool, found nothing",
            ),
            (json!([{"role": "robot", "content": "x"}]), "found \"robot\""),
            (
                json!([{"role": "function", "content": "x"}]),
                "`messages[0].role`: not supported yet; use the role tool",
            ),
            (
                json!([{"role": "assistant", "content": "", "function_call": {"name": "f"}}]),
                "`messages[0].function_call`: not supported yet; use `tool_calls`",
            ),
            (json!([{"role": "user"}]), "`messages[0].content`: missing"),
            (
                json!([{"role": "user", "content": 3}]),
                "`messages[0].content`: expected a string or a list of parts",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                "`messages[0].content[0].image_url`: missing",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "`messages[0].content[0].text`: missing",
            ),
        ];
        for (given, want) in cases {
            let error = read(given.clone()).unwrap_err();
            assert!(error.contains(want), "{given}: {error}");
        }
    }
}
