//! `undine convert`: between a Hugging Face folder and GGUF, without loss.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::json;
use undine_core::DType;
use undine_weights::{Checkpoint, FolderTypes, Recoding, Source, SourceTensor, write_folder};

use crate::args_quantize::{ConvertArgs, FloatType};
use crate::error::Error;
use crate::format::Bytes;
use crate::progress::{self, Unit};
use crate::recode::{Existing, check_place, check_room, mmproj_path, write};
use crate::shown::{self, say};
use crate::{hub, interrupt, memory};

/// Runs the command.
pub fn run(args: &ConvertArgs) -> Result<(), Error> {
    let started = Instant::now();
    interrupt::install()?;
    let is_gguf = args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let written = if is_gguf { to_gguf(args)? } else { vec![to_folder(args)?] };
    let seconds = started.elapsed().as_secs_f64();
    for (path, bytes) in &written {
        say!("wrote {} ({}) in {seconds:.1} s", path.display(), Bytes(*bytes));
    }
    if args.json {
        let files = written.iter().map(|(path, bytes)| json!({"output": path, "bytes": bytes}));
        let report = json!({
            "input": args.input,
            "files": files.collect::<Vec<_>>(),
            "seconds": seconds,
            "peak_memory_bytes": memory::peak_bytes(),
        });
        writeln!(shown::stdout(), "{report}")?;
    }
    Ok(())
}

/// What was asked for, if it names a type.
fn wanted(args: &ConvertArgs) -> Option<DType> {
    match args.float_type {
        FloatType::Auto => None,
        FloatType::F32 => Some(DType::F32),
        FloatType::F16 => Some(DType::F16),
        FloatType::Bf16 => Some(DType::BF16),
    }
}

/// The type a matrix is written in.
fn float_of(args: &ConvertArgs, name: &str, found: DType) -> Result<DType, Error> {
    if !found.is_float() && !args.dequantize {
        return Err(Error::refused(format!(
            "tensor {name} is {found}, which would be written as floats that have lost what {found} lost; \
             add --dequantize if that is what you want"
        )));
    }
    Ok(wanted(args).unwrap_or(if found.is_float() { found } else { DType::F16 }))
}

fn existing(args: &ConvertArgs) -> Existing {
    if args.force { Existing::Replace } else { Existing::Refuse }
}

fn to_gguf(args: &ConvertArgs) -> Result<Vec<(PathBuf, u64)>, Error> {
    if args.mmproj.is_some() {
        return Err(Error::usage(
            "--mmproj is for a folder: a GGUF file of a model has its vision tower beside it",
        ));
    }
    let input = hub::locate(&args.input)?;
    let (source, tower) = Source::open(&input).map_err(|error| Error::model(&input, error))?;
    source.notes().iter().for_each(|note| say!("note: {note}"));
    let tower = tower.filter(|_| !args.no_mmproj);
    let mut files = vec![(source, args.output.clone())];
    files.extend(tower.map(|tower| (tower, mmproj_path(&args.output))));
    for (_, path) in &files {
        check_place(&args.input, path, existing(args))?;
    }
    let mut written = Vec::new();
    for (source, path) in files {
        // Blocks made from another program's packing are as good as what they are made from.
        let kept = source.is_packed() && !args.dequantize && wanted(args).is_none();
        let choose = |tensor: &SourceTensor| match tensor.is_matrix() {
            true if kept => Ok(Recoding::plain(tensor.dtype())),
            true => float_of(args, &tensor.name, tensor.dtype()).map(Recoding::plain),
            false => Ok(Recoding::plain(tensor.kept_dtype())),
        };
        let recodings = source.tensors().iter().map(choose).collect::<Result<Vec<_>, Error>>()?;
        write(&source, &recodings, source.file_type(&recodings), &path)?;
        let bytes = std::fs::metadata(&path).map_err(|error| Error::file(&path, error))?.len();
        written.push((path, bytes));
    }
    Ok(written)
}

/// The float type of a part of a folder: that of its largest matrix, unless --type says otherwise.
fn part_type(args: &ConvertArgs, source: &Source) -> Result<DType, Error> {
    let matrices = || source.tensors().iter().filter(|tensor| tensor.is_matrix());
    if let Some(tensor) = matrices().find(|tensor| !tensor.dtype().is_float()) {
        return float_of(args, &tensor.name, tensor.dtype());
    }
    let largest = matrices().max_by_key(|tensor| values(tensor));
    Ok(wanted(args).or(largest.map(SourceTensor::dtype)).unwrap_or(DType::F32))
}

fn values(tensor: &SourceTensor) -> u64 {
    tensor.rows() as u64 * tensor.cols() as u64
}

fn to_folder(args: &ConvertArgs) -> Result<(PathBuf, u64), Error> {
    let out = args.output.as_path();
    check_folder(out, existing(args))?;
    let input = hub::locate(&args.input)?;
    let checkpoint = match &args.mmproj {
        Some(mmproj) => Checkpoint::open_with_mmproj(&input, mmproj),
        None => Checkpoint::open(&input),
    };
    let checkpoint = checkpoint.map_err(|error| Error::model(&input, error))?;
    checkpoint.repairs().iter().for_each(|note| say!("note: {note}"));
    let language = Source::language(&checkpoint)?;
    let tower = if args.no_mmproj { None } else { Source::vision(&checkpoint)? };
    let types = FolderTypes {
        language: part_type(args, &language)?,
        tower: tower.as_ref().map(|tower| part_type(args, tower)).transpose()?,
    };
    let bytes = |source: &Source, dtype: DType| {
        source.tensors().iter().map(values).sum::<u64>() * dtype.block_bytes() as u64
    };
    let of_tower = tower.as_ref().zip(types.tower).map_or(0, |(tower, dtype)| bytes(tower, dtype));
    let total = bytes(&language, types.language) + of_tower;
    check_room(out, total)?;
    let bar = progress::bar(total, Unit::Bytes);
    let interrupted = interrupt::rearm();
    let stop = || {
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let written = write_folder(&checkpoint, types, out, |bytes| {
        bar.inc(bytes);
        stop()
    });
    match written {
        Err(undine_weights::Error::Stopped) => {
            bar.finish_and_clear();
            say!("interrupted; {} is not written", out.display());
            return Err(Error::Interrupted);
        }
        other => other?,
    }
    bar.finish_and_clear();
    Ok((out.to_owned(), total))
}

/// Refuses to write into a folder that holds something without leave, or over a file.
fn check_folder(out: &Path, existing: Existing) -> Result<(), Error> {
    if out.exists() && !out.is_dir() {
        let reason = format!("{} is a file; expected a folder, or a name that ends in .gguf", out.display());
        return Err(Error::refused(reason));
    }
    let is_empty = std::fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && existing == Existing::Refuse {
        let reason = format!("{} is not empty; add --force to replace the files in it", out.display());
        return Err(Error::refused(reason));
    }
    Ok(())
}
