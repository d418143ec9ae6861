//! `undine synth`: a GGUF file of a true shape with random weights, so that anyone can measure without
//! downloading.
//!
//! For a vision model the tower is written beside it, as an mmproj file.
//! Written tensor by tensor, a chunk at a time: a 24B file needs as little memory as a small one.

pub mod plan;
mod random;
pub mod shapes;
mod vision;
mod vocabulary;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use undine_core::VisionConfig;
use undine_quantize::Mix;
use undine_weights::{GgufWriter, TensorDeclaration, Value};

use plan::{Fill, Tensor};
use random::BlockSource;

use crate::args::SynthArgs;
use crate::confirm;
use crate::error::Error;
use crate::format::Bytes;
use crate::output;
use crate::progress::{self, Unit};
use crate::recode::mmproj_path;
use crate::shown::{self, say};

/// Bytes made at a time; whole blocks of every type are cut from it.
const CHUNK_BYTES: usize = 1 << 20;

/// Runs the command.
pub fn run(args: &SynthArgs) -> Result<(), Error> {
    if args.list {
        return list();
    }
    let name =
        args.shape.as_deref().ok_or_else(|| Error::usage("expected a SHAPE; see `undine synth --list`"))?;
    let shape = shapes::find(name)
        .ok_or_else(|| Error::usage(format!("no shape is named {name:?}; see `undine synth --list`")))?;
    let output = args.output.as_deref().ok_or_else(|| Error::usage("expected -o FILE to write to"))?;
    if let Some(note) = &shape.note {
        say!("note: {}: {note}", shape.names[0]);
    }
    confirm::replace(output)?;
    let tower = vision::find(name);
    let own_name = tower.as_ref().map_or(shape.names[0].as_str(), |tower| tower.names[0]);
    let mut metadata = plan::metadata(&shape, own_name, args.mix);
    metadata.extend(vocabulary::metadata(&shape));
    write(&metadata, &plan::tensors(&shape, args.mix), args.seed, output)?;
    if let Some(tower) = tower {
        let metadata = vision::metadata(&tower, args.mix, shape.hidden);
        let tensors = vision::tensors(&tower, args.mix, shape.hidden);
        write(&metadata, &tensors, args.seed, &mmproj_path(output))?;
    }
    Ok(())
}

/// The tensors of a shape's vision tower, if it is asked for by the name of a model that has one.
pub fn tower_tensors(name: &str, shape: &shapes::Shape, mix: Mix) -> Vec<Tensor> {
    vision::find(name).map(|tower| vision::tensors(&tower, mix, shape.hidden)).unwrap_or_default()
}

/// The vision tower of a shape, if it is asked for by the name of a model that has one.
pub fn tower_config(name: &str, shape: &shapes::Shape) -> Option<VisionConfig> {
    vision::find(name).map(|tower| tower.config(shape.hidden))
}

/// Columns that the list takes with all it says.
const LIST_COLUMNS: usize = 72;

fn list() -> Result<(), Error> {
    let mut out = shown::paper();
    let is_narrow = output::columns().is_some_and(|columns| columns < LIST_COLUMNS);
    match is_narrow {
        true => writeln!(out, "{:<16} {:>8}  also", "SHAPE", "params")?,
        false => writeln!(
            out,
            "{:<16} {:>6} {:>6} {:>7} {:>8}  also",
            "SHAPE", "layers", "hidden", "vocab", "params"
        )?,
    }
    for shape in shapes::all().into_iter().filter(|shape| !shape.hidden_from_list) {
        let parameters: usize = plan::tensors(&shape, Mix::F16)
            .iter()
            .map(|tensor| tensor.declaration.shape.iter().product::<usize>())
            .sum();
        let (name, billions, also) = (&shape.names[0], parameters as f64 / 1e9, shape.names[1..].join(", "));
        let (layers, hidden, vocab) = (shape.pattern.len(), shape.hidden, shape.vocab);
        match is_narrow {
            true => writeln!(out, "{name:<16} {billions:>7.2}B")?,
            false => {
                writeln!(out, "{name:<16} {layers:>6} {hidden:>6} {vocab:>7} {billions:>7.2}B  {also}")?;
            }
        }
        if is_narrow && !also.is_empty() {
            writeln!(out, "  {also}")?;
        }
        if let Some(note) = &shape.note {
            let margin = if is_narrow { 2 } else { 17 };
            writeln!(out, "{:margin$}note: {note}", "")?;
        }
    }
    let types: Vec<_> = Mix::ALL.iter().map(|mix| mix.name()).collect();
    writeln!(out, "\ntypes: {}", types.join(", "))?;
    Ok(())
}

/// Writes a file. The same seed gives the same file.
fn write(metadata: &[(String, Value)], tensors: &[Tensor], seed: u64, output: &Path) -> Result<(), Error> {
    let started = Instant::now();
    let declarations: Vec<TensorDeclaration> =
        tensors.iter().map(|tensor| tensor.declaration.clone()).collect();
    let total: u64 = tensors.iter().map(tensor_bytes).sum();
    let progress = progress::bar(total, Unit::Bytes);
    let mut writer = GgufWriter::create(output, metadata, &declarations)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut chunk = vec![0; CHUNK_BYTES];
    for tensor in tensors {
        match tensor.fill {
            Fill::Ones => {
                let ones: Vec<u8> =
                    (0..tensor.declaration.shape[0]).flat_map(|_| 1.0_f32.to_le_bytes()).collect();
                writer.append(&ones)?;
                progress.inc(ones.len() as u64);
            }
            Fill::Random { deviation } => {
                let source = BlockSource::new(tensor.declaration.dtype, deviation);
                let block = tensor.declaration.dtype.block_bytes();
                let whole_blocks = CHUNK_BYTES / block * block;
                let mut left = tensor_bytes(tensor);
                while left > 0 {
                    let part = &mut chunk[..whole_blocks.min(left as usize)];
                    source.fill(&mut random, part);
                    writer.append(part)?;
                    left -= part.len() as u64;
                    progress.inc(part.len() as u64);
                }
            }
        }
    }
    writer.commit()?;
    progress.finish_and_clear();
    say!("wrote {} ({}) in {:.1} s", output.display(), Bytes(total), started.elapsed().as_secs_f64());
    Ok(())
}

/// Size of a tensor in the file.
pub fn tensor_bytes(tensor: &Tensor) -> u64 {
    let TensorDeclaration { shape, dtype, .. } = &tensor.declaration;
    let elems: usize = shape.iter().product();
    (elems / dtype.block_elems() * dtype.block_bytes()) as u64
}
