//! An answer as it appears: streamed, reasoning dimmed on a terminal and between its markers elsewhere.

use std::io::{self, IsTerminal, Write};

use undine_text::Piece;
use undine_text::stream::{THINK_END, THINK_START};

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// How reasoning is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// By a dim colour.
    Dim,
    /// By `<think>` and `</think>`.
    Markers,
}

/// What happens to control characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// They are written as they are.
    Keep,
    /// They are dropped, so that no answer can steer the terminal.
    Drop,
}

/// Writes the pieces of one answer.
pub struct Printer<W: Write> {
    out: W,
    style: Style,
    control: Control,
    in_reasoning: bool,
    /// Reasoning has just ended, in the middle of a line.
    after_reasoning: bool,
    ends_in_newline: bool,
}

/// The style and the treatment of control characters that suit standard output.
pub fn for_stdout() -> (Style, Control) {
    let is_terminal = io::stdout().is_terminal();
    let style = if is_terminal && colour_is_wanted() { Style::Dim } else { Style::Markers };
    (style, if is_terminal { Control::Drop } else { Control::Keep })
}

/// Whether the environment lets a terminal show colours (no-color.org).
pub fn colour_is_wanted() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl<W: Write> Printer<W> {
    /// Starts an answer.
    pub fn new(out: W, style: Style, control: Control) -> Self {
        Self { out, style, control, in_reasoning: false, after_reasoning: false, ends_in_newline: true }
    }

    /// Writes one piece, at once.
    pub fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        let text = match piece {
            Piece::Reasoning(text) => {
                self.enter_reasoning()?;
                text
            }
            Piece::Content(text) => {
                self.leave_reasoning()?;
                // A colour alone would run thought and answer together on one line.
                if self.style == Style::Dim && self.after_reasoning && !text.starts_with('\n') {
                    self.out.write_all(b"\n")?;
                }
                self.after_reasoning = false;
                text
            }
            // No tools are declared here, so calls stay as they are written.
            Piece::ToolCall { .. }
            | Piece::ToolArguments { .. }
            | Piece::ToolCut { .. }
            | Piece::ToolAborted { .. } => return Ok(()),
        };
        match self.control {
            Control::Keep => self.out.write_all(text.as_bytes())?,
            Control::Drop => {
                let safe: String =
                    text.chars().filter(|&c| c == '\n' || c == '\t' || !c.is_control()).collect();
                self.out.write_all(safe.as_bytes())?;
            }
        }
        self.ends_in_newline = text.ends_with('\n');
        self.out.flush()
    }

    /// Ends the answer, and its last line.
    pub fn finish(&mut self) -> io::Result<()> {
        self.leave_reasoning()?;
        if !self.ends_in_newline {
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }

    fn enter_reasoning(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.in_reasoning, true) {
            return Ok(());
        }
        self.out.write_all(if self.style == Style::Dim { DIM } else { THINK_START }.as_bytes())
    }

    fn leave_reasoning(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.in_reasoning, false) {
            return Ok(());
        }
        self.after_reasoning = !self.ends_in_newline;
        self.ends_in_newline = false;
        self.out.write_all(if self.style == Style::Dim { RESET } else { THINK_END }.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(style: Style, control: Control, pieces: &[Piece]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, style, control);
        pieces.iter().for_each(|piece| printer.piece(piece).expect("memory takes all"));
        printer.finish().expect("memory takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn reasoning_is_told_apart() {
        let pieces = [
            Piece::Reasoning("two ".to_owned()),
            Piece::Reasoning("and two".to_owned()),
            Piece::Content("4\x1b[31m".to_owned()),
        ];
        let dim = printed(Style::Dim, Control::Drop, &pieces);
        assert_eq!(dim, "\x1b[2mtwo and two\x1b[0m\n4[31m\n");
        let markers = printed(Style::Markers, Control::Keep, &pieces);
        assert_eq!(markers, "<think>two and two</think>4\x1b[31m\n");
        assert_eq!(printed(Style::Dim, Control::Drop, &pieces[..1]), "\x1b[2mtwo \x1b[0m\n");
    }
}
