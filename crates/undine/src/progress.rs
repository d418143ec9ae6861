//! Progress on a terminal: a line that fits its width, taken away when the work ends, however it ends. There
//! is none where standard error is no terminal or a dumb one, and none is coloured.

use std::fmt::Write;
use std::sync::LazyLock;

use console::Term;
use indicatif::{
    HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressState,
    ProgressStyle,
};

use crate::format::Bytes;

/// All lines there are, so that Ctrl-C can take them away.
static SCREEN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
/// Characters of the longest bar, and of the shortest one worth showing.
const BAR_CHARS: (usize, usize) = (40, 8);
/// Columns that stay free: a terminal breaks the line after the last one.
const FREE_COLUMNS: usize = 2;
/// Columns of a terminal that does not say how many it has.
const COLUMNS_DEFAULT: usize = 80;
/// Longest time that is left that anybody believes.
const LEFT_S_MAX: u64 = 7 * 24 * 3600;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes, with their speed.
    Bytes,
    /// Things of this name.
    Count(&'static str),
}

/// Whether there is a terminal to show progress on.
pub fn is_shown() -> bool {
    !ProgressDrawTarget::stderr().is_hidden()
}

/// A line for work of so many units; its message, if it gets one, comes last.
pub fn bar(total: u64, unit: Unit) -> ProgressBar {
    named(total, unit, String::new())
}

/// The same with a name.
pub fn named(total: u64, unit: Unit, name: String) -> ProgressBar {
    let draw = move |state: &ProgressState, out: &mut dyn Write| {
        let columns = Term::stderr().size_checked().map_or(COLUMNS_DEFAULT, |(_, columns)| columns.into());
        let texts = texts(unit, &name, state);
        // What cannot be drawn is not shown.
        let _ = out.write_str(&line(state.fraction(), &texts, columns.saturating_sub(FREE_COLUMNS)));
    };
    let style = ProgressStyle::with_template("{line} {wide_msg}").expect("the template is a constant");
    let bar = ProgressBar::new(total)
        .with_style(style.with_key("line", draw))
        .with_finish(ProgressFinish::AndClear);
    SCREEN.add(bar)
}

/// Takes all lines away for good: the process is about to end.
pub fn clear() {
    // A terminal that is gone needs no clearing.
    drop(SCREEN.clear());
    SCREEN.set_draw_target(ProgressDrawTarget::hidden());
}

/// Does something that writes to the terminal, without the lines.
pub fn suspend(work: impl FnOnce()) {
    SCREEN.suspend(work);
}

/// What is said beside the bar, in the order of importance.
fn texts(unit: Unit, name: &str, state: &ProgressState) -> Vec<String> {
    let (done, total) = (state.pos(), state.len().unwrap_or(0));
    let left = state.eta();
    let left = (done > 0 && done < total && left.as_secs() < LEFT_S_MAX)
        .then(|| format!("{:#} left", HumanDuration(left)));
    let (count, speed) = match unit {
        Unit::Bytes => {
            let speed = state.per_sec();
            let speed = (speed.is_finite() && speed >= 1.0).then(|| format!("{}/s", Bytes(speed as u64)));
            (format!("{}/{}", Bytes(done), Bytes(total)), speed)
        }
        Unit::Count(things) => (format!("{done}/{total} {things}"), None),
    };
    let name = (!name.is_empty()).then(|| name.to_owned());
    [Some(count), left, name, speed].into_iter().flatten().collect()
}

/// As many of the texts as fit, and a bar in front of them if there is room.
fn line(fraction: f32, texts: &[String], columns: usize) -> String {
    let mut shown = String::new();
    for text in texts {
        let used = shown.chars().count();
        let gap = usize::from(used > 0);
        if used + gap + text.chars().count() <= columns {
            shown.push_str(if gap > 0 { " " } else { "" });
            shown.push_str(text);
        } else if used == 0 {
            shown = text.chars().take(columns).collect();
        }
    }
    let room = columns.saturating_sub(shown.chars().count() + 1).min(BAR_CHARS.0);
    if room < BAR_CHARS.1 {
        return shown;
    }
    let full = (fraction.clamp(0.0, 1.0) * room as f32) as usize;
    format!("{}{} {shown}", "█".repeat(full), "░".repeat(room - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_their_terminal() {
        let texts = ["12/48 windows", "3s left", "1.00 KiB/s"].map(str::to_owned);
        for (columns, expected) in [
            (78, "██████████░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░ 12/48 windows 3s left 1.00 KiB/s"),
            (42, "██░░░░░░░ 12/48 windows 3s left 1.00 KiB/s"),
            (40, "12/48 windows 3s left 1.00 KiB/s"),
            (31, "██░░░░░░░ 12/48 windows 3s left"),
            (18, "12/48 windows"),
            (13, "12/48 windows"),
            (5, "12/48"),
            (0, ""),
        ] {
            let found = line(0.25, &texts, columns);
            assert_eq!(found, expected, "{columns}");
            assert!(found.chars().count() <= columns);
        }
        assert!(line(f32::NAN, &texts, 78).starts_with('░'), "nothing of nothing");
        assert!(line(2.0, &texts, 78).starts_with(&"█".repeat(40)));
    }
}
