//! The line editor of a chat: what is typed, continued lines, Tab, the history.
//!
//! Lines that are pasted where the terminal does not mark a paste arrive as if each had been typed and
//! entered: they are messages one after the other, as in llama.cpp's and Ollama's chats. None is lost while
//! an answer is written: the editor keeps what it has read beyond a line (its feature `buffer-redux`; without
//! it that is thrown away when a line ends). Where the terminal marks it, as nearly all do, a paste is one
//! message with its lines.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::history::{FileHistory, History};
use rustyline::{
    Cmd, ColorMode, CompletionType, Config, Context, EventHandler, Helper, Hinter, KeyEvent, Validator,
};

use crate::command;
use crate::error::Error;
use crate::shown;

/// What the user types after.
const PROMPT: &str = ">>> ";
/// The same in a text that goes on.
const PROMPT_CONTINUED: &str = "... ";
/// Lines of history kept from chat to chat.
const HISTORY_MAX: usize = 1000;

/// What came of waiting for a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Typed {
    /// A line, or several that belong together.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// The editor, and the lines it was given.
pub struct Editor {
    inner: rustyline::Editor<Keys, FileHistory>,
    history: Option<PathBuf>,
    entered: Vec<String>,
}

impl Editor {
    /// With the history of earlier chats.
    pub fn new() -> Result<Self, Error> {
        let failed = |error: ReadlineError| Error::refused(format!("the line editor cannot start: {error}"));
        let mut inner = rustyline::Editor::with_config(config().map_err(failed)?).map_err(failed)?;
        inner.set_helper(Some(Keys { files: FilenameCompleter::new() }));
        inner.bind_sequence(KeyEvent::alt('\r'), EventHandler::Simple(Cmd::Newline));
        let history = history_path();
        if let Some(path) = &history {
            // No history yet is not an error.
            drop(inner.load_history(path));
        }
        Ok(Self { inner, history, entered: Vec::new() })
    }

    /// Waits for a line, and for those that belong to it.
    pub fn read(&mut self) -> Result<Typed, Error> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { PROMPT } else { PROMPT_CONTINUED };
            match self.inner.readline(prompt) {
                Ok(line) => {
                    text.push_str(&line);
                    if command::is_unfinished(&text) {
                        text.push('\n');
                        continue;
                    }
                    // A history that cannot grow is no reason to stop.
                    drop(self.inner.add_history_entry(text.trim_end()));
                    self.entered.push(text.trim_end().to_owned());
                    return Ok(Typed::Text(text));
                }
                Err(ReadlineError::Interrupted) => return Ok(Typed::Interrupt),
                // What has been typed of a text of several lines counts.
                Err(ReadlineError::Eof) if !text.is_empty() => return Ok(Typed::Text(text)),
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(ReadlineError::Io(error)) => return Err(error.into()),
                Err(error) => return Err(Error::refused(format!("the line editor failed: {error}"))),
            }
        }
    }

    /// Keeps the lines for later chats.
    pub fn finish(self) {
        if let Some(path) = &self.history {
            drop(extend_history(path, self.entered));
        }
    }
}

/// What Tab does: commands, settings, names of files.
#[derive(Helper, Hinter, Validator)]
struct Keys {
    files: FilenameCompleter,
}

impl Completer for Keys {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        match command::completions(typed) {
            Some((start, words)) => {
                let pair = |word: &str| Pair { display: word.to_owned(), replacement: word.to_owned() };
                Ok((start, words.into_iter().map(pair).collect()))
            }
            None => self.files.complete_path(line, at),
        }
    }
}

/// A paste may hold what steers the terminal: it is shown as symbols, and said as it is.
impl Highlighter for Keys {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        shown::symbols(line)
    }

    fn highlight_char(&self, line: &str, _: usize, _: CmdKind) -> bool {
        matches!(shown::symbols(line), Cow::Owned(_))
    }
}

fn config() -> Result<Config, ReadlineError> {
    let builder = Config::builder().max_history_size(HISTORY_MAX)?.completion_type(CompletionType::List);
    // There are no colours; without this nothing would be hidden under NO_COLOR.
    Ok(builder.color_mode(ColorMode::Forced).build())
}

/// Adds lines to the history on disk, where other chats may have added theirs meanwhile.
fn extend_history(path: &Path, lines: Vec<String>) -> Result<(), ReadlineError> {
    let lock = std::fs::File::create(path.with_extension("lock"))?;
    lock.lock()?;
    let mut history = FileHistory::with_config(&config()?);
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
