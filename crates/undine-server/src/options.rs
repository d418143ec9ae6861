//! What `undine serve` decides about the parts of an answer that are more than text: reasoning and tool
//! calls.

use serde_json::{Map, Value};

/// OpenAI's limit, and vLLM's.
const LOGPROBS_MAX_DEFAULT: u32 = 20;

/// How a model marks its reasoning (`--reasoning-parser`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReasoningFormat {
    /// All text is content.
    None,
    /// `<think>` to `</think>`, if the vocabulary has `<think>`.
    Think,
}

/// How a model writes tool calls (`--enable-auto-tool-choice`, `--tool-call-parser`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToolCallFormat {
    /// Calls stay in the text, markers included, and none can be forced.
    None,
    /// Between `<|tool_call_start|>` and `<|tool_call_end|>`, if the vocabulary has them.
    Lfm2,
}

/// Whether a request may bring a chat template of its own (`--trust-request-chat-template`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestTemplate {
    /// It is refused, with the reason.
    Refused,
    /// It is used: a template is a program, though one without files, network or unbounded loops.
    Trusted,
}

/// In which order the requests of one tenant begin (`--scheduling-policy`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SchedulingPolicy {
    /// In the order of their arrival; a `priority` other than 0 is refused.
    #[default]
    Fcfs,
    /// In ascending order of `priority`, then of arrival.
    Priority,
}

/// What requests are completed with.
#[derive(Clone, PartialEq, Debug)]
pub struct RequestDefaults {
    /// Arguments of the chat template (`--default-chat-template-kwargs`); those of a request come before
    /// them.
    pub template_kwargs: Map<String, Value>,
    /// What the seeds of requests without one are made of (`--seed`); `None` cannot be foreseen.
    pub seed: Option<u64>,
    /// Most log-probabilities per token that a request may ask for (`--max-logprobs`).
    pub logprobs_max: u32,
    /// Whether log-probabilities name all tokens by id (`--return-tokens-as-token-ids`).
    pub tokens_as_ids: bool,
    /// Whether `priority` counts.
    pub scheduling: SchedulingPolicy,
}

impl Default for RequestDefaults {
    fn default() -> Self {
        Self {
            template_kwargs: Map::new(),
            seed: None,
            logprobs_max: LOGPROBS_MAX_DEFAULT,
            tokens_as_ids: false,
            scheduling: SchedulingPolicy::default(),
        }
    }
}

/// What holds for every answer, unless its request says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerOptions {
    /// How to find reasoning.
    pub reasoning: ReasoningFormat,
    /// Most tokens of thinking (`--reasoning-budget`); `None` is no limit, 0 answers directly. Overruled by
    /// the request's `thinking_token_budget` and `reasoning_effort`.
    pub reasoning_budget: Option<u32>,
    /// How to find tool calls.
    pub tool_calls: ToolCallFormat,
    /// Whether `chat_template` is accepted.
    pub request_template: RequestTemplate,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            reasoning: ReasoningFormat::Think,
            reasoning_budget: None,
            tool_calls: ToolCallFormat::Lfm2,
            request_template: RequestTemplate::Refused,
        }
    }
}
