//! `undine quantize`: a model in smaller types.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use undine_quantize::{Mix, Options, Plan, plan};
use undine_weights::{Imatrix, Source};

use crate::args_quantize::{ImatrixSource, QuantizeArgs};
use crate::error::Error;
use crate::eval::measures::Mean;
use crate::format::{Bytes, grouped};
use crate::recode::{Existing, check_place, mmproj_path, write};
use crate::shown::{self, say};
use crate::target::{self, Goal};
use crate::{calibrate, hub, interrupt, memory, output};

/// One file to write.
struct Job {
    source: Source,
    plan: Plan,
    mix: Mix,
    /// `None` when nothing is to be written.
    output: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs) -> Result<(), Error> {
    let output = if args.dry_run { None } else { args.output.clone() };
    let automatic = args.imatrix == Some(ImatrixSource::Auto) && args.target.target().is_none();
    if args.target.text.is_some() && args.target.target().is_none() && !automatic {
        return Err(Error::usage("--text is for --target-size, --target-kl and --imatrix auto"));
    }
    let input = hub::locate(&args.input)?;
    let (source, tower) = Source::open(&input).map_err(|error| Error::model(&input, error))?;
    source.notes().iter().for_each(|note| say!("note: {note}"));
    let mut imatrix = args.imatrix.as_ref().and_then(ImatrixSource::file).map(open_imatrix).transpose()?;
    let mut options = Options {
        mix: args.mix,
        pure: args.pure,
        output_type: args.output_tensor_type,
        embedding_type: args.token_embedding_type,
        overrides: args.tensor_type.clone(),
    };
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    if let Some(output) = &output {
        check_place(&args.input, output, existing)?;
    }
    interrupt::install()?;
    // Targets make one from their text anyway.
    if automatic {
        imatrix = Some(calibrate::automatic(&args.input, args.target.text.as_deref(), args.target.threads)?);
    }
    let chosen = match args.target.target() {
        Some(target) => {
            let (input, output) = (args.input.as_path(), output.as_deref());
            let goal = Goal { target, input, source: &source, options: &options, output };
            Some(target::choose(&args.target, goal, imatrix.take())?)
        }
        None => None,
    };
    options = chosen.as_ref().map_or(options, |chosen| chosen.options.clone());
    let imatrix = chosen.as_ref().map(|chosen| &chosen.imatrix).or(imatrix.as_ref());
    let made = plan(&source, &options, imatrix)?;
    let mut jobs = vec![Job { source, plan: made, mix: options.mix, output }];
    if let Some(tower) = tower {
        let output = jobs[0].output.as_deref().map(mmproj_path);
        let mix = args.mmproj_type.unwrap_or(if args.mix.base().is_float() { args.mix } else { Mix::Q8_0 });
        let made = plan(&tower, &Options::new(mix), None)?;
        jobs.push(Job { source: tower, plan: made, mix, output });
    } else if args.mmproj_type.is_some() {
        say!("note: --mmproj-type has no effect: {} has no vision tower", args.input.display());
    }
    for output in jobs.iter().skip(1).filter_map(|job| job.output.as_deref()) {
        check_place(&args.input, output, existing)?;
    }
    for note in jobs.iter().flat_map(|job| &job.plan.notes) {
        say!("note: {note}");
    }
    let seconds = jobs.iter().try_fold(0.0, |sum, job| Ok::<_, Error>(sum + write_job(job)?))?;
    let divergence = match (&chosen, &jobs[0].output) {
        (Some(chosen), Some(output)) => Some(chosen.verify(output)?),
        _ => None,
    };
    if let Some(Mean { value, error }) = divergence {
        say!("mean KL from {}: {value:.6} +/- {error:.6} nats per token", args.input.display());
    }
    match (args.json, args.dry_run) {
        (true, _) => report_json(args, &jobs, seconds, divergence),
        (false, true) => jobs.iter().try_for_each(report),
        (false, false) => Ok(()),
    }
}

/// Writes a job's file and says so; returns the seconds it took.
fn write_job(job: &Job) -> Result<f64, Error> {
    let Some(output) = &job.output else { return Ok(0.0) };
    let elapsed = write(&job.source, &job.plan.recodings, job.plan.file_type, output)?.as_secs_f64();
    let (before, after) = (bytes_before(&job.source), job.plan.bytes(&job.source));
    say!("wrote {} ({}, was {}) in {elapsed:.1} s", output.display(), Bytes(after), Bytes(before));
    Ok(elapsed)
}

fn open_imatrix(path: &Path) -> Result<Imatrix, Error> {
    Imatrix::open(path).map_err(|error| Error::model(path, error))
}

fn bytes_before(source: &Source) -> u64 {
    source.tensors().iter().map(|tensor| tensor.bytes_as(tensor.dtype()).unwrap_or(0)).sum()
}

fn values(source: &Source) -> u64 {
    source.tensors().iter().map(|tensor| tensor.rows() as u64 * tensor.cols() as u64).sum()
}

fn bits_per_weight(job: &Job) -> f64 {
    8.0 * job.plan.bytes(&job.source) as f64 / values(&job.source) as f64
}

/// Columns of what stands beside a tensor's name, where there is room for it.
const BESIDE_COLUMNS: usize = 50;

/// A line for each tensor and a total.
fn report(job: &Job) -> Result<(), Error> {
    let mut out = shown::paper();
    let tensors = job.source.tensors();
    let names: Vec<String> = tensors.iter().map(|tensor| shown::line(&tensor.name)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let is_narrow = output::columns().is_some_and(|columns| columns < width + BESIDE_COLUMNS);
    for ((tensor, name), recoding) in tensors.iter().zip(names).zip(&job.plan.recodings) {
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        if is_narrow {
            let size = Bytes(tensor.bytes_as(recoding.dtype).unwrap_or(0));
            writeln!(out, "{name}: {} -> {}, {size}", tensor.dtype(), recoding.dtype)?;
            continue;
        }
        writeln!(
            out,
            "{name:width$}  {:>18}  {:>6} -> {:<6}  {:>10}",
            shape.join(" x "),
            tensor.dtype(),
            recoding.dtype,
            Bytes(tensor.bytes_as(recoding.dtype).unwrap_or(0))
        )?;
    }
    writeln!(
        out,
        "{}: {} values, {} -> {}, {:.2} bits per value",
        job.mix,
        grouped(values(&job.source)),
        Bytes(bytes_before(&job.source)),
        Bytes(job.plan.bytes(&job.source)),
        bits_per_weight(job)
    )?;
    Ok(())
}

fn report_json(
    args: &QuantizeArgs,
    jobs: &[Job],
    seconds: f64,
    divergence: Option<Mean>,
) -> Result<(), Error> {
    let file = |job: &Job| -> Json {
        let tensors = job.source.tensors().iter().zip(&job.plan.recodings).map(|(tensor, recoding)| {
            json!({
                "name": tensor.name,
                "shape": tensor.shape,
                "from": tensor.dtype().name(),
                "type": recoding.dtype.name(),
                "bytes": tensor.bytes_as(recoding.dtype),
            })
        });
        json!({
            "output": job.output,
            "type": job.mix.name(),
            "bytes_before": bytes_before(&job.source),
            "bytes": job.plan.bytes(&job.source),
            "bits_per_weight": bits_per_weight(job),
            "notes": job.plan.notes,
            "tensors": tensors.collect::<Vec<_>>(),
        })
    };
    let report = json!({
        "input": args.input,
        "files": jobs.iter().map(file).collect::<Vec<_>>(),
        "seconds": seconds,
        "kl": divergence.map(|kl| json!({ "value": kl.value, "error": kl.error })),
        "peak_memory_bytes": memory::peak_bytes(),
    });
    writeln!(shown::stdout(), "{report}")?;
    Ok(())
}
