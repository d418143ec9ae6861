//! What the command says: lines for people, objects for programs.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use undine_cpu::Roofline;
use undine_cpu::roofline::Peaks;
use undine_model::Model;

use super::limits::{Bound, Limit};
use super::runner::Settings;
use super::statistics;
use super::test::{Kind, Test};
use crate::error::Error;
use crate::format::Bytes;
use crate::shown;
use crate::{open, output, work};

/// Columns of the whole table.
const WIDE_COLUMNS: usize = 58;

/// One test; speeds in tokens per second, all sequences together.
#[derive(Serialize)]
pub struct Report {
    pub(super) model: String,
    pub(super) model_bytes: u64,
    pub(super) parameters: u64,
    pub(super) backend: &'static str,
    isa: &'static str,
    pub(super) threads: usize,
    pub(super) kv_cache_dtype: &'static str,
    huge_pages: bool,
    pub(super) ubatch: u32,
    pub(super) test: String,
    pub(super) n_prompt: u32,
    pub(super) n_gen: u32,
    pub(super) depth: u32,
    batch: u32,
    repetitions: usize,
    median_ts: f64,
    min_ts: f64,
    max_ts: f64,
    pub(super) mean_ts: f64,
    pub(super) samples_ts: Vec<f64>,
    #[serde(flatten)]
    limit: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roofline: Option<MachineLimits>,
}

/// What [`Roofline`] measured; bytes or operations per second.
#[derive(Serialize)]
struct MachineLimits {
    read: f64,
    int8: f64,
    bf16: f64,
    f32: f64,
    instructions: Vec<InstructionLimits>,
}

/// The same for one family of instructions.
#[derive(Serialize)]
struct InstructionLimits {
    name: &'static str,
    int8: f64,
    bf16: Option<f64>,
    f32: f64,
}

/// What all tests of a command have in common.
pub struct Subject<'a> {
    /// The argument.
    pub path: Option<&'a Path>,
    /// The model behind it.
    pub model: &'a Model,
    /// How it runs.
    pub settings: Settings,
    /// The machine's limits, if measured.
    pub roofline: Option<Roofline>,
}

impl Subject<'_> {
    /// The report of one test.
    pub fn report(&self, test: Test, samples: Vec<f64>) -> Report {
        let Settings { threads, kv, huge_pages, isa, ubatch } = self.settings;
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let median_ts = statistics::percentile(&sorted, 50.0);
        let (n_prompt, n_gen) = match test.kind {
            Kind::Prefill => (test.tokens, 0),
            Kind::Decode => (0, test.tokens),
        };
        let limit = self.roofline.as_ref().map(|roofline| {
            let work = work::work(self.model.config(), &work::matrices(self.model), kv, test);
            Limit::new(test, work, roofline, median_ts)
        });
        Report {
            model: open::display_name(self.path),
            model_bytes: self.model.checkpoint().file_bytes(),
            parameters: crate::inspect::parameters(self.model.checkpoint()),
            backend: "cpu",
            isa: isa.name(),
            threads,
            kv_cache_dtype: kv.name(),
            huge_pages,
            ubatch,
            test: test.to_string(),
            n_prompt,
            n_gen,
            depth: test.depth,
            batch: test.sequences,
            repetitions: samples.len(),
            median_ts,
            min_ts: sorted[0],
            max_ts: sorted[sorted.len() - 1],
            mean_ts: statistics::mean(&sorted),
            samples_ts: samples,
            limit,
            roofline: self.roofline.as_ref().map(MachineLimits::new),
        }
    }

    /// Prints what is common, and the head of the table.
    pub fn print_header(&self, out: &mut impl Write) -> Result<(), Error> {
        let checkpoint = self.model.checkpoint();
        let millions = crate::inspect::parameters(checkpoint) as f64 / 1e6;
        let size = Bytes(checkpoint.file_bytes());
        writeln!(out, "{}: {size}, {millions:.0}M parameters", shown::line(checkpoint.name()))?;
        let Settings { threads, kv, huge_pages, isa, ubatch } = self.settings;
        let (isa, kv) = (isa.name(), kv.name());
        let pages = if huge_pages { ", weights in huge pages" } else { "" };
        writeln!(out, "cpu {isa}, {threads} threads, K/V {kv}, prefill in steps of {ubatch} rows{pages}")?;
        if let Some(roofline) = &self.roofline {
            print_roofline(out, roofline)?;
        }
        let spread = if is_wide() { format!(" {:>26}", "min .. max") } else { String::new() };
        write!(out, "\n{:<18} {:>12}{spread}", "test", "tok/s")?;
        if self.roofline.is_some() {
            write!(out, "  {:>10} {:>6}  bound by", "limit", "of it")?;
        }
        writeln!(out)?;
        Ok(())
    }
}

impl MachineLimits {
    fn new(roofline: &Roofline) -> Self {
        let of = |peaks: &Peaks| InstructionLimits {
            name: peaks.instructions,
            int8: peaks.int8_ops_per_s,
            bf16: peaks.bf16_ops_per_s,
            f32: peaks.f32_ops_per_s,
        };
        Self {
            read: roofline.read_bytes_per_s,
            int8: roofline.int8_ops_per_s(),
            bf16: roofline.bf16_ops_per_s(),
            f32: roofline.f32_ops_per_s(),
            instructions: roofline.peaks.iter().map(of).collect(),
        }
    }
}

fn print_roofline(out: &mut impl Write, roofline: &Roofline) -> Result<(), Error> {
    let (threads, read) = (roofline.threads, roofline.read_bytes_per_s / 1e9);
    writeln!(
        out,
        "\nlimits measured here with {threads} threads: reading {read:.1} GB/s; in 10^9 operations/s"
    )?;
    for Peaks { instructions, int8_ops_per_s, f32_ops_per_s, bf16_ops_per_s } in &roofline.peaks {
        let (int8, f32) = (int8_ops_per_s / 1e9, f32_ops_per_s / 1e9);
        write!(out, "  {instructions:<14} int8 {int8:>7.0}   f32 {f32:>6.0}")?;
        if let Some(bf16) = bf16_ops_per_s {
            write!(out, "   bf16 {:>6.0}", bf16 / 1e9)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Whether there is room for how far results are apart.
fn is_wide() -> bool {
    output::columns().is_none_or(|columns| columns >= WIDE_COLUMNS)
}

/// Prints a line of the table.
pub fn print_line(out: &mut impl Write, report: &Report) -> Result<(), Error> {
    let spread = format!("{:.2} .. {:.2}", report.min_ts, report.max_ts);
    let spread = if is_wide() { format!(" {spread:>26}") } else { String::new() };
    write!(out, "{:<18} {:>12.2}{spread}", report.test, report.median_ts)?;
    if let Some(Limit { limit_ts, percent_of_limit, limited_by, .. }) = report.limit {
        let bound = match limited_by {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        };
        write!(out, "  {limit_ts:>10.2} {percent_of_limit:>5.0}%  {bound}")?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
