//! The tokens of texts that come again: an agent sends its tools and all of its history with every turn.
//!
//! A prompt is kept in the parts between the special tokens that end its messages, before and after which
//! text is cut into tokens independently. Parts are kept by whose they are: nobody finds out by the time it
//! takes what others have sent.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use undine_core::{CacheRoot, TokenId};

/// Bytes of text and tokens kept; those used longest ago go first.
const BYTES_MAX: usize = 32 << 20;
/// Shorter parts are encoded faster than they are looked for.
const PART_BYTES_MIN: usize = 512;
/// What an entry takes beside its text and tokens.
const ENTRY_BYTES: usize = 256;

/// The kept tokens of a server.
#[derive(Default)]
pub(crate) struct KeptTokens(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    parts: HashMap<u64, Part>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

struct Part {
    root: CacheRoot,
    text: String,
    tokens: Vec<TokenId>,
    used: u64,
}

impl Part {
    fn bytes(&self) -> usize {
        let salt = self.root.salt.as_ref().map_or(0, |salt| salt.len());
        ENTRY_BYTES + salt + self.text.len() + size_of_val(self.tokens.as_slice())
    }
}

fn hash_of(root: &CacheRoot, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (root.domain, &root.salt, text).hash(&mut hasher);
    hasher.finish()
}

impl KeptTokens {
    /// The tokens of a text, part by part; `ends` are the texts of special tokens that end messages.
    pub(crate) fn encode(
        &self,
        root: &CacheRoot,
        text: &str,
        ends: &[String],
        mut encode: impl FnMut(&str) -> Vec<TokenId>,
    ) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        // Where each end comes next; each place is looked for once, so that a text of many short messages
        // takes no longer.
        let mut places: Vec<Option<usize>> = ends.iter().map(|end| text.find(end.as_str())).collect();
        // Short parts wait for the next one that is long, so that none is encoded alone.
        let (mut begin, mut short) = (0, 0);
        while short < text.len() {
            for (place, end) in places.iter_mut().zip(ends) {
                if place.is_some_and(|place| place < short) {
                    *place = text[short..].find(end.as_str()).map(|place| short + place);
                }
            }
            let ends = places.iter().zip(ends).filter_map(|(place, end)| Some((*place)? + end.len()));
            let end = ends.min().unwrap_or(text.len());
            if end - short < PART_BYTES_MIN && end < text.len() {
                short = end;
                continue;
            }
            if begin < short {
                tokens.extend(encode(&text[begin..short]));
            }
            tokens.extend(self.part(root, &text[short..end], &mut encode));
            (begin, short) = (end, end);
        }
        if begin < text.len() {
            tokens.extend(encode(&text[begin..]));
        }
        tokens
    }

    fn part(
        &self,
        root: &CacheRoot,
        text: &str,
        encode: &mut impl FnMut(&str) -> Vec<TokenId>,
    ) -> Vec<TokenId> {
        if text.len() < PART_BYTES_MIN {
            return encode(text);
        }
        let hash = hash_of(root, text);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let kept = &mut *lock();
            kept.clock += 1;
            let part = kept.parts.get_mut(&hash).filter(|part| part.root == *root && part.text == text);
            if let Some(part) = part {
                part.used = kept.clock;
                return part.tokens.clone();
            }
        }
        let tokens = encode(text);
        lock()
            .keep(hash, Part { root: root.clone(), text: text.to_owned(), tokens: tokens.clone(), used: 0 });
        tokens
    }
}

impl Kept {
    fn keep(&mut self, hash: u64, mut part: Part) {
        if part.bytes() > BYTES_MAX / 4 {
            return;
        }
        part.used = self.clock;
        self.bytes += part.bytes();
        let old = match self.parts.entry(hash) {
            Entry::Occupied(mut entry) => Some(entry.insert(part)),
            Entry::Vacant(entry) => {
                entry.insert(part);
                None
            }
        };
        self.bytes -= old.map_or(0, |old| old.bytes());
        if self.bytes > BYTES_MAX {
            self.forget();
        }
    }

    /// Makes room: the older half goes at once, so that this is seldom.
    fn forget(&mut self) {
        let mut uses: Vec<(u64, usize)> = self.parts.values().map(|part| (part.used, part.bytes())).collect();
        uses.sort_unstable();
        let mut left = self.bytes;
        let mut oldest = 0;
        for (used, bytes) in uses {
            if left <= BYTES_MAX / 2 {
                break;
            }
            left -= bytes;
            oldest = used;
        }
        self.parts.retain(|_, part| part.used > oldest);
        self.bytes = self.parts.values().map(Part::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "<end>";

    /// Tokens are bytes, and what is encoded is written down.
    fn encode(kept: &KeptTokens, root: &CacheRoot, text: &str) -> (Vec<TokenId>, Vec<String>) {
        let mut asked = Vec::new();
        let tokens = kept.encode(root, text, &[END.to_owned()], |part| {
            asked.push(part.to_owned());
            part.bytes().map(TokenId::from).collect()
        });
        (tokens, asked)
    }

    #[test]
    fn a_history_that_grows_is_encoded_at_its_end_only() {
        let kept = KeptTokens::default();
        let root = CacheRoot::default();
        let tools = format!("{}{END}", "t".repeat(2000));
        let turn = |letter: &str| format!("{}{END}", letter.repeat(600));
        let short = format!("s{END}");
        let first = [&*tools, &short, &turn("a"), &short].concat();
        let second = [&*first, &turn("b"), "open"].concat();
        for (text, new) in [
            (&first, vec![tools.clone(), short.clone(), turn("a"), short.clone()]),
            (&first, vec![short.clone(), short.clone()]),
            (&second, vec![short.clone(), short.clone(), turn("b"), "open".to_owned()]),
            (&second, vec![short.clone(), short.clone(), "open".to_owned()]),
        ] {
            let (tokens, asked) = encode(&kept, &root, text);
            assert_eq!(tokens, text.bytes().map(TokenId::from).collect::<Vec<_>>());
            assert_eq!(asked, new);
        }
        let other = CacheRoot { domain: 7, ..root };
        assert_eq!(encode(&kept, &other, &first).1.len(), 4, "another root finds nothing");
    }

    #[test]
    fn texts_are_cut_after_whichever_end_comes_first() {
        let ends = [END, "</s>", "<never>"].map(str::to_owned);
        let long = "x".repeat(PART_BYTES_MIN);
        let short = format!("a{END}b</s>").repeat(40);
        for text in [
            [&*long, "</s>", &long, END, &long].concat(),
            [&*short, &long, "</s>", &short].concat(),
            [END, "</s>", END].concat(),
            short,
        ] {
            let kept = KeptTokens::default();
            for _ in 0..2 {
                let mut parts = Vec::new();
                let tokens = kept.encode(&CacheRoot::default(), &text, &ends, |part| {
                    parts.push(part.to_owned());
                    part.bytes().map(TokenId::from).collect()
                });
                assert_eq!(tokens, text.bytes().map(TokenId::from).collect::<Vec<_>>());
                let is_cut = |part: &String| part.ends_with(END) || part.ends_with("</s>");
                assert!(parts.iter().rev().skip(1).all(is_cut), "{parts:?}");
            }
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let kept = KeptTokens::default();
        let root = CacheRoot::default();
        let text = |n: usize| format!("{n}{}", "x".repeat(1 << 20));
        for n in 0..40 {
            encode(&kept, &root, &text(n));
            encode(&kept, &root, &text(0));
            assert!(kept.0.lock().unwrap().bytes <= BYTES_MAX);
        }
        assert!(encode(&kept, &root, &text(0)).1.is_empty(), "what is used stays");
        assert_eq!(encode(&kept, &root, &text(1)).1.len(), 1);
        let huge = "y".repeat(BYTES_MAX);
        encode(&kept, &root, &huge);
        assert_eq!(encode(&kept, &root, &huge).1.len(), 1);
    }
}
