//! Finds calls in the content of an answer while it is generated.
//!
//! Invariant: the text is read character by character, so the pieces, joined, depend on the text only and not
//! on how it was cut. No marker, and no beginning of one that is completed later, is ever part of the
//! content. What is no call is content: nothing is lost. White space alone around calls is dropped.

use std::sync::Arc;

use super::stream::CallStream;
use super::unmarked::{self, TAG, TAG_END};
use super::{TOOL_CALL_END, TOOL_CALL_START, ToolFormat, ToolSet};
use crate::piece::{Piece, Pieces};

/// Where in the content the text is.
enum Place {
    /// At the beginning, after white space alone.
    Start { space: String },
    /// In a list without a start marker: a call only if the answer ends with it and knows all its names.
    Bare { text: String },
    /// After [`TAG`], with which the text begins after the white space before it.
    Tagged { text: String },
    /// In text.
    Text,
    /// Between the markers.
    Call(Box<CallStream>),
    /// After the end marker, where a model may write the call again. `held` is white space and the beginning
    /// of `echo`; `matched` bytes of it are that beginning.
    After { echo: String, held: String, matched: usize },
}

/// The calls of one answer.
pub struct ToolParser {
    set: Arc<ToolSet>,
    format: ToolFormat,
    place: Place,
    /// The longest end of the text so far that a marker could begin with.
    held: String,
    next_index: usize,
}

impl ToolParser {
    /// Starts an answer to a request with these tools.
    pub fn new(set: Arc<ToolSet>, format: ToolFormat) -> Self {
        Self { set, format, place: Place::Start { space: String::new() }, held: String::new(), next_index: 0 }
    }

    /// Appends the pieces that more content makes certain. Reasoning must have been split off; markers must
    /// be visible.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.take(text, &mut Pieces::new(out));
    }

    /// Ends the answer: a list without its end marker is complete, half a marker is text.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.end(&mut Pieces::new(out));
    }

    /// Ends an answer that was cut, by its length or a stop string: of a call that is not complete there is
    /// the beginning.
    pub fn finish_cut(&mut self, out: &mut Vec<Piece>) {
        self.cut(&mut Pieces::new(out));
    }

    /// Whether the text so far ends between the markers.
    pub(crate) fn is_in_call(&self) -> bool {
        matches!(self.place, Place::Call(_))
    }

    pub(crate) fn take(&mut self, text: &str, out: &mut Pieces<'_>) {
        for character in text.chars() {
            self.held.push(character);
            self.settle(out);
        }
    }

    /// Moves on what cannot become a marker any more.
    fn settle(&mut self, out: &mut Pieces<'_>) {
        while !self.held.is_empty() {
            if self.held == TOOL_CALL_START {
                self.held.clear();
                self.start_marker(out);
            } else if self.held == TOOL_CALL_END {
                self.held.clear();
                self.end_marker(out);
            } else if self.takes_tags() && self.held == TAG {
                self.start_tag(out);
            } else if self.is_marker_begun() {
                return;
            } else {
                let first = self.held.remove(0);
                self.consume(first, out);
            }
        }
    }

    fn is_marker_begun(&self) -> bool {
        [TOOL_CALL_START, TOOL_CALL_END].iter().any(|marker| marker.starts_with(&self.held))
            || (self.takes_tags() && TAG.starts_with(&self.held))
    }

    /// Whether a tag is one here, and not part of a text.
    fn takes_tags(&self) -> bool {
        self.format == ToolFormat::Lfm2
            && matches!(self.place, Place::Start { .. } | Place::Text | Place::After { .. })
    }

    fn start_tag(&mut self, out: &mut Pieces<'_>) {
        let mut text = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.place, Place::Text) {
            Place::Start { space } => text.insert_str(0, &space),
            Place::After { held, matched, .. } if matched > 0 => out.content(&held),
            _ => {}
        }
        self.place = Place::Tagged { text };
    }

    pub(crate) fn end(&mut self, out: &mut Pieces<'_>) {
        for character in std::mem::take(&mut self.held).chars() {
            self.consume(character, out);
        }
        match std::mem::replace(&mut self.place, Place::Text) {
            Place::Start { space } => out.content(&space),
            Place::Bare { text } | Place::Tagged { text } => self.end_bare(&text, out),
            Place::Text => {}
            Place::Call(mut calls) => drop(calls.finish(out)),
            Place::After { held, matched, .. } => {
                if matched > 0 {
                    out.content(&held);
                }
            }
        }
    }

    pub(crate) fn cut(&mut self, out: &mut Pieces<'_>) {
        /// What no text has but a marker.
        const SURE_BYTES: usize = "<tool".len();
        let held = std::mem::take(&mut self.held);
        let is_text = match &self.place {
            Place::Call(calls) => calls.is_open(),
            _ => held.len() <= SURE_BYTES,
        };
        if is_text {
            held.chars().for_each(|character| self.consume(character, out));
        }
        let text = match std::mem::replace(&mut self.place, Place::Text) {
            Place::Call(mut calls) => return calls.cut(out),
            // The call comes again as it was.
            Place::After { .. } => return,
            Place::Bare { text } => text,
            Place::Tagged { text } if inner(&text).trim().is_empty() => return,
            Place::Tagged { text } => text,
            place @ (Place::Start { .. } | Place::Text) => {
                self.place = place;
                return self.end(out);
            }
        };
        let mut calls = self.new_call();
        let mut pieces = Vec::new();
        let mut kept = Pieces::new(&mut pieces);
        inner(&text).chars().for_each(|character| calls.push(character, &mut kept));
        let is_open = calls.is_open();
        calls.cut(&mut kept);
        if is_open && calls.next_index() > self.next_index {
            pieces.into_iter().for_each(|piece| out.push(piece));
        } else {
            self.end_bare(&text, out);
        }
    }

    fn consume(&mut self, character: char, out: &mut Pieces<'_>) {
        let unmarked = self.format == ToolFormat::Lfm2;
        match &mut self.place {
            Place::Start { space } if character.is_whitespace() => space.push(character),
            Place::Start { space } => {
                let mut text = std::mem::take(space);
                text.push(character);
                if unmarked && "[{`".contains(character) {
                    self.place = Place::Bare { text };
                } else {
                    out.content(&text);
                    self.place = Place::Text;
                }
            }
            Place::Bare { text } => {
                text.push(character);
                if !unmarked::could_be(text, &self.set) {
                    out.content(text);
                    self.place = Place::Text;
                }
            }
            Place::Tagged { text } => {
                text.push(character);
                if text.ends_with(TAG_END) {
                    let text = std::mem::take(text);
                    self.place = Place::Text;
                    self.end_bare(&text, out);
                } else if !unmarked::could_be_list(inner(text), &self.set) {
                    out.content(text);
                    self.place = Place::Text;
                }
            }
            Place::Text => out.content(character.encode_utf8(&mut [0; 4])),
            Place::Call(calls) => calls.push(character, out),
            Place::After { echo, held, matched } => {
                held.push(character);
                if *matched == 0 && character.is_whitespace() {
                    return;
                }
                if !echo[*matched..].starts_with(character) {
                    out.content(held);
                    self.place = Place::Text;
                    return;
                }
                *matched += character.len_utf8();
                if *matched == echo.len() {
                    self.place = Place::Text;
                }
            }
        }
    }

    fn start_marker(&mut self, out: &mut Pieces<'_>) {
        let calls = self.new_call();
        match std::mem::replace(&mut self.place, Place::Call(calls)) {
            Place::Bare { text } | Place::Tagged { text } => out.content(&text),
            Place::After { held, matched, .. } if matched > 0 => out.content(&held),
            Place::Call(mut before) => {
                before.finish(out);
                self.next_index = before.next_index();
                self.place = Place::Call(self.new_call());
            }
            Place::Start { .. } | Place::Text | Place::After { .. } => {}
        }
    }

    fn end_marker(&mut self, out: &mut Pieces<'_>) {
        match std::mem::replace(&mut self.place, Place::Text) {
            Place::Call(calls) => self.end_call(calls, out),
            // Only the start marker is missing.
            Place::Bare { text } => self.read_bare(&text, out),
            Place::After { held, matched, .. } if matched > 0 => out.content(&held),
            // A marker alone is not text.
            place => self.place = place,
        }
    }

    fn end_call(&mut self, mut calls: Box<CallStream>, out: &mut Pieces<'_>) {
        let echo = calls.finish(out);
        self.next_index = calls.next_index();
        self.place = match echo {
            Some(echo) => Place::After { echo, held: String::new(), matched: 0 },
            None => Place::Text,
        };
    }

    fn new_call(&self) -> Box<CallStream> {
        Box::new(CallStream::new(Arc::clone(&self.set), self.next_index))
    }

    fn read_bare(&mut self, text: &str, out: &mut Pieces<'_>) {
        let mut calls = self.new_call();
        for character in text.chars() {
            calls.push(character, out);
        }
        self.end_call(calls, out);
    }

    /// Puts out the lists of calls that a text consists of, or the text, if it does not.
    fn end_bare(&mut self, text: &str, out: &mut Pieces<'_>) {
        let tagged = text.trim_start().starts_with(TAG).then(|| inner(text).trim_end());
        let list = tagged.map_or(text, |inner| inner.strip_suffix(TAG_END).unwrap_or(inner));
        match unmarked::read(list, &self.set) {
            Some(lists) => lists.into_iter().for_each(|list| self.read_bare(list, out)),
            None => out.content(text),
        }
    }
}

/// What is in a tag or a fence that is not closed, or the whole text.
fn inner(text: &str) -> &str {
    let text = text.trim_start();
    text.strip_prefix(TAG).unwrap_or_else(|| unmarked::opened(text))
}
