//! What `undine run` is asked: the model and the prompt, wherever they stand on the command line.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use crate::args::RunArgs;
use crate::error::Error;
use crate::text_file;

/// Most bytes of piped input, or of a file: far more than any context holds.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// A command line of `undine run`, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// `None` is the demo model.
    pub model: Option<PathBuf>,
    /// `None` asks for a chat.
    pub prompt: Option<String>,
    /// The system prompt.
    pub system: Option<String>,
}

impl Asked {
    /// Reads the arguments, the files that they name, and piped input.
    pub fn new(args: &RunArgs) -> Result<Self, Error> {
        let (model, words) = model_and_words(args, |path| path.exists());
        let given = given_prompt(args, words)?;
        let system = match &args.system_file {
            Some(path) => Some(without_last_newline(text_file::read(path, TEXT_BYTES_MAX)?)),
            None => args.system.clone(),
        };
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let is_empty = given.as_ref().is_some_and(String::is_empty);
            return match is_empty {
                true => Err(Error::usage("the prompt is empty")),
                false => Ok(Self { model, prompt: given, system }),
            };
        }
        let mut piped = Vec::new();
        stdin.lock().take(TEXT_BYTES_MAX + 1).read_to_end(&mut piped)?;
        if piped.len() as u64 > TEXT_BYTES_MAX {
            return Err(Error::refused(format!("more than {TEXT_BYTES_MAX} bytes of piped input")));
        }
        let piped = String::from_utf8(piped).map_err(|error| {
            Error::refused(format!("piped input is not UTF-8 text: {}", error.utf8_error()))
        })?;
        let text = joined(given.as_deref().unwrap_or_default(), &piped);
        if text.is_empty() {
            let taken = model.as_deref().filter(|model| !model.exists()).map_or_else(String::new, |model| {
                let model = model.display();
                format!("; {model} was taken for the model, and `undine run -p {model}` asks it of the demo")
            });
            return Err(Error::usage(format!(
                "the prompt is empty: expected a prompt after the model or -p TEXT, piped input, or a terminal to chat in{taken}"
            )));
        }
        Ok(Self { model, prompt: Some(text), system })
    }
}

/// The model, and what stands after it. A first argument that can only be something to say is no model.
fn model_and_words(args: &RunArgs, exists: impl Fn(&Path) -> bool) -> (Option<PathBuf>, Vec<String>) {
    let mut words = args.words.clone();
    match args.model.as_deref() {
        Some(first) if is_said(&first.to_string_lossy()) && !exists(first) => {
            words.insert(0, first.to_string_lossy().into_owned());
            (std::env::var_os("UNDINE_MODEL").map(PathBuf::from), words)
        }
        model => (model.map(Path::to_owned), words),
    }
}

/// Whether a text is something to say, and not a misspelt name or path: names have no blanks, and paths begin
/// or end like paths.
fn is_said(text: &str) -> bool {
    let begins_like_a_path = ["/", "./", "../", "~", "\\\\"].iter().any(|start| text.starts_with(start));
    let ends_like_a_file = [".gguf", ".safetensors", "/"].iter().any(|end| text.ends_with(end));
    let has_blank = text.trim().contains(char::is_whitespace);
    let ends_like_a_sentence = text.ends_with(['?', '!', '.', '…', '？', '！', '。']);
    !begins_like_a_path && !ends_like_a_file && (has_blank || ends_like_a_sentence || text.trim().is_empty())
}

/// The prompt of the command line: `-p`, `-f`, or the words after the model.
fn given_prompt(args: &RunArgs, words: Vec<String>) -> Result<Option<String>, Error> {
    let words = (!words.is_empty()).then(|| words.join(" "));
    let prompt = match (&args.prompt, &args.file, words) {
        (None, None, words) => words,
        (Some(prompt), None, None) => Some(prompt.clone()),
        (None, Some(path), None) => Some(without_last_newline(text_file::read(path, TEXT_BYTES_MAX)?)),
        (_, _, Some(words)) => {
            return Err(Error::usage(format!(
                "the prompt is given twice: {words:?} stands beside -p or -f; put a text of several words in quotes"
            )));
        }
        (Some(_), Some(_), None) => return Err(Error::usage("the prompt is given twice: -p and -f")),
    };
    Ok(prompt.map(|prompt| if args.escape { unescaped(&prompt) } else { prompt }))
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

fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
    }
    text
}

/// `\n`, `\t`, `\r`, quotes and backslashes as what they stand for; other backslashes stay.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        let meant = match signs.peek().filter(|_| sign == '\\') {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(&same @ ('\\' | '"' | '\'')) => Some(same),
            _ => None,
        };
        plain.push(meant.unwrap_or(sign));
        if meant.is_some() {
            signs.next();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> RunArgs {
        let words = ["undine", "run"].iter().chain(words);
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Run(args) => *args,
            _ => panic!("run"),
        }
    }

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

    #[test]
    fn a_prompt_may_stand_after_the_model_or_alone() {
        let there = ["what is this?", "model"];
        for (words, model, prompt) in [
            (&["m.gguf"][..], Some("m.gguf"), None),
            (&["m.gguf", "Hello"], Some("m.gguf"), Some("Hello")),
            (&["lfm2.5:1.2b", "why", "is", "it?"], Some("lfm2.5:1.2b"), Some("why is it?")),
            (&["What is 17 + 25?"], None, Some("What is 17 + 25?")),
            (&["Hello!"], None, Some("Hello!")),
            (&["Why?", "Really", "why?"], None, Some("Why? Really why?")),
            (&["what is this?"], Some("what is this?"), None),
            (&["my models/a b.gguf"], Some("my models/a b.gguf"), None),
            (&["./a b"], Some("./a b"), None),
            (&["/no/such model"], Some("/no/such model"), None),
            (&["lfm2.5:1.2bb"], Some("lfm2.5:1.2bb"), None),
            (&["m", "-p", "-5 + 3?"], Some("m"), Some("-5 + 3?")),
        ] {
            let args = args(words);
            let (found, rest) =
                model_and_words(&args, |path| there.iter().any(|other| Path::new(other) == path));
            assert_eq!(found.as_deref(), model.map(Path::new), "{words:?}");
            assert_eq!(given_prompt(&args, rest).expect("one prompt").as_deref(), prompt, "{words:?}");
        }
        let twice = args(&["m", "Hello", "-p", "Hi"]);
        assert!(given_prompt(&twice, vec!["Hello".to_owned()]).is_err());
    }

    #[test]
    fn escapes_stand_for_what_cannot_be_typed() {
        for (typed, expected) in
            [("a\\nb\\tc", "a\nb\tc"), ("\\\\n \\\"x\\\" \\d \\", "\\n \"x\" \\d \\"), ("plain", "plain")]
        {
            assert_eq!(unescaped(typed), expected);
        }
    }
}
