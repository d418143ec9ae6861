//! `POST /v1/chat/completions`: the answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use undine_core::{Origin, RowOutput, TokenId};
use undine_text::grammar::CompiledRules;
use undine_text::{Cancel, ToolFormat};

use crate::generation::{CallDelta, Choice, Delta, Finish, Generation, Plan, Reading};
use crate::images::{self, Images};
use crate::logprobs::{ChatLogprobs, TokenTexts};
use crate::preparing::Lane;
use crate::prompt::{self, Asked, Prompt, Wanted};
use crate::remarks::Remarks;
use crate::render;
use crate::routes::response_id;
use crate::rules::{self, Answering};
use crate::sse::{self, ChunkUsage, Chunks, Events};
use crate::state::{App, Ready, unix_time};
use crate::tenant::Caller;
use crate::turns::{Answer, Call};
use crate::wire::chat::ChatRequest;
use crate::wire::error::ApiResult;
use crate::wire::response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatDelta, ChatMessage, ChatResponse, Function, FunctionDelta,
    Head, ToolCall, ToolCallDelta, Usage,
};

/// What the writers of both forms need to know of the request.
struct Form {
    head: Head,
    texts: TokenTexts,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    include_reasoning: bool,
    return_token_ids: bool,
    prompt_tokens: Vec<TokenId>,
    choices: usize,
}

/// Answers a request whose body has been read.
pub(crate) async fn answer(
    app: Arc<App>,
    ready: Arc<Ready>,
    caller: Caller,
    body: Bytes,
    request_id: &str,
) -> ApiResult<Response> {
    let id = response_id("chatcmpl", request_id);
    let body_bytes = body.len();
    ready.check_queue()?;
    let reading = Arc::clone(&ready);
    let parse = move |_: &Cancel| {
        let request = ChatRequest::parse(&body)?;
        // Before pictures are fetched and anything is rendered.
        check(&reading, &request).map(|()| request)
    };
    let mut request = app.preparing.run(caller.tenant, Lane::Body(body_bytes), parse).await?;
    let ignored = std::mem::take(&mut request.common.ignored);
    app.heed_ignored(&ignored)?;
    let stream = request.common.stream;
    let origin = caller.origin(&request.common);
    let images = images::gather(&app, &ready, &origin, &mut request.conversation).await?;
    let lane = request.conversation.lane(body_bytes);
    let served = Arc::clone(&ready);
    let work = move |cancel: &Cancel| draft(&served, origin, request, images, cancel);
    let mut draft = app.preparing.run(caller.tenant, lane, work).await?;
    let rules = rules::compile(&app, &ready, caller.tenant, draft.answering.restriction.take()).await?;
    let remarks = Remarks::new(ignored, rules.as_ref());
    app.tell_relaxed(&remarks);
    let (form, plan) = draft.finish(&ready, rules.as_ref(), id)?;
    let generation = Generation::start(app, &ready, plan).await?;
    let response = match stream {
        Some(usage) => sse::response(generation, ChatChunks { form }, usage),
        None => collect(generation, form).await?,
    };
    Ok(remarks.on(response))
}

/// What this server has and allows.
fn check(ready: &Ready, request: &ChatRequest) -> ApiResult<()> {
    ready.served_name(request.common.model.as_deref())?;
    ready.check_logprobs("top_logprobs", request.logprobs)?;
    prompt::check_sequences(ready, 1, request.common.choices)
}

/// A request whose prompt is known, before its rules are compiled.
struct Draft {
    origin: Origin,
    request: ChatRequest,
    model: String,
    prompt: Prompt,
    answering: Answering,
    max_tokens: u32,
    images: Images,
}

fn draft(
    ready: &Ready,
    origin: Origin,
    request: ChatRequest,
    images: Images,
    cancel: &Cancel,
) -> ApiResult<Draft> {
    let common = &request.common;
    let model = ready.served_name(common.model.as_deref())?;
    let rendered = render::render(ready, &origin.cache_root, &request.conversation, &images, cancel)?;
    let mut prompt = rendered.into_prompt(ready, common.add_special_tokens, &images)?;
    let asked = request.max_tokens.map(|tokens| Asked { tokens, path: &common.sent.max_tokens });
    let max_tokens = prompt::room_for_answer(ready, "messages", &prompt, asked)?;
    let answering = rules::of_chat(ready, &request, prompt.starts_in)?;
    prompt.forbidden.extend(answering.forbidden);
    Ok(Draft { origin, request, model, prompt, answering, max_tokens, images })
}

impl Draft {
    fn finish(self, ready: &Ready, rules: Option<&CompiledRules>, id: String) -> ApiResult<(Form, Plan)> {
        let Self { origin, request, model, prompt, answering, max_tokens, images } = self;
        let Answering { tools, special, .. } = answering;
        let common = &request.common;
        let wanted = Wanted {
            origin: &origin,
            common,
            max_tokens,
            logprobs: request.logprobs,
            prompt_logprobs: common.prompt_logprobs,
            rules,
        };
        let sequences = prompt::sequences(ready, &prompt, &wanted)?;
        // JSON that was asked for is no call.
        let tool_format = match common.format {
            Some(_) => ToolFormat::Lfm2Marked,
            None => ToolFormat::Lfm2,
        };
        let reading =
            Reading { starts_in: prompt.starts_in, special, tools, tool_format, place: prompt.place };
        let choices: Vec<Choice> =
            sequences.iter().map(|_| Choice::new(ready, common, reading.clone())).collect();
        let form = Form {
            head: Head { id, object: "chat.completion", created: unix_time(), model },
            texts: TokenTexts {
                tokenizer: ready.model.tokenizer.clone(),
                names: ready.token_names(common.token_names),
            },
            logprobs: request.logprobs,
            prompt_logprobs: common.prompt_logprobs,
            include_reasoning: request.include_reasoning,
            return_token_ids: common.return_token_ids,
            prompt_tokens: prompt.tokens,
            choices: choices.len(),
        };
        let prompt_tokens = form.prompt_tokens.len() as u32;
        let choices_per_prompt = form.choices;
        Ok((form, Plan { sequences, choices, choices_per_prompt, prompt_tokens, images: images.place }))
    }
}

impl Form {
    fn logprobs(&self, token: Option<&RowOutput>) -> Option<ChatLogprobs> {
        let top = self.logprobs?;
        Some(ChatLogprobs { content: token.map(|row| self.texts.chat(row, top)).into_iter().collect() })
    }

    fn token_ids(&self, token: Option<&RowOutput>) -> Option<Vec<TokenId>> {
        self.return_token_ids.then(|| token.map(|row| row.chosen.token).into_iter().collect())
    }

    fn prompt_token_ids(&self) -> Option<&[TokenId]> {
        self.return_token_ids.then_some(self.prompt_tokens.as_slice())
    }
}

/// One choice of an answer in one piece, as far as it is known.
#[derive(Default)]
struct Collected {
    answer: Answer,
    logprobs: ChatLogprobs,
    token_ids: Vec<TokenId>,
    finish: Option<Finish>,
    prompt_scores: Option<Vec<RowOutput>>,
}

impl Collected {
    fn add(&mut self, delta: Delta, form: &Form) {
        self.answer.add(&delta);
        self.logprobs.content.extend(form.logprobs(delta.token.as_ref()).unwrap_or_default().content);
        self.token_ids.extend(delta.token.map(|row| row.chosen.token));
        self.finish = delta.finish;
        if delta.prompt_scores.is_some() {
            self.prompt_scores = delta.prompt_scores;
        }
    }

    fn choice(self, index: usize, form: &Form) -> ChatChoice {
        let Finish { reason, stop_reason } = self.finish.expect("a generation ends when all choices have");
        let Answer { content, reasoning, calls } = self.answer;
        let reasoning = (form.include_reasoning && !reasoning.is_empty()).then_some(reasoning);
        let something_else = reasoning.is_some() || !calls.is_empty();
        let call = |Call { id, name, arguments, .. }| ToolCall {
            id,
            r#type: "function",
            function: Function { name, arguments },
        };
        ChatChoice {
            index,
            message: ChatMessage {
                role: "assistant",
                content: (!content.is_empty() || !something_else).then_some(content),
                refusal: None,
                reasoning_content: reasoning.clone(),
                reasoning,
                tool_calls: calls.into_iter().map(call).collect(),
            },
            logprobs: form.logprobs.map(|_| self.logprobs),
            finish_reason: reason,
            stop_reason,
            token_ids: form.return_token_ids.then_some(self.token_ids),
        }
    }
}

async fn collect(mut generation: Generation, form: Form) -> ApiResult<Response> {
    let mut choices: Vec<Collected> = (0..form.choices).map(|_| Collected::default()).collect();
    while let Some(next) = generation.next().await {
        let (index, delta) = next?;
        choices[index].add(delta, &form);
    }
    let scores = choices.first_mut().and_then(|choice| choice.prompt_scores.take());
    let prompt_logprobs =
        form.prompt_logprobs.map(|top| form.texts.prompt(scores.as_deref().unwrap_or_default(), top));
    let choices = choices.into_iter().enumerate().map(|(index, choice)| choice.choice(index, &form));
    let response = ChatResponse {
        head: &form.head,
        choices: choices.collect(),
        usage: generation.usage(),
        prompt_logprobs,
        prompt_token_ids: form.prompt_token_ids(),
    };
    Ok(Json(response).into_response())
}

/// One entry for each call: clients put parts together by their places in a chunk, and take two of one call
/// for two calls.
fn call_deltas(deltas: Vec<CallDelta>) -> Vec<ToolCallDelta> {
    let mut calls: Vec<ToolCallDelta> = Vec::new();
    for delta in deltas.into_iter().filter_map(call_delta) {
        match calls.iter_mut().find(|call| call.index == delta.index) {
            Some(call) => call.function.arguments.push_str(&delta.function.arguments),
            None => calls.push(delta),
        }
    }
    calls
}

/// What a stream says of a call. What was sent of an aborted one cannot be taken back: it stays incomplete.
fn call_delta(delta: CallDelta) -> Option<ToolCallDelta> {
    let part = |index, name, arguments| ToolCallDelta {
        index,
        id: None,
        r#type: None,
        function: FunctionDelta { name, arguments },
    };
    match delta {
        CallDelta::Begun { index, id, name } => Some(ToolCallDelta {
            id: Some(id),
            r#type: Some("function"),
            ..part(index, Some(name), String::new())
        }),
        CallDelta::Arguments { index, json } => Some(part(index, None, json)),
        CallDelta::Aborted { .. } => None,
    }
}

struct ChatChunks {
    form: Form,
}

impl ChatChunks {
    fn push(&self, choice: ChatChunkChoice<'_>, usage: ChunkUsage, events: &mut Events) {
        // The prompt is the same for all choices: once is enough.
        let first = choice.index == 0 && choice.delta.role.is_some();
        events.push(&ChatChunk {
            head: &self.form.head,
            choices: vec![choice],
            usage,
            prompt_token_ids: if first { self.form.prompt_token_ids() } else { None },
        });
    }
}

impl Chunks for ChatChunks {
    fn start(&mut self, usage: ChunkUsage, events: &mut Events) {
        self.form.head.object = "chat.completion.chunk";
        for index in 0..self.form.choices {
            let delta = ChatDelta { role: Some("assistant"), content: Some(""), ..ChatDelta::default() };
            let choice = ChatChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            self.push(choice, usage, events);
        }
    }

    fn delta(&mut self, index: usize, delta: Delta, usage: ChunkUsage, events: &mut Events) {
        let form = &self.form;
        let reasoning = if form.include_reasoning { delta.reasoning.as_str() } else { "" };
        let tool_calls = call_deltas(delta.calls);
        let visible = !delta.content.is_empty() || !reasoning.is_empty() || !tool_calls.is_empty();
        let has_token = delta.token.is_some() && (form.logprobs.is_some() || form.return_token_ids);
        if !visible && !has_token && delta.finish.is_none() {
            return;
        }
        let some = |text| (!str::is_empty(text)).then_some(text);
        let (finish_reason, stop_reason) =
            delta.finish.map_or((None, None), |finish| (Some(finish.reason), finish.stop_reason));
        let choice = ChatChunkChoice {
            index,
            delta: ChatDelta {
                role: None,
                content: some(delta.content.as_str()),
                reasoning: some(reasoning),
                reasoning_content: some(reasoning),
                tool_calls,
            },
            logprobs: form.logprobs(delta.token.as_ref()).filter(|logprobs| !logprobs.content.is_empty()),
            finish_reason,
            stop_reason,
            token_ids: form.token_ids(delta.token.as_ref()),
        };
        self.push(choice, usage, events);
    }

    fn usage(&mut self, usage: Usage, events: &mut Events) {
        events.push(&ChatChunk {
            head: &self.form.head,
            choices: Vec::new(),
            usage: Some(Some(usage)),
            prompt_token_ids: None,
        });
    }
}
