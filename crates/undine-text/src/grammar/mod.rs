//! What an answer may be, as masks over the vocabulary: tool calls, JSON, regular expressions, grammars, and
//! how long a model may think before. Grammars are llguidance's; the rules for calls are made here.
//!
//! Invariant: a token that a mask allows is accepted; when a grammar is complete and cannot go on, the end
//! tokens alone are allowed; no control token is ever part of free text within a grammar.
//!
//! Times on 65,536 made-up tokens, random answers of 60 tokens, development build, two cores under other load
//! (`cargo test -p undine-text --test mask_times -- --ignored --nocapture`): a mask takes 13 us (p99 5.4 ms)
//! for eight tools of a nested schema and 12 us (p99 5.4 ms) for that schema as JSON. The 99th percentile is
//! a lexer seeing a string for the first time. Compiling takes 30 ms and 1.2 ms, 30 us when the rules came
//! before; sorting the vocabulary 0.3 s.

mod answer;
mod call;
mod gbnf;
mod lark;
mod library;
mod measure;
mod measure_text;
mod numbers;
mod schema;
mod vocabulary;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use undine_core::{Constraint, TokenId};
use undine_helper::{Budget, Cancel, Helpers, Program, Urgency, in_background};

use crate::helper::{self, JobRef, Reply};
use crate::stream::{THINK_END, THINK_START};
use crate::tools::{Strictness, TOOL_CALL_START, ToolSet};
use crate::{Bos, TextError, Tokenizer};
use answer::{AnswerConstraint, Plan, Thinking};
use library::Grammars;
pub(crate) use library::{Library, Made};
pub(crate) use vocabulary::Words;
pub use worker::MaskWorker;

/// Bytes of a JSON schema, written as JSON.
pub const SCHEMA_BYTES_MAX: usize = 512 * 1024;
/// Properties of one object of a schema, and of all: compiling takes time with the square of the former, 0.3
/// s for so many.
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

/// Compiled grammars that are kept.
const GRAMMARS_KEPT_MAX: usize = 16;
/// Bytes of all of them.
const GRAMMARS_KEPT_BYTES_MAX: usize = 32 << 20;

/// What finding out whether rules compile may take, and so what compiling them takes afterwards.
pub const BUDGET: Budget = Budget { cpu_seconds: 1, memory_mib: 512, wall: Duration::from_secs(30) };
/// What a helper may take to sort a vocabulary.
const SETUP_BUDGET: Budget = Budget { cpu_seconds: 20, memory_mib: 2048, wall: Duration::from_secs(60) };

/// Stack of every thread on which the library works with rules that compiled in a helper's: twice as much, so
/// that what was enough there is enough here. It is address space until it is used.
pub const STACK_BYTES: usize = 2 * undine_helper::STACK_BYTES;

/// What a model says when its time to think is over, before `</think>`: a thought that ends is followed by a
/// better answer than one that breaks off.
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
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum AnswerFormat {
    /// Any text.
    Free,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes, and whether all of it must be enforced.
    JsonSchema(Json, Strictness),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a grammar: Lark with a rule `start`, or GBNF with a rule `root`.
    Grammar(String),
}

/// Whether an answer calls tools.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ToolRules {
    /// The tools.
    pub set: Arc<ToolSet>,
    /// Which.
    pub choice: ToolChoice,
    /// How many calls.
    pub parallel: Parallel,
}

/// Which tools an answer calls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToolChoice {
    /// The model decides; what it begins as a call is a valid one.
    Auto,
    /// The answer is a call.
    Required,
    /// The answer is a call of this tool.
    Named(String),
}

/// How many calls an answer makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Parallel {
    /// Any number.
    Allowed,
    /// One.
    One,
}

/// What may come before the answer; its form holds after `</think>`. A vocabulary without these markers never
/// thinks.
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
    library: Library,
    /// Where rules are tried out; without them they are trusted to end.
    helpers: Option<Helpers>,
    worker: Arc<MaskWorker>,
    kept: Mutex<KeptGrammars>,
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
    left_out: Arc<[String]>,
}

impl GrammarCompiler {
    /// Sorts the vocabulary and starts the thread. Rules are compiled in this process at once: for such as
    /// are trusted not to exhaust it.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        Self::with(tokenizer, Arc::new(MaskWorker::start(tokenizer)?), None)
    }

    /// The same with masks from a thread that is there, and for any rules if there is a program for helper
    /// processes: in those they are tried out first. The budget is for one trial; [`BUDGET`] is a sensible
    /// one.
    pub fn with(
        tokenizer: &Tokenizer,
        masks: Arc<MaskWorker>,
        isolation: Option<(Program, Budget)>,
    ) -> Result<Self, TextError> {
        let words = Words::new(tokenizer)?;
        let helpers = isolation.map(|(program, budget)| {
            let helpers = Helpers::new(program, Urgency::Background, budget);
            helpers.with_setup(helper::vocabulary(&words), SETUP_BUDGET)
        });
        let library = std::thread::scope(|scope| {
            if let Some(helpers) = &helpers {
                // A helper sorts the vocabulary while this process does. What stands in its way is told when
                // one is needed.
                let thread = std::thread::Builder::new();
                drop(thread.spawn_scoped(scope, || drop(helpers.warm())));
            }
            Library::new(&words)
        })?;
        let think = tokenizer.token_id(THINK_START).zip(tokenizer.token_id(THINK_END));
        Ok(Self {
            library,
            helpers,
            worker: masks,
            kept: Mutex::default(),
            think,
            call_start: tokenizer.token_id(TOOL_CALL_START),
            thinking_over: tokenizer.encode(THINKING_OVER, Bos::Omit),
        })
    }

    /// The constraint of one answer. An error says what in the rules cannot be enforced.
    pub fn compile(&self, rules: &AnswerRules) -> Result<Box<dyn Constraint>, TextError> {
        self.prepare(rules, &Cancel::default()).map(|rules| rules.constraint())
    }

    /// Whether these rules, or what of them needs a grammar, were compiled lately, or need none: then
    /// [`Self::prepare`] takes no time.
    pub fn is_at_hand(&self, rules: &AnswerRules) -> bool {
        (rules.format == AnswerFormat::Free && rules.tools.is_none()) || self.find(rules).is_some()
    }

    /// The same for any number of answers: rules with large schemas take their time.
    pub fn prepare(&self, rules: &AnswerRules, cancel: &Cancel) -> Result<CompiledRules, TextError> {
        let (prepared, left_out) = self.prepared(rules, cancel)?;
        let plan = match prepared {
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
            left_out,
        })
    }

    /// The grammars of an answer, from those kept if these rules came lately: an agent sends its tools with
    /// every turn.
    fn prepared(&self, rules: &AnswerRules, cancel: &Cancel) -> Result<(Prepared, Arc<[String]>), TextError> {
        if let Some(found) = self.find(rules) {
            return Ok(found);
        }
        measure::check(rules)?;
        let Made { grammars, left_out } = self.grammars(rules, cancel)?;
        let (prepared, bytes) = match grammars {
            Grammars::Free => return Ok((Prepared::Free, Arc::default())),
            Grammars::Calls(calls) => {
                let compiled = self.compile_apart(calls)?;
                (Prepared::Calls(compiled.matcher), compiled.bytes)
            }
            Grammars::Whole(whole) => {
                let compiled = self.compile_apart(whole)?;
                (Prepared::Whole(compiled.matcher), compiled.bytes)
            }
        };
        let fresh = prepared.fresh();
        let left_out: Arc<[String]> = left_out.into();
        let (format, tools) = (rules.format.clone(), rules.tools.clone());
        let kept = Kept { format, tools, prepared, left_out: Arc::clone(&left_out), bytes };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(kept);
        Ok((fresh, left_out))
    }

    fn find(&self, rules: &AnswerRules) -> Option<(Prepared, Arc<[String]>)> {
        let is_same = |kept: &&Kept| kept.format == rules.format && kept.tools == rules.tools;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.0.iter().find(is_same)?;
        Some((found.prepared.fresh(), Arc::clone(&found.left_out)))
    }

    fn grammars(&self, rules: &AnswerRules, cancel: &Cancel) -> Result<Made, TextError> {
        let AnswerRules { format, tools, .. } = rules;
        let Some(helpers) = &self.helpers else { return self.library.try_out(format, tools.as_ref()) };
        let job = JobRef::Rules { format, tools: tools.as_ref() };
        match helper::call(helpers, &job, cancel).map_err(TextError::of_grammar)?? {
            Reply::Rules(made) => Ok(made),
            _ => Err(TextError::confused()),
        }
    }

    /// On a thread that has the stack for it and comes after everything else.
    fn compile_apart(&self, grammar: TopLevelGrammar) -> Result<library::Compiled, TextError> {
        let compiled = in_background("undine-grammar", STACK_BYTES, || self.library.compile(grammar));
        compiled
            .map_err(|error| TextError::Helper(error.into()))?
            .unwrap_or_else(|_| Err(TextError::GrammarPanic("the reason is on standard error".to_owned())))
    }
}

impl CompiledRules {
    /// What of the schemas is not enforced, because no grammar can follow it: places such as
    /// `properties.tags.uniqueItems`, with the name of the tool in front if it is one's.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The constraint of one answer.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        let Self { worker, plan, thinking, over, .. } = self;
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
    left_out: Arc<[String]>,
    /// About.
    bytes: usize,
}

/// The latest first.
#[derive(Default)]
struct KeptGrammars(VecDeque<Kept>);

impl KeptGrammars {
    fn keep(&mut self, new: Kept) {
        let Self(kept) = self;
        if new.bytes > GRAMMARS_KEPT_BYTES_MAX {
            return;
        }
        kept.push_front(new);
        let bytes = |kept: &VecDeque<Kept>| kept.iter().map(|kept| kept.bytes).sum::<usize>();
        while kept.len() > GRAMMARS_KEPT_MAX || bytes(kept) > GRAMMARS_KEPT_BYTES_MAX {
            kept.pop_back();
        }
    }
}
