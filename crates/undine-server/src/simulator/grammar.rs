//! Constraints as a grammar would make them: masks that come at once, late, or never because their maker gave
//! up, and tokens that are refused. Who works out masks is the [`Desk`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use undine_core::{Constraint, ConstraintError, MaskPromise, TokenId, TokenMask};

use super::device::mix;
use super::plan::VOCAB;

/// Ticks after which a mask is there, at the most.
const LATE_MAX: u64 = 6;

/// What a constraint allows.
#[derive(Clone, Debug)]
pub struct Rules {
    seed: u64,
    /// The place whose token is refused.
    refuses_at: Option<u32>,
    /// The place whose mask is never worked out: a token follows that nobody chose, and is refused.
    gives_up_at: Option<u32>,
    promises: Promises,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promises {
    Kept,
    KeptLate,
}

impl Rules {
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            seed: rng.u64(..8),
            refuses_at: (rng.u32(..5) == 0).then(|| rng.u32(..12)),
            gives_up_at: (rng.u32(..5) == 0).then(|| rng.u32(..12)),
            promises: if rng.bool() { Promises::Kept } else { Promises::KeptLate },
        }
    }
}

/// Where masks are worked out while the device computes.
#[derive(Default)]
pub struct Desk {
    now: u64,
    open: Vec<Work>,
}

struct Work {
    due: u64,
    mask: TokenMask,
    promise: MaskPromise,
    /// None: it will be given up.
    words: Option<Vec<u32>>,
}

impl Desk {
    /// Some time passes.
    pub fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        for work in self.open.extract_if(.., |work| work.due <= now) {
            match work.words {
                Some(words) => work.promise.fulfil(words),
                None => drop(work.promise),
            }
        }
    }

    pub fn is_open(&self, mask: &TokenMask) -> bool {
        self.open.iter().any(|work| work.mask == *mask)
    }
}

/// What a constraint shares with the world.
pub type SharedDesk = Arc<Mutex<Desk>>;

pub fn lock(desk: &SharedDesk) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A constraint that follows its [`Rules`].
pub struct Grammar {
    rules: Rules,
    /// Without one every mask is there when it is asked for: for an answer without an engine.
    desk: Option<SharedDesk>,
    asked: u32,
    accepted: u32,
    /// The answer so far.
    chain: u64,
}

impl Grammar {
    /// For the engine.
    pub fn new(rules: Rules, desk: &SharedDesk) -> Self {
        Self { desk: Some(Arc::clone(desk)), ..Self::alone(rules) }
    }

    /// For the answer by the definition.
    pub fn alone(rules: Rules) -> Self {
        Self { chain: rules.seed, rules, desk: None, asked: 0, accepted: 0 }
    }

    /// Some tokens, at least one.
    fn words(&self) -> Vec<u32> {
        let hash = mix(self.chain, 7) as u32 & ((1 << VOCAB) - 1);
        vec![if hash == 0 { 1 } else { hash }]
    }
}

impl Constraint for Grammar {
    fn allowed(&mut self) -> Option<TokenMask> {
        assert_eq!(self.asked, self.accepted, "asked before the last token was accepted, or twice");
        self.asked += 1;
        let gives_up = self.rules.gives_up_at == Some(self.accepted);
        // Some places are free.
        if !gives_up && self.chain.is_multiple_of(4) {
            return None;
        }
        let words = (!gives_up).then(|| self.words());
        let late = mix(self.chain, 9) % LATE_MAX;
        match &self.desk {
            Some(desk) if gives_up || self.rules.promises == Promises::KeptLate => {
                let (mask, promise) = TokenMask::pending();
                let mut desk = lock(desk);
                let due = desk.now + late;
                desk.open.push(Work { due, mask: mask.clone(), promise, words });
                Some(mask)
            }
            _ => Some(TokenMask::ready(words.unwrap_or_default())),
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        let place = self.accepted;
        assert_eq!(self.asked, place + 1, "a token that nobody asked for");
        self.accepted += 1;
        self.chain = mix(self.chain, token.into());
        if [self.rules.refuses_at, self.rules.gives_up_at].contains(&Some(place)) {
            return Err(ConstraintError("it does not follow".to_owned()));
        }
        Ok(())
    }
}
