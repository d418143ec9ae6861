//! The hub's HTTP interface: what is in a repository, and requests for its files.
//!
//! Redirects are followed here and not by the HTTP client, because the token must reach the hub only, and
//! because the address of a file's content, once known, serves all ranges of it.

use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::cache::{FILES_MAX, is_commit};
use crate::error::Error;
use crate::hash::Digest;
use crate::name::{Repo, is_safe_file};
use crate::retry::{Backoff, Failure, QUESTIONS_MAX};
use crate::settings::{Settings, Token};
use crate::short_names;

/// Longest description of a repository.
const INFO_BYTES_MAX: usize = 64 << 20;
/// Largest file: what a record of chunks can be about, and so that the sizes of all files have a sum.
const FILE_BYTES_MAX: u64 = 1 << 40;
/// Longest body of an error that is read.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// Longest message of an error that is shown.
const MESSAGE_CHARS_MAX: usize = 300;
/// Most redirects of one request.
const REDIRECTS_MAX: usize = 10;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Files whose size and hash are asked for one by one, at a hub that does not list them.
const HEADS_MAX: usize = 256;
/// Longest name of a content.
const ETAG_BYTES_MAX: usize = 128;
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";
const RATE_LIMIT: &str = "ratelimit";
const ERROR_CODE: &str = "x-error-code";
const ERROR_MESSAGE: &str = "x-error-message";

/// A file of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RemoteFile {
    pub path: String,
    pub bytes: u64,
    /// The name of its content in the cache.
    pub etag: String,
    pub digest: Digest,
}

/// A repository at a commit.
#[derive(Clone, Debug)]
pub(crate) struct RepoInfo {
    pub commit: String,
    pub files: Vec<RemoteFile>,
    pub license: Option<String>,
}

/// Where redirects may lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Follow {
    /// Anywhere; the token stays behind.
    Anywhere,
    /// To the hub only: the answer that would lead away is the one that describes the file.
    AtHome,
}

/// A client of one hub.
#[derive(Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Token>,
    pub first_delay: Duration,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Json,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Api {
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        // Another part of the program may have chosen the same before.
        drop(rustls::crypto::ring::default_provider().install_default());
        // The authorities that the machine trusts, and Mozilla's for a machine or container without any.
        let authorities = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let authorities = authorities.filter_map(|der| reqwest::Certificate::from_der(der.as_ref()).ok());
        let http = reqwest::Client::builder()
            .user_agent(concat!("undine/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(settings.stall)
            .tls_certs_merge(authorities)
            .build()
            .map_err(|error| Error::Client(chain(&error)))?;
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Ok(Self { http, endpoint, token, first_delay: settings.first_delay })
    }

    /// `segments` after the endpoint; slashes in one are escaped.
    fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("http URLs have paths").pop_if_empty().extend(segments);
        url
    }

    /// Where a file is, at a commit.
    pub fn file_url(&self, repo: &Repo, commit: &str, path: &str) -> Url {
        self.url(repo.as_str().split('/').chain(["resolve", commit]).chain(path.split('/')))
    }

    /// Commit, files and licence of a repository.
    pub async fn info(&self, repo: &Repo, revision: &str) -> Result<RepoInfo, Error> {
        let mut url = self
            .url(["api", "models"].into_iter().chain(repo.as_str().split('/')).chain(["revision", revision]));
        url.set_query(Some("blobs=true"));
        let body = match self.json(&url).await {
            Err(error) => return Err(self.explain(error, repo, Some(revision)).await),
            Ok(body) => body,
        };
        let info: Info = serde_json::from_slice(&body).map_err(|error| {
            Error::protocol(&url, format!("expected the description of a repository: {error}"))
        })?;
        if !is_commit(&info.sha) {
            return Err(Error::protocol(
                &url,
                format!("expected a commit of 40 digits, found {:?}", info.sha),
            ));
        }
        if info.siblings.len() > FILES_MAX {
            let reason = format!("{} files, expected at most {FILES_MAX}", info.siblings.len());
            return Err(Error::protocol(&url, reason));
        }
        let license = ["license_name", "license"].iter().find_map(|key| info.card[*key].as_str());
        let license =
            license.map(|text| text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect());
        let files = self.files(repo, &info.sha, info.siblings).await?;
        Ok(RepoInfo { commit: info.sha, files, license })
    }

    async fn files(
        &self,
        repo: &Repo,
        commit: &str,
        siblings: Vec<Sibling>,
    ) -> Result<Vec<RemoteFile>, Error> {
        let mut files = Vec::with_capacity(siblings.len());
        let mut heads = 0;
        // A name that leads out of the cache cannot be wanted.
        for sibling in siblings.into_iter().filter(|sibling| is_safe_file(&sibling.rfilename)) {
            let described = match (sibling.lfs, sibling.size, sibling.blob_id) {
                (Some(lfs), _, _) => Some((lfs.size, lfs.sha256)),
                (None, Some(bytes), Some(id)) => Some((bytes, id)),
                _ => None,
            };
            let (bytes, etag) = match described {
                Some((bytes, etag)) => (bytes, normal_etag(&etag)),
                None if heads < HEADS_MAX => {
                    heads += 1;
                    match self.head(repo, commit, &sibling.rfilename).await? {
                        Some(described) => described,
                        None => continue,
                    }
                }
                None => continue,
            };
            if bytes > FILE_BYTES_MAX {
                let path = sibling.rfilename;
                let reason = format!("{path:?} has {bytes} bytes, expected at most {FILE_BYTES_MAX}");
                return Err(Error::protocol(self.file_url(repo, commit, &path), reason));
            }
            let digest = Digest::of_etag(&etag);
            files.push(RemoteFile { path: sibling.rfilename, bytes, etag, digest });
        }
        Ok(files)
    }

    /// Size and ETag of one file; `None` if the hub does not tell.
    async fn head(&self, repo: &Repo, commit: &str, path: &str) -> Result<Option<(u64, String)>, Error> {
        let url = self.file_url(repo, commit, path);
        let mut backoff = Backoff::new(self.first_delay, QUESTIONS_MAX);
        let response = loop {
            match self.send(Method::HEAD, &url, None, Follow::AtHome).await {
                Ok(response) => break response,
                Err(failure) => {
                    tokio::time::sleep(backoff.delay(failure.at_first(url.as_str()), url.as_str())?.0).await;
                }
            }
        };
        let headers = response.headers();
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let bytes = text(LINKED_SIZE).or(text(CONTENT_LENGTH.as_str())).and_then(|text| text.parse().ok());
        let etag = text(LINKED_ETAG).or(text(ETAG.as_str())).map(normal_etag);
        Ok(bytes.zip(etag.filter(|etag| !etag.is_empty())))
    }

    /// The body of an answer of the hub itself.
    async fn json(&self, url: &Url) -> Result<Vec<u8>, Error> {
        let mut backoff = Backoff::new(self.first_delay, QUESTIONS_MAX);
        loop {
            let failure = match self.send(Method::GET, url, None, Follow::AtHome).await {
                Ok(response) => match body(response, INFO_BYTES_MAX).await {
                    Ok(body) => return Ok(body),
                    Err(failure) => failure,
                },
                Err(failure) => failure.at_first(url.as_str()),
            };
            tokio::time::sleep(backoff.delay(failure, url.as_str())?.0).await;
        }
    }

    /// Asks for a file, or from `range` on up to its last byte (inclusive).
    pub async fn get(&self, url: &Url, range: Option<(u64, u64)>) -> Result<Response, Failure> {
        self.send(Method::GET, url, range, Follow::Anywhere).await
    }

    /// Whether an address is on the hub, where the token may be sent.
    pub fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// An answer that is neither an error nor a redirect to follow.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        range: Option<(u64, u64)>,
        follow: Follow,
    ) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(Token(token)) = self.token.as_ref().filter(|_| self.is_home(&url)) {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {token}")).expect("tokens are visible ASCII");
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
            if let Some((first, last)) = range {
                request = request.header(RANGE, format!("bytes={first}-{last}"));
            }
            // The address of a content may hold a signature, which is nobody's business.
            let response = request.send().await.map_err(|error| {
                let (nobody, reason) = (error.is_connect(), chain(&error.without_url()));
                if nobody { Failure::Unreachable { reason } } else { Failure::retry(reason) }
            })?;
            if !response.status().is_redirection() {
                return self.judged(response, &url).await;
            }
            let next = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = next
                .and_then(|text| url.join(text).ok())
                .filter(|next| ["http", "https"].contains(&next.scheme()));
            let Some(next) = next else {
                return Err(
                    Error::protocol(&url, "a redirect without an address that can be followed").into()
                );
            };
            if follow == Follow::AtHome && !self.is_home(&next) {
                return Ok(response);
            }
            url = next;
        }
        Err(Error::protocol(&url, format!("more than {REDIRECTS_MAX} redirects")).into())
    }

    async fn judged(&self, response: Response, url: &Url) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = retry_after(response.headers());
        let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (code, message) = (header(ERROR_CODE), header(ERROR_MESSAGE));
        let message = match message {
            Some(message) => message,
            None => error_message(&body(response, ERROR_BYTES_MAX).await.unwrap_or_default()),
        };
        let message: String = message.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            || status.is_server_error()
        {
            let reason = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
            return Err(Failure::Retry { reason, after });
        }
        if !self.is_home(url) {
            // A signature that has expired, for one; the hub will give another address.
            return Err(Failure::retry(format!("the address of the content answers {status}")));
        }
        let code = code.map_or_else(String::new, |code| format!("{code}: "));
        let mut shown = url.clone();
        shown.set_query(None);
        let message = format!("{code}{message}");
        Err(Error::Status { url: shown.into(), status: status.as_u16(), message }.into())
    }

    /// What an answer of the hub about a repository means.
    pub async fn explain(&self, error: Error, repo: &Repo, revision: Option<&str>) -> Error {
        let Error::Status { status, message, .. } = &error else { return error };
        let (status, has_token, repo_name) = (*status, self.token.is_some(), repo.to_string());
        let has = |code: &str| message.starts_with(code);
        let is_gated = has("GatedRepo") || message.contains("gated") || message.contains("restricted");
        match status {
            401 | 403 if is_gated => {
                Error::Gated { url: self.url(repo.as_str().split('/')).into(), repo: repo_name, has_token }
            }
            401 | 403 => Error::Unauthorized { repo: repo_name, status, has_token },
            404 => match revision {
                Some(revision) if has("RevisionNotFound") || message.contains("revision") => {
                    let existing = self.revisions(repo).await.unwrap_or_default();
                    Error::NoRevision { repo: repo_name, revision: revision.to_owned(), existing }
                }
                _ => Error::NoRepository {
                    endpoint: self.endpoint.to_string().trim_end_matches('/').to_owned(),
                    nearest: short_names::nearest(&repo_name)
                        .into_iter()
                        .filter(|name| *name != repo_name)
                        .collect(),
                    repo: repo_name,
                },
            },
            _ => error,
        }
    }

    /// Branches and tags.
    async fn revisions(&self, repo: &Repo) -> Result<Vec<String>, Error> {
        let url = self.url(["api", "models"].into_iter().chain(repo.as_str().split('/')).chain(["refs"]));
        let refs: Json = serde_json::from_slice(&self.json(&url).await?)
            .map_err(|error| Error::protocol(&url, format!("expected a list of branches: {error}")))?;
        let kinds = ["branches", "tags"].into_iter().filter_map(|kind| refs[kind].as_array());
        Ok(kinds.flatten().filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect())
    }
}

/// The ETag that describes a content in an answer of the hub.
pub(crate) fn etag_of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(LINKED_ETAG).or_else(|| headers.get(ETAG))?;
    Some(normal_etag(value.to_str().ok()?)).filter(|etag| !etag.is_empty())
}

/// Without quotes and the mark of weakness, as the cache names contents; a name that is safe as a file's.
fn normal_etag(text: &str) -> String {
    let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    text.chars().take(ETAG_BYTES_MAX).map(safe).collect()
}

/// Seconds to wait, from `Retry-After: 7` or the hub's `RateLimit: "api";r=0;t=7`. A date is not understood,
/// and the usual wait used instead.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let asked = text(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
    let reset = || text(RATE_LIMIT)?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    asked.or_else(reset).map(Duration::from_secs)
}

fn error_message(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Json>(body).unwrap_or_default();
    json["error"].as_str().unwrap_or_default().to_owned()
}

async fn body(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| Failure::retry(chain(&error.without_url())))?
    {
        if body.len() + chunk.len() > bytes_max {
            return Err(Error::protocol(response.url(), format!("expected at most {bytes_max} bytes")).into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A message with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_names_of_files() {
        for (text, expected) in [
            ("\"abc\"", "abc"),
            ("W/\"abc\"", "abc"),
            ("abc-1", "abc-1"),
            ("\"../../x\"", "______x"),
            ("\"\"", ""),
        ] {
            assert_eq!(normal_etag(text), expected);
        }
        assert_eq!(normal_etag(&"a".repeat(1000)).len(), ETAG_BYTES_MAX);
    }

    #[test]
    fn waits_are_read() {
        for (name, value, expected) in [
            ("retry-after", "7", Some(7)),
            ("ratelimit", "\"resolvers\";r=0;t=55", Some(55)),
            ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("ratelimit", "nonsense", None),
        ] {
            let headers = [(name.parse().expect("a name"), value.parse().expect("a value"))];
            let found = retry_after(&headers.into_iter().collect());
            assert_eq!(found.map(|wait| wait.as_secs()), expected, "{name}: {value}");
        }
    }
}
