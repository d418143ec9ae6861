//! The API without a network: requests pass the same routes, checks and limits as those of a connection.

use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, header};
use tokio::sync::{oneshot, watch};
use tower::ServiceExt;

use crate::account::X_REQUEST_ID;
use crate::engine_room::{self, EngineThread, Stop};
use crate::remarks::{IGNORED_FIELDS, RELAXED_SCHEMAS};
use crate::routes;
use crate::serve::{ENGINE_STOP_TIMEOUT, Load, ServerConfig, ServerError, failure};
use crate::state::{App, Status};

/// A loaded model that answers requests of this process.
pub struct InProcess {
    router: Router,
    status: watch::Receiver<Status>,
    stop: Stop,
    ended: oneshot::Receiver<()>,
}

/// An answer with its body whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The id under which the request is logged.
    pub request_id: String,
    /// What of the request was not heeded: headers of this server, and their values.
    pub remarks: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Bytes,
}

impl InProcess {
    /// Loads the model; resolves when requests are answered, or with the error.
    pub async fn start(load: Load, config: ServerConfig) -> Result<Self, ServerError> {
        let (status_sender, status) = watch::channel(Status::Loading);
        let app = Arc::new(App::new(config, status.clone()));
        let router = routes::router(app)?;
        let EngineThread { stop, failed, ended } = engine_room::spawn(load, status_sender)?;
        let mut seen = status.clone();
        let ready = async {
            // The sender goes when loading fails, which the other branch tells.
            if seen.wait_for(|status| matches!(status, Status::Ready(_))).await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = ready => {}
            error = failure(failed) => return Err(error),
        }
        Ok(Self { router, status, stop, ended })
    }

    /// Answers a POST request with a JSON body, as a connection would get it.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Answer {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .expect("paths are checked by the caller and the rest is constant");
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        let id = response.headers().get(X_REQUEST_ID).and_then(|id| id.to_str().ok());
        let request_id = id.unwrap_or_default().to_owned();
        let remark = |name: &'static str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some((name, value.to_owned()))
        };
        let remarks = [IGNORED_FIELDS, RELAXED_SCHEMAS].into_iter().filter_map(remark).collect();
        // An answer is as long as the model's context lets it be, and only a stream can break off.
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
        Answer { status, request_id, remarks, body }
    }

    /// Why nothing is answered any more, if so.
    pub fn failure(&self) -> Option<String> {
        match &*self.status.borrow() {
            Status::Failed { reason, .. } => Some(reason.clone()),
            Status::Loading | Status::Ready(_) => None,
        }
    }

    /// Tokens generated so far, those of answers that go on among them.
    pub fn generated_tokens(&self) -> u64 {
        match &*self.status.borrow() {
            Status::Ready(ready) => ready.engine.metrics.generation_tokens.get(),
            Status::Loading | Status::Failed { .. } => 0,
        }
    }

    /// Ends the engine after the step it is in; requests that run are not answered.
    pub async fn stop(self) {
        self.stop.stop();
        drop(tokio::time::timeout(ENGINE_STOP_TIMEOUT, self.ended).await);
    }
}
