//! `file://` URLs, under one folder that the operator has named.

use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::Url;
use undine_image::limits::IMAGE_BYTES_MAX;

use crate::media::error::MediaError;

/// A folder whose files requests may name (`--allowed-local-media-path`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaFolder {
    /// Without symbolic links.
    root: PathBuf,
}

impl MediaFolder {
    /// # Errors
    /// If there is no such folder.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let root = path.canonicalize()?;
        if !root.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok(Self { root })
    }

    /// The bytes of a file in the folder or below it. Links are followed first and must end there too; what else happens in the
    /// folder meanwhile is up to those who may write to it. One error for all reasons: requests must not find out what
    /// exists outside.
    pub(crate) fn read(&self, url: &Url) -> Result<Vec<u8>, MediaError> {
        let path = url.to_file_path().map_err(|()| MediaError::File)?;
        let path = path.canonicalize().map_err(|_| MediaError::File)?;
        // A pipe or a device could keep a reader waiting for ever.
        if !path.starts_with(&self.root) || !path.is_file() {
            return Err(MediaError::File);
        }
        let file = std::fs::File::open(&path).map_err(|_| MediaError::File)?;
        let mut bytes = Vec::new();
        let read = file.take(IMAGE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|_| MediaError::File)?;
        if bytes.len() > IMAGE_BYTES_MAX { Err(MediaError::Bytes) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_read() {
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
        let folder = MediaFolder::open(&inside).unwrap();
        let root = inside.canonicalize().unwrap();
        let read = |path: &str| {
            let url = Url::parse(&format!("file://{}/{path}", root.display())).unwrap();
            folder.read(&url).map(|bytes| String::from_utf8(bytes).unwrap()).ok()
        };
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
            assert_eq!(read(path).as_deref(), expected, "{path}");
        }
        for url in ["file://host/etc/passwd", "file:///etc/passwd", "file:///dev/zero"] {
            assert!(folder.read(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
        assert!(MediaFolder::open(&base.path().join("secret")).is_err());
        assert!(MediaFolder::open(&base.path().join("none")).is_err());
    }
}
