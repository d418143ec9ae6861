//! Text for a terminal of so many columns, broken at blanks instead of within words.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns between the stops of a tabulator.
const TAB_COLUMNS: usize = 8;
/// Fewest columns that lines are broken for; less is left to the terminal.
pub const COLUMNS_MIN: usize = 12;

/// Writes text as it comes, but for a word that has not ended: the next line may be its place.
pub struct Wrapper<W: Write> {
    out: W,
    /// `None` lets the terminal break lines.
    columns: Option<usize>,
    column: usize,
    /// Between the last word and the one that is held.
    blanks: String,
    word: String,
    /// The word is longer than a line, and has begun: it is left to the terminal, so that it can be copied
    /// whole.
    is_long: bool,
    ends_in_newline: bool,
}

impl<W: Write> Wrapper<W> {
    /// At the beginning of a line.
    pub fn new(out: W, columns: Option<usize>) -> Self {
        let columns = columns.filter(|&columns| columns >= COLUMNS_MIN);
        let (blanks, word) = (String::new(), String::new());
        Self { out, columns, column: 0, blanks, word, is_long: false, ends_in_newline: true }
    }

    /// Writes text.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let Some(columns) = self.columns else {
            if !text.is_empty() {
                self.ends_in_newline = text.ends_with('\n');
            }
            return self.out.write_all(text.as_bytes());
        };
        for sign in text.chars() {
            match sign {
                '\n' => {
                    self.place_word()?;
                    self.is_long = false;
                    self.blanks.clear();
                    self.break_line()?;
                }
                ' ' | '\t' => {
                    self.place_word()?;
                    self.is_long = false;
                    self.blanks.push(sign);
                }
                _ => {
                    // Scripts without blanks break anywhere, which such signs stand for.
                    let is_wide = sign.width().unwrap_or(0) > 1;
                    if is_wide {
                        self.place_word()?;
                    }
                    self.word.push(sign);
                    let is_long = self.word.width() >= columns;
                    if is_wide || is_long {
                        self.place_word()?;
                        self.is_long = is_long;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes something that takes no columns, such as a colour.
    pub fn mark(&mut self, mark: &str) -> io::Result<()> {
        self.place_word()?;
        self.out.write_all(mark.as_bytes())
    }

    /// Whether the last line has ended.
    pub fn ends_in_newline(&self) -> bool {
        self.ends_in_newline && self.word.is_empty()
    }

    /// Hands over what has been written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Writes the word that is held, whether it has ended or not.
    pub fn finish(&mut self) -> io::Result<()> {
        self.place_word()?;
        self.out.flush()
    }

    fn place_word(&mut self) -> io::Result<()> {
        if self.word.is_empty() {
            return Ok(());
        }
        let columns = self.columns.unwrap_or(usize::MAX);
        let after_blanks = self.blanks.chars().fold(self.column, |column, blank| match blank {
            '\t' => column + TAB_COLUMNS - column % TAB_COLUMNS,
            _ => column + 1,
        });
        let width = self.word.width();
        if self.is_long {
            // Nothing stands between the parts of a word.
        } else if self.column > 0 && after_blanks + width > columns {
            self.break_line()?;
        } else {
            self.out.write_all(self.blanks.as_bytes())?;
            self.column = after_blanks;
        }
        self.blanks.clear();
        self.out.write_all(self.word.as_bytes())?;
        self.column += width;
        while self.column > columns {
            self.column -= columns;
        }
        self.word.clear();
        self.ends_in_newline = false;
        Ok(())
    }

    fn break_line(&mut self) -> io::Result<()> {
        self.column = 0;
        self.ends_in_newline = true;
        self.out.write_all(b"\n")
    }
}

/// A whole text, its lines broken at blanks. What continues a line begins below the line's own second column
/// of text, or with its indentation.
pub fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns.filter(|&columns| columns >= COLUMNS_MIN) else { return text.to_owned() };
    let lines = text.split('\n').map(|line| wrapped_line(line, columns));
    lines.collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, columns: usize) -> String {
    if line.width() <= columns {
        return line.to_owned();
    }
    let hang = hanging(line).filter(|&hang| hang + COLUMNS_MIN <= columns).unwrap_or_else(|| {
        let own = line.len() - line.trim_start_matches(' ').len();
        own.min(columns / 4)
    });
    let mut shown = String::new();
    let mut column = 0;
    for (at, word) in line.split_inclusive(' ').enumerate() {
        let width = word.trim_end().width();
        if at > 0 && column > hang && column + width > columns && width > 0 {
            shown.truncate(shown.trim_end().len());
            shown.push('\n');
            shown.push_str(&" ".repeat(hang));
            column = hang;
        }
        shown.push_str(word);
        column += word.width();
    }
    shown
}

/// Where the second column of a line begins: after two blanks or more within it.
fn hanging(line: &str) -> Option<usize> {
    let begin = line.len() - line.trim_start_matches(' ').len();
    let gap = begin + line[begin..].find("  ")?;
    let second = gap + (line[gap..].len() - line[gap..].trim_start_matches(' ').len());
    Some(line[..second].width())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(columns: usize, pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut wrapper = Wrapper::new(&mut out, Some(columns));
        pieces.iter().for_each(|piece| wrapper.text(piece).expect("memory takes all"));
        wrapper.finish().expect("memory takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn words_stay_whole_however_they_arrive() {
        for (columns, pieces, expected) in [
            (12, &["one two three four"][..], "one two\nthree four"),
            (12, &["one t", "wo thr", "ee four"], "one two\nthree four"),
            (12, &["  indented and long"], "  indented\nand long"),
            (12, &["a\n\nb"], "a\n\nb"),
            (12, &["exactly twel"], "exactly twel"),
            (12, &["a-word-that-is-longer-than-that x"], "a-word-that-is-longer-than-that x"),
            (12, &["日本語の文章は空白がない"], "日本語の文章\nは空白がない"),
            (12, &["trailing    ", "\nnext"], "trailing\nnext"),
            (5, &["too narrow to care"], "too narrow to care"),
        ] {
            assert_eq!(
                written(columns, pieces).replace("than-\n", "than-"),
                expected,
                "{columns} {pieces:?}"
            );
        }
        let long = "lorem ipsum dolor sit amet ".repeat(50);
        for columns in [12, 40, 100] {
            let text = written(columns, &[&long]);
            assert!(text.lines().all(|line| line.width() <= columns), "{text}");
            assert_eq!(text.split_whitespace().count(), 250);
        }
    }

    #[test]
    fn lists_continue_below_their_second_column() {
        let list = "/set NAME VALUE    change a setting, such as the temperature";
        assert_eq!(
            wrapped(list, Some(40)),
            "/set NAME VALUE    change a setting,\n                   such as the\n                   temperature"
        );
        assert_eq!(wrapped("short", Some(40)), "short");
        assert_eq!(wrapped(list, None), list);
        for columns in [12, 20, 40] {
            let text = wrapped(list, Some(columns));
            assert!(text.lines().all(|line| line.width() <= columns), "{text}");
        }
    }
}
