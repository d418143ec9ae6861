//! Paths to handlers, and what every request passes through: access, request id, the model being there.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

use crate::state::{App, Ready};
use crate::wire::common::IDENTIFIER_BYTES_MAX;
use crate::wire::error::{ApiError, ApiResult};
use crate::{chat, completion, prompt, tokenize};

/// Paths without access control: probes of orchestrators have no key.
const OPEN_PATHS: [&str; 3] = ["/health", "/ping", "/version"];
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ping", get(health).post(health))
        .route("/version", get(version))
        .route("/load", get(load))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(app.config.body_bytes_max))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), pass))
        .with_state(app)
}

/// The id of a request: the client's, if it sent a sensible one.
#[derive(Clone)]
struct RequestId(String);

/// A POST request that can be answered: the model is there and the body has arrived.
pub(crate) struct Post {
    pub(crate) ready: Arc<Ready>,
    pub(crate) body: Bytes,
    pub(crate) app: Arc<App>,
    request_id: String,
}

impl FromRequest<Arc<App>> for Post {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let ready = app.ready()?;
        check_content_type(request.headers())?;
        let request_id = request.extensions().get().map_or_else(String::new, |RequestId(id)| id.clone());
        let body =
            Bytes::from_request(request, app).await.map_err(|rejection| body_error(&rejection, app))?;
        Ok(Self { ready, body, app: Arc::clone(app), request_id })
    }
}

/// Only JSON: a web page could send anything else to a local server without asking the browser's permission.
fn check_content_type(headers: &HeaderMap) -> ApiResult<()> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = found.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::content_type(&crate::wire::fields::excerpt(found)))
}

fn body_error(rejection: &BytesRejection, app: &App) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(app.config.body_bytes_max),
        _ => ApiError::bad_request(format!("the request body could not be read: {}", rejection.body_text())),
    }
}

async fn pass(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let open = OPEN_PATHS.contains(&request.uri().path());
    let mut response = match check_access(&app.config.api_keys, request.headers()) {
        Err(error) if !open => error.into_response(),
        _ => next.run(request).await,
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let sensible = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= IDENTIFIER_BYTES_MAX && id.bytes().all(plain)
    };
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sensible);
    given.map_or_else(|| format!("{:016x}{:016x}", prompt::random(), prompt::random()), str::to_owned)
}

fn check_access(keys: &[String], headers: &HeaderMap) -> ApiResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    const EXPECTED: &str = "expected the header `authorization: Bearer KEY` with a key of this server, found";
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(ApiError::unauthorized(format!("{EXPECTED} no such header")));
    };
    let given = value.to_str().ok().and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
    match given {
        None => Err(ApiError::unauthorized(format!("{EXPECTED} another scheme"))),
        // No early exit: which key nearly matched must not show in the time.
        Some(given) if keys.iter().fold(false, |found, key| found | same_secret(key, given)) => Ok(()),
        Some(_) => Err(ApiError::unauthorized(format!("{EXPECTED} another key"))),
    }
}

/// Equality that takes the same time wherever the first difference is.
fn same_secret(a: &str, b: &str) -> bool {
    let difference = a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b));
    a.len() == b.len() && difference == 0
}

/// The `id` of a response, from that of its request.
pub(crate) fn response_id(prefix: &str, request_id: &str) -> String {
    format!("{prefix}-{request_id}")
}

async fn health(State(app): State<Arc<App>>) -> ApiResult<StatusCode> {
    app.ready().map(|_| StatusCode::OK)
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Sequences running and waiting, under vLLM's name.
#[derive(Serialize)]
struct ServerLoad {
    server_load: u32,
}

async fn load(State(app): State<Arc<App>>) -> ApiResult<Json<ServerLoad>> {
    let stats = app.ready()?.engine.stats();
    Ok(Json(ServerLoad { server_load: stats.running + stats.waiting }))
}

#[derive(Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

#[derive(Serialize)]
struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<String>,
    max_model_len: u32,
}

fn model_card(ready: &Ready, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: ready.created,
        owned_by: "undine",
        root: ready.model.names[0].clone(),
        parent: None,
        max_model_len: ready.max_model_len,
    }
}

async fn models(State(app): State<Arc<App>>) -> ApiResult<Json<ModelList>> {
    let ready = app.ready()?;
    let data = ready.model.names.iter().map(|name| model_card(&ready, name)).collect();
    Ok(Json(ModelList { object: "list", data }))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> ApiResult<Json<ModelCard>> {
    let ready = app.ready()?;
    let name = ready.served_name(Some(&id))?;
    Ok(Json(model_card(&ready, &name)))
}

async fn chat_completions(post: Post) -> ApiResult<Response> {
    chat::answer(post.app, post.ready, post.body, &post.request_id).await
}

async fn completions(post: Post) -> ApiResult<Response> {
    completion::answer(post.app, post.ready, post.body, &post.request_id).await
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::route_not_found(method.as_str(), &crate::wire::fields::excerpt(uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(method.as_str(), &crate::wire::fields::excerpt(uri.path()))
}
