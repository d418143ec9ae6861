//! Answers drawn from the masks of a compiled grammar: what a mask allows is accepted, and what ends is as
//! asked for.

use std::sync::{Arc, LazyLock};

use undine_core::Constraint;
use undine_text::{
    AnswerFormat, AnswerRules, Cancel, GrammarCompiler, MaskWorker, ReasoningRules, SpecialText, Tokenizer,
    ToolRules,
};

use crate::{draw, helpers, vocabulary};

/// Tokens of an answer; then it is left as it is.
const TOKENS_MAX: usize = 24;

/// A small vocabulary with the markers of tool calls, and what compiles for it.
struct Model {
    tokenizer: Arc<Tokenizer>,
    /// Tries rules out in a helper, as the program does.
    apart: GrammarCompiler,
    /// Works on them in this process only.
    here: GrammarCompiler,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let tokenizer = vocabulary::with_tools();
    let masks = Arc::new(MaskWorker::start(&tokenizer).expect("there is a thread"));
    let apart = GrammarCompiler::with(&tokenizer, masks, Some((helpers::program(), helpers::BUDGET)));
    let here = GrammarCompiler::new(&tokenizer);
    let good = "the vocabulary is good";
    let model = Model { tokenizer, apart: apart.expect(good), here: here.expect(good) };
    // Otherwise everything would count as contained.
    let tried = model.apart.compile(&rules(AnswerFormat::JsonObject, None));
    drop(tried.expect("helpers work"));
    model
});

fn rules(format: AnswerFormat, tools: Option<ToolRules>) -> AnswerRules {
    AnswerRules { format, tools, reasoning: ReasoningRules::None }
}

/// Compiles rules, in a helper first, and draws an answer. Its text, if it came to its end.
pub fn answer(format: AnswerFormat, tools: Option<ToolRules>, seed: u64) -> Option<String> {
    let rules = rules(format, tools);
    let model = &*MODEL;
    if model.apart.prepare(&rules, &Cancel::default()).is_err_and(|error| helpers::is_contained(&error)) {
        return None;
    }
    // Also what was refused, as the ways to the refusal are of interest.
    let compiled = helpers::here(|| model.here.prepare(&rules, &Cancel::default()));
    walk(&mut *compiled.ok()?.constraint(), seed)
}

fn walk(constraint: &mut dyn Constraint, mut state: u64) -> Option<String> {
    let tokenizer = &MODEL.tokenizer;
    let mut ids = Vec::new();
    for _ in 0..TOKENS_MAX {
        let mask = constraint.allowed();
        let words = mask.as_ref().map_or(&[][..], |mask| mask.wait());
        if mask.is_some() && words.is_empty() {
            assert!(constraint.accept(0).is_err(), "a mask that failed says so");
            return None;
        }
        let is_allowed = |id: &u32| {
            words.is_empty() || words.get(*id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
        };
        let allowed: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(is_allowed).collect();
        assert!(!allowed.is_empty(), "nothing is allowed, not even the end");
        // The end is taken when it comes, half of the time: otherwise few answers have one.
        let end = allowed.iter().copied().find(|id| tokenizer.eos().contains(id));
        let id = match end {
            Some(end) if draw(&mut state, 2) == 0 => end,
            _ => allowed[draw(&mut state, allowed.len())],
        };
        constraint.accept(id).unwrap_or_else(|error| panic!("token {id} was allowed but refused: {error}"));
        if tokenizer.eos().contains(&id) {
            return Some(tokenizer.decode(&ids, SpecialText::Keep));
        }
        ids.push(id);
    }
    None
}
