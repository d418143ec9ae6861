//! From a conversation to the text and the tokens of its prompt.

use serde_json::Value;
use undine_core::{CacheRoot, TokenId};
use undine_image::prompt::Encoded;
use undine_text::stream::{THINK_END, THINK_START};
use undine_text::{
    Bos, Cancel, ChatInput, ChatTemplate, SpecialText, TemplateTraits, Tokenizer, answer_at_once,
    ends_in_think, is_thinking_off, switch_off,
};

use crate::generation::StartsIn;
use crate::images::{Images, Shown};
use crate::options::RequestTemplate;
use crate::prompt::{self, Prompt};
use crate::pythonic;
use crate::state::Ready;
use crate::turns::{self, Place, Thoughts};
use crate::wire::chat::{Conversation, PromptEnd};
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::messages::THOUGHTS;
use crate::wire::parts;
use crate::wire::thinking::Thinking;

/// A conversation as the model's text.
pub(crate) struct Rendered {
    /// Whose past answers may be in it.
    root: CacheRoot,
    pub(crate) text: String,
    starts_in: StartsIn,
    /// What the prompt says of the thought that the answer begins in.
    opening: String,
    forbidden: Vec<TokenId>,
}

/// How long an answer may think, whoever decided it.
pub(crate) fn thinking(ready: &Ready, wanted: Thinking) -> Thinking {
    let model = &ready.model;
    if wanted == Thinking::Default && is_thinking_off(&model.requests.template_kwargs) {
        return Thinking::Off;
    }
    match (wanted, model.answers.reasoning_budget) {
        (Thinking::Default, None) => Thinking::Unlimited,
        (Thinking::Default, Some(0)) => Thinking::Off,
        (Thinking::Default, Some(tokens)) => Thinking::Budget(tokens),
        (wanted, _) => wanted,
    }
}

/// Renders a conversation.
pub(crate) fn render(
    ready: &Ready,
    root: &CacheRoot,
    conversation: &Conversation,
    images: &Images,
    cancel: &Cancel,
) -> ApiResult<Rendered> {
    let tokenizer = prompt::tokenizer(ready, "messages")?;
    let own = request_template(ready, tokenizer, conversation, cancel)?;
    let template = match &own {
        Some(template) => template,
        None => model_template(ready, conversation)?,
    };
    let traits = template.traits();
    let Conversation { tools, end, split, .. } = conversation;
    if !tools.is_empty() && !traits.tools {
        let message =
            "this model's chat template does not show tools, so it cannot know them; remove the field";
        return Err(ApiError::field("tools", message));
    }
    let thinking = thinking(ready, conversation.thinking);
    let mut kwargs = ready.template_kwargs(&conversation.kwargs);
    if thinking == Thinking::Off {
        switch_off(&mut kwargs);
    }
    let placeholder = |image| images.placeholder(ready.vision.as_ref(), image);
    let text = |message: &Value| parts::join(&message["content"], placeholder);
    let messages: Vec<Value> = conversation
        .messages
        .iter()
        .map(|message| as_written(ready, root, traits, message.clone(), text(message)))
        .collect();
    let input = ChatInput {
        messages: &messages,
        tools: (!tools.is_empty()).then_some(tools),
        add_generation_prompt: *end == PromptEnd::GenerationPrompt,
        kwargs: &kwargs,
    };
    let param = if own.is_some() { "chat_template" } else { "messages" };
    let mut text = template.render_until(&input, cancel).map_err(|error| ApiError::text(param, &error))?;
    let mut forbidden = Vec::new();
    let mut inside = ends_in_think(&text);
    match end {
        PromptEnd::OpenFinalMessage => {
            let last = messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
            inside = last.rfind(THINK_START) > last.rfind(THINK_END);
            cut_after(&mut text, last)?;
        }
        PromptEnd::GenerationPrompt if thinking == Thinking::Off => {
            forbidden = answer_at_once(tokenizer, traits, &mut text);
            inside = false;
        }
        PromptEnd::GenerationPrompt | PromptEnd::Closed => {}
    }
    let starts_in = match (ready.think().filter(|_| *split), inside) {
        (None, _) => StartsIn::Unsplit,
        (Some(_), true) => StartsIn::Reasoning,
        (Some(_), false) => StartsIn::Content,
    };
    let opening =
        text.rfind(THINK_START).filter(|_| inside).map_or(String::new(), |at| text[at..].to_owned());
    Ok(Rendered { root: root.clone(), text, starts_in, opening, forbidden })
}

/// The model's template for a conversation, of which it may have one for those with tools.
pub(crate) fn template_of<'a>(ready: &'a Ready, conversation: &Conversation) -> Option<&'a ChatTemplate> {
    let template = ready.model.template.as_ref()?;
    Some(if conversation.tools.is_empty() { template } else { template.for_tools() })
}

fn model_template<'a>(ready: &'a Ready, conversation: &Conversation) -> ApiResult<&'a ChatTemplate> {
    template_of(ready, conversation).ok_or_else(|| {
        let advice = "use /v1/completions, or start the server with --chat-template";
        ApiError::field("messages", format!("this model has no chat template; {advice}"))
    })
}

/// The template that the request brings.
fn request_template(
    ready: &Ready,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    cancel: &Cancel,
) -> ApiResult<Option<ChatTemplate>> {
    let Some(source) = &conversation.template else { return Ok(None) };
    if ready.model.answers.request_template == RequestTemplate::Refused {
        let message = "this server does not trust templates of requests; remove the field, \
            or start the server with --trust-request-chat-template";
        return Err(ApiError::field("chat_template", message));
    }
    let text =
        |id: Option<TokenId>| id.map_or(String::new(), |id| tokenizer.decode(&[id], SpecialText::Keep));
    let eos = ready.model.eos.first().copied();
    let (bos, eos) = (text(tokenizer.bos()), text(eos));
    let template = match &ready.model.helpers {
        Some(helpers) => ChatTemplate::isolated(source, &bos, &eos, helpers, cancel),
        None => ChatTemplate::new(source, &bos, &eos),
    };
    let template = template.map_err(|error| ApiError::text("chat_template", &error))?;
    let variables = ready.model.template.as_ref().map(|template| template.variables().clone());
    Ok(Some(template.with_variables(variables.unwrap_or_default())))
}

/// A message as the model wrote it, if it did, and with everything in it that the template would pass over.
fn as_written(
    ready: &Ready,
    root: &CacheRoot,
    traits: TemplateTraits,
    mut message: Value,
    text: String,
) -> Value {
    message["content"] = text.into();
    if let Some(turn) = ready.turns.find(root, &message) {
        let thoughts = if traits.drops_past_thoughts { Thoughts::InText } else { Thoughts::Apart };
        turns::restore(&mut message, &turn, thoughts);
        return message;
    }
    let mut content = message["content"].as_str().unwrap_or_default().to_owned();
    if let Some(thoughts) = message[THOUGHTS[0]].as_str()
        && !traits.thoughts
        && traits.drops_past_thoughts
    {
        content = format!("{THINK_START}{thoughts}{THINK_END}{content}");
    }
    if let Some(calls) = message["tool_calls"].as_array()
        && !traits.tool_calls
    {
        content.push_str(&pythonic::calls(calls));
    }
    message["content"] = content.into();
    message
}

/// Removes what the template wrote after the text of the last message.
fn cut_after(rendered: &mut String, last: &str) -> ApiResult<()> {
    let last = last.trim();
    let Some(start) = rendered.rfind(last) else {
        let message = "the chat template does not show the last message as it is, so it cannot be continued";
        return Err(ApiError::field("continue_final_message", message));
    };
    rendered.truncate(start + last.len());
    Ok(())
}

impl Rendered {
    /// Encodes it.
    pub(crate) fn into_prompt(self, ready: &Ready, bos: Option<bool>, images: &Images) -> ApiResult<Prompt> {
        let tokenizer = prompt::tokenizer(ready, "messages")?;
        prompt::check_bytes(ready, "messages", &self.text)?;
        prompt::check_runs(tokenizer, "messages", &self.text)?;
        let Shown { tokens, images, image_tokens } =
            images.show(tokenizer, self.encode(ready, tokenizer, bos))?;
        prompt::check_tokens("messages", &tokens, ready.vocab)?;
        let Self { root, text, starts_in, opening, forbidden } = self;
        let place = Some(Place::after(root, &text, opening));
        Ok(Prompt { tokens, images, image_tokens, starts_in, place, forbidden })
    }

    /// Its tokens, those of this server's own answers as they were generated, and placeholders of its images.
    pub(crate) fn encode(
        &self,
        ready: &Ready,
        tokenizer: &Tokenizer,
        add_special_tokens: Option<bool>,
    ) -> Encoded {
        let mut bos = prompt::bos(tokenizer, add_special_tokens);
        let mut all = Encoded::default();
        let mut done = 0;
        let end = |&token: &TokenId| tokenizer.decode(&[token], SpecialText::Keep);
        let is_special = |token: &&TokenId| tokenizer.is_special(**token);
        let ends: Vec<String> = ready.model.eos.iter().filter(is_special).map(end).collect();
        for turn in ready.turns.in_text(&self.root, &self.text, &ends) {
            let place = turn.range();
            self.encode_text(ready, tokenizer, (&self.text[done..place.start], &ends), &mut bos, &mut all);
            all.tokens.extend_from_slice(&turn.tokens);
            done = place.end;
        }
        self.encode_text(ready, tokenizer, (&self.text[done..], &ends), &mut bos, &mut all);
        all
    }

    /// Encodes a part of the text, in which special tokens end messages. `bos` is for the very first piece.
    fn encode_text(
        &self,
        ready: &Ready,
        tokenizer: &Tokenizer,
        (text, ends): (&str, &[String]),
        bos: &mut Bos,
        all: &mut Encoded,
    ) {
        let mut encode = |text: &str| {
            let front = tokenizer.encode("", std::mem::replace(bos, Bos::Omit));
            let piece = |piece: &str| tokenizer.encode(piece, Bos::Omit);
            // A text that begins with the token has no second one.
            let tokens = match tokenizer.longest_slice("") {
                Some(_) => ready.tokens.encode(&self.root, text, ends, piece),
                // Nobody knows where its texts may be cut.
                None => piece(text),
            };
            if front.first() == tokens.first() { tokens } else { [front, tokens].concat() }
        };
        match &ready.vision {
            Some(vision) => {
                let Encoded { tokens, images } = vision.placeholders.encode(text, encode);
                all.tokens.extend(tokens);
                all.images.extend(images);
            }
            None => all.tokens.extend(encode(text)),
        }
    }
}
