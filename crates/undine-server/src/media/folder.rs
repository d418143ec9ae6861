//! `file://` URLs, under one folder that the operator has named.
//!
//! The folder is opened once, at the start, and files are opened beneath it: what is checked is what is
//! opened, whatever those who may write to the folder do meanwhile. Links that lead to another file of the
//! folder work.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use reqwest::Url;
use undine_image::limits::IMAGE_BYTES_MAX;

use crate::media::error::MediaError;

/// A folder whose files requests may name (`--allowed-local-media-path`).
#[derive(Clone, Debug)]
pub struct MediaFolder {
    /// As the operator wrote it, made absolute: URLs may spell it so.
    named: PathBuf,
    /// Without symbolic links.
    root: PathBuf,
    /// The folder itself: another one of its name is not read.
    #[cfg(unix)]
    folder: std::sync::Arc<File>,
}

impl PartialEq for MediaFolder {
    fn eq(&self, other: &Self) -> bool {
        (&self.named, &self.root) == (&other.named, &other.root)
    }
}

impl Eq for MediaFolder {}

impl MediaFolder {
    /// # Errors
    /// If there is no such folder, or it cannot be read.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let root = path.canonicalize()?;
        if !root.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok(Self {
            named: std::path::absolute(path)?,
            #[cfg(unix)]
            folder: std::sync::Arc::new(rustix::fs::open(&root, FOLDER, rustix::fs::Mode::empty())?.into()),
            root,
        })
    }

    /// The bytes of a file in the folder or below it. One error for all reasons: requests must not find out
    /// what exists outside.
    pub(crate) fn read(&self, url: &Url) -> Result<Vec<u8>, MediaError> {
        let path = url.to_file_path().map_err(|()| MediaError::File)?;
        // Nothing outside is even looked at, unless a link within leads there.
        let within = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix(&self.named));
        let path = within.map(|within| self.root.join(within)).map_err(|_| MediaError::File)?;
        // Without links, so that absolute ones to other files of the folder work. What changes after this is
        // refused below.
        let path = path.canonicalize().map_err(|_| MediaError::File)?;
        let within = path.strip_prefix(&self.root).map_err(|_| MediaError::File)?;
        let is_plain = within.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || within.as_os_str().is_empty() {
            return Err(MediaError::File);
        }
        let file = self.open_beneath(within).map_err(|_| MediaError::File)?;
        // Looked at through the open file. A pipe or a device could keep a reader waiting for ever.
        if !file.metadata().is_ok_and(|file| file.is_file()) {
            return Err(MediaError::File);
        }
        let mut bytes = Vec::new();
        let read = file.take(IMAGE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|_| MediaError::File)?;
        if bytes.len() > IMAGE_BYTES_MAX { Err(MediaError::Bytes) } else { Ok(bytes) }
    }

    /// Opens a path of plain names without following any link, and without waiting for the writer of a pipe.
    #[cfg(target_os = "linux")]
    fn open_beneath(&self, within: &Path) -> std::io::Result<File> {
        use rustix::fs::{Mode, ResolveFlags, openat2};
        use rustix::io::Errno;

        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&*self.folder, within, READ, Mode::empty(), resolve) {
            Ok(file) => Ok(file.into()),
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => walk(&self.folder, within),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(all(unix, not(target_os = "linux")))]
    fn open_beneath(&self, within: &Path) -> std::io::Result<File> {
        walk(&self.folder, within)
    }

    /// Here what happens in the folder between the look and the opening is up to those who may write to it.
    #[cfg(not(unix))]
    fn open_beneath(&self, within: &Path) -> std::io::Result<File> {
        File::open(self.root.join(within))
    }
}

/// How files are opened.
#[cfg(unix)]
const READ: rustix::fs::OFlags = rustix::fs::OFlags::RDONLY
    .union(rustix::fs::OFlags::NONBLOCK)
    .union(rustix::fs::OFlags::NOCTTY)
    .union(rustix::fs::OFlags::NOFOLLOW)
    .union(rustix::fs::OFlags::CLOEXEC);

/// How folders are.
#[cfg(unix)]
const FOLDER: rustix::fs::OFlags = READ.union(rustix::fs::OFlags::DIRECTORY);

/// One name after the other, none of which may be a link.
#[cfg(unix)]
fn walk(folder: &File, within: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, openat};

    let mut folder = folder.try_clone()?;
    let mut names = within.components().peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() { FOLDER } else { READ };
        folder = openat(&folder, name.as_os_str(), flags, Mode::empty())?.into();
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder `media` with files and links, beside others.
    fn files() -> (tempfile::TempDir, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        let inside = base.path().join("media");
        std::fs::create_dir_all(inside.join("deep")).unwrap();
        std::fs::create_dir(base.path().join("media-other")).unwrap();
        for file in ["media/a b.png", "media/deep/c.png", "secret", "media-other/d"] {
            std::fs::write(base.path().join(file), file).unwrap();
        }
        #[cfg(unix)]
        for (link, target) in [("out", "../secret"), ("up", ".."), ("in", "deep/c.png"), ("gone", "nothing")]
        {
            std::os::unix::fs::symlink(target, inside.join(link)).unwrap();
        }
        (base, inside)
    }

    fn read(folder: &MediaFolder, path: &str) -> Option<String> {
        let url = Url::parse(&format!("file://{}/{path}", folder.root.display())).unwrap();
        folder.read(&url).map(|bytes| String::from_utf8(bytes).unwrap()).ok()
    }

    #[test]
    fn nothing_outside_the_folder_is_read() {
        let (base, inside) = files();
        let folder = MediaFolder::open(&inside).unwrap();
        for (path, expected) in [
            ("a%20b.png", Some("media/a b.png")),
            ("deep/c.png", Some("media/deep/c.png")),
            ("deep/../a%20b.png", Some("media/a b.png")),
            ("in", Some("media/deep/c.png")),
            ("", None),
            ("deep", None),
            ("none.png", None),
            ("../secret", None),
            ("%2e%2e/secret", None),
            ("deep/..%2f..%2f../secret", None),
            ("../media-other/d", None),
            ("out", None),
            ("up/secret", None),
            ("gone", None),
            ("a%00", None),
        ] {
            assert_eq!(read(&folder, path).as_deref(), expected, "{path}");
        }
        for url in ["file://host/etc/passwd", "file:///etc/passwd", "file:///dev/zero"] {
            assert!(folder.read(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        assert!(MediaFolder::open(&base.path().join("secret")).is_err());
        assert!(MediaFolder::open(&base.path().join("none")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_checked_is_what_is_opened() {
        let (base, inside) = files();
        let folder = MediaFolder::open(&inside).unwrap();
        std::os::unix::fs::symlink(inside.join("deep/c.png"), inside.join("absolute")).unwrap();
        assert_eq!(
            read(&folder, "absolute").as_deref(),
            Some("media/deep/c.png"),
            "a link to another file here"
        );
        let made = std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&folder, "pipe"), None, "nobody will ever write to it");
        // What comes between the look and the opening.
        for (path, opens) in [
            ("a b.png", true),
            ("deep/c.png", true),
            ("out", false),
            ("in", false),
            ("up/secret", false),
            ("up/media/a b.png", false),
        ] {
            let path = Path::new(path);
            assert_eq!(folder.open_beneath(path).is_ok(), opens, "{}", path.display());
            assert_eq!(walk(&folder.folder, path).is_ok(), opens, "{}, by hand", path.display());
        }
        // The folder that was opened is read, not another one in its place.
        std::os::unix::fs::symlink(&inside, base.path().join("alias")).unwrap();
        let alias = MediaFolder::open(&base.path().join("alias")).unwrap();
        let url = format!("file://{}/alias/deep/c.png", base.path().display());
        assert!(alias.read(&Url::parse(&url).unwrap()).is_ok(), "as the operator wrote it");
        std::fs::rename(&inside, base.path().join("moved")).unwrap();
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("a b.png"), "another").unwrap();
        assert_eq!(read(&folder, "a%20b.png").as_deref(), Some("media/a b.png"));
    }
}
