//! The tools of a chat, and what the request wants to happen with them.

use serde_json::Value;
use undine_text::exact;
use undine_text::grammar::{Parallel, ToolChoice};

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, describe, excerpt, mismatch};

/// Most tools of one request.
pub(crate) const TOOLS_MAX: usize = 512;
/// Most bytes of all tools together, as JSON.
pub(crate) const TOOLS_BYTES_MAX: usize = 1 << 20;

/// What a model may do with the tools it is shown.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Calling {
    /// `None` forbids calls (`tool_choice: "none"`), or there are no tools.
    pub(crate) choice: Option<ToolChoice>,
    pub(crate) parallel: Parallel,
    /// The tools that may be called: all, unless `tool_choice` says which.
    pub(crate) callable: Vec<Value>,
}

/// Reads `tools`: functions with a name. Their text is the template's business.
pub(crate) fn read_tools(fields: &mut Fields) -> ApiResult<Vec<Value>> {
    let tools = fields.list("tools", TOOLS_MAX)?.unwrap_or_default();
    for (i, tool) in tools.iter().enumerate() {
        let kind = tool.get("type").and_then(Value::as_str);
        if kind != Some("function") {
            let found = tool.get("type").map_or("nothing".to_owned(), describe);
            let message = format!("expected \"function\", found {found}");
            return Err(ApiError::field(format!("tools[{i}].type"), message));
        }
        if name_of(tool).is_none() {
            return Err(ApiError::field(format!("tools[{i}].function.name"), "missing; expected a string"));
        }
    }
    let bytes: usize = tools.iter().map(|tool| exact::to_string(tool).len()).sum();
    if bytes > TOOLS_BYTES_MAX {
        let message = format!("expected at most {TOOLS_BYTES_MAX} bytes of tools, found {bytes}");
        return Err(ApiError::field("tools", message));
    }
    Ok(tools)
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.pointer("/function/name").and_then(Value::as_str)
}

/// Reads `tool_choice` and `parallel_tool_calls` for the tools of the request.
pub(crate) fn read_calling(fields: &mut Fields, tools: &[Value]) -> ApiResult<Calling> {
    let parallel = match fields.boolean("parallel_tool_calls")?.unwrap_or(true) {
        true => Parallel::Allowed,
        false => Parallel::One,
    };
    let all = |choice| Calling { choice, parallel, callable: tools.to_vec() };
    let choice = fields.take("tool_choice");
    let calling = match &choice {
        None => all(Some(ToolChoice::Auto)),
        Some(Value::String(choice)) => match choice.as_str() {
            "none" => all(None),
            "auto" => all(Some(ToolChoice::Auto)),
            "required" => all(Some(ToolChoice::Required)),
            other => {
                let found = excerpt(other);
                let message = format!("expected none, auto, required or a named function, found {found:?}");
                return Err(ApiError::field("tool_choice", message));
            }
        },
        Some(named @ Value::Object(_)) => read_named(named, tools, parallel)?,
        Some(other) => {
            return Err(mismatch("tool_choice", "none, auto, required or a named function", other));
        }
    };
    match &calling.choice {
        Some(ToolChoice::Auto) if tools.is_empty() => Ok(Calling { choice: None, ..calling }),
        Some(_) if tools.is_empty() => {
            Err(ApiError::field("tool_choice", "a call cannot be required without `tools`; add them"))
        }
        _ => Ok(calling),
    }
}

/// `{"type": "function", "function": {"name": …}}`, or `{"type": "allowed_tools", "allowed_tools": {"mode":
/// …, "tools": […]}}`.
fn read_named(choice: &Value, tools: &[Value], parallel: Parallel) -> ApiResult<Calling> {
    let tool = |path: &str, name: &str| {
        tools.iter().find(|tool| name_of(tool) == Some(name)).cloned().ok_or_else(|| {
            let names: Vec<&str> = tools.iter().filter_map(name_of).collect();
            let message =
                format!("{:?} is not one of the tools: {}", excerpt(name), excerpt(&names.join(", ")));
            ApiError::field(path, message)
        })
    };
    match choice["type"].as_str() {
        Some("function") => {
            const PATH: &str = "tool_choice.function.name";
            let name = name_of(choice).ok_or_else(|| ApiError::field(PATH, "missing; expected a string"))?;
            let callable = vec![tool(PATH, name)?];
            Ok(Calling { choice: Some(ToolChoice::Named(name.to_owned())), parallel, callable })
        }
        Some("allowed_tools") => {
            const PATH: &str = "tool_choice.allowed_tools";
            let allowed = &choice["allowed_tools"];
            let mode = match allowed["mode"].as_str() {
                Some("auto") => ToolChoice::Auto,
                Some("required") => ToolChoice::Required,
                _ => {
                    let message =
                        format!("expected \"auto\" or \"required\", found {}", describe(&allowed["mode"]));
                    return Err(ApiError::field(format!("{PATH}.mode"), message));
                }
            };
            let list = allowed["tools"].as_array().filter(|list| !list.is_empty());
            let list = list.ok_or_else(|| {
                ApiError::field(format!("{PATH}.tools"), "missing; expected a list with at least one tool")
            })?;
            let named = |(i, entry): (usize, &Value)| {
                let path = format!("{PATH}.tools[{i}].function.name");
                let name = name_of(entry).or(entry["name"].as_str());
                tool(&path, name.ok_or_else(|| ApiError::field(&path, "missing; expected a string"))?)
            };
            let callable = list.iter().enumerate().map(named).collect::<ApiResult<_>>()?;
            Ok(Calling { choice: Some(mode), parallel, callable })
        }
        _ => {
            let message =
                format!("expected \"function\" or \"allowed_tools\", found {}", describe(&choice["type"]));
            Err(ApiError::field("tool_choice.type", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Calling, String> {
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        let read = read_tools(&mut fields).and_then(|tools| read_calling(&mut fields, &tools));
        read.map_err(|error| error.message)
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name}})
    }

    #[test]
    fn choices_are_read() {
        let tools = json!([tool("f"), tool("g")]);
        let both = || vec![tool("f"), tool("g")];
        let allowed = |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [tool("g")]}});
        let cases = [
            (json!({}), None, vec![]),
            (json!({"tool_choice": "auto"}), None, vec![]),
            (json!({"tools": tools}), Some(ToolChoice::Auto), both()),
            (json!({"tools": tools, "tool_choice": "none"}), None, both()),
            (json!({"tools": tools, "tool_choice": "required"}), Some(ToolChoice::Required), both()),
            (
                json!({"tools": tools, "tool_choice": tool("g")}),
                Some(ToolChoice::Named("g".to_owned())),
                vec![tool("g")],
            ),
            (
                json!({"tools": tools, "tool_choice": allowed("auto")}),
                Some(ToolChoice::Auto),
                vec![tool("g")],
            ),
            (
                json!({"tools": tools, "tool_choice": allowed("required")}),
                Some(ToolChoice::Required),
                vec![tool("g")],
            ),
        ];
        for (mut body, choice, callable) in cases {
            for (parallel, flag) in [(Parallel::Allowed, true), (Parallel::One, false)] {
                body["parallel_tool_calls"] = flag.into();
                let want = Calling { choice: choice.clone(), parallel, callable: callable.clone() };
                assert_eq!(read(&body), Ok(want), "{body}");
            }
        }
    }

    #[test]
    fn wrong_choices_name_their_place() {
        let tools = json!([tool("f")]);
        let cases = [
            (json!({"tool_choice": "required"}), "`tool_choice`: a call cannot be required without `tools`"),
            (json!({"tool_choice": tool("f")}), "`tool_choice.function.name`: \"f\" is not one of the tools"),
            (json!({"tools": tools, "tool_choice": "any"}), "`tool_choice`: expected none, auto, required"),
            (json!({"tools": tools, "tool_choice": 3}), "`tool_choice`: expected none, auto, required"),
            (json!({"tools": tools, "tool_choice": {}}), "`tool_choice.type`: expected \"function\""),
            (
                json!({"tools": tools, "tool_choice": {"type": "function"}}),
                "`tool_choice.function.name`: missing",
            ),
            (
                json!({"tools": tools, "tool_choice": {"type": "allowed_tools"}}),
                "`tool_choice.allowed_tools.mode`: expected \"auto\"",
            ),
            (
                json!({"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}),
                "`tool_choice.allowed_tools.tools`: missing",
            ),
            (
                json!({"tools": tools, "parallel_tool_calls": 1}),
                "`parallel_tool_calls`: expected true or false",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "x": "y".repeat(TOOLS_BYTES_MAX)}}]}),
                "`tools`: expected at most",
            ),
        ];
        for (body, want) in cases {
            let message = read(&body).unwrap_err();
            assert!(message.starts_with(want), "{want}: {message}");
        }
    }
}
