//! An answer as it appears. On a terminal: what the model thinks, dim where there are colours, then the
//! answer on a line of its own, words whole, nothing that steers. Elsewhere: the answer, as it is.

use std::io::{self, IsTerminal, Write};

use console::Term;
use undine_text::Piece;
use undine_text::stream::{THINK_END, THINK_START};

use crate::args::RunArgs;
use crate::calls::Calls;
use crate::shown;
use crate::wrap::Wrapper;

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// How a thought is told from the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thought {
    /// By a dim colour, and a line of its own.
    Dim,
    /// By a line of its own.
    Plain,
    /// By `<think>` and `</think>`, as the model writes it.
    Markers,
    /// It is not shown.
    Hidden,
}

/// What happens to control characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// They are written as they are.
    Keep,
    /// They are written as symbols, so that no answer can steer the terminal.
    Show,
}

/// What happens to the syntax of tool calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallSyntax {
    /// It stays.
    Keep,
    /// It is written for people.
    Describe,
}

/// How an answer is to appear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// What the model thinks.
    pub thought: Thought,
    /// Control characters.
    pub control: Control,
    /// Tool calls.
    pub calls: CallSyntax,
    /// Columns to break lines for; `None` breaks none.
    pub columns: Option<usize>,
}

impl Look {
    /// What suits standard output and these arguments.
    pub fn for_stdout(args: &RunArgs) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let thought = match (args.hide_thinking, is_terminal, args.show_thinking) {
            (true, ..) | (_, false, false) => Thought::Hidden,
            (_, true, _) if colour_is_wanted() => Thought::Dim,
            (_, true, _) => Thought::Plain,
            (_, false, true) => Thought::Markers,
        };
        Self {
            thought,
            control: if is_terminal { Control::Show } else { Control::Keep },
            calls: if args.raw { CallSyntax::Keep } else { CallSyntax::Describe },
            columns: columns().filter(|_| is_terminal && !args.no_word_wrap),
        }
    }
}

/// Columns of the terminal that is standard output, if it is one and says so.
pub fn columns() -> Option<usize> {
    let term = Term::stdout();
    term.is_term().then(|| term.size_checked()).flatten().map(|(_, columns)| columns.into())
}

/// Whether the environment lets a terminal show colours (no-color.org).
pub fn colour_is_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Where an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Nothing has come.
    Start,
    /// A thought has come in which there is nothing so far.
    Emptiness,
    /// Within a thought, of which something has been shown.
    Thought,
    /// A thought has ended; nothing of the answer has been shown.
    AfterThought,
    /// In the answer.
    Answer,
}

/// Writes the pieces of one answer.
pub struct Printer<W: Write> {
    out: Wrapper<W>,
    look: Look,
    calls: Option<Calls>,
    place: Place,
    /// Ends of lines in a thought, which are written if it goes on.
    newlines: usize,
}

impl<W: Write> Printer<W> {
    /// Starts an answer.
    pub fn new(out: W, look: Look) -> Self {
        let calls = (look.calls == CallSyntax::Describe).then(Calls::default);
        Self { out: Wrapper::new(out, look.columns), look, calls, place: Place::Start, newlines: 0 }
    }

    /// Writes one piece, at once.
    pub fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Reasoning(text) => self.reason(text)?,
            Piece::Content(text) => {
                let shown = self.calls.as_mut().map(|calls| calls.push(text));
                self.answer(shown.as_deref().unwrap_or(text))?;
            }
            // No tools are declared here, so calls are in the text.
            Piece::ToolCall { .. }
            | Piece::ToolArguments { .. }
            | Piece::ToolCut { .. }
            | Piece::ToolAborted { .. } => return Ok(()),
        }
        self.out.flush()
    }

    /// Ends the answer, and its last line.
    pub fn finish(&mut self) -> io::Result<()> {
        let left = self.calls.as_mut().map(Calls::finish).unwrap_or_default();
        self.answer(&left)?;
        self.leave_thought()?;
        self.out.finish()?;
        if !self.out.ends_in_newline() {
            self.out.text("\n")?;
        }
        self.out.finish()
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self.look.control {
            Control::Keep => self.out.text(text),
            Control::Show => self.out.text(&shown::symbols(text)),
        }
    }

    fn reason(&mut self, text: &str) -> io::Result<()> {
        if self.look.thought == Thought::Markers {
            if self.place != Place::Thought {
                self.out.text(THINK_START)?;
                self.place = Place::Thought;
            }
            return self.write(text);
        }
        // A thought is shown without empty lines around it.
        let text = if self.place == Place::Thought { text } else { text.trim_start() };
        if text.is_empty() {
            if self.place == Place::Start {
                self.place = Place::Emptiness;
            }
            return Ok(());
        }
        if self.look.thought == Thought::Hidden {
            self.place = Place::Thought;
            return Ok(());
        }
        if self.place != Place::Thought {
            self.place = Place::Thought;
            if self.look.thought == Thought::Dim {
                self.out.mark(DIM)?;
            }
        }
        let inner = text.trim_end_matches('\n');
        if !inner.is_empty() {
            let before = "\n".repeat(std::mem::take(&mut self.newlines));
            self.write(&before)?;
            self.write(inner)?;
        }
        self.newlines += text.len() - inner.len();
        Ok(())
    }

    fn leave_thought(&mut self) -> io::Result<()> {
        if self.place != Place::Thought {
            return Ok(());
        }
        self.newlines = 0;
        self.place = Place::AfterThought;
        match self.look.thought {
            Thought::Dim => self.out.mark(RESET),
            Thought::Markers => self.out.text(THINK_END),
            Thought::Plain | Thought::Hidden => Ok(()),
        }
    }

    fn answer(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.leave_thought()?;
        let is_marked = self.look.thought == Thought::Markers;
        let text = match self.place {
            Place::Start | Place::Answer => text,
            _ if is_marked => text,
            // Nor has the answer after a thought, or after an empty one.
            _ => text.trim_start_matches('\n'),
        };
        if text.is_empty() {
            return Ok(());
        }
        let is_below =
            self.place == Place::AfterThought && !is_marked && self.look.thought != Thought::Hidden;
        if is_below {
            self.out.text("\n")?;
        }
        self.place = Place::Answer;
        self.write(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(thought: Thought, control: Control, pieces: &[Piece]) -> String {
        let mut out = Vec::new();
        let look = Look { thought, control, calls: CallSyntax::Describe, columns: None };
        let mut printer = Printer::new(&mut out, look);
        pieces.iter().for_each(|piece| printer.piece(piece).expect("memory takes all"));
        printer.finish().expect("memory takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn thoughts_are_told_apart() {
        let pieces = [
            Piece::Reasoning("\ntwo ".to_owned()),
            Piece::Reasoning("and two\n".to_owned()),
            Piece::Content("\n\n4\x1b[31m\u{9b}\u{202e}".to_owned()),
        ];
        for (thought, control, expected) in [
            (Thought::Dim, Control::Show, "\x1b[2mtwo and two\x1b[0m\n4␛[31m\\u009b\\u202e\n"),
            (Thought::Plain, Control::Show, "two and two\n4␛[31m\\u009b\\u202e\n"),
            (Thought::Hidden, Control::Keep, "4\x1b[31m\u{9b}\u{202e}\n"),
            (Thought::Markers, Control::Keep, "<think>\ntwo and two\n</think>\n\n4\x1b[31m\u{9b}\u{202e}\n"),
        ] {
            assert_eq!(printed(thought, control, &pieces), expected, "{thought:?}");
        }
        let cut = &pieces[..1];
        assert_eq!(printed(Thought::Dim, Control::Show, cut), "\x1b[2mtwo \x1b[0m\n");
        assert_eq!(printed(Thought::Hidden, Control::Keep, cut), "");
    }

    #[test]
    fn an_empty_thought_leaves_no_trace() {
        let pieces = [Piece::Reasoning("\n\n".to_owned()), Piece::Content("\n\nHello".to_owned())];
        for thought in [Thought::Dim, Thought::Plain, Thought::Hidden] {
            assert_eq!(printed(thought, Control::Show, &pieces), "Hello\n", "{thought:?}");
        }
    }

    #[test]
    fn calls_are_described() {
        let pieces = ["<|tool_call_", "start|>[f(x=1)]<|tool_call_end|>"];
        let pieces = pieces.map(|text| Piece::Content(text.to_owned()));
        assert_eq!(printed(Thought::Hidden, Control::Keep, &pieces), "(calls f(x=1))\n");
    }
}
