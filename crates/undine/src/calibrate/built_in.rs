//! The text that a model is calibrated with unless there is a better one: prose and code in several
//! languages, and chats with reasoning, tools and structured answers. Written for this program.

use serde::Deserialize;
use serde_json::{Map, Value as Json};
use undine_text::{ChatInput, ChatTemplate};

use crate::eval::text::Text;

const DOCUMENTS: &str = include_str!("documents.txt");
/// A line between documents.
const SEPARATOR: &str = "\n=====\n";
const CHATS: &str = include_str!("chats.json");
/// What the text is called in messages and in importance matrices.
pub const NAME: &str = "the built-in calibration text";

/// A conversation.
#[derive(Deserialize)]
struct Chat {
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
}

/// Documents and chats in turns, so that the first windows have some of everything. Chats are written as the
/// model's template writes them; those that it refuses, and all if there is none, with the role before each
/// message.
pub fn text(template: Option<&ChatTemplate>) -> Text {
    let chats: Vec<Chat> = serde_json::from_str(CHATS).expect("the chats are part of the program");
    let mut chats = chats.iter().map(|chat| {
        let rendered = template.and_then(|template| render(template, chat));
        rendered.unwrap_or_else(|| plain(chat))
    });
    let mut documents = DOCUMENTS.split(SEPARATOR).map(str::to_owned);
    let mut parts = Vec::new();
    loop {
        let (document, chat) = (documents.next(), chats.next());
        if document.is_none() && chat.is_none() {
            break;
        }
        parts.extend(document.into_iter().chain(chat).chain(documents.next()));
    }
    Text { name: NAME.to_owned(), content: parts.join("\n\n") }
}

fn render(template: &ChatTemplate, chat: &Chat) -> Option<String> {
    let input = ChatInput {
        messages: &chat.messages,
        tools: chat.tools.as_deref(),
        add_generation_prompt: false,
        kwargs: &Map::new(),
    };
    template.render(&input).ok()
}

fn plain(chat: &Chat) -> String {
    let line = |message: &Json| {
        let text = |key: &str| message[key].as_str().unwrap_or_default();
        format!("{}: {}", text("role"), text("content"))
    };
    chat.messages.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
                            {% if tools %}<tools>{{ tools | length }}{% endif %}";

    #[test]
    fn every_document_and_chat_is_in_the_text() {
        let chats: Vec<Chat> = serde_json::from_str(CHATS).expect("JSON");
        let template = ChatTemplate::new(TEMPLATE, "", "").expect("a template");
        let refusing = ChatTemplate::new("{{ raise_exception('no') }}", "", "").expect("a template");
        for (template, user) in [(Some(&template), "<user>"), (None, "user: "), (Some(&refusing), "user: ")] {
            let text = text(template).content;
            for document in DOCUMENTS.split(SEPARATOR) {
                assert!(text.contains(document), "{document}");
            }
            for message in chats.iter().flat_map(|chat| &chat.messages) {
                assert!(text.contains(message["content"].as_str().expect("a text")), "{message}");
            }
            assert_eq!(text.matches("<tools>").count(), if user == "<user>" { 2 } else { 0 });
            assert!(text.contains(&format!("{user}Why is the sky blue")), "{user}");
            // Some of everything is near the beginning.
            assert!(text[..3000].contains("sky blue") && text[..3000].contains("def moving_average"));
        }
    }
}
