//! The file of a Unix socket: made only where there is none or one that nobody answers, removed only if it is
//! still ours.
//!
//! Looking at the place, removing what is left over and binding are one section, which servers enter one at a
//! time: an advisory lock on the folder, held for as long as this takes. So a socket that is bound and does
//! not listen yet is never taken for one that was left over, and of two servers that find the same one left
//! over the second finds the first. The lock leaves no file behind and goes with the process.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::net::UnixListener;

use crate::error::Error;

/// How often the lock is tried, and how long is waited in between: whoever holds it is about to bind, too.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A socket's file. Dropping it removes the file, unless another one has taken its place.
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// What tells a file from another one of the same name.
type Identity = (u64, u64);

impl SocketFile {
    /// Binds and listens.
    pub fn bind(path: &Path) -> Result<(UnixListener, Self), Error> {
        let refused = |reason: String| Error::refused(format!("--uds {}: {reason}", path.display()));
        let _lock = lock(path)?;
        if let Some(found) = look(path)? {
            if let Some(what) = other_kind(&found) {
                return Err(refused(format!(
                    "expected a place without a file, found {what}; it is left as it is: name another place, or remove it"
                )));
            }
            match UnixStream::connect(path) {
                Ok(_) => {
                    let reason = "another server answers there; name another place, or end that server first";
                    return Err(refused(reason.to_owned()));
                }
                // Left over from a server that was killed.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(|source| Error::file(path, source))?;
                }
                Err(error) => {
                    return Err(refused(format!(
                        "found a socket, and cannot tell whether it is in use: {error}; name another place, or remove it"
                    )));
                }
            }
        }
        let listener =
            UnixListener::bind(path).map_err(|source| refused(format!("cannot listen: {source}")))?;
        let bound = look(path)?
            .ok_or_else(|| refused("the socket is gone at once; is somebody removing it?".to_owned()))?;
        Ok((listener, Self { path: path.to_owned(), identity: identity(&bound) }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Without the lock another server could put its own there between the look and the removal.
        let Ok(_lock) = lock(&self.path) else { return };
        let is_ours = |found: &Metadata| identity(found) == self.identity && found.file_type().is_socket();
        if look(&self.path).ok().flatten().as_ref().is_some_and(is_ours) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// What lies there; a link is looked at, not followed.
fn look(path: &Path) -> Result<Option<Metadata>, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, error)),
    }
}

/// What a file is, unless it is a socket.
fn other_kind(file: &Metadata) -> Option<&'static str> {
    let kind = file.file_type();
    match () {
        () if kind.is_socket() => None,
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a named pipe"),
        () if kind.is_file() => Some("a regular file"),
        () => Some("a device"),
    }
}

/// The folder of a socket, locked until it is dropped.
fn lock(path: &Path) -> Result<File, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |reason: String| {
        Error::refused(format!(
            "--uds {}: expected a folder that exists and can be read: {}: {reason}",
            path.display(),
            folder.display()
        ))
    };
    let file = File::open(folder).map_err(|error| fail(error.to_string()))?;
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(fail(format!("it cannot be locked: {error}"))),
        }
    }
    Err(fail("another program has locked it; name a place in another one".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap()
    }

    #[test]
    fn only_a_socket_that_nobody_answers_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::write(place("file"), "kept").unwrap();
        std::fs::create_dir(place("folder")).unwrap();
        std::os::unix::fs::symlink("file", place("link")).unwrap();
        std::os::unix::fs::symlink("nothing", place("dangling")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(place("pipe")).status().unwrap();
        assert!(made.success());
        let answered = StdListener::bind(place("answered")).unwrap();
        drop(StdListener::bind(place("left over")).unwrap());
        let runtime = runtime();
        let _entered = runtime.enter();
        for (name, expected) in [
            ("file", "a regular file"),
            ("folder", "a folder"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("pipe", "a named pipe"),
            ("answered", "another server answers"),
            ("no/such/folder", "a folder that exists"),
        ] {
            let before = look(&place(name)).ok().flatten().map(|file| identity(&file));
            let error = SocketFile::bind(&place(name)).err().expect(name).chain();
            assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
            assert_eq!(look(&place(name)).ok().flatten().map(|file| identity(&file)), before, "{name}");
        }
        assert_eq!(std::fs::read_to_string(place("file")).unwrap(), "kept");
        drop(answered);
        for name in ["left over", "answered", "new"] {
            let (_listener, socket) = SocketFile::bind(&place(name)).expect(name);
            assert!(UnixStream::connect(place(name)).is_ok(), "{name}");
            drop(socket);
            assert!(!place(name).exists(), "{name}: it goes with its server");
        }
    }

    #[test]
    fn what_has_taken_the_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let runtime = runtime();
        let _entered = runtime.enter();
        let (_listener, socket) = SocketFile::bind(&path).unwrap();
        // Moved, so that its inode is not given to the next one.
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        let next = StdListener::bind(&path).unwrap();
        drop(socket);
        assert!(UnixStream::connect(&path).is_ok(), "the other one's socket");
        drop(next);
    }

    #[test]
    fn of_many_that_start_at_once_one_has_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(StdListener::bind(&path).unwrap());
        let bound: Vec<_> = std::thread::scope(|scope| {
            let server = || {
                let runtime = runtime();
                let _entered = runtime.enter();
                SocketFile::bind(&path).ok().map(|(listener, socket)| (listener.into_std().unwrap(), socket))
            };
            let servers: Vec<_> = (0..8).map(|_| scope.spawn(server)).collect();
            servers.into_iter().filter_map(|server| server.join().unwrap()).collect()
        });
        assert_eq!(bound.len(), 1);
        assert!(UnixStream::connect(&path).is_ok(), "the one that says so has it");
    }
}
