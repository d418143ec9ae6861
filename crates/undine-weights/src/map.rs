//! The bytes of a checkpoint file: mapped, built into the program, or owned. The only `unsafe` of this crate.

use std::fs::File;
use std::ops::{Deref, Range};
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

    /// Says that `range` will not be read again soon, so that a file much larger than memory can be read through once
    /// without filling it. The bytes stay as they are.
    pub(crate) fn release(&self, range: Range<usize>) {
        debug_assert!(range.end <= self.len());
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the mapping is of a file, read-only and never written through, so dropped pages are read from the file
            // again with the same contents; the range lies inside it. A system that refuses the advice loses nothing.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
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
