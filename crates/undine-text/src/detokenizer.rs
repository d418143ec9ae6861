//! Tokens to text, one at a time: a character appears as soon as its last byte is known.
//!
//! Invariant: all text put out, together, equals [`Tokenizer::decode`] of all ids, wherever the calls are
//! cut.

use std::sync::Arc;

use undine_core::TokenId;

use crate::tokenizer::{SpecialText, Tokenizer};

/// Incremental decoder of one sequence.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    special: SpecialText,
    /// The beginning of a character whose end has not come: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts at the beginning of a text.
    pub fn new(tokenizer: Arc<Tokenizer>, special: SpecialText) -> Self {
        Self { tokenizer, special, pending: Vec::new() }
    }

    /// Appends to `out` what `id` makes certain.
    pub fn push(&mut self, id: TokenId, out: &mut String) {
        if self.special == SpecialText::Keep || !self.tokenizer.is_special(id) {
            self.push_visible(id, out);
        }
    }

    /// Like [`Self::push`], but shows a control token even when those are skipped.
    pub(crate) fn push_visible(&mut self, id: TokenId, out: &mut String) {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let mut rest = self.pending.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    out.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(str::from_utf8(valid).expect("valid up to here"));
                    rest = after;
                    if let Some(invalid) = error.error_len() {
                        out.push(char::REPLACEMENT_CHARACTER);
                        rest = &rest[invalid..];
                        continue;
                    }
                }
            }
            break;
        }
        let taken = self.pending.len() - rest.len();
        self.pending.drain(..taken);
        debug_assert!(self.pending.len() <= 3, "a character has at most 4 bytes");
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
