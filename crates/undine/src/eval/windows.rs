//! A text as windows of tokens: cut as llama.cpp's perplexity tool cuts it, or slid over as the perplexity
//! guide of transformers does.

use std::ops::Range;

use undine_core::{Config, TokenId};
use undine_text::{Bos, Tokenizer};

use super::text::Text;
use crate::args_eval::WindowArgs;
use crate::error::Error;

/// Fewest tokens of a text: one to read and one to predict.
const TOKENS_MIN: usize = 2;

/// Which predictions count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scoring {
    /// Those of the second half of each window.
    SecondHalf,
    /// All.
    All,
    /// Of windows that begin every so many tokens: those of tokens that no earlier window has.
    Sliding {
        /// At least 1, at most a window.
        stride: usize,
    },
}

/// Windows of a text. All but the last of sliding ones are equally long.
pub struct Windows {
    tokens: Vec<TokenId>,
    context: usize,
    scoring: Scoring,
    /// In place of the first token of every window.
    bos: Option<TokenId>,
    count: usize,
}

impl Windows {
    /// Cuts the text.
    ///
    /// # Errors
    /// If a window is longer than the model's context, a stride longer than a window, or the text too short.
    pub fn new(
        text: &Text,
        args: &WindowArgs,
        scoring: Scoring,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<Self, Error> {
        let context = args.context as usize;
        if context > config.context_max {
            return Err(Error::refused(format!(
                "--context {context} is more than the model's context of {} tokens",
                config.context_max
            )));
        }
        if let Scoring::Sliding { stride } = scoring
            && stride > context
        {
            return Err(Error::usage(format!(
                "--stride {stride} would leave out tokens between windows of {context}: expected at most --context"
            )));
        }
        let tokens = tokenizer.encode(&text.content, tokenizer.default_bos());
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= config.vocab) {
            return Err(Error::refused(format!(
                "the tokenizer gives token {token}, but the model knows {}: they do not belong together",
                config.vocab
            )));
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.default_bos() == Bos::Add);
        let found = tokens.len();
        Self::cut(tokens, context, scoring, bos, args.chunks).ok_or_else(|| {
            let expected = match scoring {
                Scoring::Sliding { .. } => format!("at least {TOKENS_MIN}; take a longer text"),
                _ => format!("at least one window of {context}; take a longer text or a smaller --context"),
            };
            Error::refused(format!("{} has {found} tokens: expected {expected}", text.name))
        })
    }

    /// Cuts tokens into at most `chunks` windows; `None` if there are too few for one.
    pub fn cut(
        tokens: Vec<TokenId>,
        context: usize,
        scoring: Scoring,
        bos: Option<TokenId>,
        chunks: Option<u32>,
    ) -> Option<Self> {
        let (there, bos) = match scoring {
            Scoring::Sliding { .. } if tokens.len() < TOKENS_MIN => (0, None),
            // The last window is the first that reaches the end of the text.
            Scoring::Sliding { stride } => (1 + tokens.len().saturating_sub(context).div_ceil(stride), None),
            _ => (tokens.len() / context, bos),
        };
        let count = chunks.map_or(there, |chunks| there.min(chunks as usize));
        (count > 0).then_some(Self { tokens, context, scoring, bos, count })
    }

    /// How many windows there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Keeps the first windows only.
    pub fn truncate(&mut self, count: usize) {
        self.count = self.count.min(count.max(1));
    }

    /// Most tokens of a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The token that a window begins with.
    fn start(&self, window: usize) -> usize {
        window
            * match self.scoring {
                Scoring::Sliding { stride } => stride,
                _ => self.context,
            }
    }

    /// Tokens of a window.
    pub fn len(&self, window: usize) -> usize {
        self.context.min(self.tokens.len() - self.start(window))
    }

    /// Positions of a window whose prediction of the next token counts.
    pub fn scored(&self, window: usize) -> Range<usize> {
        let last = self.len(window) - 1;
        match self.scoring {
            Scoring::SecondHalf => self.context / 2..last,
            // The window before is full and reaches so far; the token after that is predicted from its last
            // position.
            Scoring::Sliding { stride } if window > 0 => (self.context - stride).saturating_sub(1)..last,
            Scoring::All | Scoring::Sliding { .. } => 0..last,
        }
    }

    /// Predictions that count, of all windows.
    pub fn scored_tokens(&self) -> usize {
        (0..self.count).map(|window| self.scored(window).len()).sum()
    }

    /// Tokens of all windows.
    pub fn computed_tokens(&self) -> usize {
        (0..self.count).map(|window| self.len(window)).sum()
    }

    /// The tokens of the first windows as the text has them; for windows that do not overlap.
    pub fn tokens(&self, windows: usize) -> &[TokenId] {
        &self.tokens[..windows * self.context]
    }

    /// The token that really is at a position of a window.
    pub fn token(&self, window: usize, position: usize) -> TokenId {
        self.tokens[self.start(window) + position]
    }

    /// The token that the model reads at a position of a window.
    pub fn input(&self, window: usize, position: usize) -> TokenId {
        match self.bos {
            Some(bos) if position == 0 => bos,
            _ => self.token(window, position),
        }
    }

    /// Whether another tokenizer reads the same.
    pub fn same_tokens(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.bos == other.bos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_whole_windows() {
        for (tokens, context, chunks, expected) in [
            (0, 4, None, None),
            (3, 4, None, None),
            (4, 4, None, Some(1)),
            (11, 4, None, Some(2)),
            (12, 4, Some(2), Some(2)),
            (12, 4, Some(9), Some(3)),
        ] {
            let windows = Windows::cut((0..tokens).collect(), context, Scoring::SecondHalf, None, chunks);
            assert_eq!(windows.map(|windows| windows.count()), expected, "{tokens} {context} {chunks:?}");
        }
    }

    #[test]
    fn every_window_begins_with_bos_and_scores_its_second_half() {
        let windows =
            Windows::cut((10..22).collect(), 6, Scoring::SecondHalf, Some(1), None).expect("two windows");
        assert_eq!((windows.scored(1), windows.scored_tokens()), (3..5, 4));
        let read: Vec<TokenId> = (0..6).map(|position| windows.input(1, position)).collect();
        assert_eq!(read, [1, 17, 18, 19, 20, 21]);
        assert_eq!(windows.token(1, 0), 16);
        // An odd window: positions 2 and 3 predict tokens 3 and 4.
        let odd = Windows::cut((0..5).collect(), 5, Scoring::SecondHalf, None, None).expect("a window");
        assert_eq!((odd.scored(0), odd.input(0, 0)), (2..4, 0));
        let all = Windows::cut((0..5).collect(), 5, Scoring::All, None, None).expect("a window");
        assert_eq!(all.scored(0), 0..4);
    }

    #[test]
    fn sliding_windows_score_every_token_once() {
        for tokens in 2..40 {
            for (context, stride) in [(4, 1), (4, 2), (4, 3), (8, 3), (8, 4), (12, 11), (100, 7)] {
                let scoring = Scoring::Sliding { stride };
                let windows =
                    Windows::cut((0..tokens).collect(), context, scoring, Some(99), None).expect("windows");
                let mut predicted = Vec::new();
                for window in 0..windows.count() {
                    assert_eq!(windows.input(window, 0), window as u32 * stride as u32, "no other token");
                    let scored = windows.scored(window);
                    assert!(!scored.is_empty(), "{tokens} {context} {stride}");
                    predicted.extend(scored.map(|position| windows.token(window, position + 1)));
                }
                let expected: Vec<TokenId> = (1..tokens).collect();
                assert_eq!(predicted, expected, "{tokens} {context} {stride}");
                assert_eq!(windows.scored_tokens(), expected.len());
            }
        }
        // Windows that only touch: the first token of each has nothing before it.
        let touching = Windows::cut((0..9).collect(), 4, Scoring::Sliding { stride: 4 }, None, None);
        let touching = touching.expect("windows");
        assert_eq!((touching.count(), touching.scored(1), touching.scored(2)), (3, 0..3, 0..0));
        assert!(Windows::cut(vec![1], 4, Scoring::Sliding { stride: 2 }, None, None).is_none());
    }
}
