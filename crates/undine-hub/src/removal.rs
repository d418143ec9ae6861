//! Taking a model out of the cache: its links, and the contents that no other snapshot needs.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, entries, folders};
use crate::contents;
use crate::error::Error;
use crate::name::HubName;

/// What would be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    name: HubName,
    /// Links or files in snapshots.
    pub links: Vec<PathBuf>,
    /// Contents.
    pub blobs: Vec<PathBuf>,
    /// Bytes that are free afterwards.
    pub bytes: u64,
}

impl Cache {
    /// What removing a model means: a quantization, a file, a revision, or with a bare repository all of it.
    ///
    /// # Errors
    /// If it is not there, or is just being fetched.
    pub fn removal(&self, name: &HubName) -> Result<Removal, Error> {
        let folder = self.folder(&name.repo);
        let not_cached = || Error::NotCached { name: name.to_string(), cache: self.root.clone() };
        // A link would lead out of the cache.
        if !fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(not_cached());
        }
        let wanted = name.revision.as_deref().map(|revision| self.commit(&name.repo, revision));
        let mut removal = Removal { name: name.clone(), links: Vec::new(), blobs: Vec::new(), bytes: 0 };
        let mut kept = Vec::new();
        for commit in folders(&folder.join("snapshots"))? {
            let snapshot = self.snapshot(&name.repo, &commit);
            let all = links(&snapshot)?;
            let is_meant = wanted.as_ref().is_none_or(|wanted| wanted.as_deref() == Some(commit.as_str()));
            let goes = if is_meant { chosen(&snapshot, name)? } else { Chosen::Nothing };
            for path in all {
                let is_chosen = match &goes {
                    Chosen::Everything => true,
                    Chosen::Files(files) => files.contains(&path),
                    Chosen::Nothing => false,
                };
                if is_chosen { removal.links.push(path) } else { kept.push(path) }
            }
        }
        let blobs = folder.join("blobs");
        let targets = |paths: &[PathBuf]| -> HashSet<PathBuf> {
            paths.iter().filter_map(|path| blob_of(path, &blobs)).collect()
        };
        let needed = targets(&kept);
        removal.blobs = targets(&removal.links).difference(&needed).cloned().collect();
        if kept.is_empty() {
            // Nothing is left of the repository: what was never finished goes too.
            removal.blobs = plain_files(&blobs)?;
        }
        if removal.links.is_empty() && removal.blobs.is_empty() {
            return Err(not_cached());
        }
        removal.blobs.sort();
        let size = |path: &PathBuf| match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => disk_bytes(&metadata),
            _ => 0,
        };
        removal.bytes = removal.blobs.iter().chain(&removal.links).map(size).sum();
        Ok(removal)
    }

    /// Removes it.
    ///
    /// # Errors
    /// If a file cannot be removed, or another process is just fetching one; nothing is removed then.
    pub fn remove(&self, removal: &Removal) -> Result<(), Error> {
        let repo = &removal.name.repo;
        // A content and the record of its download are under one lock.
        let etag = |blob: &PathBuf| {
            let name = blob.file_name().unwrap_or_default().to_string_lossy();
            name.split('.').next().unwrap_or_default().to_owned()
        };
        let etags: BTreeSet<String> =
            removal.blobs.iter().map(etag).filter(|etag| !etag.is_empty()).collect();
        let mut locks = Vec::new();
        for etag in &etags {
            let busy = || {
                let source = io::Error::new(io::ErrorKind::ResourceBusy, "another process is fetching it");
                Error::File { path: self.blob(repo, etag), source }
            };
            locks.push(self.try_lock(repo, etag)?.ok_or_else(busy)?);
        }
        for path in removal.links.iter().chain(&removal.blobs) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file(path)(error));
                }
                _ => {}
            }
        }
        let folder = self.folder(repo);
        remove_empty(&folder.join("snapshots"));
        for (branch, commit) in self.refs(repo)? {
            if !self.snapshot(repo, &commit).exists() {
                let path = folder.join("refs").join(branch);
                fs::remove_file(&path).map_err(Error::file(&path))?;
            }
        }
        if !folder.join("snapshots").exists() {
            // Nothing else of the folder is of use without a snapshot.
            fs::remove_dir_all(&folder).map_err(Error::file(&folder))?;
        }
        Ok(())
    }
}

enum Chosen {
    Everything,
    Files(Vec<PathBuf>),
    Nothing,
}

/// What of a snapshot a name means.
fn chosen(snapshot: &Path, name: &HubName) -> Result<Chosen, Error> {
    if name.quant.is_none() && name.file.is_none() {
        return Ok(Chosen::Everything);
    }
    let entries = entries(snapshot)?;
    let Ok(selection) = contents::select(&entries, name, None) else { return Ok(Chosen::Nothing) };
    let ggufs = contents::ggufs(&entries);
    let is_meant = |gguf: &&contents::Gguf| selection.files.contains(&gguf.files[0]);
    let files = match ggufs.iter().find(is_meant) {
        // Towers and cards are shared by all quantizations.
        Some(_) if ggufs.len() == 1 => return Ok(Chosen::Everything),
        Some(gguf) => &gguf.files,
        None => &selection.files,
    };
    Ok(Chosen::Files(files.iter().map(|&at| snapshot.join(&entries[at].path)).collect()))
}

/// Everything in a snapshot that is no folder, links that lead nowhere too.
fn links(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
            let entry = entry.map_err(Error::file(&folder))?;
            match entry.file_type().map_err(Error::file(&folder))?.is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    Ok(found)
}

/// The content that a link leads to, if it lies directly in `blobs`.
fn blob_of(link: &Path, blobs: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    let folder = link.parent()?.join(target.parent()?);
    let is_there = folder.canonicalize().ok()? == blobs.canonicalize().ok()?;
    is_there.then(|| target.file_name().map(|name| blobs.join(name))).flatten()
}

fn plain_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    if folder.exists() { links(folder) } else { Ok(Vec::new()) }
}

/// Removes folders without files, from the deepest up.
fn remove_empty(folder: &Path) {
    let Ok(inside) = folders(folder) else { return };
    for name in inside {
        remove_empty(&folder.join(name));
    }
    // One that is not empty stays.
    drop(fs::remove_dir(folder));
}

/// What a file takes on the disk, which for an unfinished one is less than its size.
#[cfg(unix)]
fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    /// POSIX counts blocks of this size.
    const BLOCK_BYTES: u64 = 512;
    metadata.len().min(metadata.blocks() * BLOCK_BYTES)
}

#[cfg(not(unix))]
fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}
