//! The MODEL argument: a file, a folder, or the demo model inside the program; and the text side of a
//! checkpoint.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value as Json;
use undine_core::{PromptImage, TokenId};
use undine_text::{
    ChatInput, ChatTemplate, Reasoning, Tokenizer, answer_at_once, ends_in_think, is_thinking_off, switch_off,
};
use undine_weights::Checkpoint;

use crate::error::Error;
use crate::hub;
use crate::pictures::Pictures;
use crate::shown::{self, say};
use crate::template;

/// The demo model; `demo/README.md` says what it is and how it was made.
const DEMO: &[u8] = include_bytes!("../../../demo/undine-demo.gguf");
/// What the demo model is called in messages.
pub const DEMO_NAME: &str = "undine-demo";

/// Opens MODEL, a path or a name, and reports what was mended or left out on standard error, one line each. A
/// vision tower is found where it belongs.
pub fn open(model: Option<&Path>) -> Result<Arc<Checkpoint>, Error> {
    open_with(model, None)
}

/// The same with the vision tower in the file `mmproj`, if there is one.
pub fn open_with(model: Option<&Path>, mmproj: Option<&Path>) -> Result<Arc<Checkpoint>, Error> {
    let model = model.map(hub::locate).transpose()?;
    let checkpoint = match (model.as_deref(), mmproj) {
        (Some(path), Some(mmproj)) => {
            Checkpoint::open_with_mmproj(path, mmproj).map_err(|error| Error::model(path, error))?
        }
        (Some(path), None) => Checkpoint::open(path).map_err(|error| Error::model(path, error))?,
        (None, Some(_)) => {
            return Err(Error::usage("--mmproj needs the model that the vision tower belongs to"));
        }
        (None, None) => Checkpoint::from_static_gguf(DEMO)?,
    };
    for repair in checkpoint.repairs() {
        say!("note: {repair}");
    }
    Ok(Arc::new(checkpoint))
}

/// Maps a checkpoint's files on a thread of its own, until it is dropped. The answer begins sooner if that is
/// done while the tokenizer is made: mapping takes half as long as the first step's own work.
pub struct MappingAhead {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MappingAhead {
    /// Begins. Does nothing where there is one processor, or no thread to be had.
    pub fn start(checkpoint: &Arc<Checkpoint>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let has_processors = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        let (checkpoint, stopped) = (Arc::clone(checkpoint), Arc::clone(&stop));
        let begin = || {
            let thread = std::thread::Builder::new().name("undine-map".to_owned());
            thread.spawn(move || checkpoint.map_ahead(&stopped)).ok()
        };
        Self { stop, thread: has_processors.then(begin).flatten() }
    }
}

impl Drop for MappingAhead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It reads bytes that are there and cannot panic.
            let _ = thread.join();
        }
    }
}

/// A name for people: the file's, the folder's or the repository's, or the demo's.
pub fn display_name(model: Option<&Path>) -> String {
    let Some(path) = model else { return DEMO_NAME.to_owned() };
    if let Some(name) = hub::name(path) {
        return name.repo.name().to_owned();
    }
    // A file in the cache is a link to one that is named by its hash, without an ending.
    let is_named = |target: &PathBuf| target.is_dir() || target.extension().is_some();
    let path = path.canonicalize().ok().filter(is_named).unwrap_or_else(|| path.to_owned());
    // It becomes the name that clients know the model by, too.
    shown::line(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
}

/// Text to tokens and back, and messages to text.
pub struct ModelText {
    /// The checkpoint's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; a base model has none.
    pub template: Option<ChatTemplate>,
    /// What is to be said where prompts go through a template that is not the model's own.
    pub note: Option<String>,
    /// Every token that ends an answer.
    pub eos: Vec<TokenId>,
    /// Pictures in the conversation, if the model takes any.
    pictures: Option<Pictures>,
}

/// A prompt as the engine takes it, and where the answer to it begins.
pub struct Prompt {
    /// At least one token.
    pub tokens: Vec<TokenId>,
    /// The pictures in it.
    pub images: Vec<PromptImage>,
    /// Whether the answer may reason, or has already begun to.
    pub reasoning: Reasoning,
    /// What the answer may not contain.
    pub forbidden: Vec<TokenId>,
}

/// The checkpoint's tokenizer, if it has one.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Arc<Tokenizer>>, Error> {
    let tokenizer = Tokenizer::new(checkpoint.vocabulary(), checkpoint.special_tokens())?;
    Ok(tokenizer.map(Arc::new))
}

impl ModelText {
    /// Fails for a checkpoint without a tokenizer.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let missing = || {
            Error::refused(
                "this checkpoint has no tokenizer, so it takes and gives only token ids; \
                 expected tokenizer.json in the folder, or tokenizer.ggml.tokens in the GGUF file",
            )
        };
        let tokenizer = tokenizer(checkpoint)?.ok_or_else(missing)?;
        let sources = template::sources(checkpoint, &tokenizer);
        let note = template::note(checkpoint, sources);
        let template =
            sources.map(|sources| template::compile(checkpoint, &tokenizer, sources)).transpose()?;
        let eos = checkpoint.special_tokens().eos.clone();
        let pictures = checkpoint.image_settings().map(Pictures::new).transpose()?;
        Ok(Self { tokenizer, template, note, eos, pictures })
    }

    /// Where pictures are added.
    ///
    /// # Errors
    /// If the model takes none.
    pub fn pictures(&self) -> Result<&Pictures, Error> {
        self.pictures.as_ref().ok_or_else(|| {
            Error::refused(
                "this model takes no pictures: it has no vision tower; expected a vision model such as LFM2-VL, \
                 for a GGUF file with its mmproj file beside it or named with --mmproj",
            )
        })
    }

    /// Whether the model takes pictures.
    pub fn sees(&self) -> bool {
        self.pictures.is_some()
    }

    /// The prompt of a text in which pictures have placeholders.
    fn prompt(&self, text: &str, reasoning: Reasoning) -> Result<Prompt, Error> {
        let (tokens, images) = match &self.pictures {
            Some(pictures) => pictures.encode(text, &self.tokenizer)?,
            None => (self.tokenizer.encode(text, self.tokenizer.default_bos()), Vec::new()),
        };
        Ok(Prompt { tokens, images, reasoning, forbidden: Vec::new() })
    }

    /// Renders messages, or `None` for a model without a template.
    pub fn chat_prompt(
        &self,
        messages: &[Json],
        kwargs: &serde_json::Map<String, Json>,
    ) -> Result<Option<Prompt>, Error> {
        let Some(template) = &self.template else { return Ok(None) };
        let mut kwargs = kwargs.clone();
        let is_off = is_thinking_off(&kwargs);
        if is_off {
            // Whichever of its names was used.
            switch_off(&mut kwargs);
        }
        let input = ChatInput { messages, tools: None, add_generation_prompt: true, kwargs: &kwargs };
        let mut text = template.render(&input)?;
        let forbidden = match is_off {
            true => answer_at_once(&self.tokenizer, template.traits(), &mut text),
            false => Vec::new(),
        };
        let reasoning = if ends_in_think(&text) { Reasoning::SplitStartInside } else { Reasoning::Split };
        Ok(Some(Prompt { forbidden, ..self.prompt(&text, reasoning)? }))
    }

    /// A text to be continued as it is, but for placeholders of pictures.
    pub fn raw_prompt(&self, text: &str) -> Result<Prompt, Error> {
        self.prompt(text, Reasoning::Off)
    }
}
