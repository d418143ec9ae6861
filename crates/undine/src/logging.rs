//! Log lines of the server on standard error: for people, or as JSON, one object per line.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::args_serve::{LogArgs, LogFormat, LogLevel};
use crate::output::colour_is_wanted;
use crate::shown::{LogLines, LongLine};

/// Starts logging, for the rest of the process.
pub fn start(args: &LogArgs) {
    let level = match args.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let colour = std::io::stderr().is_terminal() && colour_is_wanted();
    let long = if args.format == LogFormat::Text { LongLine::Cut } else { LongLine::Keep };
    let writer = move || LogLines { out: std::io::stderr(), long };
    let lines = fmt().with_writer(writer).with_max_level(level).with_target(false).with_ansi(colour);
    match args.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init()
        }
    }
}
