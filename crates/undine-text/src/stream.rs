//! From sampled tokens to what a reader sees: text, cut at stop strings and split into reasoning and content.
//!
//! Invariant: the pieces, joined per kind, depend on the text only and not on how it was cut into tokens.
//! Text is held back only while it could still become a stop string or a reasoning marker.

use std::sync::Arc;

use undine_core::TokenId;

use crate::detokenizer::Detokenizer;
use crate::piece::{Piece, Pieces};
use crate::tokenizer::{SpecialText, Tokenizer};
use crate::tools::{TOOL_CALL_END, TOOL_CALL_START, ToolFormat, ToolParser, ToolSet};

/// What opens a model's reasoning.
pub const THINK_START: &str = "<think>";
/// What closes it.
pub const THINK_END: &str = "</think>";

/// Whether a stop string itself is part of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IncludeStop {
    /// The text ends with it.
    Yes,
    /// The text ends before it.
    No,
}

/// What happens to text between `<think>` and `</think>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reasoning {
    /// All text is content, markers included.
    Off,
    /// Text between the markers is reasoning; the markers vanish.
    Split,
    /// The same, for a prompt that already ends in `<think>`.
    SplitStartInside,
}

/// How to turn the tokens of one answer into text.
#[derive(Clone, PartialEq, Debug)]
pub struct StreamOptions {
    /// The text ends where the first of these appears in the answer; a thought goes on, and nothing matches
    /// across its ends. One that contains a reasoning marker, such as `</think>`, is looked for in all of the
    /// text. Empty ones never match.
    pub stop: Vec<String>,
    /// Whether the stop string is shown.
    pub include_stop: IncludeStop,
    /// Whether control tokens are shown. Reasoning markers are seen either way.
    pub special: SpecialText,
    /// Whether reasoning is kept apart.
    pub reasoning: Reasoning,
    /// The tools whose calls are read from the content; `None` leaves calls as they are written.
    pub tools: Option<Arc<ToolSet>>,
    /// How calls may be written.
    pub tool_format: ToolFormat,
}

/// Whether a stream wants more tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamState {
    /// No stop string has appeared.
    Running,
    /// The text is over.
    Stopped {
        /// The stop string that appeared.
        stop: String,
    },
}

/// The text of one answer as it is generated.
pub struct TextStream {
    detokenizer: Detokenizer,
    markers: Vec<TokenId>,
    /// Those that are looked for in all of the text.
    marked_stops: StopMatcher,
    split: ReasoningSplit,
    /// Those that are looked for in the answer.
    stops: StopMatcher,
    tools: Option<ToolParser>,
    state: StreamState,
    text: String,
}

impl TextStream {
    /// Starts an answer.
    pub fn new(tokenizer: Arc<Tokenizer>, options: StreamOptions) -> Self {
        let mut markers = Vec::new();
        if options.reasoning != Reasoning::Off {
            markers.extend([THINK_START, THINK_END]);
        }
        if options.tools.is_some() {
            markers.extend([TOOL_CALL_START, TOOL_CALL_END]);
        }
        let markers = markers.into_iter().filter_map(|marker| tokenizer.token_id(marker)).collect();
        let mut stream = Self {
            detokenizer: Detokenizer::new(tokenizer, options.special),
            markers,
            marked_stops: StopMatcher::new(options.include_stop),
            split: ReasoningSplit::new(options.reasoning),
            stops: StopMatcher::new(options.include_stop),
            tools: options.tools.map(|tools| ToolParser::new(tools, options.tool_format)),
            state: StreamState::Running,
            text: String::new(),
        };
        stream.set_stop(options.stop);
        stream
    }

    /// Replaces the stop strings, from the text on that has not been put out yet.
    pub fn set_stop(&mut self, stop: Vec<String>) {
        let has_marker = |stop: &String| {
            self.split.mode != Reasoning::Off
                && [THINK_START, THINK_END].iter().any(|marker| stop.contains(marker))
        };
        (self.marked_stops.stops, self.stops.stops) =
            stop.into_iter().filter(|stop| !stop.is_empty()).partition(has_marker);
    }

    /// Appends the pieces that `id` makes certain. Once stopped, tokens are ignored.
    pub fn push(&mut self, id: TokenId, out: &mut Vec<Piece>) -> StreamState {
        if self.state == StreamState::Running {
            self.text.clear();
            if self.markers.contains(&id) {
                self.detokenizer.push_visible(id, &mut self.text);
            } else {
                self.detokenizer.push(id, &mut self.text);
            }
            self.take_text(out);
        }
        self.state.clone()
    }

    /// Ends the answer and appends everything held back. Does nothing after a stop string or a second time.
    /// A stop string that contains U+FFFD may appear only here.
    pub fn finish(&mut self, out: &mut Vec<Piece>) -> StreamState {
        self.finish_as(Last::Complete, out)
    }

    /// The same for an answer that was cut by its length: a call that is not complete is put out as far as it
    /// goes.
    pub fn cut(&mut self, out: &mut Vec<Piece>) -> StreamState {
        self.finish_as(Last::Cut, out)
    }

    fn finish_as(&mut self, last: Last, out: &mut Vec<Piece>) -> StreamState {
        if self.state == StreamState::Running {
            self.text.clear();
            self.detokenizer.finish(&mut self.text);
            self.take_text(out);
        }
        if self.state == StreamState::Running {
            let held = std::mem::take(&mut self.marked_stops.held);
            self.pass_on(&held, last, out);
        }
        self.state.clone()
    }

    fn take_text(&mut self, out: &mut Vec<Piece>) {
        let (certain, stop) = self.marked_stops.push(&self.text);
        self.pass_on(&certain, if stop.is_some() { Last::Cut } else { Last::No }, out);
        if let (Some(stop), StreamState::Running) = (stop, &self.state) {
            self.state = StreamState::Stopped { stop };
        }
    }

    fn pass_on(&mut self, text: &str, last: Last, out: &mut Vec<Piece>) {
        let mut sink =
            Sink { pieces: Pieces::new(out), stops: &mut self.stops, stop: None, tools: self.tools.as_mut() };
        self.split.push(text, &mut sink);
        sink.release_before(&self.split.held);
        if last != Last::No {
            self.split.finish(&mut sink);
            sink.release();
        }
        let stop = sink.stop.take();
        match last {
            _ if stop.is_some() => sink.cut(),
            Last::Cut => sink.cut(),
            Last::Complete => sink.end(),
            Last::No => {}
        }
        if let Some(stop) = stop {
            self.state = StreamState::Stopped { stop };
        }
    }
}

/// Whether more text follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    No,
    /// The answer is complete.
    Complete,
    /// It was cut, by its length or a stop string.
    Cut,
}

/// Where text goes that reasoning was split off from.
struct Sink<'a, 'p> {
    pieces: Pieces<'p>,
    stops: &'a mut StopMatcher,
    /// The stop string that appeared; what follows it is dropped.
    stop: Option<String>,
    tools: Option<&'a mut ToolParser>,
}

impl Sink<'_, '_> {
    fn push(&mut self, place: Place, text: &str) {
        if self.stop.is_some() {
            return;
        }
        match place {
            Place::Inside => {
                self.release();
                self.pieces.reasoning(text);
            }
            Place::Outside => {
                let (certain, stop) = self.stops.push(text);
                self.content(&certain);
                self.stop = stop;
            }
        }
    }

    /// Puts out what a stop string could have begun with: the answer ends or is interrupted.
    fn release(&mut self) {
        let held = std::mem::take(&mut self.stops.held);
        self.content(&held);
    }

    /// Puts out what no stop string can begin with if it goes on with `next`, which is not known yet to be
    /// text.
    fn release_before(&mut self, next: &str) {
        if !next.is_empty() {
            let certain = self.stops.certain_before(next);
            self.content(&certain);
        }
    }

    fn content(&mut self, text: &str) {
        match &mut self.tools {
            Some(tools) => tools.take(text, &mut self.pieces),
            None => self.pieces.content(text),
        }
    }

    fn end(&mut self) {
        if let Some(tools) = &mut self.tools {
            tools.end(&mut self.pieces);
        }
    }

    fn cut(&mut self) {
        if let Some(tools) = &mut self.tools {
            tools.cut(&mut self.pieces);
        }
    }

    /// Whether what comes is part of a call: then a reasoning marker is text like any other.
    fn is_in_call(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.is_in_call())
    }
}

/// Finds the first stop string in a text that comes in parts.
struct StopMatcher {
    stops: Vec<String>,
    include: IncludeStop,
    /// The longest end of the text so far that a stop string could begin with.
    held: String,
}

impl StopMatcher {
    fn new(include: IncludeStop) -> Self {
        Self { stops: Vec::new(), include, held: String::new() }
    }

    /// Takes more text; returns what is certain to come before any stop string, and the stop string if it is
    /// complete.
    fn push(&mut self, text: &str) -> (String, Option<String>) {
        self.held.push_str(text);
        // The match that ends first is the one that a reader of single characters would see; of several, the
        // longest.
        let found =
            self.stops.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|start| (start, stop)));
        let found = found.min_by_key(|&(start, stop)| (start + stop.len(), start));
        if let Some((start, stop)) = found {
            let end = if self.include == IncludeStop::Yes { start + stop.len() } else { start };
            let stop = stop.clone();
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), Some(stop));
        }
        let keep = could_begin(&self.held, self.stops.iter().map(String::as_str));
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// Gives up what cannot be part of a stop string if `next` follows.
    fn certain_before(&mut self, next: &str) -> String {
        let could_match = |start: &usize| {
            let text = self.held[*start..].bytes().chain(next.bytes());
            self.stops
                .iter()
                .any(|stop| text.clone().zip(stop.bytes()).all(|(found, wanted)| found == wanted))
        };
        let starts = self.held.char_indices().map(|(start, _)| start);
        let keep = starts.into_iter().find(could_match).unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Where the longest end of `text` starts that is a beginning of one of `words`; `text.len()` if none is.
fn could_begin<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> usize {
    words.map(|word| overlap_start(text, word)).min().unwrap_or(text.len())
}

/// Where the longest end of `text` starts that is a proper beginning of `word`.
fn overlap_start(text: &str, word: &str) -> usize {
    let text = text.as_bytes();
    let from = text.len().saturating_sub(word.len().saturating_sub(1));
    (from..text.len()).find(|&start| word.as_bytes().starts_with(&text[start..])).unwrap_or(text.len())
}

/// On which side of the markers the text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Outside,
    Inside,
}

/// Whether white space is being dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Space {
    Kept,
    /// Right after `</think>`, before the answer begins.
    Dropped,
}

/// Splits text at the markers. A marker moves the text to its side wherever it stands, and is never shown.
struct ReasoningSplit {
    mode: Reasoning,
    place: Place,
    space: Space,
    /// The longest end of the text so far that a marker could begin with.
    held: String,
}

impl ReasoningSplit {
    fn new(mode: Reasoning) -> Self {
        let place = if mode == Reasoning::SplitStartInside { Place::Inside } else { Place::Outside };
        Self { mode, place, space: Space::Kept, held: String::new() }
    }

    fn push(&mut self, text: &str, out: &mut Sink<'_, '_>) {
        if self.mode == Reasoning::Off {
            out.push(Place::Outside, text);
            return;
        }
        self.held.push_str(text);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while let Some((before, marker, after)) = next_marker(rest) {
            self.emit(before, out);
            rest = after;
            if self.place == Place::Outside && out.is_in_call() {
                self.emit(marker, out);
                continue;
            }
            (self.place, self.space) = match marker {
                THINK_START => (Place::Inside, Space::Kept),
                _ => (Place::Outside, Space::Dropped),
            };
        }
        let (certain, open) = rest.split_at(could_begin(rest, [THINK_START, THINK_END].into_iter()));
        self.emit(certain, out);
        self.held.push_str(open);
    }

    /// Half a marker at the very end of an answer is not a marker: it is shown.
    fn finish(&mut self, out: &mut Sink<'_, '_>) {
        let held = std::mem::take(&mut self.held);
        self.emit(&held, out);
    }

    fn emit(&mut self, text: &str, out: &mut Sink<'_, '_>) {
        let text = if self.space == Space::Dropped { text.trim_start() } else { text };
        if !text.is_empty() {
            self.space = Space::Kept;
            out.push(self.place, text);
        }
    }
}

/// The text before the first marker, the marker, and the text after it.
fn next_marker(text: &str) -> Option<(&str, &'static str, &str)> {
    let found =
        [THINK_START, THINK_END].into_iter().filter_map(|marker| text.find(marker).map(|at| (at, marker)));
    let (at, marker) = found.min_by_key(|&(at, _)| at)?;
    Some((&text[..at], marker, &text[at + marker.len()..]))
}
