//! The server without a network and without weights, as its own tests have it.

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tokio::runtime::Runtime;
use undine_core::executor::ExecutorFactory;
use undine_core::{ImageSettings, SamplingParams, SpecialTokens, Vocabulary};
use undine_engine::{EngineConfig, PrefixCaching};
use undine_server::{
    Answer, AnswerOptions, Domains, InProcess, Loaded, MediaConfig, RequestDefaults, ServerConfig,
    ServerModel,
};
use undine_text::{Cancel, ChatTemplate, Tokenizer};

use crate::mock::MockExecutor;
use crate::{eye, helpers};

/// The token that ends an answer.
pub const EOS: u32 = 7;
/// A host that no request may name by chance: the only one that images may come from.
const HOST: &str = "none.of-the-images-of-the-fuzz-targets.invalid";
/// Bytes of prepared images that are kept.
const IMAGE_CACHE_BYTES: usize = 4 << 20;
/// Longest body: what is longer only takes time.
const BODY_BYTES_MAX: usize = 256 << 10;
const TEMPLATE: &str = include_str!("../../crates/undine-text/tests/templates/lfm2.5-8b-a1b.jinja");

/// What the mock answers, one after the other.
const SCRIPTS: [&str; 4] = [
    "Hello there.",
    "<|tool_call_start|>[weather(city=\"Oslo\", days=2)]<|tool_call_end|>",
    "{\"name\": \"x\", \"list\": [1, 2.5, null]}",
    "\u{8a9e}\u{1f600} STOP and more",
];

/// A server and the thread that it runs on.
pub struct Api {
    runtime: Runtime,
    api: InProcess,
}

/// For text.
pub static TEXT: LazyLock<Api> = LazyLock::new(|| Api::start(None));
/// For a model that sees.
pub static SEEING: LazyLock<Api> = LazyLock::new(|| Api::start(Some(ImageSettings::default())));

impl Api {
    fn start(images: Option<ImageSettings>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let media = MediaConfig {
            domains: Domains::new([HOST]).expect("a name of a host"),
            cache_bytes_max: IMAGE_CACHE_BYTES,
            ..MediaConfig::default()
        };
        let config = ServerConfig { body_bytes_max: BODY_BYTES_MAX, media, ..ServerConfig::default() };
        let load = Box::new(move || Ok(loaded(images)));
        let api = runtime.block_on(InProcess::start(load, config)).expect("the mock loads");
        Self { runtime, api }
    }

    /// Posts a body and checks the answer: no failure of the server, and JSON or events of JSON.
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        let answer = self.runtime.block_on(self.api.post(path, body.to_vec()));
        assert_eq!(self.api.failure(), None, "the engine lives");
        let shown = String::from_utf8_lossy(&answer.body);
        let text = std::str::from_utf8(&answer.body).expect("answers are UTF-8");
        assert!(answer.status != 500 || text.contains("grammar library"), "{shown}");
        match text.strip_prefix("data: ") {
            None => {
                let json: Value =
                    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {shown}"));
                let is_refused = answer.status >= 400;
                assert_eq!(is_refused, json["error"]["message"].is_string(), "{} {shown}", answer.status);
            }
            Some(events) => {
                let mut events = events.trim_end().split("\n\ndata: ").collect::<Vec<_>>();
                assert_eq!(events.pop(), Some("[DONE]"), "{shown}");
                for event in events {
                    serde_json::from_str::<Value>(event).unwrap_or_else(|error| panic!("{error}: {event}"));
                }
            }
        }
        answer
    }
}

fn loaded(images: Option<ImageSettings>) -> Loaded {
    let kind = if images.is_some() { "vl" } else { "dense" };
    let tokenizer = Arc::new(tokenizer(kind));
    let mock = MockExecutor {
        scripts: SCRIPTS.map(|text| tokenizer.encode(text, undine_text::Bos::Omit)).to_vec(),
        ..MockExecutor::default()
    };
    let apart = &*helpers::TEMPLATES;
    let template =
        ChatTemplate::isolated(TEMPLATE, "<|startoftext|>", "<|im_end|>", apart, &Cancel::default());
    let factory: ExecutorFactory = Box::new(move || Ok(Box::new(mock)));
    let model = ServerModel {
        names: vec!["mock".to_owned()],
        template: Some(template.expect("a published template, and helpers work")),
        tokenizer: Some(tokenizer),
        images,
        eos: vec![EOS],
        sampling_defaults: SamplingParams::default(),
        answers: AnswerOptions::default(),
        requests: RequestDefaults::default(),
        helpers: Some(Arc::clone(apart)),
    };
    let engine = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        max_model_len: 2000,
        max_waiting: 64,
        prefill_chunk: 16,
        prefix_caching: PrefixCaching::On,
        image_cache_bytes: 1 << 20,
    };
    let vision = images.is_some().then(eye::factory);
    Loaded { model, factory, vision, engine, files: None, on_ready: Box::new(|| ()) }
}

/// The tokenizer of an oracle checkpoint.
pub fn tokenizer(kind: &str) -> Tokenizer {
    let json: &[u8] = match kind {
        "vl" => include_bytes!("../../tests/data/oracle/vl/tokenizer.json"),
        _ => include_bytes!("../../tests/data/oracle/dense/tokenizer.json"),
    };
    let special = SpecialTokens { bos: Some(1), eos: vec![EOS], pad: Some(0), add_bos: Some(true) };
    let tokenizer = Tokenizer::new(&Vocabulary::HuggingFace(json.to_vec()), &special);
    tokenizer.expect("the oracle's is good").expect("there is one")
}
