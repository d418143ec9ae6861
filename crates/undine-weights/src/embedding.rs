//! Models that turn texts into vectors: their layers are those of a language model, and what they would say
//! is noise.

use std::path::Path;

use crate::Error;

/// Files that sentence-transformers and PyLate keep beside a model, and no other program does.
const MARKS: [&str; 2] = ["modules.json", "config_sentence_transformers.json"];

/// Refuses a folder that says of itself that it is such a model.
///
/// # Errors
/// [`Error::Unsupported`] with the file that says so.
pub(crate) fn refuse(folder: &Path) -> Result<(), Error> {
    match MARKS.iter().find(|name| folder.join(name).is_file()) {
        Some(name) => Err(Error::Unsupported(format!(
            "this is an embedding model ({name} says so), which turns texts into vectors; Undine runs models that write text"
        ))),
        None => Ok(()),
    }
}
