//! The report for people: a screen, or Markdown.

use std::io::Write;

use super::report::{DeviceFit, Report};
use super::speed::{Certainty, Cost, Speed};
use super::verdict::{WELL_SHARE, WELL_TOKENS_PER_S, rounded};
use crate::args_fit::Sort;
use crate::error::Error;
use crate::format::{Bytes, grouped};
use crate::output;
use crate::wrap::COLUMNS_MIN;

/// Columns of a table that a narrow terminal has too: what it is about, and the answer.
const FIRST_COLUMNS: usize = 2;
/// Between two columns.
const GAP: &str = "  ";
/// In the place of the end of a name.
const DOTS: &str = "...";

/// A table: its heading and rows, the first column to the left and the others to the right.
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
    /// The column that is left out last.
    pub main: usize,
}

impl Table {
    /// Writes it with columns under each other, as many as a terminal has room for.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Error> {
        self.write_within(out, output::columns())
    }

    fn all(&self) -> impl Iterator<Item = &Vec<String>> {
        [&self.head].into_iter().chain(&self.rows)
    }

    fn width_of(&self, column: usize) -> usize {
        self.all().map(|row| row[column].chars().count()).max().unwrap_or(0)
    }

    /// Those of its columns that fit: the first two, the main one, then the last ones. A first one that is
    /// too wide even so is cut.
    fn within(&self, columns: usize) -> Self {
        let count = self.head.len();
        let first = count.min(FIRST_COLUMNS);
        let width = |kept: &[usize]| -> usize { kept.iter().map(|&at| self.width_of(at) + GAP.len()).sum() };
        let mut kept: Vec<usize> = (0..first).collect();
        let mut behind: Vec<usize> = Vec::new();
        let others = (first..count).rev().filter(|&at| at != self.main);
        for at in std::iter::once(self.main).chain(others) {
            if width(&kept) + width(&behind) + self.width_of(at) <= columns {
                behind.push(at);
            }
        }
        behind.sort_unstable();
        kept.extend(behind);
        let over = width(&kept).saturating_sub(GAP.len() + columns);
        let name_chars = self.width_of(0).saturating_sub(over).max(DOTS.len() + 1);
        let cut = |text: &String| match text.chars().count() > name_chars {
            true => text.chars().take(name_chars - DOTS.len()).collect::<String>() + DOTS,
            false => text.clone(),
        };
        let of = |row: &Vec<String>| -> Vec<String> {
            kept.iter().map(|&at| if at == 0 { cut(&row[0]) } else { row[at].clone() }).collect()
        };
        Self { head: of(&self.head), rows: self.rows.iter().map(of).collect(), main: 0 }
    }

    fn write_within(&self, out: &mut impl Write, columns: Option<usize>) -> Result<(), Error> {
        let narrow = columns.filter(|&columns| columns >= COLUMNS_MIN).map(|columns| self.within(columns));
        let table = narrow.as_ref().unwrap_or(self);
        let widths: Vec<usize> = (0..table.head.len()).map(|at| table.width_of(at)).collect();
        for row in table.all() {
            let cells = row.iter().zip(&widths).enumerate();
            let text = |(i, (cell, &width)): (usize, (&String, &usize))| match i {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            };
            let texts: Vec<String> = cells.map(text).collect();
            writeln!(out, "{}", texts.join(GAP).trim_end())?;
        }
        Ok(())
    }

    /// Writes it in Markdown.
    pub fn write_markdown(&self, out: &mut impl Write) -> Result<(), Error> {
        writeln!(out, "\n| {} |", self.head.join(" | "))?;
        writeln!(out, "|---{}|", "|---:".repeat(self.head.len() - 1))?;
        for row in &self.rows {
            writeln!(out, "| {} |", row.join(" | "))?;
        }
        writeln!(out)?;
        Ok(())
    }
}

/// Writes a screen: the answer, what it is about, and devices.
pub fn terminal(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    let parts: Vec<String> =
        report.memory.terms.iter().map(|term| format!("{} {}", term.name, Bytes(term.bytes))).collect();
    beginning(out, report)?;
    writeln!(out, "{} (-v: formulas)", parts.join(", "))?;
    ending(out, report)
}

/// The same with the formulas of the memory.
pub fn formulas(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    beginning(out, report)?;
    writeln!(out)?;
    for term in &report.memory.terms {
        writeln!(out, "{:<12} {:>10}  {}", term.name, Bytes(term.bytes).to_string(), term.formula)?;
    }
    writeln!(
        out,
        "{:<12} {:>10}  {}",
        "total",
        Bytes(report.memory.total_bytes).to_string(),
        report.command
    )?;
    ending(out, report)
}

fn beginning(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    writeln!(out, "{}", report.verdict)?;
    for line in head(report) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn ending(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    if let Some(line) = types(report) {
        writeln!(out, "other types: {line}")?;
    }
    writeln!(out)?;
    devices(report).write(out)?;
    for line in foot(report) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Writes Markdown.
pub fn markdown(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    writeln!(out, "**{}**\n", report.verdict)?;
    for line in head(report) {
        writeln!(out, "{line}  ")?;
    }
    writeln!(out, "\n| part | size | formula |\n|---|---:|---|")?;
    for term in &report.memory.terms {
        writeln!(out, "| {} | {} | {} |", term.name, Bytes(term.bytes), term.formula)?;
    }
    writeln!(out, "| total | {} | `{}` |", Bytes(report.memory.total_bytes), report.command)?;
    if let Some(line) = types(report) {
        writeln!(out, "\nOther types: {line}")?;
    }
    devices(report).write_markdown(out)?;
    for line in foot(report) {
        writeln!(out, "{line}  ")?;
    }
    Ok(())
}

fn head(report: &Report) -> Vec<String> {
    let active = report.active_parameters.map(|active| format!(" ({} active)", grouped(active)));
    let active = active.unwrap_or_default();
    let mut lines = vec![
        format!(
            "{}: {} parameters{active}, {} short convolutions, {} attention layers, context up to {}",
            report.model,
            grouped(report.parameters),
            report.layers.conv,
            report.layers.attention,
            grouped(report.context_max as u64),
        ),
        format!(
            "{}, {} of {} tokens, K/V in {}",
            report.r#type,
            users(report.users),
            grouped(report.context.into()),
            report.kv_cache_dtype,
        ),
    ];
    lines.extend(report.note.as_ref().map(|note| format!("note: {note}")));
    lines
}

fn users(count: u32) -> String {
    if count == 1 { "1 user".to_owned() } else { format!("{} users", grouped(count.into())) }
}

fn types(report: &Report) -> Option<String> {
    let texts: Vec<_> =
        report.types.iter().map(|kind| format!("{} {}", kind.r#type, Bytes(kind.total_bytes))).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn devices(report: &Report) -> Table {
    let mut head = vec!["device".to_owned(), "runs".to_owned(), "for models".to_owned()];
    if !report.types.is_empty() {
        head.push("best type".to_owned());
    }
    head.push(format!("context for {}", report.users));
    head.push(format!("users at {}", grouped(report.context.into())));
    let main = head.len();
    head.push("decode".to_owned());
    if report.users > 1 {
        head.push(format!("of {}", report.users));
    }
    head.push("prefill".to_owned());
    if has_costs(report) {
        head.extend(["1M out".to_owned(), "1M in".to_owned()]);
    }
    if report.sort == Some(Sort::Price) {
        head.push("price".to_owned());
    }
    let rows = report.devices.iter().map(|fit| row(report, fit)).collect();
    Table { head, rows, main }
}

/// Where something does not fit.
const NONE: &str = "-";
/// Where the device's vendor says too little.
const UNKNOWN: &str = "unknown";

fn row(report: &Report, fit: &DeviceFit) -> Vec<String> {
    let count = |count: Option<u32>| count.map_or(NONE.to_owned(), |count| rounded(f64::from(count)));
    let whole = |count: Option<u32>| count.map_or(NONE.to_owned(), |count| grouped(count.into()));
    let speed = |of: fn(&super::speed::Speeds) -> Option<Speed>| {
        let Some(speeds) = &fit.speeds else { return NONE.to_owned() };
        of(speeds).map_or(UNKNOWN.to_owned(), speed_text)
    };
    let mut cells =
        vec![fit.device.name.clone(), fit.runs.name().to_owned(), Bytes(fit.device.usable_bytes).to_string()];
    if !report.types.is_empty() {
        cells.push(fit.best_type.unwrap_or(NONE).to_owned());
    }
    cells.extend([whole(fit.context_max), count(fit.users_max), speed(|speeds| speeds.decode_one)]);
    if report.users > 1 {
        cells.push(speed(|speeds| speeds.decode_all));
    }
    cells.push(speed(|speeds| speeds.prefill));
    if has_costs(report) {
        let cost = |cost: Option<f64>, speed: Option<Speed>| match (cost, speed) {
            // What cannot be faster cannot be cheaper.
            (Some(cost), Some(Speed { certainty: Certainty::Bound, .. })) => format!(">{cost:.3}"),
            (Some(cost), _) => format!("{cost:.3}"),
            (None, _) if fit.cost_per_million_tokens.is_some() => UNKNOWN.to_owned(),
            (None, _) => NONE.to_owned(),
        };
        let Cost { output, prompt } =
            fit.cost_per_million_tokens.unwrap_or(Cost { output: None, prompt: None });
        let speeds = fit.speeds;
        cells.push(cost(output, speeds.and_then(|speeds| speeds.decode_all)));
        cells.push(cost(prompt, speeds.and_then(|speeds| speeds.prefill)));
    }
    if report.sort == Some(Sort::Price) {
        let price = match (fit.device.price, fit.device.price_per_hour) {
            (Some(price), _) => format!("${}", grouped(price as u64)),
            (None, Some(price)) => format!("${price:.2}/h"),
            (None, None) => NONE.to_owned(),
        };
        cells.push(price);
    }
    cells
}

/// Whether some device has a price an hour.
fn has_costs(report: &Report) -> bool {
    report.devices.iter().any(|fit| fit.cost_per_million_tokens.is_some())
}

fn speed_text(speed: Speed) -> String {
    let mark = if speed.certainty == Certainty::Bound { "<" } else { "" };
    format!("{mark}{}", rounded(speed.tokens_per_s))
}

fn foot(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(measured) = &report.measured {
        let giga = |number: f64| number / 1e9;
        lines.push(format!(
            "measured with {} threads: {:.1} GB/s, {:.0} GOP/s for quantized weights, {:.0} for float ones",
            measured.threads,
            giga(measured.read_bytes_per_s),
            giga(measured.int8_ops_per_s),
            giga(measured.float_ops_per_s),
        ));
        for test in &measured.tests {
            lines.push(format!(
                "{:<10} {:>7.1} tok/s measured, {:>7.1} estimated ({:+.0}%)",
                test.test, test.measured_tokens_per_s, test.estimated_tokens_per_s, test.error_percent
            ));
        }
        if measured.tests.is_empty() {
            lines.push(
                "the model was not measured: there is no file of it; `undine synth` makes one".to_owned(),
            );
        }
    }
    let has = |certainty| {
        report.devices.iter().filter_map(|fit| fit.speeds).any(|speeds| {
            [speeds.decode_one, speeds.decode_all, speeds.prefill]
                .into_iter()
                .flatten()
                .any(|speed| speed.certainty == certainty)
        })
    };
    let mut line = "tok/s with contexts full".to_owned();
    if has(Certainty::Measured) {
        line.push_str("; this machine: estimates corrected by what was measured");
    }
    if has(Certainty::Estimate) {
        line.push_str("; CPUs: estimate from 73% of bandwidth and 50% of peak, as recorded");
    }
    if has(Certainty::Bound) {
        line.push_str("; <: at most (a bound, not measured)");
    }
    let is_unknown = |speeds: super::speed::Speeds| {
        [speeds.decode_one, speeds.decode_all, speeds.prefill].iter().any(Option::is_none)
    };
    if report.devices.iter().filter_map(|fit| fit.speeds).any(is_unknown) {
        line.push_str("; unknown: no figure of its arithmetic is published");
    }
    lines.push(line);
    lines.push(marks_line());
    lines
}

/// What the words in the second column mean.
pub fn marks_line() -> String {
    format!(
        "runs: well with at most {:.0}% of the memory for models and {WELL_TOKENS_PER_S:.0} tok/s or more, tight if it fits otherwise",
        100.0 * WELL_SHARE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 5]) -> Vec<String> {
        cells.map(str::to_owned).to_vec()
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns() {
        let head = row(["device", "runs", "for models", "decode", "prefill"]);
        let table = Table {
            head,
            rows: vec![row(["Snapdragon 8 Elite", "well", "6.00 GiB", "<100", "unknown"])],
            main: 3,
        };
        let written = |columns: Option<usize>| {
            let mut out = Vec::new();
            table.write_within(&mut out, columns).expect("memory takes all");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(written(Some(100)), written(None));
        assert_eq!(written(Some(40)), "device              runs  decode\nSnapdragon 8 Elite  well    <100\n");
        assert_eq!(written(Some(20)), "device          runs\nSnapdragon ...  well\n");
        for columns in COLUMNS_MIN..60 {
            let text = written(Some(columns));
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
        }
    }
}
