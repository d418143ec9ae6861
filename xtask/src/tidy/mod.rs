//! The rules of the house that a program can check.
//!
//! Each rule is a function from a [`File`] to [`Finding`]s. Rust is read through [`source`], which separates
//! code from comments and blanks strings, so that a rule never trips over a word inside a text. Exceptions:
//! see [`exceptions`].

mod exceptions;
mod files;
mod imports;
mod safety;
mod size;
mod source;
mod words;

use std::fmt;
use std::io;
use std::path::Path;

use files::File;

/// Where the exceptions are, from the repository's root.
pub const EXCEPTIONS_PATH: &str = "xtask/tidy-exceptions.txt";

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// From the repository's root, with `/`.
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    /// The rule's name, as in the exceptions file.
    pub rule: &'static str,
    /// What in the file breaks it (a function, a word), empty if it is the file itself.
    pub item: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, item, advice } = self;
        let item = if item.is_empty() { String::new() } else { format!("`{item}`: ") };
        write!(f, "{path}:{line}: {rule}: {item}{advice}")
    }
}

/// What a run of tidy saw.
pub struct Report {
    /// How many files were looked at.
    pub files: usize,
    /// Broken rules that no exception covers, by path and line.
    pub findings: Vec<Finding>,
}

/// Checks every file that git tracks or would track.
pub fn check_repository(root: &Path) -> io::Result<Report> {
    let files = files::list(root)?;
    let exceptions = std::fs::read_to_string(root.join(EXCEPTIONS_PATH))?;
    let findings = exceptions::apply(&exceptions, files.iter().flat_map(check_file).collect());
    Ok(Report { files: files.len(), findings })
}

/// All rules on one file.
fn check_file(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    size::check_bytes(file, &mut found);
    words::check_text(file, &mut found);
    // What makes the data of tests is no room of the house.
    if file.path.contains("/data/") {
        return found;
    }
    if file.name() == "Cargo.toml" {
        imports::check_manifest(file, &mut found);
    }
    if file.path.ends_with(".rs") {
        let lines = source::split(&file.text);
        size::check_lengths(file, &lines, &mut found);
        size::check_comments(file, &mut found);
        safety::check_unsafe(file, &lines, &mut found);
        words::check_rust(file, &lines, &mut found);
    }
    found
}

#[cfg(test)]
mod tests;
