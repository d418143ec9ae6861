//! Files and folders that a mistyped path may have meant.

use std::path::{Path, PathBuf};

/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 1 << 12;
/// How similar a name must be to be suggested (Jaro and Winkler's measure, 1 being equal).
const SIMILARITY_MIN: f64 = 0.82;
/// Names suggested, at most.
const NEAREST_MAX: usize = 3;

/// Paths that look like `path`, which does not exist, best first. The nearest folder on its way that exists
/// is searched for the part after it.
pub fn near_files(path: &Path) -> Vec<String> {
    let mut folder = path;
    let mut missing = None;
    while let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
        missing = Some(name);
        folder = parent;
        if folder.as_os_str().is_empty() || folder.is_dir() {
            break;
        }
    }
    let Some(missing) = missing.map(|name| name.to_string_lossy().to_lowercase()) else { return Vec::new() };
    let shown = |entry: PathBuf| if folder.as_os_str().is_empty() { entry } else { folder.join(entry) };
    let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(place).into_iter().flatten().take(ENTRIES_MAX).flatten();
    let mut scored: Vec<(f64, String)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
            let is_model = entry.path().is_dir() || is_weights(&name);
            is_model
                .then(|| (score(&missing, &name.to_lowercase()), shown(name.into()).display().to_string()))
        })
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.truncate(NEAREST_MAX);
    scored.into_iter().map(|(_, name)| name).collect()
}

fn is_weights(name: &str) -> bool {
    let lower = name.to_lowercase();
    lower.ends_with(".gguf") || lower.ends_with(".safetensors")
}

/// How alike two names are, with and without their endings.
fn score(asked: &str, found: &str) -> f64 {
    let stem = |name: &str| name.strip_suffix(".gguf").map(str::to_owned);
    let without = stem(found).map_or(0.0, |found| strsim::jaro_winkler(asked, &found));
    strsim::jaro_winkler(asked, found).max(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_paths_lead_to_what_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        std::fs::create_dir(root.join("models")).expect("a folder");
        for name in ["LFM2-1.2B-Q4_K_M.gguf", "LFM2-350M-Q8_0.gguf", "notes.txt"] {
            std::fs::write(root.join("models").join(name), "x").expect("writes");
        }
        for (asked, expected) in [
            ("models/LFM2-1.2B-Q4_K_S.gguf", Some("models/LFM2-1.2B-Q4_K_M.gguf")),
            ("models/lfm2-350m-q8_0", Some("models/LFM2-350M-Q8_0.gguf")),
            ("modles/LFM2-1.2B-Q4_K_M.gguf", Some("models")),
            ("models/zzz.gguf", None),
            ("models/note.txt", None),
            ("/", None),
        ] {
            let found = near_files(&root.join(asked));
            let expected = expected.map(|expected| root.join(expected).display().to_string());
            assert_eq!(found.first(), expected.as_ref(), "{asked}: {found:?}");
        }
    }
}
