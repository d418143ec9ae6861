//! The vocabulary as llguidance sees it, and as it travels to a helper process.

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};
use undine_core::TokenId;

use crate::stream::{THINK_END, THINK_START};
use crate::tools::{TOOL_CALL_END, TOOL_CALL_START};
use crate::{TextError, Tokenizer};

/// Longer tokens cannot be part of a grammar: the trie's limit is 1024 levels.
const TOKEN_BYTES_MAX: usize = 1000;

/// Markers that grammars name. Some vocabularies do not mark them as control tokens.
const MARKERS: [&str; 4] = [THINK_START, THINK_END, TOOL_CALL_START, TOOL_CALL_END];

/// Which markers around calls are tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallMarkers {
    pub start: bool,
    pub end: bool,
}

/// What grammars need to know of a vocabulary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    /// The bytes of every token by its id; those of control tokens begin with a byte of their own.
    words: Vec<Vec<u8>>,
    /// At least one.
    eos: Vec<TokenId>,
    pub markers: CallMarkers,
}

impl Words {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let vocab_size = tokenizer.vocab_size();
        let eos: Vec<TokenId> =
            tokenizer.eos().iter().copied().filter(|&id| (id as usize) < vocab_size).collect();
        if eos.is_empty() {
            return Err(TextError::Grammar(
                "the vocabulary names no end token, so no form of an answer can be enforced".to_owned(),
            ));
        }
        let markers: Vec<TokenId> = MARKERS.iter().filter_map(|marker| tokenizer.token_id(marker)).collect();
        let ids = 0..vocab_size as TokenId;
        let words = ids.map(|id| word(tokenizer, id, &eos, &markers)).collect();
        let is_token = |marker| tokenizer.token_id(marker).is_some();
        let markers = CallMarkers { start: is_token(TOOL_CALL_START), end: is_token(TOOL_CALL_END) };
        Ok(Self { words, eos, markers })
    }

    /// Numbers of four bytes, the least first: count and ids of end tokens, both markers, count of tokens,
    /// and the length and bytes of each.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { words, eos, markers } = self;
        let number = |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&(n as u32).to_le_bytes());
        number(out, eos.len());
        eos.iter().for_each(|&id| number(out, id as usize));
        number(out, markers.start.into());
        number(out, markers.end.into());
        number(out, words.len());
        for word in words {
            number(out, word.len());
            out.extend_from_slice(word);
        }
    }

    /// What [`Self::write`] wrote.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let ids = number(&mut rest)?;
        let eos: Vec<TokenId> = (0..ids).map(|_| number(&mut rest)).collect::<Option<_>>()?;
        let markers = CallMarkers { start: number(&mut rest)? != 0, end: number(&mut rest)? != 0 };
        let count = number(&mut rest)?;
        let word = |_| {
            let bytes = number(&mut rest)? as usize;
            let (word, after) = rest.split_at_checked(bytes)?;
            rest = after;
            Some(word.to_vec())
        };
        let words = (0..count).map(word).collect::<Option<_>>()?;
        (!eos.is_empty()).then_some(Self { words, eos, markers })
    }

    pub fn trie(&self) -> TokTrie {
        let info = TokRxInfo::new(self.words.len() as u32, self.eos[0]);
        TokTrie::from(&info, &self.words).with_eos_tokens(&self.eos)
    }
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
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

/// The bytes of every token, sorted. Control tokens are reachable by name only.
pub struct TokenTrie(pub TokTrie);

impl TokenizerEnv for TokenTrie {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// Greedy is not how the model learned to spell, so nothing is forced: among the allowed tokens the model
    /// chooses.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_travel() {
        let words = Words {
            words: vec![b"a".to_vec(), Vec::new(), vec![255, b'<'], "über".into()],
            eos: vec![2, 3],
            markers: CallMarkers { start: true, end: false },
        };
        let mut bytes = Vec::new();
        words.write(&mut bytes);
        assert_eq!(Words::read(&bytes), Some(words));
        assert_eq!(Words::read(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Words::read(&[]), None);
    }
}
