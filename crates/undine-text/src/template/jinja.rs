//! A template in Jinja: compiled, probed and rendered in this process, on limited fuel, recursion and output, without files
//! or network.

use std::fmt;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::{Value as Json, json};

use super::generation_tags::without_generation_tags;
use super::{ChatInput, FUEL_MAX, RECURSION_MAX, RENDERED_BYTES_MAX, TemplateTraits, python_json};
use crate::TextError;
use crate::stream::{THINK_END, THINK_START};

const NAME: &str = "chat_template";

/// A compiled template.
#[derive(Debug)]
pub struct Jinja {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Jinja {
    /// Compiles it. `bos` and `eos` are the texts of those tokens, for the template's use.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TextError::TemplateSyntax(describe(&error)))?);
        environment.set_fuel(Some(FUEL_MAX));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", python_json::tojson);
        environment
            .add_test("iterable", |value: &Value| is_sequence(value) || value.kind() == ValueKind::Iterable);
        environment.add_test("sequence", is_sequence);
        environment
            .add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| TextError::TemplateSyntax(describe(&error)))?;
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        Ok(Self { environment, bos, eos })
    }

    /// Renders a prompt.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).expect("added by new");
        let mut variables = vec![
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("documents", Value::from(())),
        ];
        // Of two entries of one name, the later stands.
        variables.extend(input.kwargs.iter().map(|(name, value)| (name.as_str(), value_of(value))));
        variables.push(("messages", list_of(input.messages)));
        variables.push(("tools", input.tools.map_or(Value::from(()), list_of)));
        let mut output = LimitedOutput(Vec::new());
        let rendered = template.render_captured_to(Value::from_pairs(variables), &mut output);
        rendered.map_err(|error| render_error(&error))?;
        Ok(String::from_utf8(output.0).expect("a template writes text"))
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
            self.render(&ChatInput { messages: &messages, tools, add_generation_prompt: true, kwargs })
        };
        let shows =
            |messages: &[&Json], tools| render(messages, tools).is_ok_and(|text| text.contains(PROBE));
        let template = self.environment.get_template(NAME).expect("added by new");
        TemplateTraits {
            tools: shows(&[&question], Some(&tools)),
            tool_calls: shows(&[&question, &calling, &result], None),
            thoughts: shows(&[&question, &thinking, &result], None),
            drops_past_thoughts: render(&[&question, &thought, &question, &answer], None)
                .is_ok_and(|text| !text.contains(PROBE) && text.contains('y')),
            enable_thinking: template.undeclared_variables(false).contains("enable_thinking"),
        }
    }
}

/// Collects a rendering up to [`RENDERED_BYTES_MAX`].
struct LimitedOutput(Vec<u8>);

impl Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            return Err(io::Error::other(format!("the prompt is longer than {RENDERED_BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message of `raise_exception`, kept apart from the engine's own errors.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Local time, as in Hugging Face's templates.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// Python's string, list and dict methods: the library's, and two that it lacks.
fn python_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Python's idea of a sequence, which is wider than the library's: Jinja asks for a length and for items.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

fn render_error(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return TextError::TemplateRaised(message.clone());
        }
        cause = inner.source();
    }
    TextError::TemplateRender(describe(error))
}

fn list_of(items: &[Json]) -> Value {
    Value::from(items.iter().map(value_of).collect::<Vec<_>>())
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => list_of(items),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), value_of(field))))
        }
    }
}

/// One line: what, where, and the causes.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
