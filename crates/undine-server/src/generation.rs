//! From updates of the engine to the text of the choices. A response in one piece is the sum of the deltas
//! that a stream would have sent, so the two cannot differ.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use undine_core::{FinishReason, RowOutput, TokenId};
use undine_text::tools::ToolSet;
use undine_text::{
    IncludeStop, Piece, Reasoning, SpecialText, StreamOptions, StreamState, TextStream, ToolFormat,
};

use crate::engine_thread::{Running, Sequence, Update};
use crate::places::Part;
use crate::prompt;
use crate::recorder::Recorder;
use crate::state::{App, Ready};
use crate::turns::Place;
use crate::wire::common::{Common, SpecialTokensWanted};
use crate::wire::error::ApiResult;
use crate::wire::response::{PromptTokens, Usage};

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
    pub(crate) calls: Vec<CallDelta>,
    pub(crate) token: Option<RowOutput>,
    pub(crate) finish: Option<Finish>,
}

/// What one step added to a tool call.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum CallDelta {
    Begun {
        index: usize,
        id: String,
        name: String,
    },
    /// More of the arguments' JSON text.
    Arguments {
        index: usize,
        json: String,
    },
    /// It turned out not to be one: what was taken for it follows as content.
    Aborted {
        index: usize,
    },
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
    /// What follows the `min_tokens`, if there are stop strings that must wait for it.
    after_minimum: Option<AfterMinimum>,
    /// Ids of the markers, if reasoning is counted.
    think: Option<(TokenId, TokenId)>,
    in_think: bool,
    include_stop: bool,
    /// Prompt tokens found in the prefix cache.
    cached_tokens: u32,
    completion_tokens: u32,
    reasoning_tokens: u32,
    pieces: Vec<Piece>,
    /// The calls that were begun and not aborted, if any are looked for.
    calls: usize,
    /// Whether the last of them is not complete.
    call_is_cut: bool,
    recorder: Option<Recorder>,
}

/// How the tokens of a choice become what a client sees.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) starts_in: StartsIn,
    pub(crate) special: SpecialTokensWanted,
    /// The tools whose calls are looked for.
    pub(crate) tools: Option<Arc<ToolSet>>,
    pub(crate) tool_format: ToolFormat,
    /// Where the answer begins, if it is to be kept.
    pub(crate) place: Option<Place>,
}

/// Stop strings that hold for the text after the first `min_tokens`.
struct AfterMinimum {
    min_tokens: u32,
    stop: Vec<String>,
}

impl Choice {
    pub(crate) fn new(ready: &Ready, common: &Common, reading: Reading) -> Self {
        let Reading { starts_in, special, tools, tool_format, place } = reading;
        let think = if starts_in == StartsIn::Unsplit { None } else { ready.think() };
        let reasoning = match (think, starts_in) {
            (None, _) | (_, StartsIn::Unsplit) => Reasoning::Off,
            (Some(_), StartsIn::Content) => Reasoning::Split,
            (Some(_), StartsIn::Reasoning) => Reasoning::SplitStartInside,
        };
        let mut options = StreamOptions {
            stop: common.stop.strings.clone(),
            include_stop: if common.stop.include_in_output { IncludeStop::Yes } else { IncludeStop::No },
            special: special_text(special),
            reasoning,
            tools,
            tool_format,
        };
        let tokenizer = ready.model.tokenizer.as_ref();
        let mut after_minimum = None;
        if let (min_tokens @ 1.., false) = (common.stop.min_tokens, options.stop.is_empty()) {
            after_minimum = Some(AfterMinimum { min_tokens, stop: std::mem::take(&mut options.stop) });
        }
        Self {
            text: tokenizer.map(|tokenizer| TextStream::new(Arc::clone(tokenizer), options)),
            after_minimum,
            think,
            in_think: reasoning == Reasoning::SplitStartInside,
            include_stop: common.stop.include_in_output,
            cached_tokens: 0,
            completion_tokens: 0,
            reasoning_tokens: 0,
            pieces: Vec::new(),
            calls: 0,
            call_is_cut: false,
            recorder: place.and_then(|place| Recorder::new(ready, place)),
        }
    }

    fn take(&mut self, update: Update) -> Delta {
        let Update { cached_tokens, prompt_scores, token, finish } = update;
        self.cached_tokens = cached_tokens.unwrap_or(self.cached_tokens);
        let finish_reason = finish;
        let mut delta = Delta { prompt_scores, finish: finish.map(Finish::of), ..Delta::default() };
        if let Some(row) = token {
            let id = row.chosen.token;
            self.count(id);
            if let Some(recorder) = &mut self.recorder {
                recorder.tokens.push(id);
            }
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
            match finish_reason {
                Some(FinishReason::MaxTokens | FinishReason::ContextFull) => text.cut(&mut self.pieces),
                _ => text.finish(&mut self.pieces),
            };
        }
        self.hand_out(&mut delta);
        if let Some(finish) = &mut delta.finish {
            if self.call_is_cut {
                // Also by a stop string: whoever acts on "stop" or "tool_calls" would take the call for
                // whole.
                finish.reason = "length";
            } else if self.calls > 0 && finish.reason == "stop" {
                finish.reason = "tool_calls";
            }
            if let Some(recorder) = self.recorder.take() {
                recorder.keep(finish_reason);
            }
        }
        delta
    }

    /// Turns pieces into a delta.
    fn hand_out(&mut self, delta: &mut Delta) {
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Content(text) => delta.content.push_str(&text),
                Piece::Reasoning(text) => delta.reasoning.push_str(&text),
                Piece::ToolCall { index, name } => {
                    self.calls += 1;
                    delta.calls.push(CallDelta::Begun { index, id: call_id(), name });
                }
                Piece::ToolArguments { index, json } => {
                    delta.calls.push(CallDelta::Arguments { index, json });
                }
                Piece::ToolCut { .. } => self.call_is_cut = true,
                Piece::ToolAborted { index } => {
                    self.calls -= 1;
                    delta.calls.push(CallDelta::Aborted { index });
                }
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.answer.add(delta);
        }
    }

    fn push(&mut self, id: TokenId, delta: &mut Delta) {
        let Some(text) = &mut self.text else { return };
        if let StreamState::Stopped { stop } = text.push(id, &mut self.pieces) {
            delta.finish = Some(Finish { reason: "stop", stop_reason: Some(StopReason::Text(stop)) });
        }
        let tokens = self.completion_tokens;
        if let Some(AfterMinimum { stop, .. }) =
            self.after_minimum.take_if(|after| tokens >= after.min_tokens)
        {
            text.set_stop(stop);
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
            FinishReason::Cancelled | FinishReason::ConstraintFailed => ("abort", None),
        };
        Self { reason, stop_reason }
    }
}

/// The id of a tool call, unlike every other.
fn call_id() -> String {
    format!("call_{:016x}{:08x}", prompt::random(), prompt::random() as u32)
}

/// All choices of a request, running.
pub(crate) struct Generation {
    app: Arc<App>,
    running: Running,
    choices: Vec<Choice>,
    choices_per_prompt: usize,
    /// Tokens of all prompts, each counted once however many choices it has.
    prompt_tokens: u32,
    /// The place in memory that the images of the prompt take.
    _images: Option<Part>,
}

/// The sequences of a request and where their updates go, before they run.
pub(crate) struct Plan {
    /// Those of one prompt after each other.
    pub(crate) sequences: Vec<Sequence>,
    /// As many as sequences.
    pub(crate) choices: Vec<Choice>,
    pub(crate) choices_per_prompt: usize,
    pub(crate) prompt_tokens: u32,
    /// Held until the answer is complete.
    pub(crate) images: Option<Part>,
}

impl Generation {
    /// Hands the plan to the engine.
    pub(crate) async fn start(app: Arc<App>, ready: &Ready, plan: Plan) -> ApiResult<Self> {
        let Plan { sequences, choices, choices_per_prompt, prompt_tokens, images } = plan;
        let running = ready.engine.submit(sequences).await?;
        Ok(Self { app, running, choices, choices_per_prompt, prompt_tokens, _images: images })
    }

    /// What happened next, and to which choice; `None` when all are complete.
    pub(crate) async fn next(&mut self) -> Option<ApiResult<(usize, Delta)>> {
        loop {
            let (index, update) = self.running.next().await?;
            let Some(update) = update else { return Some(Err(self.app.engine_failure())) };
            let only_begins = update.is_only_a_beginning();
            let delta = self.choices[index].take(update);
            if only_begins {
                // Nothing to show yet: what precedes an answer comes with its first part.
                continue;
            }
            if delta.finish.is_some() {
                // A stop string is text, which the engine does not see: it has to be told.
                self.running.cancel(index);
            }
            return Some(Ok((index, delta)));
        }
    }

    /// How long a stream of it may be silent.
    pub(crate) fn silence_max(&self) -> Duration {
        self.app.config.timeouts.silence
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> Usage {
        let completion = self.choices.iter().map(|choice| choice.completion_tokens).sum();
        let reasoning = self.choices.iter().map(|choice| choice.reasoning_tokens).sum();
        // The first choice of a prompt computes what the others then find.
        let firsts = self.choices.iter().step_by(self.choices_per_prompt);
        let cached = firsts.map(|choice| choice.cached_tokens).sum();
        Usage::new(PromptTokens { total: self.prompt_tokens, cached }, completion, reasoning)
    }
}

/// The detokenizer's word for the request's.
pub(crate) fn special_text(wanted: SpecialTokensWanted) -> SpecialText {
    match wanted {
        SpecialTokensWanted::Skip => SpecialText::Skip,
        SpecialTokensWanted::Keep => SpecialText::Keep,
    }
}
