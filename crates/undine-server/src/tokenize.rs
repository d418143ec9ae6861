//! `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use undine_core::{CacheRoot, TokenId};
use undine_text::{Cancel, SpecialText};

use crate::images::{self, Images};
use crate::logprobs::TokenTexts;
use crate::preparing::Lane;
use crate::routes::Post;
use crate::state::Ready;
use crate::wire::chat::Conversation;
use crate::wire::common::{TokenNames, read_token_list};
use crate::wire::error::{ApiError, ApiResult};
use crate::wire::fields::{Fields, Strangers};
use crate::{prompt, render};

/// Most tokens `/detokenize` takes; more than any context.
const DETOKENIZE_TOKENS_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: u32,
    tokens: Vec<TokenId>,
    token_strs: Option<TokenStrings>,
}

/// Texts of tokens, made one by one as they are written: all together they would take ten times the memory of
/// the tokens.
struct TokenStrings {
    tokens: Vec<TokenId>,
    texts: TokenTexts,
}

impl Serialize for TokenStrings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.tokens.iter().map(|&token| self.texts.name(token)))
    }
}

#[derive(Serialize)]
struct Detokenized {
    prompt: String,
}

/// An answer that was written where it was made: one of megabytes would hold up the connections.
pub(crate) struct Written(Vec<u8>);

impl Written {
    fn new(answer: &impl Serialize) -> ApiResult<Self> {
        serde_json::to_vec(answer).map(Self).map_err(|error| ApiError::internal(error.to_string()))
    }
}

impl IntoResponse for Written {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

pub(crate) async fn tokenize(post: Post) -> ApiResult<Written> {
    let Post { app, ready, body, caller, .. } = post;
    let origin = caller.salted(None);
    let (reading, body_bytes) = (Arc::clone(&ready), body.len());
    let mut asked = app
        .preparing
        .run(caller.tenant, Lane::Body(body_bytes), move |_| Asked::read(&reading, &body))
        .await?;
    let images = match &mut asked.text {
        Text::Conversation(conversation) => images::gather(&app, &ready, &origin, conversation).await?,
        Text::Plain(_) => Images::default(),
    };
    let lane = asked.lane(body_bytes);
    app.preparing
        .run(caller.tenant, lane, move |cancel| {
            let answer = asked.tokenize(&ready, &origin.cache_root, &images, cancel)?;
            // Megabytes that the answer need not wait beside.
            drop((asked, images));
            Written::new(&answer)
        })
        .await
}

pub(crate) async fn detokenize(post: Post) -> ApiResult<Written> {
    let Post { app, ready, body, caller, .. } = post;
    app.preparing
        .run(caller.tenant, Lane::Body(body.len()), move |_| {
            let answer = detokenize_body(&ready, &body)?;
            drop(body);
            Written::new(&answer)
        })
        .await
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
            None if fields.has("messages") => {
                // No answer depends on them; the request for one names them.
                let mut strangers = Strangers::default();
                Text::Conversation(Box::new(Conversation::read(&mut fields, &mut strangers)?))
            }
            None => return Err(ApiError::field("prompt", "missing; expected `prompt` or `messages`")),
        };
        fields.finish()?;
        Ok(Self { text, special, with_strings })
    }

    fn lane(&self, body_bytes: usize) -> Lane {
        match &self.text {
            Text::Conversation(conversation) => conversation.lane(body_bytes),
            Text::Plain(_) => Lane::Body(body_bytes),
        }
    }

    fn tokenize(
        &self,
        ready: &Ready,
        root: &CacheRoot,
        images: &Images,
        cancel: &Cancel,
    ) -> ApiResult<Tokenized> {
        let tokens = match &self.text {
            // Nothing is no prompt, but it is a text.
            Text::Plain(text) => {
                let tokenizer = prompt::tokenizer(ready, "prompt")?;
                prompt::check_runs(tokenizer, "prompt", text)?;
                prompt::encode(tokenizer, text, self.special)
            }
            Text::Conversation(conversation) => {
                let tokenizer = prompt::tokenizer(ready, "messages")?;
                let rendered = render::render(ready, root, conversation, images, cancel)?;
                prompt::check_runs(tokenizer, "messages", &rendered.text)?;
                images.show(tokenizer, rendered.encode(ready, tokenizer, self.special))?.tokens
            }
        };
        let texts = TokenTexts { tokenizer: ready.model.tokenizer.clone(), names: TokenNames::Text };
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: ready.max_model_len,
            token_strs: self.with_strings.then(|| TokenStrings { tokens: tokens.clone(), texts }),
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
