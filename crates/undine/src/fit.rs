//! `undine fit`: will a model run, on what, and how fast.
//!
//! Memory is what this program's server takes, by the formulas in `fit/memory.rs`; devices are data, in
//! `fit/devices.yaml`; speeds are in `fit/speed.rs`, which says what is an estimate and what a bound.

mod devices;
mod find;
mod finetune;
mod measure;
mod memory;
mod named;
mod picture;
mod report;
mod speed;
mod spelling;
mod subject;
mod text;
mod training_report;
mod verdict;

use std::io::Write;

use undine_cpu::Roofline;

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
    let listed = find::find(&args.devices)?;
    if let Some(method) = args.finetune {
        return training_report::run(&subject, method, listed, args);
    }
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
    let measured = args.measure.then(|| measure::measure(&subject, load)).transpose()?;
    // Asked about other devices, this one is left out unless it is to be measured.
    let here = match &measured {
        Some(measured) => devices::here(Some(&measured.roofline)),
        None if find::wants_here(&args.devices) => devices::here(Some(&Roofline::probe(load.threads)?)),
        None => None,
    };
    let picture = args.svg.as_ref().map(|path| (path, picture::draw(&subject, load, here.as_ref())));
    let devices = here.into_iter().chain(listed).collect();
    let report = Report::new(&subject, load, devices, measured, args);
    if let Some((path, picture)) = picture {
        std::fs::write(path, picture).map_err(|source| Error::file(path, source))?;
    }
    let mut out = shown::paper();
    match (args.json, args.markdown) {
        (true, _) => {
            let json = serde_json::to_string_pretty(&report).expect("numbers and texts are JSON");
            writeln!(shown::stdout(), "{json}")?;
        }
        (_, true) => text::markdown(&mut shown::stdout(), &report)?,
        _ if args.verbose => text::formulas(&mut out, &report)?,
        _ => text::terminal(&mut out, &report)?,
    }
    Ok(())
}
