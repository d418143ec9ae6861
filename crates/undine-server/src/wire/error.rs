//! The one error shape of the API, as OpenAI clients parse it: `{"error": {message, type, param, code}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use undine_text::TextError;

/// Seconds a client is asked to wait after a 503 or a 429.
const RETRY_AFTER_SECONDS: &str = "1";

/// A refused or failed request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that is to blame, as a path such as `messages[2].content`.
    pub(crate) param: Option<String>,
    /// What a program can branch on.
    pub(crate) code: Option<&'static str>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code }
    }

    /// 400 because of one field.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}`: {}", message.into());
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, None, message) }
    }

    /// 400 because of a field that exists in the protocol and is not built here.
    pub(crate) fn unsupported(param: &str, advice: &str) -> Self {
        let message = format!("not supported yet; {advice}");
        Self { code: Some("unsupported_parameter"), ..Self::field(param, message) }
    }

    /// 400 because prompt and answer do not fit in the context. Begins with the words by which clients know
    /// it (litellm looks for them, not for the code), then says what was asked for and what to do.
    pub(crate) fn context_length(param: &str, context: u32, asked: &str) -> Self {
        let message = format!("This model's maximum context length is {context} tokens. However, {asked}");
        Self { code: Some("context_length_exceeded"), ..Self::field(param, message) }
    }

    /// 400 because of the body as a whole.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    /// 401.
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message)
    }

    /// 403 for a request that a page of another name may have sent. Not 421, upon which clients try again by
    /// themselves.
    pub(crate) fn host_not_allowed(host: &str) -> Self {
        let message = format!(
            "the header `host` names {host}, by which this server is not known; if that is one of its names, start it with \
             --allowed-hosts {host} (several with commas between them, * for any)"
        );
        Self::new(StatusCode::FORBIDDEN, Some("host_not_allowed"), message)
    }

    /// 403 for a request of a web page that has no permission.
    pub(crate) fn origin_not_allowed(origin: &str) -> Self {
        let message = format!(
            "the header `origin` says that a web page of {origin} sent this; if that page may use this server, start it with \
             --allowed-origins and the page's origin, such as https://example.org"
        );
        Self::new(StatusCode::FORBIDDEN, Some("origin_not_allowed"), message)
    }

    /// 429 because the client has enough requests that are being answered: its trouble, unlike a full queue.
    pub(crate) fn too_many_requests(most: usize) -> Self {
        let message = format!(
            "this client has {most} requests that are being answered, which is the limit (--max-requests-per-client); try again \
             when one of them has ended"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, Some("too_many_requests"), message)
    }

    /// 429 because of connections of one address.
    pub(crate) fn too_many_connections_of_address() -> Self {
        let message = "this address has as many connections as one may have (--max-connections-per-address); \
                       close some, or try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, Some("too_many_connections"), message)
    }

    /// 503 because everyone who is connected is being answered.
    pub(crate) fn too_many_connections() -> Self {
        let message =
            "all connections that there may be (--max-connections) are being answered; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("too_many_connections"), message)
    }

    /// 404 for a model that is not served.
    pub(crate) fn model_not_found(asked: &str, served: &[String]) -> Self {
        let message = format!("the model `{asked}` does not exist; this server has: {}", served.join(", "));
        Self {
            param: Some("model".to_owned()),
            ..Self::new(StatusCode::NOT_FOUND, Some("model_not_found"), message)
        }
    }

    /// 404 for a path that is not served.
    pub(crate) fn route_not_found(method: &str, path: &str, hint: &str) -> Self {
        let message = format!("no such route: {method} {path}; {hint}");
        Self::new(StatusCode::NOT_FOUND, Some("route_not_found"), message)
    }

    /// 405.
    pub(crate) fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("the method {method} is not allowed for {path}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"), message)
    }

    /// 408.
    pub(crate) fn body_too_slow(patience: std::time::Duration) -> Self {
        let message = format!("the request body did not arrive within {patience:?}");
        Self::new(StatusCode::REQUEST_TIMEOUT, Some("body_too_slow"), message)
    }

    /// 413.
    pub(crate) fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the request body is larger than the limit of {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Some("body_too_large"), message)
    }

    /// 415.
    pub(crate) fn content_type(found: &str) -> Self {
        let found = if found.is_empty() { "none" } else { found };
        let message = format!("expected the header `content-type: application/json`, found {found}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_media_type"), message)
    }

    /// 503 because too many requests wait: the server's trouble, not this client's.
    pub(crate) fn queue_full() -> Self {
        let message = "the queue of waiting requests is full; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("queue_full"), message)
    }

    /// 503 because the images of other requests fill the memory for them.
    pub(crate) fn too_many_images() -> Self {
        let message = "the images of requests that wait take all the memory for them; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("queue_full"), message)
    }

    /// 503 because what this request programs takes long, and so does that of others.
    pub(crate) fn too_many_programs() -> Self {
        let message = "the form of the answer or the template takes long to prepare, and others like it are being \
            prepared; simplify it, or try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("preparation_busy"), message)
    }

    /// 503 because the system gives no thread.
    pub(crate) fn no_thread(error: &std::io::Error) -> Self {
        let message = format!("no thread for preparing the request can be had: {error}; try again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some("preparation_busy"), message)
    }

    /// What is wrong with the field `param`, or why that cannot be found out.
    pub(crate) fn text(param: &str, error: &TextError) -> Self {
        match error {
            TextError::Helper(_) => {
                let message = format!("`{param}`: {error}");
                Self { param: Some(param.to_owned()), ..Self::unavailable("preparation_busy", message) }
            }
            TextError::TemplateDepth { place, .. } => Self::field(*place, error.to_string()),
            TextError::GrammarPanic(_) => {
                tracing::error!("{error}");
                Self::internal(error.to_string())
            }
            _ => Self::field(param, error.to_string()),
        }
    }

    /// 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Some("engine_failed"), message)
    }

    /// 503 until the model is there, and after the engine is gone.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Some(code), message)
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The JSON body, also sent as an event when a stream fails after its headers are out.
    pub(crate) fn body(&self) -> ErrorBody<'_> {
        let Self { message, param, code, .. } = self;
        ErrorBody {
            error: ErrorDetail { message, r#type: self.kind(), param: param.as_deref(), code: *code },
        }
    }
}

/// `{"error": …}`.
#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        response
    }
}
