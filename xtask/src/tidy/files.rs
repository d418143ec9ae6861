//! Which files there are, and the text of those that people write.

use std::io;
use std::path::Path;
use std::process::Command;

/// Files of these kinds are read as text; the rest only counts by its size.
const TEXT_EXTENSIONS: [&str; 8] = ["rs", "toml", "md", "py", "sh", "yml", "jinja", "txt"];
/// Folders of test data and fuzz seeds, whose contents are not prose.
const DATA_FOLDERS: [&str; 2] = ["tests/data/", "fuzz/seeds/"];
/// Without git (a source archive) these folders are skipped by name.
const SKIPPED_FOLDERS: [&str; 6] = [".git", ".venv", "__pycache__", "target", "corpus", "artifacts"];

/// A file of the repository.
pub struct File {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its contents if it is text that people write, else empty.
    pub text: String,
}

impl File {
    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// All files that git tracks or would track; of a source archive all but build outputs.
pub fn list(root: &Path) -> io::Result<Vec<File>> {
    let mut paths = match tracked(root) {
        Some(paths) => paths,
        None => walked(root)?,
    };
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        // A tracked file may have been deleted in the working tree.
        let Ok(metadata) = root.join(&path).symlink_metadata() else { continue };
        let text = if metadata.is_file() && is_text(&path) {
            String::from_utf8_lossy(&std::fs::read(root.join(&path))?).into_owned()
        } else {
            String::new()
        };
        files.push(File { path, bytes: metadata.len(), text });
    }
    Ok(files)
}

fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let wanted = match name.rsplit_once('.') {
        Some((_, extension)) => TEXT_EXTENSIONS.contains(&extension),
        None => path.starts_with(".ci/"),
    };
    wanted && !DATA_FOLDERS.iter().any(|folder| path.starts_with(folder)) && !path.contains("/data/")
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let listing = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| listing.split_terminator('\0').map(str::to_owned).collect())
}

fn walked(root: &Path) -> io::Result<Vec<String>> {
    let mut folders = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                let path = entry.path();
                let inside = path.strip_prefix(root).expect("a walk stays below its root");
                paths.push(inside.to_string_lossy().replace('\\', "/"));
            } else if !SKIPPED_FOLDERS.iter().any(|name| entry.file_name() == *name) {
                folders.push(entry.path());
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_and_a_walk_agree_on_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let sources = |paths: Vec<String>| -> Vec<String> {
            let is_source = |path: &String| path.starts_with("xtask/src/") && path.ends_with(".rs");
            let mut sources: Vec<_> = paths.into_iter().filter(is_source).collect();
            sources.sort_unstable();
            sources
        };
        let walked = sources(walked(root).unwrap());
        let listed = list(root).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(walked, sources(listed));
        assert!(walked.iter().any(|path| path == "xtask/src/tidy/files.rs"), "{walked:?}");
        // In a clone the two sides are two programs.
        assert_eq!(tracked(root).is_some(), root.join(".git").exists(), "git could not be asked");
    }

    #[test]
    fn data_is_not_prose() {
        let wanted = [".ci/run", "README.md", "crates/undine-core/src/lib.rs", "demo/train.py"];
        let unwanted = ["tests/data/a.md", "crates/undine-core/tests/data/quant.txt", "LICENSE", "a.gguf"];
        assert!(wanted.iter().all(|path| is_text(path)));
        assert!(!unwanted.iter().any(|path| is_text(path)));
    }
}
