//! What a file's name on the hub promises: the SHA-256 of large files, git's SHA-1 of the others.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A promise about the content of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Digest {
    /// Of the content, 64 hexadecimal digits.
    Sha256(String),
    /// Of the content after git's header, 40 digits.
    Git(String),
    /// None: the hub is a mirror that does not tell.
    Unknown,
}

impl Digest {
    /// From an ETag, which is one of both on the hub itself.
    pub fn of_etag(etag: &str) -> Self {
        let is_hex = etag.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match etag.len() {
            64 if is_hex => Self::Sha256(etag.to_owned()),
            40 if is_hex => Self::Git(etag.to_owned()),
            _ => Self::Unknown,
        }
    }

    /// Reads the file and compares. `Ok(Err(found))` is another content.
    pub fn check(&self, path: &Path) -> io::Result<Result<(), String>> {
        let mut file = File::open(path)?;
        let (expected, found) = match self {
            Self::Unknown => return Ok(Ok(())),
            Self::Sha256(expected) => {
                let mut hash = Sha256::new();
                feed(&mut file, |bytes| hash.update(bytes))?;
                (expected, hex(&hash.finalize()))
            }
            Self::Git(expected) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", file.metadata()?.len()));
                feed(&mut file, |bytes| hash.update(bytes))?;
                (expected, hex(&hash.finalize()))
            }
        };
        Ok(if found == *expected { Ok(()) } else { Err(found) })
    }

    /// For messages: what kind and which.
    pub fn describe(&self, digits: &str) -> String {
        match self {
            Self::Sha256(_) => format!("SHA-256 {digits}"),
            Self::Git(_) => format!("git SHA-1 {digits}"),
            Self::Unknown => "nothing in particular".to_owned(),
        }
    }

    /// The digits that are promised.
    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Git(digits) => digits,
            Self::Unknown => "",
        }
    }
}

fn feed(file: &mut File, mut update: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").expect("writes");
        // `sha256sum` and `git hash-object`.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for (etag, is_right) in
            [(sha256, true), (git, true), (&sha256.replace('5', "6"), false), ("abc-1", true)]
        {
            let digest = Digest::of_etag(etag);
            assert_eq!(digest.check(&path).expect("reads").is_ok(), is_right, "{digest:?}");
        }
        assert_eq!(Digest::of_etag("abc-1"), Digest::Unknown);
        assert_eq!(Digest::Git(String::new()).check(&path).expect("reads"), Err(git.to_owned()));
    }
}
