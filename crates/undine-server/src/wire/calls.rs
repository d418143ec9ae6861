//! The tool calls of past turns, brought into the form chat templates expect.

use serde_json::{Map, Value, json};
use undine_text::exact;

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers};

/// Most tool calls of one message.
pub(crate) const CALLS_MAX: usize = 512;

/// What other servers call the arguments.
const ARGUMENTS: [&str; 4] = ["arguments", "args", "input", "parameters"];
/// What streams number, and what says nothing to a model.
const IGNORED: &[&str] = &["index", "status", "cache_control", "provider_specific_fields", "caller"];

/// Tool calls of an assistant turn.
pub(crate) fn read_tool_calls(fields: &mut Fields, strangers: &mut Strangers) -> ApiResult<Vec<Value>> {
    let path = fields.path("tool_calls");
    let calls = fields.list("tool_calls", CALLS_MAX)?.unwrap_or_default();
    let read = |(i, call)| read_call(Fields::nested(&format!("{path}[{i}]"), call)?, strangers);
    calls.into_iter().enumerate().map(read).collect()
}

/// A call as OpenAI writes it, or without the inner object, as LangChain and Anthropic do.
pub(crate) fn read_call(mut call: Fields, strangers: &mut Strangers) -> ApiResult<Value> {
    let mut read = Map::new();
    // In the Responses API `id` is the part's own, and results name the other.
    let own = call.take("id");
    let id = call.take("call_id").or(own);
    read.extend(id.map(|id| ("id".to_owned(), id)));
    let kind = call.take("type");
    let path = call.path("function");
    let function = match call.take("function") {
        Some(function) => {
            read.extend(kind.map(|kind| ("type".to_owned(), kind)));
            let mut inner = Fields::nested(&path, function)?;
            let function = read_function(&mut inner)?;
            inner.leave(strangers);
            function
        }
        None if call.has("name") || kind.as_ref().is_some_and(|kind| kind == "tool_use") => {
            read.insert("type".to_owned(), "function".into());
            read_function(&mut call)?
        }
        None => {
            return Err(ApiError::field(path, "missing; expected an object with name and arguments"));
        }
    };
    read.insert("function".to_owned(), function);
    call.ignore(IGNORED);
    call.leave(strangers);
    Ok(Value::Object(read))
}

/// OpenAI sends arguments as JSON text, templates want the object.
fn read_function(fields: &mut Fields) -> ApiResult<Value> {
    let name = fields
        .string("name")?
        .ok_or_else(|| ApiError::field(fields.path("name"), "missing; expected a string"))?;
    let mut given = None;
    for name in ARGUMENTS {
        given = given.or_else(|| fields.take(name));
    }
    let arguments = match given {
        None => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => match exact::from_str(&text) {
            Ok(arguments @ Value::Object(_)) => arguments,
            Ok(_) | Err(_) => as_text(&text),
        },
        Some(arguments @ Value::Object(_)) if exact::digits(&arguments).is_none() => arguments,
        Some(other) => as_text(&exact::to_string(&other)),
    };
    fields.ignore(IGNORED);
    Ok(json!({ "name": name, "arguments": arguments }))
}

/// Arguments that are no object, such as those of a call that was cut: as text, in the one argument that
/// there is then. The chat has to go on, and the model sees what became of its call.
pub(crate) fn as_text(arguments: &str) -> Value {
    json!({ "arguments": arguments })
}
