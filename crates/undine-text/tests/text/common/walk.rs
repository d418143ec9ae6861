//! Answers drawn from masks, without a model.

use std::sync::Arc;

use undine_core::Constraint;
use undine_text::Tokenizer;

/// Tokens after which a walk looks for the end, and after which it has failed.
const LONG: usize = 60;
const TOO_LONG: usize = 3000;

/// Tokens that bring a call or JSON to its end.
const CLOSING: [&str; 20] = [
    "<|tool_call_end|>",
    "</think>",
    ")",
    "]",
    "}",
    "\"",
    "'",
    ":",
    "=",
    ",",
    "0",
    "1",
    "n",
    "t",
    "f",
    "N",
    "T",
    "A",
    "a",
    "!",
];

/// A seeded choice among allowed tokens.
pub struct Walk {
    tokenizer: Arc<Tokenizer>,
    closing: Vec<u32>,
    seed: u64,
    taken: usize,
    text: Vec<u8>,
}

pub fn is_allowed(words: &[u32], id: u32) -> bool {
    words.is_empty() || words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

impl Walk {
    pub fn new(tokenizer: &Arc<Tokenizer>, seed: u64) -> Self {
        let closing = CLOSING.iter().filter_map(|text| tokenizer.token_id(text)).collect();
        Self {
            tokenizer: Arc::clone(tokenizer),
            closing,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            taken: 0,
            text: Vec::new(),
        }
    }

    /// The tokens of an answer, without the end token.
    pub fn run(&mut self, constraint: &mut dyn Constraint) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(id) = self.step(constraint) {
            ids.push(id);
        }
        ids
    }

    /// The next token, which the constraint has taken; `None` at the end.
    pub fn step(&mut self, constraint: &mut dyn Constraint) -> Option<u32> {
        let mask = constraint.allowed();
        let words = mask.as_ref().map_or(&[][..], |mask| mask.wait());
        assert!(mask.is_none() || !words.is_empty(), "a mask failed: {:?}", constraint.accept(0));
        let allowed: Vec<u32> =
            (0..self.tokenizer.vocab_size() as u32).filter(|&id| is_allowed(words, id)).collect();
        assert!(!allowed.is_empty(), "nothing is allowed");
        let eos = allowed.iter().copied().find(|id| self.tokenizer.eos().contains(id));
        self.taken += 1;
        assert!(self.taken < TOO_LONG, "the walk does not end: {}", String::from_utf8_lossy(&self.text));
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = allowed[(self.seed >> 33) as usize % allowed.len()];
        let closing: Vec<u32> = self.closing.iter().copied().filter(|id| allowed.contains(id)).collect();
        // A quarter of the steps, and all of them in the end, close something: otherwise strings would be all
        // there is.
        let close = self.taken >= LONG || self.seed >> 62 == 0;
        let id = match (eos, closing.len()) {
            (Some(eos), _) if self.taken >= LONG => eos,
            (_, count) if close && count > 0 => closing[(self.seed >> 20) as usize % count],
            _ => random,
        };
        constraint.accept(id).unwrap_or_else(|error| panic!("token {id} was allowed but refused: {error}"));
        self.text.extend_from_slice(self.tokenizer.token_bytes(id));
        (!self.tokenizer.eos().contains(&id)).then_some(id)
    }
}
