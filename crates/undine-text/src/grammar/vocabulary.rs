//! The vocabulary as llguidance sees it.

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};
use undine_core::TokenId;

use crate::stream::{THINK_END, THINK_START};
use crate::tools::{TOOL_CALL_END, TOOL_CALL_START};
use crate::{TextError, Tokenizer};

/// Longer tokens cannot be part of a grammar: the trie's limit is 1024 levels.
const TOKEN_BYTES_MAX: usize = 1000;

/// Markers that grammars name. Some vocabularies do not mark them as control tokens.
const MARKERS: [&str; 4] = [THINK_START, THINK_END, TOOL_CALL_START, TOOL_CALL_END];

/// The bytes of every token, sorted. Control tokens are reachable by name only.
pub struct TokenTrie(TokTrie);

impl TokenTrie {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let vocab_size = tokenizer.vocab_size();
        let eos: Vec<TokenId> =
            tokenizer.eos().iter().copied().filter(|&id| (id as usize) < vocab_size).collect();
        let Some(&first_eos) = eos.first() else {
            return Err(TextError::Grammar(
                "the vocabulary names no end token, so no form of an answer can be enforced".to_owned(),
            ));
        };
        let markers: Vec<TokenId> = MARKERS.iter().filter_map(|marker| tokenizer.token_id(marker)).collect();
        let ids = 0..vocab_size as TokenId;
        let words: Vec<Vec<u8>> = ids.map(|id| word(tokenizer, id, &eos, &markers)).collect();
        let info = TokRxInfo::new(vocab_size as u32, first_eos);
        Ok(Self(TokTrie::from(&info, &words).with_eos_tokens(&eos)))
    }
}

fn word(tokenizer: &Tokenizer, id: TokenId, eos: &[TokenId], markers: &[TokenId]) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if bytes.len() > TOKEN_BYTES_MAX {
        return Vec::new();
    }
    if tokenizer.is_special(id) || eos.contains(&id) || markers.contains(&id) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat();
    }
    // The byte that marks control tokens is never part of UTF-8 text.
    if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { bytes.to_vec() }
}

impl TokenizerEnv for TokenTrie {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// Greedy is not how the model learned to spell, so nothing is forced: among the allowed tokens the model chooses.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
