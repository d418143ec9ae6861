//! Results in llama-bench's formats, with its names of columns, so that scripts that read its tables read
//! these.

use std::io::Write;

use super::report::Report;
use super::statistics;
use crate::args::BenchOutput;
use crate::error::Error;
use crate::format::Bytes;
use crate::shown;

/// Columns of comma-separated values.
const CSV: &str = "model_filename,model_size,model_n_params,backends,n_threads,type_k,type_v,n_ubatch,n_prompt,n_gen,n_depth,\
                   avg_ts,stddev_ts";

/// What stands above the lines.
pub fn head(out: &mut impl Write, output: BenchOutput) -> Result<(), Error> {
    match output {
        BenchOutput::Csv => writeln!(out, "{CSV}")?,
        _ => {
            writeln!(out, "| model | size | params | backend | threads | test | t/s |")?;
            writeln!(out, "| --- | ---: | ---: | --- | ---: | ---: | ---: |")?;
        }
    }
    Ok(())
}

/// One test.
pub fn line(out: &mut impl Write, output: BenchOutput, report: &Report) -> Result<(), Error> {
    let Report { threads, backend, ubatch, test, mean_ts, .. } = report;
    let name = shown::line(&report.model);
    let deviation = sample_deviation(&report.samples_ts);
    match output {
        BenchOutput::Csv => {
            let kv = report.kv_cache_dtype;
            let fields = [
                quoted(&name),
                report.model_bytes.to_string(),
                report.parameters.to_string(),
                quoted(backend),
                threads.to_string(),
                quoted(kv),
                quoted(kv),
                ubatch.to_string(),
                report.n_prompt.to_string(),
                report.n_gen.to_string(),
                report.depth.to_string(),
                format!("{mean_ts:.6}"),
                format!("{deviation:.6}"),
            ];
            writeln!(out, "{}", fields.join(","))?;
        }
        BenchOutput::Jsonl => {
            writeln!(out, "{}", serde_json::to_string(report).expect("numbers and texts are JSON"))?;
        }
        _ => {
            let (size, millions) = (Bytes(report.model_bytes), report.parameters as f64 / 1e6);
            let name = name.replace('|', "\\|");
            writeln!(
                out,
                "| {name} | {size} | {millions:.2} M | {backend} | {threads} | {test} | {mean_ts:.2} ± {deviation:.2} |"
            )?;
        }
    }
    out.flush()?;
    Ok(())
}

/// The standard deviation of what the values are drawn from, as llama-bench has it; 0 of one.
fn sample_deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if count > 1.0 { statistics::standard_deviation(values) * (count / (count - 1.0)).sqrt() } else { 0.0 }
}

/// A field with quotes around it, those within it doubled.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
