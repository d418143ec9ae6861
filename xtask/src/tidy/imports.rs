//! Imports point down: the table of which room may know which.

use super::Finding;
use super::files::File;

/// A crate under `crates/`, the crates of the house it may depend on, and outside crates it must never know.
struct Room {
    name: &'static str,
    knows: &'static [&'static str],
    never: &'static [&'static str],
}

/// The house, bottom up. Tests (`dev-dependencies`, `tests/`, `fuzz/`) may use anything.
/// No row but `undine` names a backend.
const ROOMS: [Room; 12] = [
    Room { name: "undine-core", knows: &[], never: &["tokio", "memmap2"] },
    Room { name: "undine-helper", knows: &[], never: &["axum", "tokio"] },
    Room { name: "undine-weights", knows: &["undine-core"], never: &["tokio"] },
    Room { name: "undine-text", knows: &["undine-helper", "undine-core"], never: &["axum", "tokio"] },
    Room { name: "undine-hub", knows: &[], never: &["axum"] },
    Room { name: "undine-image", knows: &["undine-core"], never: &["tokio"] },
    Room { name: "undine-model", knows: &["undine-weights", "undine-core"], never: &["tokio"] },
    Room { name: "undine-cpu", knows: &["undine-model", "undine-weights", "undine-core"], never: &["tokio"] },
    Room { name: "undine-quantize", knows: &["undine-weights", "undine-core"], never: &["tokio"] },
    Room { name: "undine-engine", knows: &["undine-core"], never: &["axum", "tokio", "tokenizers"] },
    Room {
        name: "undine-server",
        knows: &["undine-engine", "undine-text", "undine-image", "undine-core"],
        never: &[],
    },
    Room {
        name: "undine",
        knows: &[
            "undine-server",
            "undine-engine",
            "undine-quantize",
            "undine-hub",
            "undine-cpu",
            "undine-model",
            "undine-text",
            "undine-image",
            "undine-weights",
            "undine-core",
        ],
        never: &[],
    },
];

/// Rule `imports`.
pub fn check_manifest(file: &File, found: &mut Vec<Finding>) {
    let Some(folder) = file.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml"))
    else {
        return;
    };
    let mut report = |line: usize, item: &str, advice: String| {
        found.push(Finding { path: file.path.clone(), line, rule: "imports", item: item.to_owned(), advice });
    };
    let Some(room) = ROOMS.iter().find(|room| room.name == folder) else {
        return report(
            1,
            folder,
            "no such room; add it to the table in xtask/src/tidy/imports.rs".to_owned(),
        );
    };
    for (line, name) in dependencies(&file.text) {
        if name.starts_with("undine") && !room.knows.contains(&name) {
            let known = if room.knows.is_empty() { "nothing".to_owned() } else { room.knows.join(", ") };
            report(line, name, format!("{folder} may import {known}; imports point down only"));
        }
        if room.never.contains(&name) {
            report(line, name, format!("{folder} never knows this; move the code to a room above"));
        }
    }
}

/// Names in the sections of ordinary and build dependencies, renamed ones too, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut names = Vec::new();
    for (number, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        let header = line.strip_prefix('[').and_then(|header| header.strip_suffix(']'));
        let is_name = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if let Some(header) = header {
            // `[dependencies]`, `[target.'cfg(unix)'.dependencies]`, `[dependencies.name]`.
            let (_, tail) = header.rsplit_once("dependencies").unwrap_or(("", "none"));
            let own = !header.contains("dev-dependencies") && !header.starts_with("workspace");
            inside = own && (tail.is_empty() || tail.starts_with('.'));
            names.extend(tail.strip_prefix('.').filter(|_| inside).map(|name| (number + 1, name)));
        } else if inside {
            let words = line.split(is_name).filter(|word| !word.is_empty());
            names.extend(words.map(|name| (number + 1, name)));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_of_dependencies_is_read() {
        let manifest = "[package]\nname = \"undine-core\"\n[dependencies]\na.workspace = true # undine-x\n\
            [dev-dependencies]\nb = \"1\"\n[target.'cfg(unix)'.dependencies]\nc = { package = \"undine-cpu\" }\n\
            [dependencies.d]\nversion = \"1\"\n[dev-dependencies.e]\n[build-dependencies]\nf = \"1\"\n";
        let named: Vec<_> = dependencies(manifest).into_iter().map(|(_, name)| name).collect();
        for (name, expected) in [("a", true), ("b", false), ("undine-cpu", true), ("d", true), ("f", true)] {
            assert_eq!(named.contains(&name), expected, "{name} in {named:?}");
        }
        assert!(!named.iter().any(|name| ["e", "undine-x", "undine-core"].contains(name)), "{named:?}");
    }

    #[test]
    fn rooms_only_know_rooms_below() {
        for (at, room) in ROOMS.iter().enumerate() {
            for known in room.knows {
                assert!(ROOMS[..at].iter().any(|below| below.name == *known), "{} -> {known}", room.name);
            }
        }
    }
}
