//! The bytes of a checkpoint file: mapped, built into the program, or owned. The only `unsafe` of this crate.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::Error;

/// Read-only bytes that live as long as this value.
pub(crate) enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps a regular file of at least one byte.
    pub(crate) fn map(path: &Path) -> Result<Self, Error> {
        // A pipe would block on opening, so the kind is asked for first.
        let kind = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if !kind.is_file() || kind.len() == 0 {
            let reason = if kind.is_file() { "the file is empty" } else { "expected a regular file" };
            return Err(Error::NotACheckpoint { path: path.to_owned(), reason: reason.to_owned() });
        }
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        // SAFETY: the mapping is read-only and private to this value; the obligation that nobody shrinks or rewrites the
        // file while it is mapped is the user's, stated in the documentation of `Checkpoint::open`.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        Ok(Self::Mapped(map))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}
