//! How a model is made to answer at once: by its template where that knows how, else by the prompt.

use serde_json::{Map, Value as Json};
use undine_core::TokenId;

use super::{TemplateTraits, ends_in_think};
use crate::stream::THINK_START;
use crate::tokenizer::Tokenizer;

/// The variables by which templates are told not to think, in the order of their fame.
pub const THINKING_SWITCHES: [&str; 2] = ["enable_thinking", "thinking"];
/// What ends a thought that was not had, as templates write it.
const CLOSING: &str = "\n\n</think>\n\n";

/// Whether the arguments of a template say that the model shall not think.
pub fn is_thinking_off(kwargs: &Map<String, Json>) -> bool {
    THINKING_SWITCHES.iter().any(|name| kwargs.get(*name) == Some(&Json::Bool(false)))
}

/// Tells a template not to think, by the first of its names unless that says something already.
pub fn switch_off(kwargs: &mut Map<String, Json>) {
    kwargs.entry(THINKING_SWITCHES[0]).or_insert(Json::Bool(false));
}

/// Makes a model answer without thinking, whatever its template knows of that: closes the thought in the
/// prompt, or, if nothing shows that the model thinks, returns what it may not say.
pub fn answer_at_once(tokenizer: &Tokenizer, traits: TemplateTraits, text: &mut String) -> Vec<TokenId> {
    if ends_in_think(text) {
        text.truncate(text.trim_end().len());
        text.push_str(CLOSING);
    } else if traits.enable_thinking {
        // The template has been told.
    } else if traits.thoughts {
        text.push_str(THINK_START);
        text.push_str(CLOSING);
    } else {
        return tokenizer.token_id(THINK_START).into_iter().collect();
    }
    Vec::new()
}
