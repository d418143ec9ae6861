//! Command lines of other programs: llama.cpp's, Ollama's, vLLM's and SGLang's. Each flag and command that
//! people bring along is in a table: what it means here, or that it changes nothing and why, or why it cannot
//! be had.
//!
//! [`rewrite`] goes over the words before they are parsed, because clap would read `-ngl 99` as five letters
//! and a model. Flags of vLLM are in [`vllm`], which the parser itself knows.

mod commands;
mod environment;
mod flags;
mod others;
mod rewrite;
#[cfg(test)]
mod tests;
mod values;
pub mod vllm;

pub use environment::unheard;
pub use rewrite::{Rewritten, rewrite};
pub use vllm::ForeignArgs;

/// What becomes of a flag that has no meaning here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is accepted and changes nothing, for this reason.
    NoEffect(&'static str),
    /// Only this value is possible, for this reason.
    Only(&'static [&'static str], &'static str),
    /// It would change the answers or what is promised, so nothing starts.
    Refused(&'static str),
}

impl Verdict {
    /// A sentence for a flag that changes nothing, or the reason why nothing starts.
    pub fn judge(self, flag: &str, value: Option<&str>) -> Result<Option<String>, String> {
        match self {
            Self::NoEffect(why) => Ok(Some(format!("{flag} has no effect: {why}"))),
            Self::Only(values, _) if value.is_some_and(|value| values.contains(&value)) => Ok(None),
            Self::Only(values, why) => {
                let (expected, value) = (values.join(" or "), value.unwrap_or("nothing"));
                Err(format!("{flag}: expected {expected}, found {value}: {why}"))
            }
            Self::Refused(why) => Err(format!("{flag}: {why}")),
        }
    }
}

/// What a flag is followed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// Nothing.
    Nothing,
    /// One value.
    Value,
    /// One of these, or nothing.
    OneOf(&'static [&'static str]),
}

/// What a flag means here.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// The same as this flag, with the same value.
    Own(&'static str),
    /// The same as these words, whatever its value.
    Words(&'static [&'static str]),
    /// It is always so, which needs no words.
    Always,
    /// With one of these values it asks for nothing; with another one it is judged.
    Unless(&'static [&'static str], Verdict),
    /// Never what was meant by it.
    Judged(Verdict),
    /// Its value decides.
    Read(fn(&str) -> Result<Said, String>),
    /// The model.
    Model,
    /// A file of the repository that is the model.
    RepoFile,
    /// The file to write, which is the last argument here.
    Out,
    /// Nothing is fetched.
    Offline,
    /// A sampling default of the server, under its name in a generation_config.json.
    Sampling(&'static str),
    /// The type of keys, or of values.
    KvType,
}

/// A flag of another program.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// The commands that may meet it; those of `bench` are called `bench-serve` and so on.
    on: &'static [&'static str],
    /// Its spellings, separated by blanks.
    names: &'static str,
    takes: Takes,
    meaning: Meaning,
}

/// What a value means in this program's words.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Said {
    words: Vec<String>,
    /// What the user should know.
    note: Option<String>,
}
