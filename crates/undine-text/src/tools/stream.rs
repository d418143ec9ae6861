//! The calls between one pair of markers, while they are generated.
//!
//! The common shape, calls with arguments by name, is read as it comes: the name of a call goes out with its
//! first argument, text arguments character by character, others when they are complete. An argument is final
//! only when the next one begins or the call ends well, so that an unescaped quote can still be repaired.
//! Every other shape (arguments by place, JSON, damage) is held until the end and read as a whole.

use std::sync::Arc;

use super::ToolSet;
use super::call::{self, Call, Within};
use super::cut::{self, Open};
use super::emit::Emitter;
use super::lexer::{Lexed, Lexer};
use super::literal::{self, Literal, Scanner, Value};
use crate::piece::Pieces;

/// The name of a call and its arguments.
type NamedCall = (String, Vec<(String, Value)>);

/// What is expected next.
#[derive(Clone, Debug)]
enum State {
    ListStart,
    ItemStart,
    Name {
        start: usize,
    },
    /// Before an argument or the parenthesis that closes the call.
    ArgumentStart,
    ArgumentName {
        start: usize,
    },
    ArgumentValue(ArgumentValue),
    /// After the parenthesis of a call.
    CallEnd,
    /// After the bracket, and white space.
    ListEnd,
    /// In text after the list.
    Text,
    /// Nothing is read before the end.
    Held {
        from: usize,
        within: Within,
    },
}

impl State {
    /// Whether white space means nothing there.
    fn is_between(&self) -> bool {
        use State::{ArgumentStart, CallEnd, ItemStart, ListEnd, ListStart};
        matches!(self, ListStart | ItemStart | ArgumentStart | CallEnd | ListEnd)
    }
}

#[derive(Clone, Debug)]
struct ArgumentValue {
    /// Where the name begins.
    start: usize,
    name: String,
    /// After the equals sign.
    value: usize,
    lexer: Lexer,
    /// How far the text of a string has been put out.
    live: Option<Live>,
}

/// A string that is put out while it comes.
#[derive(Clone, Copy, Debug)]
struct Live {
    /// The quote that ends it, unless it proves to be text.
    quote: char,
    /// Up to where it has been read.
    at: usize,
    open: bool,
}

/// An argument that is complete but not yet final.
struct Pending {
    start: usize,
    name: String,
    value: Value,
}

/// Reads the text between the markers.
pub struct CallStream {
    text: String,
    state: State,
    /// Where the text of the call being read begins; what is before has been put out.
    item: usize,
    pending: Option<Pending>,
    first_index: usize,
    emitter: Emitter,
}

impl CallStream {
    pub fn new(set: Arc<ToolSet>, next_index: usize) -> Self {
        Self {
            text: String::new(),
            state: State::ListStart,
            item: 0,
            pending: None,
            first_index: next_index,
            emitter: Emitter::new(set, next_index),
        }
    }

    /// The index of the call after the last one.
    pub fn next_index(&self) -> usize {
        self.emitter.next_index()
    }

    pub fn push(&mut self, character: char, out: &mut Pieces<'_>) {
        let at = self.text.len();
        self.text.push(character);
        let space = character.is_whitespace();
        let state = std::mem::replace(&mut self.state, State::ListStart);
        self.state = match (state, character) {
            (state, _) if space && state.is_between() => state,
            (State::ListStart, '[') => State::ItemStart,
            (State::ListStart, _) => State::Held { from: at, within: Within::List },
            (State::ItemStart, ']') => State::ListEnd,
            (State::ItemStart, _) if call::is_name_char(character) => State::Name { start: at },
            (State::ItemStart, _) => State::Held { from: at, within: Within::Item },
            (State::Name { start }, '(') => self.open_call(start, at),
            (State::Name { start }, _) => self.name(start, at),
            (State::ArgumentStart, ')') => State::CallEnd,
            (State::ArgumentStart, _) if call::is_name_char(character) => State::ArgumentName { start: at },
            (State::ArgumentStart, _) => self.hold_arguments(at),
            (State::ArgumentName { start }, '=') => self.open_argument(start, at, out),
            (State::ArgumentName { start }, _) => self.argument_name(start, at),
            (State::ArgumentValue(value), _) => self.argument_value(value, character, out),
            (State::CallEnd, ',') => {
                self.close_call(out);
                State::ItemStart
            }
            (State::CallEnd, ']') => {
                self.close_call(out);
                State::ListEnd
            }
            (State::CallEnd, _) => self.hold_arguments(at),
            (State::ListEnd | State::Text, _) => {
                out.content(character.encode_utf8(&mut [0; 4]));
                State::Text
            }
            (state @ State::Held { .. }, _) => state,
        };
    }

    /// Ends the list. Returns its text if it was one, to recognise an echo.
    pub fn finish(&mut self, out: &mut Pieces<'_>) -> Option<String> {
        match std::mem::replace(&mut self.state, State::ListEnd) {
            State::ListStart | State::ItemStart | State::ListEnd | State::Text => {}
            State::CallEnd => self.close_call(out),
            State::Name { start } => self.read_held(start, Within::Item, out),
            State::ArgumentStart => {
                let from = self.pending.as_ref().map_or(self.text.len(), |pending| pending.start);
                self.read_held(from, Within::Arguments, out);
            }
            State::ArgumentName { start } => {
                let from = self.pending.as_ref().map_or(start, |pending| pending.start);
                self.read_held(from, Within::Arguments, out);
            }
            State::ArgumentValue(value) => self.read_held(value.start, Within::Arguments, out),
            State::Held { from, within } => self.read_held(from, within, out),
        }
        (self.next_index() > self.first_index).then(|| self.text.trim().to_owned())
    }

    /// Ends the list where the answer was cut: what is known of its last call is a call, what has no name yet
    /// is nothing.
    pub fn cut(&mut self, out: &mut Pieces<'_>) {
        match std::mem::replace(&mut self.state, State::ListEnd) {
            State::ListStart | State::ItemStart | State::ListEnd | State::Text | State::Name { .. } => {}
            State::CallEnd => self.close_call(out),
            State::ArgumentStart | State::ArgumentName { .. } => {
                self.commit(out);
                self.emitter.cut(out);
            }
            State::ArgumentValue(value) => {
                if let Some((open, closers)) = cut::read_value(&self.text[value.value..]) {
                    self.emitter.open_argument(&value.name, &open, &closers, out);
                }
                self.emitter.cut(out);
            }
            State::Held { from, within } => self.cut_held(from, within, out),
        }
    }

    /// Whether the list has a call and goes on.
    pub fn is_open(&self) -> bool {
        !matches!(
            self.state,
            State::ListStart | State::ItemStart | State::ListEnd | State::Text | State::Name { .. }
        )
    }

    /// The calls of what was held, as far as they go.
    fn cut_held(&mut self, from: usize, within: Within, out: &mut Pieces<'_>) {
        self.pending = None;
        let emitter = &self.emitter;
        let read = cut::read(&self.text[from..], within, |name| name.is_empty() || emitter.knows(name));
        let named =
            read.and_then(|read| Some((self.name_arguments(read.calls, within)?, read.open, read.closers)));
        let Some((named, open, closers)) = named.filter(|(named, ..)| !named.is_empty()) else {
            // The beginning of a call may be out.
            if within == Within::Arguments {
                self.emitter.cut(out);
            }
            return;
        };
        let last = named.len() - 1;
        for (index, (name, arguments)) in named.into_iter().enumerate() {
            if index > 0 || within != Within::Arguments {
                self.emitter.open(&name);
            }
            let is_cut = index == last && open != Open::Nothing;
            // The one that was open may have been left out.
            let whole = arguments.len().saturating_sub(usize::from(is_cut && open == Open::Text));
            for (at, (name, value)) in arguments.iter().enumerate() {
                let is_last = is_cut && at + 1 == arguments.len();
                match &value.literal {
                    Literal::List(_) | Literal::Dict(_) if is_last => {
                        self.emitter.open_argument(name, value, &closers, out);
                    }
                    Literal::String(text) if at >= whole && self.emitter.keeps_text(name) => {
                        self.emitter.show_rest(name, text, out);
                    }
                    _ => self.emitter.argument(name, value, out),
                }
            }
            if is_cut {
                self.emitter.cut(out);
            } else {
                self.emitter.close(out);
            }
        }
    }

    fn name(&self, start: usize, at: usize) -> State {
        // White space may stand between a name and its parenthesis, nothing else.
        let name = self.text[start..at].trim_end();
        let next = self.text[at..].chars().next().unwrap_or(' ');
        let continues = call::is_name_char(next) && name.len() == at - start;
        if continues || next.is_whitespace() {
            State::Name { start }
        } else {
            State::Held { from: start, within: Within::Item }
        }
    }

    fn open_call(&mut self, start: usize, at: usize) -> State {
        let name = self.text[start..at].trim_end();
        self.emitter.open(name);
        State::ArgumentStart
    }

    fn close_call(&mut self, out: &mut Pieces<'_>) {
        self.commit(out);
        self.emitter.close(out);
        self.item = self.text.len();
    }

    /// The argument before is final.
    fn commit(&mut self, out: &mut Pieces<'_>) {
        if let Some(Pending { name, value, .. }) = self.pending.take() {
            self.emitter.argument(&name, &value, out);
        }
    }

    /// Reads what was held. What is no list of calls is text, from the beginning of the call that was open.
    fn read_held(&mut self, from: usize, within: Within, out: &mut Pieces<'_>) {
        self.pending = None;
        let calls = call::read_calls(&self.text[from..], within);
        let Some(named) = calls.and_then(|calls| self.name_arguments(calls, within)) else {
            self.emitter.abort(out);
            out.content(self.text[self.item..].trim_start());
            return;
        };
        for (index, (name, arguments)) in named.into_iter().enumerate() {
            if index > 0 || within != Within::Arguments {
                self.emitter.open(&name);
            }
            for (name, value) in arguments {
                self.emitter.argument(&name, &value, out);
            }
            self.emitter.close(out);
        }
    }

    /// The calls with every argument named; `None` if one cannot be.
    fn name_arguments(&mut self, calls: Vec<Call>, within: Within) -> Option<Vec<NamedCall>> {
        let mut named = Vec::with_capacity(calls.len());
        for (index, call) in calls.into_iter().enumerate() {
            let arguments = if index == 0 && within == Within::Arguments {
                self.emitter.name_arguments(call.arguments)?
            } else {
                self.emitter.name_arguments_of(&call.name, call.arguments)?
            };
            named.push((call.name, arguments));
        }
        Some(named)
    }

    /// Gives up reading as it comes, from the first argument that is not final.
    fn hold_arguments(&mut self, at: usize) -> State {
        let from = self.pending.as_ref().map_or(at, |pending| pending.start);
        State::Held { from, within: Within::Arguments }
    }

    fn argument_name(&mut self, start: usize, at: usize) -> State {
        let next = self.text[at..].chars().next().unwrap_or(' ');
        let continues = call::is_name_char(next) && !self.text[start..at].ends_with(char::is_whitespace);
        if continues || next.is_whitespace() {
            State::ArgumentName { start }
        } else {
            self.hold_arguments(start)
        }
    }

    fn open_argument(&mut self, start: usize, at: usize, out: &mut Pieces<'_>) -> State {
        let name = self.text[start..at].trim_end().to_owned();
        self.commit(out);
        if self.emitter.has(&name) {
            return self.hold_arguments(start);
        }
        self.emitter.announce(out);
        State::ArgumentValue(ArgumentValue {
            start,
            name,
            value: at + 1,
            lexer: Lexer::default(),
            live: None,
        })
    }

    fn argument_value(
        &mut self,
        mut argument: ArgumentValue,
        character: char,
        out: &mut Pieces<'_>,
    ) -> State {
        let at = self.text.len() - character.len_utf8();
        match argument.lexer.push(character, at) {
            Lexed::Inside => {
                self.show(&mut argument, out);
                State::ArgumentValue(argument)
            }
            Lexed::Unbalanced => State::Held { from: argument.start, within: Within::Arguments },
            Lexed::End => {
                let mut scanner = Scanner::new(&self.text[argument.value..at], &[]);
                let value = scanner.value();
                scanner.skip_space();
                match value {
                    Ok(value) if scanner.rest().is_empty() => {
                        let ArgumentValue { start, name, .. } = argument;
                        self.pending = Some(Pending { start, name, value });
                        if character == ',' { State::ArgumentStart } else { State::CallEnd }
                    }
                    _ => State::Held { from: argument.start, within: Within::Arguments },
                }
            }
        }
    }

    /// Puts out what is certain of a string: all before its first quote, which ends it or is part of it.
    fn show(&mut self, argument: &mut ArgumentValue, out: &mut Pieces<'_>) {
        if argument.live.is_none() {
            argument.live = self.live(argument);
        }
        let Some(live) = &mut argument.live else { return };
        let mut text = String::new();
        while live.open {
            let rest = &self.text[live.at..];
            live.open = !rest.starts_with(live.quote);
            let Some((unit, bytes)) = literal::next_unit(rest).filter(|_| live.open) else { break };
            unit.push_to(&mut text);
            live.at += bytes;
        }
        if !text.is_empty() {
            self.emitter.show(&argument.name, &text, out);
        }
    }

    /// Whether a string has begun that can be put out as it comes: two quotes are an empty string, or the
    /// beginning of three.
    fn live(&self, argument: &ArgumentValue) -> Option<Live> {
        let value = self.text[argument.value..].trim_start();
        let mut characters = value.chars();
        let quote = characters.next().filter(|first| "\"'".contains(*first))?;
        let second = characters.next()?;
        let begins =
            second != quote && characters.next().is_none() && self.emitter.keeps_text(&argument.name);
        begins.then(|| Live { quote, at: self.text.len() - second.len_utf8(), open: true })
    }
}
