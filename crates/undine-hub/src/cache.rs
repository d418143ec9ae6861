//! The cache of the Hugging Face tools, shared with them:
//!
//! ```text
//! models--OWNER--NAME/blobs/ETAG                     a content, under its hash
//!                     snapshots/COMMIT/PATH          a relative link to one
//!                     refs/BRANCH                    the commit it was at
//! .locks/models--OWNER--NAME/ETAG.lock               locked while that content is fetched
//! ```
//!
//! Links are made when all contents are there, and the ref after them, so that what can be found is complete.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::api::RemoteFile;
use crate::contents::{self, Entry, Selection};
use crate::error::Error;
use crate::name::{HubName, Repo};

/// Deepest folder of a repository that is looked into.
const DEPTH_MAX: usize = 8;
/// Most files of a repository.
pub(crate) const FILES_MAX: usize = 20_000;
/// Longest ref: a commit and a newline.
const REF_BYTES_MAX: u64 = 128;
/// Longest index of the shards of a checkpoint.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Says that backups may leave the folder out (bford.info/cachedir).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";
/// What folders of models begin with.
const FOLDER_PREFIX: &str = "models--";

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) root: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug)]
pub struct Cached {
    /// What it is called, with quantization, and with the revision unless that is the usual one.
    pub name: HubName,
    /// The commit.
    pub commit: String,
    /// The file or folder to open.
    pub path: PathBuf,
    /// Its files, relative to the snapshot, with their sizes.
    pub files: Vec<(String, u64)>,
    /// The folder of the snapshot.
    pub snapshot: PathBuf,
    /// When one of its files was last read, as far as the file system knows.
    pub last_used: Option<SystemTime>,
}

impl Cached {
    /// All files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Held while a content is fetched, or removed; other processes wait.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Whether it is a full commit.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Cache {
    /// The cache in a folder, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn folder(&self, repo: &Repo) -> PathBuf {
        self.root.join(folder_name(repo))
    }

    pub(crate) fn blob(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.folder(repo).join("blobs").join(etag)
    }

    pub(crate) fn snapshot(&self, repo: &Repo, commit: &str) -> PathBuf {
        self.folder(repo).join("snapshots").join(commit)
    }

    fn lock_path(&self, repo: &Repo, etag: &str) -> PathBuf {
        self.root.join(".locks").join(folder_name(repo)).join(format!("{etag}.lock"))
    }

    /// The commit that a branch or tag was at when it was fetched.
    pub(crate) fn commit(&self, repo: &Repo, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        read_ref(&self.folder(repo).join("refs").join(revision))
    }

    /// A model, if it is there complete. `memory_bytes` chooses among several quantizations.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn find(&self, name: &HubName, memory_bytes: Option<u64>) -> Result<Option<Cached>, Error> {
        let Some(commit) = self.commit(&name.repo, name.revision()) else { return Ok(None) };
        let snapshot = self.snapshot(&name.repo, &commit);
        let entries = entries(&snapshot)?;
        match contents::select(&entries, name, memory_bytes) {
            Ok(selection) if is_complete(&snapshot, &selection, &entries)? => {
                Ok(Some(cached(name, &commit, &snapshot, &entries, &selection)))
            }
            Ok(_) | Err(Error::NoFile { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every model, each quantization on its own, by name.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn list(&self) -> Result<Vec<Cached>, Error> {
        let mut found = Vec::new();
        for folder in folders(&self.root)? {
            let Some(repo) = repo_of_folder(&folder) else { continue };
            let refs = self.refs(&repo)?;
            for snapshot in folders(&self.folder(&repo).join("snapshots"))? {
                let at = |(_, commit): &&(String, String)| *commit == snapshot;
                let branches = || refs.iter().filter(at).map(|(branch, _)| branch.as_str());
                let revision = match branches().find(|branch| *branch == crate::name::REVISION_DEFAULT) {
                    Some(_) => None,
                    None => Some(branches().next().unwrap_or(&snapshot).to_owned()),
                };
                let name = HubName { repo: repo.clone(), revision, quant: None, file: None };
                found.extend(self.in_snapshot(&name, &snapshot)?);
            }
        }
        found.sort_by_key(|cached| cached.name.to_string());
        Ok(found)
    }

    /// The models in one snapshot.
    fn in_snapshot(&self, name: &HubName, commit: &str) -> Result<Vec<Cached>, Error> {
        let snapshot = self.snapshot(&name.repo, commit);
        let entries = entries(&snapshot)?;
        let ggufs = contents::ggufs(&entries);
        let as_file = |gguf: &contents::Gguf| {
            let first = &entries[gguf.files[0]].path;
            let file = gguf.quant.is_none().then(|| first.clone());
            let one = HubName { file: Some(first.clone()), ..name.clone() };
            let selection = contents::select(&entries, &one, None).ok()?;
            let shown = HubName { quant: gguf.quant.clone(), file, ..name.clone() };
            Some(cached(&shown, commit, &snapshot, &entries, &selection))
        };
        let mut found: Vec<Cached> = ggufs.iter().filter_map(as_file).collect();
        if ggufs.is_empty()
            && let Ok(selection) = contents::select(&entries, name, None)
            && is_complete(&snapshot, &selection, &entries)?
        {
            found.push(cached(name, commit, &snapshot, &entries, &selection));
        }
        Ok(found)
    }

    /// Branches and tags with their commits.
    pub(crate) fn refs(&self, repo: &Repo) -> Result<Vec<(String, String)>, Error> {
        let folder = self.folder(repo).join("refs");
        let found = entries(&folder)?;
        let read = |entry: Entry| read_ref(&folder.join(&entry.path)).map(|commit| (entry.path, commit));
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Says that a branch or tag is at a commit.
    pub(crate) fn set_ref(&self, repo: &Repo, revision: &str, commit: &str) -> Result<(), Error> {
        if is_commit(revision) || self.commit(repo, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder(repo).join("refs").join(revision);
        write_atomically(&path, commit.as_bytes())
    }

    /// Puts a fetched content into a snapshot, as a relative link, or as the file itself where links cannot
    /// be made.
    pub(crate) fn place(&self, repo: &Repo, commit: &str, file: &RemoteFile) -> Result<(), Error> {
        let RemoteFile { path, etag, bytes, .. } = file;
        let place = self.snapshot(repo, commit).join(path);
        let blob = self.blob(repo, etag);
        if is_file_of(&place, *bytes) {
            return Ok(());
        }
        make_folder_of(&place)?;
        let up = "../".repeat(path.split('/').count() + 1);
        let fresh = place.with_file_name(format!(".{etag}.{}", std::process::id()));
        match symlink(Path::new(&format!("{up}blobs/{etag}")), &fresh) {
            Ok(()) => fs::rename(&fresh, &place).map_err(Error::file(&place)),
            Err(_) => fs::rename(&blob, &place).map_err(Error::file(&place)),
        }
    }

    /// Marks the folder as a cache.
    pub(crate) fn make_root(&self) -> Result<(), Error> {
        let tag = self.root.join("CACHEDIR.TAG");
        if tag.exists() {
            return Ok(());
        }
        write_atomically(&tag, CACHEDIR_TAG.as_bytes())
    }

    /// The lock of a content, or `None` if another process has it.
    pub(crate) fn try_lock(&self, repo: &Repo, etag: &str) -> Result<Option<Lock>, Error> {
        let path = self.lock_path(repo, etag);
        make_folder_of(&path)?;
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) if is_still_at(&file, &path) => Ok(Some(Lock { _file: file })),
            // Removed by the one who had it; whoever comes first makes it anew.
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::file(&path)(error)),
        }
    }
}

fn folder_name(repo: &Repo) -> String {
    format!("{FOLDER_PREFIX}{}", repo.as_str().replace('/', "--"))
}

pub(crate) fn repo_of_folder(folder: &str) -> Option<Repo> {
    Repo::parse(&folder.strip_prefix(FOLDER_PREFIX)?.replacen("--", "/", 1)).ok()
}

fn read_ref(path: &Path) -> Option<String> {
    if fs::metadata(path).ok()?.len() > REF_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
}

fn open_lock(path: &Path) -> Result<File, Error> {
    File::options().create(true).write(true).truncate(false).open(path).map_err(Error::file(path))
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(inode), fs::metadata(path).map(inode)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn is_still_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether there is a file of this size.
pub(crate) fn is_file_of(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
}

pub(crate) fn make_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().expect("every path here has a folder");
    fs::create_dir_all(folder).map_err(Error::file(folder))
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    make_folder_of(path)?;
    let name = path.file_name().expect("every path here has a name").to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&fresh, bytes).map_err(Error::file(&fresh))?;
    fs::rename(&fresh, path).map_err(Error::file(path))
}

/// Names of the folders in a folder; none if that does not exist.
pub(crate) fn folders(path: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in read_folder(path)? {
        let entry = entry.map_err(Error::file(path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

fn read_folder(path: &Path) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>>, Error> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(Error::file(path)(error)),
    }
}

/// Files below a folder, with the sizes of what links lead to. Links that lead nowhere and hidden files are
/// left out.
pub(crate) fn entries(root: &Path) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = open.pop() {
        for entry in read_folder(&folder)? {
            let entry = entry.map_err(Error::file(&folder))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            if name.starts_with('.') || found.len() >= FILES_MAX {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth < DEPTH_MAX {
                    open.push((entry.path(), format!("{path}/"), depth + 1));
                }
            } else if let Ok(metadata) = fs::metadata(entry.path())
                && metadata.is_file()
            {
                found.push(Entry { path, bytes: metadata.len() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether a folder has its configuration and every shard its index names. Files of GGUF are complete by
/// their names.
fn is_complete(snapshot: &Path, selection: &Selection, entries: &[Entry]) -> Result<bool, Error> {
    if selection.open.is_some() {
        return Ok(true);
    }
    let has = |path: &str| entries.iter().any(|entry| entry.path == path);
    if !has("config.json") {
        return Ok(false);
    }
    let index = snapshot.join("model.safetensors.index.json");
    match fs::metadata(&index) {
        Ok(metadata) if metadata.len() <= INDEX_BYTES_MAX => {
            let text = fs::read(&index).map_err(Error::file(&index))?;
            // What is wrong with it is told when the checkpoint is opened.
            let Ok(index) = serde_json::from_slice::<serde_json::Value>(&text) else { return Ok(true) };
            let shards = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
            Ok(shards.filter_map(|shard| shard.as_str()).all(has))
        }
        _ => Ok(true),
    }
}

fn cached(name: &HubName, commit: &str, snapshot: &Path, entries: &[Entry], selection: &Selection) -> Cached {
    let files: Vec<(String, u64)> =
        selection.files.iter().map(|&at| (entries[at].path.clone(), entries[at].bytes)).collect();
    let accessed = |(path, _): &(String, u64)| fs::metadata(snapshot.join(path)).ok()?.accessed().ok();
    let quant = match &name.file {
        Some(_) => None,
        None => selection.quant.clone().or_else(|| name.quant.clone()),
    };
    Cached {
        name: HubName { quant, ..name.clone() },
        commit: commit.to_owned(),
        path: selection.open.as_ref().map_or_else(|| snapshot.to_owned(), |file| snapshot.join(file)),
        last_used: files.iter().filter_map(accessed).max(),
        files,
        snapshot: snapshot.to_owned(),
    }
}
