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
mod args_vllm;
mod batch;
mod bench;
mod calibrate;
mod chat;
mod command;
mod conversation;
mod convert;
mod doctor;
mod dragged;
mod error;
mod eval;
mod fit;
mod format;
#[doc(hidden)]
pub mod fuzzing;
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

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::error::Error;
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
            if !matches!(error, Error::BrokenPipe | Error::Interrupted | Error::Advice) {
                say!("error: {}", error.chain());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run() -> Result<(), Error> {
    let words: Vec<OsString> = std::env::args_os().collect();
    #[cfg(unix)]
    let words = hidden_words::reveal(words)?;
    let cli = match Cli::try_parse_from(serve_config::expand(words)?) {
        Ok(cli) => cli,
        // `exit` writes to standard error, and ends with its code; help and versions are output like any other.
        Err(error) if error.use_stderr() => error.exit(),
        Err(error) => return error.print().map_err(Error::output),
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::run(&args),
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
    }
}
