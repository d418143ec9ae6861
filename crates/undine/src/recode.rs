//! Writing model files: where they may go, whether there is room, a progress bar, and Ctrl-C.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use undine_weights::{Recoding, Source};

use crate::doctor::system::free_bytes;
use crate::error::Error;
use crate::format::Bytes;
use crate::interrupt;
use crate::progress::{self, Unit};
use crate::shown::say;

/// What may be at the place of a new file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Nothing.
    Refuse,
    /// Anything: it is replaced.
    Replace,
}

/// Refuses to write over the source, over a folder, or over a file without leave.
pub fn check_place(input: &Path, output: &Path, existing: Existing) -> Result<(), Error> {
    let same = match (input.canonicalize(), output.canonicalize()) {
        (Ok(input), Ok(output)) => input == output || output.starts_with(&input) && output.is_file(),
        _ => false,
    };
    if same {
        return Err(Error::refused(format!(
            "{}: IN and OUT are the same; choose another OUT",
            output.display()
        )));
    }
    if output.is_dir() {
        return Err(Error::refused(format!("{}: OUT is a folder; expected a file name", output.display())));
    }
    if output.exists() && existing == Existing::Refuse {
        return Err(Error::refused(format!("{} exists; add --force to replace it", output.display())));
    }
    if output.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("gguf")) {
        say!("note: {} does not end in .gguf, by which programs know such files", output.display());
    }
    Ok(())
}

/// Refuses if the file system of `output` has less room than `bytes`.
pub fn check_room(output: &Path, bytes: u64) -> Result<(), Error> {
    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match free_bytes(folder) {
        Some(free) if free < bytes => Err(Error::refused(format!(
            "{}: {} are needed and {} are free on this disk",
            output.display(),
            Bytes(bytes),
            Bytes(free)
        ))),
        _ => Ok(()),
    }
}

/// Writes a file with a progress bar; Ctrl-C leaves nothing behind.
pub fn write(
    source: &Source,
    recodings: &[Recoding],
    file_type: u32,
    output: &Path,
) -> Result<Duration, Error> {
    let started = Instant::now();
    let bar = progress::bar(bytes(source, recodings), Unit::Bytes);
    write_with(source, (recodings, file_type), output, &bar)?;
    bar.finish_and_clear();
    Ok(started.elapsed())
}

fn bytes(source: &Source, recodings: &[Recoding]) -> u64 {
    let tensors = source.tensors().iter().zip(recodings);
    tensors.map(|(tensor, recoding)| tensor.bytes_as(recoding.dtype).unwrap_or(0)).sum()
}

/// The same with a bar that is there; `file` is what becomes of the tensors, and the type that the file
/// names.
pub fn write_with(
    source: &Source,
    file: (&[Recoding], u32),
    output: &Path,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let (recodings, file_type) = file;
    check_room(output, bytes(source, recodings))?;
    let interrupted = interrupt::rearm();
    source
        .write(recodings, file_type, output, |bytes| {
            bar.inc(bytes);
            if interrupted.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .map_err(|error| match error {
            undine_weights::Error::Stopped => {
                bar.finish_and_clear();
                say!("interrupted; {} is not written", output.display());
                Error::Interrupted
            }
            other => other.into(),
        })
}

/// Where the vision tower of a model file goes: beside it, under a name by which it is found.
pub fn mmproj_path(output: &Path) -> PathBuf {
    let name = output.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    output.with_file_name(format!("mmproj-{name}"))
}
