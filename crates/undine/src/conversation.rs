//! A conversation: messages as the chat template takes them, and its file form.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::Error;

/// Longest conversation file that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Who says something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who types.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Whose it is.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// What was thought before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
}

/// Messages in order, and the system prompt before them.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// The system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The rest.
    pub messages: Vec<Message>,
}

impl Conversation {
    /// Adds what the user says.
    pub fn push_user(&mut self, content: &str) {
        let content = content.to_owned();
        self.messages.push(Message { role: Role::User, content, reasoning: String::new() });
    }

    /// Adds what the model said.
    pub fn push_assistant(&mut self, content: String, reasoning: String) {
        self.messages.push(Message { role: Role::Assistant, content, reasoning });
    }

    /// Takes back the last message.
    pub fn pop(&mut self) {
        self.messages.pop();
    }

    /// The messages for a chat template. Templates spell the key of past reasoning in three ways.
    pub fn for_template(&self) -> Vec<Json> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages = self.messages.iter().map(|message| {
            let Message { role, content, reasoning } = message;
            if reasoning.is_empty() {
                return json!({"role": role, "content": content});
            }
            json!({
                "role": role, "content": content,
                "thinking": reasoning, "reasoning": reasoning, "reasoning_content": reasoning,
            })
        });
        system.chain(messages).collect()
    }

    /// Writes the conversation as JSON, replacing a file that is there.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(self).expect("texts are JSON");
        std::fs::write(path, json + "\n").map_err(|source| Error::file(path, source))
    }

    /// Reads what [`Self::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::file(path, source);
        let bytes = std::fs::metadata(path).map_err(fail)?.len();
        if bytes > FILE_BYTES_MAX {
            let message = format!("{}: {bytes} bytes, expected at most {FILE_BYTES_MAX}", path.display());
            return Err(Error::refused(message));
        }
        let text = std::fs::read_to_string(path).map_err(fail)?;
        serde_json::from_str(&text)
            .map_err(|error| Error::refused(format!("{}: not a saved conversation: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_other_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chat.json");
        let mut conversation = Conversation { system: Some("Be brief.".to_owned()), messages: Vec::new() };
        conversation.push_user("2+2?");
        conversation.push_assistant("4".to_owned(), "two and two".to_owned());
        conversation.save(&path).expect("writes");
        assert_eq!(Conversation::load(&path).expect("reads"), conversation);
        let rendered = conversation.for_template();
        assert_eq!(rendered.len(), 3);
        assert_eq!(rendered[2]["reasoning_content"], "two and two");
        std::fs::write(&path, "{\"messages\": [{\"role\": \"wizard\", \"content\": \"\"}]}").expect("writes");
        let error = Conversation::load(&path).expect_err("refuses").to_string();
        assert!(error.contains("not a saved conversation"), "{error}");
        assert!(Conversation::load(&folder.path().join("none.json")).is_err());
    }
}
