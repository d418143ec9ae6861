//! What `undine serve` and `undine batch` load: the model, its text side and sampling defaults, the memory
//! for keys and values.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use undine_core::executor::ExecutorFactory;
use undine_core::vision::VisionFactory;
use undine_core::{Config, Executor, ExecutorError, ImageSettings, SamplingParams};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_engine::{EngineConfig, PrefixCaching};
use undine_model::Model;
use undine_server::{
    AnswerOptions, ImageOptions, Loaded, ReasoningFormat, RequestDefaults, RequestTemplate, SchedulingPolicy,
    ServerModel, ToolCallFormat,
};
use undine_text::{ChatTemplate, Tokenizer};
use undine_weights::Checkpoint;

use crate::args::ExecutorArgs;
use crate::args_serve::{AnswerArgs, Context, LoadArgs, ReasoningParser, ToolCallParser};
use crate::error::Error;
use crate::format::Bytes;
use crate::shown::say;
use crate::{args_serve, helpers, hub, memory, model_files, open, sampling, session, template, text_file};

/// Memory for keys and values unless asked for otherwise. It is taken as it is used.
pub const KV_BYTES_DEFAULT: u64 = 4 << 30;
/// Rows through the head in one step, at least: prompts are scored so many tokens at a time.
pub const OUTPUTS_MIN: u32 = 64;
/// Longest chat template file.
const TEMPLATE_BYTES_MAX: u64 = undine_text::template::TEMPLATE_BYTES_MAX as u64;
/// Longest generation_config.json.
const GENERATION_CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What the load needs of the arguments, on another thread.
pub struct LoadPlan {
    model: Option<PathBuf>,
    mmproj: Option<PathBuf>,
    context: Option<u32>,
    engine: EngineConfig,
    kv_memory: KvMemory,
    names: Vec<String>,
    chat_template: Option<String>,
    executor: ExecutorArgs,
    answers: AnswerOptions,
    requests: RequestDefaults,
    image_options: ImageOptions,
    sampling: SamplingSource,
}

/// What a server that is ready has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// That compute.
    pub threads: usize,
    /// Most tokens of a conversation.
    pub context: u32,
    /// Conversations that are computed at once.
    pub sequences: u32,
    /// Most bytes of keys and values.
    pub kv_bytes: u64,
}

/// How much memory keys and values may take.
#[derive(Clone, Copy, PartialEq, Debug)]
enum KvMemory {
    Default,
    Bytes(u64),
    /// Of the machine's memory, less the weights.
    Share(f64),
}

/// Where sampling defaults come from, and what comes before them.
struct SamplingSource {
    base: SamplingBase,
    overrides: Map<String, Json>,
}

enum SamplingBase {
    /// The checkpoint, else the model's published preset.
    Checkpoint,
    /// The plain distribution.
    Plain,
    /// A generation_config.json.
    File(Map<String, Json>),
}

impl LoadPlan {
    /// Reads the small files, so that mistakes show before anything is served.
    pub fn new(args: &LoadArgs) -> Result<Self, Error> {
        let given = args.model.clone().or_else(|| args.checkpoint.flag.clone());
        let model = given.or_else(|| args.checkpoint.model_in_config.clone());
        let model = model.or_else(|| std::env::var_os("UNDINE_MODEL").map(PathBuf::from));
        let names = match args.checkpoint.served_model_name.as_slice() {
            [] => default_names(model.as_deref()),
            names => names.to_vec(),
        };
        let limits = &args.limits;
        let context = match limits.max_model_len {
            Some(Context::Tokens(tokens)) => Some(tokens),
            Some(Context::Auto) | None => None,
        };
        let kv_memory = match (limits.kv_cache_memory_bytes, limits.gpu_memory_utilization) {
            (Some(bytes), _) => KvMemory::Bytes(bytes),
            (None, Some(share)) => KvMemory::Share(share),
            (None, None) => KvMemory::Default,
        };
        // Before anything is listened on, so that what goes wrong is told at once.
        let model = model
            .map(|model| hub::locate_with(&model, &args.checkpoint.hub).map(Cow::into_owned))
            .transpose()?;
        let template = args.checkpoint.chat_template.as_deref();
        Ok(Self {
            model,
            mmproj: args.vision.mmproj.clone(),
            context,
            kv_memory,
            names,
            engine: EngineConfig {
                max_num_seqs: limits.max_num_seqs,
                max_num_batched_tokens: limits.max_num_batched_tokens,
                // Known when the model is.
                max_model_len: 0,
                max_waiting: limits.max_queued_requests,
                prefill_chunk: limits.max_num_batched_tokens,
                prefix_caching: match limits.no_enable_prefix_caching {
                    true => PrefixCaching::Off,
                    false => PrefixCaching::On,
                },
                image_cache_bytes: args.vision.image_cache_memory_bytes,
            },
            chat_template: template.map(read_template).transpose()?,
            executor: args.executor.clone(),
            answers: answer_options(&args.answers),
            requests: RequestDefaults {
                template_kwargs: object(args.answers.default_chat_template_kwargs.as_ref()),
                seed: args.answers.seed,
                logprobs_max: args.answers.max_logprobs,
                tokens_as_ids: args.answers.return_tokens_as_token_ids,
                scheduling: match limits.scheduling_policy {
                    args_serve::SchedulingPolicy::Fcfs => SchedulingPolicy::Fcfs,
                    args_serve::SchedulingPolicy::Priority => SchedulingPolicy::Priority,
                },
            },
            image_options: args.media.mm_processor_kwargs.unwrap_or_default(),
            sampling: SamplingSource::new(&args.answers)?,
        })
    }

    /// What the model is called in responses.
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    /// All names that requests may ask for it by.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The template of the flag, else the checkpoint's.
    fn template(
        &self,
        checkpoint: &Checkpoint,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Option<ChatTemplate>, Error> {
        let Some(tokenizer) = tokenizer else { return Ok(None) };
        if let Some(source) = &self.chat_template {
            return template::compile_source(checkpoint, tokenizer, source).map(Some);
        }
        let sources = template::sources(checkpoint, tokenizer);
        if let Some(note) = template::note(checkpoint, sources) {
            say!("{note}");
        }
        sources.map(|sources| template::compile(checkpoint, tokenizer, sources)).transpose()
    }

    /// Loads; takes as long as the file needs. `on_ready` is called when requests are answered.
    pub fn load(self, on_ready: Box<dyn FnOnce(Capacity) + Send>) -> Result<Loaded, Error> {
        helpers::warm();
        let checkpoint = open::open_with(self.model.as_deref(), self.mmproj.as_deref())?;
        let tokenizer = open::tokenizer(&checkpoint)?;
        let template = self.template(&checkpoint, tokenizer.as_deref())?;
        let model = ServerModel {
            sampling_defaults: self.sampling.resolve(&checkpoint, &self.names[0])?,
            names: self.names,
            tokenizer,
            template,
            images: image_settings(&checkpoint, self.image_options)?,
            eos: checkpoint.special_tokens().eos.clone(),
            answers: self.answers,
            requests: self.requests,
            helpers: helpers::for_templates()?,
        };
        let context = session::context(checkpoint.config(), self.context)?;
        let engine = EngineConfig { max_model_len: context, ..self.engine };
        let kv = session::kv_type(&self.executor, &checkpoint);
        let bytes = self.kv_memory.bytes(checkpoint.file_bytes())?;
        let blocks = blocks(checkpoint.config(), kv, &engine, bytes)?;
        let pages = Bytes(blocks.bytes);
        tracing::debug!(
            "keys and values: {} pages of {BLOCK_SIZE} tokens, {pages}, taken as used",
            blocks.count
        );
        let options = CpuOptions {
            threads: session::threads(&self.executor),
            blocks: blocks.count,
            slots: engine.max_num_seqs,
            snapshots: session::snapshots(engine.max_num_seqs),
            rows: engine.max_num_batched_tokens,
            outputs: engine.max_num_seqs.max(OUTPUTS_MIN),
            kv,
            huge_pages: session::huge_pages(
                self.executor.huge_pages,
                &checkpoint,
                kv,
                [blocks.count, BLOCK_SIZE],
            ),
            isa: Isa::detect(),
        };
        let capacity = Capacity {
            threads: options.threads,
            context,
            sequences: engine.max_num_seqs,
            kv_bytes: blocks.bytes,
        };
        let on_ready = Box::new(move || on_ready(capacity));
        let tower = checkpoint.vision_config().map(|_| Arc::clone(&checkpoint));
        let vision = tower.map(|checkpoint| vision(checkpoint, options.threads));
        let files = model_files::check(&checkpoint);
        let factory: ExecutorFactory = Box::new(move || {
            let executor = CpuExecutor::new(Arc::new(Model::bind(checkpoint)), options)
                .map_err(|error| ExecutorError(error.to_string()))?;
            Ok(Box::new(executor) as Box<dyn Executor>)
        });
        Ok(Loaded { model, factory, vision, engine, files: Some(files), on_ready })
    }
}

/// Makes the vision tower of a checkpoint that has one.
fn vision(checkpoint: Arc<Checkpoint>, threads: usize) -> VisionFactory {
    Box::new(move || {
        let vision = session::vision(checkpoint, threads).map_err(|error| ExecutorError(error.chain()))?;
        Ok(vision.expect("the caller has seen the tower"))
    })
}

/// The chat template of the command line: a file, or, as vLLM takes it too, the template itself.
fn read_template(given: &Path) -> Result<String, Error> {
    let text = given.to_string_lossy();
    if text.contains("{{") || text.contains("{%") {
        return Ok(text.into_owned());
    }
    // llama.cpp has templates by name.
    let is_name =
        text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !text.ends_with(".jinja");
    if is_name && !given.exists() {
        return Err(Error::usage(format!(
            "--chat-template {text}: expected a file with a Jinja template, or the template itself; none is known by a \
             name, because a model brings its own, which is used without the flag"
        )));
    }
    text_file::read(given, TEMPLATE_BYTES_MAX)
}

/// How images are cut, if the model takes any: as the checkpoint says, with the server's own options.
fn image_settings(checkpoint: &Checkpoint, options: ImageOptions) -> Result<Option<ImageSettings>, Error> {
    let Some(settings) = checkpoint.image_settings() else { return Ok(None) };
    let settings = options.over(*settings);
    let wrong = |message| Error::usage(format!("--mm-processor-kwargs: {message}"));
    settings.check().map(|()| Some(settings)).map_err(wrong)
}

fn answer_options(args: &AnswerArgs) -> AnswerOptions {
    let calls_in_text = args.no_enable_auto_tool_choice || args.tool_call_parser == ToolCallParser::None;
    AnswerOptions {
        reasoning: match args.reasoning_parser {
            ReasoningParser::Qwen3 => ReasoningFormat::Think,
            ReasoningParser::None => ReasoningFormat::None,
        },
        reasoning_budget: args.reasoning_budget,
        tool_calls: if calls_in_text { ToolCallFormat::None } else { ToolCallFormat::Lfm2 },
        request_template: match args.trust_request_chat_template {
            true => RequestTemplate::Trusted,
            false => RequestTemplate::Refused,
        },
    }
}

fn object(given: Option<&crate::args_serve::JsonObject>) -> Map<String, Json> {
    given.map(|object| object.0.clone()).unwrap_or_default()
}

impl KvMemory {
    /// `None` is the default.
    fn bytes(self, weights: u64) -> Result<Option<u64>, Error> {
        let share = match self {
            Self::Default => return Ok(None),
            Self::Bytes(bytes) => return Ok(Some(bytes)),
            Self::Share(share) => share,
        };
        let unknown = || {
            Error::refused(
                "--gpu-memory-utilization: this machine does not say how much memory it has; use --kv-cache-memory-bytes",
            )
        };
        let total = memory::total_bytes().ok_or_else(unknown)?;
        let part = (total as f64 * share) as u64;
        let (total, part_shown, weights_shown) = (Bytes(total), Bytes(part), Bytes(weights));
        match part.checked_sub(weights) {
            Some(left) => {
                tracing::info!(
                    "--gpu-memory-utilization {share}: {part_shown} of {total}, the memory of this machine, less \
                     {weights_shown} of weights: {} for keys and values",
                    Bytes(left)
                );
                Ok(Some(left))
            }
            None => Err(Error::refused(format!(
                "--gpu-memory-utilization {share}: {part_shown} of {total} hold less than the weights, {weights_shown}; \
                 raise it, or use --kv-cache-memory-bytes"
            ))),
        }
    }
}

impl SamplingSource {
    fn new(args: &AnswerArgs) -> Result<Self, Error> {
        let base = match args.generation_config.as_str() {
            "auto" => SamplingBase::Checkpoint,
            "vllm" => SamplingBase::Plain,
            folder => {
                let path = Path::new(folder).join("generation_config.json");
                let text = text_file::read(&path, GENERATION_CONFIG_BYTES_MAX)?;
                let wrong =
                    |error| Error::refused(format!("{}: expected a JSON object: {error}", path.display()));
                SamplingBase::File(serde_json::from_str(&text).map_err(wrong)?)
            }
        };
        let source = Self { base, overrides: object(args.override_generation_config.as_ref()) };
        // A wrong name or value is known before the model is.
        source.with_overrides(SamplingParams::default())?;
        Ok(source)
    }

    fn with_overrides(&self, params: SamplingParams) -> Result<SamplingParams, Error> {
        let wrong = |message| Error::usage(format!("--override-generation-config: {message}"));
        sampling::override_defaults(params, &self.overrides).map_err(wrong)
    }

    fn resolve(&self, checkpoint: &Checkpoint, name: &str) -> Result<SamplingParams, Error> {
        let base = match &self.base {
            SamplingBase::Checkpoint => sampling::defaults(checkpoint, name),
            SamplingBase::Plain => SamplingParams::default(),
            SamplingBase::File(map) => {
                // Such files hold much else: token ids, versions, settings of beam search.
                let known = map.iter().filter(|(key, _)| sampling::DEFAULTS.contains(&key.as_str()));
                let known = known.map(|(key, value)| (key.clone(), value.clone())).collect();
                let wrong = |message| Error::refused(format!("generation_config.json: {message}"));
                sampling::override_defaults(SamplingParams::default(), &known).map_err(wrong)?
            }
        };
        self.with_overrides(base)
    }
}

/// The name as it was given; of a path the file's or folder's name without `.gguf`, and the path.
fn default_names(model: Option<&Path>) -> Vec<String> {
    if let Some(model) = model.filter(|model| hub::name(model).is_some()) {
        return vec![model.display().to_string()];
    }
    let name = open::display_name(model);
    let mut names = vec![name.strip_suffix(".gguf").unwrap_or(&name).to_owned()];
    names.extend(model.map(|path| path.display().to_string()).filter(|path| *path != names[0]));
    names
}

/// Pages of keys and values, and their size.
struct Blocks {
    count: u32,
    bytes: u64,
}

/// As many as all sequences can use, within the memory for them.
fn blocks(config: &Config, kv: KvType, engine: &EngineConfig, bytes: Option<u64>) -> Result<Blocks, Error> {
    let for_one = engine.max_model_len.div_ceil(BLOCK_SIZE);
    let wanted = u64::from(for_one) * u64::from(engine.max_num_seqs);
    let token_bytes = kv.token_bytes(config) as u64;
    let block_bytes = (token_bytes * u64::from(BLOCK_SIZE)).max(1);
    let affordable = match bytes {
        Some(bytes) => bytes / block_bytes,
        None => (KV_BYTES_DEFAULT / block_bytes).max(for_one.into()),
    };
    match u32::try_from(wanted.min(affordable)) {
        Ok(0) => Err(Error::refused(format!(
            "the memory for keys and values holds less than one page of {BLOCK_SIZE} tokens, which takes {block_bytes} \
             bytes; raise --kv-cache-memory-bytes or --gpu-memory-utilization"
        ))),
        Ok(count) => Ok(Blocks { count, bytes: u64::from(count) * block_bytes }),
        Err(_) => {
            Err(Error::refused("more pages of keys and values than can be counted; lower --max-num-seqs"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_served_under_its_file_name_and_its_path() {
        assert_eq!(default_names(Some(Path::new("/m/LFM2-1.2B.gguf"))), ["LFM2-1.2B", "/m/LFM2-1.2B.gguf"]);
        assert_eq!(default_names(Some(Path::new("model"))), ["model"]);
        assert_eq!(default_names(Some(Path::new("lfm2.5:1.2b"))), ["lfm2.5:1.2b"]);
        assert_eq!(default_names(Some(Path::new("a/b:Q4_0"))), ["a/b:Q4_0"]);
        assert_eq!(default_names(None), [open::DEMO_NAME]);
    }
}
