//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::Json;
use serde::Serialize;
use undine_core::{CacheRoot, TokenId};
use undine_text::SpecialText;

use crate::images::{self, Images};
use crate::logprobs::TokenTexts;
use crate::routes::Post;
use crate::state::Ready;
use crate::wire::chat::Conversation;
use crate::wire::common::{TokenNames, read_token_list};
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::Fields;
use crate::{prompt, render};

/// Most tokens `/detokenize` takes; more than any context.
const DETOKENIZE_TOKENS_MAX: usize = 1 << 20;

#[derive(Serialize)]
pub(crate) struct Tokenized {
    count: usize,
    max_model_len: u32,
    tokens: Vec<TokenId>,
    token_strs: Option<Vec<String>>,
}

#[derive(Serialize)]
pub(crate) struct Detokenized {
    prompt: String,
}

pub(crate) async fn tokenize(post: Post) -> ApiResult<Json<Tokenized>> {
    let Post { app, ready, body, caller, .. } = post;
    let origin = caller.salted(None);
    let (reading, body_bytes) = (Arc::clone(&ready), body.len());
    let mut asked = app.blocking(body_bytes, move || Asked::read(&reading, &body)).await?;
    let images = match &mut asked.text {
        Text::Conversation(conversation) => images::gather(&app, &ready, &origin, conversation).await?,
        Text::Plain(_) => Images::default(),
    };
    app.blocking(body_bytes, move || asked.tokenize(&ready, &origin.cache_root, &images)).await.map(Json)
}

pub(crate) async fn detokenize(post: Post) -> ApiResult<Json<Detokenized>> {
    let Post { app, ready, body, .. } = post;
    app.blocking(body.len(), move || detokenize_body(&ready, &body)).await.map(Json)
}

/// A request to `/tokenize`.
struct Asked {
    text: Text,
    special: Option<bool>,
    with_strings: bool,
}

enum Text {
    Plain(String),
    Conversation(Box<Conversation>),
}

impl Asked {
    fn read(ready: &Ready, body: &[u8]) -> ApiResult<Self> {
        let mut fields = Fields::parse(body)?;
        ready.served_name(fields.string("model")?.as_deref())?;
        let special = fields.boolean("add_special_tokens")?;
        let with_strings = fields.boolean("return_token_strs")?.unwrap_or(false);
        let text = match fields.string("prompt")? {
            Some(text) => Text::Plain(text),
            None => {
                let read = Conversation::read(&mut fields).map_err(|error| match error.param.as_deref() {
                    Some("messages") => ApiError::field("prompt", "missing; expected `prompt` or `messages`"),
                    _ => error,
                });
                Text::Conversation(Box::new(read?))
            }
        };
        fields.finish()?;
        Ok(Self { text, special, with_strings })
    }

    fn tokenize(&self, ready: &Ready, root: &CacheRoot, images: &Images) -> ApiResult<Tokenized> {
        let tokens = match &self.text {
            // Nothing is no prompt, but it is a text.
            Text::Plain(text) => prompt::encode(prompt::tokenizer(ready, "prompt")?, text, self.special),
            Text::Conversation(conversation) => {
                let tokenizer = prompt::tokenizer(ready, "messages")?;
                let rendered = render::render(ready, root, conversation, images)?;
                images.show(tokenizer, rendered.encode(ready, tokenizer, self.special))?.tokens
            }
        };
        let texts = TokenTexts { tokenizer: ready.model.tokenizer.clone(), names: TokenNames::Text };
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: ready.max_model_len,
            token_strs: self.with_strings.then(|| tokens.iter().map(|&token| texts.name(token)).collect()),
            tokens,
        })
    }
}

fn detokenize_body(ready: &Ready, body: &[u8]) -> ApiResult<Detokenized> {
    let mut fields = Fields::parse(body)?;
    ready.served_name(fields.string("model")?.as_deref())?;
    let tokens = read_token_list(&mut fields, "tokens", DETOKENIZE_TOKENS_MAX)?
        .ok_or_else(|| ApiError::field("tokens", "missing; expected a list of token ids"))?;
    fields.finish()?;
    let tokenizer = prompt::tokenizer(ready, "tokens")?;
    let vocab = tokenizer.vocab_size();
    if let Some(i) = tokens.iter().position(|&token| token as usize >= vocab) {
        let message = format!("expected token ids below {vocab}, found {}", tokens[i]);
        return Err(ApiError::field(format!("tokens[{i}]"), message));
    }
    Ok(Detokenized { prompt: tokenizer.decode(&tokens, SpecialText::Keep) })
}
