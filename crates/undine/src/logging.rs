//! Log lines of the server on standard error: short ones for people, all there is at the levels of debugging,
//! or JSON, one object per line.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::args_serve::{LogArgs, LogFormat, LogLevel};
use crate::output::colour_is_wanted;
use crate::shown::{LogLines, LongLine};

/// What the server says of a request that is over.
const ANSWERED: &str = "answered";

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
    let lines = tracing_subscriber::fmt().with_writer(writer).with_max_level(level).with_target(false);
    let lines = lines.with_ansi(colour);
    match (args.format, args.level) {
        (LogFormat::Json, _) => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init()
        }
        (LogFormat::Text, LogLevel::Debug | LogLevel::Trace) => lines.init(),
        (LogFormat::Text, _) => lines.event_format(Short).init(),
    }
}

/// The time of day, how serious it is unless it is not, and what happened.
struct Short;

impl<S, N> FormatEvent<S, N> for Short
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        let level = *event.metadata().level();
        let (dim, bright, plain) = match (writer.has_ansi_escapes(), level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
            (true, _) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
        };
        write!(writer, "{dim}{time}{plain} ")?;
        if level < Level::INFO {
            write!(writer, "{bright}{level}{plain} ")?;
        }
        writeln!(writer, "{}", fields.line())
    }
}

/// What an event says, as text.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// A request in one line, anything else with its fields.
    fn line(&self) -> String {
        let message = self.get("message");
        if message == ANSWERED {
            return self.request();
        }
        let others = self.0.iter().filter(|(name, _)| *name != "message");
        others.fold(message.to_owned(), |line, (name, value)| format!("{line} {name}={value}"))
    }

    fn request(&self) -> String {
        let mut line = format!("{} {} {}", self.get("method"), self.get("path"), self.get("status"));
        let is_some = |name: &str| !matches!(self.get(name), "" | "0" | "0.0");
        if is_some("prompt_tokens") {
            let known = self.get("cached_tokens");
            let known = if is_some("cached_tokens") { format!(" ({known} known)") } else { String::new() };
            // Writing to a string cannot fail.
            let _ = write!(line, ", {} tokens in{known}", self.get("prompt_tokens"));
            let _ = write!(line, ", {} out", self.get("completion_tokens"));
        }
        if is_some("ttft_ms") {
            let _ = write!(line, ", first after {}", seconds(self.get("ttft_ms")));
        }
        let _ = write!(line, ", {}", seconds(self.get("total_ms")));
        if self.get("end") == "cut off" {
            line.push_str(", cut off");
        }
        line
    }
}

/// Milliseconds as people read them.
fn seconds(milliseconds: &str) -> String {
    match milliseconds.parse::<f64>() {
        Ok(time) if time >= 1000.0 => format!("{:.2} s", time / 1000.0),
        Ok(time) if time >= 10.0 => format!("{time:.0} ms"),
        Ok(time) => format!("{time:.1} ms"),
        Err(_) => milliseconds.to_owned(),
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_short_line() {
        let fields = |values: &[(&'static str, &str)]| {
            Fields(values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect())
        };
        let answered = fields(&[
            ("message", "answered"),
            ("method", "POST"),
            ("path", "/v1/chat/completions"),
            ("status", "200"),
            ("end", "complete"),
            ("prompt_tokens", "18"),
            ("cached_tokens", "12"),
            ("completion_tokens", "24"),
            ("ttft_ms", "31.4"),
            ("total_ms", "1210.0"),
        ]);
        assert_eq!(
            answered.line(),
            "POST /v1/chat/completions 200, 18 tokens in (12 known), 24 out, first after 31 ms, 1.21 s"
        );
        let refused = fields(&[
            ("message", "answered"),
            ("method", "GET"),
            ("path", "/v2/models"),
            ("status", "404"),
            ("end", "cut off"),
            ("prompt_tokens", "0"),
            ("ttft_ms", "0.0"),
            ("total_ms", "0.2"),
        ]);
        assert_eq!(refused.line(), "GET /v2/models 404, 0.2 ms, cut off");
        assert_eq!(fields(&[("message", "a"), ("b", "1")]).line(), "a b=1");
    }
}
