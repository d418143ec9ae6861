//! Repository chores: `cargo xtask tidy`, `cargo xtask soak`, `cargo xtask dist`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

mod dist;
mod soak;
mod tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => run_tidy(),
        ["dist"] => run_dist(),
        ["soak", ref flags @ ..] => run_soak(flags),
        _ => {
            eprintln!(
                "usage: cargo xtask tidy\n       cargo xtask dist\n       cargo xtask soak {}",
                soak::USAGE
            );
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> ExitCode {
    let start = Instant::now();
    match tidy::check_repository(repository()) {
        Ok(report) => {
            report.findings.iter().for_each(|finding| println!("{finding}"));
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("tidy: {} files, {} findings, {seconds:.2} s", report.files, report.findings.len());
            ExitCode::from(u8::from(!report.findings.is_empty()))
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_dist() -> ExitCode {
    match dist::run(repository()) {
        Ok(made) => {
            println!("{} ({} bytes)\n{}", made.program.display(), made.bytes, made.checksum.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dist: {error}");
            ExitCode::from(1)
        }
    }
}

fn run_soak(flags: &[&str]) -> ExitCode {
    match soak::run(repository(), flags) {
        Ok(broken) if broken.is_empty() => {
            eprintln!("soak: every promise was kept");
            ExitCode::SUCCESS
        }
        Ok(broken) => {
            broken.iter().for_each(|promise| eprintln!("soak: broken: {promise}"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// The folder of the workspace, wherever cargo was called from.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let report = crate::tidy::check_repository(super::repository()).unwrap();
        let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
        assert!(report.files > 100, "only {} files found", report.files);
    }
}
