//! `POST /v1/completions`: the answer.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use undine_core::{Origin, RowOutput, TokenId};
use undine_text::grammar::CompiledRules;
use undine_text::{Cancel, SpecialText, ToolFormat};

use crate::generation::{Choice, Delta, Generation, Plan, Reading, special_text};
use crate::logprobs::{LegacyLogprobs, Offsets, TokenTexts};
use crate::preparing::Lane;
use crate::prompt::{self, Asked, Wanted};
use crate::remarks::Remarks;
use crate::routes::response_id;
use crate::rules;
use crate::sse::{self, ChunkUsage, Chunks, Events};
use crate::state::{App, Ready, unix_time};
use crate::tenant::Caller;
use crate::wire::completion::{CompletionRequest, PromptInput};
use crate::wire::error::ApiResult;
use crate::wire::response::{CompletionChoice, CompletionResponse, Head, Usage};

/// What the writers of both forms need to know of the request.
struct Form {
    head: Head,
    texts: TokenTexts,
    special: SpecialText,
    echo: bool,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    return_token_ids: bool,
    prompts: Vec<EchoedPrompt>,
    choices_per_prompt: usize,
}

struct EchoedPrompt {
    tokens: Vec<TokenId>,
    /// As the client sent it, if it sent text.
    text: Option<String>,
}

/// What is kept per choice between its parts.
struct Progress {
    /// For `text_offset`.
    offsets: Offsets,
    /// Whether the prompt has been written.
    started: bool,
}

/// Answers a request whose body has been read.
pub(crate) async fn answer(
    app: Arc<App>,
    ready: Arc<Ready>,
    caller: Caller,
    body: Bytes,
    request_id: &str,
) -> ApiResult<Response> {
    let id = response_id("cmpl", request_id);
    ready.check_queue()?;
    let lane = Lane::Body(body.len());
    let mut request =
        app.preparing.run(caller.tenant, lane, move |_| CompletionRequest::parse(&body)).await?;
    let ignored = std::mem::take(&mut request.common.ignored);
    app.heed_ignored(&ignored)?;
    let stream = request.common.stream;
    let rules =
        rules::compile(&app, &ready, caller.tenant, rules::of_completion(request.common.format.as_ref()))
            .await?;
    let remarks = Remarks::new(ignored, rules.as_ref());
    app.tell_relaxed(&remarks);
    let served = Arc::clone(&ready);
    let origin = caller.origin(&request.common);
    let work = move |_: &Cancel| prepare(&served, &origin, request, id, rules.as_ref());
    let (form, plan) = app.preparing.run(caller.tenant, lane, work).await?;
    let generation = Generation::start(app, &ready, plan).await?;
    let progress = (0..form.prompts.len() * form.choices_per_prompt).map(|_| form.progress()).collect();
    let response = match stream {
        Some(usage) => sse::response(generation, CompletionChunks { form, progress }, usage),
        None => collect(generation, form, progress).await?,
    };
    Ok(remarks.on(response))
}

fn prepare(
    ready: &Ready,
    origin: &Origin,
    request: CompletionRequest,
    id: String,
    rules: Option<&CompiledRules>,
) -> ApiResult<(Form, Plan)> {
    let CompletionRequest { common, prompts, max_tokens, max_tokens_given, echo, logprobs } = request;
    let model = ready.served_name(common.model.as_deref())?;
    prompt::check_sequences(ready, prompts.len(), common.choices)?;
    // Echoed log-probabilities are those of the prompt.
    let echo_logprobs = if echo { logprobs } else { None };
    let scores = echo_logprobs.max(common.prompt_logprobs);
    let choices_per_prompt = common.choices as usize;
    let mut plan = Plan {
        sequences: Vec::new(),
        choices: Vec::new(),
        choices_per_prompt,
        prompt_tokens: 0,
        images: None,
    };
    let mut echoed = Vec::with_capacity(prompts.len());
    let single = prompts.len() == 1;
    for (i, input) in prompts.into_iter().enumerate() {
        let path = if single { "prompt".to_owned() } else { format!("prompt[{i}]") };
        let prompt = prompt::from_input(ready, &path, &input, common.add_special_tokens)?;
        let max_tokens = if max_tokens_given {
            let asked = Asked { tokens: max_tokens, path: &common.sent.max_tokens };
            prompt::room_for_answer(ready, &path, &prompt, Some(asked))?
        } else {
            prompt::room_for_answer(ready, &path, &prompt, None)?.min(max_tokens)
        };
        let wanted = Wanted { origin, common: &common, max_tokens, logprobs, prompt_logprobs: scores, rules };
        let sequences = prompt::sequences(ready, &prompt, &wanted)?;
        let (special, place) = (common.special, prompt.place);
        let tool_format = ToolFormat::Lfm2Marked;
        let reading = Reading { starts_in: prompt.starts_in, special, tools: None, tool_format, place };
        plan.choices.extend(sequences.iter().map(|_| Choice::new(ready, &common, reading.clone())));
        plan.sequences.extend(sequences);
        plan.prompt_tokens = plan.prompt_tokens.saturating_add(prompt.tokens.len() as u32);
        let text = match input {
            PromptInput::Text(text) => Some(text),
            PromptInput::Tokens(_) => None,
        };
        echoed.push(EchoedPrompt { tokens: prompt.tokens, text });
    }
    let form = Form {
        head: Head { id, object: "text_completion", created: unix_time(), model },
        texts: TokenTexts {
            tokenizer: ready.model.tokenizer.clone(),
            names: ready.token_names(common.token_names),
        },
        special: special_text(common.special),
        echo,
        logprobs,
        prompt_logprobs: common.prompt_logprobs,
        return_token_ids: common.return_token_ids,
        prompts: echoed,
        choices_per_prompt,
    };
    Ok((form, plan))
}

impl Form {
    fn progress(&self) -> Progress {
        Progress { offsets: Offsets::after(0, &self.texts, self.special), started: false }
    }

    fn prompt(&self, index: usize) -> &EchoedPrompt {
        &self.prompts[index / self.choices_per_prompt]
    }

    /// What precedes the answer of a choice: the echoed prompt and what is known of its tokens.
    fn opening(&self, index: usize, scores: &[RowOutput], progress: &mut Progress) -> CompletionChoice {
        let prompt = self.prompt(index);
        let mut choice = CompletionChoice { index, ..CompletionChoice::default() };
        if self.echo {
            choice.text = match (&prompt.text, &self.texts.tokenizer) {
                (Some(text), _) => text.clone(),
                (None, Some(tokenizer)) => tokenizer.decode(&prompt.tokens, self.special),
                (None, None) => String::new(),
            };
        }
        if let (true, Some(top)) = (self.echo, self.logprobs) {
            let mut logprobs = LegacyLogprobs::default();
            let mut offsets = self.offsets_of(prompt, &choice.text);
            logprobs.push_first(prompt.tokens[0], &self.texts, offsets.next(prompt.tokens[0]));
            for row in scores {
                logprobs.push(row, top, &self.texts, offsets.next(row.chosen.token));
            }
            choice.logprobs = Some(logprobs);
        }
        progress.offsets = Offsets::after(choice.text.chars().count(), &self.texts, self.special);
        choice.prompt_logprobs = self.prompt_logprobs.map(|top| self.texts.prompt(scores, top));
        if self.return_token_ids {
            choice.prompt_token_ids = Some(prompt.tokens.clone());
            choice.token_ids = Some(Vec::new());
        }
        choice
    }

    /// Where the tokens of an echoed prompt begin. A text was sent with its special tokens, but for the
    /// first, which is put in front of it.
    fn offsets_of(&self, prompt: &EchoedPrompt, text: &str) -> Offsets {
        if prompt.text.is_none() {
            return Offsets::after(0, &self.texts, self.special);
        }
        let mut offsets = Offsets::after(0, &self.texts, SpecialText::Keep);
        let first = prompt.tokens[0];
        let is_added = self.texts.tokenizer.as_ref().is_some_and(|tokenizer| {
            tokenizer.is_special(first) && !text.as_bytes().starts_with(tokenizer.token_bytes(first))
        });
        if is_added {
            offsets.skip(first);
        }
        offsets
    }

    /// A part of a choice: what one step added, with the opening in front of the first.
    fn part(&self, index: usize, delta: Delta, progress: &mut Progress) -> CompletionChoice {
        let mut part = if progress.started {
            CompletionChoice { index, ..CompletionChoice::default() }
        } else {
            progress.started = true;
            self.opening(index, delta.prompt_scores.as_deref().unwrap_or_default(), progress)
        };
        // Completions are raw text: nothing is split off as reasoning.
        part.text.push_str(&delta.content);
        if let (Some(top), Some(row)) = (self.logprobs, &delta.token) {
            let offset = progress.offsets.next(row.chosen.token);
            part.logprobs.get_or_insert_default().push(row, top, &self.texts, offset);
        }
        if let (true, Some(row)) = (self.return_token_ids, &delta.token) {
            part.token_ids.get_or_insert_default().push(row.chosen.token);
        }
        if let Some(finish) = delta.finish {
            part.finish_reason = Some(finish.reason);
            part.stop_reason = finish.stop_reason;
        }
        part
    }

    /// Whether a part says anything.
    fn is_visible(&self, part: &CompletionChoice) -> bool {
        !part.text.is_empty()
            || part.logprobs.is_some()
            || part.token_ids.is_some()
            || part.prompt_logprobs.is_some()
            || part.finish_reason.is_some()
    }
}

impl CompletionChoice {
    /// Appends a later part of the same choice.
    fn append(&mut self, part: Self) {
        self.text.push_str(&part.text);
        if let Some(logprobs) = part.logprobs {
            self.logprobs.get_or_insert_default().append(logprobs);
        }
        if let Some(token_ids) = part.token_ids {
            self.token_ids.get_or_insert_default().extend(token_ids);
        }
        self.prompt_logprobs = self.prompt_logprobs.take().or(part.prompt_logprobs);
        self.prompt_token_ids = self.prompt_token_ids.take().or(part.prompt_token_ids);
        self.finish_reason = part.finish_reason;
        self.stop_reason = part.stop_reason;
    }
}

async fn collect(mut generation: Generation, form: Form, mut progress: Vec<Progress>) -> ApiResult<Response> {
    let mut choices: Vec<CompletionChoice> =
        (0..progress.len()).map(|index| CompletionChoice { index, ..CompletionChoice::default() }).collect();
    while let Some(next) = generation.next().await {
        let (index, delta) = next?;
        choices[index].append(form.part(index, delta, &mut progress[index]));
    }
    for choice in &mut choices {
        // Asked for and empty is not the same as not asked for.
        if form.logprobs.is_some() {
            choice.logprobs.get_or_insert_default();
        }
    }
    let response = CompletionResponse { head: &form.head, choices, usage: Some(Some(generation.usage())) };
    Ok(Json(response).into_response())
}

struct CompletionChunks {
    form: Form,
    progress: Vec<Progress>,
}

impl Chunks for CompletionChunks {
    fn start(&mut self, _: ChunkUsage, _: &mut Events) {
        // The echoed prompt has to wait for its scores.
    }

    fn delta(&mut self, index: usize, delta: Delta, usage: ChunkUsage, events: &mut Events) {
        let part = self.form.part(index, delta, &mut self.progress[index]);
        if self.form.is_visible(&part) {
            events.push(&CompletionResponse { head: &self.form.head, choices: vec![part], usage });
        }
    }

    fn usage(&mut self, usage: Usage, events: &mut Events) {
        events.push(&CompletionResponse {
            head: &self.form.head,
            choices: Vec::new(),
            usage: Some(Some(usage)),
        });
    }
}
