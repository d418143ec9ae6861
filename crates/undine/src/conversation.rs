//! A conversation: messages as the chat template takes them, and its file form.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::Error;
use crate::open::ModelText;
use crate::pictures::Pictures;
use crate::text_file;

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

/// A picture of a message. A saved conversation names the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attachment {
    /// The file.
    pub path: PathBuf,
    /// What stands for it until the prompt is tokenized.
    #[serde(skip)]
    pub placeholder: String,
    /// Tokens that it takes.
    #[serde(skip)]
    pub tokens: u32,
}

impl Attachment {
    /// Reads a file.
    pub fn new(pictures: &Pictures, path: &Path) -> Result<Self, Error> {
        let picture = pictures.add(path)?;
        // A saved conversation may be loaded in another folder.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, placeholder: picture.placeholder, tokens: picture.tokens })
    }
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Whose it is.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Pictures, before what is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Attachment>,
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
    pub fn push_user(&mut self, content: &str, images: Vec<Attachment>) {
        let content = content.to_owned();
        self.messages.push(Message { role: Role::User, content, images, reasoning: String::new() });
    }

    /// Adds what the model said.
    pub fn push_assistant(&mut self, content: String, reasoning: String) {
        self.messages.push(Message { role: Role::Assistant, content, images: Vec::new(), reasoning });
    }

    /// Takes back the last message.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// The messages for a chat template. Templates spell the key of past reasoning in three ways.
    pub fn for_template(&self) -> Vec<Json> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages = self.messages.iter().map(|message| {
            let Message { role, content, images, reasoning } = message;
            let content = images.iter().map(|image| image.placeholder.as_str()).collect::<String>() + content;
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
        std::fs::write(path, self.to_text()).map_err(|source| Error::file(path, source))
    }

    /// The file form.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts are JSON") + "\n"
    }

    /// The other way; the files of pictures are not read.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// Reads what [`Self::save`] wrote, and the pictures in it.
    pub fn load(path: &Path, text: &ModelText) -> Result<Self, Error> {
        let mut conversation = Self::read(path)?;
        for image in conversation.messages.iter_mut().flat_map(|message| &mut message.images) {
            *image = Attachment::new(text.pictures()?, &image.path)?;
        }
        Ok(conversation)
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = text_file::read(path, FILE_BYTES_MAX)?;
        Self::parse(&text)
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
        conversation.push_user("2+2?", Vec::new());
        conversation.push_assistant("4".to_owned(), "two and two".to_owned());
        conversation.save(&path).expect("writes");
        assert_eq!(Conversation::read(&path).expect("reads"), conversation);
        let rendered = conversation.for_template();
        assert_eq!(rendered.len(), 3);
        assert_eq!(rendered[2]["reasoning_content"], "two and two");
        std::fs::write(&path, "{\"messages\": [{\"role\": \"wizard\", \"content\": \"\"}]}").expect("writes");
        let error = Conversation::read(&path).expect_err("refuses").to_string();
        assert!(error.contains("not a saved conversation"), "{error}");
        assert!(Conversation::read(&folder.path().join("none.json")).is_err());
    }
}
