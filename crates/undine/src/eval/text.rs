//! The text that a model is measured on.

use std::path::Path;

use crate::error::Error;
use crate::text_file;

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
        let content = text_file::read(path, TEXT_BYTES_MAX)?;
        Ok(Self { name: path.display().to_string(), content })
    }
}
