//! The loop: so many requests in flight, a line for each as it is done.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;
use undine_server::{Answer, InProcess};
use undine_text::exact;

use super::input::{Request, Requests};
use super::progress::{Progress, Summary};
use super::results::Results;
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::serve::Signals;

/// HTTP status of a request that may be sent again.
const STATUS_UNAVAILABLE: u16 = 503;
/// How long a request waits for a place in the engine's queue before it asks again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often the progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// What there is to do.
pub struct Job<'a> {
    /// The requests.
    pub input: &'a Path,
    /// What to call the results where they cannot be written.
    pub output: &'a Path,
    /// How many are in flight.
    pub concurrency: usize,
    /// Where their results go.
    pub results: Results,
    /// What is counted.
    pub summary: &'a mut Summary,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Every request has its result.
    Complete,
    /// A signal came first.
    Interrupted,
}

/// The part of an answer that is counted.
#[derive(Default, Deserialize)]
struct Counted {
    #[serde(default)]
    usage: Usage,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Job<'_> {
    /// Runs until all is done or a signal comes; then what runs is finished first.
    pub async fn run(mut self, api: InProcess, mut signals: Signals) -> Result<Ended, Error> {
        self.summary.start();
        let mut progress = Progress::new(self.summary);
        let api = Arc::new(api);
        let ended = self.answer_all(&api, &mut signals, &mut progress).await;
        progress.finish();
        self.results.sync().map_err(|source| Error::file(self.output, source))?;
        // Tasks that were dropped with an error may still hold it; then it ends with the process.
        if let Some(api) = Arc::into_inner(api) {
            api.stop().await;
        }
        ended
    }

    async fn answer_all(
        &mut self,
        api: &Arc<InProcess>,
        signals: &mut Signals,
        progress: &mut Progress,
    ) -> Result<Ended, Error> {
        let mut requests = Requests::open(self.input)?;
        let mut running = JoinSet::new();
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        let mut source = Source::Open;
        loop {
            while source == Source::Open && running.len() < self.concurrency {
                match requests.next()? {
                    Some(request) if self.results.has(&request.custom_id) => {}
                    Some(request) => {
                        running.spawn(answer(Arc::clone(api), request));
                    }
                    None => source = Source::Empty,
                }
            }
            if running.is_empty() {
                return Ok(if source == Source::Empty { Ended::Complete } else { Ended::Interrupted });
            }
            tokio::select! {
                Some(done) = running.join_next() => {
                    let (custom_id, answer) = done.map_err(|error| Error::Io(error.into()))?;
                    self.record(api, &custom_id, &answer)?;
                }
                () = signals.next() => {
                    if source == Source::Closed {
                        std::process::exit(EXIT_INTERRUPTED.into());
                    }
                    source = Source::Closed;
                    let count = running.len();
                    progress.say(&format!("finishing {count} running requests; a second Ctrl-C ends at once"));
                }
                _ = ticks.tick() => progress.show(self.summary, api.generated_tokens()),
            }
        }
    }

    fn record(&mut self, api: &InProcess, custom_id: &str, answer: &Answer) -> Result<(), Error> {
        // What the engine has not computed is no result: the next run computes it.
        if let Some(reason) = api.failure() {
            return Err(Error::refused(format!(
                "the engine has failed: {reason}; the results so far are kept, and the same command goes on with the rest"
            )));
        }
        let appended = self.results.append(custom_id, answer);
        let outcome = appended.map_err(|source| Error::file(self.output, source))?;
        let counted: Counted = serde_json::from_slice(&answer.body).unwrap_or_default();
        self.summary.count(outcome, counted.usage.prompt_tokens, counted.usage.completion_tokens);
        Ok(())
    }
}

/// Whether there are more requests to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Open,
    /// All have been begun.
    Empty,
    /// A signal came.
    Closed,
}

/// Answers one request; one that finds the queue full waits.
async fn answer(api: Arc<InProcess>, request: Request) -> (String, Answer) {
    let body = exact::to_string(&serde_json::Value::Object(request.body)).into_bytes();
    loop {
        let answer = api.post(request.url, body.clone()).await;
        if answer.status != STATUS_UNAVAILABLE || api.failure().is_some() {
            return (request.custom_id, answer);
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
