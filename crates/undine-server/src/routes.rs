//! Paths to handlers, and what every request passes through: access, request id, the model being there.

use std::any::Any;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;

use crate::access::{self, Cors, CorsError};
use crate::account::{Account, RequestId};
use crate::clients::{Client, Counted};
use crate::doors::Doors;
use crate::listener::Peer;
use crate::seats::{Crowd, Neighbour};
use crate::state::{App, Ready};
use crate::tenant::Caller;
use crate::wire::error::{ApiError, ApiResult};
use crate::{chat, completion, info, metrics, openapi, tokenize};

/// A path, its methods, its handlers.
type Route = (&'static str, &'static [&'static str], MethodRouter<Arc<App>>);

/// Every route; `openapi` describes the same ones.
pub(crate) fn table() -> Vec<Route> {
    vec![
        ("/health", &["get"], get(health)),
        ("/ping", &["get", "post"], get(health).post(health)),
        ("/version", &["get"], get(version)),
        ("/load", &["get"], get(load)),
        ("/metrics", &["get"], get(metrics)),
        ("/openapi.json", &["get"], get(openapi::openapi)),
        ("/server_info", &["get"], get(info::server_info)),
        ("/v1/models", &["get"], get(models)),
        ("/v1/models/{*id}", &["get"], get(model)),
        ("/v1/chat/completions", &["post"], post(chat_completions)),
        ("/v1/completions", &["post"], post(completions)),
        ("/tokenize", &["post"], post(tokenize::tokenize)),
        ("/detokenize", &["post"], post(tokenize::detokenize)),
        ("/tokenizer_info", &["get"], get(info::tokenizer_info)),
    ]
}

/// OpenAI's routes without `/v1`, which many clients leave out of the address that they are given.
fn short_table() -> Vec<Route> {
    let short = |(path, methods, handlers): Route| Some((path.strip_prefix("/v1")?, methods, handlers));
    table().into_iter().filter_map(short).collect()
}

/// All routes, and what every request passes through.
pub(crate) fn router(app: Arc<App>) -> Result<Router, CorsError> {
    let routes = table()
        .into_iter()
        .chain(short_table())
        .fold(Router::new(), |router, (path, _, handlers)| router.route(path, handlers));
    dress(routes, app)
}

/// Puts around routes what every request passes through.
fn dress(routes: Router<Arc<App>>, app: Arc<App>) -> Result<Router, CorsError> {
    let cors = app.config.cors.as_ref().map(Cors::layer).transpose()?;
    let router = routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(app.config.body_bytes_max))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), pass));
    // Outermost, because a browser asks for permission without a key.
    let router = if let Some(cors) = cors { router.layer(cors) } else { router };
    Ok(router.with_state(app))
}

/// A POST request that can be answered: the model is there and the body has arrived.
pub(crate) struct Post {
    pub(crate) ready: Arc<Ready>,
    pub(crate) body: Bytes,
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    request_id: String,
}

impl FromRequest<Arc<App>> for Post {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let ready = app.ready()?;
        check_content_type(request.headers())?;
        check_length(request.headers(), app.config.body_bytes_max)?;
        let request_id = request.extensions().get().map_or_else(String::new, |RequestId(id)| id.clone());
        let caller = Caller::of(request.extensions());
        let patience = app.config.timeouts.body;
        let body = match tokio::time::timeout(patience, Bytes::from_request(request, app)).await {
            Ok(body) => body.map_err(|rejection| body_error(&rejection, app))?,
            Err(_) => return Err(ApiError::body_too_slow(patience)),
        };
        Ok(Self { ready, body, app: Arc::clone(app), caller, request_id })
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

/// A body that says it is too long is not waited for.
fn check_length(headers: &HeaderMap, bytes_max: usize) -> ApiResult<()> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length > bytes_max as u64 => Err(ApiError::body_too_large(bytes_max)),
        _ => Ok(()),
    }
}

fn body_error(rejection: &BytesRejection, app: &App) -> ApiError {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(app.config.body_bytes_max),
        _ => ApiError::bad_request(format!("the request body could not be read: {}", rejection.body_text())),
    }
}

async fn pass(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let mut account = Account::open(&app, &request);
    request.extensions_mut().insert(account.id());
    let answer = match admit(&app, &request) {
        Ok((counted, caller)) => {
            account.hold(counted);
            request.extensions_mut().insert(caller);
            account.run(next.run(request)).await
        }
        Err(error) => error.into_response(),
    };
    account.follow(answer)
}

/// What can be refused by the head alone, the cheapest first.
fn admit(app: &App, request: &Request) -> ApiResult<(Option<Counted>, Caller)> {
    let (extensions, path) = (request.extensions(), request.uri().path());
    if !access::is_open(path) {
        match extensions.get::<Crowd>() {
            Some(Crowd::Everyone) => return Err(ApiError::too_many_connections()),
            Some(Crowd::Address) => return Err(ApiError::too_many_connections_of_address()),
            None => {}
        }
    }
    if let Some(doors) = extensions.get::<Arc<Doors>>() {
        doors.check(request.method(), request.uri(), request.version(), request.headers())?;
    }
    let keys = &app.config.api_keys;
    let key = access::check(keys, path, request.headers())?;
    let peer = extensions.get().copied().unwrap_or(Peer(None));
    let caller = Caller::new(keys.len(), key, peer, app.config.cache_sharing);
    if access::is_open(path) {
        return Ok((None, caller));
    }
    // A key that everyone has tells nobody from another.
    let by_key = key.filter(|_| keys.len() > 1).map(Client::Key);
    let by_address = || Neighbour::of(peer).map(Client::Address);
    Ok((app.clients.enter(by_key.or_else(by_address))?, caller))
}

/// A panic in a handler fails its request alone. The panic hook has written where it was.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("answering the request failed; the reason is on the server's standard error")
        .into_response()
}

/// The `id` of a response, from that of its request.
pub(crate) fn response_id(prefix: &str, request_id: &str) -> String {
    format!("{prefix}-{request_id}")
}

async fn health(State(app): State<Arc<App>>) -> ApiResult<StatusCode> {
    app.ready()?;
    match app.preparing.stuck() {
        Some(reason) => Err(ApiError::unavailable("preparation_stuck", reason)),
        None => Ok(StatusCode::OK),
    }
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
    let stats = app.model()?.engine.stats();
    Ok(Json(ServerLoad { server_load: stats.running + stats.waiting }))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = metrics::render(&app.http, app.engine_metrics().as_deref());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
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
    chat::answer(post.app, post.ready, post.caller, post.body, &post.request_id).await
}

async fn completions(post: Post) -> ApiResult<Response> {
    completion::answer(post.app, post.ready, post.caller, post.body, &post.request_id).await
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    ApiError::route_not_found(method.as_str(), &crate::wire::fields::excerpt(path), &route_hint(path))
}

/// What to do about a path that nobody serves.
fn route_hint(path: &str) -> String {
    const CHAT: &str = "POST /v1/chat/completions";
    /// How alike two paths are at least that differ by a slip.
    const ALIKE_MIN: f64 = 0.9;
    let last = path.trim_end_matches('/').trim_start_matches("/v1");
    match last {
        "" => return format!("this is a server for programs: {CHAT}; GET /openapi.json lists its routes"),
        "/api/chat" | "/api/generate" | "/api/tags" | "/api/show" | "/api/version" | "/api/ps" => {
            return format!("Ollama's own API is not served; its OpenAI-compatible one is: {CHAT}");
        }
        "/embeddings" | "/api/embed" | "/api/embeddings" | "/embed" | "/rerank" | "/score" | "/pooling" => {
            return "this server generates text and computes no embeddings; ask one with an embedding model"
                .to_owned();
        }
        "/responses" | "/messages" | "/generate" | "/completion" | "/infill" | "/chat" | "/invocations" => {
            return format!("this API is not served; use {CHAT}, or POST /v1/completions for raw text");
        }
        _ => {}
    }
    let known = table().into_iter().map(|(known, _, _)| known).filter(|known| !known.contains('{'));
    let scored = known.map(|known| (strsim::jaro_winkler(known, path), known));
    match scored.max_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((alike, known)) if alike >= ALIKE_MIN => format!("did you mean {known}?"),
        _ => "GET /openapi.json lists those there are".to_owned(),
    }
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(method.as_str(), &crate::wire::fields::excerpt(uri.path()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use tokio::sync::watch;
    use tower::ServiceExt;

    use super::*;
    use crate::serve::ServerConfig;
    use crate::state::Status;

    #[tokio::test]
    async fn a_handler_that_panics_fails_its_request_alone() {
        let broken = || async { if true { panic!("a test of panics") } else { StatusCode::OK } };
        let (_sender, status) = watch::channel(Status::Loading);
        let app = Arc::new(App::new(ServerConfig::default(), status));
        let routes = Router::new().route("/broken", get(broken)).route("/version", get(version));
        let router = dress(routes, Arc::clone(&app)).unwrap();
        for (path, expected) in [("/broken", 500), ("/version", 200), ("/broken", 500)] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), expected, "{path}");
        }
        // Each was counted to its end: nothing holds up a shutdown.
        tokio::time::timeout(Duration::from_secs(5), app.drain()).await.expect("nothing is in flight");
    }
}
