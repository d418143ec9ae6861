//! How often and how long to try again.

use std::time::Duration;

use crate::error::Error;

/// Questions to the hub without an answer, before it is given up: somebody waits.
pub(crate) const QUESTIONS_MAX: u32 = 4;
/// Attempts in a row that bring nothing of a content, before it is given up: some two minutes.
pub(crate) const CONTENTS_MAX: u32 = 10;
/// Longest wait between two attempts.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a server may ask for; one that asks for more is told to the user instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another one may succeed.
    Retry {
        /// What happened.
        reason: String,
        /// What the server asks to wait.
        after: Option<Duration>,
    },
    /// Nobody could be asked. Another attempt may succeed, but hardly the first of all.
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// Another one would fail in the same way.
    Fatal(Error),
}

impl Failure {
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }

    /// The same where nothing has been asked before: whoever has no network is told at once.
    pub fn at_first(self, url: &str) -> Self {
        match self {
            Self::Unreachable { reason } => Self::Fatal(Error::Unreachable { url: url.to_owned(), reason }),
            other => other,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// Counts attempts and says how long to wait.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    attempts: u32,
    attempts_max: u32,
}

impl Backoff {
    pub fn new(first: Duration, attempts_max: u32) -> Self {
        Self { first, attempts: 0, attempts_max }
    }

    /// Something has arrived.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait before the next attempt, and why; the error if there is none.
    pub fn delay(&mut self, failure: Failure, url: &str) -> Result<(Duration, String), Error> {
        let (reason, after) = match failure {
            Failure::Fatal(error) => return Err(error),
            Failure::Retry { reason, after } => (reason, after),
            Failure::Unreachable { reason } => (reason, None),
        };
        self.attempts += 1;
        if self.attempts >= self.attempts_max {
            let reason = format!("{reason}, {} times in a row", self.attempts);
            return Err(Error::Network { url: url.to_owned(), reason });
        }
        if let Some(after) = after {
            if after > RETRY_AFTER_MAX {
                let reason = format!("{reason}, and asks to wait for {} s", after.as_secs());
                return Err(Error::Network { url: url.to_owned(), reason });
            }
            return Ok((after, reason));
        }
        let doubled = self.first.saturating_mul(1 << (self.attempts - 1)).min(DELAY_MAX);
        // Clients that were cut off together do not come back together.
        Ok((doubled.mul_f64(0.75 + 0.5 * fastrand::f64()), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::new(Duration::from_millis(100), 6);
        let mut waits = Vec::new();
        while let Ok((wait, _)) = backoff.delay(Failure::retry("cut"), "u") {
            waits.push(wait.as_millis());
        }
        assert_eq!(waits.len(), 5);
        for (attempt, wait) in waits.iter().enumerate() {
            let base = 100 << attempt;
            assert!((base * 3 / 4..=base * 5 / 4).contains(wait), "{waits:?}");
        }
        backoff.reset();
        let asked =
            |seconds| Failure::Retry { reason: "429".into(), after: Some(Duration::from_secs(seconds)) };
        assert_eq!(backoff.delay(asked(7), "u").expect("waits").0, Duration::from_secs(7));
        let message = backoff.delay(asked(3600), "u").expect_err("too long").to_string();
        assert!(message.contains("3600 s"), "{message}");
        let fatal = Failure::Fatal(Error::Client("x".into()));
        assert!(matches!(backoff.delay(fatal, "u"), Err(Error::Client(_))));
    }
}
