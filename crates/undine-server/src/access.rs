//! Who may ask: API keys, and which web pages (CORS).

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::remarks::{IGNORED_FIELDS, RELAXED_SCHEMAS};
use crate::wire::error::{ApiError, ApiResult};

/// Paths without keys: probes of load balancers, scrapers of metrics and readers of the interface have none.
const OPEN_PATHS: [&str; 6] = ["/health", "/ping", "/version", "/load", "/metrics", "/openapi.json"];
/// Stands for everything in lists of [`Cors`].
const ANY: &str = "*";

/// Web pages of which origins may call the server from a browser. Without it, none may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cors {
    /// Origins such as `https://example.org`, or `*`.
    pub origins: Vec<String>,
    /// Methods, or `*`.
    pub methods: Vec<String>,
    /// Request headers, or `*`.
    pub headers: Vec<String>,
    /// Whether a browser may send cookies and client certificates along.
    pub credentials: Credentials,
}

/// See [`Cors::credentials`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Credentials {
    /// They stay with the browser.
    Withheld,
    /// They are sent.
    Allowed,
}

/// Why a [`Cors`] makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CorsError {
    /// Something that cannot be a header, method or origin.
    #[error("expected {expected}, found {found:?}")]
    Invalid {
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Everybody, with credentials.
    #[error(
        "credentials need named origins, methods and headers: with \"*\" any web page could act for its visitor"
    )]
    CredentialsForAll,
}

impl Cors {
    pub(crate) fn layer(&self) -> Result<CorsLayer, CorsError> {
        let everything = |list: &[String]| list.iter().any(|entry| entry == ANY);
        let lists = [&self.origins, &self.methods, &self.headers];
        if self.credentials == Credentials::Allowed && lists.iter().any(|list| everything(list)) {
            return Err(CorsError::CredentialsForAll);
        }
        let origins = match everything(&self.origins) {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(parse::<HeaderValue>(
                &self.origins,
                "an origin such as https://example.org",
            )?),
        };
        let methods = match everything(&self.methods) {
            true => AllowMethods::any(),
            false => AllowMethods::list(parse::<Method>(&self.methods, "a method such as POST")?),
        };
        let headers = match everything(&self.headers) {
            // Those that a browser asks for, by name: it does not take "*" to mean `authorization`.
            true => AllowHeaders::mirror_request(),
            false => AllowHeaders::list(parse::<HeaderName>(&self.headers, "the name of a header")?),
        };
        let layer = CorsLayer::new().allow_origin(origins).allow_methods(methods).allow_headers(headers);
        let own = ["x-request-id", IGNORED_FIELDS, RELAXED_SCHEMAS].map(HeaderName::from_static);
        let exposed: Vec<HeaderName> = own.into_iter().chain([header::RETRY_AFTER]).collect();
        Ok(layer.expose_headers(exposed).allow_credentials(self.credentials == Credentials::Allowed))
    }
}

fn parse<T: std::str::FromStr>(list: &[String], expected: &'static str) -> Result<Vec<T>, CorsError> {
    let one = |text: &String| text.parse().map_err(|_| CorsError::Invalid { expected, found: text.clone() });
    list.iter().map(one).collect()
}

/// Whether a path needs no key.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path)
}

/// Lets a request pass that brings one of `keys`, or needs none.
/// Which of them it was comes back.
pub(crate) fn check(keys: &[String], path: &str, headers: &HeaderMap) -> ApiResult<Option<usize>> {
    if keys.is_empty() || is_open(path) {
        return Ok(None);
    }
    const EXPECTED: &str = "expected the header `authorization: Bearer KEY` with a key of this server, found";
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::unauthorized(format!("{EXPECTED} no such header")));
    };
    let given = value.to_str().ok().and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    match given {
        None => Err(ApiError::unauthorized(format!("{EXPECTED} another scheme"))),
        Some(given) => match position(keys, given) {
            Some(key) => Ok(Some(key)),
            None => Err(ApiError::unauthorized(format!("{EXPECTED} another key"))),
        },
    }
}

/// Compares with all keys to the end: neither where a key differs nor which one nearly matched shows in the
/// time.
fn position(keys: &[String], given: &str) -> Option<usize> {
    let mut found = 0;
    for (number, key) in (1u64..).zip(keys) {
        found.conditional_assign(&number, key.as_bytes().ct_eq(given.as_bytes()));
    }
    usize::try_from(found).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(keys: &[&str], path: &str, authorization: Option<&str>) -> bool {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        check(&keys, path, &headers).is_ok()
    }

    #[test]
    fn keys_are_checked() {
        let keys = ["first", "second"];
        for (path, authorization, passes) in [
            ("/v1/models", None, false),
            ("/v1/models", Some("Bearer first"), true),
            ("/v1/models", Some("bearer  second "), true),
            ("/v1/models", Some("Bearer firs"), false),
            ("/v1/models", Some("Bearer firsts"), false),
            ("/v1/models", Some("Bearer "), false),
            ("/v1/models", Some("Basic first"), false),
            ("/v1/models", Some("first"), false),
            ("/tokenize", None, false),
            ("/server_info", None, false),
            ("/health", None, true),
            ("/metrics", None, true),
            ("/metrics/", None, false),
        ] {
            assert_eq!(check_with(&keys, path, authorization), passes, "{path} {authorization:?}");
        }
        assert!(check_with(&[], "/v1/models", None));
    }

    #[test]
    fn the_key_that_was_shown_is_found() {
        let keys = ["first", "second", "third"].map(str::to_owned);
        for (given, found) in
            [("first", Some(0)), ("second", Some(1)), ("third", Some(2)), ("fourth", None), ("", None)]
        {
            assert_eq!(position(&keys, given), found, "{given}");
        }
    }

    #[test]
    fn cors_that_makes_no_sense_is_refused() {
        let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cors = |origins: &[&str], methods: &[&str], credentials| Cors {
            origins: text(origins),
            methods: text(methods),
            headers: text(&["authorization"]),
            credentials,
        };
        assert!(cors(&["*"], &["*"], Credentials::Withheld).layer().is_ok());
        assert!(cors(&["https://a.example"], &["POST"], Credentials::Allowed).layer().is_ok());
        for wrong in [
            cors(&["*"], &["POST"], Credentials::Allowed),
            cors(&["https://a.example"], &["*"], Credentials::Allowed),
            cors(&["a\nb"], &["POST"], Credentials::Withheld),
            cors(&["https://a.example"], &["PO ST"], Credentials::Withheld),
        ] {
            assert!(wrong.layer().is_err(), "{wrong:?}");
        }
    }
}
