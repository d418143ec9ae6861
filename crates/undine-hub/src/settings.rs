//! Where the hub and its cache are: the environment that the Hugging Face tools share.

use std::env::VarError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::error::Error;

/// Forbids every use of the network.
pub(crate) const OFFLINE: &str = "HF_HUB_OFFLINE";
/// The hub unless `HF_ENDPOINT` names another.
const ENDPOINT_DEFAULT: &str = "https://huggingface.co";
/// Longest token file; a token has some 40 characters.
const TOKEN_BYTES_MAX: u64 = 4096;
/// A connection that brings nothing for so long is given up, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const STALL_DEFAULT: Duration = Duration::from_secs(30);
/// Longest stall that may be asked for.
const STALL_SECONDS_MAX: u64 = 3600;
/// Wait before the second attempt; it doubles with each further one.
const FIRST_DELAY_DEFAULT: Duration = Duration::from_millis(500);

/// A secret that no log or message shows.
#[derive(Clone)]
pub struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Visible ASCII without surrounding space; `None` if nothing is left.
    ///
    /// # Errors
    /// If there are other characters, which no HTTP header can carry. `source` says where the token is from.
    pub fn new(text: &str, source: &str) -> Result<Option<Self>, Error> {
        let text = text.trim();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "expected a token of visible ASCII characters, found others".to_owned();
            return Err(Error::Setting { name: source.to_owned(), reason });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }
}

/// Whether the network may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Yes.
    Online,
    /// Only the cache is used.
    Offline,
}

/// Where the hub and its cache are, and how patient to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub, without a slash at the end.
    pub endpoint: Url,
    /// Sent to the hub, and to no other host.
    pub token: Option<Token>,
    /// The folder of `models--OWNER--NAME` folders.
    pub cache: PathBuf,
    /// Whether the network may be used.
    pub access: Access,
    /// A connection that brings nothing for so long is given up and tried again.
    pub stall: Duration,
    /// Wait before the second attempt; it doubles with each further one.
    pub first_delay: Duration,
}

impl Settings {
    /// From the process's environment, with another folder for models if there is one.
    ///
    /// # Errors
    /// If a variable has a value that makes no sense, a token file cannot be read, or nothing says where the
    /// cache is.
    pub fn from_env(cache: Option<&Path>) -> Result<Self, Error> {
        let get = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => {
                Err(Error::Setting { name: name.to_owned(), reason: "expected UTF-8 text".to_owned() })
            }
        };
        Self::from_variables(get, cache)
    }

    /// From variables that `get` knows, as `huggingface_hub` reads them. Nothing stands for a home that is
    /// not known: a cache in whatever folder the program runs in would be found by no other run.
    pub(crate) fn from_variables(
        get: impl Fn(&str) -> Result<Option<String>, Error>,
        cache: Option<&Path>,
    ) -> Result<Self, Error> {
        let home = get("HOME")?.or(get("USERPROFILE")?).map(PathBuf::from);
        let path = |name: &str| match (get(name)?, &home) {
            (None, _) => Ok(None),
            (Some(text), home) => match (text.strip_prefix("~/"), home) {
                (None, _) => Ok(Some(PathBuf::from(text))),
                (Some(rest), Some(home)) => Ok(Some(home.join(rest))),
                (Some(_), None) => {
                    let reason = format!("expected a path without ~ because HOME is not set, found {text:?}");
                    Err(Error::Setting { name: name.to_owned(), reason })
                }
            },
        };
        let base = path("XDG_CACHE_HOME")?.or_else(|| Some(home.as_ref()?.join(".cache")));
        let hf_home = path("HF_HOME")?.or_else(|| Some(base?.join("huggingface")));
        let in_variables = path("HF_HUB_CACHE")?.or(path("HUGGINGFACE_HUB_CACHE")?);
        let in_home = || hf_home.as_ref().map(|hf_home| hf_home.join("hub"));
        let cache = cache.map(Path::to_owned).or(in_variables).or_else(in_home).ok_or(Error::NoCache)?;
        let token_path =
            path("HF_TOKEN_PATH")?.or_else(|| hf_home.as_ref().map(|hf_home| hf_home.join("token")));
        let token = match get("HF_TOKEN")?.or(get("HUGGING_FACE_HUB_TOKEN")?) {
            Some(token) => Token::new(&token, "HF_TOKEN")?,
            None if is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")?) => None,
            None => token_path.map_or(Ok(None), |path| read_token(&path))?,
        };
        let is_offline = is_true(get(OFFLINE)?) || is_true(get("TRANSFORMERS_OFFLINE")?);
        Ok(Self {
            endpoint: endpoint(get("HF_ENDPOINT")?.as_deref().unwrap_or(ENDPOINT_DEFAULT))?,
            token,
            cache,
            access: if is_offline { Access::Offline } else { Access::Online },
            stall: stall(get("HF_HUB_DOWNLOAD_TIMEOUT")?)?,
            first_delay: FIRST_DELAY_DEFAULT,
        })
    }
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str()))
}

fn endpoint(text: &str) -> Result<Url, Error> {
    let wrong = |reason: String| Error::Setting { name: "HF_ENDPOINT".to_owned(), reason };
    let expected = format!("expected a URL such as {ENDPOINT_DEFAULT}, found {text:?}");
    let url = Url::parse(text.trim_end_matches('/')).map_err(|_| wrong(expected.clone()))?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url) } else { Err(wrong(expected)) }
}

fn stall(text: Option<String>) -> Result<Duration, Error> {
    let Some(text) = text else { return Ok(STALL_DEFAULT) };
    match text.trim().parse::<u64>() {
        Ok(seconds @ 1..=STALL_SECONDS_MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::Setting {
            name: "HF_HUB_DOWNLOAD_TIMEOUT".to_owned(),
            reason: format!("expected whole seconds from 1 to {STALL_SECONDS_MAX}, found {text:?}"),
        }),
    }
}

fn read_token(path: &Path) -> Result<Option<Token>, Error> {
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(path)(error)),
    };
    let source = path.display().to_string();
    if bytes > TOKEN_BYTES_MAX {
        let reason = format!("{bytes} bytes, expected a token of at most {TOKEN_BYTES_MAX}");
        return Err(Error::Setting { name: source, reason });
    }
    Token::new(&std::fs::read_to_string(path).map_err(Error::file(path))?, &source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        settings_in(variables, None)
    }

    fn settings_in(variables: &[(&str, &str)], cache: Option<&Path>) -> Result<Settings, Error> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        };
        Settings::from_variables(get, cache)
    }

    #[test]
    fn without_a_home_a_cache_has_to_be_named() {
        for (variables, flag, expected) in [
            (&[][..], None, Err("HF_HOME")),
            (&[("HF_TOKEN", "hf_a")], None, Err("HOME")),
            (&[("HF_HUB_CACHE", "~/c")], None, Err("HF_HUB_CACHE")),
            (&[("HF_HUB_CACHE", "/c")], None, Ok("/c")),
            (&[("HF_HOME", "/f")], None, Ok("/f/hub")),
            (&[("XDG_CACHE_HOME", "/x")], None, Ok("/x/huggingface/hub")),
            (&[], Some("/flag"), Ok("/flag")),
            (&[("HF_HOME", "/f")], Some("/flag"), Ok("/flag")),
        ] {
            let found = settings_in(variables, flag.map(Path::new));
            match (found, expected) {
                (Ok(found), Ok(cache)) => assert_eq!(found.cache, Path::new(cache), "{variables:?}"),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{variables:?}: {error}")
                }
                (found, _) => panic!("{variables:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_cache_is_where_hugging_face_tools_have_it() {
        for (variables, expected) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new"),
        ] {
            assert_eq!(settings(variables).expect("reads").cache, Path::new(expected), "{variables:?}");
        }
    }

    #[test]
    fn tokens_come_from_variables_then_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_file\n").expect("writes");
        let (home, path) = (folder.path().to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
        for (variables, expected) in [
            (&[("HF_TOKEN", " hf_a\n"), ("HF_HOME", home)][..], Some("hf_a")),
            (&[("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_HOME", home)], Some("hf_old")),
            (&[("HF_HOME", home)], Some("hf_file")),
            (&[("HF_TOKEN_PATH", path), ("HOME", "/none")], Some("hf_file")),
            (&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
            (&[("HF_HOME", "/none")], None),
        ] {
            let found = settings(variables).expect("reads").token.map(|token| token.0);
            assert_eq!(found.as_deref(), expected, "{variables:?}");
        }
        let token = settings(&[("HF_TOKEN", "hf_secret"), ("HOME", "/none")]).expect("reads");
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn values_are_checked() {
        for (name, value, works) in [
            ("HF_ENDPOINT", "https://mirror.example/", true),
            ("HF_ENDPOINT", "http://127.0.0.1:8080/hf", true),
            ("HF_ENDPOINT", "mirror.example", false),
            ("HF_ENDPOINT", "file:///etc", false),
            ("HF_ENDPOINT", "https://user:secret@mirror.example", false),
            ("HF_TOKEN", "a\u{7}b", false),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "5", true),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0", false),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", false),
        ] {
            assert_eq!(settings(&[(name, value), ("HOME", "/none")]).is_ok(), works, "{name}={value}");
        }
        for (value, expected) in
            [("1", Access::Offline), ("true", Access::Offline), ("0", Access::Online), ("no", Access::Online)]
        {
            let found = settings(&[(OFFLINE, value), ("HOME", "/none")]);
            assert_eq!(found.expect("reads").access, expected, "{value}");
        }
    }
}
