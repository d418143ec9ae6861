//! Finds calls in the content of an answer while it is generated.
//!
//! Invariant: the text is read character by character, so the pieces, joined, depend on the text only and not on how
//! it was cut. No marker, and no beginning of one that is completed later, is ever part of the content.
//! What is no call is content: nothing is lost. White space alone around calls is dropped.

use std::sync::Arc;

use super::call::{self, Within};
use super::stream::CallStream;
use super::{TOOL_CALL_END, TOOL_CALL_START, ToolFormat, ToolSet};
use crate::piece::{Piece, Pieces};

/// Where in the content the text is.
enum Place {
    /// At the beginning, after white space alone.
    Start { space: String },
    /// In a list without a start marker: a call only if the answer ends with it and knows all its names.
    Bare { text: String },
    /// In text.
    Text,
    /// Between the markers.
    Call(Box<CallStream>),
    /// After the end marker, where a model may write the call again. `held` is white space and the beginning of
    /// `echo`; `matched` bytes of it are that beginning.
    After { echo: String, held: String, matched: usize },
}

/// The calls of one answer.
pub struct ToolParser {
    set: Arc<ToolSet>,
    place: Place,
    /// The longest end of the text so far that a marker could begin with.
    held: String,
    next_index: usize,
}

impl ToolParser {
    /// Starts an answer to a request with these tools.
    pub fn new(set: Arc<ToolSet>, format: ToolFormat) -> Self {
        let ToolFormat::Lfm2 = format;
        Self { set, place: Place::Start { space: String::new() }, held: String::new(), next_index: 0 }
    }

    /// Appends the pieces that more content makes certain. Reasoning must have been split off; markers must be visible.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.take(text, &mut Pieces::new(out));
    }

    /// Ends the answer: a list without its end marker is complete, half a marker is text.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.end(&mut Pieces::new(out));
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
            } else if [TOOL_CALL_START, TOOL_CALL_END].iter().any(|marker| marker.starts_with(&self.held)) {
                return;
            } else {
                let first = self.held.remove(0);
                self.consume(first, out);
            }
        }
    }

    pub(crate) fn end(&mut self, out: &mut Pieces<'_>) {
        for character in std::mem::take(&mut self.held).chars() {
            self.consume(character, out);
        }
        match std::mem::replace(&mut self.place, Place::Text) {
            Place::Start { space } => out.content(&space),
            Place::Bare { text } => self.end_bare(&text, out),
            Place::Text => {}
            Place::Call(mut calls) => drop(calls.finish(out)),
            Place::After { held, matched, .. } => {
                if matched > 0 {
                    out.content(&held);
                }
            }
        }
    }

    fn consume(&mut self, character: char, out: &mut Pieces<'_>) {
        match &mut self.place {
            Place::Start { space } if character.is_whitespace() => space.push(character),
            Place::Start { space } => {
                let mut text = std::mem::take(space);
                text.push(character);
                if character == '[' {
                    self.place = Place::Bare { text };
                } else {
                    out.content(&text);
                    self.place = Place::Text;
                }
            }
            Place::Bare { text } => {
                text.push(character);
                if !could_be_bare(text, &self.set) {
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
            Place::Bare { text } => out.content(&text),
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

    fn end_bare(&mut self, text: &str, out: &mut Pieces<'_>) {
        let closed = text.trim_end().ends_with(']');
        let calls = if closed { call::read_calls(text, Within::List) } else { None };
        if calls.is_some_and(|calls| calls.iter().all(|call| self.set.get(&call.name).is_some())) {
            self.read_bare(text, out);
        } else {
            out.content(text);
        }
    }
}

/// Whether a text is the beginning of `[`, a declared name, `(`.
fn could_be_bare(text: &str, set: &ToolSet) -> bool {
    let inside = text.trim_start().trim_start_matches('[').trim_start();
    let (name, rest) = inside.split_at(inside.find(|c| !call::is_name_char(c)).unwrap_or(inside.len()));
    match rest.trim_start().chars().next() {
        None if rest.is_empty() => set.tools().iter().any(|tool| tool.name().starts_with(name)),
        None => set.get(name).is_some(),
        Some(next) => next == '(' && set.get(name).is_some(),
    }
}
