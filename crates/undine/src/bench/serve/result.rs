//! The result for programs: the keys of `vllm bench serve`, and the file they are saved in.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde_json::{Map, Value as Json, json};

use super::metrics::{Metrics, Times};
use super::sample::Sample;
use super::table::{Turn, names};
use crate::args_bench::{Backend, BenchServeArgs, ReportArgs};
use crate::bench::statistics::percent_name;
use crate::error::Error;

/// How the tokens of answers were counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountedBy {
    /// By the server, in `usage`.
    Usage,
    /// A chunk for a token.
    Chunks,
    /// The one or the other, by answer.
    Both,
}

impl CountedBy {
    /// In these samples.
    pub fn of(samples: &[Sample]) -> Self {
        let counted = |sample: &Sample| sample.counted_tokens.is_some();
        let mut good = samples.iter().filter(|sample| sample.is_success());
        match (good.clone().all(counted), good.any(counted)) {
            (true, _) => Self::Usage,
            (false, false) => Self::Chunks,
            (false, true) => Self::Both,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Chunks => "chunks",
            Self::Both => "usage and chunks",
        }
    }
}

/// Everything a result is made of.
pub struct Outcome<'a> {
    /// The command.
    pub args: &'a BenchServeArgs,
    /// What the server calls its model.
    pub model: &'a str,
    /// When it began, as `20261231-235959`.
    pub date: String,
    /// The requests.
    pub samples: &'a [Sample],
    /// Their numbers.
    pub metrics: &'a Metrics,
    /// Turn by turn, for chats of several.
    pub turns: &'a [Turn],
}

/// A backend's name on the command line.
pub fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Vllm => "vllm",
        Backend::Openai => "openai",
        Backend::OpenaiChat => "openai-chat",
    }
}

impl Outcome<'_> {
    /// The result as one object.
    pub fn json(&self) -> Map<String, Json> {
        let mut result = self.configuration();
        let Metrics { duration, completed, failed, total_input, total_output, .. } = *self.metrics;
        let Json::Object(numbers) = json!({
            "duration": duration,
            "completed": completed,
            "failed": failed,
            "total_input_tokens": total_input,
            "total_output_tokens": total_output,
            "request_throughput": self.metrics.request_throughput,
            "request_goodput": self.metrics.request_goodput,
            "output_throughput": self.metrics.output_throughput,
            "total_token_throughput": self.metrics.total_token_throughput,
            "max_output_tokens_per_s": self.metrics.max_output_tokens_per_s,
            "max_concurrent_requests": self.metrics.max_concurrent_requests,
            "output_tokens_counted_by": CountedBy::of(self.samples).name(),
        }) else {
            unreachable!("the literal is an object")
        };
        result.extend(numbers);
        if self.args.report.save_detailed {
            self.add_details(&mut result);
        }
        for (metric, times) in &self.metrics.times {
            result.extend(fields(names(*metric)[0], times));
        }
        if !self.turns.is_empty() {
            result.insert("turns".to_owned(), self.turns.iter().map(turn_json).collect());
        }
        result
    }

    fn configuration(&self) -> Map<String, Json> {
        let BenchServeArgs { backend, tokenizer, data, traffic, report, .. } = self.args;
        let backend = backend_name(*backend);
        // JSON has no infinity; vLLM writes this text.
        let rate = |rate: f64| if rate.is_finite() { rate.into() } else { Json::from("inf") };
        let tokenizer = tokenizer.as_ref().map(|path| path.display().to_string());
        let Json::Object(mut fields) = json!({
            "date": self.date,
            "endpoint_type": backend,
            "backend": backend,
            "label": report.label,
            "model_id": self.model,
            "tokenizer_id": tokenizer,
            "num_prompts": data.num_prompts,
        }) else {
            unreachable!("the literal is an object")
        };
        fields.extend(report.metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        fields.insert("request_rate".to_owned(), rate(traffic.request_rate));
        fields.insert("burstiness".to_owned(), rate(traffic.burstiness));
        fields.insert("max_concurrency".to_owned(), traffic.max_concurrency.into());
        fields
    }

    /// One entry per request; those of a failed one mean nothing but its error.
    fn add_details(&self, result: &mut Map<String, Json>) {
        let mut add = |name: &str, of: &dyn Fn(&Sample) -> Json| {
            result.insert(name.to_owned(), self.samples.iter().map(of).collect());
        };
        let output = |sample: &Sample| if sample.is_success() { sample.output_tokens() } else { 0 };
        add("input_lens", &|sample| sample.prompt_tokens.into());
        add("output_lens", &|sample| output(sample).into());
        add("ttfts", &|sample| sample.ttft.into());
        add("itls", &|sample| sample.itls.clone().into());
        add("start_times", &|sample| sample.start.into());
        add("latencies", &|sample| sample.latency.into());
        add("cached_lens", &|sample| sample.cached_tokens.into());
        add("generated_texts", &|sample| sample.text.as_str().into());
        add("errors", &|sample| sample.error.as_deref().unwrap_or_default().into());
    }

    /// Writes the result where it was asked to be; `None` if nowhere.
    pub fn save(&self) -> Result<Option<PathBuf>, Error> {
        let report = &self.args.report;
        if !report.save_result && !report.append_result {
            return Ok(None);
        }
        if let Some(folder) = &report.result_dir {
            fs::create_dir_all(folder).map_err(|source| Error::file(folder, source))?;
        }
        let name = report.result_filename.clone().unwrap_or_else(|| self.file_name().into());
        let path = report.result_dir.as_ref().map_or_else(|| name.clone(), |folder| folder.join(&name));
        let fail = |source| Error::file(&path, source);
        let mut file = open(&path, report).map_err(fail)?;
        let line = Json::Object(self.json()).to_string();
        // Results of several runs are lines of one file.
        let is_first = file.seek(SeekFrom::End(0)).map_err(fail)? == 0;
        let text = if is_first { line } else { format!("\n{line}") };
        file.write_all(text.as_bytes()).map_err(fail)?;
        Ok(Some(path))
    }

    fn file_name(&self) -> String {
        let BenchServeArgs { backend, traffic, report, .. } = self.args;
        let label = report.label.as_deref().unwrap_or(backend_name(*backend));
        // As Python writes numbers: 2.0, inf.
        let rate = format!("{:?}", traffic.request_rate);
        let concurrency =
            traffic.max_concurrency.map_or_else(String::new, |max| format!("-concurrency{max}"));
        let model = self.model.rsplit('/').next().unwrap_or(self.model);
        format!("{label}-{rate}qps{concurrency}-{model}-{}.json", self.date)
    }
}

fn open(path: &std::path::Path, report: &ReportArgs) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(!report.append_result);
    options.open(path)
}

/// Mean, median, standard deviation and percentiles under their names in JSON.
fn fields(name: &str, times: &Times) -> Vec<(String, Json)> {
    let mut fields = vec![
        (format!("mean_{name}_ms"), times.mean.into()),
        (format!("median_{name}_ms"), times.median.into()),
        (format!("std_{name}_ms"), times.std.into()),
    ];
    let percentiles = times.percentiles.iter();
    fields.extend(
        percentiles.map(|&(percent, value)| (format!("p{}_{name}_ms", percent_name(percent)), value.into())),
    );
    fields
}

fn turn_json(turn: &Turn) -> Json {
    let Turn { number, completed, input_tokens, cached_tokens, ttft } = turn;
    let mut json = Map::new();
    json.insert("turn".to_owned(), (*number).into());
    json.insert("completed".to_owned(), (*completed).into());
    json.insert("mean_input_tokens".to_owned(), (*input_tokens).into());
    json.insert("mean_cached_tokens".to_owned(), (*cached_tokens).into());
    json.extend(fields("ttft", ttft));
    Json::Object(json)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::args_bench::BenchCommand;
    use crate::bench::serve::metrics::Wanted;
    use crate::bench::serve::table;

    fn args(line: &str) -> Box<BenchServeArgs> {
        let words = ["undine", "bench", "serve"].into_iter().chain(line.split_whitespace());
        let Command::Bench(bench) = Cli::try_parse_from(words).expect("parses").command else {
            unreachable!("the command is bench")
        };
        let Some(BenchCommand::Serve(args)) = bench.command else { unreachable!("the command is serve") };
        args
    }

    fn samples() -> Vec<Sample> {
        let good =
            Sample { ttft: 0.1, latency: 0.3, itls: vec![0.2], counted_tokens: Some(2), ..Sample::default() };
        vec![good, Sample { turn: 1, error: Some("HTTP 500".to_owned()), ..Sample::default() }]
    }

    fn with_outcome<T>(line: &str, then: impl FnOnce(&Outcome<'_>) -> T) -> T {
        let (args, samples) = (args(line), samples());
        let report = &args.report;
        let wanted = Wanted {
            metrics: &report.percentile_metrics,
            percents: &report.metric_percentiles,
            objectives: &report.goodput,
        };
        let metrics = Metrics::of(&samples, 0.5, &wanted);
        let turns = table::turns(&samples, &[99.0]);
        let turns = if args.data.multi_turn_turns > 1 { &turns[..] } else { &[] };
        let date = "20260102-030405".to_owned();
        then(&Outcome { args: &args, model: "org/m", date, samples: &samples, metrics: &metrics, turns })
    }

    fn keys(json: &Map<String, Json>) -> String {
        json.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_keys_are_those_of_vllm() {
        let json = with_outcome("--metadata cpu=x --metric-percentiles 50,99.9", |outcome| outcome.json());
        let expected = "date endpoint_type backend label model_id tokenizer_id num_prompts cpu request_rate \
                        burstiness max_concurrency duration completed failed total_input_tokens \
                        total_output_tokens request_throughput request_goodput output_throughput \
                        total_token_throughput max_output_tokens_per_s max_concurrent_requests \
                        output_tokens_counted_by mean_ttft_ms median_ttft_ms std_ttft_ms p50_ttft_ms \
                        p99.9_ttft_ms mean_tpot_ms median_tpot_ms std_tpot_ms p50_tpot_ms p99.9_tpot_ms \
                        mean_itl_ms median_itl_ms std_itl_ms p50_itl_ms p99.9_itl_ms";
        assert_eq!(keys(&json), expected);
        assert_eq!(json["request_rate"], "inf");
        assert_eq!(json["request_goodput"], Json::Null);
        assert_eq!((&json["completed"], &json["failed"]), (&json!(1), &json!(1)));
        assert_eq!(json["mean_ttft_ms"], 100.0);
    }

    #[test]
    fn details_are_one_entry_per_request() {
        let json = with_outcome("--save-detailed --goodput ttft:1000 --multi-turn-turns 2", |outcome| {
            outcome.json()
        });
        assert_eq!(json["errors"], json!(["", "HTTP 500"]));
        assert_eq!(json["output_lens"], json!([2, 0]));
        assert_eq!(json["itls"], json!([[0.2], []]));
        assert_eq!(json["request_goodput"], 2.0);
        assert_eq!(json["turns"][0]["completed"], 1);
        for name in ["input_lens", "ttfts", "start_times", "generated_texts", "cached_lens"] {
            assert_eq!(json[name].as_array().map(Vec::len), Some(2), "{name}");
        }
    }

    #[test]
    fn files_are_named_after_the_measurement() {
        for (line, expected) in [
            ("", "openai-infqps-m-20260102-030405.json"),
            (
                "--request-rate 2 --max-concurrency 4 --backend openai-chat",
                "openai-chat-2.0qps-concurrency4-m-20260102-030405.json",
            ),
            ("--label mine", "mine-infqps-m-20260102-030405.json"),
        ] {
            assert_eq!(with_outcome(line, |outcome| outcome.file_name()), expected);
        }
    }

    #[test]
    fn results_are_written_anew_or_appended() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("new").display().to_string();
        let lines = |flags: &str| {
            let line = format!("{flags} --result-dir {folder} --result-filename r.json");
            let path = with_outcome(&line, |outcome| outcome.save()).expect("saves");
            path.map(|path| fs::read_to_string(path).expect("written").lines().count())
        };
        assert_eq!(lines(""), None);
        assert_eq!(lines("--save-result"), Some(1));
        assert_eq!(lines("--append-result"), Some(2));
        assert_eq!(lines("--append-result --save-result"), Some(3));
        assert_eq!(lines("--save-result"), Some(1));
    }

    #[test]
    fn who_counted_is_told() {
        let sample = |counted_tokens, error: Option<&str>| Sample {
            counted_tokens,
            error: error.map(str::to_owned),
            ..Sample::default()
        };
        for (samples, expected) in [
            (vec![sample(Some(1), None), sample(None, Some("failed"))], CountedBy::Usage),
            (vec![sample(None, None)], CountedBy::Chunks),
            (vec![sample(None, None), sample(Some(1), None)], CountedBy::Both),
        ] {
            assert_eq!(CountedBy::of(&samples), expected);
        }
    }
}
