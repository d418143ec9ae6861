//! The answers of this server, kept so that the next turn of a chat is made of the very tokens that were
//! generated.
//!
//! A client sends an answer back as text, calls and thoughts. Written by the template and tokenized anew it
//! would often be spelled or cut differently, and the prefix cache would end where the answer began. So a
//! turn that comes back as it was given is put into the conversation as the model wrote it, and where the
//! rendered prompt has that text at the place where it was generated, its tokens are used.
//!
//! Invariant: the tokens of a prompt decode to the rendered text, whatever is kept here.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use undine_core::{CacheRoot, TokenId};
use undine_text::exact;

use crate::wire::calls::as_text;
use crate::wire::messages::THOUGHTS;

/// Most answers kept; the one used longest ago goes first.
const TURNS_MAX: usize = 1024;
/// Most bytes of text and tokens kept.
const BYTES_MAX: usize = 32 << 20;

/// A call as the client got it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Call {
    /// Which call of the answer.
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) name: String,
    /// JSON text.
    pub(crate) arguments: String,
}

/// An answer as the client got it.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Answer {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call>,
}

/// Where an answer was generated.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Place {
    /// For whom: nobody else finds it, and so nobody can find out what was answered.
    root: CacheRoot,
    /// Bytes of the prompt's text.
    start: usize,
    /// Of the prompt's text.
    hash: u64,
    /// What the prompt wrote of the turn: `<think>`, or nothing.
    opening: String,
}

/// An answer as the model wrote it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Turn {
    pub(crate) place: Place,
    /// All of its tokens' text, without the token that ended it.
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenId>,
    /// Bytes of `text` up to the end of the thoughts and the white space after them.
    pub(crate) thought: usize,
    pub(crate) answer: Answer,
}

/// The kept answers of a server.
#[derive(Default)]
pub(crate) struct KeptTurns(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Used longest ago first.
    turns: VecDeque<Arc<Turn>>,
    bytes: usize,
}

impl Place {
    /// The end of a prompt's text.
    pub(crate) fn after(root: CacheRoot, prompt: &str, opening: String) -> Self {
        Self { root, start: prompt.len(), hash: hash_of(prompt), opening }
    }
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Turn {
    /// Where it stands in a prompt's text.
    pub(crate) fn range(&self) -> Range<usize> {
        self.place.start..self.place.start + self.text.len()
    }

    fn bytes(&self) -> usize {
        let Answer { content, reasoning, calls } = &self.answer;
        let calls: usize =
            calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len()).sum();
        let salt = self.place.root.salt.as_ref().map_or(0, |salt| salt.len());
        let texts =
            salt + self.place.opening.len() + self.text.len() + content.len() + reasoning.len() + calls;
        texts + size_of_val(self.tokens.as_slice()) + size_of::<Self>()
    }

    /// Whether a message is this answer. Clients may leave thoughts out.
    fn is_said_by(&self, message: &Value, thoughts: &str) -> bool {
        let Answer { content, reasoning, calls } = &self.answer;
        let given = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        given.len() == calls.len()
            && message["content"] == content.as_str()
            && (thoughts.is_empty() || thoughts == reasoning)
            && given.iter().zip(calls).all(|(given, call)| {
                let function = &given["function"];
                given["id"] == call.id.as_str()
                    && function["name"] == call.name.as_str()
                    && match exact::from_str(&call.arguments) {
                        Ok(arguments @ Value::Object(_)) => arguments == function["arguments"],
                        // One that was cut comes back as text.
                        Ok(_) | Err(_) => as_text(&call.arguments) == function["arguments"],
                    }
            })
    }
}

impl KeptTurns {
    /// Keeps an answer.
    pub(crate) fn keep(&self, turn: Turn) {
        let kept = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += turn.bytes();
        kept.turns.push_back(Arc::new(turn));
        while kept.turns.len() > TURNS_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.turns.pop_front() else { break };
            kept.bytes -= oldest.bytes();
        }
    }

    /// The answer that a message repeats, if it has calls or thoughts: plain text needs no help.
    pub(crate) fn find(&self, root: &CacheRoot, message: &Value) -> Option<Arc<Turn>> {
        let thoughts = message[THOUGHTS[0]].as_str().unwrap_or_default();
        if message["role"] != "assistant" || (thoughts.is_empty() && message["tool_calls"].is_null()) {
            return None;
        }
        let kept = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept
            .turns
            .iter()
            .rposition(|turn| turn.place.root == *root && turn.is_said_by(message, thoughts))?;
        kept.touch(at)
    }

    /// The answers that stand in `text` where they were generated, in order; none overlap. One of `ends`
    /// follows each: the text of a special token, before and after which text is cut into tokens
    /// independently.
    pub(crate) fn in_text(&self, root: &CacheRoot, text: &str, ends: &[String]) -> Vec<Arc<Turn>> {
        let kept = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = |turn: &Turn| {
            let Place { root: ref own, start, hash, .. } = turn.place;
            if own != root {
                return false;
            }
            let after = text.get(start..).and_then(|rest| rest.strip_prefix(turn.text.as_str()));
            after.is_some_and(|after| ends.iter().any(|end| after.starts_with(end.as_str())))
                && hash_of(&text[..start]) == hash
        };
        let found: Vec<usize> = (0..kept.turns.len()).filter(|&i| stands(&kept.turns[i])).collect();
        // Moved to the back one by one, each leaves the later ones one place further to the front.
        let mut turns: Vec<_> =
            found.iter().enumerate().filter_map(|(moved, &at)| kept.touch(at - moved)).collect();
        // Of several that said the same in other tokens, the one used last: a message has just found it.
        turns.reverse();
        turns.sort_by_key(|turn| turn.place.start);
        let mut end = 0;
        turns.retain(|turn| {
            let free = turn.place.start >= end;
            end = if free { turn.range().end } else { end };
            free
        });
        turns
    }
}

impl Kept {
    /// Moves an answer to the back.
    fn touch(&mut self, at: usize) -> Option<Arc<Turn>> {
        let turn = self.turns.remove(at)?;
        self.turns.push_back(Arc::clone(&turn));
        Some(turn)
    }
}

/// How a repeated answer is written into the conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Thoughts {
    /// Within the text: the template leaves them out where it has to.
    InText,
    /// Left to the template.
    Apart,
}

/// Makes a message say what the model wrote, word for word.
pub(crate) fn restore(message: &mut Value, turn: &Turn, thoughts: Thoughts) {
    let has_thoughts = message[THOUGHTS[0]].is_string();
    let Some(fields) = message.as_object_mut() else { return };
    let said = &turn.text[turn.thought..];
    let content = if has_thoughts && thoughts == Thoughts::InText {
        fields.retain(|name, _| !THOUGHTS.contains(&name.as_str()));
        format!("{}{}", turn.place.opening, turn.text)
    } else {
        said.to_owned()
    };
    fields.shift_remove("tool_calls");
    fields.insert("content".to_owned(), content.into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn turn(prompt: &str, thought: &str, said: &str, id: &str) -> Turn {
        let text = format!("{thought}{said}");
        let arguments = "{\"x\": 1}".to_owned();
        Turn {
            place: Place::after(CacheRoot::default(), prompt, "<think>".to_owned()),
            tokens: vec![1; text.len()],
            thought: thought.len(),
            answer: Answer {
                content: String::new(),
                reasoning: "hm".to_owned(),
                calls: vec![Call { index: 0, id: id.to_owned(), name: "f".to_owned(), arguments }],
            },
            text,
        }
    }

    fn message(id: &str, x: i32, reasoning: Option<&str>) -> Value {
        let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": {"x": x}}});
        let mut message = json!({"role": "assistant", "content": "", "tool_calls": [call]});
        if let Some(reasoning) = reasoning {
            message.as_object_mut().unwrap().extend(THOUGHTS.map(|name| (name.to_owned(), reasoning.into())));
        }
        message
    }

    #[test]
    fn an_answer_is_found_if_it_is_repeated_exactly() {
        let kept = KeptTurns::default();
        kept.keep(turn("p", "hm</think>", "[f(x=1)]", "a"));
        let cases = [
            (message("a", 1, None), true),
            (message("a", 1, Some("hm")), true),
            (message("a", 1, Some("hm?")), false),
            (message("a", 2, None), false),
            (message("b", 1, None), false),
            (json!({"role": "assistant", "content": ""}), false),
            (json!({"role": "assistant", "content": "", "reasoning": "hm"}), false),
        ];
        for (message, found) in cases {
            assert_eq!(kept.find(&CacheRoot::default(), &message).is_some(), found, "{message}");
        }
    }

    #[test]
    fn a_message_says_what_was_written() {
        let turn = turn("p", "hm</think>", "[f(x=1)]", "a");
        let whole = "<think>hm</think>[f(x=1)]";
        let cases = [
            (Some("hm"), Thoughts::InText, json!({"role": "assistant", "content": whole})),
            (None, Thoughts::InText, json!({"role": "assistant", "content": "[f(x=1)]"})),
            (None, Thoughts::Apart, json!({"role": "assistant", "content": "[f(x=1)]"})),
        ];
        for (reasoning, thoughts, want) in cases {
            let mut message = message("a", 1, reasoning);
            restore(&mut message, &turn, thoughts);
            assert_eq!(message, want, "{reasoning:?} {thoughts:?}");
        }
        let mut apart = message("a", 1, Some("hm"));
        restore(&mut apart, &turn, Thoughts::Apart);
        assert_eq!((&apart["content"], &apart["reasoning"]), (&json!("[f(x=1)]"), &json!("hm")));
    }

    #[test]
    fn only_text_in_its_place_counts() {
        let kept = KeptTurns::default();
        for (prompt, said) in
            [("one ", "first"), ("one first<end> two ", "second"), ("other", "first"), ("on", "e")]
        {
            kept.keep(turn(prompt, "", said, prompt));
        }
        let ends = ["<end>".to_owned()];
        let found = |text: &str| -> Vec<usize> {
            kept.in_text(&CacheRoot::default(), text, &ends).iter().map(|turn| turn.place.start).collect()
        };
        assert_eq!(found("one first<end> two second<end>"), [4, 19]);
        assert_eq!(found("one first<end> two second"), [4]);
        assert_eq!(found("One first<end>"), [0; 0]);
        assert_eq!(found("€€"), [0; 0]);
        assert_eq!(found(""), [0; 0]);
        // The same text in other tokens: what was used last counts.
        let other = Turn { tokens: vec![2], ..turn("one ", "", "first", "again") };
        kept.keep(other);
        let tokens =
            |kept: &KeptTurns| kept.in_text(&CacheRoot::default(), "one first<end>", &ends)[0].tokens.clone();
        assert_eq!(tokens(&kept), [2]);
        assert!(kept.find(&CacheRoot::default(), &message("one ", 1, None)).is_some());
        assert_eq!(tokens(&kept), [1; 5]);
    }

    #[test]
    fn what_was_not_used_for_long_is_dropped() {
        let kept = KeptTurns::default();
        for i in 0..=TURNS_MAX {
            kept.keep(turn("p", "", "x", &i.to_string()));
            assert!(kept.find(&CacheRoot::default(), &message("0", 1, None)).is_some(), "it was just used");
        }
        assert!(kept.find(&CacheRoot::default(), &message("1", 1, None)).is_none());
        assert!(kept.find(&CacheRoot::default(), &message("2", 1, None)).is_some());
        for i in 0..4 {
            kept.keep(turn("p", "", &"x".repeat(BYTES_MAX / 10), &format!("big {i}")));
        }
        assert!(kept.find(&CacheRoot::default(), &message("big 1", 1, None)).is_none(), "beyond the bytes");
        assert!(kept.find(&CacheRoot::default(), &message("big 3", 1, None)).is_some());
    }

    #[test]
    fn an_answer_is_found_by_those_it_was_given_to() {
        let kept = KeptTurns::default();
        let mine = CacheRoot { domain: 1, salt: None };
        let mut own = turn("p", "", "[f(x=1)]", "a");
        own.place.root = mine.clone();
        kept.keep(own);
        let salted = CacheRoot { salt: Some("x".into()), ..mine.clone() };
        let ends = ["<end>".to_owned()];
        for (root, found) in [(mine, 1), (salted, 0), (CacheRoot::default(), 0)] {
            assert_eq!(kept.find(&root, &message("a", 1, None)).is_some(), found == 1, "{root:?}");
            assert_eq!(kept.in_text(&root, "p[f(x=1)]<end>", &ends).len(), found, "{root:?}");
        }
    }
}
