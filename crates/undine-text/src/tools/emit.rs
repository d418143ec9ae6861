//! Calls on their way out: a name, then arguments whose JSON is put together piece by piece.

use std::sync::Arc;

use super::call::Argument;
use super::coerce::{self, Schema};
use super::literal::{Literal, Value};
use super::{Tool, ToolSet};
use crate::piece::{Piece, Pieces};

/// Puts out the calls of one list, one after the other.
pub struct Emitter {
    set: Arc<ToolSet>,
    next_index: usize,
    call: Option<OpenCall>,
}

/// The call being put out.
struct OpenCall {
    name: String,
    /// Its index, once its name is out.
    index: Option<usize>,
    /// The arguments that are out.
    names: Vec<String>,
    /// The argument whose text is partly out, and that text.
    shown: Option<(String, String)>,
}

impl Emitter {
    pub fn new(set: Arc<ToolSet>, next_index: usize) -> Self {
        Self { set, next_index, call: None }
    }

    /// The index of the next call.
    pub fn next_index(&self) -> usize {
        self.next_index
    }

    /// Begins a call; its name goes out with its first argument, or with its end.
    pub fn open(&mut self, name: &str) {
        self.call = Some(OpenCall { name: name.to_owned(), index: None, names: Vec::new(), shown: None });
    }

    /// Whether the call has this argument already.
    pub fn has(&self, name: &str) -> bool {
        self.call.as_ref().is_some_and(|call| call.names.iter().any(|other| other == name))
    }

    /// Names and values of the arguments that follow those of the open call. See [`Self::name_arguments_of`].
    pub fn name_arguments(&self, arguments: Vec<Argument>) -> Option<Vec<(String, Value)>> {
        let call = self.call.as_ref()?;
        let named = name_arguments(self.set.get(&call.name), &call.names, arguments)?;
        let fits = call.shown.as_ref().is_none_or(|(name, shown)| {
            named.first().is_some_and(|(first, value)| {
                let text = if let Literal::String(text) = &value.literal { text.as_str() } else { "" };
                first == name && text.starts_with(shown.as_str())
            })
        });
        fits.then_some(named)
    }

    /// Names and values of the arguments of a call. Those without a name get it by the order in which the
    /// tool declares them; a dict alone whose keys are all declared holds the arguments. `None` if one is
    /// unknown or twice.
    pub fn name_arguments_of(&self, call: &str, arguments: Vec<Argument>) -> Option<Vec<(String, Value)>> {
        name_arguments(self.set.get(call), &[], arguments)
    }

    /// Puts out the name of the open call.
    pub fn announce(&mut self, out: &mut Pieces<'_>) {
        if let Some(call) = self.call.as_mut().filter(|call| call.index.is_none()) {
            call.index = Some(self.next_index);
            out.push(Piece::ToolCall { index: self.next_index, name: call.name.clone() });
            self.next_index += 1;
        }
    }

    /// Whether the text of a string argument goes out as it is.
    pub fn keeps_text(&self, argument: &str) -> bool {
        self.schema(argument).keeps_text()
    }

    /// Puts out more of the text of an argument that is not complete.
    pub fn show(&mut self, name: &str, text: &str, out: &mut Pieces<'_>) {
        self.announce(out);
        let Some(call) = &mut self.call else { return };
        let mut json = String::new();
        let (_, shown) = call.shown.get_or_insert_with(|| {
            json.push_str(if call.names.is_empty() { "{" } else { "," });
            coerce::push_string(name, &mut json);
            json.push_str(":\"");
            (name.to_owned(), String::new())
        });
        shown.push_str(text);
        coerce::push_string_part(text, &mut json);
        out.arguments(call.index.unwrap_or(0), &json);
    }

    /// Puts out the text of an argument that was cut, as far as it has not been shown.
    pub fn show_rest(&mut self, name: &str, text: &str, out: &mut Pieces<'_>) {
        let shown =
            self.call.as_ref().and_then(|call| call.shown.as_ref()).map_or(0, |(_, shown)| shown.len());
        self.show(name, text.get(shown..).unwrap_or_default(), out);
    }

    /// Puts out an argument, or the rest of one that was shown.
    pub fn argument(&mut self, name: &str, value: &Value, out: &mut Pieces<'_>) {
        self.announce(out);
        let Some(call) = &self.call else { return };
        let mut whole = String::new();
        if call.shown.is_none() || !matches!(value.literal, Literal::String(_)) {
            coerce::push_json(value, self.schema(name), &mut whole);
        }
        let Some(call) = &mut self.call else { return };
        let mut json = String::new();
        match (call.shown.take(), &value.literal) {
            (Some((_, shown)), Literal::String(text)) => {
                coerce::push_string_part(&text[shown.len()..], &mut json);
                json.push('"');
            }
            _ => {
                json.push_str(if call.names.is_empty() { "{" } else { "," });
                coerce::push_string(name, &mut json);
                json.push(':');
                json.push_str(&whole);
            }
        }
        call.names.push(name.to_owned());
        out.arguments(call.index.unwrap_or(0), &json);
    }

    /// Puts out an argument that was cut, without what would close it. If its schema makes something else of
    /// it, so that it is not known where that would go on, nothing is put out.
    pub fn open_argument(&mut self, name: &str, value: &Value, closers: &str, out: &mut Pieces<'_>) {
        self.announce(out);
        let mut whole = String::new();
        coerce::push_json(value, self.schema(name), &mut whole);
        let Some(call) = &self.call else { return };
        // The last of them may close what holds the arguments.
        let least = closers.len().min(1);
        let open = (least..=closers.len()).rev().find_map(|count| whole.strip_suffix(closers.get(..count)?));
        let Some(open) = open else { return };
        let mut json = String::from(if call.names.is_empty() { "{" } else { "," });
        coerce::push_string(name, &mut json);
        json.push(':');
        json.push_str(open);
        out.arguments(call.index.unwrap_or(0), &json);
    }

    /// Ends the call.
    pub fn close(&mut self, out: &mut Pieces<'_>) {
        self.announce(out);
        if let Some(OpenCall { index: Some(index), names, .. }) = self.call.take() {
            out.arguments(index, if names.is_empty() { "{}" } else { "}" });
        }
    }

    /// Leaves the call as it is: the answer was cut within it.
    pub fn cut(&mut self, out: &mut Pieces<'_>) {
        self.announce(out);
        if let Some(OpenCall { index: Some(index), .. }) = self.call.take() {
            out.push(Piece::ToolCut { index });
        }
    }

    /// Whether a tool of this name is declared.
    pub fn knows(&self, name: &str) -> bool {
        self.set.get(name).is_some()
    }

    /// Gives the call up.
    pub fn abort(&mut self, out: &mut Pieces<'_>) {
        if let Some(OpenCall { index: Some(index), .. }) = self.call.take() {
            out.push(Piece::ToolAborted { index });
        }
    }

    fn schema(&self, argument: &str) -> Schema<'_> {
        match self.call.as_ref().and_then(|call| self.set.get(&call.name)) {
            Some(tool) => Schema::of_argument(tool.parameters(), argument),
            None => Schema::any(),
        }
    }
}

fn name_arguments(
    tool: Option<&Tool>,
    before: &[String],
    arguments: Vec<Argument>,
) -> Option<Vec<(String, Value)>> {
    let properties = tool.and_then(Tool::properties);
    if let [Argument { name: None, value: Value { literal: Literal::Dict(entries), .. } }] = &arguments[..]
        && before.is_empty()
        && !entries.is_empty()
        && entries.iter().all(|(key, _)| properties.is_some_and(|properties| properties.contains_key(key)))
    {
        return Some(entries.clone());
    }
    let mut named: Vec<(String, Value)> = Vec::with_capacity(arguments.len());
    for Argument { name, value } in arguments {
        let name = match name {
            Some(name) => name,
            None => properties?.keys().nth(before.len() + named.len())?.clone(),
        };
        if before.contains(&name) || named.iter().any(|(other, _)| *other == name) {
            return None;
        }
        named.push((name, value));
    }
    Some(named)
}
