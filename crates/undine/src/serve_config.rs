//! What happens to a command line of `serve` or `batch` before it is parsed: the flags of `--config FILE` are
//! put in front of it, and spellings that `vllm serve` understands are brought into one form.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, CommandFactory};
use serde_json::{Map, Value as Json};

use crate::args::Cli;
use crate::error::Error;
use crate::text_file;

/// Longest configuration file.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// How similar two names must be for one to be meant by the other (Jaro and Winkler's measure, 1 being
/// equal).
const SIMILARITY_MIN: f64 = 0.7;

/// Short flags of vLLM with more than one letter, which would be read as several flags.
const SHORT: [(&str, &str); 4] = [
    ("-tp", "--tensor-parallel-size"),
    ("-pp", "--pipeline-parallel-size"),
    ("-dp", "--data-parallel-size"),
    ("-q", "--quantization"),
];

/// Commands whose flags may stand in a file.
const COMMANDS: [&str; 2] = ["serve", "batch"];

/// The command line to parse. Any other command's stays as it is.
pub fn expand(words: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, Error> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let Some(name) = COMMANDS.into_iter().find(|name| words.get(1).is_some_and(|word| word == name)) else {
        return Ok(words);
    };
    let command = command(name);
    let mut line =
        Line { flags: Flags::of(&command), words: Vec::new(), given: HashSet::new(), config: None };
    line.read(words.split_off(2))?;
    if let Some(path) = &line.config {
        words.extend(read_file(Path::new(path), &line.flags, &line.given)?);
    }
    words.extend(line.words);
    Ok(words)
}

fn command(name: &str) -> clap::Command {
    Cli::command().find_subcommand(name).expect("every name stands for a command").clone()
}

/// The flags there are.
struct Flags<'a>(Vec<(&'a str, &'a Arg)>);

impl<'a> Flags<'a> {
    fn of(command: &'a clap::Command) -> Self {
        let names =
            |arg: &'a Arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        Self(command.get_arguments().flat_map(|arg| names(arg).map(move |name| (name, arg))).collect())
    }

    fn find(&self, name: &str) -> Option<&'a Arg> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, arg)| *arg)
    }

    fn takes_value(&self, name: &str) -> bool {
        self.find(name).is_some_and(|arg| arg.get_action().takes_values())
    }

    /// A switch that `--no-NAME` turns off.
    fn is_switch(&self, name: &str) -> bool {
        self.find(name).is_some() && !self.takes_value(name)
    }

    /// The flag as it is known by, whichever alias was used, and without the `no-` of a switch.
    fn key(&self, name: &str) -> String {
        let positive = name.strip_prefix("no-").filter(|positive| self.is_switch(positive)).unwrap_or(name);
        self.find(positive).and_then(Arg::get_long).unwrap_or(positive).to_owned()
    }

    fn nearest(&self, name: &str) -> Option<&'a str> {
        let visible = self.0.iter().filter(|(known, _)| *known != "model-in-config");
        let scored = visible.map(|(known, _)| (strsim::jaro_winkler(known, name), *known));
        scored
            .filter(|(score, _)| *score >= SIMILARITY_MIN)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known)
    }
}

/// The words after the command, in one form.
struct Line<'a> {
    flags: Flags<'a>,
    words: Vec<OsString>,
    /// Keys of the flags that were given.
    given: HashSet<String>,
    config: Option<OsString>,
}

impl Line<'_> {
    fn read(&mut self, words: Vec<OsString>) -> Result<(), Error> {
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default();
            if text == "--" {
                self.words.push(word);
                self.words.extend(words);
                return Ok(());
            }
            if let Some(level) = text.strip_prefix("-O") {
                self.words.push("--optimization-level".into());
                self.words.extend((!level.is_empty()).then(|| level.into()));
                continue;
            }
            if let Some((_, long)) = SHORT.iter().find(|(short, _)| *short == text) {
                self.words.push(long.into());
                continue;
            }
            let Some(flag) = text.strip_prefix("--") else {
                self.words.push(word);
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name.replace('_', "-"), Some(OsString::from(value))),
                None => (flag.replace('_', "-"), None),
            };
            self.given.insert(self.flags.key(&name));
            if name == "config" {
                let missing = || Error::usage("--config: expected the path of a YAML file");
                self.config = Some(value.or_else(|| words.next()).ok_or_else(missing)?);
            } else if self.flags.is_switch(&name) {
                // Not vLLM's syntax, but what people write.
                let next = || words.next_if(|next| next.to_str().and_then(truth).is_some());
                let value = value.or_else(next);
                self.words.push(switch(&name, value.as_ref().and_then(|value| value.to_str()))?.into());
            } else {
                self.words.push(format!("--{name}").into());
                // The value as it was: it need not be UTF-8 if it is a word of its own.
                match value {
                    Some(value) => *self.words.last_mut().expect("just pushed") = joined(&name, &value),
                    None if self.flags.takes_value(&name) => self.words.extend(words.next()),
                    None => {}
                }
            }
        }
        Ok(())
    }
}

fn joined(name: &str, value: &OsString) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `--NAME` or `--no-NAME`.
fn switch(name: &str, value: Option<&str>) -> Result<String, Error> {
    match value.map(|value| truth(value).ok_or(value)) {
        None | Some(Ok(true)) => Ok(format!("--{name}")),
        Some(Ok(false)) => match name.strip_prefix("no-") {
            Some(positive) => Ok(format!("--{positive}")),
            None => Ok(format!("--no-{name}")),
        },
        Some(Err(value)) => {
            Err(Error::usage(format!("--{name}: expected no value, true or false, found {value:?}")))
        }
    }
}

/// The flags of a file, without those that the command line has.
fn read_file(path: &Path, flags: &Flags<'_>, given: &HashSet<String>) -> Result<Vec<OsString>, Error> {
    let text = text_file::read(path, CONFIG_BYTES_MAX)?;
    let wrong = |message: String| Error::usage(format!("{}: {message}", path.display()));
    parse(&text).and_then(|map| entries(map, flags, given)).map_err(wrong)
}

/// The words of a file for a command.
pub fn words(name: &str, map: Map<String, Json>, given: &HashSet<String>) -> Result<Vec<OsString>, String> {
    entries(map, &Flags::of(&command(name)), given)
}

fn entries(
    map: Map<String, Json>,
    flags: &Flags<'_>,
    given: &HashSet<String>,
) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    for (key, value) in map {
        let name = key.replace('_', "-");
        let known =
            flags.find(&name).is_some() || flags.is_switch(name.strip_prefix("no-").unwrap_or_default());
        if !known || name == "config" || name == "help" {
            let meant = flags.nearest(&name).filter(|_| !known);
            let advice = meant.map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
            return Err(format!("there is no flag --{name} for the key {key:?}{advice}"));
        }
        if !given.contains(&flags.key(&name)) {
            words.extend(flag_words(&name, &value, flags)?);
        }
    }
    Ok(words)
}

/// The entries of a file.
pub fn parse(yaml: &str) -> Result<Map<String, Json>, String> {
    // As in YAML 1.2: otherwise a model named y would be called true.
    let options = serde_saphyr::options! { strict_booleans: true };
    match serde_saphyr::from_str_with_options(yaml, options).map_err(|error| error.to_string())? {
        Json::Object(map) => Ok(map),
        Json::Null => Ok(Map::new()),
        _ => Err("expected a map from names of flags to values".to_owned()),
    }
}

/// One entry of a file as words.
fn flag_words(name: &str, value: &Json, flags: &Flags<'_>) -> Result<Vec<OsString>, String> {
    // The positional argument comes before this one, as the rest of the command line does.
    let long = if name == "model" { "model-in-config" } else { name };
    let one = |value: &Json| match value {
        Json::String(text) => OsString::from(format!("--{long}={text}")),
        other => OsString::from(format!("--{long}={other}")),
    };
    match value {
        Json::Null => Ok(Vec::new()),
        Json::Bool(false) if !flags.takes_value(name) && flags.find(&format!("no-{name}")).is_none() => {
            Ok(Vec::new())
        }
        Json::Bool(value) if !flags.takes_value(name) => {
            let text = if *value { "true" } else { "false" };
            switch(name, Some(text)).map(|word| vec![word.into()]).map_err(|error| error.chain())
        }
        // What other readers of YAML take for a truth value.
        Json::String(text) if !flags.takes_value(name) => {
            switch(name, Some(text)).map(|word| vec![word.into()]).map_err(|error| error.chain())
        }
        other if !flags.takes_value(name) => Err(format!("{name}: expected true or false, found {other}")),
        // A flag that may be repeated takes the entries one by one, any other the list as JSON.
        Json::Array(list) if flags.find(name).is_some_and(is_repeatable) => {
            Ok(list.iter().map(one).collect())
        }
        other => Ok(vec![one(other)]),
    }
}

fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), clap::ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn expand_text(line: &str) -> Result<String, String> {
        let words = ["undine", "serve"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let expanded = expand(words).map_err(|error| error.chain())?;
        let words: Vec<String> =
            expanded.into_iter().skip(2).map(|word| word.into_string().unwrap()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn spellings_become_one() {
        for (line, expected) in [
            ("m --max_model_len 4K", "m --max-model-len 4K"),
            ("m --max_model_len=4K", "m --max-model-len=4K"),
            ("m --enable-prefix-caching false", "m --no-enable-prefix-caching"),
            ("m --enable_prefix_caching=True", "m --enable-prefix-caching"),
            ("m --no-enable-prefix-caching", "m --no-enable-prefix-caching"),
            ("--enable-prefix-caching m", "--enable-prefix-caching m"),
            ("--trust-remote-code false m", "--no-trust-remote-code m"),
            ("--served-model-name --x m", "--served-model-name --x m"),
            ("m -tp 2 -O3", "m --tensor-parallel-size 2 --optimization-level 3"),
            ("m --no_such_flag", "m --no-such-flag"),
            ("-- --max_model_len", "-- --max_model_len"),
        ] {
            assert_eq!(expand_text(line).as_deref(), Ok(expected), "{line}");
        }
        assert!(expand_text("m --enable-prefix-caching=maybe").unwrap_err().contains("maybe"));
        assert!(expand_text("m --config").unwrap_err().contains("YAML"));
    }

    #[test]
    fn files_come_before_the_command_line() {
        let file = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let full = file(
            "model: a.gguf\nport: 9000\nmax_model_len: 32K\nserved-model-name: [x, y]\nenable-prefix-caching: false\n\
             trust-remote-code: true\nallow-credentials: false\nallowed-origins: ['https://a.example']\n\
             override-generation-config: {temperature: 0.5}\nseed: null\n",
        );
        let path = full.path().to_str().unwrap();
        assert_eq!(
            expand_text(&format!("--config {path}")).unwrap(),
            "--model-in-config=a.gguf --port=9000 --max-model-len=32K --served-model-name=x --served-model-name=y \
             --no-enable-prefix-caching --trust-remote-code --allowed-origins=[\"https://a.example\"] \
             --override-generation-config={\"temperature\":0.5}"
        );
        let line = format!(
            "b.gguf --config={path} --port 1 --served-model-name z --enable-prefix-caching --model c"
        );
        assert_eq!(
            expand_text(&line).unwrap(),
            "--max-model-len=32K --trust-remote-code --allowed-origins=[\"https://a.example\"] \
             --override-generation-config={\"temperature\":0.5} \
             b.gguf --port 1 --served-model-name z --enable-prefix-caching --model c"
        );
        for (text, part) in [
            ("max_model_length: 5", "did you mean \"max-model-len\"?"),
            ("xyzzy: 5", "there is no flag --xyzzy"),
            ("config: other.yaml", "--config"),
            ("- a\n- b", "expected a map"),
            ("port: [", "line"),
            ("enable-prefix-caching: 7", "expected true or false, found 7"),
        ] {
            let file = file(text);
            let message = expand_text(&format!("--config {}", file.path().display())).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(expand_text("--config /no/such.yaml").unwrap_err().contains("/no/such.yaml"));
    }
}
