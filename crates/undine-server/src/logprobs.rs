//! Log-probabilities in the three shapes clients read: OpenAI's for chat, OpenAI's older one for completions,
//! and vLLM's for prompts. All are natural logarithms of the model's own probabilities, before penalties and
//! temperature.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use undine_core::{RowOutput, TokenId, TokenScore};
use undine_text::{Detokenizer, SpecialText, Tokenizer};

use crate::wire::common::TokenNames;

/// What is sent for a token that cannot occur: JSON has no negative infinity. The value is vLLM's.
pub(crate) const LOGPROB_MIN: f32 = -9999.0;

/// Texts of tokens, in the way the request wants them.
#[derive(Clone)]
pub(crate) struct TokenTexts {
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) names: TokenNames,
}

impl TokenTexts {
    /// A token's name: its text, with U+FFFD for parts of characters, or its id.
    pub(crate) fn name(&self, token: TokenId) -> String {
        match (&self.tokenizer, self.names) {
            (Some(tokenizer), TokenNames::Text) => {
                String::from_utf8_lossy(tokenizer.token_bytes(token)).into_owned()
            }
            _ => format!("token_id:{token}"),
        }
    }

    fn bytes(&self, token: TokenId) -> Option<Vec<u8>> {
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.token_bytes(token).to_vec())
    }

    /// One token in the shape of chat, with `top` alternatives.
    pub(crate) fn chat(&self, row: &RowOutput, top: u32) -> ChatLogprob {
        let entry = |score: &TokenScore| ChatTopLogprob {
            token: self.name(score.token),
            logprob: finite(score.logprob),
            bytes: self.bytes(score.token),
        };
        ChatLogprob {
            chosen: entry(&row.chosen),
            top_logprobs: row.top.iter().take(top as usize).map(entry).collect(),
        }
    }

    /// Prompt log-probabilities in vLLM's shape: nothing for the first token, which follows nothing.
    pub(crate) fn prompt(&self, scores: &[RowOutput], top: u32) -> Vec<Option<PromptLogprobs>> {
        let later = scores.iter().map(|row| {
            let chosen = (row.chosen, row.rank);
            let top = row.top.iter().zip(1..).take(top as usize).map(|(&score, rank)| (score, rank));
            let others = top.filter(|(score, _)| score.token != row.chosen.token);
            let entries = std::iter::once(chosen).chain(others).map(|(score, rank)| {
                let decoded_token = self.name(score.token);
                (score.token, PromptLogprob { logprob: finite(score.logprob), rank, decoded_token })
            });
            Some(PromptLogprobs(entries.collect()))
        });
        std::iter::once(None).chain(later).collect()
    }
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LOGPROB_MIN)
}

/// OpenAI's chat shape.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct ChatLogprobs {
    pub(crate) content: Vec<ChatLogprob>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct ChatLogprob {
    #[serde(flatten)]
    chosen: ChatTopLogprob,
    top_logprobs: Vec<ChatTopLogprob>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
struct ChatTopLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

/// OpenAI's older shape: parallel lists. The first token of a prompt has no log-probability.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub(crate) struct LegacyLogprobs {
    pub(crate) text_offset: Vec<u32>,
    pub(crate) token_logprobs: Vec<Option<f32>>,
    pub(crate) tokens: Vec<String>,
    pub(crate) top_logprobs: Vec<Option<TopByName>>,
}

impl LegacyLogprobs {
    /// A token without a predecessor.
    pub(crate) fn push_first(&mut self, token: TokenId, texts: &TokenTexts, offset: u32) {
        self.push_name(token, texts, offset);
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
    }

    /// A token with `top` alternatives; the chosen one is always among them.
    pub(crate) fn push(&mut self, row: &RowOutput, top: u32, texts: &TokenTexts, offset: u32) {
        self.push_name(row.chosen.token, texts, offset);
        self.token_logprobs.push(Some(finite(row.chosen.logprob)));
        let mut by_name: Vec<(String, f32)> = Vec::with_capacity(top as usize + 1);
        let chosen = row.top.iter().take(top as usize).all(|score| score.token != row.chosen.token);
        let scores = row.top.iter().take(top as usize).chain(chosen.then_some(&row.chosen));
        for score in scores {
            let name = texts.name(score.token);
            // Parts of characters share a name; the best of them keeps it.
            if by_name.iter().all(|(other, _)| *other != name) {
                by_name.push((name, finite(score.logprob)));
            }
        }
        self.top_logprobs.push(Some(TopByName(by_name)));
    }

    fn push_name(&mut self, token: TokenId, texts: &TokenTexts, offset: u32) {
        self.text_offset.push(offset);
        self.tokens.push(texts.name(token));
    }

    pub(crate) fn append(&mut self, other: Self) {
        let Self { text_offset, token_logprobs, tokens, top_logprobs } = other;
        self.text_offset.extend(text_offset);
        self.token_logprobs.extend(token_logprobs);
        self.tokens.extend(tokens);
        self.top_logprobs.extend(top_logprobs);
    }
}

/// Where tokens begin in the text of a choice, in characters, as clients in Python index it. Tokens that are
/// not shown take no room there, and the parts of a character share its place.
pub(crate) struct Offsets {
    detokenizer: Option<Detokenizer>,
    chars: u32,
    /// A token that takes no room once.
    skipped: Option<TokenId>,
}

impl Offsets {
    /// For tokens that come after so many characters.
    pub(crate) fn after(chars: usize, texts: &TokenTexts, special: SpecialText) -> Self {
        let detokenizer =
            texts.tokenizer.as_ref().map(|tokenizer| Detokenizer::new(Arc::clone(tokenizer), special));
        Self { detokenizer, chars: u32::try_from(chars).unwrap_or(u32::MAX), skipped: None }
    }

    /// The next token is not in the text.
    pub(crate) fn skip(&mut self, token: TokenId) {
        self.skipped = Some(token);
    }

    /// Where the next token begins.
    pub(crate) fn next(&mut self, token: TokenId) -> u32 {
        let start = self.chars;
        if self.skipped.take() == Some(token) {
            return start;
        }
        let mut text = String::new();
        if let Some(detokenizer) = &mut self.detokenizer {
            detokenizer.push(token, &mut text);
        }
        self.chars = self.chars.saturating_add(text.chars().count() as u32);
        start
    }
}

/// An object from token names to log-probabilities, best first.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct TopByName(Vec<(String, f32)>);

impl Serialize for TopByName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, logprob)| (name, logprob)))
    }
}

/// An object from token ids to what is known of them.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PromptLogprobs(Vec<(TokenId, PromptLogprob)>);

#[derive(Clone, PartialEq, Debug, Serialize)]
struct PromptLogprob {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, entry)| (token.to_string(), entry)))
    }
}
