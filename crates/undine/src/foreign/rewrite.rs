//! The pass over a command line, before it is parsed.

use std::ffi::OsString;
use std::iter::Peekable;
use std::path::Path;
use std::vec::IntoIter;

use clap::CommandFactory;
use serde_json::{Map, Value as Json};
use undine_hub::Access;
use undine_quantize::Mix;

use super::commands::{self, CommandMeaning};
use super::flags;
use super::others;
use super::values;
use super::{Meaning, Row, Takes};
use crate::args::Cli;
use crate::error::Error;

/// A command line in this program's words.
#[derive(Debug)]
pub struct Rewritten {
    /// It.
    pub words: Vec<OsString>,
    /// What was meant and is not so, a sentence each.
    pub notes: Vec<String>,
    /// Whether models may be fetched.
    pub access: Access,
}

/// Commands that have commands.
const NESTED: &str = "bench";
/// Types of keys and values, the smallest first: of two, the larger one is taken.
const KV_TYPES: [&str; 3] = ["q8_0", "float16", "float32"];

/// Brings a command line into this program's words. What is unknown stays, for the parser to tell.
///
/// # Errors
/// If it asks for something that there is not, with the reason.
pub fn rewrite(words: Vec<OsString>) -> Result<Rewritten, Error> {
    let words = with_command(words)?;
    let Some(command) = words.get(1).and_then(|word| word.to_str()).map(str::to_owned) else {
        return Ok(Rewritten { words, notes: Vec::new(), access: Access::Online });
    };
    let cli = Cli::command();
    let Some(mut parsed) = cli.find_subcommand(&command) else {
        return Ok(Rewritten { words, notes: Vec::new(), access: Access::Online });
    };
    let (mut command, mut head) = (command, 2);
    if command == NESTED
        && let Some(nested) = words.get(2).and_then(|word| word.to_str())
        && let Some(found) = parsed.find_subcommand(nested)
    {
        (command, head, parsed) = (format!("{command}-{nested}"), 3, found);
    }
    let mut rest = words;
    let tail = rest.split_off(head);
    let pass = Pass { command: &command, parsed, line: Line::default() };
    let line = pass.run(tail)?;
    rest.extend(line.model()?);
    if !line.sampling.is_empty() {
        let json = Json::Object(line.sampling.clone());
        rest.push(format!("--override-generation-config={json}").into());
    }
    if let Some(kv) = KV_TYPES.iter().rev().find(|name| line.kv_types.contains(name)) {
        rest.push(format!("--kv-cache-dtype={kv}").into());
    }
    match command.as_str() {
        "quantize" => rest.extend(line.as_quantize()?),
        _ => rest.extend(line.words),
    }
    // Last, as it is here, wherever its flag stood.
    rest.extend(line.out);
    let access = if line.is_offline { Access::Offline } else { Access::Online };
    Ok(Rewritten { words: rest, notes: line.notes, access })
}

/// The words with a command of this program in the second place, if there is any in sight.
fn with_command(mut words: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let Some(first) = words.get(1).and_then(|word| word.to_str()).map(str::to_owned) else {
        return Ok(words);
    };
    match commands::find(&first) {
        Some(CommandMeaning::Is(instead)) => {
            words.splice(1..2, instead.iter().map(OsString::from));
        }
        Some(CommandMeaning::Reason(why)) => {
            return Err(Error::usage(format!("there is no `undine {first}`: {why}")));
        }
        // `undine -m model.gguf -p hi` and `undine model.gguf`.
        None => {
            let is_flag = ["-m", "-p", "--model", "--prompt"].contains(&first.as_str())
                || first.starts_with("-hf")
                || first.starts_with("--hf-repo");
            let is_file = first.ends_with(".gguf") && !first.starts_with('-');
            if is_flag || is_file {
                words.insert(1, "run".into());
            }
        }
    }
    Ok(words)
}

/// What has been read.
#[derive(Default)]
struct Line {
    words: Vec<OsString>,
    /// Which of them are no flags and no values.
    plain: Vec<usize>,
    notes: Vec<String>,
    model: Option<OsString>,
    repo_file: Option<String>,
    out: Option<OsString>,
    is_offline: bool,
    sampling: Map<String, Json>,
    kv_types: Vec<&'static str>,
}

struct Pass<'a> {
    command: &'a str,
    parsed: &'a clap::Command,
    line: Line,
}

type Words = Peekable<IntoIter<OsString>>;

impl Pass<'_> {
    fn run(mut self, words: Vec<OsString>) -> Result<Line, Error> {
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default();
            if text == "--" {
                self.line.words.push(word);
                self.line.words.extend(words);
                break;
            }
            let (name, value) = match text.split_once('=').filter(|_| text.starts_with("--")) {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let found = if name.starts_with('-') { find(self.command, name) } else { None };
            match found {
                Some(row) => self.take(row, name, value, &mut words)?,
                None if !text.starts_with('-') => {
                    self.line.plain.push(self.line.words.len());
                    self.line.words.push(word);
                }
                None => {
                    let own = self.own(name);
                    let takes_value = own.is_some_and(|arg| arg.get_action().takes_values());
                    let next = (value.is_none() && takes_value).then(|| words.next()).flatten();
                    // In any of its spellings; what is unknown is shown as it was typed.
                    let folded = own.is_some().then(|| with_hyphens(text)).filter(|_| name.starts_with("--"));
                    self.line.words.push(folded.map_or(word, OsString::from));
                    self.line.words.extend(next);
                }
            }
        }
        Ok(self.line)
    }

    /// The flag of this program's own that has this name.
    fn own(&self, name: &str) -> Option<&clap::Arg> {
        let long = name.strip_prefix("--").map(with_hyphens);
        let is_named = |arg: &&clap::Arg| match &long {
            Some(long) => {
                arg.get_long().is_some_and(|known| known == long)
                    || arg.get_all_aliases().is_some_and(|known| known.contains(&long.as_str()))
            }
            None => {
                let mut letters = name.chars().skip(1);
                let letter = letters.next().filter(|_| letters.next().is_none());
                letter.is_some()
                    && (arg.get_short() == letter
                        || arg
                            .get_all_short_aliases()
                            .is_some_and(|known| known.iter().any(|c| Some(*c) == letter)))
            }
        };
        self.parsed.get_arguments().find(is_named)
    }

    /// Follows a row of the table.
    fn take(&mut self, row: &Row, flag: &str, value: Option<String>, words: &mut Words) -> Result<(), Error> {
        let value: Option<OsString> = match row.takes {
            Takes::Nothing => None,
            Takes::Value => match value {
                Some(value) => Some(value.into()),
                None => Some(
                    words.next().ok_or_else(|| Error::usage(format!("{flag}: expected a value after it")))?,
                ),
            },
            Takes::OneOf(values) => {
                let is_one = |next: &OsString| next.to_str().is_some_and(|next| values.contains(&next));
                value.map(OsString::from).or_else(|| words.next_if(is_one))
            }
        };
        let text = value.as_ref().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        let wrong = |message: String| Error::usage(message);
        let line = &mut self.line;
        match row.meaning {
            Meaning::Own(own) => {
                line.words.push(own.into());
                line.words.extend(value);
            }
            Meaning::Words(words) => line.words.extend(words.iter().map(OsString::from)),
            Meaning::Always => {}
            Meaning::Unless(neutral, _) if neutral.contains(&text.as_str()) => {}
            Meaning::Unless(_, verdict) | Meaning::Judged(verdict) => {
                line.notes.extend(verdict.judge(flag, Some(&text)).map_err(wrong)?);
            }
            Meaning::Read(read) => {
                let said = read(&text).map_err(|message| wrong(format!("{flag}: {message}")))?;
                line.words.extend(said.words.into_iter().map(OsString::from));
                line.notes.extend(said.note);
            }
            Meaning::Model => line.model = Some(a_model(flag, value)?),
            Meaning::Out => line.out = value,
            Meaning::Offline => line.is_offline = true,
            Meaning::RepoFile => line.repo_file = Some(text),
            Meaning::Sampling(name) => {
                let number = text.trim().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
                let whole = text.trim().parse::<i64>().ok().map(Json::from);
                let number = whole
                    .or(number.map(Json::Number))
                    .ok_or_else(|| wrong(format!("{flag}: expected a number, found {text:?}")))?;
                line.sampling.insert(name.to_owned(), number);
            }
            Meaning::KvType => {
                let (kv, note) = values::kv_type(flag, &text).map_err(wrong)?;
                if line.kv_types.iter().any(|other| *other != kv) {
                    line.notes.push("keys and values have one type here; the larger one is taken".to_owned());
                }
                line.kv_types.push(kv);
                line.notes.extend(note);
            }
        }
        Ok(())
    }
}

/// A word with hyphens in its flag's name, as Python's programs take both; its value stays.
fn with_hyphens(word: &str) -> String {
    let (name, value) = word.split_at(word.find('=').unwrap_or(word.len()));
    name.replace('_', "-") + value
}

/// The row of a flag, however it is spelled.
fn find(command: &str, name: &str) -> Option<&'static Row> {
    let name = if name.starts_with("--") { with_hyphens(name) } else { name.to_owned() };
    let is_named =
        |row: &&Row| row.on.contains(&command) && row.names.split_whitespace().any(|known| known == name);
    flags::FLAGS.iter().chain(others::FLAGS).find(is_named)
}

/// What stands after a flag that names a model: without one, another model would be taken.
fn a_model(flag: &str, value: Option<OsString>) -> Result<OsString, Error> {
    value
        .filter(|value| !value.is_empty() && !value.to_string_lossy().starts_with('-'))
        .ok_or_else(|| Error::usage(format!("{flag}: expected a model after it, such as {flag} OWNER/NAME")))
}

impl Line {
    /// The model that flags name.
    fn model(&self) -> Result<Option<OsString>, Error> {
        let Some(file) = &self.repo_file else { return Ok(self.model.clone()) };
        let missing = || Error::usage("-hff: expected the repository too: -hf OWNER/NAME -hff FILE");
        let repo = self.model.as_ref().and_then(|model| model.to_str()).ok_or_else(missing)?;
        // A quantization says less than a file.
        let repo = repo.split(':').next().unwrap_or(repo);
        Ok(Some(format!("{repo}/{file}").into()))
    }

    /// `IN OUT TYPE THREADS`, as llama-quantize has them, or `IN TYPE`, which names OUT itself.
    fn as_quantize(&self) -> Result<Vec<OsString>, Error> {
        let plain: Vec<&OsString> = self.plain.iter().map(|&at| &self.words[at]).collect();
        let mix = |word: &OsString| word.to_str().and_then(|text| text.parse::<Mix>().ok());
        let mut words: Vec<OsString> = self.words.clone();
        let flag = |name: &str, value: &OsString| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        };
        match *plain.as_slice() {
            [input, kind] if mix(kind).is_some() && !Path::new(kind).exists() => {
                let name = format!("ggml-model-{}.gguf", kind.to_string_lossy().to_ascii_uppercase());
                words[self.plain[1]] = Path::new(input).with_file_name(name).into();
                words.push(flag("--type", kind));
            }
            [_, _, kind, ref threads @ ..] if threads.len() <= 1 => {
                if mix(kind).is_none() {
                    let kind = kind.to_string_lossy();
                    return Err(Error::usage(format!(
                        "expected a type such as Q4_K_M after OUT, found {kind:?}; `undine synth --list` has them all"
                    )));
                }
                words[self.plain[2]] = flag("--type", kind);
                if let [threads] = threads {
                    words[self.plain[3]] = flag("--threads", threads);
                }
            }
            _ => {}
        }
        Ok(words)
    }
}
