//! `undine run`: one answer, or a chat when there is a terminal and no prompt.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::answer::{self, Answer};
use crate::args::RunArgs;
use crate::chat::Chat;
use crate::conversation::{Attachment, Conversation};
use crate::error::Error;
use crate::open::{self, ModelText, Prompt};
use crate::output::{self, Printer};
use crate::sampling::{self, Settings};
use crate::session::{self, End, Session};
use crate::shown::{self, say};
use crate::{helpers, interrupt, session::Generated};

/// Most bytes of piped input: far more than any context holds.
const STDIN_BYTES_MAX: u64 = 64 << 20;

/// A model ready to answer.
pub struct Ready {
    /// Where tokens come from.
    pub session: Session,
    /// Text to tokens and back.
    pub text: ModelText,
    /// How to answer.
    pub settings: Settings,
    /// What to call the model.
    pub name: String,
    /// How long loading took.
    pub load_time: Duration,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<(), Error> {
    // Before loading: an empty prompt need not wait for the model to be refused.
    let prompt = prompt_text(args)?;
    let ready = load(args)?;
    interrupt::install()?;
    match prompt {
        Some(prompt) => answer_once(args, ready, &prompt),
        None if args.json => Err(Error::usage("--json needs a prompt: -p TEXT, or piped input")),
        None => Chat::new(args, ready).run(&args.image),
    }
}

fn load(args: &RunArgs) -> Result<Ready, Error> {
    let started = Instant::now();
    helpers::warm();
    let model = args.model.as_deref();
    let checkpoint = open::open_with(model, args.vision.mmproj.as_deref())?;
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
    Ok(Ready { session, text, settings, name, load_time })
}

/// The prompt from `-p` and piped input; `None` asks for a chat.
fn prompt_text(args: &RunArgs) -> Result<Option<String>, Error> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return match &args.prompt {
            Some(prompt) if prompt.is_empty() => Err(Error::usage("the prompt is empty")),
            prompt => Ok(prompt.clone()),
        };
    }
    let mut piped = Vec::new();
    stdin.lock().take(STDIN_BYTES_MAX + 1).read_to_end(&mut piped)?;
    if piped.len() as u64 > STDIN_BYTES_MAX {
        return Err(Error::refused(format!("more than {STDIN_BYTES_MAX} bytes of piped input")));
    }
    let piped = String::from_utf8(piped)
        .map_err(|error| Error::refused(format!("piped input is not UTF-8 text: {}", error.utf8_error())))?;
    let text = joined(args.prompt.as_deref().unwrap_or_default(), &piped);
    if text.is_empty() {
        return Err(Error::usage(
            "the prompt is empty: expected -p TEXT, piped input, or a terminal to chat in",
        ));
    }
    Ok(Some(text))
}

/// Piped input after the prompt, with an empty line between.
fn joined(prompt: &str, piped: &str) -> String {
    // A file ends in a newline; a prompt does not.
    let piped = piped.strip_suffix('\n').unwrap_or(piped);
    match (prompt.is_empty(), piped.is_empty()) {
        (false, false) => format!("{prompt}\n\n{piped}"),
        _ => format!("{prompt}{piped}"),
    }
}

fn answer_once(args: &RunArgs, mut ready: Ready, text: &str) -> Result<(), Error> {
    let prompt = make_prompt(args, &ready.text, text)?;
    let (style, control) = output::for_stdout();
    let mut printer = Printer::new(io::stdout().lock(), style, control);
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
    }
    if args.verbose {
        say!("{}", answer::describe(&answer.numbers));
    }
    // The process ends here, and the system takes everything back at once: a hundred thousand texts of the vocabulary need not
    // be freed one by one before.
    std::mem::forget(ready);
    match answer.numbers.end {
        End::Interrupted => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

/// Through the chat template, unless there is none or the text is wanted raw.
fn make_prompt(args: &RunArgs, text: &ModelText, prompt: &str) -> Result<Prompt, Error> {
    if !args.raw {
        let mut conversation = Conversation { system: args.system.clone(), messages: Vec::new() };
        conversation.push_user(prompt, attach(text, &args.image)?);
        if let Some(prompt) = text.chat_prompt(&conversation.for_template())? {
            return Ok(prompt);
        }
        if args.system.is_some() {
            return Err(Error::refused("this model has no chat template, so it takes no --system prompt"));
        }
        say!("note: this is a base model without a chat template: the prompt is completed as raw text");
    }
    let pictures: String =
        attach(text, &args.image)?.into_iter().map(|picture| picture.placeholder).collect();
    text.raw_prompt(&(pictures + prompt))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_input_follows_the_prompt() {
        for (prompt, piped, expected) in [
            ("Summarise:", "notes\n", "Summarise:\n\nnotes"),
            ("", "notes\n", "notes"),
            ("hi", "", "hi"),
            ("", "\n", ""),
        ] {
            assert_eq!(joined(prompt, piped), expected);
        }
    }
}
