//! What a model can be called: a path, a repository of the hub, or a short name.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::near_files::near_files;
use crate::short_names;

/// Longest name.
const NAME_BYTES_MAX: usize = 512;
/// Longest part of a repository's name; the hub's own limit.
const PART_BYTES_MAX: usize = 96;
/// Longest branch or tag.
const REVISION_BYTES_MAX: usize = 200;
/// Longest quantization, or ending of a file name.
const QUANT_BYTES_MAX: usize = 64;
/// What may stand before a repository.
const PREFIXES: [&str; 7] = [
    "https://huggingface.co/",
    "http://huggingface.co/",
    "https://hf.co/",
    "huggingface.co/",
    "hf.co/",
    "hf://models/",
    "hf://",
];
/// Where Ollama's own models are.
const OLLAMA: [&str; 3] = ["ollama.com/", "www.ollama.com/", "registry.ollama.ai/"];
/// The branch of a name that has none.
pub const REVISION_DEFAULT: &str = "main";

/// What a model is called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelName {
    /// A file or folder that exists.
    Path(PathBuf),
    /// Something on the hub.
    Hub(HubName),
}

/// A repository on the hub, and what of it is meant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HubName {
    /// The repository.
    pub repo: Repo,
    /// A branch, tag or commit; `None` is [`REVISION_DEFAULT`].
    pub revision: Option<String>,
    /// A quantization such as `Q4_K_M`, in any case, or the end of a GGUF file's name before `.gguf`.
    pub quant: Option<String>,
    /// One file.
    pub file: Option<String>,
}

/// A repository's name: `OWNER/NAME`, of ASCII letters, digits, `-`, `_` and `.`, never `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Repo(String);

impl Repo {
    /// Checks a name.
    ///
    /// # Errors
    /// If the hub would not allow it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::name(text, reason);
        let Some((owner, name)) = text.split_once('/') else {
            return Err(wrong("expected OWNER/NAME"));
        };
        for part in [owner, name] {
            let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if part.is_empty() || part.len() > PART_BYTES_MAX || !part.bytes().all(is_known) {
                return Err(wrong(
                    "expected OWNER/NAME, each of at most 96 ASCII letters, digits, -, _ and .",
                ));
            }
            // `--` separates owner and name in the cache's folders.
            if part.starts_with(['.', '-'])
                || part.ends_with(['.', '-'])
                || part.contains("..")
                || part.contains("--")
            {
                return Err(wrong(
                    "expected names that neither begin nor end with - or ., and without -- and ..",
                ));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// `OWNER/NAME`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the owner.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.quant {
            Some(quant) => write!(f, ":{quant}"),
            None => Ok(()),
        }
    }
}

impl HubName {
    /// The branch, tag or commit that is meant.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(REVISION_DEFAULT)
    }

    /// At another branch, tag or commit.
    ///
    /// # Errors
    /// If it could be none.
    pub fn with_revision(self, revision: &str) -> Result<Self, Error> {
        Ok(Self { revision: Some(checked_revision(revision, revision)?), ..self })
    }

    /// In another quantization.
    ///
    /// # Errors
    /// If it could be none.
    pub fn with_quant(self, quant: &str) -> Result<Self, Error> {
        Ok(Self { quant: Some(checked_quant(quant, quant)?), ..self })
    }

    /// Without looking at files: `OWNER/NAME`, a short name, or either with `:QUANT` and `@REVISION`.
    ///
    /// # Errors
    /// If it is none of these; with the nearest names if it could be a misspelt one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > NAME_BYTES_MAX {
            return Err(Error::name(&text[..text.floor_char_boundary(40)], "expected at most 512 bytes"));
        }
        if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(Error::name(
                text,
                "expected a name without blanks, control characters and backslashes",
            ));
        }
        if let Some(name) = of_ollama(text) {
            let sizes = short_names::sizes_of(name);
            let instead = match short_names::find(name).and_then(Result::ok) {
                Some(known) => short_names::of_repo(&known.repo).unwrap_or(known.repo.as_str()).to_owned(),
                None if sizes.is_empty() => "what `undine models` lists".to_owned(),
                None => sizes.join(", "),
            };
            return Err(Error::name(
                text,
                format!(
                    "this is a name of Ollama's registry, and undine fetches from Hugging Face; expected {instead}"
                ),
            ));
        }
        let rest = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix));
        if rest.is_none() && text.contains("://") {
            return Err(Error::name(text, "expected a link to huggingface.co or hf.co"));
        }
        let has_prefix = rest.is_some();
        let rest = rest.unwrap_or(text);
        match rest.contains('/') {
            true => parse_repo(text, rest),
            false if has_prefix => Err(Error::name(text, "expected OWNER/NAME after the host")),
            false => {
                let unknown =
                    || Error::Unknown { name: text.to_owned(), nearest: short_names::nearest(text) };
                short_names::find(rest).ok_or_else(unknown)?
            }
        }
    }
}

impl ModelName {
    /// A path if there is a file or folder of that name, else a name on the hub.
    ///
    /// # Errors
    /// If `text` is neither.
    pub fn parse(text: &Path) -> Result<Self, Error> {
        if text.exists() {
            return Ok(Self::Path(text.to_owned()));
        }
        let name = text.to_string_lossy();
        // As people write who come from Ollama.
        let plain = name.strip_suffix(":latest").map(Path::new).filter(|plain| plain.exists());
        if let Some(plain) = plain {
            return Ok(Self::Path(plain.to_owned()));
        }
        if looks_like_path(text) {
            let nearest = near_files(text);
            return Err(Error::NoFileHere { path: text.to_owned(), nearest });
        }
        HubName::parse(&name).map(Self::Hub).map_err(|error| match error {
            // It may be the name of a file here, misspelt or without its ending.
            Error::Unknown { name, nearest } => {
                let files = near_files(text);
                Error::Unknown { name, nearest: files.into_iter().chain(nearest).collect() }
            }
            other => other,
        })
    }
}

/// A model's name on Ollama's site or in its registry.
fn of_ollama(text: &str) -> Option<&str> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = OLLAMA.iter().find_map(|host| text.strip_prefix(host))?;
    Some(rest.strip_prefix("library/").unwrap_or(rest))
}

/// What nobody would call a repository.
fn looks_like_path(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return true };
    let is_weights = text.ends_with(".gguf") || text.ends_with(".safetensors");
    let is_url = text.contains("://");
    path.is_absolute()
        || text.starts_with("./")
        || text.starts_with("../")
        || text.starts_with('~')
        || (text.ends_with('/') && !is_url)
        // `OWNER/NAME/FILE.gguf` is a file on the hub.
        || (is_weights && !is_url && text.split('/').count() < 3)
}

/// `OWNER/NAME[/FILE][@REVISION][:QUANT]`, and links to pages of the hub.
fn parse_repo(whole: &str, text: &str) -> Result<HubName, Error> {
    let (path, mut marks) = text.split_at(text.find(['@', ':']).unwrap_or(text.len()));
    let mut parts = path.trim_end_matches('/').splitn(3, '/');
    let (owner, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let repo = Repo::parse(&format!("{owner}/{name}")).map_err(|error| match error {
        Error::Name { reason, .. } => Error::name(whole, reason),
        other => other,
    })?;
    let mut found = HubName { repo, revision: None, quant: None, file: None };
    if let Some(rest) = parts.next() {
        // A link to a page: /tree/REVISION, /blob/REVISION/FILE, /resolve/REVISION/FILE.
        let mut words = rest.splitn(3, '/');
        match (words.next(), words.next()) {
            (Some("tree" | "blob" | "resolve"), Some(revision)) => {
                found.revision = Some(checked_revision(whole, revision)?);
                let file = words.next().map(|file| file.split_once('?').map_or(file, |(file, _)| file));
                found.file = file.map(|file| checked_file(whole, file)).transpose()?;
            }
            _ => found.file = Some(checked_file(whole, rest)?),
        }
    }
    while let Some(mark) = marks.chars().next() {
        let end = marks[1..].find(['@', ':']).map_or(marks.len(), |at| at + 1);
        let value = &marks[1..end];
        // As Ollama writes names that say nothing of it.
        if mark == ':' && value == "latest" {
            marks = &marks[end..];
            continue;
        }
        let place = if mark == '@' { &mut found.revision } else { &mut found.quant };
        if place.is_some() {
            return Err(Error::name(whole, "expected at most one @REVISION and one :QUANT"));
        }
        *place = Some(match mark {
            '@' => checked_revision(whole, value)?,
            _ => checked_quant(whole, value)?,
        });
        marks = &marks[end..];
    }
    Ok(found)
}

pub(crate) fn checked_revision(whole: &str, text: &str) -> Result<String, Error> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let is_plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains("..");
    if text.len() > REVISION_BYTES_MAX || !text.bytes().all(is_known) || !text.split('/').all(is_plain) {
        return Err(Error::name(
            whole,
            format!("expected a branch, tag or commit as revision, found {text:?}"),
        ));
    }
    Ok(text.to_owned())
}

fn checked_quant(whole: &str, text: &str) -> Result<String, Error> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_plain = !text.is_empty() && !text.starts_with('.') && !text.contains("..");
    if !is_plain || text.len() > QUANT_BYTES_MAX || !text.bytes().all(is_known) {
        return Err(Error::name(whole, format!("expected a quantization such as Q4_K_M, found {text:?}")));
    }
    Ok(text.to_owned())
}

fn checked_file(whole: &str, text: &str) -> Result<String, Error> {
    match is_safe_file(text) {
        true => Ok(text.to_owned()),
        false => Err(Error::name(whole, format!("expected a file of the repository, found {text:?}"))),
    }
}

/// Whether a file's name in a repository stays inside of it on every system, and looks like what it is.
pub(crate) fn is_safe_file(name: &str) -> bool {
    // These end lines and turn text around.
    let misleads = |c: char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.ends_with(['.', ' ']) && part.len() <= 255
    };
    name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_control() || misleads(c) || "\\:*?\"<>|".contains(c))
        && name.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories_parse() {
        for (text, repo, revision, quant, file) in [
            ("hf.co/LiquidAI/LFM2-350M-GGUF:latest", "LiquidAI/LFM2-350M-GGUF", None, None, None),
            ("LiquidAI/LFM2-1.2B", "LiquidAI/LFM2-1.2B", None, None, None),
            ("LiquidAI/LFM2-24B-A2B-GGUF:Q4_K_M", "LiquidAI/LFM2-24B-A2B-GGUF", None, Some("Q4_K_M"), None),
            ("hf.co/LiquidAI/LFM2-1.2B-GGUF:q8_0", "LiquidAI/LFM2-1.2B-GGUF", None, Some("q8_0"), None),
            ("a/b@v1.0", "a/b", Some("v1.0"), None, None),
            ("a/b@refs/pr/1:Q8_0", "a/b", Some("refs/pr/1"), Some("Q8_0"), None),
            ("a/b:Q8_0@main", "a/b", Some("main"), Some("Q8_0"), None),
            ("https://huggingface.co/a/b/tree/dev", "a/b", Some("dev"), None, None),
            ("https://huggingface.co/a/b/", "a/b", None, None, None),
            ("https://hf.co/a/b/blob/main/c.gguf?download=true", "a/b", Some("main"), None, Some("c.gguf")),
            ("https://huggingface.co/a/b/resolve/main/x/c.gguf", "a/b", Some("main"), None, Some("x/c.gguf")),
            ("a/b/c.gguf", "a/b", None, None, Some("c.gguf")),
            ("hf://a/b/x/c.gguf@v2", "a/b", Some("v2"), None, Some("x/c.gguf")),
        ] {
            let name = HubName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let found =
                (name.repo.as_str(), name.revision.as_deref(), name.quant.as_deref(), name.file.as_deref());
            assert_eq!(found, (repo, revision, quant, file), "{text}");
            // What is printed is understood again.
            assert_eq!(HubName::parse(&name.to_string()).expect("parses"), name, "{text}");
        }
    }

    #[test]
    fn names_of_ollamas_registry_are_told_from_repositories() {
        for (text, part) in [
            ("ollama.com/library/lfm2.5", "lfm2.5:1.2b"),
            ("https://ollama.com/library/lfm2:24b", "lfm2:24b-a2b"),
            ("registry.ollama.ai/library/lfm2:24b", "lfm2:24b-a2b"),
            ("ollama.com/somebody/model", "undine models"),
        ] {
            let error = HubName::parse(text).expect_err(text).to_string();
            assert!(error.contains("Ollama's registry") && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_with_a_tag_is_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("only.gguf");
        std::fs::write(&file, "").expect("writes");
        let tagged = std::path::PathBuf::from(format!("{}:latest", file.display()));
        assert_eq!(ModelName::parse(&tagged).expect("is there"), ModelName::Path(file));
    }

    #[test]
    fn names_that_could_do_harm_are_refused() {
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/.",
            "a/../../etc",
            "a/b/../../c.gguf",
            "a/b//c.gguf",
            "a/b/c\u{0}.gguf",
            "a/b c",
            "a/b\n",
            "a\\b/c",
            "a--b/c",
            "a/-b",
            "a/b.",
            "a/b@",
            "a/b:",
            "a/b@../x",
            "a/b@x/.git",
            "a/b@a..b",
            "a/b:Q4/K",
            "a/b:Q4:Q5",
            "a/b@x@y",
            "ä/b",
            "https://evil.example/a/b",
            "https://huggingface.co/only",
            "a/b/c:d/e",
            "file:///etc/passwd",
        ] {
            let found = HubName::parse(text);
            assert!(matches!(found, Err(Error::Name { .. })), "{text:?}: {found:?}");
        }
        for (revision, quant) in
            [("../x", "Q4_0"), ("", "Q4_0"), ("a b", "Q4_0"), ("v1", "../Q4"), ("v1", "")]
        {
            let name = HubName::parse("a/b").expect("a name");
            let changed = name.with_revision(revision).and_then(|name| name.with_quant(quant));
            assert!(matches!(changed, Err(Error::Name { .. })), "{revision:?} {quant:?}");
        }
        let long = format!("a/{}", "b".repeat(600));
        assert!(matches!(HubName::parse(&long), Err(Error::Name { .. })));
        for text in ["a/../b", "con\u{1}", "x/", "a:b", "..", "a//b", "c.", "d ", "a\u{202e}b", "a\u{2028}b"]
        {
            assert!(!is_safe_file(text), "{text:?}");
        }
    }

    #[test]
    fn a_path_wins_and_what_looks_like_one_is_no_repository() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert_eq!(ModelName::parse(&here).expect("exists"), ModelName::Path(here));
        for text in ["/no/such/file", "./a/b", "../a/b", "model.gguf", "folder/model.gguf", "~/a/b", "a/b/"] {
            assert!(matches!(ModelName::parse(Path::new(text)), Err(Error::NoFileHere { .. })), "{text}");
        }
        assert!(matches!(ModelName::parse(Path::new("a/b")), Ok(ModelName::Hub(_))));
    }

    #[test]
    fn any_text_is_a_name_or_an_error() {
        let mut random = fastrand::Rng::with_seed(7);
        let words = [
            "a", "b", "/", ":", "@", ".", "..", "-", "ä", "lfm2", "350m", "q4_0", "hf.co/", "tree/", "?",
            "https://",
        ];
        let mut names = 0;
        for _ in 0..100_000 {
            let text: String = (0..random.usize(0..9)).map(|_| words[random.usize(0..words.len())]).collect();
            if let Ok(name) = HubName::parse(&text) {
                names += 1;
                let marks = [&name.revision, &name.quant];
                assert!(marks.into_iter().flatten().all(|mark| !mark.contains("..")), "{text}");
                assert!(name.file.as_deref().is_none_or(is_safe_file), "{text}");
            }
        }
        assert!(names > 1000, "{names}");
    }

    #[test]
    fn misspelt_names_get_suggestions() {
        for (text, expected) in
            [("lfm2.5:1.2", "lfm2.5:1.2b"), ("lfm25:1.2b", "lfm2.5:1.2b"), ("lmf2:350m", "lfm2:350m")]
        {
            let message = HubName::parse(text).expect_err("unknown").to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let message = HubName::parse("qqqqqq").expect_err("unknown").to_string();
        assert!(!message.contains("mean") && message.contains("undine models"), "{message}");
    }
}
