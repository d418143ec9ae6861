//! Looking at a model before it is fetched: the beginnings of its files are shown to whoever can tell whether
//! it runs, in as many steps as that takes. They are kept in memory only, so that nothing is left of a model
//! that is refused.

use std::fs::File;
use std::io::Read;

use crate::api::{Api, RemoteFile};
use crate::cache::{Cache, is_file_of};
use crate::error::Error;
use crate::name::HubName;
use crate::retry::{Backoff, Failure, QUESTIONS_MAX};

/// Most bytes that are looked at, of all files together. Who wants more gets the model.
const BYTES_MAX: u64 = 256 << 20;
/// Most times that more is asked for.
const STEPS_MAX: usize = 4096;

/// What is known of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its first bytes, as far as they have been asked for.
    pub known: Vec<u8>,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Fetch the model.
    Fetch,
    /// Show more of a file.
    Show {
        /// Its place among the files.
        file: usize,
        /// How many bytes from its start, or all if it has fewer.
        bytes: u64,
    },
}

/// Says from what is known whether a model is worth fetching, or why not.
pub type Examine<'a> = dyn Fn(&[Beginning]) -> Result<Next, String> + 'a;

/// Where the files of a model are.
pub(crate) struct Place<'a> {
    pub api: &'a Api,
    pub cache: &'a Cache,
    pub name: &'a HubName,
    pub commit: &'a str,
}

/// Shows the files until somebody has decided.
pub(crate) async fn examine(
    place: &Place<'_>,
    files: &[RemoteFile],
    judge: &Examine<'_>,
) -> Result<(), Error> {
    let start =
        |file: &RemoteFile| Beginning { path: file.path.clone(), bytes: file.bytes, known: Vec::new() };
    let mut beginnings: Vec<Beginning> = files.iter().map(start).collect();
    for _ in 0..STEPS_MAX {
        let refused = |reason| Error::Refused { name: place.name.to_string(), reason };
        let Next::Show { file, bytes } = judge(&beginnings).map_err(refused)? else { return Ok(()) };
        let known = beginnings[file].known.len() as u64;
        let wanted = bytes.min(files[file].bytes);
        let looked_at: u64 = beginnings.iter().map(|file| file.known.len() as u64).sum();
        if wanted <= known || looked_at + (wanted - known) > BYTES_MAX {
            return Ok(());
        }
        let more = place.read(&files[file], known, wanted).await?;
        beginnings[file].known.extend(more);
    }
    Ok(())
}

impl Place<'_> {
    /// Bytes `first..end` of a file, from the cache or the hub.
    async fn read(&self, file: &RemoteFile, first: u64, end: u64) -> Result<Vec<u8>, Error> {
        let blob = self.cache.blob(&self.name.repo, &file.etag);
        if is_file_of(&blob, file.bytes) {
            let mut bytes = Vec::new();
            // The thread that waits for the pull does nothing else.
            let read = File::open(&blob).and_then(|file| file.take(end).read_to_end(&mut bytes));
            read.map_err(Error::file(&blob))?;
            return Ok(bytes.split_off((first as usize).min(bytes.len())));
        }
        let url = self.api.file_url(&self.name.repo, self.commit, &file.path);
        let mut backoff = Backoff::new(self.api.first_delay, QUESTIONS_MAX);
        loop {
            let failure = match self.ask(&url, first, end).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            match backoff.delay(failure, url.as_str()) {
                Ok((delay, _)) => tokio::time::sleep(delay).await,
                Err(error) => return Err(self.api.explain(error, &self.name.repo, None).await),
            }
        }
    }

    async fn ask(&self, url: &reqwest::Url, first: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let mut response = self.api.get(url, Some((first, end - 1))).await?;
        // A server that knows no ranges sends the file from its start.
        let mut skip = if response.status() == reqwest::StatusCode::OK { first } else { 0 };
        let wanted = (end - first) as usize;
        let mut bytes = Vec::new();
        while bytes.len() < wanted
            && let Some(chunk) = response.chunk().await.map_err(crate::download::cut)?
        {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            bytes.extend_from_slice(&chunk[skipped as usize..]);
        }
        bytes.truncate(wanted);
        match bytes.len() == wanted {
            true => Ok(bytes),
            false => Err(Failure::retry(format!("the answer ended after {} of {wanted} bytes", bytes.len()))),
        }
    }
}
