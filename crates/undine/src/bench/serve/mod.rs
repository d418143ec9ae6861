//! `undine bench serve`: puts a load on any server with an OpenAI-compatible interface and says how it did.
//! Flags, table and JSON are those of `vllm bench serve`.
//!
//! One thread sends and receives: the processor belongs to the server that is measured, which may be on this
//! machine.

mod arrivals;
mod chat;
mod client;
mod load;
mod metrics;
mod prompts;
mod result;
mod sample;
mod table;
mod words;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::Value as Json;
use undine_text::Tokenizer;

use crate::args_bench::BenchServeArgs;
use crate::error::Error;
use crate::open;
use crate::progress::{self, Unit};
use crate::shown::{self, say};
use arrivals::Rate;
use chat::Chat;
use client::Client;
use load::{Load, Measured};
use metrics::{Metrics, Wanted};
use prompts::Words;
pub use prompts::length;
use result::{CountedBy, Outcome};
use table::Traffic;

/// Errors of requests that are shown.
const ERRORS_SHOWN_MAX: usize = 10;

/// Runs the command.
pub fn run(args: &BenchServeArgs) -> Result<(), Error> {
    let file = prompts::file(&args.data)?;
    let tokenizer = args.tokenizer.as_deref().map(open_tokenizer).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let date = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let (model, measured) = runtime.block_on(async {
        let prepare = prepare(args, file, tokenizer.as_deref());
        let (client, model, chats) = tokio::select! {
            prepared = prepare => prepared?,
            _ = tokio::signal::ctrl_c() => return Err(Error::Interrupted),
        };
        Ok((model, measure(args, &client, chats).await?))
    })?;
    report(args, &model, date, &measured)
}

/// The client, the model's name and the chats to hold, with those to warm up with at the end.
async fn prepare(
    args: &BenchServeArgs,
    file: Option<&Path>,
    tokenizer: Option<&Tokenizer>,
) -> Result<(Arc<Client>, String, Vec<Chat>), Error> {
    let mut client = Client::new(args)?;
    let patience = Duration::from_secs(args.ready_check_timeout_sec.into());
    let model = match &args.model {
        Some(model) if patience.is_zero() => model.clone(),
        Some(model) => client.first_model(patience).await.map(|_| model.clone())?,
        None => client.first_model(patience).await?,
    };
    client.ask_for(args.served_model_name.as_deref().unwrap_or(&model));
    let count = args.data.num_prompts.saturating_add(args.traffic.num_warmups);
    let chats = match (file, tokenizer) {
        (Some(file), tokenizer) => prompts::file_chats(file, &args.data, tokenizer, count)?,
        (None, Some(tokenizer)) => {
            let words = Words::of_tokenizer(tokenizer, client.api);
            prompts::random_chats(&args.data, &words, count)
        }
        (None, None) => {
            let words = Words::of_server(&client).await?;
            prompts::random_chats(&args.data, &words, count)
        }
    };
    Ok((Arc::new(client), model, chats))
}

async fn measure(
    args: &BenchServeArgs,
    client: &Arc<Client>,
    mut chats: Vec<Chat>,
) -> Result<Measured, Error> {
    let max_concurrency = args.traffic.max_concurrency;
    let bar = |requests: usize, message: &'static str| {
        let shown = || progress::bar(requests as u64, Unit::Count("requests"));
        let bar = if args.report.no_progress { ProgressBar::hidden() } else { shown() };
        bar.with_message(message)
    };
    let warmups: Vec<Chat> = chats
        .split_off(args.data.num_prompts as usize)
        .into_iter()
        .map(|chat| Chat { turns: chat.turns.into_iter().take(1).collect(), ..chat })
        .collect();
    if !warmups.is_empty() {
        let bar = bar(warmups.len(), "warming up");
        let arrivals = vec![0.0; warmups.len()];
        let measured = Load { chats: warmups, arrivals, max_concurrency }.run(client, &bar).await;
        bar.finish_and_clear();
        if measured.is_interrupted {
            return Err(Error::Interrupted);
        }
    }
    let requests = chats.iter().map(|chat| chat.turns.len()).sum();
    let rate = Rate { per_second: args.traffic.request_rate, burstiness: args.traffic.burstiness };
    let arrivals = arrivals::arrivals(chats.len(), rate, args.data.seed);
    let bar = bar(requests, "measuring");
    let measured = Load { chats, arrivals, max_concurrency }.run(client, &bar).await;
    bar.finish_and_clear();
    Ok(measured)
}

fn report(args: &BenchServeArgs, model: &str, date: String, measured: &Measured) -> Result<(), Error> {
    let Measured { samples, duration, is_interrupted } = measured;
    let errors: Vec<&str> = samples.iter().filter_map(|sample| sample.error.as_deref()).collect();
    if !errors.is_empty() {
        say!("{} requests failed; the first of them:", errors.len());
        errors.iter().take(ERRORS_SHOWN_MAX).for_each(|error| say!("  {error}"));
    }
    if CountedBy::of(samples) != CountedBy::Usage {
        say!("note: the server sent no usage with some answers; there a chunk counts as a token");
    }
    let wanted = Wanted {
        metrics: &args.report.percentile_metrics,
        percents: &args.report.metric_percentiles,
        objectives: &args.report.goodput,
    };
    let metrics = Metrics::of(samples, *duration, &wanted);
    let turns = match args.data.multi_turn_turns {
        1 => Vec::new(),
        _ => table::turns(samples, wanted.percents),
    };
    let outcome = Outcome { args, model, date, samples, metrics: &metrics, turns: &turns };
    let mut out = shown::stdout();
    if args.report.json {
        writeln!(out, "{:#}", Json::Object(outcome.json()))?;
    } else {
        let traffic = &args.traffic;
        let traffic =
            Traffic { max_concurrency: traffic.max_concurrency, request_rate: traffic.request_rate };
        table::print(&mut out, &metrics, traffic)?;
        if !turns.is_empty() {
            table::print_turns(&mut out, &turns)?;
        }
    }
    if let Some(path) = outcome.save()? {
        say!("saved {}", path.display());
    }
    match (*is_interrupted, metrics.completed) {
        (true, _) => Err(Error::Interrupted),
        (false, 0) => Err(Error::refused("no request succeeded")),
        (false, _) => Ok(()),
    }
}

fn open_tokenizer(path: &Path) -> Result<Arc<Tokenizer>, Error> {
    let checkpoint = open::open(Some(path))?;
    let missing = || Error::refused(format!("{}: no tokenizer in it", path.display()));
    open::tokenizer(&checkpoint)?.ok_or_else(missing)
}
