//! What is sent: single prompts, and chats whose every turn sends all that was said before.

use serde_json::{Map, Value as Json, json};

use super::client::Api;

/// A text to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Its tokens, as far as is known here.
    pub tokens: u32,
    /// Tokens of the answer to ask for.
    pub output_len: u32,
}

/// Turns to be held one after the other; a single request is a chat of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chat {
    /// What comes before the first turn, and its tokens.
    pub system: Option<(String, u32)>,
    /// What the user says.
    pub turns: Vec<Prompt>,
}

/// A chat so far, in the form that its interface takes.
#[derive(Clone, PartialEq, Debug)]
pub struct Conversation {
    said: Said,
    /// Tokens so far, as far as is known here.
    pub tokens: u32,
}

#[derive(Clone, PartialEq, Debug)]
enum Said {
    Text(String),
    Messages(Vec<Json>),
}

impl Conversation {
    /// Nothing said yet.
    pub fn new(api: Api, system: Option<&(String, u32)>) -> Self {
        let said = match (api, system) {
            (Api::Completions, None) => Said::Text(String::new()),
            (Api::Completions, Some((text, _))) => Said::Text(text.clone()),
            (Api::Chat, None) => Said::Messages(Vec::new()),
            (Api::Chat, Some((text, _))) => {
                Said::Messages(vec![json!({ "role": "system", "content": text })])
            }
        };
        Self { said, tokens: system.map_or(0, |(_, tokens)| *tokens) }
    }

    /// The user's turn.
    pub fn push_user(&mut self, prompt: &Prompt) {
        self.tokens = self.tokens.saturating_add(prompt.tokens);
        match &mut self.said {
            Said::Text(text) => {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(&prompt.text);
            }
            Said::Messages(messages) => messages.push(json!({ "role": "user", "content": prompt.text })),
        }
    }

    /// The model's answer of so many tokens.
    pub fn push_answer(&mut self, answer: &str, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens);
        match &mut self.said {
            Said::Text(text) => text.push_str(answer),
            Said::Messages(messages) => messages.push(json!({ "role": "assistant", "content": answer })),
        }
    }

    /// Puts everything said into the body of a request.
    pub fn put_into(&self, body: &mut Map<String, Json>) {
        match &self.said {
            Said::Text(text) => body.insert("prompt".to_owned(), text.as_str().into()),
            Said::Messages(messages) => body.insert("messages".to_owned(), messages.clone().into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_begins_with_all_that_was_said() {
        let prompt = |text: &str| Prompt { text: text.to_owned(), tokens: 2, output_len: 1 };
        let system = ("be kind".to_owned(), 5);
        for (api, system, expected) in [
            (Api::Completions, None, json!({ "prompt": "a b!? c" })),
            (Api::Completions, Some(&system), json!({ "prompt": "be kind a b!? c" })),
            (
                Api::Chat,
                Some(&system),
                json!({ "messages": [
                    { "role": "system", "content": "be kind" },
                    { "role": "user", "content": "a b" },
                    { "role": "assistant", "content": "!?" },
                    { "role": "user", "content": "c" },
                ] }),
            ),
        ] {
            let mut conversation = Conversation::new(api, system);
            conversation.push_user(&prompt("a b"));
            conversation.push_answer("!?", 3);
            conversation.push_user(&prompt("c"));
            let mut body = Map::new();
            conversation.put_into(&mut body);
            assert_eq!(Json::Object(body), expected);
            assert_eq!(conversation.tokens, 7 + system.map_or(0, |(_, tokens)| *tokens));
        }
    }
}
