//! By which names the server may be asked, and from which web pages.
//!
//! A page in a visitor's browser may send requests to this machine. The browser lets it read answers only of
//! its own origin, so such a page lets its own name stand for this machine's address for a moment (DNS
//! rebinding); what gives it away is that name, in `Host`. And it may send some requests without reading the
//! answer; what gives it away is `Origin`. No program but a browser sends that. Connections that no browser
//! can make, those of Unix sockets, are not checked.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, Uri, Version};

use crate::access::Cors;
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::excerpt;

/// What browsers say of where a request comes from; a page cannot change it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Whether the server is there is no secret, and who asks for that uses all kinds of names.
const OPEN_PATHS: [&str; 2] = ["/health", "/ping"];
/// Stands for every name.
const ANY: &str = "*";
/// Longest list of [`Hosts`]: every request is compared with all of it.
const HOSTS_MAX: usize = 1000;

/// Names by which the server may be asked, beside those of this machine and the address it is bound to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hosts {
    patterns: Vec<Pattern>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    Any,
    /// In lower case, without a dot at the end.
    Name(String),
    /// What comes before has at least one label; with its dot in front.
    Below(String),
}

/// Why a list of names makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostsError {
    /// Not a name.
    #[error(
        "expected a host name such as api.example.com, *.example.com (the names below it), .example.com (both) or *, without \
         scheme, port and path; found {0:?}"
    )]
    Invalid(String),
    /// Too many.
    #[error("expected at most {HOSTS_MAX} names, found {0}")]
    TooMany(usize),
}

impl Hosts {
    /// # Errors
    /// If an entry is neither a name, an address, a wildcard in front of one, nor `*`.
    pub fn new(list: &[String]) -> Result<Self, HostsError> {
        if list.len() > HOSTS_MAX {
            return Err(HostsError::TooMany(list.len()));
        }
        let mut patterns = Vec::with_capacity(list.len());
        for entry in list {
            let name = |text: &str| match (text.parse::<IpAddr>(), host_of(text)) {
                (Ok(address), _) => Ok(address.to_string()),
                (Err(_), Some((host, None)))
                    if host == unbracketed(text).to_ascii_lowercase() && !host.contains('*') =>
                {
                    Ok(host)
                }
                _ => Err(HostsError::Invalid(entry.clone())),
            };
            match (entry.strip_prefix("*."), entry.strip_prefix('.')) {
                _ if entry == ANY => patterns.push(Pattern::Any),
                (Some(rest), _) => patterns.push(Pattern::Below(format!(".{}", name(rest)?))),
                (None, Some(rest)) => {
                    patterns.push(Pattern::Below(format!(".{}", name(rest)?)));
                    patterns.push(Pattern::Name(name(rest)?));
                }
                (None, None) => patterns.push(Pattern::Name(name(entry)?)),
            }
        }
        Ok(Self { patterns })
    }

    fn allows(&self, host: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Name(name) => name == host,
            Pattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        })
    }
}

/// What is checked of the requests of a TCP socket.
pub(crate) struct Doors {
    pub(crate) hosts: Hosts,
    /// The address the socket is bound to.
    pub(crate) bound: IpAddr,
    /// Origins that may ask, see [`Cors::origins`].
    pub(crate) origins: Vec<String>,
}

impl Doors {
    pub(crate) fn new(hosts: Hosts, bound: IpAddr, cors: Option<&Cors>) -> Self {
        Self {
            hosts,
            bound: bound.to_canonical(),
            origins: cors.map_or_else(Vec::new, |cors| cors.origins.clone()),
        }
    }

    /// Refuses a request that a web page may have sent without permission.
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> ApiResult<()> {
        if OPEN_PATHS.contains(&uri.path()) {
            return Ok(());
        }
        let asked = self.asked_host(uri, version, headers)?;
        let changes_nothing = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
        if changes_nothing { Ok(()) } else { self.check_origin(asked, headers) }
    }

    /// The host and port that the request is for; without one if it is HTTP/1.0, which no browser speaks.
    fn asked_host(
        &self,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
    ) -> ApiResult<Option<(String, Option<u16>)>> {
        let mut given = headers.get_all(HOST).iter();
        let host = given.next();
        if given.next().is_some() {
            return Err(ApiError::bad_request("expected one header `host`, found several"));
        }
        let in_header = match host {
            Some(value) => {
                let text = String::from_utf8_lossy(value.as_bytes());
                let wrong = || {
                    ApiError::bad_request(format!(
                        "the header `host`: expected a host and perhaps a port, found {}",
                        excerpt(&text)
                    ))
                };
                Some(host_of(&text).ok_or_else(wrong)?)
            }
            None if version > Version::HTTP_10 => {
                return Err(ApiError::bad_request("expected the header `host`, found none"));
            }
            None => None,
        };
        // A request line with a whole URL says the same once more, and comes first (RFC 9112, 3.2.2).
        let in_line = uri.authority().and_then(|authority| host_of(authority.as_str()));
        for (host, _) in in_header.iter().chain(&in_line) {
            if !self.is_ours(host) {
                return Err(ApiError::host_not_allowed(&excerpt(host)));
            }
        }
        Ok(in_line.or(in_header))
    }

    fn is_ours(&self, host: &str) -> bool {
        let own = match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            // A name that leads elsewhere is not an address: an unspecific socket may be asked by any.
            Ok(address) => address.is_loopback() || self.bound.is_unspecified() || address == self.bound,
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        };
        own || self.hosts.allows(host)
    }

    fn check_origin(&self, asked: Option<(String, Option<u16>)>, headers: &HeaderMap) -> ApiResult<()> {
        let Some(origin) = headers.get(ORIGIN) else {
            let site = headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes());
            return match site {
                Some(b"cross-site" | b"same-site") => Err(ApiError::origin_not_allowed("another site")),
                _ => Ok(()),
            };
        };
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let is_allowed = self.origins.iter().any(|allowed| allowed == ANY || *allowed == origin);
        if is_allowed || is_same_origin(&origin, asked) {
            return Ok(());
        }
        Err(ApiError::origin_not_allowed(&excerpt(&origin)))
    }
}

/// Whether a page of this origin came from where its request goes. The scheme is not compared: a proxy may
/// have taken TLS off.
fn is_same_origin(origin: &str, asked: Option<(String, Option<u16>)>) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    match (host_of(authority), asked) {
        (Some((host, port)), Some((asked_host, asked_port))) => {
            host == asked_host && port.unwrap_or(default_port) == asked_port.unwrap_or(default_port)
        }
        _ => false,
    }
}

/// Host and port of an authority, the host in lower case, without brackets and without a dot at the end.
fn host_of(text: &str) -> Option<(String, Option<u16>)> {
    // A port that is there and empty is none (RFC 3986, 3.2.3).
    let authority: Authority = text.strip_suffix(':').unwrap_or(text).parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    // The library takes what is no number for no port.
    let port = match authority.as_str().strip_prefix(authority.host())? {
        "" => None,
        rest => Some(rest.strip_prefix(':')?.parse().ok()?),
    };
    let host = unbracketed(authority.host());
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty()).then_some((host, port))
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Result<Hosts, HostsError> {
        Hosts::new(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn doors(allowed: &[&str], bound: &str) -> Doors {
        let origins = vec!["https://page.example".to_owned()];
        Doors { hosts: hosts(allowed).unwrap(), bound: bound.parse().unwrap(), origins }
    }

    fn status(doors: &Doors, line: &str, headers: &[(&'static str, &str)]) -> u16 {
        let mut words = line.split(' ');
        let (method, uri) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
        let version = if words.next() == Some("1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        match doors.check(&method, &uri, version, &map) {
            Ok(()) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        for (allowed, bound, host, expected) in [
            (&[][..], "127.0.0.1", "localhost:8000", 200),
            (&[], "127.0.0.1", "LocalHost", 200),
            (&[], "127.0.0.1", "localhost.:1", 200),
            (&[], "127.0.0.1", "a.localhost", 200),
            (&[], "127.0.0.1", "127.1.2.3:99", 200),
            (&[], "127.0.0.1", "[::1]:8000", 200),
            (&[], "127.0.0.1", "[::ffff:127.0.0.1]", 200),
            (&[], "127.0.0.1", "rebound.example", 403),
            (&[], "127.0.0.1", "rebound.example:8000", 403),
            (&[], "127.0.0.1", "localhost.example", 403),
            (&[], "127.0.0.1", "notlocalhost", 403),
            (&[], "127.0.0.1", "2130706433", 403),
            (&[], "127.0.0.1", "127.1", 403),
            (&[], "127.0.0.1", "192.0.2.1", 403),
            (&[], "192.0.2.1", "192.0.2.1:8000", 200),
            (&[], "192.0.2.1", "192.0.2.2", 403),
            (&[], "192.0.2.1", "127.0.0.1", 200),
            (&[], "0.0.0.0", "192.0.2.2:8000", 200),
            (&[], "::", "[2001:db8::1]:8000", 200),
            (&[], "::", "rebound.example", 403),
            (&["api.example.com"], "0.0.0.0", "API.example.com", 200),
            (&["api.example.com"], "0.0.0.0", "x.api.example.com", 403),
            (&["*.example.com"], "0.0.0.0", "a.b.example.com", 200),
            (&["*.example.com"], "0.0.0.0", "example.com", 403),
            (&["*.example.com"], "0.0.0.0", "badexample.com", 403),
            (&[".example.com"], "0.0.0.0", "example.com", 200),
            (&[".example.com"], "0.0.0.0", "a.example.com", 200),
            (&["192.0.2.9", "2001:db8::9"], "127.0.0.1", "[2001:db8::9]", 200),
            (&["*"], "127.0.0.1", "rebound.example", 200),
            (&[], "127.0.0.1", "", 400),
            (&[], "127.0.0.1", "user@localhost", 400),
            (&[], "127.0.0.1", "localhost:port", 400),
            (&[], "127.0.0.1", "local host", 400),
        ] {
            let found = status(&doors(allowed, bound), "GET /v1/models", &[("host", host)]);
            assert_eq!(found, expected, "{allowed:?} {bound} {host:?}");
        }
        let doors = doors(&[], "127.0.0.1");
        for (line, headers, expected) in [
            ("GET /v1/models", &[][..], 400),
            ("GET /v1/models 1.0", &[], 200),
            ("GET /v1/models 1.0", &[("host", "rebound.example")], 403),
            ("GET /v1/models", &[("host", "localhost"), ("host", "rebound.example")], 400),
            ("GET http://rebound.example/v1/models", &[("host", "localhost")], 403),
            ("GET http://localhost/v1/models", &[("host", "rebound.example")], 403),
            ("GET http://localhost:1/v1/models", &[("host", "localhost")], 200),
            ("GET /metrics", &[("host", "rebound.example")], 403),
            ("GET /health", &[("host", "rebound.example")], 200),
            ("GET /health", &[], 200),
        ] {
            assert_eq!(status(&doors, line, headers), expected, "{line} {headers:?}");
        }
    }

    #[test]
    fn pages_of_others_change_nothing() {
        let doors = doors(&["api.example"], "0.0.0.0");
        for (line, host, more, expected) in [
            ("POST /v1/completions", "localhost:8000", &[][..], 200),
            ("POST /v1/completions", "localhost:8000", &[("origin", "http://localhost:8000")], 200),
            ("POST /v1/completions", "localhost:8000", &[("origin", "http://localhost:3000")], 403),
            ("POST /v1/completions", "localhost:8000", &[("origin", "http://evil.example")], 403),
            ("POST /v1/completions", "localhost:8000", &[("origin", "null")], 403),
            ("POST /v1/completions", "localhost:8000", &[("origin", "file://")], 403),
            ("POST /v1/completions", "localhost:8000", &[("origin", "https://page.example")], 200),
            ("POST /v1/completions", "localhost:8000", &[("origin", "https://page.example.org")], 403),
            ("POST /v1/completions", "api.example", &[("origin", "https://api.example")], 200),
            ("POST /v1/completions", "api.example", &[("origin", "https://api.example:8443")], 403),
            ("POST /v1/completions", "localhost", &[("sec-fetch-site", "cross-site")], 403),
            ("POST /v1/completions", "localhost", &[("sec-fetch-site", "same-site")], 403),
            ("POST /v1/completions", "localhost", &[("sec-fetch-site", "same-origin")], 200),
            ("POST /v1/completions", "localhost", &[("sec-fetch-site", "none")], 200),
            ("DELETE /v1/models", "localhost", &[("origin", "http://evil.example")], 403),
            ("GET /v1/models", "localhost", &[("origin", "http://evil.example")], 200),
            ("OPTIONS /v1/models", "localhost", &[("origin", "http://evil.example")], 200),
            ("POST /ping", "localhost", &[("origin", "http://evil.example")], 200),
            ("POST /v1/completions 1.0", "localhost", &[("origin", "http://evil.example")], 403),
        ] {
            let headers = [&[("host", host)], more].concat();
            assert_eq!(status(&doors, line, &headers), expected, "{line} {host} {more:?}");
        }
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        for entry in
            ["", "http://a.example", "a.example:80", "a.example/b", "*.", ".", "a.*.example", "a b", "u@a"]
        {
            assert!(hosts(&[entry]).is_err(), "{entry:?}");
        }
        assert!(Hosts::new(&vec!["a".to_owned(); HOSTS_MAX + 1]).is_err());
    }
}
