//! What can go wrong in a command, and the exit code that tells it.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use undine_core::ExecutorError;

/// Exit code of a command that failed.
pub const EXIT_FAILURE: u8 = 1;
/// Exit code of a command that was asked for wrongly; the argument parser uses the same.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of an answer stopped with Ctrl-C: 128 plus the number of the signal.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The arguments are none that there are.
    #[error(transparent)]
    Arguments(clap::Error),
    /// The reader of the output went away: not a failure.
    #[error("the reader of the output is gone")]
    BrokenPipe,
    /// The answer was stopped with Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// There is advice, which has been printed.
    #[error("there is advice")]
    Advice,
    /// The checkpoint cannot be opened or written.
    #[error(transparent)]
    Weights(#[from] undine_weights::Error),
    /// The same, of a checkpoint whose message does not say which.
    #[error("{}", path.display())]
    Model {
        /// What was asked for.
        path: PathBuf,
        /// What is wrong with it.
        source: undine_weights::Error,
    },
    /// No plan for a quantized file can be made.
    #[error(transparent)]
    Quantize(#[from] undine_quantize::Error),
    /// A model cannot be found or fetched.
    #[error(transparent)]
    Hub(#[from] undine_hub::Error),
    /// The tokenizer or the chat template cannot be used.
    #[error(transparent)]
    Text(#[from] undine_text::TextError),
    /// The model cannot run on this processor.
    #[error(transparent)]
    Cpu(#[from] undine_cpu::Error),
    /// The engine's limits make no sense.
    #[error(transparent)]
    Engine(#[from] undine_engine::EngineError),
    /// The engine refuses the request.
    #[error(transparent)]
    Add(#[from] undine_engine::AddError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] ExecutorError),
    /// The server ended.
    #[error(transparent)]
    Server(#[from] undine_server::ServerError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] undine_server::TlsError),
    /// The operating system refused something about a file.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output cannot be written to: a full disk, most likely.
    #[error("standard output")]
    Output(#[source] io::Error),
    /// The operating system refused something else.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// What was asked cannot be done with this model or file.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Wrong arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Something this model or file cannot do.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    /// An error of the system about `path`.
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    /// An error about the checkpoint or matrix at `path`.
    pub fn model(path: &Path, source: undine_weights::Error) -> Self {
        match source.to_string().contains(&*path.to_string_lossy()) {
            true => Self::Weights(source),
            false => Self::Model { path: path.to_owned(), source },
        }
    }

    /// An error of writing to standard output.
    pub fn output(source: io::Error) -> Self {
        match Self::from(source) {
            Self::Io(source) => Self::Output(source),
            other => other,
        }
    }

    /// The message with its causes.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The exit code of a process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) | Self::Arguments(_) | Self::Hub(undine_hub::Error::Name { .. }) => EXIT_USAGE,
            Self::Interrupted => EXIT_INTERRUPTED,
            _ => EXIT_FAILURE,
        }
    }
}

/// The message of an error with its causes, each after a colon; a cause already part of the message is not
/// repeated.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let source = io::Error::new(io::ErrorKind::NotFound, "no such thing");
        assert_eq!(Error::file(Path::new("a.json"), source).chain(), "a.json: no such thing");
        assert_eq!(Error::Io(io::Error::other("odd")).chain(), "odd");
    }
}
