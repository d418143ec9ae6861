//! The interactive chat: a line editor, slash commands, streamed answers.
//!
//! Every turn renders the whole conversation through the template again, so that what the model sees is
//! always exactly what the template makes of the messages.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::answer;
use crate::args::RunArgs;
use crate::command::{self, Command, Line};
use crate::conversation::{Attachment, Conversation, Message, Role};
use crate::dragged;
use crate::editor::{Editor, Typed};
use crate::error::Error;
use crate::format::counted;
use crate::open::{DEMO_NAME, Prompt};
use crate::output::{self, Look, Printer};
use crate::run::{Ready, why_cut};
use crate::session::{End, Generated};
use crate::shown::{self, say};
use crate::text_file;
use crate::wrap;

/// Longest text file that is said.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Characters of a message that `/load` shows.
const EXCERPT_CHARS: usize = 300;

/// What the demo model's chat begins with.
const DEMO_GREETING: &str = "\
This is undine-demo, a toy of 5 million parameters inside the program. It does small sums and calls, tells tiny stories and \
talks about itself; of anything else it knows nothing.
Try:  What is 17 + 25?
      Tell me a story about a fox in the garden.
      What can you do?
A real model:  undine run lfm2.5:1.2b   (fetches 0.7 GB once; undine models lists more)
/help lists commands, Ctrl-D leaves.";

/// Prints a line; unlike `println!` it survives a reader that has left.
fn tell(line: impl std::fmt::Display) -> Result<(), Error> {
    Ok(writeln!(shown::stdout(), "{}", wrap::wrapped(&line.to_string(), output::columns()))?)
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
    look: Look,
    /// A file that is there, and was asked about.
    to_replace: Option<String>,
    last: Option<Generated>,
    answers: usize,
    answer_tokens: usize,
}

impl Chat {
    /// A chat with an empty conversation.
    pub fn new(args: &RunArgs, ready: Ready, system: Option<String>) -> Self {
        Self {
            completes: args.raw || ready.text.template.is_none(),
            pictures: Vec::new(),
            conversation: Conversation { system, messages: Vec::new() },
            verbose: args.verbose,
            look: Look::for_stdout(args),
            to_replace: None,
            ready,
            last: None,
            answers: 0,
            answer_tokens: 0,
        }
    }

    /// Reads and answers until the user leaves. The first message shows `pictures`; it is `first`, if there
    /// is one.
    pub fn run(mut self, pictures: &[PathBuf], first: Option<&str>) -> Result<(), Error> {
        let mut editor = Editor::new()?;
        tell(self.greeting())?;
        for path in pictures {
            self.attach(path)?;
        }
        if let Some(first) = first {
            self.say(first)?;
        }
        let result = loop {
            match editor.read() {
                Ok(Typed::Text(line)) => match self.take(&line) {
                    Ok(Next::Line) => {}
                    Ok(Next::Leave) => break Ok(()),
                    Err(error) => break Err(error),
                },
                Ok(Typed::Interrupt) => tell("(Ctrl-D or /bye leaves)")?,
                Ok(Typed::End) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        editor.finish();
        result
    }

    fn greeting(&self) -> String {
        let name = &self.ready.name;
        match self.completes {
            true => format!("{name} (no chat template: it completes text, Ctrl-D leaves)"),
            false if name == DEMO_NAME => DEMO_GREETING.to_owned(),
            false => format!("{name} (/help lists commands, Ctrl-D leaves)"),
        }
    }

    /// Does what a line asks for. Errors that the user can mend are printed, and the chat goes on.
    fn take(&mut self, line: &str) -> Result<Next, Error> {
        let done = match command::parse(line) {
            line @ Line::Command(_) => self.follow(line),
            // A path looks like a command.
            other => match self.without_pictures(line) {
                Ok(Some(rest)) => self.follow(command::parse(&rest)),
                Ok(None) => refuse_file(line).and_then(|()| self.follow(other)),
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

    /// Adds the pictures whose files were dragged into a line to the next message; returns the rest if there
    /// are any.
    fn without_pictures(&mut self, line: &str) -> Result<Option<String>, Error> {
        if self.completes || line.trim_start().starts_with(command::FENCE) {
            return Ok(None);
        }
        let typed = dragged::split(line, Path::is_file);
        if !typed.pictures.is_empty() && !self.ready.text.sees() {
            let why = self.ready.text.pictures().err().map_or_else(String::new, |error| error.chain());
            return Err(Error::refused(format!(
                "{why}. The message is not sent; in \"\"\" it would be, as text"
            )));
        }
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
            Command::System(text) => {
                let answer = if text.is_empty() {
                    "(no system prompt any more)"
                } else {
                    "(the system prompt is set)"
                };
                self.conversation.system = (!text.is_empty()).then_some(text);
                tell(answer)?;
            }
            Command::ShowSettings => tell(self.ready.settings.describe())?,
            Command::Set { name, value } => self.set(&name, &value)?,
            Command::ShowModel => tell(self.describe())?,
            Command::Read(path) => {
                let text = text_file::read(&dragged::path(&path), READ_BYTES_MAX)?;
                self.say(text.trim_end())?;
            }
            Command::Again => self.again()?,
            Command::Clear => {
                self.conversation.messages.clear();
                self.pictures.clear();
                tell("(the conversation is empty)")?;
            }
            Command::Stats => tell(self.stats())?,
            Command::Save(path) => self.save(path)?,
            Command::Load(path) => {
                self.conversation = Conversation::load(Path::new(&path), &self.ready.text)?;
                let count = counted(self.conversation.messages.len(), "message");
                tell(format_args!("(loaded {count} from {path})"))?;
                let last = self.conversation.messages.iter().rev().take(2).collect::<Vec<_>>();
                last.into_iter().rev().try_for_each(|message| tell(excerpt(message)))?;
            }
            Command::Bye => unreachable!("handled by the caller"),
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let switch = || match value {
            "on" | "true" | "1" => Ok(true),
            "off" | "false" | "0" => Ok(false),
            _ => Err(Error::usage(format!("{name}: expected on or off, found {value:?}"))),
        };
        match name {
            "verbose" => self.verbose = switch()?,
            "wordwrap" => self.look.columns = output::columns().filter(|_| matches!(switch(), Ok(true))),
            "think" => {
                self.ready.kwargs.insert("enable_thinking".to_owned(), json!(switch()?));
            }
            _ => {
                let wrong = |message| Error::usage(format!("{name}: {message}"));
                self.ready.settings.set(name, value).map_err(wrong)?;
            }
        }
        match value {
            "" => tell(format_args!("({name} is as at the start)")),
            _ => tell(format_args!("({name} is {value})")),
        }
    }

    /// Writes the conversation to a file; to one that is there only if the same is asked a second time.
    fn save(&mut self, path: String) -> Result<(), Error> {
        let is_asked = self.to_replace.take().is_some_and(|asked| asked == path);
        if !is_asked && Path::new(&path).exists() {
            tell(format_args!("({path} exists; the same line again replaces it)"))?;
            self.to_replace = Some(path);
            return Ok(());
        }
        self.conversation.save(Path::new(&path))?;
        let count = counted(self.conversation.messages.len(), "message");
        tell(format_args!("(saved {count} to {path})"))
    }

    /// Takes the last answer back and gives another one.
    fn again(&mut self) -> Result<(), Error> {
        if self.conversation.messages.last().is_some_and(|last| last.role == Role::Assistant) {
            self.conversation.pop();
        }
        match self.conversation.pop() {
            Some(Message { role: Role::User, content, images, .. }) => {
                self.pictures = images;
                self.say(&content)
            }
            other => {
                self.conversation.messages.extend(other);
                Err(Error::usage("there is no message to answer again"))
            }
        }
    }

    fn describe(&self) -> String {
        let Ready { session, text, name, .. } = &self.ready;
        let sees = if text.sees() { ", takes pictures" } else { "" };
        let template = if self.completes { "no chat template" } else { "chat template" };
        format!(
            "{name}: context of {} tokens, {template}{sees}; `undine inspect` tells all of a model",
            session.context()
        )
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
            && let Some(prompt) =
                self.ready.text.chat_prompt(&self.conversation.for_template(), &self.ready.kwargs)?
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
        // The window may have another width by now.
        let look = Look { columns: self.look.columns.and(output::columns()), ..self.look };
        let mut printer = Printer::new(io::stdout().lock(), look);
        let Ready { session, text, settings, .. } = &mut self.ready;
        let answer = answer::answer(session, text, prompt, settings, |piece| Ok(printer.piece(piece)?))?;
        printer.finish()?;
        drop(printer);
        self.answers += 1;
        self.answer_tokens += answer.numbers.completion_tokens;
        self.last = Some(answer.numbers);
        match (answer.numbers.end, why_cut(&answer.numbers, self.ready.session.context())) {
            (End::Interrupted, _) => tell("(stopped)")?,
            (_, Some(_)) if self.is_context_full(&answer.numbers) => tell(CONTEXT_FULL)?,
            (_, Some(why)) => tell(format_args!("({why}; /set max_tokens -1 lets answers end)"))?,
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

/// Tells a path of a file, typed or dropped as the whole line, from something to say.
fn refuse_file(text: &str) -> Result<(), Error> {
    let path = dragged::path(text.trim());
    let is_path = !text.trim_start().starts_with(command::FENCE) && text.contains(['/', '.']);
    match is_path && path.is_file() {
        true => Err(Error::refused(format!(
            "{} is a file: /read {} gives its text to the model. Within \"\"\" its name would be sent",
            path.display(),
            path.display()
        ))),
        false => Ok(()),
    }
}

/// A message in short.
fn excerpt(message: &Message) -> String {
    let mark = if message.role == Role::User { ">>> " } else { "" };
    let text: String = message.content.chars().take(EXCERPT_CHARS).collect();
    let dots = if text.len() < message.content.len() { " ..." } else { "" };
    format!("{mark}{text}{dots}")
}
