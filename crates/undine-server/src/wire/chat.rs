//! `POST /v1/chat/completions`: the request.

use serde_json::{Map, Value};

use crate::preparing::Lane;
use crate::wire::common::Common;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers};
use crate::wire::foreign;
use crate::wire::image_options::ImageOptions;
use crate::wire::messages::{Messages, read_messages};
use crate::wire::parts::ImagePart;
use crate::wire::thinking::{Thinking, read_thinking};
use crate::wire::tools::{Calling, Tools, read_calling, read_tools};

/// Largest accepted `chat_template_kwargs`, in entries.
const KWARGS_MAX: usize = 64;

/// How the rendered prompt ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PromptEnd {
    /// With the header of the assistant's turn, the default.
    GenerationPrompt,
    /// After the last message (`add_generation_prompt: false`).
    Closed,
    /// Within the last message, which the answer continues (`continue_final_message`).
    OpenFinalMessage,
}

/// What a chat template gets to see.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    /// What the messages show.
    pub(crate) images: Vec<ImagePart>,
    /// How these are cut.
    pub(crate) image_options: ImageOptions,
    /// Shown even if `tool_choice` is `none`, as in vLLM: the prompt stays what it was in other turns, and so
    /// does the prefix cache.
    pub(crate) tools: Vec<Value>,
    /// Where the client wrote the schema of each.
    pub(crate) schema_paths: Vec<String>,
    pub(crate) kwargs: Map<String, Value>,
    /// A template to use instead of the model's.
    pub(crate) template: Option<String>,
    pub(crate) thinking: Thinking,
    /// Whether reasoning is told apart from the answer.
    pub(crate) split: bool,
    pub(crate) end: PromptEnd,
}

/// A checked request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ChatRequest {
    pub(crate) common: Common,
    pub(crate) conversation: Conversation,
    pub(crate) calling: Calling,
    /// `None` fills the context.
    pub(crate) max_tokens: Option<u32>,
    /// `Some(top)` if log-probabilities are wanted.
    pub(crate) logprobs: Option<u32>,
    /// Whether reasoning text is part of the answer.
    pub(crate) include_reasoning: bool,
}

const REFUSED: &[(&str, &str)] = &[
    ("functions", "use `tools`"),
    ("function_call", "use `tools`"),
    ("audio", "answers are text"),
    ("web_search_options", "remove the field"),
    ("echo", "the prompt is the client's own; use /v1/completions to get it back"),
];

/// Fields that never change the answer here.
const IGNORED: &[&str] = &["verbosity", "chat_template_content_format", "media_io_kwargs"];

impl Conversation {
    /// Reads what `/v1/chat/completions` and `/tokenize` have in common. What nobody knows of messages and
    /// tools goes to `strangers`.
    pub(crate) fn read(fields: &mut Fields, strangers: &mut Strangers) -> ApiResult<Self> {
        let Messages { list: messages, images, open } = read_messages(fields, strangers)?;
        let image_options = ImageOptions::read(fields)?;
        let Tools { list: tools, schema_paths } = read_tools(fields, strangers)?;
        let mut kwargs = fields.object("chat_template_kwargs")?.unwrap_or_default();
        if kwargs.len() > KWARGS_MAX {
            let message = format!("expected at most {KWARGS_MAX} entries, found {}", kwargs.len());
            return Err(ApiError::field("chat_template_kwargs", message));
        }
        for name in ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"] {
            if kwargs.contains_key(name) {
                let message = "is set by the server; use the request's own field";
                return Err(ApiError::field(format!("chat_template_kwargs.{name}"), message));
            }
        }
        let thinking = read_thinking(fields, &mut kwargs)?;
        let template = fields.string("chat_template")?;
        if let Some(documents) = fields.take("documents") {
            kwargs.insert("documents".to_owned(), documents);
        }
        let split = foreign::splits_reasoning(fields);
        let end = read_end(fields, &messages, open)?;
        Ok(Self {
            messages,
            images,
            image_options,
            tools,
            schema_paths,
            kwargs,
            template,
            thinking,
            split,
            end,
        })
    }

    /// Where it is rendered, if it came in a body of so many bytes.
    pub(crate) fn lane(&self, body_bytes: usize) -> Lane {
        if self.template.is_some() { Lane::Program } else { Lane::Body(body_bytes) }
    }
}

/// `open` is the last message's own field that says it is to be continued.
fn read_end(fields: &mut Fields, messages: &[Value], open: Option<String>) -> ApiResult<PromptEnd> {
    let add = fields.boolean("add_generation_prompt")?;
    let continue_final = fields.boolean("continue_final_message")?.unwrap_or(false);
    let path = if continue_final { Some("continue_final_message".to_owned()) } else { open };
    match (add, path) {
        (Some(true), Some(path)) => {
            Err(ApiError::field(path, "cannot be combined with `add_generation_prompt: true`; choose one"))
        }
        (_, Some(path)) => {
            let text = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
            if text.trim().is_empty() {
                return Err(ApiError::field(path, "expected the last message to have text"));
            }
            Ok(PromptEnd::OpenFinalMessage)
        }
        (Some(false), None) => Ok(PromptEnd::Closed),
        (_, None) => Ok(PromptEnd::GenerationPrompt),
    }
}

impl ChatRequest {
    /// Parses and checks a body.
    pub(crate) fn parse(body: &[u8]) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let mut strangers = Strangers::default();
        foreign::translate_chat(&mut fields, &mut strangers)?;
        let mut common = Common::read(&mut fields)?;
        let conversation = Conversation::read(&mut fields, &mut strangers)?;
        let calling = read_calling(&mut fields, &conversation.tools)?;
        let max_tokens = match fields.limit("max_completion_tokens", 1..=u32::MAX)? {
            // The older name is overruled, as in OpenAI's and vLLM's servers.
            Some(max) => {
                fields.ignore(&["max_tokens"]);
                common.sent.max_tokens = fields.path("max_completion_tokens");
                Some(max)
            }
            None => fields.limit("max_tokens", 1..=u32::MAX)?,
        };
        let max_tokens = max_tokens.filter(|&most| most < u32::MAX);
        let wanted = fields.boolean("logprobs")?.unwrap_or(false);
        let logprobs = match fields.count("top_logprobs", 0..=u32::MAX)? {
            Some(1..) if !wanted => {
                return Err(ApiError::field("top_logprobs", "only allowed when `logprobs` is true"));
            }
            top => wanted.then_some(top.unwrap_or(0)),
        };
        let include_reasoning = fields.boolean("include_reasoning")?.unwrap_or(true);
        if let Some(modalities) = fields.take("modalities")
            && modalities != serde_json::json!(["text"])
        {
            return Err(ApiError::unsupported("modalities", "answers are text: use [\"text\"]"));
        }
        fields.refuse(REFUSED)?;
        fields.ignore(IGNORED);
        fields.leave(&mut strangers);
        common.ignored = strangers.told();
        Ok(Self { common, conversation, calling, max_tokens, logprobs, include_reasoning })
    }
}
