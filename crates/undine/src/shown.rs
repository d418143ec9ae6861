//! What comes from outside, as it may be shown: on a terminal, in a table, in a log.
//!
//! Names, metadata and answers of other machines may hold characters that steer a terminal, begin a line that
//! looks like this program's, or turn text around, and may be of any length. All that this program prints but
//! the text of an answer goes through here: such characters are written as `\u001b`, which in JSON is the
//! same text, and what is too long is cut.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, StdoutLock, Write};
use std::panic::PanicHookInfo;

use crate::{output, wrap};

/// Characters of a text that has a line, or a part of one, to itself: some at the beginning, and some at the
/// end.
const LINE_CHARS: (usize, usize) = (300, 100);
/// The same of a message, which may have lines.
const MESSAGE_CHARS: (usize, usize) = (6000, 2000);
/// What begins every line of a message but the first.
const INDENT: &str = "  ";

/// Whether a character is not to be shown as it is: it steers (C0, DEL, C1), ends a line, or turns text
/// around.
fn is_hidden(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with every character hidden that is not `kept`.
fn escaped(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hidden = |character: char| is_hidden(character) && !kept(character);
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hidden(character) {
            // All of them have four digits.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// A text of a model for a terminal: lines and tabulators stay, other control characters are shown as the
/// symbols that stand for them, and what has no symbol as `\u009b`.
pub fn symbols(text: &str) -> Cow<'_, str> {
    let stays = |character: char| matches!(character, '\n' | '\t');
    if !text.contains(|character| is_hidden(character) && !stays(character)) {
        return Cow::Borrowed(text);
    }
    let symbol = |character: char| match u32::from(character) {
        code @ 0..0x20 => char::from_u32(0x2400 + code),
        0x7f => Some('\u{2421}'),
        _ => None,
    };
    let mut shown = String::with_capacity(text.len() + 16);
    // The end of a line as Windows writes it is one.
    for character in text.replace("\r\n", "\n").chars() {
        match symbol(character) {
            _ if stays(character) || !is_hidden(character) => shown.push(character),
            Some(symbol) => shown.push(symbol),
            None => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    Cow::Owned(shown)
}

/// Beginning and end of a long text, and how much is between them.
fn cut(text: &str, (first, last): (usize, usize)) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= first + last {
        return Cow::Borrowed(text);
    }
    let place = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (&text[..place(first)], &text[place(count - last)..]);
    Cow::Owned(format!("{head} [{} characters left out] {tail}", count - first - last))
}

/// A name or another text from outside that must not leave its line.
pub fn line(text: &str) -> String {
    escaped(&cut(text, LINE_CHARS), |_| false).into_owned()
}

/// A message of this program with texts from outside in it. No line but the first begins at the margin, so
/// that none can be made to look like another message.
pub fn message(text: &str) -> String {
    let text = cut(text, MESSAGE_CHARS);
    let mut lines = text.trim_end_matches('\n').split('\n');
    let mut shown = escaped(lines.next().unwrap_or_default(), |_| false).into_owned();
    for line in lines {
        let indent = if line.starts_with(INDENT) { "" } else { INDENT };
        shown.push('\n');
        shown.push_str(indent);
        shown.push_str(&escaped(line, |_| false));
    }
    shown
}

/// Columns of the terminal that is standard error, if it is one and says so.
fn columns() -> Option<usize> {
    let term = console::Term::stderr();
    term.is_term().then(|| term.size_checked()).flatten().map(|(_, columns)| columns.into())
}

/// Writes a message to standard error; use [`say!`].
pub fn write_message(arguments: fmt::Arguments<'_>) {
    let text = wrap::wrapped(&message(&arguments.to_string()), columns()) + "\n";
    // A reader that has left, or a full disk, is no reason to stop.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Tells what is wrong with the arguments, in the parser's own words. It quotes them as they are, so they are
/// hidden first; its colours stay where nothing had to be.
pub fn tell_usage(error: &clap::Error) {
    let rendered = error.render().to_string();
    let text = usage(&rendered);
    let wrapped = wrap::wrapped(&text, columns());
    let printed = match matches!(text, Cow::Borrowed(_)) && wrapped == rendered {
        true => error.print(),
        false => io::stderr().lock().write_all(wrapped.as_bytes()),
    };
    // As for messages: nobody may be reading.
    drop(printed);
}

/// The parser's message as it may be shown. An argument may hold a line that looks like another message: then
/// none but the first begins at the margin.
fn usage(text: &str) -> Cow<'_, str> {
    const PARTS: [&str; 4] = ["Usage:", "For more information", "Commands:", "Options:"];
    let is_own = |line: &str| {
        line.is_empty() || line.starts_with(' ') || PARTS.iter().any(|part| line.starts_with(part))
    };
    let is_clean = !text.contains(|character| is_hidden(character) && character != '\n');
    if is_clean && text.chars().count() <= MESSAGE_CHARS.0 && text.lines().skip(1).all(is_own) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(message(text) + "\n")
}

/// `eprintln!` for messages that may have texts from outside in them.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::shown::write_message(format_args!($($arguments)*)) };
}
pub(crate) use say;

/// Standard output for tables and JSON.
pub fn stdout() -> Escaping<StdoutLock<'static>> {
    Escaping(io::stdout().lock())
}

/// Standard output for people: on a terminal, lines are broken at blanks.
pub fn paper() -> Paper<Escaping<StdoutLock<'static>>> {
    Paper { out: stdout(), columns: output::columns(), line: Vec::new() }
}

/// Writes lines, broken where they would be wider than the terminal.
pub struct Paper<W: Write> {
    out: W,
    /// `None` where there is no terminal: lines are left as they are.
    columns: Option<usize>,
    /// Of which the end has not come.
    line: Vec<u8>,
}

impl<W: Write> Paper<W> {
    fn write_lines(&mut self, end: usize) -> io::Result<()> {
        let lines: Vec<u8> = self.line.drain(..end).collect();
        let text = String::from_utf8_lossy(&lines);
        self.out.write_all(wrap::wrapped(&text, self.columns).as_bytes())
    }
}

impl<W: Write> Write for Paper<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(at) = self.line.iter().rposition(|&byte| byte == b'\n') {
            self.write_lines(at + 1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_lines(self.line.len())?;
        self.out.flush()
    }
}

/// Writes text with what must not be shown hidden; it may have lines and tabulators.
pub struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let shown = escaped(&text, |character| matches!(character, '\n' | '\t'));
        self.0.write_all(shown.as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What is too long in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LongLine {
    /// It is cut.
    Cut,
    /// It stays: a piece of JSON is none.
    Keep,
}

/// Writes log lines, each in one call. Colours stay: whoever makes the lines hides the escape character in
/// what is logged.
pub struct LogLines<W> {
    /// Where they go.
    pub out: W,
    /// What happens to long ones.
    pub long: LongLine,
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = if self.long == LongLine::Cut { cut(text, MESSAGE_CHARS) } else { Cow::Borrowed(text) };
        let mut shown = String::with_capacity(text.len() + 1);
        let mut rest = &*text;
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            shown.push_str(&escaped(before, |_| false));
            let colour = colour_length(after);
            shown.push_str(if colour > 0 { "\u{1b}" } else { "\\u001b" });
            shown.push_str(&after[..colour]);
            rest = &after[colour..];
        }
        shown.push_str(&escaped(rest, |_| false));
        shown.push('\n');
        self.out.write_all(shown.as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes of `[1;31m` at the beginning of a text; 0 if there is something else.
fn colour_length(text: &str) -> usize {
    let Some(rest) = text.strip_prefix('[') else { return 0 };
    let parameters = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    if rest[parameters..].starts_with('m') { "[m".len() + parameters } else { 0 }
}

/// Tells a panic as the standard library does, with its message as it may be shown.
pub fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("not a text");
    say!("thread '{}' panicked at {place}:\n{text}", thread.name().unwrap_or("<unnamed>"));
    // Empty unless RUST_BACKTRACE asks for it.
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        say!("{trace}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_hidden() {
        for (text, expected) in [
            ("blk.0.weight", "blk.0.weight"),
            ("größe \u{8a9e} \u{1f600}", "größe \u{8a9e} \u{1f600}"),
            ("a\u{1b}[31mb\u{7}", "a\\u001b[31mb\\u0007"),
            ("a\r\nerror: b\tc", "a\\u000d\\u000aerror: b\\u0009c"),
            ("\u{9b}2J\u{7f}\0", "\\u009b2J\\u007f\\u0000"),
            ("\u{202e}fdp.exe\u{2066}\u{2028}", "\\u202efdp.exe\\u2066\\u2028"),
        ] {
            assert_eq!(line(text), expected, "{text:?}");
        }
    }

    #[test]
    fn messages_have_lines_and_none_looks_like_another_message() {
        for (text, expected) in [
            ("one", "one"),
            ("two are wrong\n  line 1: x\n  and more", "two are wrong\n  line 1: x\n  and more"),
            ("a\nerror: \u{1b}c", "a\n  error: \\u001bc"),
            ("a\n\n", "a"),
        ] {
            assert_eq!(message(text), expected, "{text:?}");
        }
    }

    #[test]
    fn messages_of_the_parser_keep_their_form_unless_they_quote_something_hostile() {
        let plain = "error: unexpected argument '--x' found\n\n  tip: y\n\nUsage: undine run [MODEL]\n\nFor more information, try '--help'.\n";
        assert!(matches!(usage(plain), Cow::Borrowed(_)));
        for hostile in [
            "error: 'a\u{1b}]52;c;x\u{7}' found\n",
            "error: 'a\nerror: fake' found\n",
            "error: '\u{9b}\u{202e}'\n",
        ] {
            let shown = usage(hostile);
            assert!(!shown.contains(|c| is_hidden(c) && c != '\n'), "{shown:?}");
            assert!(!shown.lines().skip(1).any(|line| line.starts_with("error:")), "{shown:?}");
        }
    }

    #[test]
    fn long_texts_keep_both_ends() {
        let long = format!("tensor {} is missing", "\u{e9}".repeat(100_000));
        let shown = line(&long);
        assert!(shown.chars().count() < 450, "{}", shown.len());
        assert!(shown.starts_with("tensor é") && shown.ends_with("é is missing"), "{shown}");
        assert!(shown.contains("[99618 characters left out]"), "{shown}");
        assert!(message(&long).len() < 20_000);
        let fits = "x".repeat(LINE_CHARS.0 + LINE_CHARS.1);
        assert_eq!(line(&fits), fits);
    }

    #[test]
    fn tables_and_json_keep_their_lines_and_values() {
        let mut out = Escaping(Vec::new());
        let json = serde_json::json!({"name": "\u{1b}\u{9b}\u{202e}\u{7f}x"});
        writeln!(out, "{json:#}\ta").expect("memory takes all");
        let text = String::from_utf8(out.0).expect("text");
        let (json_text, rest) = text.rsplit_once('\t').expect("a tabulator");
        assert_eq!(
            (serde_json::from_str::<serde_json::Value>(json_text).expect("JSON"), rest),
            (json, "a\n")
        );
        assert!(!text.contains(|c| is_hidden(c) && !matches!(c, '\n' | '\t')), "{text:?}");
    }

    #[test]
    fn log_lines_are_one_line_each_and_keep_their_colours() {
        for (text, expected) in [
            ("INFO answered path=/x\n", "INFO answered path=/x\n"),
            (
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;32mINFO\u{1b}[0m x\n",
                "\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;32mINFO\u{1b}[0m x\n",
            ),
            ("a\nERROR b\r\u{1b}]0;title\u{7}\n", "a\\u000aERROR b\\u000d\\u001b]0;title\\u0007\n"),
            ("\u{1b}[2J\u{202e}\u{1b}", "\\u001b[2J\\u202e\\u001b\n"),
        ] {
            let mut lines = LogLines { out: Vec::new(), long: LongLine::Cut };
            lines.write_all(text.as_bytes()).expect("memory takes all");
            assert_eq!(String::from_utf8(lines.out).expect("text"), expected, "{text:?}");
        }
        let long = format!("{}\n", "x".repeat(1 << 20));
        for (treatment, most) in [(LongLine::Cut, 10_000), (LongLine::Keep, long.len())] {
            let mut lines = LogLines { out: Vec::new(), long: treatment };
            lines.write_all(long.as_bytes()).expect("memory takes all");
            assert!(lines.out.len() <= most && lines.out.ends_with(b"x\n"), "{}", lines.out.len());
        }
    }
}
