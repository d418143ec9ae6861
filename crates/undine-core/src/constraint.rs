//! What restricts the tokens of an answer: a grammar, a budget for thinking.
//!
//! Only text knows what is allowed, only the backend needs to know, and only when it samples. So a mask may
//! be worked out on a thread of its own while the layers are computed: the backend waits for it in its last
//! operation.

use std::sync::{Arc, OnceLock};

use crate::TokenId;

/// Tokens allowed at one place of an answer: a bit per vocabulary entry, 32 a word, 1 = allowed; no words
/// allow all.
#[derive(Clone, Debug)]
pub struct TokenMask(Arc<OnceLock<Vec<u32>>>);

/// The duty to fill a [`TokenMask`]. Dropped unfulfilled, it allows everything, and
/// [`Constraint::accept`] must refuse the token that follows.
#[derive(Debug)]
pub struct MaskPromise(Arc<OnceLock<Vec<u32>>>);

impl TokenMask {
    /// A mask that is known.
    pub fn ready(words: Vec<u32>) -> Self {
        Self(Arc::new(OnceLock::from(words)))
    }

    /// A mask that somebody is working out.
    pub fn pending() -> (Self, MaskPromise) {
        let cell = Arc::new(OnceLock::new());
        (Self(Arc::clone(&cell)), MaskPromise(cell))
    }

    /// The words, as soon as they are there.
    pub fn wait(&self) -> &[u32] {
        self.0.wait()
    }
}

/// The same mask, not the same words: waiting for them to compare would defeat the purpose.
impl PartialEq for TokenMask {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl MaskPromise {
    /// Hands the words over.
    pub fn fulfil(self, words: Vec<u32>) {
        drop(self.0.set(words));
    }
}

impl Drop for MaskPromise {
    fn drop(&mut self) {
        // Without effect if it was fulfilled.
        drop(self.0.set(Vec::new()));
    }
}

/// A token that cannot follow, or a grammar that went beyond its limits. The answer ends there.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub String);

/// Decides for one answer which token may come next. It sees every token of the answer, in order, once; what
/// was accepted survives a preemption.
pub trait Constraint: Send {
    /// What may come next; `None` is anything. Does not block: a mask that takes time is returned pending.
    fn allowed(&mut self) -> Option<TokenMask>;

    /// Takes the token that was sampled.
    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_comes_from_another_thread() {
        let (mask, promise) = TokenMask::pending();
        let worker = std::thread::spawn(|| promise.fulfil(vec![5]));
        assert_eq!(mask.wait(), [5]);
        worker.join().unwrap();
    }

    #[test]
    fn a_broken_promise_does_not_block() {
        let (mask, promise) = TokenMask::pending();
        drop(promise);
        assert_eq!(mask.wait(), [0u32; 0]);
    }
}
