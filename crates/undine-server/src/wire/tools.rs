//! The tools of a chat, and what the request wants to happen with them.

use serde_json::{Map, Value};
use undine_text::exact;
use undine_text::grammar::{Parallel, ToolChoice};

use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers, describe, excerpt, is_neutral, mismatch};

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

/// The tools of a request.
#[derive(Default)]
pub(crate) struct Tools {
    /// As OpenAI writes them.
    pub(crate) list: Vec<Value>,
    /// Where the client wrote the schema of each.
    pub(crate) schema_paths: Vec<String>,
}

/// What other servers call the schema of a tool's arguments.
const SCHEMAS: [&str; 3] = ["parameters", "input_schema", "inputSchema"];
/// Hints about caching, which are no part of a tool.
const IGNORED: &[&str] = &["cache_control"];

/// Reads `tools`: functions with a name. Their text is the template's business. What nobody knows of a tool
/// goes to `strangers`.
pub(crate) fn read_tools(fields: &mut Fields, strangers: &mut Strangers) -> ApiResult<Tools> {
    let given = fields.list("tools", TOOLS_MAX)?.unwrap_or_default();
    let mut tools = Tools::default();
    for (i, tool) in given.into_iter().enumerate() {
        let (tool, schema_path) = read_tool(&format!("tools[{i}]"), tool, strangers)?;
        tools.list.push(tool);
        tools.schema_paths.push(schema_path);
    }
    let bytes: usize = tools.list.iter().map(|tool| exact::to_string(tool).len()).sum();
    if bytes > TOOLS_BYTES_MAX {
        let message = format!("expected at most {TOOLS_BYTES_MAX} bytes of tools, found {bytes}");
        return Err(ApiError::field("tools", message));
    }
    Ok(tools)
}

/// A tool as OpenAI writes it, with or without its type; or without the inner object, as in the Responses
/// API, Anthropic's and the Model Context Protocol.
fn read_tool(path: &str, tool: Value, strangers: &mut Strangers) -> ApiResult<(Value, String)> {
    let Value::Object(mut tool) = tool else { return Err(mismatch(path, "an object", &tool)) };
    let kind = tool.shift_remove("type").filter(|kind| !kind.is_null());
    let is_flat = !tool.contains_key("function") && tool.get("name").is_some_and(Value::is_string);
    let is_function = match kind.as_ref() {
        None => is_flat || tool.contains_key("function"),
        Some(kind) => {
            kind == "function" || (kind == "custom" && is_flat && tool.contains_key("input_schema"))
        }
    };
    if !is_function {
        let found = kind.as_ref().map_or("nothing".to_owned(), describe);
        return Err(ApiError::field(format!("{path}.type"), format!("expected \"function\", found {found}")));
    }
    for name in IGNORED {
        tool.shift_remove(*name);
    }
    let (function, schema_path) = if is_flat {
        let sent = SCHEMAS.into_iter().find(|name| tool.contains_key(*name)).unwrap_or(SCHEMAS[0]);
        let (function, schema) = take_function(&mut tool, sent);
        (function, format!("{path}.{schema}"))
    } else {
        let function = tool.shift_remove("function").unwrap_or_default();
        (function, format!("{path}.function.parameters"))
    };
    if !function.get("name").is_some_and(Value::is_string) {
        return Err(ApiError::field(format!("{path}.function.name"), "missing; expected a string"));
    }
    // What no model is shown: a template would print it among the tools.
    for (name, _) in tool.iter().filter(|(_, value)| !is_neutral(value)) {
        strangers.add(format!("{path}.{}", excerpt(name)));
    }
    let read = [("type", Value::from("function")), ("function", function)];
    Ok((read.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), schema_path))
}

/// Takes a function out of the tool that is one itself; `schema` is its name of the schema.
fn take_function<'a>(tool: &mut Map<String, Value>, schema: &'a str) -> (Value, &'a str) {
    let fields =
        [("name", "name"), ("description", "description"), (SCHEMAS[0], schema), ("strict", "strict")];
    let take = |(own, sent): (&str, &str)| Some((own.to_owned(), tool.shift_remove(sent)?));
    (Value::Object(fields.into_iter().filter_map(take).collect()), schema)
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
        Some(Value::String(word)) => match mode_of(word) {
            Some(choice) => all(choice),
            None => {
                let found = excerpt(word);
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

/// What a word says of calls; Anthropic and Mistral say `any` for `required`.
fn mode_of(word: &str) -> Option<Option<ToolChoice>> {
    match word {
        "none" => Some(None),
        "auto" => Some(Some(ToolChoice::Auto)),
        "required" | "any" => Some(Some(ToolChoice::Required)),
        _ => None,
    }
}

fn tool_at(path: &str, name: &str, tools: &[Value]) -> ApiResult<Value> {
    tools.iter().find(|tool| name_of(tool) == Some(name)).cloned().ok_or_else(|| {
        let names: Vec<&str> = tools.iter().filter_map(name_of).collect();
        let message = format!("{:?} is not one of the tools: {}", excerpt(name), excerpt(&names.join(", ")));
        ApiError::field(path, message)
    })
}

/// `{"type": "function", "function": {"name": …}}`, flat or with Anthropic's `{"type": "tool", "name": …}`,
/// a mode as a type, or the allowed tools.
fn read_named(choice: &Value, tools: &[Value], parallel: Parallel) -> ApiResult<Calling> {
    let parallel = match choice["disable_parallel_tool_use"] {
        Value::Bool(true) => Parallel::One,
        _ => parallel,
    };
    let has_name = choice.get("function").is_some() || choice.get("name").is_some();
    let kind = choice.get("type").filter(|kind| !kind.is_null());
    let kind = kind.map(|kind| kind.as_str().unwrap_or_default());
    if let Some(choice) = kind.and_then(mode_of) {
        return Ok(Calling { choice, parallel, callable: tools.to_vec() });
    }
    match kind {
        Some("function" | "tool") => read_function_choice(choice, tools, parallel),
        None if has_name => read_function_choice(choice, tools, parallel),
        Some("allowed_tools") => read_allowed(choice, tools, parallel),
        _ => {
            let message =
                format!("expected \"function\" or \"allowed_tools\", found {}", describe(&choice["type"]));
            Err(ApiError::field("tool_choice.type", message))
        }
    }
}

fn read_function_choice(choice: &Value, tools: &[Value], parallel: Parallel) -> ApiResult<Calling> {
    let is_flat = choice.get("function").is_none() && choice.get("name").is_some();
    let path = if is_flat { "tool_choice.name" } else { "tool_choice.function.name" };
    let name = if is_flat { choice["name"].as_str() } else { name_of(choice) };
    let name = name.ok_or_else(|| ApiError::field(path, "missing; expected a string"))?;
    let callable = vec![tool_at(path, name, tools)?];
    Ok(Calling { choice: Some(ToolChoice::Named(name.to_owned())), parallel, callable })
}

/// `{"type": "allowed_tools", "allowed_tools": {"mode": …, "tools": […]}}`, or without the inner object.
fn read_allowed(choice: &Value, tools: &[Value], parallel: Parallel) -> ApiResult<Calling> {
    let is_flat = choice.get("allowed_tools").is_none() && choice.get("tools").is_some();
    let path = if is_flat { "tool_choice" } else { "tool_choice.allowed_tools" };
    let allowed = if is_flat { choice } else { &choice["allowed_tools"] };
    let mode = match allowed["mode"].as_str().and_then(mode_of) {
        Some(Some(mode)) => mode,
        _ => {
            let message = format!("expected \"auto\" or \"required\", found {}", describe(&allowed["mode"]));
            return Err(ApiError::field(format!("{path}.mode"), message));
        }
    };
    let list = allowed["tools"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| {
        ApiError::field(format!("{path}.tools"), "missing; expected a list with at least one tool")
    })?;
    let named = |(i, entry): (usize, &Value)| {
        let path = format!("{path}.tools[{i}].function.name");
        let name = name_of(entry).or(entry["name"].as_str());
        tool_at(&path, name.ok_or_else(|| ApiError::field(&path, "missing; expected a string"))?, tools)
    };
    let callable = list.iter().enumerate().map(named).collect::<ApiResult<_>>()?;
    Ok(Calling { choice: Some(mode), parallel, callable })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<Calling, String> {
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        let read = read_tools(&mut fields, &mut Strangers::default())
            .and_then(|tools| read_calling(&mut fields, &tools.list));
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
            (json!({"tools": tools, "tool_choice": "any"}), Some(ToolChoice::Required), both()),
            (json!({"tools": tools, "tool_choice": {"type": "any"}}), Some(ToolChoice::Required), both()),
            (
                json!({"tools": tools, "tool_choice": {"type": "required"}}),
                Some(ToolChoice::Required),
                both(),
            ),
            (json!({"tools": tools, "tool_choice": {"type": "auto"}}), Some(ToolChoice::Auto), both()),
            (json!({"tools": tools, "tool_choice": {"type": "none"}}), None, both()),
            (
                json!({"tools": tools, "tool_choice": {"type": "tool", "name": "g"}}),
                Some(ToolChoice::Named("g".to_owned())),
                vec![tool("g")],
            ),
            (
                json!({"tools": tools, "tool_choice": {"type": "function", "name": "g"}}),
                Some(ToolChoice::Named("g".to_owned())),
                vec![tool("g")],
            ),
            (
                json!({"tools": tools, "tool_choice": {"function": {"name": "g"}}}),
                Some(ToolChoice::Named("g".to_owned())),
                vec![tool("g")],
            ),
            (
                json!({"tools": tools, "tool_choice":
                    {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}}),
                Some(ToolChoice::Required),
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
    fn tools_are_read_in_every_spelling() {
        let schema = json!({"type": "object"});
        let whole = |strict: Value| {
            let mut function = json!({"name": "f", "description": "d", "parameters": schema});
            function.as_object_mut().unwrap().extend(strict.as_object().unwrap().clone());
            json!({"type": "function", "function": function})
        };
        let plain = || whole(json!({}));
        for (given, want, path, strangers) in [
            (plain(), plain(), "tools[0].function.parameters", vec![]),
            (json!({"function": plain()["function"]}), plain(), "tools[0].function.parameters", vec![]),
            (
                json!({"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": true}),
                whole(json!({"strict": true})),
                "tools[0].parameters",
                vec![],
            ),
            (
                json!({"name": "f", "description": "d", "input_schema": schema, "cache_control": {"type": "x"}}),
                plain(),
                "tools[0].input_schema",
                vec![],
            ),
            (
                json!({"type": "custom", "name": "f", "description": "d", "input_schema": schema, "defer": true}),
                plain(),
                "tools[0].input_schema",
                vec!["tools[0].defer"],
            ),
            (
                json!({"name": "f", "description": "d", "inputSchema": schema}),
                plain(),
                "tools[0].inputSchema",
                vec![],
            ),
            (
                json!({"type": "function", "function": plain()["function"], "server": "x", "note": ""}),
                plain(),
                "tools[0].function.parameters",
                vec!["tools[0].server"],
            ),
        ] {
            let body = json!({"tools": [given]}).to_string();
            let mut named = Strangers::default();
            let read = read_tools(&mut Fields::parse(body.as_bytes()).unwrap(), &mut named).unwrap();
            assert_eq!((&read.list[0], read.schema_paths[0].as_str()), (&want, path), "{body}");
            assert_eq!(named.told(), strangers, "{body}");
        }
    }

    #[test]
    fn wrong_choices_name_their_place() {
        let tools = json!([tool("f")]);
        let cases = [
            (json!({"tool_choice": "required"}), "`tool_choice`: a call cannot be required without `tools`"),
            (json!({"tool_choice": tool("f")}), "`tool_choice.function.name`: \"f\" is not one of the tools"),
            (json!({"tools": tools, "tool_choice": "some"}), "`tool_choice`: expected none, auto, required"),
            (
                json!({"tools": tools, "tool_choice": {"type": "tool", "name": "x"}}),
                "`tool_choice.name`: \"x\" is not one of the tools",
            ),
            (json!({"tools": [{"type": "web_search"}]}), "`tools[0].type`: expected \"function\""),
            (
                json!({"tools": [{"description": "x"}]}),
                "`tools[0].type`: expected \"function\", found nothing",
            ),
            (json!({"tools": ["f"]}), "`tools[0]`: expected an object"),
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
