//! Images from the network, asked for by people the server does not know: only from public addresses, only so
//! much, only so long.
//!
//! A host's addresses are looked up here and the unsuitable ones are left out before the connection is made,
//! so that the address that was checked is the address that is asked. Every redirection is a new URL and
//! checked like the first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Client, Response, Url, redirect};
use tokio_rustls::rustls;
use undine_image::limits::IMAGE_BYTES_MAX;

use crate::media::address::is_public;
use crate::media::domains::Domains;
use crate::media::error::MediaError;
use crate::media::{excerpt, is_image_type};

/// Redirections of one image.
pub(crate) const REDIRECTS_MAX: usize = 5;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Fetches images.
pub(crate) struct Fetcher {
    client: Client,
    domains: Arc<Domains>,
    timeout: Duration,
}

impl Fetcher {
    /// `timeout` is for one image, from the name of its host to its last byte.
    pub(crate) fn new(domains: Domains, timeout: Duration) -> Result<Self, MediaError> {
        // Another part of the program may have chosen the same before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let domains = Arc::new(domains);
        let client = Client::builder()
            .user_agent(concat!("undine/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .referer(false)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .pool_max_idle_per_host(0)
            .dns_resolver(SuitableOnly { domains: Arc::clone(&domains) })
            .build()
            .map_err(|error| MediaError::Unavailable(error.to_string()))?;
        Ok(Self { client, domains, timeout })
    }

    /// The bytes of an image.
    pub(crate) async fn fetch(&self, url: Url) -> Result<Vec<u8>, MediaError> {
        let fetched = tokio::time::timeout(self.timeout, self.follow(url)).await;
        fetched.unwrap_or(Err(MediaError::Timeout(self.timeout)))
    }

    async fn follow(&self, mut url: Url) -> Result<Vec<u8>, MediaError> {
        for _ in 0..=REDIRECTS_MAX {
            check_url(&url, &self.domains)?;
            let request =
                self.client.get(url.clone()).header(ACCEPT, "image/*, application/octet-stream;q=0.5");
            let response = request.send().await.map_err(|error| self.failure(&error))?;
            match next_url(&url, &response)? {
                Some(next) => url = next,
                None => return self.body(response).await,
            }
        }
        Err(MediaError::Redirects)
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, MediaError> {
        if response.status().as_u16() != 200 {
            return Err(MediaError::Status(response.status().as_u16()));
        }
        check_type(response.headers())?;
        // What it says of its length is not to be trusted, but need not be waited for either.
        let length = response.content_length().unwrap_or(0);
        if length > IMAGE_BYTES_MAX as u64 {
            return Err(MediaError::Bytes);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if bytes.len() + chunk.len() > IMAGE_BYTES_MAX {
                return Err(MediaError::Bytes);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn failure(&self, error: &reqwest::Error) -> MediaError {
        match error {
            // Looking a name up and finding nothing suitable must look the same.
            error if error.is_dns() => MediaError::Address,
            error if error.is_timeout() => MediaError::Timeout(self.timeout),
            _ => MediaError::Connection,
        }
    }
}

/// Where a response leads, if it leads elsewhere.
fn next_url(url: &Url, response: &Response) -> Result<Option<Url>, MediaError> {
    let status = response.status();
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or(MediaError::Status(status.as_u16()))?;
    url.join(location).map(Some).map_err(|_| MediaError::Status(status.as_u16()))
}

/// Checks everything about a URL that can be known without asking anybody.
fn check_url(url: &Url, domains: &Domains) -> Result<(), MediaError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(MediaError::Scheme(excerpt(url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(MediaError::Credentials);
    }
    let host = url.host_str().ok_or_else(|| MediaError::Url("there is no host".to_owned()))?;
    if !domains.is_empty() {
        return if domains.contain(host) { Ok(()) } else { Err(MediaError::Domain(domains.to_string())) };
    }
    // An address in place of a name never gets to the resolver. However it was spelled, the URL has it in one
    // form.
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) if !is_public(address) => Err(MediaError::Address),
        _ => Ok(()),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), MediaError> {
    let Some(found) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let found = found.to_str().unwrap_or_default();
    let media_type = found.split(';').next().unwrap_or_default().trim();
    if is_image_type(media_type) { Ok(()) } else { Err(MediaError::ContentType(excerpt(media_type))) }
}

/// Looks names up.
struct SuitableOnly {
    domains: Arc<Domains>,
}

#[derive(Debug, thiserror::Error)]
#[error("no suitable address")]
struct NoSuitableAddress;

impl Resolve for SuitableOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let domains = Arc::clone(&self.domains);
        Box::pin(async move {
            // The port of the URL takes the place of 0.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let suitable = suitable(name.as_str(), found, &domains).ok_or(NoSuitableAddress)?;
            Ok(Box::new(suitable.into_iter()) as Addrs)
        })
    }
}

/// The addresses of a host that may be asked; `None` if there are none.
fn suitable(
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
    domains: &Domains,
) -> Option<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = match domains.is_empty() {
        true => found.filter(|address| is_public(address.ip())).collect(),
        // Whoever allowed the host by name answers for its addresses.
        false if domains.contain(host) => found.collect(),
        false => Vec::new(),
    };
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains(list: &[&str]) -> Domains {
        Domains::new(list.iter().copied()).unwrap()
    }

    #[test]
    fn urls_are_judged_by_their_host() {
        let none = domains(&[]);
        let some = domains(&["example.com", "10.0.0.7", "[::1]"]);
        for (url, domains, expected) in [
            ("https://example.com/a.png", &none, Ok(())),
            ("http://8.8.8.8/", &none, Ok(())),
            ("http://[2606:4700::1111]:8080/", &none, Ok(())),
            ("ftp://example.com/", &none, Err("url")),
            ("gopher://127.0.0.1/", &none, Err("url")),
            ("http://a:b@example.com/", &none, Err("refused")),
            ("http://a@example.com/", &none, Err("refused")),
            ("http://127.0.0.1/", &none, Err("address")),
            ("http://127.1/", &none, Err("address")),
            ("http://0x7f.1/", &none, Err("address")),
            ("http://0177.0.0.1/", &none, Err("address")),
            ("http://2130706433/", &none, Err("address")),
            ("http://127。0。0。1/", &none, Err("address")),
            ("http://①②⑦.0.0.1/", &none, Err("address")),
            ("http://127.0.0.1./", &none, Err("address")),
            ("http://[::1]/", &none, Err("address")),
            ("http://[::ffff:7f00:1]/", &none, Err("address")),
            ("http://[64:ff9b::a9fe:a9fe]/", &none, Err("address")),
            ("http://169.254.169.254/latest/meta-data", &none, Err("address")),
            ("https://EXAMPLE.com/", &some, Ok(())),
            ("https://www.example.com/", &some, Err("refused")),
            ("https://example.com.evil.net/", &some, Err("refused")),
            ("https://example.com@evil.net/", &some, Err("refused")),
            ("http://10.0.0.7:81/", &some, Ok(())),
            ("http://[::1]/", &some, Ok(())),
            ("http://10.0.0.8/", &some, Err("refused")),
        ] {
            let found = check_url(&Url::parse(url).unwrap(), domains).map_err(|error| error.reason());
            assert_eq!(found, expected, "{url}");
        }
    }

    /// What a name means may change between two looks at it: only what was looked at is connected to.
    #[test]
    fn names_that_lead_inside_have_no_address() {
        let (none, some) = (domains(&[]), domains(&["inside.example"]));
        for (host, found, domains, expected) in [
            ("a.example", "93.184.216.34:0 [2606:2800::1]:0", &none, "93.184.216.34:0 [2606:2800::1]:0"),
            ("a.example", "127.0.0.1:0", &none, ""),
            ("a.example", "10.0.0.1:0 93.184.216.34:0", &none, "93.184.216.34:0"),
            ("a.example", "169.254.169.254:0 [fd00:ec2::254]:0 [::ffff:10.0.0.1]:0", &none, ""),
            ("a.example", "", &none, ""),
            ("inside.example", "10.0.0.1:0", &none, ""),
            ("inside.example", "10.0.0.1:0", &some, "10.0.0.1:0"),
            ("a.example", "93.184.216.34:0", &some, ""),
        ] {
            let addresses = |text: &str| -> Vec<SocketAddr> {
                text.split_whitespace().map(|address| address.parse().unwrap()).collect()
            };
            let chosen = suitable(host, addresses(found).into_iter(), domains).unwrap_or_default();
            assert_eq!(chosen, addresses(expected), "{host}: {found}");
        }
    }

    #[tokio::test]
    async fn names_of_this_machine_are_not_asked() {
        let fetcher = Fetcher::new(domains(&[]), Duration::from_secs(5)).unwrap();
        for url in ["http://localhost:1/", "http://no-such-name.invalid/"] {
            let error = fetcher.fetch(Url::parse(url).unwrap()).await.unwrap_err();
            assert_eq!(error, MediaError::Address, "{url}");
        }
    }
}
