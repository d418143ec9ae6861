//! One file from the hub into the cache: ranges of it on several connections, each going on where it was cut
//! off.

use std::collections::VecDeque;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::{Api, RemoteFile, chain, etag_of};
use crate::cache::{Cache, Lock, is_file_of, make_folder_of};
use crate::error::Error;
use crate::name::Repo;
use crate::partial::{CHUNK_BYTES, Partial, remove_outdated};
use crate::retry::{Backoff, CONTENTS_MAX, Failure};

/// Connections that bring content at the same time, of all files together.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// How often a lock that another process has is tried.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// What happens to one file of a pull.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Another process is fetching it.
    Waiting,
    /// It begins, with so many bytes from an earlier time.
    Started {
        /// Bytes there already.
        done: u64,
    },
    /// So many bytes are there.
    Advanced {
        /// Bytes there.
        done: u64,
    },
    /// A connection failed and another attempt will be made.
    Retrying {
        /// What happened.
        reason: String,
        /// When.
        delay: Duration,
    },
    /// Everything is there and its hash is computed.
    Checking,
    /// It is in its place.
    Finished,
}

/// Where events go: from several threads.
pub(crate) type Events = Arc<dyn Fn(&RemoteFile, Progress) + Send + Sync>;

/// What the downloads of one pull share.
pub(crate) struct Transfer {
    pub api: Api,
    pub cache: Cache,
    pub repo: Repo,
    pub commit: String,
    pub events: Events,
    pub connections: Semaphore,
    /// Bytes that came over the network.
    pub fetched: AtomicU64,
}

/// One file.
struct Download {
    transfer: Arc<Transfer>,
    file: RemoteFile,
    partial: Partial,
    url: Url,
    /// Where the hub sent the first request for the content: further ones need not ask it again.
    direct: Mutex<Option<Url>>,
    done: AtomicU64,
}

/// How asking for ranges ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ranges {
    Complete,
    /// The server sends whole files only.
    Unsupported,
}

impl Transfer {
    /// Fetches a content unless it is there.
    pub async fn fetch(self: Arc<Self>, file: RemoteFile) -> Result<(), Error> {
        let blob = self.cache.blob(&self.repo, &file.etag);
        let Some(_lock) = self.lock(&file).await? else { return Ok(()) };
        make_folder_of(&blob)?;
        remove_outdated(&blob, &file);
        let partial = Partial::open(&blob, &file)?;
        let url = self.api.file_url(&self.repo, &self.commit, &file.path);
        let done = AtomicU64::new(partial.bytes_done());
        let download = Arc::new(Download {
            transfer: Arc::clone(&self),
            file,
            partial,
            url,
            direct: Mutex::new(None),
            done,
        });
        let result = download.run().await;
        match result {
            Ok(()) => download.partial.finish(&blob)?,
            Err(error) => {
                if matches!(error, Error::Damaged { .. } | Error::Changed { .. }) {
                    download.partial.discard();
                }
                return Err(match error {
                    Error::Status { status: 404, .. } => Error::Changed {
                        file: download.file.path.clone(),
                        reason: "it is not there any more".to_owned(),
                    },
                    other => self.api.explain(other, &self.repo, None).await,
                });
            }
        }
        (self.events)(&download.file, Progress::Finished);
        Ok(())
    }

    /// The lock of a content; `None` if it has arrived meanwhile.
    async fn lock(&self, file: &RemoteFile) -> Result<Option<Lock>, Error> {
        let blob = self.cache.blob(&self.repo, &file.etag);
        let mut has_told = false;
        loop {
            let lock = self.cache.try_lock(&self.repo, &file.etag)?;
            // After the lock was tried: who had it before may have finished.
            if is_file_of(&blob, file.bytes) {
                (self.events)(file, Progress::Finished);
                return Ok(None);
            }
            if lock.is_some() {
                return Ok(lock);
            }
            if !has_told {
                (self.events)(file, Progress::Waiting);
                has_told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

impl Download {
    async fn run(self: &Arc<Self>) -> Result<(), Error> {
        self.tell(Progress::Started { done: self.done.load(Ordering::Relaxed) });
        let is_short = self.file.bytes <= CHUNK_BYTES;
        let missing = self.partial.missing(CONNECTIONS_MAX);
        if !missing.is_empty() && (is_short || self.ranges(missing).await? == Ranges::Unsupported) {
            self.whole().await?;
        }
        self.tell(Progress::Checking);
        let (digest, path) = (self.file.digest.clone(), self.partial.data().to_owned());
        let checked = tokio::task::spawn_blocking(move || digest.check(&path).map_err(Error::file(&path)));
        match checked.await.expect("hashing does not panic")? {
            Ok(()) => Ok(()),
            Err(found) => {
                let digest = &self.file.digest;
                Err(self.damaged(digest.describe(digest.digits()), digest.describe(&found)))
            }
        }
    }

    fn tell(&self, progress: Progress) {
        (self.transfer.events)(&self.file, progress);
    }

    fn damaged(&self, expected: String, found: String) -> Error {
        Error::Damaged { file: self.file.path.clone(), expected, found }
    }

    fn wrong_size(&self, found: impl ToString) -> Error {
        self.damaged(format!("{} bytes", self.file.bytes), format!("{} bytes", found.to_string()))
    }

    fn add(&self, bytes: u64) {
        self.transfer.fetched.fetch_add(bytes, Ordering::Relaxed);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.tell(Progress::Advanced { done });
    }

    /// Fetches what is missing, on as many connections as are free.
    async fn ranges(self: &Arc<Self>, missing: VecDeque<Range<u64>>) -> Result<Ranges, Error> {
        let workers = missing.len().min(CONNECTIONS_MAX);
        let queue = Arc::new(Mutex::new(missing));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (download, queue) = (Arc::clone(self), Arc::clone(&queue));
            tasks.spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(range) = next else { return Ok(Ranges::Complete) };
                    if download.range(range).await? == Ranges::Unsupported {
                        return Ok(Ranges::Unsupported);
                    }
                }
            });
        }
        // Whoever fails first ends the others: dropping the set does.
        while let Some(ended) = tasks.join_next().await {
            match ended.expect("downloads do not panic")? {
                Ranges::Complete => {}
                Ranges::Unsupported => return Ok(Ranges::Unsupported),
            }
        }
        Ok(Ranges::Complete)
    }

    /// Fetches one range, in as many attempts as it takes.
    async fn range(&self, range: Range<u64>) -> Result<Ranges, Error> {
        let mut position = range.start;
        let mut backoff = Backoff::new(self.transfer.api.first_delay, CONTENTS_MAX);
        loop {
            let before = position;
            let failure = match self.attempt(&mut position, range.end).await {
                Ok(ranges) => return Ok(ranges),
                Err(failure) => failure,
            };
            if position > before {
                backoff.reset();
            }
            self.wait(&mut backoff, failure).await?;
        }
    }

    async fn wait(&self, backoff: &mut Backoff, failure: Failure) -> Result<(), Error> {
        let (delay, reason) = backoff.delay(failure, self.url.as_str())?;
        self.tell(Progress::Retrying { reason, delay });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    async fn attempt(&self, position: &mut u64, end: u64) -> Result<Ranges, Failure> {
        let permit = self.transfer.connections.acquire().await.expect("the semaphore is never closed");
        let mut response = self.get(Some((*position, end - 1))).await?;
        if response.status() == StatusCode::OK {
            return Ok(Ranges::Unsupported);
        }
        self.check_range(&response, *position)?;
        let mut file = self.partial.writer()?;
        file.seek(SeekFrom::Start(*position)).map_err(Error::file(self.partial.data()))?;
        while let Some(bytes) = response.chunk().await.map_err(cut)? {
            let after = *position + bytes.len() as u64;
            if after > end {
                return Err(Error::protocol(&self.url, "more bytes than were asked for").into());
            }
            // The threads of this runtime do nothing else, so a write may block one.
            file.write_all(&bytes).map_err(Error::file(self.partial.data()))?;
            self.partial.record(*position, after)?;
            *position = after;
            self.add(bytes.len() as u64);
        }
        drop(permit);
        match *position == end {
            true => Ok(Ranges::Complete),
            false => Err(Failure::retry(format!("the answer ended after {} of {end} bytes", *position))),
        }
    }

    /// Whether a partial answer is about the bytes that were asked for, of the file that was described.
    fn check_range(&self, response: &Response, position: u64) -> Result<(), Failure> {
        let text = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let parts = text.and_then(|text| {
            let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
            Some((range.split_once('-')?.0.parse::<u64>().ok()?, total))
        });
        match parts {
            Some((_, total)) if total != "*" && total != self.file.bytes.to_string() => {
                Err(self.wrong_size(total).into())
            }
            Some((start, _)) if start == position => Ok(()),
            _ => {
                let reason =
                    format!("expected the bytes from {position} on, found {:?}", text.unwrap_or("no range"));
                Err(Error::protocol(&self.url, reason).into())
            }
        }
    }

    /// Fetches the file in one answer; what of it was there is not used.
    async fn whole(&self) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.transfer.api.first_delay, CONTENTS_MAX);
        loop {
            self.done.store(0, Ordering::Relaxed);
            match self.attempt_whole().await {
                Ok(()) => return Ok(()),
                Err(failure) => self.wait(&mut backoff, failure).await?,
            }
        }
    }

    async fn attempt_whole(&self) -> Result<(), Failure> {
        let _permit = self.transfer.connections.acquire().await.expect("the semaphore is never closed");
        let mut response = self.get(None).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if let Some(length) = length.filter(|length| *length != self.file.bytes.to_string()) {
            return Err(self.wrong_size(length).into());
        }
        let mut file = self.partial.writer()?;
        let mut position = 0;
        while let Some(bytes) = response.chunk().await.map_err(cut)? {
            let after = position + bytes.len() as u64;
            if after > self.partial.bytes() {
                return Err(self.wrong_size("more").into());
            }
            file.write_all(&bytes).map_err(Error::file(self.partial.data()))?;
            self.partial.record(position, after)?;
            position = after;
            self.add(bytes.len() as u64);
        }
        match position == self.partial.bytes() {
            true => Ok(()),
            false => {
                Err(Failure::retry(format!("the answer ended after {position} of {} bytes", self.file.bytes)))
            }
        }
    }

    /// A request for the file, to where its content was found before.
    async fn get(&self, range: Option<(u64, u64)>) -> Result<Response, Failure> {
        let direct = || self.direct.lock().unwrap_or_else(PoisonError::into_inner);
        let known = direct().clone();
        let response = match self.transfer.api.get(known.as_ref().unwrap_or(&self.url), range).await {
            Ok(response) => response,
            Err(failure) => {
                // Such an address is signed and expires: the hub gives another.
                *direct() = None;
                return Err(failure);
            }
        };
        if !self.transfer.api.is_home(response.url()) {
            *direct() = Some(response.url().clone());
        } else if let Some(found) = etag_of(response.headers())
            && found != self.file.etag
        {
            let reason = format!("expected the ETag {}, found {found}", self.file.etag);
            return Err(Error::Changed { file: self.file.path.clone(), reason }.into());
        }
        Ok(response)
    }
}

pub(crate) fn cut(error: reqwest::Error) -> Failure {
    Failure::retry(chain(&error.without_url()))
}
