//! `GET /server_info`: what is served, with which limits. `GET /tokenizer_info`: how text becomes tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};
use undine_core::TokenId;
use undine_text::{Bos, ChatTemplate, SpecialText};

use crate::prompt;
use crate::state::App;
use crate::wire::error::{ApiError, ApiResult};

/// Nothing secret: no keys, no paths beside the names that clients use.
#[derive(Serialize)]
pub(crate) struct ServerInfo {
    version: &'static str,
    models: Vec<String>,
    /// What requests may consist of.
    input_modalities: &'static [&'static str],
    limits: Limits,
    kv_cache: KvCache,
}

#[derive(Serialize)]
struct Limits {
    max_model_len: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_queued_requests: u32,
    max_body_bytes: usize,
    max_connections: usize,
    max_images_per_prompt: u32,
}

#[derive(Serialize)]
struct KvCache {
    blocks: u32,
    block_size: u32,
}

pub(crate) async fn server_info(State(app): State<Arc<App>>) -> ApiResult<Json<ServerInfo>> {
    let ready = app.ready()?;
    Ok(Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION"),
        models: ready.model.names.clone(),
        input_modalities: if ready.vision.is_some() { &["text", "image"] } else { &["text"] },
        limits: Limits {
            max_model_len: ready.max_model_len,
            max_num_seqs: ready.config.max_num_seqs,
            max_num_batched_tokens: ready.config.max_num_batched_tokens,
            max_queued_requests: ready.config.max_waiting,
            max_body_bytes: app.config.body_bytes_max,
            max_connections: app.config.connections_max,
            max_images_per_prompt: if ready.vision.is_some() { app.media.config.images_max } else { 0 },
        },
        kv_cache: KvCache { blocks: ready.capacity.blocks, block_size: ready.capacity.block_size },
    }))
}

/// The tokenizer in the words of `tokenizer_config.json`, as vLLM tells it and where the server was started
/// to tell it.
pub(crate) async fn tokenizer_info(State(app): State<Arc<App>>) -> ApiResult<Json<Value>> {
    if !app.config.tokenizer_info {
        let hint = "start the server with --enable-tokenizer-info-endpoint to have it";
        return Err(ApiError::route_not_found("GET", "/tokenizer_info", hint));
    }
    let ready = app.ready()?;
    let tokenizer = prompt::tokenizer(&ready, "tokenizer_info")
        .map_err(|_| ApiError::bad_request("this model has no tokenizer".to_owned()))?;
    let text = |id: TokenId| tokenizer.decode(&[id], SpecialText::Keep);
    let special = (0..tokenizer.vocab_size() as TokenId).filter(|&id| tokenizer.is_special(id));
    let added: Map<String, Value> = special
        .map(|id| {
            let token = json!({"content": text(id), "special": true, "normalized": false, "single_word": false,
                "lstrip": false, "rstrip": false});
            (id.to_string(), token)
        })
        .collect();
    Ok(Json(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.bos().map(text),
        "eos_token": ready.model.eos.first().copied().map(text),
        "add_bos_token": tokenizer.default_bos() == Bos::Add,
        "model_max_length": ready.max_model_len,
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": false,
        "chat_template": ready.model.template.as_ref().map(ChatTemplate::source),
    })))
}
