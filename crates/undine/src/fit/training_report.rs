//! What `undine fit --finetune` says.

use std::io::Write;

use serde::Serialize;

use super::devices::{self, Device};
use super::find;
use super::finetune::{self, Experts, Training, TrainingDemand};
use super::subject::Subject;
use super::text::Table;
use super::verdict::{self, Judged, Mark, WELL_SHARE};
use crate::args_fit::{Finetune, FitArgs, Sort};
use crate::error::Error;
use crate::format::{Bytes, grouped};
use crate::shown;

/// Every matrix, as a target.
const ALL_LINEAR: &str = "all-linear";

/// What is said.
#[derive(Serialize)]
struct TrainingReport {
    verdict: String,
    model: String,
    parameters: u64,
    rank: u32,
    tokens: u32,
    training: TrainingDemand,
    devices: Vec<TrainingFit>,
}

/// Training on a device.
#[derive(Serialize)]
struct TrainingFit {
    #[serde(flatten)]
    device: Device,
    fits: bool,
    runs: Mark,
}

/// Sizes fine-tuning and says what it takes.
pub fn run(subject: &Subject, method: Finetune, listed: Vec<Device>, args: &FitArgs) -> Result<(), Error> {
    let experts = if args.train_experts { Experts::Trained } else { Experts::Frozen };
    let training = Training {
        method,
        rank: args.rank,
        tokens: args.tokens.into(),
        // As PEFT calls what is the default here.
        targets: args
            .targets
            .iter()
            .filter(|target| !target.eq_ignore_ascii_case(ALL_LINEAR))
            .cloned()
            .collect(),
        experts,
    };
    let demand = TrainingDemand::new(&subject.config, subject.parameters, &training)?;
    let here = if find::wants_here(&args.devices) { devices::here(None) } else { None };
    let fit = |device: Device| {
        let runs = Mark::new(demand.total_bytes, &device, None);
        TrainingFit { fits: runs != Mark::No, runs, device }
    };
    let mut devices: Vec<TrainingFit> = here.into_iter().chain(listed).map(fit).collect();
    match args.sort {
        Some(Sort::Name) => devices.sort_by_key(|fit| fit.device.name.to_lowercase()),
        Some(Sort::Memory) => devices.sort_by_key(|fit| std::cmp::Reverse(fit.device.usable_bytes)),
        Some(Sort::Speed | Sort::Price) => {
            return Err(Error::usage("--sort: fine-tuning is sized and not timed; expected memory or name"));
        }
        None => {}
    }
    let judged: Vec<Judged<'_>> =
        devices.iter().map(|fit| Judged { device: &fit.device, mark: fit.runs, decode: None }).collect();
    let smaller = (method == Finetune::Full)
        .then_some("adapters take less: --finetune lora")
        .or((method == Finetune::Lora).then_some("4 bits take less: --finetune qlora; so do fewer --tokens"));
    let verdict = verdict::line(demand.total_bytes, &judged, smaller);
    let report = TrainingReport {
        verdict,
        model: subject.name.clone(),
        parameters: subject.parameters,
        rank: args.rank,
        tokens: args.tokens,
        training: demand,
        devices,
    };
    write(&report, args)
}

fn write(report: &TrainingReport, args: &FitArgs) -> Result<(), Error> {
    // Rows of a table for machines stay whole on a narrow terminal.
    let mut out: Box<dyn Write> = match args.markdown {
        true => Box::new(shown::stdout()),
        false => Box::new(shown::paper()),
    };
    if args.json {
        let json = serde_json::to_string_pretty(report).expect("numbers and texts are JSON");
        writeln!(shown::stdout(), "{json}")?;
        return Ok(());
    }
    writeln!(out, "{}", report.verdict)?;
    let training = &report.training;
    writeln!(
        out,
        "{}: {} of {} parameters, {} tokens in flight",
        report.model,
        training.method,
        grouped(report.parameters),
        grouped(report.tokens.into())
    )?;
    writeln!(out, "{}", finetune::trained_line(training))?;
    match args.verbose {
        true => {
            for term in &training.terms {
                writeln!(out, "{:<12} {:>10}  {}", term.name, Bytes(term.bytes).to_string(), term.formula)?;
            }
        }
        false => writeln!(out, "{} (-v: formulas)", finetune::terms_line(training))?,
    }
    writeln!(out)?;
    let row = |fit: &TrainingFit| {
        let usable = Bytes(fit.device.usable_bytes).to_string();
        vec![fit.device.name.clone(), fit.runs.name().to_owned(), usable]
    };
    let table = Table {
        head: ["device", "runs", "for models"].map(str::to_owned).to_vec(),
        rows: report.devices.iter().map(row).collect(),
        main: 2,
    };
    match args.markdown {
        true => table.write_markdown(&mut out)?,
        false => table.write(&mut out)?,
    }
    writeln!(
        out,
        "runs: well with at most {:.0}% of the memory for models, tight if it fits otherwise; undine itself does not train",
        100.0 * WELL_SHARE
    )?;
    Ok(())
}
