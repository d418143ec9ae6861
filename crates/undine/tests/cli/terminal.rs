//! Progress on a pseudo-terminal: what a screen shows while a command works, and what is left of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rexpect::session::{PtySession, spawn_command};

use crate::common::{dialogues, models, text, undine};

const TIMEOUT_MS: u64 = 60_000;
const ESCAPE: char = '\x1b';
/// A terminal that can do all.
pub const TERMINAL: [(&str, &str); 2] = [("TERM", "xterm"), ("NO_COLOR", "1")];
/// How a text is measured here: one thread, because those of several wait for each other on a busy machine.
const EVAL: [&str; 6] = ["-c", "64", "-b", "1", "-t", "1"];
/// Draws in a second at the most, with some that mark a beginning or an end.
const DRAWS_PER_SECOND: usize = 25;

/// A screen of so many columns, as far as progress needs one.
pub struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Lines that were broken because they were too long.
    broken: usize,
    control: Control,
}

/// Which control sequences a screen understands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Control {
    /// Those of progress, and none else.
    Progress,
    /// Colours and those of the line editor too.
    All,
}

impl Screen {
    /// After all of this.
    pub fn after(columns: usize, output: &str) -> Self {
        Self::of(Control::Progress, columns, output)
    }

    /// The same of a program that has a line editor and colours.
    pub fn of_chat(columns: usize, output: &str) -> Self {
        Self::of(Control::All, columns, output)
    }

    fn of(control: Control, columns: usize, output: &str) -> Self {
        let mut screen = Self { columns, rows: vec![Vec::new()], row: 0, column: 0, broken: 0, control };
        let mut rest = output.chars();
        while let Some(next) = rest.next() {
            match next {
                ESCAPE => {
                    assert_eq!(rest.next(), Some('['), "only control sequences");
                    let mut sequence = String::new();
                    while !sequence.ends_with(|last: char| last.is_ascii_alphabetic()) {
                        sequence.push(rest.next().expect("a letter ends it"));
                    }
                    screen.control(&sequence);
                }
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                letter => screen.put(letter),
            }
            screen.rows.resize(screen.rows.len().max(screen.row + 1), Vec::new());
        }
        screen
    }

    fn control(&mut self, sequence: &str) {
        let (argument, kind) = sequence.split_at(sequence.len() - 1);
        let count = argument.parse().unwrap_or(1);
        match kind {
            "A" => self.row = self.row.saturating_sub(count),
            "B" => self.row += count,
            "K" if argument == "2" || self.control == Control::Progress => self.rows[self.row].clear(),
            "K" => self.rows[self.row].truncate(self.column),
            "J" if self.control == Control::All => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            "C" if self.control == Control::All => self.column += count,
            "D" if self.control == Control::All => self.column = self.column.saturating_sub(count),
            "G" if self.control == Control::All => self.column = count - 1,
            // Colours, and what the terminal is to tell of what is typed.
            "m" | "h" | "l" if self.control == Control::All => {}
            other => panic!(
                "{argument}{other}: nothing else is needed, and nothing hides the cursor or has a colour"
            ),
        }
    }

    fn put(&mut self, letter: char) {
        if self.column == self.columns {
            (self.row, self.column, self.broken) = (self.row + 1, 0, self.broken + 1);
            self.rows.resize(self.rows.len().max(self.row + 1), Vec::new());
        }
        let row = &mut self.rows[self.row];
        row.resize(row.len().max(self.column + 1), ' ');
        row[self.column] = letter;
        self.column += 1;
    }

    /// What is on it.
    pub fn text(&self) -> String {
        let lines = self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Starts the binary on a terminal of so many columns, with these settings in the environment.
pub fn start(columns: usize, words: &[&str], settings: &[(&str, &str)]) -> PtySession {
    let binary = undine();
    let mut command = Command::new("sh");
    let script = format!("stty cols {columns} rows 24; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(binary.get_program()).args(words).stdin(Stdio::inherit());
    for (name, value) in binary.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.envs(settings.iter().copied());
    spawn_command(command, Some(TIMEOUT_MS)).expect("a pseudo-terminal")
}

/// What was written, of which the session makes a character from each byte.
pub fn utf8(output: &str) -> String {
    let bytes = output.chars().map(|byte| u8::try_from(u32::from(byte)).expect("a byte")).collect();
    String::from_utf8(bytes).expect("UTF-8")
}

/// A text of some hundred windows.
fn long_text() -> PathBuf {
    let (short, long) = (dialogues("terminal-short.txt"), models().place("terminal.txt"));
    let content = std::fs::read_to_string(short).expect("text").repeat(6);
    std::fs::write(&long, content).expect("writes");
    long
}

#[test]
fn progress_is_one_line_that_fits_and_goes() {
    let (long, out) = (long_text(), models().place("terminal.gguf"));
    let demo = undine_tests::demo();
    let quantize = ["quantize", text(&demo), text(&out), "--type", "Q4_K_M", "--force"];
    for columns in [20, 37, 80, 200] {
        let eval = [&["eval", "-f", text(&long), "--chunks", "40"][..], &EVAL].concat();
        for words in [&eval[..], &quantize] {
            let begin = std::time::Instant::now();
            let output = utf8(&start(columns, words, &TERMINAL).exp_eof().expect("ends"));
            let seconds = begin.elapsed().as_secs() as usize + 1;
            let screen = Screen::after(columns, &output);
            let (draws, left) = (output.matches("\x1b[2K").count(), screen.text());
            assert!(!left.contains(['█', '░']) && !left.contains("left"), "{columns}: {left:?}");
            // Whole lines are notes and results, which may be longer than a narrow terminal.
            let drawn = output.rfind("\x1b[2K").map_or("", |end| &output[..end]);
            for line in drawn.split("\x1b[2K").filter_map(|line| line.rsplit('\n').next()) {
                assert_eq!(Screen::after(columns, line).broken, 0, "{columns}: {line:?}");
            }
            assert!(draws <= 2 * DRAWS_PER_SECOND * seconds, "{draws} in {seconds} s");
            if words[0] == "eval" {
                assert!(draws > 0 && drawn.contains("windows"), "{columns}: {output:?}");
                assert!(drawn.contains('█') == (columns > 30), "{columns}: {drawn:?}");
            }
        }
    }
}

#[test]
fn dumb_terminals_get_no_progress() {
    let long = long_text();
    let words = [&["eval", "-f", text(&long), "--chunks", "40"][..], &EVAL].concat();
    let output = utf8(&start(80, &words, &[("TERM", "dumb")]).exp_eof().expect("ends"));
    assert!(!output.contains(ESCAPE) && !output.contains('█'), "{output:?}");
    assert!(output.contains("perplexity"), "{output}");
}

#[test]
fn an_interrupted_command_leaves_a_clean_line() {
    let long: &Path = &long_text();
    let words = [&["eval", "-f", text(long)][..], &EVAL].concat();
    let mut session = start(80, &words, &TERMINAL);
    let before = session.exp_string("windows").expect("progress");
    session.send_control('c').expect("types");
    let after = session.exp_eof().expect("ends");
    let screen = Screen::after(80, &utf8(&format!("{before}windows{after}")));
    // The terminal itself writes what was typed.
    assert_eq!(screen.text().replace("^C", "").trim(), "", "{after:?}");
}
