//! Where a long text may be cut so that its parts, encoded one after the other, give the tokens of the whole.
//!
//! The tokenizer library keeps some 250 bytes for each byte of a text while it encodes it, so long texts are
//! encoded in slices. A cut is exact where the split pattern has a boundary whatever stands around it, and no
//! added token stands across it:
//!
//! - before a space that follows anything but white space: no alternative of the pattern goes on with a
//!   space, and none looks further than the first character that is no white space;
//! - between a letter and a digit, and between either and a mark of punctuation: runs of letters and of
//!   digits end there, and nothing goes on after them;
//! - behind a line break before anything but white space (Llama 3's pattern only: it takes line breaks
//!   first).
//!
//! Only two patterns are known so well. Texts for others, and runs without such a place, are encoded whole.

use tokenizers::AddedToken;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use crate::vocabulary;

/// Bytes of a slice, if there is a place to cut.
const SLICE_BYTES: usize = 64 << 10;
/// Bytes of all added tokens: with more, looking for one across each cut would take too long.
const ADDED_BYTES_MAX: usize = 64 << 10;

/// How the texts of a tokenizer may be cut.
pub struct Slicing {
    pattern: Pattern,
    /// Texts of the added tokens that are longer than a byte.
    added: Vec<String>,
    slice_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pattern {
    Llama3,
    Gpt2,
    /// One that is not known.
    Other,
}

impl Slicing {
    pub fn new<'a>(
        pre_tokenizer: &PreTokenizerWrapper,
        added: impl Iterator<Item = &'a AddedToken> + Clone,
    ) -> Self {
        let takes_space = added.clone().any(|token| token.lstrip || token.rstrip || token.single_word);
        let bytes: usize = added.clone().map(|token| token.content.len()).sum();
        let pattern = match () {
            () if takes_space || bytes > ADDED_BYTES_MAX => Pattern::Other,
            () if vocabulary::is_llama3(pre_tokenizer) => Pattern::Llama3,
            () if vocabulary::is_gpt2(pre_tokenizer) => Pattern::Gpt2,
            () => Pattern::Other,
        };
        let added = added.map(|token| token.content.clone()).filter(|text| text.len() > 1).collect();
        Self { pattern, added, slice_bytes: SLICE_BYTES }
    }

    /// The same in slices of other lengths.
    pub fn of_bytes(self, slice_bytes: usize) -> Self {
        Self { slice_bytes, ..self }
    }

    /// Whether texts can be cut at all.
    pub fn is_known(&self) -> bool {
        self.pattern != Pattern::Other
    }

    /// The slices of a text, in order.
    pub fn slices<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut left = text;
        std::iter::from_fn(move || {
            let (slice, rest) = left.split_at(self.next_cut(left));
            left = rest;
            (!slice.is_empty()).then_some(slice)
        })
    }

    /// The last place to cut within a slice's length, else the first beyond it, else the end.
    fn next_cut(&self, text: &str) -> usize {
        if self.pattern == Pattern::Other || text.len() <= self.slice_bytes {
            return text.len();
        }
        let may = |at: &usize| *at > 0 && self.may_cut(text, *at);
        let back = (self.slice_bytes / 2..=self.slice_bytes).rev().find(may);
        back.or_else(|| (self.slice_bytes + 1..text.len()).find(may)).unwrap_or(text.len())
    }

    fn may_cut(&self, text: &str, at: usize) -> bool {
        if !text.is_char_boundary(at) {
            return false;
        }
        let (before, after) = text.split_at(at);
        let (Some(last), Some(next)) = (before.chars().next_back(), after.chars().next()) else {
            return false;
        };
        let is_boundary = (next == ' ' && !last.is_whitespace())
            || (is_letter(last) && next.is_ascii_digit())
            || ((is_letter(last) || last.is_ascii_digit()) && is_punctuation(next))
            || (self.pattern == Pattern::Llama3 && last == '\n' && !next.is_whitespace());
        is_boundary && !self.added.iter().any(|token| stands_across(text.as_bytes(), at, token.as_bytes()))
    }
}

/// Characters that are surely letters; many others are, too.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

/// Characters that are surely neither letters nor digits nor white space; many others are, too.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || matches!(c, '、' | '。' | '，' | '！' | '？' | '：' | '；')
}

/// Whether `token` stands in `text` on both sides of `at`.
fn stands_across(text: &[u8], at: usize, token: &[u8]) -> bool {
    (1..token.len().min(at + 1)).any(|before| text[at - before..].starts_with(token))
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;

    use super::*;

    fn slicing(added: &[AddedToken]) -> Slicing {
        let llama3 = vocabulary::llama3_pre_tokenizer();
        Slicing::new(&llama3, added.iter()).of_bytes(8)
    }

    #[test]
    fn texts_are_cut_where_it_changes_nothing() {
        let added = [AddedToken::from("<|im end|>", true), AddedToken::from("ab1", true)];
        let plain = slicing(&added);
        for (text, expected) in [
            ("", vec![]),
            ("short", vec!["short"]),
            ("one two three four", vec!["one two", " three", " four"]),
            ("0123456789012345", vec!["0123456789012345"]),
            ("aaaaaaaaaaaaaaaa", vec!["aaaaaaaaaaaaaaaa"]),
            ("abcdefg1234567", vec!["abcdefg", "1234567"]),
            ("1,22,333,4444,5", vec!["1,22,333", ",4444,5"]),
            ("   \n\n\n   \n\n   x", vec!["   \n\n\n   \n\n   x"]),
            ("xxxxx\n\nyyyyy", vec!["xxxxx\n\n", "yyyyy"]),
            ("水水水水。水水", vec!["水水水水", "。水水"]),
            ("abcd <|im end|>def", vec!["abcd", " <|im end|>def"]),
            ("xxxxxab1xxxxxx", vec!["xxxxxab1xxxxxx"]),
        ] {
            assert_eq!(plain.slices(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
        let stripping = [AddedToken::from("<x>", true).lstrip(true)];
        assert_eq!(slicing(&stripping).slices("one two three four").count(), 1);
    }
}
