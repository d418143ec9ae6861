//! Short names of published models: `short_names.json`, one line each. To add a model, add a line.
//!
//! A name is a family, a colon, a size and perhaps a variant; a quantization may follow after a hyphen.

use std::sync::OnceLock;

use serde::Deserialize;

use crate::name::{HubName, Repo};
use crate::quant;

const TABLE: &str = include_str!("short_names.json");
/// How similar a name must be to be suggested (Jaro and Winkler's measure, 1 being equal).
const SIMILARITY_MIN: f64 = 0.8;
/// What Ollama has as a family of its own and is a variant here.
const VARIANTS: [&str; 1] = ["-thinking"];
/// Sizes that Ollama says shorter.
const SIZES: [(&str, &str); 2] = [("8b", "8b-a1b"), ("24b", "24b-a2b")];
/// Names suggested, at most.
const NEAREST_MAX: usize = 3;

/// A line of the table.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortName {
    /// Such as `lfm2.5:1.2b-thinking`.
    pub name: String,
    /// A repository of GGUF files.
    pub repo: String,
    /// Parameters of the language model.
    pub parameters: u64,
    /// Those that compute a token, if not all do: of a mixture of experts, the shared ones and those of the
    /// chosen experts.
    #[serde(default)]
    pub active: Option<u64>,
    /// About how large the file with the vision tower is, if there is one.
    #[serde(default)]
    pub mmproj_bytes: u64,
}

impl ShortName {
    /// About how many bytes a file of this model has in a quantization; `None` for one that is not known.
    pub fn bytes(&self, quant: &str) -> Option<u64> {
        let bits = quant::bits_per_weight(quant)?;
        Some((self.parameters as f64 * bits / 8.0) as u64 + self.mmproj_bytes)
    }

    /// About how many bytes of it are read for a token.
    pub fn bytes_per_token(&self, quant: &str) -> Option<u64> {
        let bits = quant::bits_per_weight(quant)?;
        Some((self.active.unwrap_or(self.parameters) as f64 * bits / 8.0) as u64)
    }
}

/// The table.
pub fn short_names() -> &'static [ShortName] {
    static NAMES: OnceLock<Vec<ShortName>> = OnceLock::new();
    NAMES.get_or_init(|| serde_json::from_str(TABLE).expect("a test reads the table"))
}

/// The short name of a repository.
pub fn of_repo(repo: &Repo) -> Option<&'static str> {
    let found = short_names().iter().find(|known| known.repo.eq_ignore_ascii_case(repo.as_str()));
    found.map(|known| known.name.as_str())
}

/// The repository and quantization that a short name means.
pub(crate) fn find(text: &str) -> Option<Result<HubName, crate::Error>> {
    let (text, revision) = match text.split_once('@') {
        Some((text, revision)) => (text, Some(crate::name::checked_revision(text, revision))),
        None => (text, None),
    };
    let lower = in_own_words(&text.to_ascii_lowercase());
    let hub_name = |known: &ShortName, quant: Option<&str>| {
        Ok(HubName {
            repo: Repo::parse(&known.repo)?,
            revision: revision.transpose()?,
            quant: quant.map(str::to_ascii_uppercase),
            file: None,
        })
    };
    if let Some(known) = short_names().iter().find(|known| known.name == lower) {
        return Some(hub_name(known, None));
    }
    let (known, quant) = short_names().iter().find_map(|known| {
        let rest = lower.strip_prefix(&known.name)?;
        let quant = rest.strip_prefix(['-', ':'])?;
        quant::is_known(quant).then_some((known, quant))
    })?;
    Some(hub_name(known, Some(quant)))
}

/// A name as Ollama has it in the words of the table: `lfm2.5-thinking:1.2b`, `lfm2:24b`,
/// `lfm2.5:1.2b-instruct-q8_0`, and `:latest`, which says nothing.
fn in_own_words(lower: &str) -> String {
    let lower = lower.strip_prefix("library/").unwrap_or(lower);
    let lower = lower.strip_suffix(":latest").unwrap_or(lower);
    let (family, tag) = lower.split_once(':').unwrap_or((lower, ""));
    let (family, variant) =
        match VARIANTS.iter().find_map(|variant| Some((family.strip_suffix(variant)?, *variant))) {
            Some((family, variant)) => (family, variant),
            None => (family, ""),
        };
    let tag = tag.replace("-instruct", "").replace("-fp16", "-f16");
    let (size, rest) =
        tag.split_once('-').map_or((tag.as_str(), String::new()), |(size, rest)| (size, format!("-{rest}")));
    let is_named = |name: &str| short_names().iter().any(|known| known.name == name);
    let size = match size {
        "" if !variant.is_empty() => "1.2b",
        size => SIZES
            .iter()
            .find(|(short, _)| *short == size && !rest.starts_with("-a"))
            .map_or(size, |(_, long)| long),
    };
    match is_named(&format!("{family}:{size}{variant}")) {
        true => format!("{family}:{size}{variant}{rest}"),
        false => lower.to_owned(),
    }
}

/// Sizes of a family, for a name that has none.
pub(crate) fn sizes_of(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    let family = lower.split(':').next().unwrap_or_default();
    let of_family = short_names().iter().filter(|known| known.name.split(':').next() == Some(family));
    of_family.map(|known| known.name.clone()).collect()
}

/// Short names and repositories that look like `text`, best first.
pub(crate) fn nearest(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    let last = |repo: &str| repo.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let score = |known: &ShortName| {
        let repo = if text.contains('/') { known.repo.to_ascii_lowercase() } else { last(&known.repo) };
        let plain = repo.strip_suffix("-gguf").unwrap_or(&repo);
        [known.name.as_str(), &repo, plain]
            .map(|name| strsim::jaro_winkler(name, &lower))
            .into_iter()
            .fold(0.0, f64::max)
    };
    let mut scored: Vec<(f64, &ShortName)> =
        short_names().iter().map(|known| (score(known), known)).collect();
    scored.retain(|(score, _)| *score >= SIMILARITY_MIN);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = |known: &ShortName| if text.contains('/') { known.repo.clone() } else { known.name.clone() };
    scored.into_iter().take(NEAREST_MAX).map(|(_, known)| shown(known)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let names = short_names();
        assert!(names.len() > 20);
        for (at, known) in names.iter().enumerate() {
            Repo::parse(&known.repo).expect("a repository");
            assert!(
                known.name.contains(':') && known.name == known.name.to_ascii_lowercase(),
                "{}",
                known.name
            );
            assert!(
                names[..at].iter().all(|other| other.name != known.name && other.repo != known.repo),
                "{}",
                known.name
            );
            let size = known.bytes("Q4_K_M").expect("a size");
            assert!((100_000_000..20_000_000_000).contains(&size), "{}: {size}", known.name);
        }
    }

    #[test]
    fn short_names_mean_repositories() {
        for (text, repo, quant) in [
            ("lfm2.5:1.2b", "LiquidAI/LFM2.5-1.2B-Instruct-GGUF", None),
            ("LFM2.5:1.2B", "LiquidAI/LFM2.5-1.2B-Instruct-GGUF", None),
            ("lfm2.5:8b-a1b-q4_k_m", "LiquidAI/LFM2.5-8B-A1B-GGUF", Some("Q4_K_M")),
            ("lfm2.5:8b-a1b:q8_0", "LiquidAI/LFM2.5-8B-A1B-GGUF", Some("Q8_0")),
            ("lfm2.5:1.2b-thinking-q4_0", "LiquidAI/LFM2.5-1.2B-Thinking-GGUF", Some("Q4_0")),
            ("lfm2-vl:450m", "LiquidAI/LFM2-VL-450M-GGUF", None),
            ("lfm2.5:1.2b:latest", "LiquidAI/LFM2.5-1.2B-Instruct-GGUF", None),
            ("lfm2.5:1.2b-instruct-q8_0", "LiquidAI/LFM2.5-1.2B-Instruct-GGUF", Some("Q8_0")),
            ("lfm2.5-thinking", "LiquidAI/LFM2.5-1.2B-Thinking-GGUF", None),
            ("lfm2.5-thinking:latest", "LiquidAI/LFM2.5-1.2B-Thinking-GGUF", None),
            ("lfm2.5-thinking:1.2b", "LiquidAI/LFM2.5-1.2B-Thinking-GGUF", None),
            ("lfm2.5-thinking:1.2b-q4_K_M", "LiquidAI/LFM2.5-1.2B-Thinking-GGUF", Some("Q4_K_M")),
            ("lfm2:24b", "LiquidAI/LFM2-24B-A2B-GGUF", None),
            ("lfm2:24b-a2b-q4_K_M", "LiquidAI/LFM2-24B-A2B-GGUF", Some("Q4_K_M")),
            ("lfm2.5:8b", "LiquidAI/LFM2.5-8B-A1B-GGUF", None),
            ("lfm2.5:8b-q8_0", "LiquidAI/LFM2.5-8B-A1B-GGUF", Some("Q8_0")),
        ] {
            let name = HubName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((name.repo.as_str(), name.quant.as_deref()), (repo, quant), "{text}");
        }
        assert_eq!(HubName::parse("lfm2:350m@v1").expect("parses").revision(), "v1");
        for text in [
            "lfm2",
            "lfm2:latest",
            "lfm2.5:latest",
            "lfm2:",
            "lfm2:350m-",
            "lfm2:350m-nonsense",
            "lfm2:350m@../x",
            "lfm9:1b",
        ] {
            assert!(HubName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_about_those_of_published_files() {
        for (name, quant, bytes) in [
            ("lfm2.5:8b-a1b", "Q4_K_M", 5.16e9),
            ("lfm2.5:8b-a1b", "Q8_0", 9.01e9),
            ("lfm2.5:8b-a1b", "BF16", 16.9e9),
            ("lfm2:24b-a2b", "Q4_0", 13.5e9),
            ("lfm2:24b-a2b", "Q5_K_M", 16.9e9),
            ("lfm2:24b-a2b", "Q6_K", 19.6e9),
            ("lfm2.5:2.6b", "Q8_0", 2.875e9),
        ] {
            let known = short_names().iter().find(|known| known.name == name).expect("is listed");
            let found = known.bytes(quant).expect("a size") as f64;
            assert!((found / bytes - 1.0).abs() < 0.03, "{name} {quant}: {found}");
        }
    }
}
