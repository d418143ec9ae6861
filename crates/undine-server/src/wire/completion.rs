//! `POST /v1/completions`: the request.

use serde_json::Value;
use undine_core::TokenId;

use crate::wire::common::{Common, token_ids};
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers, describe, mismatch};

/// Most prompts of one request.
pub(crate) const PROMPTS_MAX: usize = 1024;
/// Length of the answer when `max_tokens` is absent, as OpenAI has it.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// One prompt as the client sent it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum PromptInput {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// A checked request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) common: Common,
    /// At least one.
    pub(crate) prompts: Vec<PromptInput>,
    pub(crate) max_tokens: u32,
    /// Whether `max_tokens` is the client's, and so may not be cut to what fits.
    pub(crate) max_tokens_given: bool,
    pub(crate) echo: bool,
    pub(crate) logprobs: Option<u32>,
}

const REFUSED: &[(&str, &str)] = &[
    ("suffix", "write the text that follows into the prompt"),
    (
        "thinking_token_budget",
        "a completion is raw text; use /v1/chat/completions, or bound it with `max_tokens`",
    ),
];

impl CompletionRequest {
    /// Parses and checks a body.
    pub(crate) fn parse(body: &[u8]) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        let mut common = Common::read(&mut fields)?;
        let prompts = read_prompts(&mut fields)?;
        let max_tokens = fields.limit("max_tokens", 0..=u32::MAX)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.count("logprobs", 0..=u32::MAX)?;
        fields.refuse(REFUSED)?;
        let mut strangers = Strangers::default();
        fields.leave(&mut strangers);
        common.ignored = strangers.told();
        Ok(Self {
            common,
            prompts,
            max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            max_tokens_given: max_tokens.is_some_and(|most| most < u32::MAX),
            echo,
            logprobs,
        })
    }
}

const PROMPT_FORMS: &str = "a string, a list of strings, a list of token ids or a list of such lists";

fn read_prompts(fields: &mut Fields) -> ApiResult<Vec<PromptInput>> {
    let list = match fields.take("prompt") {
        None => return Err(ApiError::field("prompt", format!("missing; expected {PROMPT_FORMS}"))),
        Some(Value::String(text)) => return Ok(vec![PromptInput::Text(text)]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(mismatch("prompt", PROMPT_FORMS, &other)),
    };
    match list.first() {
        None => Err(ApiError::field("prompt", format!("expected {PROMPT_FORMS}, found an empty list"))),
        Some(Value::Number(_)) => Ok(vec![PromptInput::Tokens(token_ids("prompt", &list)?)]),
        Some(_) if list.len() > PROMPTS_MAX => Err(ApiError::field(
            "prompt",
            format!("expected at most {PROMPTS_MAX} prompts, found {}", list.len()),
        )),
        Some(_) => list.into_iter().enumerate().map(read_prompt).collect(),
    }
}

fn read_prompt((i, value): (usize, Value)) -> ApiResult<PromptInput> {
    let path = format!("prompt[{i}]");
    match value {
        Value::String(text) => Ok(PromptInput::Text(text)),
        Value::Array(list) => Ok(PromptInput::Tokens(token_ids(&path, &list)?)),
        other => Err(ApiError::field(
            path,
            format!("expected a string or a list of token ids, found {}", describe(&other)),
        )),
    }
}
