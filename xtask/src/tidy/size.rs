//! Caps on files, functions and comments.

use super::Finding;
use super::files::File;
use super::source::{Line, is_word, word_at};

/// Largest file in git, so that a clone stays small.
const FILE_BYTES_MAX: u64 = 6 << 20;
/// Lines of a source file.
const FILE_LINES_MAX: usize = 500;
/// Lines of a kernel file.
const KERNEL_FILE_LINES_MAX: usize = 800;
/// Lines of a function, from its `fn` to its last brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a function in a kernel file.
const KERNEL_FUNCTION_LINES_MAX: usize = 120;
/// Folders of kernel files.
const KERNEL_FOLDERS: [&str; 2] = ["crates/undine-cpu/src/kernels/", "crates/undine-cpu/src/simd/"];
/// Files that are kept shorter than others: the model and the two seams.
const SHORT_FILES: [(&str, usize); 3] = [
    ("crates/undine-model/src/lfm2.rs", 300),
    ("crates/undine-model/src/recorder.rs", 150),
    ("crates/undine-core/src/executor.rs", 100),
];

/// Characters of a line of comment: as many as rustfmt gives to code.
const COMMENT_WIDTH_MAX: usize = 110;

/// Rule `comment-width`. Rows of tables and addresses cannot be broken.
pub fn check_comments(file: &File, found: &mut Vec<Finding>) {
    for (number, line) in file.text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
        let text = comment.trim_start_matches(['/', '!']).trim_start();
        let width = line.chars().count();
        if width > COMMENT_WIDTH_MAX && !text.starts_with('|') && !text.contains("://") {
            found.push(Finding {
                path: file.path.clone(),
                line: number + 1,
                rule: "comment-width",
                item: String::new(),
                advice: format!("{width} characters of at most {COMMENT_WIDTH_MAX}; go on in the next line"),
            });
        }
    }
}

/// Rule `file-bytes`.
pub fn check_bytes(file: &File, found: &mut Vec<Finding>) {
    if file.bytes > FILE_BYTES_MAX {
        found.push(Finding {
            path: file.path.clone(),
            line: 1,
            rule: "file-bytes",
            item: String::new(),
            advice: format!(
                "{} bytes of at most {FILE_BYTES_MAX}; generate it or make it smaller",
                file.bytes
            ),
        });
    }
}

/// Rules `file-length` and `function-length`.
pub fn check_lengths(file: &File, lines: &[Line], found: &mut Vec<Finding>) {
    let is_kernel = KERNEL_FOLDERS.iter().any(|folder| file.path.starts_with(folder));
    let short = SHORT_FILES.iter().find(|(path, _)| *path == file.path);
    let (file_max, function_max) = match (short, is_kernel) {
        (Some(&(_, lines_max)), _) => (lines_max, FUNCTION_LINES_MAX),
        (None, true) => (KERNEL_FILE_LINES_MAX, KERNEL_FUNCTION_LINES_MAX),
        (None, false) => (FILE_LINES_MAX, FUNCTION_LINES_MAX),
    };
    if lines.len() > file_max {
        found.push(Finding {
            path: file.path.clone(),
            line: file_max + 1,
            rule: "file-length",
            item: String::new(),
            advice: format!("{} lines of at most {file_max}; split it at a concept", lines.len()),
        });
    }
    for function in functions(lines) {
        if function.lines > function_max {
            found.push(Finding {
                path: file.path.clone(),
                line: function.line,
                rule: "function-length",
                advice: format!("{} lines of at most {function_max}; give a part a name", function.lines),
                item: function.name,
            });
        }
    }
}

struct Function {
    name: String,
    /// Of its `fn`, from 1.
    line: usize,
    lines: usize,
}

/// Every function with a body, nested ones and those in macros too.
fn functions(lines: &[Line]) -> Vec<Function> {
    let mut functions = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        for at in word_at(&line.code, "fn") {
            let name: String = line.code[at + 2..]
                .trim_start()
                .chars()
                .take_while(|&c| is_word(c) || c == '$' || c == '#')
                .collect();
            // Without a name it is a type: `fn(u32) -> u32`.
            if !name.is_empty()
                && let Some(last) = last_line(lines, first, at)
            {
                functions.push(Function { name, line: first + 1, lines: last - first + 1 });
            }
        }
    }
    functions
}

/// The line with the brace that ends the body of the function at `lines[first].code[at..]`.
fn last_line(lines: &[Line], first: usize, at: usize) -> Option<usize> {
    let (mut parentheses, mut braces) = (0i32, 0i32);
    for (number, line) in lines.iter().enumerate().skip(first) {
        let from = if number == first { at } else { 0 };
        for c in line.code[from..].chars() {
            match c {
                '(' | '[' => parentheses += 1,
                ')' | ']' => parentheses -= 1,
                '{' => braces += 1,
                '}' => {
                    braces -= 1;
                    if braces <= 0 {
                        return (braces == 0).then_some(number);
                    }
                }
                ';' if parentheses == 0 && braces == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::source::split;
    use super::*;

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "
/// Doc.
#[inline]
pub fn one(a: [u8; 4]) -> u8 {
    a[0]
}
trait T { fn declared(&self); fn given(&self) -> u8 { 1 } }
fn outer() {
    fn inner() {}
    let pointer: fn(u8) = |_| {};
}
macro_rules! m { ($name:ident) => {
    fn $name() {
    }
} }
";
        let found: Vec<(String, usize)> =
            functions(&split(text)).into_iter().map(|function| (function.name, function.lines)).collect();
        let expected = [("one", 3), ("given", 1), ("outer", 4), ("inner", 1), ("$name", 2)];
        assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
    }
}
