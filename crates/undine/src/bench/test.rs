//! What a test computes, and what it is called.

use std::fmt;

/// How the tokens of a test are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// As one prompt, logits of its last row only.
    Prefill,
    /// One at a time, logits of each.
    Decode,
}

/// One test. Shown as llama-bench names it: `pp512`, `tg128 @ d4096`; `tg32 x8` decodes eight sequences
/// together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Test {
    /// How.
    pub kind: Kind,
    /// Tokens of context before the first one.
    pub depth: u32,
    /// Tokens of each sequence; at least 1.
    pub tokens: u32,
    /// Sequences computed together; 1 for a prefill.
    pub sequences: u32,
}

impl Test {
    /// Tokens of all sequences.
    pub fn total(self) -> u64 {
        u64::from(self.tokens) * u64::from(self.sequences)
    }

    /// The position after its last; saturates, so check it against the model's context.
    pub fn end(self) -> u32 {
        self.depth.saturating_add(self.tokens)
    }

    /// The test of its first `tokens` tokens, or itself if it has no more.
    pub fn first(self, tokens: u32) -> Self {
        Self { tokens: tokens.min(self.tokens), ..self }
    }

    /// The test of its last `tokens` tokens, or itself if it has no more.
    pub fn last(self, tokens: u32) -> Self {
        let tokens = tokens.min(self.tokens);
        Self { depth: self.depth + (self.tokens - tokens), tokens, ..self }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
        };
        let mut name = format!("{kind}{}", self.tokens);
        if self.sequences > 1 {
            name.push_str(&format!(" x{}", self.sequences));
        }
        if self.depth > 0 {
            name.push_str(&format!(" @ d{}", self.depth));
        }
        f.pad(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_bench() {
        for (kind, depth, tokens, sequences, name) in [
            (Kind::Prefill, 0, 512, 1, "pp512"),
            (Kind::Prefill, 4096, 512, 1, "pp512 @ d4096"),
            (Kind::Decode, 0, 32, 8, "tg32 x8"),
            (Kind::Decode, 16384, 32, 2, "tg32 x2 @ d16384"),
        ] {
            assert_eq!(Test { kind, depth, tokens, sequences }.to_string(), name);
        }
    }

    #[test]
    fn the_end_of_a_test_is_a_test() {
        let test = Test { kind: Kind::Prefill, depth: 10, tokens: 100, sequences: 1 };
        assert_eq!(test.last(100), test);
        assert_eq!(test.last(30), Test { depth: 80, tokens: 30, ..test });
        assert_eq!(test.last(30).end(), test.end());
        assert_eq!(test.first(30), Test { tokens: 30, ..test });
        assert_eq!(test.first(1000), test);
    }
}
