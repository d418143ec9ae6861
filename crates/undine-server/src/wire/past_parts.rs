//! Parts of an assistant's past content that are no text: thoughts and calls, as Anthropic's, Mistral's and
//! LangChain's clients keep them. They are lifted to where templates look for them.

use serde_json::Value;

use crate::wire::calls::read_call;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers};

/// Fields that may hold the text of a thought.
const TEXTS: [&str; 5] = ["thinking", "reasoning", "text", "content", "summary"];
/// Seals and numbers of thoughts, which are the other server's own.
const IGNORED: &[&str] = &["type", "id", "index", "signature", "encrypted_content", "format", "status"];

/// What was lifted out of a content.
#[derive(Default)]
pub(crate) struct Past {
    pub(crate) thoughts: Option<String>,
    pub(crate) calls: Vec<Value>,
}

impl Past {
    /// Takes a part that is no text; gives any other one back.
    pub(crate) fn lift(
        &mut self,
        path: &str,
        part: Value,
        strangers: &mut Strangers,
    ) -> ApiResult<Option<Value>> {
        match part.get("type").and_then(Value::as_str) {
            Some("thinking" | "reasoning") => {
                let mut part = Fields::nested(path, part)?;
                let thought = read_thought(&mut part)?;
                part.ignore(IGNORED);
                part.leave(strangers);
                self.thoughts = Some(match self.thoughts.take() {
                    Some(before) => format!("{before}\n{thought}"),
                    None => thought,
                });
            }
            // Nobody but its maker can read it.
            Some("redacted_thinking") => strangers.add(path.to_owned()),
            Some("tool_use" | "tool_call" | "function_call") => {
                self.calls.push(read_call(Fields::nested(path, part)?, strangers)?);
            }
            _ => return Ok(Some(part)),
        }
        Ok(None)
    }
}

/// A text, or a list of parts with texts.
fn read_thought(part: &mut Fields) -> ApiResult<String> {
    let mut lines = Vec::new();
    for name in TEXTS {
        let path = part.path(name);
        match part.take(name) {
            None => {}
            Some(Value::String(text)) => lines.push(text),
            Some(Value::Array(list)) => {
                for (i, entry) in list.iter().enumerate() {
                    let text = entry.as_str().or_else(|| entry.get("text")?.as_str());
                    lines.push(text.map(str::to_owned).ok_or_else(|| {
                        ApiError::field(format!("{path}[{i}].text"), "missing; expected a string")
                    })?);
                }
            }
            Some(_) => return Err(ApiError::field(path, "expected a string or a list of parts with text")),
        }
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines.join("\n"))
}
