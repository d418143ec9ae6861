//! Tools a request declares, and the calls a model writes.
//!
//! Invariant: a [`ToolSet`] holds unique names that the LFM2 call format can spell, and parameter schemas
//! that are objects. What a model writes is never trusted: see [`ToolParser`].

mod call;
mod coerce;
mod cut;
mod emit;
mod fits;
mod lexer;
mod literal;
mod number;
mod parser;
mod stream;
mod unmarked;

pub(crate) use call::is_name_char;
pub use parser::ToolParser;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{TextError, exact};

/// Tools of one request.
pub const TOOLS_MAX: usize = 512;
/// Bytes of a tool's name.
pub const TOOL_NAME_BYTES_MAX: usize = 256;
/// Bytes of the parameter schema of one tool, written as JSON.
pub const TOOL_SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// What opens a list of calls.
pub const TOOL_CALL_START: &str = "<|tool_call_start|>";
/// What closes it.
pub const TOOL_CALL_END: &str = "<|tool_call_end|>";

/// How a model writes its calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ToolFormat {
    /// `<|tool_call_start|>[f(a="x", b=1), g()]<|tool_call_end|>`, or the same as JSON between the same
    /// markers.
    ///
    /// And as models do that were tuned elsewhere, if every name in it is declared: such a list or such JSON
    /// as all of the answer, in a fence or not, and JSON between `<tool_call>` and `</tool_call>` anywhere.
    #[default]
    Lfm2,
    /// The same between the model's own markers alone: where the answer itself may be such a text.
    Lfm2Marked,
}

/// What happens to a call whose schema says more than grammars can enforce.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Strictness {
    /// `"strict": true`: the request is refused.
    Strict,
    /// The call is valid in form, its arguments as far as grammars go.
    BestEffort,
}

/// A function the model may call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Tool {
    name: String,
    strictness: Strictness,
    parameters: Arc<Json>,
}

impl Tool {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The JSON schema of its arguments; an object. A tool that declares none takes no arguments.
    pub fn parameters(&self) -> &Json {
        &self.parameters
    }

    /// Whether its schema may be relaxed.
    pub fn strictness(&self) -> Strictness {
        self.strictness
    }

    /// The schemas of the declared arguments, in the order in which they were declared.
    pub fn properties(&self) -> Option<&Map<String, Json>> {
        self.parameters.get("properties").and_then(Json::as_object)
    }
}

/// The functions one request declares.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ToolSet {
    tools: Vec<Tool>,
}

impl ToolSet {
    /// Reads the `tools` of a request: `{"type": "function", "function": {"name", "parameters", ..}}`.
    pub fn new(tools: &[Json]) -> Result<Self, TextError> {
        if tools.len() > TOOLS_MAX {
            let found = format!("tools has {} entries; expected at most {TOOLS_MAX}", tools.len());
            return Err(TextError::Tools(found));
        }
        let mut set = Self { tools: Vec::with_capacity(tools.len()) };
        for (index, tool) in tools.iter().enumerate() {
            let tool = read_tool(tool).map_err(|why| TextError::Tools(format!("tools[{index}]{why}")))?;
            if set.get(&tool.name).is_some() {
                let found = format!("tools[{index}].function.name: {:?} is declared twice", tool.name);
                return Err(TextError::Tools(found));
            }
            set.tools.push(tool);
        }
        Ok(set)
    }

    /// A tool that has been read.
    pub(crate) fn of_one(tool: Tool) -> Self {
        Self { tools: vec![tool] }
    }

    /// The tools, as declared.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// A tool by its name.
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}

/// What is wrong is said from the place of the tool on: `.function.name: ..`.
fn read_tool(tool: &Json) -> Result<Tool, String> {
    match tool.get("type") {
        Some(Json::String(kind)) if kind == "function" => {}
        found => {
            return Err(format!(".type: expected \"function\", found {}", found.unwrap_or(&Json::Null)));
        }
    }
    let function = tool.get("function").and_then(Json::as_object);
    let function = function.ok_or(".function: expected an object with a name and parameters")?;
    let name = function.get("name").and_then(Json::as_str);
    let name = name.ok_or(".function.name: expected a text")?;
    if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX || !name.chars().all(call::is_name_char) {
        return Err(format!(
            ".function.name: {name:?} cannot be called; expected letters, digits, '_', '-', '.', ':' and '/', at most {TOOL_NAME_BYTES_MAX} bytes"
        ));
    }
    let parameters = match function.get("parameters") {
        None | Some(Json::Null | Json::Bool(_)) => Json::Object(Map::new()),
        // What PHP makes of an object without entries.
        Some(Json::Array(list)) if list.is_empty() => Json::Object(Map::new()),
        Some(parameters @ Json::Object(_)) => parameters.clone(),
        Some(found) => {
            return Err(format!(".function.parameters: expected a JSON schema (an object), found {found}"));
        }
    };
    let bytes = exact::to_string(&parameters).len();
    if bytes > TOOL_SCHEMA_BYTES_MAX {
        return Err(format!(".function.parameters: {bytes} bytes; expected at most {TOOL_SCHEMA_BYTES_MAX}"));
    }
    let strictness = match function.get("strict") {
        Some(Json::Bool(true)) => Strictness::Strict,
        _ => Strictness::BestEffort,
    };
    Ok(Tool { name: name.to_owned(), strictness, parameters: Arc::new(parameters) })
}
