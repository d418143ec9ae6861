//! Where `unsafe` may stand, and that it says why it is sound.

use super::Finding;
use super::files::File;
use super::source::{Line, word_at};

/// Files and folders where `unsafe` may stand: the backend, and the one mapping of a file.
const UNSAFE_ROOMS: [&str; 2] = ["crates/undine-cpu/", "crates/undine-weights/src/map.rs"];
/// Crate roots that cannot forbid `unsafe` altogether, and what they must say instead.
const ROOTS: [(&str, Option<&str>); 2] = [
    ("crates/undine-cpu/src/lib.rs", None),
    ("crates/undine-weights/src/lib.rs", Some("#![deny(unsafe_code)]")),
];

/// Rules `unsafe-root`, `unsafe-room` and `unsafe-note`.
pub fn check_unsafe(file: &File, lines: &[Line], found: &mut Vec<Finding>) {
    let mut report = |line: usize, rule: &'static str, item: &str, advice: &str| {
        found.push(Finding {
            path: file.path.clone(),
            line: line + 1,
            rule,
            item: item.to_owned(),
            advice: advice.to_owned(),
        });
    };
    if is_crate_root(&file.path) {
        let own = ROOTS.iter().find(|(path, _)| *path == file.path);
        let wanted = own.map_or(Some("#![forbid(unsafe_code)]"), |(_, wanted)| *wanted);
        if let Some(wanted) = wanted.filter(|wanted| !lines.iter().any(|line| line.code.trim() == *wanted)) {
            report(0, "unsafe-root", "", &format!("say {wanted} at the top"));
        }
    }
    let allowed = UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room));
    for (number, line) in lines.iter().enumerate() {
        for at in word_at(&line.code, "unsafe") {
            let site = Site::at(lines, number, at);
            if !allowed {
                report(
                    number,
                    "unsafe-room",
                    "",
                    "only the backends and undine-weights/src/map.rs may be unsafe",
                );
            }
            let advice = match site {
                Site::FnPointer => continue,
                Site::Declaration if has_note(lines, number, "# Safety") => continue,
                Site::Declaration if in_trait_impl(lines, number, at) => continue,
                Site::Declaration => "say above it, under `# Safety`, what the caller must ensure",
                Site::Use if has_note(lines, number, "SAFETY:") => continue,
                Site::Use => "say above it, after `SAFETY:`, which obligation there is and who meets it",
            };
            report(number, "unsafe-note", "", advice);
        }
    }
}

fn is_crate_root(path: &str) -> bool {
    let in_crate =
        path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || path.contains("/src/bin/");
    in_crate && path.split('/').filter(|part| *part == "src").count() == 1
}

/// What an `unsafe` does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Site {
    /// Lays a duty on others: `unsafe fn`, `unsafe trait`.
    Declaration,
    /// Claims to have met a duty: a block, an `impl`, an `extern` block, an attribute.
    Use,
    /// A type that only repeats a declaration's word.
    FnPointer,
}

impl Site {
    /// Of the word at `lines[number].code[at..]`; what follows it may stand on the next line.
    fn at(lines: &[Line], number: usize, at: usize) -> Self {
        let tail = lines[number].code[at + "unsafe".len()..].trim_start();
        let next = lines.get(number + 1).map_or("", |line| line.code.trim_start());
        let mut tail = if tail.is_empty() { next } else { tail };
        if let Some(abi) = tail.strip_prefix("extern") {
            // `unsafe extern "C" fn`; the name of the ABI is blanked.
            tail = abi.trim_start().trim_start_matches('"').trim_start();
        }
        match tail.strip_prefix("fn") {
            Some(rest) if rest.trim_start().starts_with('(') => Self::FnPointer,
            Some(rest) if rest.starts_with(char::is_whitespace) => Self::Declaration,
            _ if tail.starts_with("trait") => Self::Declaration,
            _ => Self::Use,
        }
    }
}

/// Whether a comment with `note` stands on the line or above the statement it belongs to.
fn has_note(lines: &[Line], number: usize, note: &str) -> bool {
    if lines[number].comment.contains(note) {
        return true;
    }
    let mut above_statement = false;
    for line in lines[..number].iter().rev() {
        let code = line.code.trim();
        if line.comment.contains(note) && (code.is_empty() || !above_statement) {
            return true;
        }
        let is_comment = code.is_empty() && !line.comment.trim().is_empty();
        let is_attribute = code.starts_with("#[");
        above_statement |= is_comment || is_attribute;
        let continues = !above_statement && !code.is_empty() && !code.ends_with([';', '{', '}', ',']);
        if !(is_comment || is_attribute || continues) {
            return false;
        }
    }
    false
}

/// Whether the place lies directly in `impl Trait for Type { }`: then the trait states the contract.
fn in_trait_impl(lines: &[Line], number: usize, at: usize) -> bool {
    let mut depth = 0;
    let mut header = String::new();
    for (n, line) in lines[..=number].iter().enumerate().rev() {
        let code = if n == number { &line.code[..at] } else { &line.code[..] };
        for c in code.chars().rev() {
            match c {
                '}' if depth <= 0 => depth -= 1,
                '{' if depth < 0 => depth += 1,
                '{' if depth == 0 => depth = 1,
                '{' | '}' | ';' if depth == 1 => return is_trait_impl(&header),
                _ if depth == 1 => header.insert(0, c),
                _ => {}
            }
        }
        if depth == 1 {
            header.insert(0, ' ');
        }
    }
    depth == 1 && is_trait_impl(&header)
}

fn is_trait_impl(header: &str) -> bool {
    !word_at(header, "impl").is_empty() && !word_at(header, "for").is_empty()
}
