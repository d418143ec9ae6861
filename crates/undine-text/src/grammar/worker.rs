//! The thread that works masks out while the layers are computed.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llguidance::Matcher;
use undine_core::{ConstraintError, MaskPromise, TokenId, TokenMask};

use super::STACK_BYTES;
use crate::{TextError, Tokenizer};

/// Masks waiting for the thread: more than there are sequences, each of which waits for one at the most.
const MASKS_WAITING_MAX: usize = 4096;
/// Why there is no mask beyond that many.
const QUEUE_FULL: &str = "too many answers of a given form wait for their next token";

/// A grammar within an answer, shared with the thread.
#[derive(Clone)]
pub struct Matching(Arc<Mutex<Matched>>);

struct Matched {
    matcher: Matcher,
    /// Why the mask before the next token could not be worked out.
    failed: Option<String>,
}

/// A mask to be worked out.
struct Job {
    matching: Matching,
    /// A token allowed beside the grammar's.
    also: Option<TokenId>,
    promise: MaskPromise,
}

/// The thread that works masks out, until this and all its queue are gone.
pub struct MaskWorker {
    jobs: SyncSender<Job>,
    eos: Vec<TokenId>,
    /// Words of a mask: 32 tokens each.
    words: usize,
}

impl MaskWorker {
    /// Starts the thread. It is as urgent as the one that calls this, and a step of the engine may wait for
    /// it.
    pub fn start(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let words = tokenizer.vocab_size().div_ceil(u32::BITS as usize);
        let (jobs, queue) = sync_channel(MASKS_WAITING_MAX);
        let thread = std::thread::Builder::new().name("undine-masks".to_owned()).stack_size(STACK_BYTES);
        thread
            .spawn(move || serve(&queue, words))
            .map_err(|error| TextError::Grammar(format!("no thread for masks could be started: {error}")))?;
        Ok(Self { jobs, eos: tokenizer.eos().to_vec(), words })
    }

    pub(super) fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    /// What the grammar allows next, and one token more.
    pub(super) fn mask(&self, matching: &Matching, also: Option<TokenId>) -> TokenMask {
        let (mask, promise) = TokenMask::pending();
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.jobs.try_send(Job { matching: matching.clone(), also, promise })
        {
            // The promise is dropped, which allows everything; the token that follows is refused.
            job.matching.lock().failed = Some(QUEUE_FULL.to_owned());
        }
        mask
    }

    /// A mask of these tokens.
    pub(super) fn only(&self, tokens: &[TokenId]) -> TokenMask {
        let mut words = vec![0; self.words];
        tokens.iter().for_each(|&token| set(&mut words, token));
        TokenMask::ready(words)
    }

    /// A mask of all but these tokens.
    pub(super) fn without(&self, tokens: &[TokenId]) -> TokenMask {
        let mut words = vec![u32::MAX; self.words];
        for &token in tokens {
            if let Some(word) = words.get_mut((token / u32::BITS) as usize) {
                *word &= !(1 << (token % u32::BITS));
            }
        }
        TokenMask::ready(words)
    }
}

fn serve(queue: &Receiver<Job>, words: usize) {
    while let Ok(job) = queue.recv() {
        job.run(words);
    }
}

impl Job {
    fn run(self, words: usize) {
        let mut matched = self.matching.lock();
        match matched.matcher.compute_mask_or_eos() {
            Ok(mask) => {
                let mut mask = mask.as_slice().to_vec();
                mask.resize(words, 0);
                if let Some(token) = self.also {
                    set(&mut mask, token);
                }
                self.promise.fulfil(mask);
            }
            // The promise is dropped, which allows everything; the token that follows is refused.
            Err(error) => matched.failed = Some(format!("{error:#}")),
        }
    }
}

fn set(words: &mut [u32], token: TokenId) {
    if let Some(word) = words.get_mut((token / u32::BITS) as usize) {
        *word |= 1 << (token % u32::BITS);
    }
}

impl Matching {
    pub fn new(matcher: Matcher) -> Self {
        Self(Arc::new(Mutex::new(Matched { matcher, failed: None })))
    }

    /// Takes a token.
    pub fn accept(&self, token: TokenId) -> Result<(), ConstraintError> {
        let mut matched = self.lock();
        if let Some(why) = &matched.failed {
            return Err(ConstraintError(format!(
                "the form of the answer could not be followed further: {why}"
            )));
        }
        matched.matcher.consume_token(token).map_err(|error| {
            ConstraintError(format!("token {token} does not fit the form of the answer: {error:#}"))
        })
    }

    /// Whether the text so far is whole.
    pub fn is_accepting(&self) -> bool {
        self.lock().matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the text is whole and nothing can be added.
    pub fn is_over(&self) -> bool {
        let matched = self.lock();
        matched.matcher.is_stopped() && !matched.matcher.is_error()
    }

    fn lock(&self) -> MutexGuard<'_, Matched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
