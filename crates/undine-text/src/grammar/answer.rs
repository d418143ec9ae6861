//! One answer, token by token: thought, then text or a grammar.

use std::sync::Arc;

use llguidance::Matcher;
use undine_core::{Constraint, ConstraintError, TokenId, TokenMask};

use super::Parallel;
use super::worker::{MaskWorker, Matching};

/// What follows the thought.
#[derive(Clone)]
pub enum Plan {
    /// Any text; within it valid calls.
    Free { calls: Option<FreeCalls> },
    /// Text of a grammar.
    Whole(Matcher),
}

/// Calls within free text.
#[derive(Clone)]
pub struct FreeCalls {
    start: TokenId,
    parallel: Parallel,
    /// What comes after the start marker, fresh for every list.
    grammar: Matcher,
    /// Lists that were completed.
    made: usize,
}

impl FreeCalls {
    pub fn new(start: TokenId, parallel: Parallel, grammar: Matcher) -> Self {
        Self { start, parallel, grammar, made: 0 }
    }

    fn is_used_up(&self) -> bool {
        self.parallel == Parallel::One && self.made > 0
    }
}

/// Whether the prompt ends within a thought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    Yes,
    No,
}

/// The markers of a thought and how long it may be.
#[derive(Clone, Copy)]
pub struct Thinking {
    pub start: TokenId,
    pub end: TokenId,
    pub inside: Inside,
    pub budget: Option<u32>,
}

/// Where the answer is.
enum Phase {
    /// In the thought, so many tokens after its marker.
    Thought {
        tokens: u32,
    },
    /// The thought is being ended; so many tokens of the words for it are out.
    Closing {
        said: usize,
    },
    /// In free text.
    Text,
    /// In a call within free text.
    Call(Matching),
    /// In the grammar of the whole answer, before its first token or after it.
    Begin(Matching),
    Whole(Matching),
    /// After an end token.
    Over,
}

pub struct AnswerConstraint {
    worker: Arc<MaskWorker>,
    plan: Plan,
    thinking: Option<Thinking>,
    /// What ends a thought whose budget is spent: words, and the marker.
    closing: Vec<TokenId>,
    phase: Phase,
}

impl AnswerConstraint {
    pub fn new(worker: Arc<MaskWorker>, plan: Plan, thinking: Option<Thinking>, over: &[TokenId]) -> Self {
        let mut closing = Vec::new();
        if let Some(thinking) = thinking {
            closing.extend_from_slice(over);
            closing.push(thinking.end);
        }
        let mut answer = Self { worker, plan, thinking, closing, phase: Phase::Over };
        answer.phase = match thinking {
            Some(Thinking { inside: Inside::Yes, .. }) => Phase::Thought { tokens: 0 },
            _ => answer.begin(),
        };
        answer.check_budget();
        answer
    }

    fn begin(&self) -> Phase {
        match &self.plan {
            Plan::Free { .. } => Phase::Text,
            Plan::Whole(grammar) => Phase::Begin(Matching::new(grammar.clone())),
        }
    }

    /// An answer that must have a form has one thought before it, or it might never come to its form.
    fn after_thought(&mut self) -> Phase {
        if matches!(self.plan, Plan::Whole(_)) {
            self.thinking = None;
        }
        self.begin()
    }

    /// Ends the thought if its budget is spent. One that has not begun needs no words.
    fn check_budget(&mut self) {
        if let (&Phase::Thought { tokens }, Some(budget)) =
            (&self.phase, self.thinking.and_then(|t| t.budget))
            && tokens >= budget
        {
            self.phase = Phase::Closing { said: if tokens == 0 { self.closing.len() - 1 } else { 0 } };
        }
    }

    fn think_start(&self) -> Option<TokenId> {
        self.thinking.map(|thinking| thinking.start)
    }

    /// After an end token a grammar is over; in free text the engine decides what follows one.
    fn end(&mut self, matching: &Matching, token: TokenId) -> Result<Phase, ConstraintError> {
        if matching.is_accepting() || matching.is_over() {
            return Ok(Phase::Over);
        }
        Err(ConstraintError(format!("the answer ended (token {token}) before it was complete")))
    }

    fn next(&mut self, token: TokenId) -> Result<Phase, ConstraintError> {
        let is_end = self.worker.eos().contains(&token);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Thought { tokens } => match self.thinking {
                Some(thinking) if thinking.end == token => Ok(self.after_thought()),
                _ => Ok(Phase::Thought { tokens: tokens + 1 }),
            },
            Phase::Closing { said } if self.closing.get(said) != Some(&token) => {
                Err(ConstraintError(format!("token {token} does not end the thought")))
            }
            Phase::Closing { said } if said + 1 == self.closing.len() => Ok(self.after_thought()),
            Phase::Closing { said } => Ok(Phase::Closing { said: said + 1 }),
            Phase::Text if self.think_start() == Some(token) => Ok(Phase::Thought { tokens: 0 }),
            Phase::Text => match &self.plan {
                Plan::Free { calls: Some(calls) } if calls.start == token => {
                    if calls.is_used_up() {
                        return Err(ConstraintError("only one tool may be called".to_owned()));
                    }
                    Ok(Phase::Call(Matching::new(calls.grammar.clone())))
                }
                _ => Ok(Phase::Text),
            },
            Phase::Call(matching) => {
                matching.accept(token)?;
                if !matching.is_over() {
                    return Ok(Phase::Call(matching));
                }
                if let Plan::Free { calls: Some(calls) } = &mut self.plan {
                    calls.made += 1;
                }
                Ok(Phase::Text)
            }
            Phase::Begin(_) if self.think_start() == Some(token) => Ok(Phase::Thought { tokens: 0 }),
            Phase::Begin(matching) | Phase::Whole(matching) => {
                if is_end {
                    return self.end(&matching, token);
                }
                matching.accept(token)?;
                Ok(Phase::Whole(matching))
            }
            Phase::Over if is_end => Ok(Phase::Over),
            Phase::Over => Err(ConstraintError("the answer is over".to_owned())),
        }
    }
}

impl Constraint for AnswerConstraint {
    fn allowed(&mut self) -> Option<TokenMask> {
        match (&self.phase, &self.plan) {
            (Phase::Thought { .. }, Plan::Free { .. }) => None,
            // An answer that must have a form does not end within the thought before it.
            (Phase::Thought { .. }, Plan::Whole(_)) => Some(self.worker.without(self.worker.eos())),
            (&Phase::Closing { said }, _) => Some(self.worker.only(&self.closing[said..=said])),
            (Phase::Text, Plan::Free { calls: Some(calls) }) if calls.is_used_up() => {
                Some(self.worker.without(&[calls.start]))
            }
            (Phase::Text, _) => None,
            (Phase::Begin(matching), _) => {
                let think = self.thinking.filter(|thinking| thinking.inside == Inside::No);
                Some(self.worker.mask(matching, think.map(|thinking| thinking.start)))
            }
            (Phase::Call(matching) | Phase::Whole(matching), _) => Some(self.worker.mask(matching, None)),
            (Phase::Over, _) => Some(self.worker.only(self.worker.eos())),
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        self.phase = self.next(token)?;
        self.check_budget();
        Ok(())
    }
}
