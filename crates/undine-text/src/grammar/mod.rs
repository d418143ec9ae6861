//! What an answer may be, as masks over the vocabulary: tool calls, JSON, regular expressions, grammars, and how long
//! a model may think before. Grammars are llguidance's; the rules for calls are made here.
//!
//! Invariant: a token that a mask allows is accepted; when a grammar is complete and cannot go on, the end tokens alone
//! are allowed; no control token is ever part of free text within a grammar.
//!
//! Times on 65,536 made-up tokens, random answers of 60 tokens, development build, two cores under other load
//! (`cargo test -p undine-text --test mask_times -- --ignored --nocapture`): a mask takes 13 us (p99 5.4 ms) for eight
//! tools of a nested schema and 12 us (p99 5.4 ms) for that schema as JSON. The 99th percentile is a lexer seeing a string
//! for the first time. Compiling takes 30 ms and 1.2 ms, 30 us when the rules came before; sorting the vocabulary 0.3 s.

mod answer;
mod call;
mod gbnf;
mod lark;
mod vocabulary;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::ParserLimits;
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;
use undine_core::{Constraint, TokenId};

use crate::stream::{THINK_END, THINK_START};
use crate::tools::{TOOL_CALL_START, ToolSet};
use crate::{Bos, TextError, Tokenizer};
use answer::{AnswerConstraint, Plan, Thinking};
use worker::MaskWorker;

/// Bytes of a JSON schema, written as JSON.
pub const SCHEMA_BYTES_MAX: usize = 512 * 1024;
/// Properties of one object of a schema, and of all: compiling takes time with the square of the former, 0.3 s for so many.
pub const PROPERTIES_MAX: usize = 1000;
/// See [`PROPERTIES_MAX`].
pub const PROPERTIES_SUM_MAX: usize = 5000;
/// Bytes of a grammar.
pub const GRAMMAR_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a regular expression.
pub const REGEX_BYTES_MAX: usize = 16 * 1024;
/// Choices of one request, and the bytes of all of them.
pub const CHOICES_MAX: usize = 4096;
/// See [`CHOICES_MAX`].
pub const CHOICE_BYTES_MAX: usize = 256 * 1024;

/// Work of one mask: parser items, and steps of the lexer (50 ms and 15 ms at the rates llguidance documents).
const MASK_ITEMS_MAX: usize = 50_000;
/// See [`MASK_ITEMS_MAX`].
const MASK_LEXER_FUEL: u64 = 200_000;
/// Work of compiling the lexer of one grammar (20 ms).
const LEXER_FUEL: u64 = 1_000_000;
/// States of one lexer, 1 to 2 kB each.
const LEXER_STATES_MAX: usize = 50_000;
/// Alternatives open at one place.
const ITEMS_IN_ROW_MAX: usize = 2000;
/// Symbols of one grammar.
const GRAMMAR_SYMBOLS_MAX: usize = 500_000;

/// Compiled grammars that are kept.
const GRAMMARS_KEPT_MAX: usize = 16;

/// How llguidance begins the text of an error that was a panic.
const LIBRARY_PANIC: &str = "panic: ";
/// What it puts between the text of a panic and where it happened.
const LIBRARY_BACKTRACE: &str = "\n<backtrace>";
/// What it writes in place of its inner state.
const LIBRARY_NOT_VERBOSE: &str = "<non-verbose/>";
/// Its name for a grammar that no token can begin.
const LIBRARY_NO_TEXT: &str = "NoExtensionBias";

/// What a model says when its time to think is over, before `</think>`: a thought that ends is followed by a better
/// answer than one that breaks off.
const THINKING_OVER: &str = "\n\nThat is all the time there is to think. The answer:\n";

/// What one answer may be.
#[derive(Clone, PartialEq, Debug)]
pub struct AnswerRules {
    /// The form of the text.
    pub format: AnswerFormat,
    /// The tools that may or must be called.
    pub tools: Option<ToolRules>,
    /// What comes before the answer.
    pub reasoning: ReasoningRules,
}

/// The form of an answer that calls no tool.
#[derive(Clone, PartialEq, Debug)]
pub enum AnswerFormat {
    /// Any text.
    Free,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(Json),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar: Lark with a rule `start`, or GBNF with a rule `root`.
    Grammar(String),
}

/// Whether an answer calls tools.
#[derive(Clone, PartialEq, Debug)]
pub struct ToolRules {
    /// The tools.
    pub set: Arc<ToolSet>,
    /// Which.
    pub choice: ToolChoice,
    /// How many calls.
    pub parallel: Parallel,
}

/// Which tools an answer calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToolChoice {
    /// The model decides; what it begins as a call is a valid one.
    Auto,
    /// The answer is a call.
    Required,
    /// The answer is a call of this tool.
    Named(String),
}

/// How many calls an answer makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parallel {
    /// Any number.
    Allowed,
    /// One.
    One,
}

/// What may come before the answer; its form holds after `</think>`. A vocabulary without these markers never thinks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReasoningRules {
    /// Nothing.
    None,
    /// The prompt ends in `<think>`.
    StartsInside {
        /// Tokens of the thought; then it is brought to its end.
        budget: Option<u32>,
    },
    /// The model may open a thought.
    MayThink {
        /// Tokens of the thought; then it is brought to its end.
        budget: Option<u32>,
    },
}

/// Compiles rules for one vocabulary. Share it in an `Arc`; it owns a thread that works masks out.
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    worker: Arc<MaskWorker>,
    /// The latest first.
    kept: Mutex<VecDeque<Kept>>,
    think: Option<(TokenId, TokenId)>,
    call_start: Option<TokenId>,
    /// The tokens of [`THINKING_OVER`].
    thinking_over: Vec<TokenId>,
}

/// Rules that were compiled; every answer under them begins afresh.
#[derive(Clone)]
pub struct CompiledRules {
    worker: Arc<MaskWorker>,
    plan: Plan,
    thinking: Option<Thinking>,
    over: Vec<TokenId>,
}

impl GrammarCompiler {
    /// Sorts the vocabulary and starts the thread.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, TextError> {
        let vocabulary: TokEnv = Arc::new(vocabulary::TokenTrie::new(&tokenizer)?);
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(grammar_error)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let think = tokenizer.token_id(THINK_START).zip(tokenizer.token_id(THINK_END));
        let worker = MaskWorker::start(tokenizer.eos(), tokenizer.vocab_size())
            .map_err(|error| TextError::Grammar(format!("no thread for masks could be started: {error}")))?;
        Ok(Self {
            think,
            call_start: tokenizer.token_id(TOOL_CALL_START),
            thinking_over: tokenizer.encode(THINKING_OVER, Bos::Omit),
            worker: Arc::new(worker),
            kept: Mutex::default(),
            factory,
            tokenizer,
        })
    }

    /// The constraint of one answer. An error says what in the rules cannot be enforced.
    pub fn compile(&self, rules: &AnswerRules) -> Result<Box<dyn Constraint>, TextError> {
        self.prepare(rules).map(|rules| rules.constraint())
    }

    /// The same for any number of answers: rules with large schemas take their time.
    pub fn prepare(&self, rules: &AnswerRules) -> Result<CompiledRules, TextError> {
        let plan = match self.prepared(rules)? {
            Prepared::Free => Plan::Free { calls: None },
            Prepared::Calls(calls) => {
                let start = self.call_start.ok_or_else(|| {
                    TextError::Grammar(format!(
                        "the vocabulary has no {TOOL_CALL_START} token, so no tool can be called"
                    ))
                })?;
                let parallel = rules.tools.as_ref().map_or(Parallel::Allowed, |tools| tools.parallel);
                Plan::Free { calls: Some(answer::FreeCalls::new(start, parallel, calls)) }
            }
            Prepared::Whole(whole) => Plan::Whole(whole),
        };
        let thinking = match (rules.reasoning, self.think) {
            (ReasoningRules::None, _) | (_, None) => None,
            (ReasoningRules::StartsInside { budget }, Some((start, end))) => {
                Some(Thinking { start, end, inside: answer::Inside::Yes, budget })
            }
            (ReasoningRules::MayThink { budget }, Some((start, end))) => {
                Some(Thinking { start, end, inside: answer::Inside::No, budget })
            }
        };
        Ok(CompiledRules {
            worker: Arc::clone(&self.worker),
            plan,
            thinking,
            over: self.thinking_over.clone(),
        })
    }

    /// The grammars of an answer, from those kept if these rules came lately: an agent sends its tools with every turn.
    fn prepared(&self, rules: &AnswerRules) -> Result<Prepared, TextError> {
        let is_same = |kept: &Kept| kept.format == rules.format && kept.tools == rules.tools;
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = lock().iter().find(|kept| is_same(kept)) {
            return Ok(kept.prepared.fresh());
        }
        let prepared = match lark::grammars(rules, &self.tokenizer)? {
            lark::Grammars::Free => return Ok(Prepared::Free),
            lark::Grammars::Calls(calls) => Prepared::Calls(self.matcher(calls)?),
            lark::Grammars::Whole(whole) => Prepared::Whole(self.matcher(whole)?),
        };
        let fresh = prepared.fresh();
        let mut kept = lock();
        kept.truncate(GRAMMARS_KEPT_MAX - 1);
        kept.push_front(Kept { format: rules.format.clone(), tools: rules.tools.clone(), prepared });
        Ok(fresh)
    }

    fn matcher(&self, grammar: llguidance::api::TopLevelGrammar) -> Result<Matcher, TextError> {
        let parser = self.factory.create_parser(grammar).map_err(grammar_error)?;
        let mut matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(grammar_error(error)),
            // A grammar that nothing can begin is found here, not in the middle of an answer.
            None => matcher.compute_mask_or_eos().map(|_| matcher).map_err(grammar_error),
        }
    }
}

impl CompiledRules {
    /// The constraint of one answer.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        let Self { worker, plan, thinking, over } = self;
        Box::new(AnswerConstraint::new(Arc::clone(worker), plan.clone(), *thinking, over))
    }
}

/// What rules come to, before any token.
enum Prepared {
    Free,
    Calls(Matcher),
    Whole(Matcher),
}

impl Prepared {
    /// A copy with a lexer of its own: a shared one would grow with every answer, up to its limit.
    fn fresh(&self) -> Self {
        match self {
            Prepared::Free => Prepared::Free,
            Prepared::Calls(calls) => Prepared::Calls(calls.deep_clone()),
            Prepared::Whole(whole) => Prepared::Whole(whole.deep_clone()),
        }
    }
}

/// Grammars of a request that may come again.
struct Kept {
    format: AnswerFormat,
    tools: Option<ToolRules>,
    prepared: Prepared,
}

fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: ITEMS_IN_ROW_MAX,
        initial_lexer_fuel: LEXER_FUEL,
        step_lexer_fuel: MASK_LEXER_FUEL,
        step_max_items: MASK_ITEMS_MAX,
        max_lexer_states: LEXER_STATES_MAX,
        max_grammar_size: GRAMMAR_SYMBOLS_MAX,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// The library's message as one about the request. Its panics, which it catches, are errors of this program.
fn grammar_error(error: impl std::fmt::Display) -> TextError {
    let text = format!("{error:#}");
    if let Some(panic) = text.strip_prefix(LIBRARY_PANIC) {
        let message = panic.split(LIBRARY_BACKTRACE).next().unwrap_or_default();
        return TextError::GrammarPanic(message.trim_end().to_owned());
    }
    let reason = match text.trim_end().trim_end_matches(LIBRARY_NOT_VERBOSE).trim_end() {
        LIBRARY_NO_TEXT => "no text fits it: every way through it is endless, or forbids every character",
        reason => reason,
    };
    TextError::Grammar(format!("the form of the answer cannot be enforced: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_library_is_no_fault_of_the_request() {
        let text = "panic: index out of bounds\n<backtrace>\n0: somewhere\n</backtrace>\n<non-verbose/>";
        match grammar_error(text) {
            TextError::GrammarPanic(message) => assert_eq!(message, "index out of bounds"),
            other => panic!("{other}"),
        }
    }
}
