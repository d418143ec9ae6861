//! Every rule with a sample that breaks it and one that does not.

use super::check_file;
use super::files::File;

const CORE: &str = "crates/undine-core/src/a.rs";
const ROOT: &str = "crates/undine-core/src/lib.rs";
const CPU: &str = "crates/undine-cpu/src/a.rs";
const KERNEL: &str = "crates/undine-cpu/src/kernels/a.rs";
const MAP: &str = "crates/undine-weights/src/map.rs";

/// What tidy finds in one file, as `rule:line`.
fn rules(path: &str, text: &str) -> Vec<String> {
    let file = File { path: path.to_owned(), bytes: text.len() as u64, text: text.to_owned() };
    check_file(&file).iter().map(|finding| format!("{}:{}", finding.rule, finding.line)).collect()
}

fn check(cases: &[(&str, &str, &[&str])]) {
    for (path, text, expected) in cases {
        assert_eq!(rules(path, text), *expected, "{path}:\n{text}");
    }
}

/// A source file with a module doc and `lines` lines in all, `function` of them one function.
fn long(lines: usize, function: usize) -> String {
    let body = "    x();\n".repeat(function - 2);
    let rest = "// .\n".repeat(lines - function - 1);
    format!("//! Doc.\nfn f() {{\n{body}}}\n{rest}")
}

#[test]
fn lengths() {
    let (lfm2, recorder) = ("crates/undine-model/src/lfm2.rs", "crates/undine-model/src/recorder.rs");
    let executor = "crates/undine-core/src/executor.rs";
    check(&[
        (CORE, &long(500, 70), &[]),
        (CORE, &long(501, 70), &["file-length:501"]),
        (CORE, &long(500, 71), &["function-length:2"]),
        (KERNEL, &long(800, 120), &[]),
        (KERNEL, &long(801, 121), &["file-length:801", "function-length:2"]),
        ("crates/undine-cpu/src/simd/x86.rs", &long(800, 120), &[]),
        (CPU, &long(501, 71), &["file-length:501", "function-length:2"]),
        (lfm2, &long(301, 10), &["file-length:301"]),
        (recorder, &long(151, 10), &["file-length:151"]),
        (executor, &long(101, 10), &["file-length:101"]),
    ]);
    let mut file = File { path: "a.gguf".to_owned(), bytes: 6 << 20, text: String::new() };
    assert_eq!(check_file(&file), []);
    file.bytes += 1;
    assert_eq!(check_file(&file)[0].rule, "file-bytes");
}

#[test]
fn comments_are_no_wider_than_code() {
    let comment =
        |prefix: &str, width: usize| format!("//! Doc.\n{prefix}{}\n", "x".repeat(width - prefix.len()));
    check(&[
        (CORE, &comment("    /// ", 110), &[]),
        (CORE, &comment("    /// ", 111), &["comment-width:2"]),
        (CORE, &comment("//! ", 111), &["comment-width:2"]),
        (CORE, &comment("//! | ", 200), &[]),
        (CORE, &comment("// https://", 200), &[]),
        (CORE, &comment("const A: &str = \"\"; // ", 111), &[]),
    ]);
}

#[test]
fn imports() {
    let (engine, undine) = ("crates/undine-engine/Cargo.toml", "crates/undine/Cargo.toml");
    let server = "crates/undine-server/Cargo.toml";
    check(&[
        (engine, "[dependencies]\nundine-core.workspace = true\n", &[]),
        (engine, "[dependencies]\nundine-text.workspace = true\n", &["imports:2"]),
        (engine, "[dependencies]\ntokio.workspace = true\n", &["imports:2"]),
        (engine, "[dev-dependencies]\nundine-cpu.workspace = true\n", &[]),
        (
            server,
            "[dependencies]\nbackend = { package = \"undine-cpu\", path = \"../undine-cpu\" }\n",
            &["imports:2", "imports:2"],
        ),
        (undine, "[dependencies]\nundine-cpu.workspace = true\n", &[]),
        ("tests/Cargo.toml", "[dependencies]\nundine-cpu.workspace = true\n", &[]),
        ("crates/undine-attic/Cargo.toml", "[package]\n", &["imports:1"]),
    ]);
}

#[test]
fn unsafe_rooms_and_roots() {
    let block = "//! Doc.\nfn f() {\n    // SAFETY: nothing is touched.\n    unsafe { g() }\n}\n";
    let weights = "crates/undine-weights/src/lib.rs";
    check(&[
        (CORE, block, &["unsafe-room:4"]),
        (CPU, block, &[]),
        (MAP, block, &[]),
        ("crates/undine-weights/src/gguf.rs", block, &["unsafe-room:4"]),
        (CORE, "//! No `unsafe` here: \"unsafe\".\nconst A: &str = \"unsafe { }\";\n", &[]),
        (ROOT, "//! Doc.\n#![forbid(unsafe_code)]\n", &[]),
        (ROOT, "//! Doc.\n// #![forbid(unsafe_code)]\n", &["unsafe-root:1"]),
        (weights, "//! Doc.\n#![deny(unsafe_code)]\n", &[]),
        (weights, "//! Doc.\n", &["unsafe-root:1"]),
        ("crates/undine-cpu/src/lib.rs", "//! Doc.\n", &[]),
        ("xtask/src/main.rs", "//! Doc.\n", &["unsafe-root:1"]),
    ]);
}

#[test]
fn unsafe_notes() {
    check(&[
        (CPU, "//! Doc.\nfn f() {\n    unsafe { g() }\n}\n", &["unsafe-note:3"]),
        (CPU, "//! Doc.\n// SAFETY: far away.\nfn f() {\n    unsafe { g() }\n}\n", &["unsafe-note:4"]),
        (CPU, "//! Doc.\n// SAFETY: a lock.\nlet a =\n    unsafe { g() };\n", &[]),
        (
            CPU,
            "//! Doc.\n// SAFETY: a.\nlet a = unsafe { g() };\nlet b = unsafe { g() };\n",
            &["unsafe-note:4"],
        ),
        (CPU, "//! Doc.\nlet a = unsafe { g() }; // SAFETY: a lock.\n", &[]),
        (CPU, "//! Doc.\nunsafe impl Sync for A {}\n", &["unsafe-note:2"]),
        (CPU, "//! Doc.\n// SAFETY: a lock.\nunsafe impl Sync for A {}\n", &[]),
        (CPU, "//! Doc.\nunsafe fn f() {}\n", &["unsafe-note:2"]),
        (CPU, "//! Doc.\n/// # Safety\n/// Readable.\n#[inline]\npub unsafe fn f() {}\n", &[]),
        (CPU, "//! Doc.\nimpl A for B {\n    fn g() { h() }\n    unsafe fn f() {}\n}\n", &[]),
        (CPU, "//! Doc.\nimpl B {\n    fn g() { h() }\n    unsafe fn f() {}\n}\n", &["unsafe-note:4"]),
        (CPU, "//! Doc.\nstruct A(unsafe fn(u8));\n", &[]),
        (CPU, "//! Doc.\nunsafe trait A {}\n", &["unsafe-note:2"]),
        (CPU, "//! Doc.\n#[unsafe(no_mangle)]\nfn f() {}\n", &["unsafe-note:2"]),
    ]);
}

#[test]
fn words() {
    let mark = concat!("//! Doc.\n// FIX", "ME: later\n");
    let marks = concat!("# XX", "X\nXX", "XL\n");
    let path = concat!("//! Doc.\nconst A: &str = \"/wo", "rk/a\";\n");
    let folder = concat!("See [b](../sha", "red/b), net/wo", "rk/c and a/../sha", "red.\n");
    check(&[
        (CORE, "//! Doc.\nfn f() { todo!() }\n", &["banned-word:2"]),
        (CORE, "//! Doc.\nfn f() { unimplemented!(\"\") }\n", &["banned-word:2"]),
        (CORE, "//! Doc.\nfn f() { dbg!(1); }\n", &["banned-word:2"]),
        (CORE, "//! Never todo!().\nconst A: &str = \"dbg!\";\n", &[]),
        (CORE, mark, &["banned-word:2"]),
        ("README.md", marks, &["banned-word:1"]),
        (CORE, "//! Doc.\nstruct BlockManager;\n", &["type-name:2"]),
        (
            CORE,
            "//! Doc.\npub(crate) enum Helper {}\ntrait StringUtils {}\n",
            &["type-name:2", "type-name:3"],
        ),
        (CORE, "//! Doc.\nimpl rustyline::Helper for A {}\nstruct Helpful;\n", &[]),
        ("demo/a.py", "class TokenManager:\n", &["type-name:1"]),
        (CORE, "//! Doc.\n#[ignore]\nfn f() {}\n", &["ignore-reason:2"]),
        (CORE, "//! Doc.\n#[ignore = \"a measurement\"]\nfn f() {}\n", &[]),
        (CORE, path, &["leaked-path:2"]),
        ("README.md", folder, &["leaked-path:1"]),
    ]);
}

#[test]
fn gates_docs_and_blanks() {
    let gate = "//! Doc.\n#[cfg(all(unix, feature = \"a\"))]\nfn f() {}\n";
    check(&[
        (CORE, gate, &["feature-gate:2"]),
        ("crates/undine/src/a.rs", "//! Doc.\nfn f() { eprintln!(\"{x}\") }\n", &["raw-output:2"]),
        ("crates/undine/src/a.rs", "//! Doc.\nfn f() { say!(\"{x}\"); writeln!(out)?; }\n", &[]),
        (CORE, "//! Doc.\nfn f() { println!() }\n", &[]),
        ("crates/undine/src/a.rs", gate, &[]),
        (CPU, "//! Doc.\n#[target_feature(enable = \"avx2\")]\nfn f() {}\n", &[]),
        (CORE, "fn f() {}\n", &["module-doc:1"]),
        (CORE, "//! Doc. \n", &["trailing-space:1"]),
        ("README.md", "a\t\nb\n", &["trailing-space:1"]),
        (CORE, "", &["module-doc:1"]),
    ]);
}
