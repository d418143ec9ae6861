//! The grammar library at work: rules to grammars, grammars to matchers. Runs in a helper process first, to
//! see whether it ends, and only then where the answers are made.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};

use super::lark::{self, Detail, Outlined};
use super::vocabulary::{CallMarkers, TokenTrie, Words};
use super::{AnswerFormat, ToolChoice, ToolRules};
use crate::TextError;
use crate::tools::{Tool, ToolSet};

/// Work of one mask: parser items, and steps of the lexer (50 ms and 15 ms at the rates llguidance
/// documents).
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

/// Bytes that a compiled grammar is taken to have for each byte of its text, beside its lexer: an estimate,
/// on the high side.
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

/// Grammars, and what of the schemas that they were made of they do not enforce.
#[derive(Clone, Serialize, Deserialize)]
pub struct Made {
    pub grammars: Grammars,
    /// Places in schemas, with the name of the tool in front if it is one's.
    pub left_out: Vec<String>,
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

    /// The grammars of an answer, seen to compile. Schemas that nobody demands as a whole are simplified
    /// until they do.
    pub fn try_out(&self, format: &AnswerFormat, tools: Option<&ToolRules>) -> Result<Made, TextError> {
        let make = |outlined: &Outlined| {
            let made = lark::grammars(format, tools, self.markers, outlined)?;
            self.check(&made.grammars).map(|()| made)
        };
        match make(&Outlined::default()) {
            Err(TextError::Grammar(why)) => {
                let outlined = self.too_much(format, tools);
                if outlined == Outlined::default() {
                    return Err(TextError::Grammar(why));
                }
                make(&outlined).map_err(|_| TextError::Grammar(why))
            }
            result => result,
        }
    }

    fn check(&self, grammars: &Grammars) -> Result<(), TextError> {
        match grammars {
            Grammars::Free => Ok(()),
            Grammars::Calls(grammar) | Grammars::Whole(grammar) => self.compile(grammar.clone()).map(drop),
        }
    }

    /// Whose schemas do not compile alone; all of them, if each does.
    fn too_much(&self, format: &AnswerFormat, tools: Option<&ToolRules>) -> Outlined {
        let is_too_much = |format: &AnswerFormat, tools: Option<&ToolRules>| {
            let made = lark::grammars(format, tools, self.markers, &Outlined::default());
            made.and_then(|made| self.check(&made.grammars)).is_err()
        };
        let has_schema = matches!(format, AnswerFormat::JsonSchema(..));
        let all = tools.map_or(&[][..], |tools| tools.set.tools());
        let alone = |tool: &&Tool| {
            let set = Arc::new(ToolSet::of_one((*tool).clone()));
            let tools = tools.map(|tools| ToolRules { set, choice: ToolChoice::Required, ..tools.clone() });
            is_too_much(&AnswerFormat::Free, tools.as_ref())
        };
        let names = |tools: Vec<&Tool>| tools.iter().map(|tool| tool.name().to_owned()).collect();
        let found = Outlined {
            answer: if has_schema && is_too_much(format, None) { Detail::Outline } else { Detail::All },
            tools: names(all.iter().filter(alone).collect()),
        };
        if found != Outlined::default() {
            return found;
        }
        let answer = if has_schema { Detail::Outline } else { Detail::All };
        Outlined { answer, tools: names(all.iter().collect()) }
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
