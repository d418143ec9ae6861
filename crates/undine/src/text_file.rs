//! Text files of users, read up to a limit.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::Error;

/// The text of a file of at most `bytes_max` bytes. A device or a pipe that goes on and on is one that is too
/// long.
pub fn read(path: &Path, bytes_max: u64) -> Result<String, Error> {
    let fail = |source| Error::file(path, source);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)).map_err(fail)?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::refused(format!("{}: expected at most {bytes_max} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| {
        Error::refused(format!("{} is not UTF-8 text: {}", path.display(), error.utf8_error()))
    })
}
