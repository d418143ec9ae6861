//! Holds chats with a server, so many at a time, and collects what came of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::chat::{Chat, Conversation};
use super::client::Client;
use super::sample::Sample;

/// Samples on their way from the tasks to the one that collects them.
const SAMPLES_WAITING_MAX: usize = 256;

/// A load to put on a server.
pub struct Load {
    /// What to send.
    pub chats: Vec<Chat>,
    /// Seconds from the start at which each chat begins, at the earliest.
    pub arrivals: Vec<f64>,
    /// Most chats at a time.
    pub max_concurrency: Option<u32>,
}

/// What came of it.
pub struct Measured {
    /// In the order of chats and turns.
    pub samples: Vec<Sample>,
    /// Seconds from the start to the last answer.
    pub duration: f64,
    /// Ctrl-C ended it; what was under way is left out.
    pub is_interrupted: bool,
}

impl Load {
    /// Runs until every chat has ended, or Ctrl-C.
    pub async fn run(self, client: &Arc<Client>, bar: &ProgressBar) -> Measured {
        let (sender, mut receiver) = mpsc::channel(SAMPLES_WAITING_MAX);
        let origin = Instant::now();
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch(self, Arc::clone(client), origin, sender));
        let mut samples: Vec<Sample> = Vec::new();
        let mut duration = 0.0;
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let is_interrupted = loop {
            tokio::select! {
                sample = receiver.recv() => match sample {
                    Some(sample) => {
                        duration = origin.elapsed().as_secs_f64();
                        samples.push(sample);
                        bar.inc(1);
                    }
                    None => break false,
                },
                _ = &mut interrupt => {
                    duration = origin.elapsed().as_secs_f64();
                    break true;
                }
            }
        };
        // Dropping it ends all tasks, and with them the requests.
        drop(dispatcher);
        samples.sort_by_key(|sample| (sample.index, sample.turn));
        Measured { samples, duration, is_interrupted }
    }
}

async fn dispatch(load: Load, client: Arc<Client>, origin: Instant, sender: mpsc::Sender<Sample>) {
    let permits = load.max_concurrency.map(|max| Arc::new(Semaphore::new(max as usize)));
    let mut tasks = JoinSet::new();
    for (index, (chat, at)) in load.chats.into_iter().zip(load.arrivals).enumerate() {
        if at > 0.0 {
            tokio::time::sleep_until((origin + Duration::from_secs_f64(at)).into()).await;
        }
        let (client, permits, sender) = (Arc::clone(&client), permits.clone(), sender.clone());
        tasks.spawn(async move {
            let _permit = match permits {
                Some(permits) => permits.acquire_owned().await.ok(),
                None => None,
            };
            hold(&client, index, &chat, origin, &sender).await;
        });
    }
    drop(sender);
    // A task that panicked has been told on standard error; the others go on.
    while tasks.join_next().await.is_some() {}
}

/// Turn after turn, up to the first that fails.
async fn hold(client: &Client, index: usize, chat: &Chat, origin: Instant, sender: &mpsc::Sender<Sample>) {
    let mut conversation = Conversation::new(client.api, chat.system.as_ref());
    for (turn, prompt) in (0..).zip(&chat.turns) {
        conversation.push_user(prompt);
        let known = Sample { index, turn, prompt_tokens: conversation.tokens, ..Sample::default() };
        let sample = client.send(&conversation, prompt.output_len, known, origin).await;
        conversation.push_answer(&sample.text, sample.output_tokens());
        let goes_on = sample.is_success();
        // The collector is gone only when everything is being ended.
        if sender.send(sample).await.is_err() || !goes_on {
            return;
        }
    }
}
