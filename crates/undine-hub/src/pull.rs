//! From a name to files in the cache.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::{Api, RemoteFile, RepoInfo};
use crate::cache::{Cache, Cached, is_file_of};
use crate::contents::{self, Entry, Selection};
use crate::download::{CONNECTIONS_MAX, Progress, Transfer};
use crate::error::Error;
use crate::examine::{Examine, Next, Place, examine};
use crate::name::HubName;
use crate::partial::bytes_done;
use crate::settings::{Access, Settings};

/// Files that are fetched at the same time.
const FILES_AT_ONCE: usize = 4;
/// Bytes that stay free on the disk.
const SPARE_BYTES: u64 = 64 << 20;
/// Longest and most patterns.
const PATTERNS_MAX: usize = 64;

/// What to fetch.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The model.
    pub name: HubName,
    /// If not empty: files that match one of these, instead of those that make up the model. `*` matches
    /// slashes too.
    pub include: Vec<String>,
    /// Files that are left out.
    pub exclude: Vec<String>,
    /// Memory that is free, for the choice of a quantization.
    pub memory_bytes: Option<u64>,
    /// Bytes free on the disk of the cache, if they are known: less than are needed is an error before
    /// anything is fetched.
    pub free_bytes: Option<u64>,
}

impl PullRequest {
    /// All of a model.
    pub fn new(name: HubName, memory_bytes: Option<u64>) -> Self {
        Self { name, include: Vec::new(), exclude: Vec::new(), memory_bytes, free_bytes: None }
    }
}

/// What happens during a pull.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// It is known what to fetch.
    Planned {
        /// The commit.
        commit: &'a str,
        /// The quantization.
        quant: Option<&'a str>,
        /// Number of files, those that are there too.
        files: usize,
        /// All of them.
        bytes: u64,
        /// Of which must be fetched.
        missing_bytes: u64,
    },
    /// About one file that must be fetched.
    File {
        /// Its path in the repository.
        path: &'a str,
        /// Its size.
        bytes: u64,
        /// What happens to it.
        progress: Progress,
    },
}

/// A model that is there now.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Where it is.
    pub cached: Cached,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// The licence, if the repository states one.
    pub license: Option<String>,
}

/// A hub and its cache.
pub struct Hub {
    settings: Settings,
    cache: Cache,
    runtime: Runtime,
}

impl Hub {
    /// Starts the threads that downloads run on; nothing is connected to.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(FILES_AT_ONCE).enable_all().build();
        let runtime = threads.map_err(|error| Error::Client(error.to_string()))?;
        Ok(Self { cache: Cache::new(settings.cache.clone()), settings, runtime })
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Fetches what is missing of a model and waits for it. Not to be called on a thread of another runtime.
    ///
    /// What has arrived is kept whatever happens, the end of the process too; the next call goes on from
    /// there.
    ///
    /// # Errors
    /// If the name means nothing that exists, the disk is too full, the network fails for too long, or what
    /// arrives is not what the hub has described.
    pub fn pull(
        &self,
        request: &PullRequest,
        on_event: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Result<Pulled, Error> {
        self.pull_examined(request, &|_| Ok(Next::Fetch), on_event)
    }

    /// The same, if `judge` does not refuse the model by the beginnings of its files. What is named file by
    /// file is not examined, nor is a model whose download has begun before.
    ///
    /// # Errors
    /// As [`Self::pull`], and [`Error::Refused`] before anything is written.
    pub fn pull_examined(
        &self,
        request: &PullRequest,
        judge: &Examine<'_>,
        on_event: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Result<Pulled, Error> {
        if self.settings.access == Access::Offline {
            let found = self.cache.find(&request.name, request.memory_bytes)?;
            let offline =
                || Error::Offline { name: request.name.to_string(), cache: self.cache.root.clone() };
            return Ok(Pulled { cached: found.ok_or_else(offline)?, fetched_bytes: 0, license: None });
        }
        let api = Api::new(&self.settings)?;
        self.runtime.block_on(pull(api, self.cache.clone(), request, judge, Arc::new(on_event)))
    }
}

type OnEvent = Arc<dyn Fn(Event<'_>) + Send + Sync>;

async fn pull(
    api: Api,
    cache: Cache,
    request: &PullRequest,
    judge: &Examine<'_>,
    on_event: OnEvent,
) -> Result<Pulled, Error> {
    let name = &request.name;
    let info = api.info(&name.repo, name.revision()).await?;
    let (selection, files) = selected(&info, request)?;
    let missing: Vec<&RemoteFile> =
        files.iter().filter(|file| !is_there(&cache, name, &info.commit, file)).collect();
    let left = |file: &&RemoteFile| file.bytes - bytes_done(&cache.blob(&name.repo, &file.etag), file);
    let missing_bytes = missing.iter().map(left).sum();
    let has_begun = missing.iter().any(|file| left(file) < file.bytes);
    if request.include.is_empty() && selection.is_model && !missing.is_empty() && !has_begun {
        let place = Place { api: &api, cache: &cache, name, commit: &info.commit };
        examine(&place, &files, judge).await?;
    }
    on_event(Event::Planned {
        commit: &info.commit,
        quant: selection.quant.as_deref(),
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        missing_bytes,
    });
    check_space(cache.root(), missing_bytes, request.free_bytes)?;
    cache.make_root()?;
    let missing: Vec<RemoteFile> = missing.into_iter().cloned().collect();
    let events = Arc::new(move |file: &RemoteFile, progress| {
        on_event(Event::File { path: &file.path, bytes: file.bytes, progress });
    });
    let transfer = Arc::new(Transfer {
        api,
        cache: cache.clone(),
        repo: name.repo.clone(),
        commit: info.commit.clone(),
        events,
        connections: Semaphore::new(CONNECTIONS_MAX),
        fetched: AtomicU64::new(0),
    });
    fetch_all(&transfer, missing).await?;
    // Everything is there: now it may be found.
    for file in &files {
        cache.place(&name.repo, &info.commit, file)?;
    }
    cache.set_ref(&name.repo, name.revision(), &info.commit)?;
    let fetched_bytes = transfer.fetched.load(Ordering::Relaxed);
    let cached = placed(&cache, name, &info.commit, &files, &selection);
    Ok(Pulled { cached, fetched_bytes, license: info.license })
}

async fn fetch_all(transfer: &Arc<Transfer>, files: Vec<RemoteFile>) -> Result<(), Error> {
    let mut waiting = files.into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < FILES_AT_ONCE
            && let Some(file) = waiting.next()
        {
            running.spawn(Arc::clone(transfer).fetch(file));
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(ended) => ended.expect("downloads do not panic")?,
        }
    }
}

/// The files that are meant, each content once for each path.
fn selected(info: &RepoInfo, request: &PullRequest) -> Result<(Selection, Vec<RemoteFile>), Error> {
    let (include, exclude) = (globs(&request.include)?, globs(&request.exclude)?);
    let entries: Vec<Entry> =
        info.files.iter().map(|file| Entry { path: file.path.clone(), bytes: file.bytes }).collect();
    let mut selection = match request.include.is_empty() {
        true => contents::select(&entries, &request.name, request.memory_bytes)?,
        false => {
            let files = (0..entries.len()).filter(|&at| include.is_match(&entries[at].path)).collect();
            Selection { files, open: None, quant: None, is_model: false }
        }
    };
    selection.files.retain(|&at| !exclude.is_match(&entries[at].path));
    if selection.files.is_empty() {
        return Err(Error::NoFile {
            repo: request.name.repo.to_string(),
            what: "file that --include and --exclude leave".to_owned(),
            existing: entries.into_iter().map(|entry| entry.path).collect(),
        });
    }
    if !request.include.is_empty() {
        // One GGUF model among them is what can be opened; otherwise the folder is.
        let chosen: Vec<Entry> = selection.files.iter().map(|&at| entries[at].clone()).collect();
        if let [only] = contents::ggufs(&chosen).as_slice() {
            selection.open = Some(chosen[only.files[0]].path.clone());
            selection.quant.clone_from(&only.quant);
        }
    }
    let files = selection.files.iter().map(|&at| info.files[at].clone()).collect();
    Ok((selection, files))
}

fn globs(patterns: &[String]) -> Result<GlobSet, Error> {
    let wrong = |name: &str, reason: String| Error::Setting { name: format!("pattern {name:?}"), reason };
    if patterns.len() > PATTERNS_MAX {
        return Err(wrong(&patterns[PATTERNS_MAX], format!("expected at most {PATTERNS_MAX} patterns")));
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(false).build();
        set.add(glob.map_err(|error| wrong(pattern, error.kind().to_string()))?);
    }
    set.build().map_err(|error| wrong("", error.to_string()))
}

/// Whether a content is there, as a blob or, where links cannot be made, as the file of this snapshot.
fn is_there(cache: &Cache, name: &HubName, commit: &str, file: &RemoteFile) -> bool {
    is_file_of(&cache.blob(&name.repo, &file.etag), file.bytes)
        || is_file_of(&cache.snapshot(&name.repo, commit).join(&file.path), file.bytes)
}

fn check_space(root: &Path, missing_bytes: u64, free_bytes: Option<u64>) -> Result<(), Error> {
    // Not known: a disk that is full shows when it is written to.
    let Some(available) = free_bytes else { return Ok(()) };
    let needed = missing_bytes.saturating_add(SPARE_BYTES);
    match missing_bytes > 0 && needed > available {
        true => Err(Error::NoSpace { needed, available, path: root.to_owned() }),
        false => Ok(()),
    }
}

fn placed(
    cache: &Cache,
    name: &HubName,
    commit: &str,
    files: &[RemoteFile],
    selection: &Selection,
) -> Cached {
    let snapshot = cache.snapshot(&name.repo, commit);
    Cached {
        name: HubName { quant: selection.quant.clone().filter(|_| name.file.is_none()), ..name.clone() },
        commit: commit.to_owned(),
        path: selection.open.as_ref().map_or_else(|| snapshot.clone(), |file| snapshot.join(file)),
        files: files.iter().map(|file| (file.path.clone(), file.bytes)).collect(),
        snapshot,
        last_used: None,
    }
}
