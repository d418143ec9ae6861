//! One server behind an OpenAI-compatible interface: requests out, streams in.

use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use serde_json::{Map, Value as Json, json};

use super::chat::Conversation;
use super::sample::{Recorder, Sample};
use crate::args_bench::{Backend, BenchSamplingArgs, BenchServeArgs, Dataset};
use crate::error::{Error, chain};

/// Longest line of a stream.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Longest body read of a response that is no stream.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest part of an error's body that is shown.
const MESSAGE_CHARS_MAX: usize = 300;
/// Longest silence of a server. As long as vLLM's tool allows a request to take.
const SILENCE_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// Between two questions whether the server is there.
const READY_POLL: Duration = Duration::from_millis(250);
/// Variable with the key to send.
const API_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// Which of OpenAI's interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Api {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
}

impl Api {
    /// The interface of a backend.
    pub fn of(backend: Backend) -> Self {
        match backend {
            Backend::Vllm | Backend::Openai => Self::Completions,
            Backend::OpenaiChat => Self::Chat,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// A server and what every request to it has in common.
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    url: String,
    fields: Map<String, Json>,
    /// Which interface.
    pub api: Api,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(args: &BenchServeArgs) -> Result<Self, Error> {
        // Another part of the program may have chosen the same before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .default_headers(headers(&args.header)?)
            .tcp_nodelay(true)
            // A connection for each request: some servers (llama-server) close theirs after an answer, and a
            // request sent into a closing connection fails.
            .pool_max_idle_per_host(0)
            .read_timeout(SILENCE_MAX);
        if args.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        #[cfg(unix)]
        if let Some(path) = &args.uds {
            builder = builder.unix_socket(path.as_path());
        }
        let http = builder.build().map_err(|error| Error::refused(chain(&error)))?;
        let api = Api::of(args.backend);
        let base_url = match &args.base_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if args.host.contains(':') => format!("http://[{}]:{}", args.host, args.port),
            None => format!("http://{}:{}", args.host, args.port),
        };
        let url = base_url.clone() + args.endpoint.as_deref().unwrap_or(api.path());
        Ok(Self { http, base_url, url, fields: fields(args), api })
    }

    /// Where requests go.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sets the model that requests ask for.
    pub fn ask_for(&mut self, model: &str) {
        self.fields.insert("model".to_owned(), model.into());
    }

    /// The first model of `/v1/models`; asks again for up to `patience` until the server answers.
    pub async fn first_model(&self, patience: Duration) -> Result<String, Error> {
        let url = format!("{}/v1/models", self.base_url);
        let deadline = Instant::now() + patience;
        loop {
            match self.models(&url).await {
                Ok(body) => {
                    let id = body["data"][0]["id"].as_str().map(str::to_owned);
                    let none = || Error::refused(format!("{url} lists no model; expected --model NAME"));
                    return id.ok_or_else(none);
                }
                Err(_) if Instant::now() < deadline => tokio::time::sleep(READY_POLL).await,
                Err(error) => return Err(Error::refused(error)),
            }
        }
    }

    async fn models(&self, url: &str) -> Result<Json, String> {
        let failed = |error: reqwest::Error| {
            let advice = match error.is_builder() {
                true => "expected --base-url http://HOST:PORT",
                false => {
                    "expected a server that runs, such as `undine serve`, at --base-url or --host and --port"
                }
            };
            format!("{url}: {}; {advice}", chain(&error.without_url()))
        };
        let response = self.http.get(url).send().await.map_err(failed)?;
        let status = response.status();
        let body = body(response).await;
        if !status.is_success() {
            return Err(format!("{url}: {}", refusal(status, &body)));
        }
        serde_json::from_str(&body).map_err(|error| format!("{url}: expected JSON: {error}"))
    }

    /// Sends a request and reads its answer. `sample` says what is known of it; `origin` is when the
    /// measurement began.
    pub async fn send(
        &self,
        conversation: &Conversation,
        output_len: u32,
        sample: Sample,
        origin: Instant,
    ) -> Sample {
        let mut body = self.fields.clone();
        conversation.put_into(&mut body);
        body.insert("max_tokens".to_owned(), output_len.into());
        let body = Json::Object(body).to_string();
        let request = self.http.post(&self.url).header("content-type", "application/json").body(body);
        let started = Instant::now();
        let sample = Sample { start: (started - origin).as_secs_f64(), ..sample };
        let mut recorder = Recorder::new(sample);
        match stream(request, started, &mut recorder).await {
            Ok(()) => recorder.finish(),
            Err(error) => recorder.fail(error),
        }
    }
}

async fn stream(
    request: reqwest::RequestBuilder,
    started: Instant,
    recorder: &mut Recorder,
) -> Result<(), String> {
    let mut response = request.send().await.map_err(|error| chain(&error))?;
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(status, &body(response).await));
    }
    let mut lines = Lines::default();
    while let Some(bytes) = response.chunk().await.map_err(|error| chain(&error))? {
        let at = started.elapsed().as_secs_f64();
        lines.push(&bytes)?;
        while let Some(line) = lines.next() {
            if let Some(data) = data(&line)? {
                recorder.event(at, data)?;
            }
        }
    }
    Ok(())
}

/// The data of a line of a stream of events, if it has any.
fn data(line: &[u8]) -> Result<Option<&str>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "the stream is not UTF-8 text".to_owned())?;
    Ok(line.strip_prefix("data:").map(str::trim))
}

/// Bytes as they come, lines as they are complete.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// So many bytes from the front have been handed out.
    taken: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > LINE_BYTES_MAX {
            return Err(format!("a line of the stream has more than {LINE_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.taken..];
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = rest[..end].to_vec();
        self.taken += end + 1;
        Some(line)
    }
}

/// As much of a body as is worth reading; what arrived of it, if it breaks off.
async fn body(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > BODY_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A response that is no success, in a line.
fn refusal(status: StatusCode, body: &str) -> String {
    let json: Option<Json> = serde_json::from_str(body).ok();
    let message = json.as_ref().and_then(|json| json["error"]["message"].as_str()).unwrap_or(body.trim());
    let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    if message.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {message}") }
}

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Ok(key) = std::env::var(API_KEY_VARIABLE) {
        let value = HeaderValue::from_str(&format!("Bearer {key}"));
        let value =
            value.map_err(|_| Error::usage(format!("${API_KEY_VARIABLE} cannot be sent in a header")))?;
        headers.insert(AUTHORIZATION, value);
    }
    for (name, value) in pairs {
        let invalid = || Error::usage(format!("--header {name}={value} is no valid header"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

/// The fields that all requests have in common.
fn fields(args: &BenchServeArgs) -> Map<String, Json> {
    let mut fields = Map::new();
    fields.insert("stream".to_owned(), true.into());
    fields.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    if args.data.ignore_eos || (args.data.dataset_name == Dataset::Random && !args.data.no_ignore_eos) {
        fields.insert("ignore_eos".to_owned(), true.into());
    }
    let BenchSamplingArgs { temperature, top_p, min_p, .. } = args.sampling;
    let BenchSamplingArgs { repetition_penalty, presence_penalty, frequency_penalty, .. } = args.sampling;
    for (name, value) in [
        ("temperature", temperature.map(Json::from)),
        ("top_k", args.sampling.top_k.map(Json::from)),
        ("top_p", top_p.map(Json::from)),
        ("min_p", min_p.map(Json::from)),
        ("repetition_penalty", repetition_penalty.map(Json::from)),
        ("presence_penalty", presence_penalty.map(Json::from)),
        ("frequency_penalty", frequency_penalty.map(Json::from)),
    ] {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    }
    if let Some(count) = args.sampling.logprobs {
        match Api::of(args.backend) {
            Api::Completions => drop(fields.insert("logprobs".to_owned(), count.into())),
            Api::Chat => {
                fields.insert("logprobs".to_owned(), true.into());
                fields.insert("top_logprobs".to_owned(), count.into());
            }
        }
    }
    fields.extend(args.extra_body.clone().into_iter().flatten());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let stream = b"data: {\"a\": 1}\r\n\r\n: keep-alive\ndata:[DONE]\n\nrest";
        for size in 1..stream.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in stream.chunks(size) {
                lines.push(part).expect("short");
                while let Some(line) = lines.next() {
                    found.extend(data(&line).expect("text").map(str::to_owned));
                }
            }
            assert_eq!(found, ["{\"a\": 1}", "[DONE]"], "{size}");
        }
        assert!(Lines::default().push(&vec![0; LINE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn refusals_are_told_in_a_line() {
        for (body, expected) in [
            (r#"{"error": {"message": "too long"}}"#, "HTTP 400 Bad Request: too long"),
            ("plain\n", "HTTP 400 Bad Request: plain"),
            ("", "HTTP 400 Bad Request"),
        ] {
            assert_eq!(refusal(StatusCode::BAD_REQUEST, body), expected);
        }
    }
}
