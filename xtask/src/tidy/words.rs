//! Words that must not stand in the repository, and the first line of every source file.

use super::Finding;
use super::files::File;
use super::source::{Line, is_word, word_at};

/// Macros of unfinished work.
const BANNED_MACROS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
/// Macros that write a text as it is, in the room where texts from outside are shown.
const RAW_OUTPUT: [&str; 4] = ["eprintln!", "eprint!", "println!", "print!"];
/// The sources of that room.
const SHOWING: &str = "crates/undine/src/";
/// Marks of unfinished work; in pieces, so that this file does not hold them.
const BANNED_MARKS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];
/// Places that exist on one machine only; in pieces for the same reason.
const BANNED_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/opt", "/und"), concat!("../sha", "red")];
/// Endings of names that do not say what a thing is.
const BANNED_ENDINGS: [&str; 3] = ["Manager", "Helper", "Utils"];
/// Words that declare a type.
const DECLARATIONS: [&str; 6] = ["struct", "enum", "union", "trait", "type", "class"];

/// Rules `leaked-path`, `trailing-space`, and outside of Rust `banned-word` and `type-name`.
pub fn check_text(file: &File, found: &mut Vec<Finding>) {
    let is_rust = file.path.ends_with(".rs");
    for (number, line) in file.text.lines().enumerate() {
        for &path in BANNED_PATHS.iter().filter(|path| has_path(line, path)) {
            report(
                file,
                number,
                "leaked-path",
                path,
                "exists on one machine only; copy what is needed",
                found,
            );
        }
        if line.ends_with([' ', '\t']) {
            report(file, number, "trailing-space", "", "remove the blanks at the end", found);
        }
        if !is_rust {
            check_marks(file, number, line, found);
        }
        if file.path.ends_with(".py") {
            check_declarations(file, number, line, found);
        }
    }
}

/// Rules `banned-word`, `type-name`, `ignore-reason`, `feature-gate`, `raw-output` and `module-doc`.
pub fn check_rust(file: &File, lines: &[Line], found: &mut Vec<Finding>) {
    if !file.text.starts_with("//!") {
        report(file, 0, "module-doc", "", "begin the file with a `//!` line that says what it is for", found);
    }
    let may_gate = file.path.starts_with("crates/undine/");
    for (number, line) in lines.iter().enumerate() {
        check_marks(file, number, &line.comment, found);
        check_declarations(file, number, &line.code, found);
        for word in BANNED_MACROS.iter().filter(|word| !word_at(&line.code, word).is_empty()) {
            report(file, number, "banned-word", word, "finish the work or return an error", found);
        }
        let raw = RAW_OUTPUT
            .iter()
            .filter(|word| file.path.starts_with(SHOWING) && !word_at(&line.code, word).is_empty());
        for word in raw {
            let advice =
                "use shown::say! or shown::stdout(), which let no text from outside steer a terminal";
            report(file, number, "raw-output", word, advice, found);
        }
        for at in word_at(&line.code, "ignore") {
            let (before, after) = (line.code[..at].trim_end(), line.code[at + "ignore".len()..].trim_start());
            if before.ends_with("#[") && !after.starts_with('=') {
                report(file, number, "ignore-reason", "", "say why: #[ignore = \"reason\"]", found);
            }
        }
        let gated = word_at(&line.code, "feature")
            .iter()
            .any(|at| line.code[at + "feature".len()..].trim_start().starts_with('='));
        if gated && !may_gate {
            report(file, number, "feature-gate", "", "only crates/undine chooses by feature", found);
        }
    }
}

fn check_marks(file: &File, number: usize, text: &str, found: &mut Vec<Finding>) {
    for mark in BANNED_MARKS.iter().filter(|mark| !word_at(text, mark).is_empty()) {
        report(file, number, "banned-word", mark, "mend it now or open an issue", found);
    }
}

fn check_declarations(file: &File, number: usize, code: &str, found: &mut Vec<Finding>) {
    for declaration in DECLARATIONS {
        for at in word_at(code, declaration) {
            let tail = code[at + declaration.len()..].trim_start();
            let name = &tail[..tail.find(|c| !is_word(c)).unwrap_or(tail.len())];
            if BANNED_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                report(file, number, "type-name", name, "name it after what it is", found);
            }
        }
    }
}

/// Whether `path` begins in `line` where a path can begin: a longer word before it makes it another path.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c| is_word(c) || c == '.' || c == '}'))
}

fn report(
    file: &File,
    number: usize,
    rule: &'static str,
    item: &str,
    advice: &str,
    found: &mut Vec<Finding>,
) {
    found.push(Finding {
        path: file.path.clone(),
        line: number + 1,
        rule,
        item: item.to_owned(),
        advice: advice.to_owned(),
    });
}
