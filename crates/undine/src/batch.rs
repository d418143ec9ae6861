//! `undine batch`: a file of requests to a file of results, through the server's own routes, without a
//! network.
//!
//! Invariant: a line of results is written whole or cut off by the next run, and a request whose line is
//! there is never run again. So whatever ends a run, the next one loses and repeats nothing that has been
//! written.

pub mod input;
mod progress;
mod results;
mod work;

use std::io::Write;
use std::path::Path;

use undine_server::{InProcess, RequestLog, ServerConfig};

use crate::args_batch::BatchArgs;
use crate::args_serve::{LogArgs, LogFormat, LogLevel};
use crate::error::Error;
use crate::serve::Signals;
use crate::serve_load::LoadPlan;
use crate::shown::{self, say};
use crate::{logging, runtime, session};
use input::Survey;
use progress::Summary;
use results::{Results, State};
use work::{Ended, Job};

/// Requests in flight beyond those that are computed at once.
const CONCURRENCY_BESIDE: u32 = 16;
/// Most requests in flight, whatever is asked for: each is in memory.
const CONCURRENCY_MAX: u32 = 1 << 16;

/// Runs the command.
pub fn run(args: &BatchArgs) -> Result<(), Error> {
    logging::start(&LogArgs {
        level: LogLevel::Warning,
        format: LogFormat::Text,
        disable_log_requests: true,
    });
    let plan = LoadPlan::new(&args.load)?;
    for (flag, path) in [("--output", Some(&args.output)), ("--error-file", args.error_file.as_ref())] {
        let is_input = path.is_some_and(|path| is_same_file(path, &args.input));
        if is_input {
            return Err(Error::usage(format!("{flag} {}: it is the input", args.input.display())));
        }
    }
    if args.error_file.as_ref().is_some_and(|path| is_same_file(path, &args.output)) {
        return Err(Error::usage(
            "--error-file: it is the output; leave it out to have all results in one file",
        ));
    }
    let survey = Survey::of(&args.input, plan.names())?;
    let state = State {
        input_sha256: survey.sha256.clone(),
        model: plan.name().to_owned(),
        error_file: args.error_file.clone(),
    };
    let results = match args.restart {
        true => Results::begin(&args.output, &state)?,
        false => Results::resume(&args.output, &state)?,
    };
    let mut summary = Summary::new(survey.requests, results.kept());
    if summary.left() == 0 {
        return finish(args, &summary);
    }
    let runtime = runtime::new(session::threads(&args.load.executor))?;
    let ended = runtime.block_on(answer(args, plan, results, &mut summary));
    runtime.shutdown_background();
    if ended? == Ended::Interrupted {
        say!(
            "stopped: {} of {} requests are done; the same command goes on with the others",
            summary.done(),
            summary.requests
        );
        return Err(Error::Interrupted);
    }
    finish(args, &summary)
}

/// Whether two paths lead to one file, which may not be there yet.
fn is_same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}

async fn answer(
    args: &BatchArgs,
    plan: LoadPlan,
    results: Results,
    summary: &mut Summary,
) -> Result<Ended, Error> {
    let signals = Signals::new()?;
    let media = args.load.media.config()?;
    let config = ServerConfig { request_log: RequestLog::Off, media, ..ServerConfig::default() };
    let load = Box::new(move || plan.load(Box::new(|_| ())).map_err(Into::into));
    let api = InProcess::start(load, config).await?;
    let concurrency =
        args.concurrency.unwrap_or(args.load.limits.max_num_seqs.saturating_add(CONCURRENCY_BESIDE));
    let concurrency = concurrency.min(CONCURRENCY_MAX) as usize;
    let job = Job { input: &args.input, output: &args.output, concurrency, results, summary };
    job.run(api, signals).await
}

fn finish(args: &BatchArgs, summary: &Summary) -> Result<(), Error> {
    let mut out = shown::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary.report()).expect("numbers are JSON"))?;
    } else {
        writeln!(out, "{}; results in {}", summary.line(), args.output.display())?;
    }
    Ok(())
}
