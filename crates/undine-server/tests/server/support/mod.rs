//! A server with a mock model, and a plain HTTP client.

pub mod client;
pub mod eye;
pub mod mock;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::Value;
use tokio::sync::oneshot;
use undine_core::executor::ExecutorFactory;
use undine_core::{ImageSettings, SamplingParams, SpecialTokens, Vocabulary};
use undine_engine::{EngineConfig, PrefixCaching};
use undine_server::{
    AnswerOptions, Listener, Load, Loaded, RequestDefaults, ServerConfig, ServerError, ServerModel, serve,
};
use undine_text::{ChatTemplate, Tokenizer};

use mock::MockExecutor;

/// Longest time anything in these tests may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const EOS: u32 = 7;
pub const THINK_START: u32 = 14;
pub const THINK_END: u32 = 15;

const TEMPLATE: &str = "{{ bos_token }}{% if tools %}<|im_start|>system\nList of tools: {{ tools | tojson }}<|im_end|>\n{% endif %}\
{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% if think %}<think>{% endif %}{% endif %}";

/// The tokenizer of the oracle checkpoint, with two of its special tokens renamed to the reasoning markers.
pub fn tokenizer() -> Tokenizer {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle/dense/tokenizer.json");
    let text = std::fs::read_to_string(path).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    for (id, name) in [(THINK_START, "<think>"), (THINK_END, "</think>")] {
        let token = &mut json["added_tokens"][id as usize];
        assert_eq!(token["id"], id);
        let old = token["content"].as_str().unwrap().to_owned();
        token["content"] = name.into();
        token["special"] = false.into();
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        vocab.remove(&old);
        vocab.insert(name.to_owned(), id.into());
    }
    tokenizer_of(json.to_string())
}

/// The tokenizer of the oracle checkpoint that sees.
pub fn image_tokenizer() -> Tokenizer {
    tokenizer_of(std::fs::read_to_string(oracle_vl("tokenizer.json")).unwrap())
}

/// A file of that checkpoint, or one of its images.
pub fn oracle_vl(name: &str) -> String {
    format!("{}/../../tests/data/oracle/vl/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An image of the oracle as a `data:` URI.
pub fn data_uri(image: &str) -> String {
    let bytes = std::fs::read(oracle_vl(image)).unwrap();
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn tokenizer_of(json: String) -> Tokenizer {
    let special = SpecialTokens { bos: Some(1), eos: vec![EOS], pad: Some(0), add_bos: Some(true) };
    Tokenizer::new(&Vocabulary::HuggingFace(json.into_bytes()), &special).unwrap().unwrap()
}

/// Ids of a text, special tokens included, without BOS.
pub fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text, undine_text::Bos::Omit)
}

/// Ids of a text, one per character where characters are one byte: not as the tokenizer would cut it.
pub fn encode_oddly(text: &str) -> Vec<u32> {
    text.chars().flat_map(|character| encode(&character.to_string())).collect()
}

/// Chat templates as LFM2's generations have them.
pub mod templates {
    pub const LFM2: &str = include_str!("../../../../undine-text/tests/templates/lfm2.jinja");
    pub const LFM2_5: &str = include_str!("../../../../undine-text/tests/templates/lfm2.5-1.2b.jinja");
    pub const LFM2_5_8B: &str = include_str!("../../../../undine-text/tests/templates/lfm2.5-8b-a1b.jinja");
    pub const LFM2_5_2_6B: &str = include_str!("../../../../undine-text/tests/templates/lfm2.5-2.6b.jinja");
}

/// How a server under test differs from the usual one.
#[derive(Clone)]
pub struct Setup {
    pub mock: MockExecutor,
    pub config: ServerConfig,
    pub engine: EngineConfig,
    pub chat: bool,
    pub text: bool,
    pub defaults: SamplingParams,
    pub answers: AnswerOptions,
    pub template: &'static str,
    /// The template of conversations with tools, if they have one of their own.
    pub tool_template: Option<&'static str>,
    /// A model that sees has another vocabulary.
    pub images: Option<ImageSettings>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mock: MockExecutor::default(),
            config: ServerConfig::default(),
            engine: EngineConfig {
                max_num_seqs: 4,
                max_num_batched_tokens: 32,
                max_model_len: 400,
                max_waiting: 64,
                prefill_chunk: 16,
                prefix_caching: PrefixCaching::On,
                image_cache_bytes: 1 << 20,
            },
            chat: true,
            text: true,
            defaults: SamplingParams::default(),
            answers: AnswerOptions::default(),
            template: TEMPLATE,
            tool_template: None,
            images: None,
        }
    }
}

impl Setup {
    /// A server whose answers are these, one after the other, on prompts of thousands of tokens.
    pub fn saying(answers: &[Vec<u32>]) -> Self {
        let mut setup = Self::default();
        setup.mock.scripts = answers.to_vec();
        setup.engine.max_model_len = 4000;
        setup
    }

    /// The same for a model that sees, with room for images.
    pub fn seeing() -> Self {
        let mut setup = Self { images: Some(ImageSettings::default()), ..Self::default() };
        setup.engine.max_model_len = 4000;
        setup
    }

    pub fn loaded(self) -> Loaded {
        let Self { mock, engine, chat, text, defaults, answers, template, tool_template, images, .. } = self;
        let factory: ExecutorFactory = Box::new(move || Ok(Box::new(mock)));
        let read = |source| ChatTemplate::new(source, "<|startoftext|>", "<|im_end|>").unwrap();
        let template = match tool_template {
            Some(tools) => read(template).with_tools(read(tools)),
            None => read(template),
        };
        let model = ServerModel {
            names: vec!["mock".to_owned(), "vendor/mock".to_owned()],
            tokenizer: text.then(|| Arc::new(if images.is_some() { image_tokenizer() } else { tokenizer() })),
            template: chat.then_some(template),
            images,
            eos: vec![EOS],
            sampling_defaults: defaults,
            answers,
            requests: RequestDefaults::default(),
            helpers: None,
        };
        Loaded {
            files: None,
            model,
            factory,
            vision: images.is_some().then(eye::factory),
            engine,
            on_ready: Box::new(|| ()),
        }
    }

    /// Starts a server and waits until it is ready.
    pub fn start(self) -> Server {
        let config = self.config.clone();
        let server = Server::start(Box::new(move || Ok(self.loaded())), config);
        server.wait_for_health(200);
        server
    }
}

/// A running server. Dropping it shuts it down.
pub struct Server {
    pub address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Server {
    pub fn start(load: Load, config: ServerConfig) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let make = || tokio::net::TcpListener::from_std(listener).unwrap().into();
        let mut server = Self::start_on(make, load, config);
        server.address = address;
        server
    }

    /// Starts a server on any kind of socket, made where the runtime is.
    pub fn start_on(
        make: impl FnOnce() -> Listener + Send + 'static,
        load: Load,
        config: ServerConfig,
    ) -> Self {
        let (shutdown, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async { serve(make(), load, config, async { drop(stopped.await) }).await })
        });
        // Only a TCP socket has one.
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { address, shutdown: Some(shutdown), thread: Some(thread) }
    }

    pub fn begin_shutdown(&mut self) {
        self.shutdown.take();
    }

    /// Ends the server; what `serve` returned.
    pub fn join(mut self) -> Result<(), ServerError> {
        self.begin_shutdown();
        self.result()
    }

    /// Whether `serve` has returned.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What `serve` returned, once it does.
    pub fn result(&mut self) -> Result<(), ServerError> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn wait_for_health(&self, status: u16) {
        wait_until(|| client::get(self.address, "/health").status == status);
    }

    /// Sequences running or waiting.
    pub fn load(&self) -> u64 {
        client::get(self.address, "/load").json()["server_load"].as_u64().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Polls until the condition holds; panics if it never does.
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}
