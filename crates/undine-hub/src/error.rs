//! Everything that can go wrong between a name and a file.

use std::io;
use std::path::{Path, PathBuf};

use crate::settings::OFFLINE;

/// Names listed in a message, at most.
const LISTED_MAX: usize = 12;

/// Families of models that people ask other programs for.
const OTHER_FAMILIES: [&str; 22] = [
    "llama",
    "qwen",
    "qwq",
    "gemma",
    "mistral",
    "mixtral",
    "ministral",
    "phi",
    "deepseek",
    "gpt-oss",
    "gpt",
    "granite",
    "smollm",
    "olmo",
    "falcon",
    "command-r",
    "codellama",
    "tinyllama",
    "nemotron",
    "glm",
    "kimi",
    "yi",
];

/// What a name that is none may have meant.
fn advice(name: &str, nearest: &[String]) -> String {
    let lower = name.to_ascii_lowercase();
    let sizes = crate::short_names::sizes_of(name);
    let is_other = |family: &&str| {
        lower
            .strip_prefix(*family)
            .is_some_and(|rest| !rest.starts_with(|sign: char| sign.is_ascii_alphabetic()))
    };
    match (sizes.is_empty(), OTHER_FAMILIES.iter().any(is_other)) {
        (false, _) if name.contains(':') && !nearest.is_empty() => did_you_mean(nearest),
        (false, _) => listed("; that family has", &sizes),
        (true, true) => {
            "; Undine runs LFM2 and LFM2.5 by Liquid AI, such as lfm2.5:1.2b, and no other family".to_owned()
        }
        (true, false) => did_you_mean(nearest),
    }
}

/// Why a model cannot be found, fetched, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no name.
    #[error("{name:?} is no name of a model: {reason}")]
    Name {
        /// As it was given.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// Neither a file nor a known name.
    #[error(
        "there is no file or folder {name:?}, and no model of that name{}; `undine models` lists the short names, \
         and any repository of the hub is named OWNER/NAME",
        advice(name, nearest)
    )]
    Unknown {
        /// As it was given.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// A path to nothing.
    #[error(
        "there is no file or folder {}{}; a model of the hub is named OWNER/NAME, or shortly as `undine models` lists them",
        path.display(),
        did_you_mean(nearest)
    )]
    NoFileHere {
        /// As it was given.
        path: PathBuf,
        /// Paths that look like it.
        nearest: Vec<String>,
    },
    /// Nothing says where the cache is.
    #[error(
        "there is no place for the cache of models: HOME is not set; set it, or name a folder in HF_HOME, \
         HF_HUB_CACHE or, for a command that has it, --download-dir"
    )]
    NoCache,
    /// It would have to be fetched, and the network must not be used.
    #[error("{name} is not in the cache at {}, and --offline or {} forbids to fetch it", cache.display(), OFFLINE)]
    Offline {
        /// The model.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// Not in the cache.
    #[error("{name} is not in the cache at {}; `undine list` says what is", cache.display())]
    NotCached {
        /// The model.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub does not say whether such a repository exists.
    #[error("{repo}: {status}: {}", match has_token {
        true => "there is no such repository, or the token in use may not read it",
        false => "there is no such repository, or it is private; for a private one set HF_TOKEN",
    })]
    Unauthorized {
        /// The repository.
        repo: String,
        /// What the hub answered.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// Access must be asked for.
    #[error("{repo} is gated: ask for access at {url}, then {}", match has_token {
        true => "use a token of the account that has it (HF_TOKEN is set, but to one without access)",
        false => "set HF_TOKEN to a token of the account that has it",
    })]
    Gated {
        /// The repository.
        repo: String,
        /// Where access is asked for.
        url: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// No such repository.
    #[error("there is no repository {repo} at {endpoint}{}", did_you_mean(nearest))]
    NoRepository {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// No such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}{}", listed("; it has", existing))]
    NoRevision {
        /// The repository.
        repo: String,
        /// As it was given.
        revision: String,
        /// Branches and tags there are.
        existing: Vec<String>,
    },
    /// The repository has nothing that fits the name.
    #[error("{repo} has no {what}{}", listed("; it has", existing))]
    NoFile {
        /// The repository.
        repo: String,
        /// What was looked for.
        what: String,
        /// What there is instead.
        existing: Vec<String>,
    },
    /// The disk is too full.
    #[error(
        "{needed} bytes are to be written to {}, where {available} are free; free some, or let HF_HOME name another disk",
        path.display()
    )]
    NoSpace {
        /// Bytes to fetch, and what must stay free.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// Where.
        path: PathBuf,
    },
    /// It would not run here, as far as the beginnings of its files tell.
    #[error(
        "{name}: {reason}; nothing of it was fetched (`undine pull --force {name}` does that all the same)"
    )]
    Refused {
        /// The model.
        name: String,
        /// Why.
        reason: String,
    },
    /// The file on the hub is not the one that was asked for any more.
    #[error("{file} has changed on the hub during the download ({reason}); run the same command again")]
    Changed {
        /// The file.
        file: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// What arrived is not what the hub described; it has been thrown away.
    #[error(
        "{file}: expected {expected}, found {found}; what was downloaded of it is thrown away, run the same command again"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Size or hash.
        expected: String,
        /// Size or hash.
        found: String,
    },
    /// The hub answered with an error.
    #[error("{url}: {status}{}", match message.is_empty() { true => String::new(), false => format!(": {message}") })]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
        /// What the hub says about it.
        message: String,
    },
    /// The hub's answer is not one.
    #[error("{url}: {reason}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// No way leads to the hub: no name service, no route, nobody who listens.
    #[error(
        "{url} cannot be reached: {reason}; is there a network? A model that is here is named by its path, and `undine list` \
             says what is in the cache"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The network failed, more often than is tried.
    #[error("{url}: {reason}; what has arrived is kept, the same command goes on from there")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened last.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("{name}: {reason}")]
    Setting {
        /// The variable or flag.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The operating system refused something about a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system cannot run a client.
    #[error("cannot start an HTTP client: {0}")]
    Client(String),
}

impl Error {
    /// For `map_err` on operations on `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    pub(crate) fn name(name: &str, reason: impl Into<String>) -> Self {
        Self::Name { name: name.to_owned(), reason: reason.into() }
    }

    pub(crate) fn protocol(url: impl ToString, reason: impl Into<String>) -> Self {
        Self::Protocol { url: url.to_string(), reason: reason.into() }
    }
}

fn did_you_mean(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

fn listed(intro: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown = names[..names.len().min(LISTED_MAX)].join(", ");
    let rest = match names.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{intro} {shown}{rest}")
}
