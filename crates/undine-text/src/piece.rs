//! What the text of an answer is made of.

/// A stretch of an answer; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Part of the answer.
    Content(String),
    /// Part of the thinking before it.
    Reasoning(String),
    /// A tool is called. Its arguments follow.
    ToolCall {
        /// Which call of the answer, from 0.
        index: usize,
        /// The name of the tool.
        name: String,
    },
    /// Part of the arguments of a call; all parts together are one JSON object.
    ToolArguments {
        /// The call.
        index: usize,
        /// The next part of the JSON text.
        json: String,
    },
    /// The answer was cut within this call: its arguments are the beginning of a JSON object.
    ToolCut {
        /// The call.
        index: usize,
    },
    /// The call cannot be completed: the answer ended within it, or what follows is no call. Its arguments
    /// stay without their closing brace, so that no reader takes them for whole; its text follows as content.
    /// Who has not yet shown the call should drop it.
    ToolAborted {
        /// The call.
        index: usize,
    },
}

/// Appends to a list of pieces, joining neighbours of one kind that come in the same call.
pub(crate) struct Pieces<'a> {
    out: &'a mut Vec<Piece>,
    first: usize,
}

impl<'a> Pieces<'a> {
    pub fn new(out: &'a mut Vec<Piece>) -> Self {
        let first = out.len();
        Self { out, first }
    }

    pub fn content(&mut self, text: &str) {
        match self.out[self.first..].last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Content(last)) => last.push_str(text),
            _ => self.out.push(Piece::Content(text.to_owned())),
        }
    }

    pub fn reasoning(&mut self, text: &str) {
        match self.out[self.first..].last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Reasoning(last)) => last.push_str(text),
            _ => self.out.push(Piece::Reasoning(text.to_owned())),
        }
    }

    pub fn arguments(&mut self, index: usize, text: &str) {
        match self.out[self.first..].last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::ToolArguments { index: last_index, json }) if *last_index == index => {
                json.push_str(text);
            }
            _ => self.out.push(Piece::ToolArguments { index, json: text.to_owned() }),
        }
    }

    pub fn push(&mut self, piece: Piece) {
        self.out.push(piece);
    }
}
