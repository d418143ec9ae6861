//! `undine fit`: will a model run, on what, and how fast.
//!
//! Memory is what this program's server takes, by the formulas in `fit/memory.rs`; devices are data, in
//! `fit/devices.yaml`; speeds are in `fit/speed.rs`, which says what is an estimate and what a bound.

mod devices;
mod measure;
mod memory;
mod picture;
mod report;
mod speed;
mod subject;
mod text;

use std::io::Write;

use crate::args_fit::FitArgs;
use crate::error::Error;
use crate::session;
use crate::shown;
use memory::Load;
use report::Report;
use subject::Subject;

pub use speed::BANDWIDTH_SHARE;

/// Tokens of a sequence unless asked for otherwise.
const CONTEXT_DEFAULT: u32 = 4096;

/// Runs the command.
pub fn run(args: &FitArgs) -> Result<(), Error> {
    let subject = Subject::find(args.model.as_deref(), args.mix)?;
    let model = u32::try_from(subject.config.context_max).unwrap_or(u32::MAX);
    let context = match args.context {
        Some(asked) if asked > model => {
            return Err(Error::refused(format!(
                "--context {asked} is more than the model's context of {model} tokens"
            )));
        }
        Some(asked) => asked,
        None => model.min(CONTEXT_DEFAULT),
    };
    let load = Load {
        users: args.users,
        context,
        kv: session::kv_type_for(&args.executor, || subject.chosen.is_float()),
        threads: session::threads(&args.executor),
        tower: subject.tower(&subject.chosen),
    };
    let listed = devices::find(&args.device)?;
    let measured = args.measure.then(|| measure::measure(&subject, load)).transpose()?;
    let roofline = measured.as_ref().map(|measured| &measured.roofline);
    // Asked about other devices, this one is left out unless it has been measured.
    let here = devices::here(roofline).filter(|_| args.device.is_empty() || args.measure);
    let devices = here.into_iter().chain(listed).collect();
    let report = Report::new(&subject, load, devices, measured, args);
    if let Some(path) = &args.svg {
        let picture = picture::draw(&subject, load);
        std::fs::write(path, picture).map_err(|source| Error::file(path, source))?;
    }
    let mut out = shown::stdout();
    match (args.json, args.markdown) {
        (true, _) => {
            let json = serde_json::to_string_pretty(&report).expect("numbers and texts are JSON");
            writeln!(out, "{json}")?;
        }
        (_, true) => text::markdown(&mut out, &report)?,
        _ => text::terminal(&mut out, &report)?,
    }
    Ok(())
}
