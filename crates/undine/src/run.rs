//! `undine run`: one answer, or a chat when there is a terminal and no prompt.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json, json};
use undine_core::FinishReason;

use crate::answer::{self, Answer};
use crate::args::RunArgs;
use crate::asked::Asked;
use crate::chat::Chat;
use crate::conversation::{Attachment, Conversation};
use crate::dragged;
use crate::error::Error;
use crate::format::counted;
use crate::open::{self, ModelText, Prompt};
use crate::output::{Look, Printer};
use crate::sampling::{self, Settings};
use crate::session::{self, End, Session};
use crate::shown::{self, say};
use crate::synth::plan::RANDOM_WEIGHTS;
use crate::{helpers, interrupt, session::Generated};

/// A model ready to answer.
pub struct Ready {
    /// Where tokens come from.
    pub session: Session,
    /// Text to tokens and back.
    pub text: ModelText,
    /// How to answer.
    pub settings: Settings,
    /// What the chat template is told beside the messages.
    pub kwargs: Map<String, Json>,
    /// What to call the model.
    pub name: String,
    /// How long loading took.
    pub load_time: Duration,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), Error> {
    // Before loading: an empty prompt need not wait for the model to be refused.
    let asked = Asked::new(args)?;
    if args.json && asked.prompt.is_none() {
        return Err(Error::usage("--json needs a prompt: -p TEXT, or piped input"));
    }
    let ready = load(args, asked.model.as_deref()).map_err(|error| or_said(error, asked.model.as_deref()))?;
    interrupt::install()?;
    let is_chat = asked.prompt.is_none() || (args.interactive && io::stdin().is_terminal());
    match asked.prompt.as_deref().filter(|_| !is_chat) {
        Some(prompt) => answer_once(args, ready, &asked, prompt),
        None => Chat::new(args, ready, asked.system).run(&args.image, asked.prompt.as_deref()),
    }
}

/// A single word that is no model may have been something to say.
fn or_said(error: Error, model: Option<&Path>) -> Error {
    let word = model.and_then(Path::to_str).unwrap_or_default();
    let is_word =
        !word.is_empty() && word.chars().all(|sign| sign.is_alphabetic() || matches!(sign, '\'' | ','));
    match error {
        Error::Hub(unknown @ undine_hub::Error::Unknown { .. }) if is_word => {
            Error::refused(format!("{unknown}. To say it to the demo model: undine run -p {word}"))
        }
        other => other,
    }
}

fn load(args: &RunArgs, model: Option<&Path>) -> Result<Ready, Error> {
    let started = Instant::now();
    helpers::warm();
    let checkpoint = open::open_with(model, args.vision.mmproj.as_deref())?;
    if checkpoint.name().ends_with(RANDOM_WEIGHTS) {
        say!("note: the weights of this model are random, so its answers are noise; it is for measuring");
    }
    let mapping = open::MappingAhead::start(&checkpoint);
    let text = ModelText::new(&checkpoint)?;
    if let Some(note) = text.note.as_ref().filter(|_| !args.raw) {
        say!("{note}");
    }
    let name = open::display_name(model);
    let mut settings = Settings::new(sampling::defaults(&checkpoint, &name), &args.sampling);
    settings.max_tokens = args.max_tokens;
    settings.stop.clone_from(&args.stop);
    let context = session::context(checkpoint.config(), args.max_model_len)?;
    let image_cache = args.vision.image_cache_memory_bytes;
    let session = Session::new(Arc::clone(&checkpoint), context, &args.executor, image_cache)?;
    drop(mapping);
    let load_time = started.elapsed();
    if args.verbose {
        say!("loaded {name} in {:.3} s, context {context} tokens", load_time.as_secs_f64());
        say!("sampling: {}", settings.describe().replace('\n', ", "));
    }
    let kwargs = args.chat_template_kwargs.as_ref().map(|kwargs| kwargs.0.clone()).unwrap_or_default();
    Ok(Ready { session, text, settings, kwargs, name, load_time })
}

fn answer_once(args: &RunArgs, mut ready: Ready, asked: &Asked, text: &str) -> Result<(), Error> {
    let prompt = make_prompt(args, &ready, asked, text)?;
    let mut printer = Printer::new(io::stdout().lock(), Look::for_stdout(args));
    let Ready { session, text, settings, .. } = &mut ready;
    let answer = answer::answer(session, text, prompt, settings, |piece| {
        if !args.json {
            printer.piece(piece)?;
        }
        Ok(())
    })?;
    if args.json {
        drop(printer);
        let json =
            serde_json::to_string_pretty(&as_json(&ready, &answer)).expect("numbers and texts are JSON");
        writeln!(shown::stdout(), "{json}")?;
    } else {
        printer.finish()?;
        drop(printer);
        if let Some(why) = why_cut(&answer.numbers, ready.session.context()) {
            say!("note: {why}");
        }
    }
    if args.verbose {
        say!("{}", answer::describe(&answer.numbers));
    }
    // The process ends here, and the system takes everything back at once: a hundred thousand texts of the
    // vocabulary need not be freed one by one before.
    std::mem::forget(ready);
    match answer.numbers.end {
        End::Interrupted => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

/// Why an answer ends before the model would end it, if it does.
pub fn why_cut(numbers: &Generated, context: u32) -> Option<String> {
    let Generated { prompt_tokens, completion_tokens, end, .. } = *numbers;
    let is_full = prompt_tokens + completion_tokens >= context as usize;
    match end {
        End::Finished(FinishReason::MaxTokens | FinishReason::ContextFull) if is_full => Some(format!(
            "the answer is cut: the context of {context} tokens is full (-c, which is --max-model-len)"
        )),
        End::Finished(FinishReason::MaxTokens) => Some(format!(
            "the answer is cut after {} (-n, which is --max-tokens)",
            counted(completion_tokens, "token")
        )),
        _ => None,
    }
}

/// Through the chat template, unless there is none or the text is wanted raw.
fn make_prompt(args: &RunArgs, ready: &Ready, asked: &Asked, prompt: &str) -> Result<Prompt, Error> {
    let text = &ready.text;
    let (paths, prompt) = with_dragged(args, text, prompt);
    if !args.raw {
        let mut conversation = Conversation { system: asked.system.clone(), messages: Vec::new() };
        conversation.push_user(&prompt, attach(text, &paths)?);
        if let Some(prompt) = text.chat_prompt(&conversation.for_template(), &ready.kwargs)? {
            return Ok(prompt);
        }
        if asked.system.is_some() {
            return Err(Error::refused("this model has no chat template, so it takes no --system prompt"));
        }
        say!("note: this is a base model without a chat template: the prompt is completed as raw text");
    }
    let pictures: String = attach(text, &paths)?.into_iter().map(|picture| picture.placeholder).collect();
    text.raw_prompt(&(pictures + &prompt))
}

/// The pictures to show, those whose paths stand in the prompt of a model that sees among them, and the rest
/// of it.
fn with_dragged(args: &RunArgs, text: &ModelText, prompt: &str) -> (Vec<PathBuf>, String) {
    let typed = dragged::split(prompt, Path::is_file);
    if args.raw || typed.pictures.is_empty() {
        return (args.image.clone(), prompt.to_owned());
    }
    if !text.sees() {
        say!("note: this model takes no pictures, so it sees the name of the file and no more");
        return (args.image.clone(), prompt.to_owned());
    }
    (args.image.iter().cloned().chain(typed.pictures).collect(), typed.text)
}

fn attach(text: &ModelText, paths: &[PathBuf]) -> Result<Vec<Attachment>, Error> {
    paths.iter().map(|path| Attachment::new(text.pictures()?, path)).collect()
}

fn as_json(ready: &Ready, answer: &Answer) -> serde_json::Value {
    let Generated { prompt_tokens, completion_tokens, .. } = answer.numbers;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "model": ready.name,
        "text": answer.text,
        "reasoning": if answer.reasoning.is_empty() { None } else { Some(&answer.reasoning) },
        "finish_reason": answer.numbers.end.reason(),
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
        "timings": {
            "load_ms": milliseconds(ready.load_time),
            "time_to_first_token_ms": milliseconds(answer.numbers.time_to_first_token),
            "decode_ms": milliseconds(answer.numbers.decode_time),
            "prefill_tokens_per_second": answer.numbers.prefill_speed(),
            "decode_tokens_per_second": answer.numbers.decode_speed(),
        },
    })
}
