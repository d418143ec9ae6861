//! What this crate's work in helper processes is: the jobs, their results as bytes, and the helper's side of
//! it.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use undine_helper::{Cancel, Helpers, JobError};

use crate::TextError;
use crate::grammar::{AnswerFormat, Library, Made, ToolRules, Words};
use crate::template::{ChatInput, Compiled, TemplateTraits};

/// The first byte of a job whose other bytes are JSON.
const JSON: u8 = b'J';
/// The first byte of a job whose other bytes are a vocabulary.
const VOCABULARY: u8 = b'V';

/// A template and the texts that it may use.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct TemplateJob {
    pub(crate) source: String,
    pub(crate) bos: String,
    pub(crate) eos: String,
}

/// A job as its caller has it.
#[derive(Serialize)]
#[serde(rename = "Job")]
pub(crate) enum JobRef<'a> {
    /// Compile and probe a template, or render with it.
    Template { template: TemplateRef<'a>, input: Option<InputRef<'a>> },
    /// See whether rules can be compiled, and into what.
    Rules { format: &'a AnswerFormat, tools: Option<&'a ToolRules> },
}

#[derive(Serialize)]
pub(crate) struct TemplateRef<'a> {
    source: &'a str,
    bos: &'a str,
    eos: &'a str,
}

#[derive(Serialize)]
pub(crate) struct InputRef<'a> {
    messages: &'a [Json],
    tools: Option<&'a [Json]>,
    add_generation_prompt: bool,
    kwargs: &'a Map<String, Json>,
}

/// The same as the helper reads it.
#[derive(Deserialize)]
enum Job {
    Template { template: TemplateJob, input: Option<Input> },
    Rules { format: AnswerFormat, tools: Option<ToolRules> },
}

#[derive(Deserialize)]
struct Input {
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    add_generation_prompt: bool,
    kwargs: Map<String, Json>,
}

/// What came of a job.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Traits(TemplateTraits),
    Rendered(String),
    Rules(Made),
    /// Of a setup, whose reply nobody reads.
    Done,
}

/// A [`TextError`] that a job can yield, as it travels.
#[derive(Serialize, Deserialize)]
enum Fault {
    TemplateSyntax(String),
    TemplateRender(String),
    TemplateRaised(String),
    Tools(String),
    Grammar(String),
    GrammarPanic(String),
    Other(String),
}

impl<'a> TemplateRef<'a> {
    pub(crate) fn of(job: &'a TemplateJob) -> Self {
        Self { source: &job.source, bos: &job.bos, eos: &job.eos }
    }
}

impl<'a> From<&ChatInput<'a>> for InputRef<'a> {
    fn from(input: &ChatInput<'a>) -> Self {
        let ChatInput { messages, tools, add_generation_prompt, kwargs } = *input;
        Self { messages, tools, add_generation_prompt, kwargs }
    }
}

/// Has a job done. The outer error is that of the helper, the inner one the job's own.
pub(crate) fn call(
    helpers: &Helpers,
    job: &JobRef<'_>,
    cancel: &Cancel,
) -> Result<Result<Reply, TextError>, JobError> {
    let mut bytes = vec![JSON];
    serde_json::to_writer(&mut bytes, job).expect("texts and numbers are JSON");
    let reply = helpers.call(&bytes, cancel)?;
    let reply: Result<Reply, Fault> =
        serde_json::from_slice(&reply).map_err(|error| JobError::Died(error.to_string()))?;
    Ok(reply.map_err(TextError::from))
}

/// The setup of helpers that compile rules.
pub(crate) fn vocabulary(words: &Words) -> Vec<u8> {
    let mut bytes = vec![VOCABULARY];
    words.write(&mut bytes);
    bytes
}

/// Does jobs until the caller goes away: what the program is that [`Helpers`] start.
pub fn serve() -> ExitCode {
    let mut bench = Workbench::default();
    undine_helper::serve(move |job| {
        let reply = bench.work(job).map_err(Fault::from);
        serde_json::to_vec(&reply).expect("texts and numbers are JSON")
    })
}

/// What a helper keeps from job to job.
#[derive(Default)]
struct Workbench {
    templates: Compiled,
    library: Option<Library>,
}

impl Workbench {
    fn work(&mut self, job: &[u8]) -> Result<Reply, TextError> {
        match job.split_first() {
            Some((&VOCABULARY, words)) => {
                let words = Words::read(words).ok_or_else(TextError::confused)?;
                self.library = Some(Library::new(&words)?);
                Ok(Reply::Done)
            }
            Some((&JSON, json)) => {
                let job = serde_json::from_slice(json).map_err(|_| TextError::confused())?;
                self.work_on(job)
            }
            _ => Err(TextError::confused()),
        }
    }

    fn work_on(&mut self, job: Job) -> Result<Reply, TextError> {
        match job {
            Job::Template { template, input: None } => self.templates.work(template, None),
            Job::Template { template, input: Some(input) } => {
                let Input { messages, tools, add_generation_prompt, kwargs } = &input;
                let tools = tools.as_deref();
                let add_generation_prompt = *add_generation_prompt;
                let input = ChatInput { messages, tools, add_generation_prompt, kwargs };
                self.templates.work(template, Some(input))
            }
            Job::Rules { format, tools } => {
                let library = self.library.as_ref().ok_or_else(TextError::confused)?;
                library.try_out(&format, tools.as_ref()).map(Reply::Rules)
            }
        }
    }
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        match error {
            TextError::TemplateSyntax(text) => Self::TemplateSyntax(text),
            TextError::TemplateRender(text) => Self::TemplateRender(text),
            TextError::TemplateRaised(text) => Self::TemplateRaised(text),
            TextError::Tools(text) => Self::Tools(text),
            TextError::Grammar(text) => Self::Grammar(text),
            TextError::GrammarPanic(text) => Self::GrammarPanic(text),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<Fault> for TextError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TemplateSyntax(text) => Self::TemplateSyntax(text),
            Fault::TemplateRender(text) => Self::TemplateRender(text),
            Fault::TemplateRaised(text) => Self::TemplateRaised(text),
            Fault::Tools(text) => Self::Tools(text),
            Fault::Grammar(text) => Self::Grammar(text),
            Fault::GrammarPanic(text) => Self::GrammarPanic(text),
            Fault::Other(text) => Self::Helper(JobError::Died(text)),
        }
    }
}
