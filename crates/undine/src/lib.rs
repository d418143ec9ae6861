//! Undine: run, serve and measure LFM2 models. Typed arguments, one match, an exit code.
//!
//! A library only so that the fuzz targets reach what it reads from outside: see [`fuzzing`].
#![forbid(unsafe_code)]

mod answer;
mod args;
mod args_access;
mod args_batch;
mod args_bench;
mod args_calibrate;
mod args_doctor;
mod args_eval;
mod args_fit;
mod args_hub;
mod args_media;
mod args_quantize;
mod args_serve;
mod args_target;
mod args_vision;
mod asked;
mod batch;
mod bench;
mod calibrate;
mod calls;
mod chat;
mod command;
mod confirm;
mod conversation;
mod convert;
mod doctor;
mod dragged;
mod editor;
mod error;
mod eval;
mod fit;
mod foreign;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod help;
mod helpers;
#[cfg(unix)]
mod hidden_words;
mod hub;
mod inspect;
mod interrupt;
mod logging;
mod memory;
mod model_files;
mod open;
mod output;
mod pictures;
mod progress;
mod quantize;
mod recode;
mod run;
mod runtime;
mod sampling;
mod serve;
mod serve_config;
mod serve_hello;
mod serve_load;
#[cfg(unix)]
mod serve_socket;
mod session;
mod shown;
mod synth;
mod target;
mod template;
mod text_file;
mod work;
mod wrap;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser};
use undine_hub::Access;

use crate::args::{Cli, Command};
use crate::error::Error;
use crate::foreign::Rewritten;
use crate::shown::say;

/// The program: its exit code.
pub fn main() -> ExitCode {
    if helpers::is_one() {
        return undine_text::helper::serve();
    }
    std::panic::set_hook(Box::new(shown::tell_panic));
    // What waits to be written is part of the answer: a disk that is full at the last line is a failure too.
    let written = |()| std::io::stdout().flush().map_err(Error::output);
    match run().and_then(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                Error::BrokenPipe | Error::Interrupted | Error::Advice => {}
                Error::Arguments(error) => shown::tell_usage(error),
                error => say!("error: {}", error.chain()),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<(), Error> {
    let words: Vec<OsString> = std::env::args_os().collect();
    #[cfg(unix)]
    let words = hidden_words::reveal(words)?;
    let Rewritten { words, mut notes, access } = foreign::rewrite(words)?;
    if access == Access::Offline {
        hub::stay_offline();
    }
    let command = words.get(1).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    notes.extend(foreign::unheard(&command, names));
    let mut words = serve_config::expand(words)?;
    let parsed = match help::arranged(&mut words) {
        Some(commands) => {
            commands.try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches))
        }
        None => Cli::try_parse_from(words),
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(Error::Arguments(error)),
        // Help and versions are output like any other.
        Err(error) => return error.print().map_err(Error::output),
    };
    // The server has a log for them.
    if !matches!(cli.command, Command::Serve(_)) {
        notes.iter().for_each(|note| say!("note: {note}"));
    }
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args, &notes),
        Command::Synth(args) => synth::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Batch(args) => batch::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Fit(args) => fit::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Pull(args) => hub::run_pull(&args),
        Command::List(args) => hub::run_list(&args),
        Command::Show(args) => hub::run_show(&args),
        Command::Rm(args) => hub::run_rm(&args),
        Command::Models(args) => hub::run_models(&args),
        Command::Completions { shell } => help::complete(shell),
    }
}
