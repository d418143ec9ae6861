//! A text as windows of tokens, cut as llama.cpp's perplexity tool cuts it.

use std::fs;
use std::ops::Range;
use std::path::Path;

use undine_core::{Config, TokenId};
use undine_text::{Bos, Tokenizer};

use crate::args_eval::WindowArgs;
use crate::error::Error;
use crate::format::grouped;

/// Longest text: its tokens take many times its memory.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Windows of equally many tokens.
pub struct Windows {
    tokens: Vec<TokenId>,
    context: usize,
    /// In place of the first token of every window.
    bos: Option<TokenId>,
    count: usize,
}

impl Windows {
    /// Reads and cuts the text.
    ///
    /// # Errors
    /// If the file cannot be read, is too long or is not UTF-8; if a window is longer than the text or the model's context.
    pub fn read(args: &WindowArgs, tokenizer: &Tokenizer, config: &Config) -> Result<Self, Error> {
        let context = args.context as usize;
        if context > config.context_max {
            return Err(Error::refused(format!(
                "--context {context} is more than the model's context of {} tokens",
                config.context_max
            )));
        }
        let text = read_text(&args.text)?;
        let tokens = tokenizer.encode(&text, tokenizer.default_bos());
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= config.vocab) {
            return Err(Error::refused(format!(
                "the tokenizer gives token {token}, but the model knows {}: they do not belong together",
                config.vocab
            )));
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.default_bos() == Bos::Add);
        let found = tokens.len();
        Self::cut(tokens, context, bos, args.chunks).ok_or_else(|| {
            Error::refused(format!(
                "{} has {found} tokens: expected at least one window of {context}; take a longer text or a smaller --context",
                args.text.display()
            ))
        })
    }

    /// Cuts tokens into at most `chunks` windows; `None` if there are fewer tokens than a window has.
    fn cut(tokens: Vec<TokenId>, context: usize, bos: Option<TokenId>, chunks: Option<u32>) -> Option<Self> {
        let there = tokens.len() / context;
        let count = chunks.map_or(there, |chunks| there.min(chunks as usize));
        (count > 0).then_some(Self { tokens, context, bos, count })
    }

    /// How many windows there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens of a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Positions of a window whose prediction of the next token counts.
    pub fn scored(&self) -> Range<usize> {
        self.context / 2..self.context - 1
    }

    /// Predictions that count, of all windows.
    pub fn scored_tokens(&self) -> usize {
        self.count * self.scored().len()
    }

    /// The token that really is at a position of a window.
    pub fn token(&self, window: usize, position: usize) -> TokenId {
        self.tokens[window * self.context + position]
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

fn read_text(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::file(path, source);
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > TEXT_BYTES_MAX {
        return Err(Error::refused(format!(
            "{} has {} bytes, the limit is {}; take a part of it",
            path.display(),
            grouped(bytes),
            grouped(TEXT_BYTES_MAX)
        )));
    }
    String::from_utf8(fs::read(path).map_err(fail)?).map_err(|error| {
        Error::refused(format!("{} is not UTF-8 text: {}", path.display(), error.utf8_error()))
    })
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
            let windows = Windows::cut((0..tokens).collect(), context, None, chunks);
            assert_eq!(windows.map(|windows| windows.count()), expected, "{tokens} {context} {chunks:?}");
        }
    }

    #[test]
    fn every_window_begins_with_bos_and_scores_its_second_half() {
        let windows = Windows::cut((10..22).collect(), 6, Some(1), None).expect("two windows");
        assert_eq!((windows.scored(), windows.scored_tokens()), (3..5, 4));
        let read: Vec<TokenId> = (0..6).map(|position| windows.input(1, position)).collect();
        assert_eq!(read, [1, 17, 18, 19, 20, 21]);
        assert_eq!(windows.token(1, 0), 16);
        // An odd window: positions 2 and 3 predict tokens 3 and 4.
        let odd = Windows::cut((0..5).collect(), 5, None, None).expect("a window");
        assert_eq!((odd.scored(), odd.input(0, 0)), (2..4, 0));
    }
}
