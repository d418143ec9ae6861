//! A template in Jinja: parsed, probed and rendered in this process, on limited fuel, depth and output,
//! without files or network.
//!
//! The language is that of Jinja2 3.1 as transformers sets it up: the immutable sandbox, `trim_blocks`,
//! `lstrip_blocks`, `break` and `continue`, `tojson` of its own, `{% generation %}`. It is written here
//! because what a prompt says is what Python prints: its numbers, its `repr`, its methods, its scopes.
//! `tests/text/jinja.rs` compares them.

mod ast;
mod calls;
mod eval;
mod exec;
mod expressions;
mod filters;
mod format;
mod frames;
mod functions;
mod lexer;
mod loops;
mod methods;
pub mod number;
mod ops;
pub mod order;
mod parser;
pub mod print;
mod slices;
mod spec;
mod strftime;
mod tests;
mod text;
mod text_methods;
pub mod value;

use indexmap::IndexMap;
use serde_json::{Value as Json, json};

use super::{ChatInput, FUEL_MAX, TemplateTraits, python_json};
use crate::stream::{THINK_END, THINK_START};
use crate::{TextError, exact};
use ast::Symbol;
pub use eval::Interpreter;
use eval::Stop;
use parser::Template;
use value::{Dict, Key, Value};

/// Fuel of one probe, which is small: a template that never ends is known as soon as its model is loaded.
const PROBE_FUEL_MAX: u64 = FUEL_MAX / 16;

/// A compiled template.
#[derive(Debug)]
pub struct Jinja {
    template: Template,
    bos: String,
    eos: String,
}

impl Jinja {
    /// Compiles it. `bos` and `eos` are the texts of those tokens, for the template's use.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        let template = parser::parse(source).map_err(TextError::TemplateSyntax)?;
        Ok(Self { template, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Renders a prompt.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        self.render_on(input, FUEL_MAX)
    }

    fn render_on(&self, input: &ChatInput<'_>, fuel: u64) -> Result<String, TextError> {
        let variables = self.variables(input).map_err(TextError::TemplateRender)?;
        let mut interpreter = Interpreter::new(&self.template, variables, fuel);
        let mut out = String::new();
        match interpreter.exec(&self.template.body, &mut out) {
            Ok(_) => Ok(out),
            Err(Stop::Raised(message)) => Err(TextError::TemplateRaised(message)),
            Err(Stop::Failed(text, Some(line))) => {
                Err(TextError::TemplateRender(format!("{text} (line {line})")))
            }
            Err(Stop::Failed(text, None)) => Err(TextError::TemplateRender(text)),
        }
    }

    /// The variables that it names, of those that it is given.
    fn variables(&self, input: &ChatInput<'_>) -> Result<Vec<(Symbol, Value)>, String> {
        let mut variables: Vec<(Symbol, Value)> = Vec::new();
        let list = |items: &[Json]| Value::list(items.iter().map(value_of).collect::<Result<_, _>>()?);
        for (index, name) in self.template.names.iter().enumerate() {
            let value = match &**name {
                "messages" => list(input.messages)?,
                "tools" => input.tools.map_or(Ok(Value::None), list)?,
                // They win over all but messages and tools.
                name if input.kwargs.contains_key(name) => value_of(&input.kwargs[name])?,
                "bos_token" => Value::text(self.bos.as_str()),
                "eos_token" => Value::text(self.eos.as_str()),
                "add_generation_prompt" => Value::Bool(input.add_generation_prompt),
                "documents" => Value::None,
                _ => continue,
            };
            variables.push((Symbol(index as u32), value));
        }
        Ok(variables)
    }

    /// What it does with tools, calls and thoughts.
    pub fn probe(&self) -> TemplateTraits {
        const PROBE: &str = "undine_probe";
        let question = json!({"role": "user", "content": "x"});
        let function =
            json!({"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}});
        let tools = [json!({"type": "function", "function": function})];
        let call = json!({"id": "1", "type": "function", "function": {"name": PROBE, "arguments": {}}});
        let calling = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        let thinking = json!({
            "role": "assistant", "content": "y", "thinking": PROBE, "reasoning": PROBE, "reasoning_content": PROBE
        });
        let thought = json!({"role": "assistant", "content": format!("{THINK_START}{PROBE}{THINK_END}y")});
        let result = json!({"role": "tool", "content": "x", "tool_call_id": "1"});
        let answer = json!({"role": "assistant", "content": "z"});
        let render = |messages: &[&Json], tools| {
            let messages: Vec<Json> = messages.iter().copied().cloned().collect();
            let kwargs = &serde_json::Map::new();
            let input = ChatInput { messages: &messages, tools, add_generation_prompt: true, kwargs };
            self.render_on(&input, PROBE_FUEL_MAX)
        };
        let shows =
            |messages: &[&Json], tools| render(messages, tools).is_ok_and(|text| text.contains(PROBE));
        TemplateTraits {
            tools: shows(&[&question], Some(&tools)),
            tool_calls: shows(&[&question, &calling, &result], None),
            thoughts: shows(&[&question, &thinking, &result], None),
            drops_past_thoughts: render(&[&question, &thought, &question, &answer], None)
                .is_ok_and(|text| !text.contains(PROBE) && text.contains('y')),
            enable_thinking: self.template.names.iter().any(|name| **name == *"enable_thinking"),
        }
    }
}

/// JSON as Python's `json.loads` reads it.
fn value_of(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => number::shrunk(number.into())?.value(),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::text(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(value_of).collect::<Result<_, _>>()?)?,
        Json::Object(fields) => {
            if let Some(digits) = exact::of_fields(fields) {
                return odd_number(digits);
            }
            let mut map = IndexMap::with_capacity(fields.len());
            for (key, field) in fields {
                map.insert(Key(Value::text(key.as_str())), value_of(field)?);
            }
            Value::Dict(Dict::new(map)?)
        }
    })
}

/// `json.dumps(value, ensure_ascii=False)`.
pub fn dumps(json: &Json) -> Result<String, String> {
    python_json::dumps(&value_of(json)?, python_json::Options::default())
}

/// A number that is no 64 bits: `-0` is 0 in Python, and what is too large for a double infinite.
fn odd_number(digits: &str) -> Result<Value, String> {
    match number::parse_int(digits, 10) {
        Some(number) => number.map(number::Num::value),
        None => Ok(Value::Float(digits.parse().unwrap_or(f64::NAN))),
    }
}
