//! `cargo xtask dist`: the program as it is given away for this platform, without symbols, and its checksum.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// Most bytes of the program without symbols: every megabyte is a second of somebody's download.
const PROGRAM_BYTES_MAX: u64 = 28 << 20;

/// What was made.
pub struct Made {
    /// The program.
    pub program: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Beside it, in the form of sha256sum.
    pub checksum: PathBuf,
}

/// Builds the program and copies it to `target/dist`, under a name that says its version and its platform.
///
/// # Errors
/// If it cannot be built, is larger than it may be, or cannot be written.
pub fn run(root: &Path) -> io::Result<Made> {
    // The flag is for the last step alone, so that nothing else is compiled again.
    let build = ["rustc", "--release", "--locked", "--package", "undine", "--bin", "undine"];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status =
        Command::new(cargo).args(build).args(["--", "-C", "strip=symbols"]).current_dir(root).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("cargo rustc ended with {status}")));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let built = target.join("release").join(format!("undine{}", std::env::consts::EXE_SUFFIX));
    let program = fs::read(&built)?;
    let bytes = program.len() as u64;
    if bytes > PROGRAM_BYTES_MAX {
        let message = format!(
            "the program has {bytes} bytes of at most {PROGRAM_BYTES_MAX}; find out what made it grow"
        );
        return Err(io::Error::other(message));
    }
    let name = format!(
        "undine-{}-{}-{}{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        std::env::consts::EXE_SUFFIX
    );
    let folder = target.join("dist");
    fs::create_dir_all(&folder)?;
    let made = folder.join(&name);
    // With its permissions.
    fs::copy(&built, &made)?;
    let checksum = folder.join(format!("{name}.sha256"));
    fs::write(&checksum, format!("{}  {name}\n", hex(&Sha256::digest(&program))))?;
    Ok(Made { program: made, bytes, checksum })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_as_sha256sum_writes_them() {
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&Sha256::digest(b"abc")), of_abc);
    }
}
