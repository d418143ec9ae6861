//! What can be wrong with a checkpoint.

use std::path::{Path, PathBuf};

use undine_core::DType;

/// Why a checkpoint could not be opened or written. Every message names the file, key or tensor it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path is neither a GGUF file nor a Hugging Face folder, or a part of it is missing.
    #[error("{}: {reason}", path.display())]
    NotACheckpoint {
        /// The path as given or derived.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A GGUF file breaks the format.
    #[error("GGUF file is damaged or malformed at {field}: {reason}")]
    Gguf {
        /// The header field, metadata key or tensor.
        field: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A safetensors file breaks the format.
    #[error("{file} is damaged or malformed: {reason}")]
    Safetensors {
        /// File name.
        file: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A JSON file of a folder cannot be read.
    #[error("{file}: not the JSON that was expected: {reason}")]
    Json {
        /// File name.
        file: String,
        /// What the parser said.
        reason: String,
    },
    /// A configuration value is absent, of the wrong kind, or out of range.
    #[error("configuration value {key}: {reason}")]
    Config {
        /// The key as spelled in the file.
        key: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A model or feature Undine does not run.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The configuration requires a tensor that the checkpoint lacks.
    #[error("tensor {name} is missing; the configuration requires it{hint}")]
    MissingTensor {
        /// The name as spelled in this format.
        name: String,
        /// A sentence fragment with more, or empty.
        hint: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor {name} has shape {found:?}, expected {expected:?} (outermost dimension first)")]
    Shape {
        /// The name as spelled in the file.
        name: String,
        /// The shape the configuration requires.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor's element type cannot be used.
    #[error("tensor {name} has type {found}, expected {expected}")]
    TensorType {
        /// The name as spelled in the file.
        name: String,
        /// The type in the file.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A file was changed by another program while it was in use: nothing computed with it since can be
    /// trusted.
    #[error("{}: the file was changed while it was in use: {what}; start again with a file that nobody writes to (a new version belongs in a new file, renamed over the old one)", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        what: String,
    },
    /// The writing of a file was ended by the caller; nothing is left of it.
    #[error("stopped")]
    Stopped,
    /// A tensor has a value that its new type cannot hold.
    #[error("tensor {tensor} contains {value}, which {dtype} cannot hold{}", if value.is_finite() { "; choose BF16 or F32" } else { "; the weights are damaged" })]
    Value {
        /// The name as spelled in GGUF.
        tensor: String,
        /// The first such value.
        value: f32,
        /// The type it was to be written in.
        dtype: DType,
    },
    /// A file is no importance matrix, or not one of this model.
    #[error("importance matrix: {0}")]
    Imatrix(String),
    /// A checkpoint cannot be written as asked.
    #[error("cannot write GGUF: {0}")]
    Write(String),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn gguf(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Gguf { field: field.into(), reason: reason.into() }
    }

    pub(crate) fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }
}
