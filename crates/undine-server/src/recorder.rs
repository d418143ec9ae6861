//! Records one answer while it is given, so that the next turn can be made of its tokens.

use std::sync::Arc;

use undine_core::{FinishReason, TokenId};
use undine_text::Tokenizer;
use undine_text::stream::{THINK_END, THINK_START};

use crate::generation::{CallDelta, Delta};
use crate::state::Ready;
use crate::turns::{Answer, Call, KeptTurns, Place, Turn};

/// An answer as far as it is known, as the client and as the model see it.
pub(crate) struct Recorder {
    turns: Arc<KeptTurns>,
    tokenizer: Arc<Tokenizer>,
    place: Place,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) answer: Answer,
}

impl Recorder {
    /// Begins where the prompt ends; `None` without text.
    pub(crate) fn new(ready: &Ready, place: Place) -> Option<Self> {
        let tokenizer = ready.model.tokenizer.clone()?;
        let turns = Arc::clone(&ready.turns);
        Some(Self { turns, tokenizer, place, tokens: Vec::new(), answer: Answer::default() })
    }

    /// Keeps the answer, without the token that ended it. One that a stop string cut off has tokens of its
    /// own.
    pub(crate) fn keep(self, finish: Option<FinishReason>) {
        let Self { turns, tokenizer, place, mut tokens, answer } = self;
        match finish {
            Some(FinishReason::Eos | FinishReason::StopToken(_)) => drop(tokens.pop()),
            Some(FinishReason::MaxTokens | FinishReason::ContextFull) => {}
            Some(FinishReason::Cancelled | FinishReason::ConstraintFailed) | None => return,
        }
        let bytes = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
        // Text that is not UTF-8 never comes back as it was.
        let Ok(text) = String::from_utf8(bytes) else { return };
        let Some(thought) = thought_end(&text, &answer.reasoning) else { return };
        turns.keep(Turn { place, text, tokens, thought, answer });
    }
}

/// Where the thought of an answer ends, the white space after it included; `None` if that is not certain.
fn thought_end(text: &str, reasoning: &str) -> Option<usize> {
    let count = |marker: &str| text.matches(marker).count();
    match (count(THINK_START), count(THINK_END)) {
        (0, 0) if reasoning.is_empty() => Some(0),
        (0 | 1, 1) => {
            let (before, after) = text.split_once(THINK_END)?;
            Some(before.len() + THINK_END.len() + (after.len() - after.trim_start().len()))
        }
        _ => None,
    }
}

impl Answer {
    /// Takes what a client has been given.
    pub(crate) fn add(&mut self, delta: &Delta) {
        self.content.push_str(&delta.content);
        self.reasoning.push_str(&delta.reasoning);
        for call in &delta.calls {
            match call {
                CallDelta::Begun { index, id, name } => {
                    let (index, id, name) = (*index, id.clone(), name.clone());
                    self.calls.push(Call { index, id, name, arguments: String::new() });
                }
                CallDelta::Arguments { index, json } => {
                    if let Some(call) = self.calls.iter_mut().rfind(|call| call.index == *index) {
                        call.arguments.push_str(json);
                    }
                }
                CallDelta::Aborted { index } => self.calls.retain(|call| call.index != *index),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_thought() {
        for (text, reasoning, end) in [
            ("hi", "", Some(0)),
            ("thought", "thought", None),
            ("hm</think>\n\nhi", "hm", Some(12)),
            ("<think>hm</think>hi", "hm", Some(17)),
            ("hm</think> a </think>", "hm", None),
            ("<think>hm", "hm", None),
        ] {
            assert_eq!(thought_end(text, reasoning), end, "{text}");
        }
    }
}
