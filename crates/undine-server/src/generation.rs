//! From updates of the engine to the text of the choices. A response in one piece is the sum of the deltas that a
//! stream would have sent, so the two cannot differ.

use std::sync::Arc;

use serde::Serialize;
use undine_core::{FinishReason, GenerateRequest, RowOutput, TokenId};
use undine_text::{IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, StreamState, TextStream};

use crate::engine_thread::{Running, Update};
use crate::state::{App, Ready};
use crate::wire::common::{Common, SpecialTokensWanted};
use crate::wire::error::ApiResult;
use crate::wire::response::Usage;

/// The stop string or token that ended an answer, as vLLM reports it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Token(TokenId),
    Text(String),
}

/// How an answer ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finish {
    /// OpenAI's word for it.
    pub(crate) reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
}

/// What one step added to a choice.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Delta {
    pub(crate) prompt_scores: Option<Vec<RowOutput>>,
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) token: Option<RowOutput>,
    pub(crate) finish: Option<Finish>,
}

/// Where an answer starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartsIn {
    Content,
    /// The prompt ended in `<think>`.
    Reasoning,
    /// Reasoning is not told apart from content.
    Unsplit,
}

/// One choice as it grows.
pub(crate) struct Choice {
    text: Option<TextStream>,
    /// Ids of the markers, if reasoning is counted.
    think: Option<(TokenId, TokenId)>,
    in_think: bool,
    include_stop: bool,
    completion_tokens: u32,
    reasoning_tokens: u32,
    pieces: Vec<Piece>,
}

impl Choice {
    pub(crate) fn new(ready: &Ready, common: &Common, starts_in: StartsIn) -> Self {
        let think = if starts_in == StartsIn::Unsplit { None } else { ready.think() };
        let reasoning = match (think, starts_in) {
            (None, _) | (_, StartsIn::Unsplit) => Reasoning::Off,
            (Some(_), StartsIn::Content) => Reasoning::Split,
            (Some(_), StartsIn::Reasoning) => Reasoning::SplitStartInside,
        };
        let options = StreamOptions {
            stop: common.stop.strings.clone(),
            include_stop: if common.stop.include_in_output { IncludeStop::Yes } else { IncludeStop::No },
            special: special_text(common.special),
            reasoning,
        };
        Self {
            text: ready
                .model
                .tokenizer
                .as_ref()
                .map(|tokenizer| TextStream::new(Arc::clone(tokenizer), options)),
            think,
            in_think: reasoning == Reasoning::SplitStartInside,
            include_stop: common.stop.include_in_output,
            completion_tokens: 0,
            reasoning_tokens: 0,
            pieces: Vec::new(),
        }
    }

    fn take(&mut self, update: Update) -> Delta {
        let Update { prompt_scores, token, finish } = update;
        let mut delta = Delta { prompt_scores, finish: finish.map(Finish::of), ..Delta::default() };
        if let Some(row) = token {
            let id = row.chosen.token;
            self.count(id);
            // The token that ends an answer is reported and counted, and is not part of the text.
            let ends = matches!(finish, Some(FinishReason::Eos | FinishReason::StopToken(_)));
            if !ends || self.include_stop {
                self.push(id, &mut delta);
            }
            delta.token = Some(row);
        }
        if delta.finish.is_some()
            && let Some(text) = &mut self.text
        {
            text.finish(&mut self.pieces);
        }
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Content(text) => delta.content.push_str(&text),
                Piece::Reasoning(text) => delta.reasoning.push_str(&text),
            }
        }
        delta
    }

    fn push(&mut self, id: TokenId, delta: &mut Delta) {
        let Some(text) = &mut self.text else { return };
        if let StreamState::Stopped { stop } = text.push(id, &mut self.pieces) {
            delta.finish = Some(Finish { reason: "stop", stop_reason: Some(StopReason::Text(stop)) });
        }
    }

    /// Reasoning tokens are those from `<think>` to `</think>`, both included.
    fn count(&mut self, id: TokenId) {
        self.completion_tokens += 1;
        let Some((start, end)) = self.think else { return };
        let marker = id == start || id == end;
        if self.in_think || marker {
            self.reasoning_tokens += 1;
        }
        if marker {
            self.in_think = id == start;
        }
    }
}

impl Finish {
    fn of(reason: FinishReason) -> Self {
        let (reason, stop_reason) = match reason {
            FinishReason::Eos => ("stop", None),
            FinishReason::StopToken(token) => ("stop", Some(StopReason::Token(token))),
            FinishReason::MaxTokens | FinishReason::ContextFull => ("length", None),
            FinishReason::Cancelled => ("abort", None),
        };
        Self { reason, stop_reason }
    }
}

/// All choices of a request, running.
pub(crate) struct Generation {
    app: Arc<App>,
    running: Running,
    choices: Vec<Choice>,
    /// Tokens of all prompts, each counted once however many choices it has.
    prompt_tokens: u32,
}

/// The sequences of a request and where their updates go, before they run.
pub(crate) struct Plan {
    pub(crate) requests: Vec<GenerateRequest>,
    /// As many as requests.
    pub(crate) choices: Vec<Choice>,
    pub(crate) prompt_tokens: u32,
}

impl Generation {
    /// Hands the plan to the engine.
    pub(crate) async fn start(app: Arc<App>, ready: &Ready, plan: Plan) -> ApiResult<Self> {
        let Plan { requests, choices, prompt_tokens } = plan;
        let running = ready.engine.submit(requests).await?;
        Ok(Self { app, running, choices, prompt_tokens })
    }

    /// What happened next, and to which choice; `None` when all are complete.
    pub(crate) async fn next(&mut self) -> Option<ApiResult<(usize, Delta)>> {
        let (index, update) = self.running.next().await?;
        let Some(update) = update else { return Some(Err(self.app.engine_failure())) };
        let delta = self.choices[index].take(update);
        if delta.finish.is_some() {
            // A stop string is text, which the engine does not see: it has to be told.
            self.running.cancel(index);
        }
        Some(Ok((index, delta)))
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        let completion = self.choices.iter().map(|choice| choice.completion_tokens).sum();
        let reasoning = self.choices.iter().map(|choice| choice.reasoning_tokens).sum();
        Usage::new(self.prompt_tokens, completion, reasoning)
    }
}

/// The detokenizer's word for the request's.
pub(crate) fn special_text(wanted: SpecialTokensWanted) -> SpecialText {
    match wanted {
        SpecialTokensWanted::Skip => SpecialText::Skip,
        SpecialTokensWanted::Keep => SpecialText::Keep,
    }
}
