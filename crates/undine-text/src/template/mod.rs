//! Chat templates: messages and tools to prompt text, as Hugging Face transformers renders them.
//!
//! A template is a program from outside, and its library bounds steps, not memory: twenty steps can double a
//! text into all there is. So templates of model files and requests run in helper processes
//! ([`ChatTemplate::isolated`]); where there are none, and in tests, in this one ([`ChatTemplate::new`]).

mod jinja;
pub mod own;
mod python_json;
pub mod thinking;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use undine_helper::{Budget, Cancel, Helpers};

use crate::helper::{self, JobRef, Reply, TemplateJob, TemplateRef};
use crate::stream::THINK_START;
use crate::{TextError, exact};
use jinja::Jinja;

/// Longest template accepted; published ones have under 20 kB.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Instructions a rendering may take: some hundred per message and thousands of messages.
pub const FUEL_MAX: u64 = 10_000_000;
/// Depth of nested calls, loops and includes.
pub const RECURSION_MAX: usize = 200;
/// Longest prompt a template may write.
pub const RENDERED_BYTES_MAX: usize = 64 << 20;
/// Levels of lists and objects in what is rendered.
pub const VALUE_DEPTH_MAX: usize = 100;

/// What one compilation with its probes, or one rendering, may take: far more than any conversation that fits
/// a context.
pub const BUDGET: Budget = Budget { cpu_seconds: 4, memory_mib: 1024, wall: Duration::from_secs(60) };

/// What to render.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// Messages, oldest first: objects with `role`, `content` and whatever else the template reads.
    pub messages: &'a [Json],
    /// Tool definitions; `None` renders as without tools.
    pub tools: Option<&'a [Json]>,
    /// End with the header of an assistant message, for the model to continue.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`. They win over all but messages and
    /// tools.
    pub kwargs: &'a serde_json::Map<String, Json>,
}

/// A chat template that has been compiled once, so that its form is right.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    place: Place,
    traits: TemplateTraits,
    /// Variables of every rendering. Those of a request win over them.
    variables: serde_json::Map<String, Json>,
    /// What renders conversations with tools, if that is another template.
    with_tools: Option<Box<ChatTemplate>>,
}

/// Where it runs.
#[derive(Debug)]
enum Place {
    Here(Box<Jinja>),
    Helpers { helpers: Arc<Helpers>, job: TemplateJob },
}

/// What a template does with the parts of a message that are not its text. Found out by rendering probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TemplateTraits {
    /// Tool definitions reach the prompt.
    pub tools: bool,
    /// So do the tool calls of past turns.
    pub tool_calls: bool,
    /// So do the thoughts of the turn that is going on, given as a field of its own.
    pub thoughts: bool,
    /// Thoughts within the text of a turn before the last question are left out.
    pub drops_past_thoughts: bool,
    /// There is a variable `enable_thinking`.
    pub enable_thinking: bool,
}

impl ChatTemplate {
    /// Compiles a Jinja template in this process: one that is trusted not to exhaust it. `bos` and `eos` are
    /// the texts of those tokens, for the template's use.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        check_length(source)?;
        let jinja = caught(|| Jinja::new(source, bos, eos))?;
        let traits = caught(|| Ok(jinja.probe()))?;
        Ok(Self::of(source.to_owned(), Place::Here(Box::new(jinja)), traits))
    }

    fn of(source: String, place: Place, traits: TemplateTraits) -> Self {
        Self { source, place, traits, variables: serde_json::Map::new(), with_tools: None }
    }

    /// The same with variables that every rendering has, such as the texts of special tokens.
    pub fn with_variables(self, variables: serde_json::Map<String, Json>) -> Self {
        Self { variables, ..self }
    }

    /// The same with another template for conversations that have tools.
    pub fn with_tools(self, other: Self) -> Self {
        Self { with_tools: Some(Box::new(other)), ..self }
    }

    /// The variables that every rendering has.
    pub fn variables(&self) -> &serde_json::Map<String, Json> {
        &self.variables
    }

    /// The template that renders conversations with tools.
    pub fn for_tools(&self) -> &Self {
        self.with_tools.as_deref().unwrap_or(self)
    }

    /// The same in helper processes, whose budget ([`BUDGET`] is a sensible one) is for one compilation or
    /// rendering.
    pub fn isolated(
        source: &str,
        bos: &str,
        eos: &str,
        helpers: &Arc<Helpers>,
        cancel: &Cancel,
    ) -> Result<Self, TextError> {
        check_length(source)?;
        let job = TemplateJob { source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() };
        let call = JobRef::Template { template: TemplateRef::of(&job), input: None };
        match helper::call(helpers, &call, cancel).map_err(TextError::of_template)?? {
            Reply::Traits(traits) => {
                let source = source.to_owned();
                Ok(Self::of(source, Place::Helpers { helpers: Arc::clone(helpers), job }, traits))
            }
            _ => Err(TextError::confused()),
        }
    }

    /// Renders a prompt. It begins with BOS if the template writes it: encode it with a `Bos` that never
    /// doubles.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        self.render_until(input, &Cancel::default())
    }

    /// The same, given up when nobody wants it any more.
    pub fn render_until(&self, input: &ChatInput<'_>, cancel: &Cancel) -> Result<String, TextError> {
        if input.tools.is_some()
            && let Some(other) = &self.with_tools
        {
            return other.render_until(input, cancel);
        }
        check_depth(input)?;
        let mut kwargs = Cow::Borrowed(input.kwargs);
        if !self.variables.is_empty() {
            let variables = self.variables.iter().chain(input.kwargs);
            kwargs = Cow::Owned(variables.map(|(name, value)| (name.clone(), value.clone())).collect());
        }
        let input = &ChatInput { kwargs: &kwargs, ..*input };
        match &self.place {
            Place::Here(jinja) => caught(|| jinja.render(input)),
            Place::Helpers { helpers, job } => {
                let call = JobRef::Template { template: TemplateRef::of(job), input: Some(input.into()) };
                match helper::call(helpers, &call, cancel).map_err(TextError::of_template)?? {
                    Reply::Rendered(text) => Ok(text),
                    _ => Err(TextError::confused()),
                }
            }
        }
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it does with tools, calls and thoughts.
    pub fn traits(&self) -> TemplateTraits {
        self.traits
    }
}

/// Templates that a helper has compiled, the latest first.
#[derive(Default)]
pub(crate) struct Compiled(Vec<(TemplateJob, Jinja)>);

/// Templates that a helper keeps.
const COMPILED_MAX: usize = 4;

impl Compiled {
    /// Does a job in a helper: compiles and probes, or renders.
    pub(crate) fn work(
        &mut self,
        job: TemplateJob,
        input: Option<ChatInput<'_>>,
    ) -> Result<Reply, TextError> {
        let jinja = self.find(job)?;
        caught(|| match input {
            Some(input) => jinja.render(&input).map(Reply::Rendered),
            None => Ok(Reply::Traits(jinja.probe())),
        })
    }

    fn find(&mut self, job: TemplateJob) -> Result<&Jinja, TextError> {
        let Self(compiled) = self;
        match compiled.iter().position(|(known, _)| *known == job) {
            Some(at) => compiled[..=at].rotate_right(1),
            None => {
                let jinja = caught(|| Jinja::new(&job.source, &job.bos, &job.eos))?;
                compiled.truncate(COMPILED_MAX - 1);
                compiled.insert(0, (job, jinja));
            }
        }
        Ok(&compiled[0].1)
    }
}

fn check_length(source: &str) -> Result<(), TextError> {
    if source.len() > TEMPLATE_BYTES_MAX {
        return Err(TextError::TemplateTooLong { bytes: source.len(), limit: TEMPLATE_BYTES_MAX });
    }
    Ok(())
}

/// Refuses values that nest deeper than a walk over them may go.
fn check_depth(input: &ChatInput<'_>) -> Result<(), TextError> {
    let ChatInput { messages, tools, kwargs, .. } = input;
    let fits = |value: &Json| fits_in(value, VALUE_DEPTH_MAX);
    let place = if !messages.iter().all(fits) {
        "messages"
    } else if !tools.unwrap_or_default().iter().all(fits) {
        "tools"
    } else if !kwargs.values().all(fits) {
        "chat_template_kwargs"
    } else {
        return Ok(());
    };
    Err(TextError::TemplateDepth { place, limit: VALUE_DEPTH_MAX })
}

/// Whether a value has at most so many levels.
fn fits_in(value: &Json, levels: usize) -> bool {
    match (value, levels) {
        (Json::Array(_) | Json::Object(_), 0) => false,
        (Json::Array(items), _) => items.iter().all(|item| fits_in(item, levels - 1)),
        (Json::Object(fields), _) => fields.values().all(|field| fits_in(field, levels - 1)),
        _ => true,
    }
}

/// A value as Python's `json.dumps(value, ensure_ascii=False)` writes it.
pub fn json_dumps(value: &Json) -> String {
    // What nests too deep for a template is written all the same.
    jinja::dumps(value).unwrap_or_else(|_| exact::to_string(value))
}

/// A panic of the library as an error: innocent templates have met some.
fn caught<T>(work: impl FnOnce() -> Result<T, TextError>) -> Result<T, TextError> {
    // What it works on is not used again after a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(TextError::TemplateRender(format!("a fault of the template library: {text}")))
    })
}

/// Whether a rendered prompt leaves the model inside its reasoning.
pub fn ends_in_think(rendered: &str) -> bool {
    rendered.trim_end().ends_with(THINK_START)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_a_depth() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        for (value, levels, fits) in [
            (json!(1), 0, true),
            (json!([]), 0, false),
            (json!([1, "x"]), 1, true),
            (json!({"a": {"b": 1}}), 1, false),
            (json!({"a": {"b": 1}}), 2, true),
            (nested(VALUE_DEPTH_MAX), VALUE_DEPTH_MAX, true),
            (nested(VALUE_DEPTH_MAX + 1), VALUE_DEPTH_MAX, false),
        ] {
            assert_eq!(fits_in(&value, levels), fits, "{value} {levels}");
        }
        let template = ChatTemplate::new("{{ messages[0].content }}", "", "").unwrap();
        let messages = [json!({"role": "user", "content": nested(VALUE_DEPTH_MAX)})];
        let input = ChatInput {
            messages: &messages,
            tools: None,
            add_generation_prompt: true,
            kwargs: &serde_json::Map::new(),
        };
        let error = template.render(&input).unwrap_err().to_string();
        assert!(error.contains("messages") && error.contains(&VALUE_DEPTH_MAX.to_string()), "{error}");
    }

    #[test]
    fn special_tokens_are_variables_and_tools_may_have_a_template_of_their_own() {
        let template = |source: &str| ChatTemplate::new(source, "B", "E").unwrap();
        let variables = json!({"pad_token": "P", "image_token": "I", "bos_token": "<s>"});
        let variables = variables.as_object().unwrap().clone();
        let plain = template("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}{{ cls_token }}");
        let template =
            plain.with_variables(variables).with_tools(template("{{ bos_token }}{{ tools | length }}"));
        let tools = [json!({})];
        let kwargs = |json: Json| json.as_object().unwrap().clone();
        for (kwargs, tools, expected) in [
            (kwargs(json!({})), None, "<s>EPI"),
            (kwargs(json!({"pad_token": "Q", "cls_token": "C"})), None, "<s>EQIC"),
            (kwargs(json!({})), Some(&tools[..]), "B1"),
        ] {
            let input = ChatInput { messages: &[], tools, add_generation_prompt: true, kwargs: &kwargs };
            assert_eq!(template.render(&input).unwrap(), expected);
        }
        assert!(!template.traits().tools && !template.for_tools().traits().drops_past_thoughts);
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = caught::<()>(|| panic!("a test of panics")).unwrap_err().to_string();
        assert!(error.contains("a test of panics"), "{error}");
    }

    #[test]
    fn a_helper_keeps_what_it_compiled() {
        let mut compiled = Compiled::default();
        let job = |n: usize| TemplateJob {
            source: format!("{n}{{{{ eos_token }}}}"),
            bos: String::new(),
            eos: "e".to_owned(),
        };
        let input = ChatInput {
            messages: &[],
            tools: None,
            add_generation_prompt: true,
            kwargs: &serde_json::Map::new(),
        };
        for n in [0, 1, 0, 2, 3, 4, 5, 0] {
            match compiled.work(job(n), Some(input)).unwrap() {
                Reply::Rendered(text) => assert_eq!(text, format!("{n}e")),
                _ => panic!("a rendering is a text"),
            }
            assert_eq!(compiled.0[0].0, job(n));
            assert!(compiled.0.len() <= COMPILED_MAX);
        }
    }
}
