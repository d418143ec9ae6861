//! The flags of `cargo xtask soak`.

use std::path::PathBuf;

/// How the command is called.
pub const USAGE: &str = "[--minutes N] [--clients N] [--seed N] [--server PROGRAM] [--model FILE] [--record FILE.jsonl] \
                         [--against FILE.jsonl]";

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flags {
    /// How long the clients ask.
    pub minutes: u64,
    pub clients: u64,
    /// Of what clients choose.
    pub seed: u64,
    /// The program; else a release build of the workspace.
    pub server: Option<PathBuf>,
    /// The model; else random weights in the shape of LFM2-350M.
    pub model: Option<PathBuf>,
    /// Where the record goes; the picture goes beside it.
    pub record: PathBuf,
    /// The record of another run, to be drawn too.
    pub against: Option<PathBuf>,
}

impl Flags {
    /// Reads them.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut flags = Self {
            minutes: 8,
            clients: 32,
            seed: 1,
            server: None,
            model: None,
            record: PathBuf::from("soak.jsonl"),
            against: None,
        };
        for pair in words.chunks(2) {
            let &[flag, value] = pair else { return Err(format!("{}: expected a value after it", pair[0])) };
            let number =
                || value.parse().map_err(|_| format!("{flag}: expected a whole number, found {value}"));
            match flag {
                "--minutes" => flags.minutes = number()?,
                "--clients" => flags.clients = number()?,
                "--seed" => flags.seed = number()?,
                "--server" => flags.server = Some(value.into()),
                "--model" => flags.model = Some(value.into()),
                "--record" => flags.record = value.into(),
                "--against" => flags.against = Some(value.into()),
                _ => return Err(format!("{flag} is no flag; expected {USAGE}")),
            }
        }
        Ok(flags)
    }
}
