//! The interactive chat: a line editor, slash commands, streamed answers.
//!
//! Every turn renders the whole conversation through the template again, so that what the model sees is always exactly
//! what the template makes of the messages.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Completer, Config, Editor, EventHandler, Helper, Highlighter, Hinter, KeyEvent};

use crate::answer;
use crate::args::RunArgs;
use crate::command::{self, Command, Line};
use crate::conversation::{Attachment, Conversation};
use crate::dragged;
use crate::error::Error;
use crate::open::Prompt;
use crate::output::{self, Printer};
use crate::run::Ready;
use crate::session::{End, Generated};
use crate::shown::{self, say};
use undine_core::FinishReason;

/// What the user types after.
const PROMPT: &str = ">>> ";
/// Lines of history kept from chat to chat.
const HISTORY_MAX: usize = 1000;

/// Prints a line; unlike `println!` it survives a reader that has left.
fn tell(line: impl std::fmt::Display) -> Result<(), Error> {
    Ok(writeln!(shown::stdout(), "{line}")?)
}

/// Whether the chat goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Line,
    Leave,
}

/// A chat in a terminal.
pub struct Chat {
    ready: Ready,
    conversation: Conversation,
    /// Those of the next message.
    pictures: Vec<Attachment>,
    /// Whether lines are completed as they are, without a template.
    completes: bool,
    verbose: bool,
    last: Option<Generated>,
    answers: usize,
    answer_tokens: usize,
}

/// Tells the editor when a line goes on.
#[derive(Completer, Helper, Highlighter, Hinter)]
struct Multiline;

impl Validator for Multiline {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let unfinished = command::is_unfinished(context.input());
        Ok(if unfinished { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Chat {
    /// A chat with an empty conversation.
    pub fn new(args: &RunArgs, ready: Ready) -> Self {
        Self {
            completes: args.raw || ready.text.template.is_none(),
            pictures: Vec::new(),
            conversation: Conversation { system: args.system.clone(), messages: Vec::new() },
            verbose: args.verbose,
            ready,
            last: None,
            answers: 0,
            answer_tokens: 0,
        }
    }

    /// Reads and answers until the user leaves. The first message shows `pictures`.
    pub fn run(mut self, pictures: &[PathBuf]) -> Result<(), Error> {
        let mut editor = editor()?;
        let history = history_path();
        if let Some(path) = &history {
            // No history yet is not an error.
            drop(editor.load_history(path));
        }
        let mut entered = Vec::new();
        let mode =
            if self.completes { "no chat template: it completes text" } else { "/help lists commands" };
        tell(format_args!("{} ({mode}, Ctrl-D leaves)", self.ready.name))?;
        for path in pictures {
            self.attach(path)?;
        }
        let result = loop {
            match editor.readline(PROMPT) {
                Ok(line) => {
                    // A history that cannot grow is no reason to stop.
                    drop(editor.add_history_entry(line.trim_end()));
                    entered.push(line.trim_end().to_owned());
                    match self.take(&line) {
                        Ok(Next::Line) => {}
                        Ok(Next::Leave) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
                Err(ReadlineError::Interrupted) => tell("(Ctrl-D or /bye leaves)")?,
                Err(ReadlineError::Eof) => break Ok(()),
                Err(ReadlineError::Io(error)) => break Err(error.into()),
                Err(error) => break Err(Error::refused(format!("the line editor failed: {error}"))),
            }
        };
        if let Some(path) = &history {
            drop(extend_history(path, entered));
        }
        result
    }

    /// Does what a line asks for. Errors that the user can mend are printed, and the chat goes on.
    fn take(&mut self, line: &str) -> Result<Next, Error> {
        let done = match command::parse(line) {
            line @ Line::Command(_) => self.follow(line),
            // A path looks like a command.
            other => match self.without_pictures(line) {
                Ok(Some(rest)) => self.follow(command::parse(&rest)),
                Ok(None) => self.follow(other),
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(next) => Ok(next),
            Err(error @ (Error::BrokenPipe | Error::Device(_) | Error::Io(_))) => Err(error),
            Err(error) => {
                tell(error.chain())?;
                Ok(Next::Line)
            }
        }
    }

    fn follow(&mut self, line: Line) -> Result<Next, Error> {
        match line {
            Line::Empty => {}
            Line::Say(text) => self.say(&text)?,
            Line::Command(Command::Bye) => return Ok(Next::Leave),
            Line::Command(command) => self.obey(command)?,
            Line::Invalid(message) => return Err(Error::usage(message)),
        }
        Ok(Next::Line)
    }

    /// Adds the pictures whose files were dragged into a line to the next message; returns the rest if there are any.
    fn without_pictures(&mut self, line: &str) -> Result<Option<String>, Error> {
        if self.completes || !self.ready.text.sees() || line.trim_start().starts_with(command::FENCE) {
            return Ok(None);
        }
        let typed = dragged::split(line, Path::is_file);
        for path in &typed.pictures {
            self.attach(path)?;
        }
        Ok((!typed.pictures.is_empty()).then_some(typed.text))
    }

    /// Adds a picture to the next message.
    fn attach(&mut self, path: &Path) -> Result<(), Error> {
        if self.completes {
            return Err(Error::refused(
                "text is completed without a chat template, so there are no pictures",
            ));
        }
        let picture = Attachment::new(self.ready.text.pictures()?, path)?;
        tell(format_args!("(the next message shows {}, {} tokens)", path.display(), picture.tokens))?;
        self.pictures.push(picture);
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Image(path) => self.attach(&dragged::path(&path))?,
            Command::Help => tell(command::HELP)?,
            Command::ShowSystem => match &self.conversation.system {
                Some(system) => tell(system)?,
                None => tell("(no system prompt)")?,
            },
            Command::System(_) if self.completes => {
                return Err(Error::refused(
                    "text is completed without a chat template, so there is no system prompt",
                ));
            }
            Command::System(text) => self.conversation.system = (!text.is_empty()).then_some(text),
            Command::ShowSettings => tell(self.ready.settings.describe())?,
            Command::Set { name, value } => {
                self.ready
                    .settings
                    .set(&name, &value)
                    .map_err(|message| Error::usage(format!("{name}: {message}")))?;
            }
            Command::Clear => {
                self.conversation.messages.clear();
                self.pictures.clear();
                tell("(the conversation is empty)")?;
            }
            Command::Stats => tell(self.stats())?,
            Command::Save(path) => {
                self.conversation.save(Path::new(&path))?;
                tell(format_args!("(saved {} messages to {path})", self.conversation.messages.len()))?;
            }
            Command::Load(path) => {
                self.conversation = Conversation::load(Path::new(&path), &self.ready.text)?;
                tell(format_args!("(loaded {} messages from {path})", self.conversation.messages.len()))?;
            }
            Command::Bye => unreachable!("handled by the caller"),
        }
        Ok(())
    }

    fn stats(&self) -> String {
        let context = self.ready.session.context();
        let used = self.last.map_or(0, |last| last.prompt_tokens + last.completion_tokens);
        let mut text = format!(
            "answers: {}, tokens generated: {}, context used: {used} of {context} tokens",
            self.answers, self.answer_tokens
        );
        if let Some(last) = &self.last {
            text.push_str("\nlast: ");
            text.push_str(&answer::describe(last));
        }
        text
    }

    /// The prompt for what the user said, which is already part of the conversation.
    fn prompt(&self, text: &str) -> Result<Prompt, Error> {
        if !self.completes
            && let Some(prompt) = self.ready.text.chat_prompt(&self.conversation.for_template())?
        {
            return Ok(prompt);
        }
        self.ready.text.raw_prompt(text)
    }

    fn say(&mut self, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.completes {
            self.conversation.push_user(text, std::mem::take(&mut self.pictures));
        }
        let result = self.answer(text);
        if result.is_err() && !self.completes {
            self.pictures = self.conversation.pop().map_or_else(Vec::new, |message| message.images);
        }
        result
    }

    fn answer(&mut self, text: &str) -> Result<(), Error> {
        let prompt = self.prompt(text)?;
        if let Some(message) = answer::too_long(&prompt, &self.ready.session) {
            return Err(Error::refused(format!("{message}; /clear starts a new conversation")));
        }
        let (style, control) = output::for_stdout();
        let mut printer = Printer::new(io::stdout().lock(), style, control);
        let Ready { session, text, settings, .. } = &mut self.ready;
        let answer = answer::answer(session, text, prompt, settings, |piece| Ok(printer.piece(piece)?))?;
        printer.finish()?;
        drop(printer);
        self.answers += 1;
        self.answer_tokens += answer.numbers.completion_tokens;
        self.last = Some(answer.numbers);
        match answer.numbers.end {
            End::Interrupted => tell("(stopped)")?,
            End::Finished(FinishReason::ContextFull) => tell(CONTEXT_FULL)?,
            End::Finished(FinishReason::MaxTokens) if self.is_context_full(&answer.numbers) => {
                tell(CONTEXT_FULL)?;
            }
            _ => {}
        }
        if self.verbose {
            say!("{}", answer::describe(&answer.numbers));
        }
        if !self.completes {
            self.conversation.push_assistant(answer.text, answer.reasoning);
        }
        io::stdout().flush()?;
        Ok(())
    }

    fn is_context_full(&self, numbers: &Generated) -> bool {
        numbers.prompt_tokens + numbers.completion_tokens >= self.ready.session.context() as usize
    }
}

const CONTEXT_FULL: &str = "(the context is full; /clear starts a new conversation)";

fn editor() -> Result<Editor<Multiline, FileHistory>, Error> {
    let failed = |error: ReadlineError| Error::refused(format!("the line editor cannot start: {error}"));
    let mut editor = Editor::with_config(history_config().map_err(failed)?).map_err(failed)?;
    editor.set_helper(Some(Multiline));
    editor.bind_sequence(KeyEvent::alt('\r'), EventHandler::Simple(Cmd::Newline));
    Ok(editor)
}

fn history_config() -> Result<Config, ReadlineError> {
    Ok(Config::builder().max_history_size(HISTORY_MAX)?.build())
}

/// Adds lines to the history on disk, where other chats may have added theirs meanwhile.
fn extend_history(path: &Path, lines: Vec<String>) -> Result<(), ReadlineError> {
    let lock = std::fs::File::create(path.with_extension("lock"))?;
    lock.lock()?;
    let mut history = FileHistory::with_config(&history_config()?);
    if path.exists() {
        history.load(path)?;
    }
    for line in lines {
        history.add_owned(line)?;
    }
    history.save(path)
}

/// Where the history is kept; `None` if there is no place for it.
fn history_path() -> Option<PathBuf> {
    let strategy = etcetera::choose_base_strategy().ok()?;
    let folder = strategy.state_dir().unwrap_or_else(|| strategy.data_dir()).join("undine");
    // An empty HOME would make it a folder of wherever the program runs.
    if !folder.is_absolute() {
        return None;
    }
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history.txt"))
}
