//! The grammar library at work: rules to grammars, grammars to matchers. Runs in a helper process first, to see whether it
//! ends, and only then where the answers are made.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};

use super::lark;
use super::vocabulary::{CallMarkers, TokenTrie, Words};
use super::{AnswerFormat, ToolRules};
use crate::TextError;

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

/// Bytes that a compiled grammar is taken to have for each byte of its text, beside its lexer: an estimate, on the high side.
const BYTES_PER_TEXT_BYTE: usize = 64;

/// How llguidance begins the text of an error that was a panic.
const LIBRARY_PANIC: &str = "panic: ";
/// What it puts between the text of a panic and where it happened.
const LIBRARY_BACKTRACE: &str = "\n<backtrace>";
/// What it writes in place of its inner state.
const LIBRARY_NOT_VERBOSE: &str = "<non-verbose/>";
/// Its name for a grammar that no token can begin.
const LIBRARY_NO_TEXT: &str = "NoExtensionBias";

/// What the rules of an answer come to.
#[derive(Clone, Serialize, Deserialize)]
pub enum Grammars {
    /// Nothing is restricted.
    Free,
    /// Free text; after a start marker, this.
    Calls(TopLevelGrammar),
    /// The whole answer.
    Whole(TopLevelGrammar),
}

/// A grammar that is ready to work, and about how much memory it takes.
pub struct Compiled {
    pub matcher: Matcher,
    pub bytes: usize,
}

/// The library, for one vocabulary.
pub struct Library {
    factory: ParserFactory,
    markers: CallMarkers,
}

impl Library {
    /// Sorts the vocabulary.
    pub fn new(words: &Words) -> Result<Self, TextError> {
        let vocabulary: TokEnv = Arc::new(TokenTrie(words.trie()));
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(grammar_error)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, markers: words.markers })
    }

    /// The grammars of an answer. The library is asked on the way which schemas it takes.
    pub fn grammars(&self, format: &AnswerFormat, tools: Option<&ToolRules>) -> Result<Grammars, TextError> {
        lark::grammars(format, tools, self.markers)
    }

    /// The same, seen to compile.
    pub fn try_out(&self, format: &AnswerFormat, tools: Option<&ToolRules>) -> Result<Grammars, TextError> {
        let grammars = self.grammars(format, tools)?;
        match &grammars {
            Grammars::Free => {}
            Grammars::Calls(grammar) | Grammars::Whole(grammar) => drop(self.compile(grammar.clone())?),
        }
        Ok(grammars)
    }

    pub fn compile(&self, grammar: TopLevelGrammar) -> Result<Compiled, TextError> {
        let text_bytes = text_bytes(&grammar);
        let parser = self.factory.create_parser(grammar).map_err(grammar_error)?;
        let bytes = parser.parser.lexer_stats().num_bytes + text_bytes * BYTES_PER_TEXT_BYTE;
        let mut matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(grammar_error(error)),
            // A grammar that nothing can begin is found here, not in the middle of an answer.
            None => {
                matcher.compute_mask_or_eos().map_err(grammar_error)?;
                Ok(Compiled { matcher, bytes })
            }
        }
    }
}

fn text_bytes(grammar: &TopLevelGrammar) -> usize {
    let of = |part: &llguidance::api::GrammarWithLexer| {
        let schema = part.json_schema.as_ref().map_or(0, |schema| schema.to_string().len());
        schema + part.lark_grammar.as_ref().map_or(0, String::len)
    };
    grammar.grammars.iter().map(of).sum()
}

pub fn limits() -> ParserLimits {
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
