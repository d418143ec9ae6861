//! The messages and tools of a chat, checked and brought into the form chat templates expect.

use serde_json::{Map, Value};

use crate::wire::calls::read_tool_calls;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers, excerpt};
use crate::wire::parts::{ImagePart, Reading, read_content, read_images};
use crate::wire::past_parts::Past;
use crate::wire::tool_result;

/// Most messages of one request.
pub(crate) const MESSAGES_MAX: usize = 4096;

/// Fields of a message that a template may read, beside `role` and `content`. The last is Ollama's word for
/// the first.
const PASSED_ON: [(&str, &str); 3] =
    [("name", "name"), ("tool_call_id", "tool_call_id"), ("tool_name", "name")];
/// What templates and clients call the thoughts of a past turn: a template gets them under all names.
pub(crate) const THOUGHTS: [&str; 3] = ["reasoning", "reasoning_content", "thinking"];
/// What clients send back of what servers gave them, and hints about caching: no template reads them, and
/// nothing is lost.
const IGNORED: &[&str] = &[
    "refusal",
    "annotations",
    "id",
    "type",
    "object",
    "status",
    "index",
    "created_at",
    "finish_reason",
    "stop_reason",
    "logprobs",
    "reasoning_details",
    "provider_specific_fields",
    "cache_control",
];
/// By which DeepSeek, Mistral and Moonshot ask that the answer goes on with the last message.
const OPEN: [&str; 2] = ["prefix", "partial"];

/// The messages of a request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Messages {
    /// As templates take them, but for contents with images, which are as [`read_content`] makes them.
    pub(crate) list: Vec<Value>,
    /// In the order of the messages and of their parts.
    pub(crate) images: Vec<ImagePart>,
    /// The field of the last message that says the answer continues it.
    pub(crate) open: Option<String>,
}

/// Reads `messages`: role and content as text, tool calls with their arguments as objects. What nobody knows
/// goes to `strangers`.
pub(crate) fn read_messages(fields: &mut Fields, strangers: &mut Strangers) -> ApiResult<Messages> {
    let messages = fields
        .list("messages", MESSAGES_MAX)?
        .ok_or_else(|| ApiError::field("messages", "missing; expected a list of messages"))?;
    if messages.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message, found an empty list"));
    }
    let mut read = Messages { list: Vec::with_capacity(messages.len()), images: Vec::new(), open: None };
    for (i, value) in messages.into_iter().enumerate() {
        // Only the last message can be open.
        if let Some(path) = read.open.take() {
            strangers.add(path);
        }
        let mut fields = Fields::nested(&format!("messages[{i}]"), value)?;
        let reading = Reading { images: &mut read.images, strangers, past: None };
        let message = read_message(&mut fields, reading)?;
        for name in OPEN {
            let is_open = fields.boolean(name)? == Some(true);
            match message["role"] == "assistant" {
                true if is_open => read.open = Some(fields.path(name)),
                false if is_open => strangers.add(fields.path(name)),
                _ => {}
            }
        }
        fields.ignore(IGNORED);
        fields.leave(strangers);
        read.list.push(message);
    }
    Ok(read)
}

fn read_role(fields: &mut Fields) -> ApiResult<&'static str> {
    let path = fields.path("role");
    match fields.string("role")?.as_deref() {
        // OpenAI's newer name for the same thing; LFM2 templates know only `system`.
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool") => Ok("tool"),
        Some("function") => Err(ApiError::unsupported(&path, "use the role tool and `tool_calls`")),
        other => {
            let found = other.map_or("nothing".to_owned(), |role| format!("{:?}", excerpt(role)));
            let message = format!("expected system, developer, user, assistant or tool, found {found}");
            Err(ApiError::field(path, message))
        }
    }
}

fn read_message(fields: &mut Fields, mut reading: Reading<'_>) -> ApiResult<Value> {
    let role = read_role(fields)?;
    let content_path = fields.path("content");
    let content = fields.take("content");
    let mut tool_calls = read_tool_calls(fields, reading.strangers)?;
    let content = if role == "tool" { Some(tool_result::read(content)) } else { content };
    let shown = read_images(fields, &mut reading)?;
    reading.past = (role == "assistant").then(Past::default);
    let content = match content {
        Some(content) => read_content(&content_path, content, &mut reading)?,
        // A turn of tool calls only, as OpenAI's clients send it back.
        None if role == "assistant" => "".into(),
        None if !shown.is_empty() => "".into(),
        None => {
            return Err(ApiError::field(content_path, "missing; expected a string or a list of parts"));
        }
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), after_images(shown, content));
    for (name, own) in PASSED_ON {
        if let Some(text) = fields.string(name)? {
            message.entry(own.to_owned()).or_insert(text.into());
        }
    }
    let past = reading.past.unwrap_or_default();
    let thoughts = read_thoughts(fields)?.or(past.thoughts.filter(|thoughts| !thoughts.is_empty()));
    if let Some(thoughts) = thoughts {
        message.extend(THOUGHTS.map(|name| (name.to_owned(), thoughts.as_str().into())));
    }
    // LangChain keeps calls in the content of a turn, and beside it too.
    let is_new = |call: &Value| {
        call.get("id").is_none_or(|id| tool_calls.iter().all(|known| known.get("id") != Some(id)))
    };
    let lifted: Vec<Value> = past.calls.into_iter().filter(is_new).collect();
    tool_calls.extend(lifted);
    if !tool_calls.is_empty() {
        message.insert("tool_calls".to_owned(), tool_calls.into());
    }
    fields.refuse(&[("function_call", "use `tool_calls`")])?;
    Ok(Value::Object(message))
}

/// A content behind images, as Ollama writes it.
fn after_images(mut images: Vec<Value>, content: Value) -> Value {
    if images.is_empty() {
        return content;
    }
    match content {
        Value::Array(parts) => images.extend(parts),
        text => images.push(text),
    }
    Value::Array(images)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Result<Vec<Value>, String> {
        let body = serde_json::to_vec(&json!({ "messages": messages })).unwrap();
        let read = read_messages(&mut Fields::parse(&body).unwrap(), &mut Strangers::default());
        read.map(|messages| messages.list).map_err(|error| error.message)
    }

    #[test]
    fn calls_in_a_content_have_their_own_id_and_count_once() {
        for (given, want) in [
            (
                json!([{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}],
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}]),
                json!([{"role": "assistant", "content": "",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}]),
            ),
            (
                json!([{"role": "assistant", "content": [{"type": "function_call", "id": "fc_1", "call_id": "1",
                    "status": "completed", "name": "f", "arguments": "{}"}]}]),
                json!([{"role": "assistant", "content": "",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]}]),
            ),
        ] {
            assert_eq!(read(given.clone()).map(Value::from), Ok(want), "{given}");
        }
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
                json!([{"role": "tool", "content": "3", "tool_name": "f"}]),
                json!([{"role": "tool", "content": "3", "name": "f"}]),
            ),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": [
                    {"id": "1", "name": "f", "args": {"x": 1}}, {"id": "2", "name": "g", "arguments": "{\"x\": 2}"},
                    {"id": "3", "name": "h", "input": {}}]}]),
                json!([{"role": "assistant", "content": "", "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": {"x": 2}}},
                    {"id": "3", "type": "function", "function": {"name": "h", "arguments": {}}}]}]),
            ),
            (
                json!([{"role": "assistant", "content": [{"type": "thinking", "thinking": "2+2", "signature": "x"},
                    {"type": "text", "text": "4"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}]}]),
                json!([{"role": "assistant", "content": "4", "reasoning": "2+2", "reasoning_content": "2+2", "thinking": "2+2",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}]),
            ),
            (
                json!([{"role": "assistant", "content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
                    {"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}]}]),
                json!([{"role": "assistant", "content": "", "reasoning": "a\nb", "reasoning_content": "a\nb", "thinking": "a\nb"}]),
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
    fn what_nobody_knows_of_a_message_is_named() {
        let picture = json!({"type": "image_url", "image_url": {"url": "u", "zoom": 2}, "min_pixels": 9});
        let messages = json!([
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "x"}}, picture], "foo": 1},
            {"role": "assistant", "content": "b", "refusal": "no", "annotations": [1], "id": "x", "prefix": true,
             "bar": 0, "tool_calls": [{"id": "1", "index": 0, "weight": 5, "function": {"name": "f", "why": "x"}}]},
            {"role": "user", "content": "c", "prefix": true}]);
        let body = serde_json::to_vec(&json!({ "messages": messages })).unwrap();
        let mut strangers = Strangers::default();
        let read = read_messages(&mut Fields::parse(&body).unwrap(), &mut strangers).unwrap();
        assert_eq!(
            strangers.told(),
            [
                "messages[0].content[1].image_url.zoom",
                "messages[0].content[1].min_pixels",
                "messages[0].foo",
                "messages[1].tool_calls[0].function.why",
                "messages[1].tool_calls[0].weight",
                "messages[1].prefix",
                "messages[2].prefix"
            ]
        );
        assert_eq!(read.open, None);
    }

    #[test]
    fn pictures_of_ollama_come_first() {
        let body = json!({"messages": [
            {"role": "user", "content": "what is it?", "images": ["iVBOR", "data:image/png;base64,AA"]},
            {"role": "user", "images": [{"type": "image_url", "image_url": "u"}]},
        ]});
        let body = serde_json::to_vec(&body).unwrap();
        let read = read_messages(&mut Fields::parse(&body).unwrap(), &mut Strangers::default()).unwrap();
        assert_eq!(read.list[0]["content"], json!([0, 1, "what is it?"]));
        assert_eq!(read.list[1]["content"], json!([2, ""]));
        let seen: Vec<_> =
            read.images.iter().map(|image| (image.path.as_str(), image.url.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("messages[0].images[0]", "data:;base64,iVBOR"),
                ("messages[0].images[1]", "data:image/png;base64,AA"),
                ("messages[1].images[0].image_url", "u")
            ]
        );
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
            (
                json!([{"role": "assistant", "tool_calls": ["f"]}]),
                "`messages[0].tool_calls[0]`: expected an object",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
                "`messages[0].tool_calls[0].function`: missing",
            ),
            (
                json!([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "1"}]}]),
                "`messages[0].content[1].name`: missing",
            ),
            (
                json!([{"role": "user", "content": [{"type": "tool_result", "content": "3"}]}]),
                "`messages[0].content[0].type`: not supported yet; send it as the content of a message of the role tool",
            ),
            (
                json!([{"role": "user", "content": "a", "images": "iVBOR"}]),
                "`messages[0].images`: expected a list",
            ),
            (
                json!([{"role": "user", "content": "a", "images": [1]}]),
                "`messages[0].images[0]`: expected base64",
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
