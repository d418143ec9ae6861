//! `GET /server_info`: what is served, with which limits.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::state::App;
use crate::wire::error::ApiResult;

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
