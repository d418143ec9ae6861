//! The text that a model is measured on.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::format::grouped;

/// Longest text: its tokens take many times its memory.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// A text and what it is called.
pub struct Text {
    /// For messages.
    pub name: String,
    /// All of it.
    pub content: String,
}

impl Text {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is too long or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::file(path, source);
        let bytes = fs::metadata(path).map_err(fail)?.len();
        if bytes > TEXT_BYTES_MAX {
            return Err(Error::refused(format!(
                "{} has {} bytes, the limit is {}; take a part of it",
                path.display(),
                grouped(bytes),
                grouped(TEXT_BYTES_MAX)
            )));
        }
        let content = String::from_utf8(fs::read(path).map_err(fail)?).map_err(|error| {
            Error::refused(format!("{} is not UTF-8 text: {}", path.display(), error.utf8_error()))
        })?;
        Ok(Self { name: path.display().to_string(), content })
    }
}
