//! The CPU executor and the engine over a checkpoint, and the loop that generates one answer at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use undine_core::{Config, FinishReason, GenerateRequest, TokenId, VisionExecutor};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, CpuVision, Isa, KvType};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_model::{Model, VisionModel};
use undine_weights::Checkpoint;

use crate::args::{ComputeDtype, ExecutorArgs, HugePagesChoice, KvCacheDtype};
use crate::error::Error;
use crate::memory::{self, HugePages};
use crate::shown::say;

/// Context a session has unless asked for another, if the model allows so much. Memory is taken as it fills.
const CONTEXT_DEFAULT_MAX: u32 = 131_072;
/// Rows in one step. Ctrl-C is seen between steps, so a step must not take too long.
const ROWS: u32 = 256;
/// Convolution states kept for a sequence that runs, and besides: each turn of a conversation keeps two or
/// three. One takes the memory of some 13 tokens of keys and values.
const SNAPSHOTS_PER_SLOT: u32 = 4;
const SNAPSHOTS_BESIDE: u32 = 12;
/// Weights of fewer bytes are read fast as they are.
const HUGE_PAGES_FROM: u64 = 64 << 20;
/// Bytes of memory that copies of weights leave available.
const LEFT_TO_OTHERS: u64 = 1 << 30;

/// How many threads to compute with.
pub fn threads(args: &ExecutorArgs) -> usize {
    match args.threads {
        Some(threads) => threads.into(),
        None => {
            std::thread::available_parallelism().map_or(1, usize::from).min(undine_cpu::pool::THREADS_MAX)
        }
    }
}

/// The type of keys and values: as asked for, else as precise as the weights deserve.
pub fn kv_type(args: &ExecutorArgs, checkpoint: &Checkpoint) -> KvType {
    let is_float = || checkpoint.tensors().all(|tensor| tensor.dtype.is_float());
    kv_type_for(args, is_float)
}

/// The same for weights that are all float, or not.
pub fn kv_type_for(args: &ExecutorArgs, is_float: impl FnOnce() -> bool) -> KvType {
    if matches!(args.dtype, ComputeDtype::Bfloat16 | ComputeDtype::Float16) {
        say!("note: --dtype: weights are computed with in the types of the file");
    }
    match (args.kv_cache_dtype, args.dtype) {
        (KvCacheDtype::Float32, _) | (KvCacheDtype::Auto, ComputeDtype::Float32) => KvType::F32,
        (KvCacheDtype::Float16, _) => KvType::F16,
        (KvCacheDtype::Q8_0, _) => KvType::Q8_0,
        (KvCacheDtype::Auto, _) if is_float() => KvType::F32,
        (KvCacheDtype::Auto, _) => KvType::F16,
    }
}

/// Convolution states to keep for prompts that begin like earlier ones.
pub fn snapshots(slots: u32) -> u32 {
    slots.saturating_mul(SNAPSHOTS_PER_SLOT).saturating_add(SNAPSHOTS_BESIDE)
}

/// Whether to copy the weights to huge pages, beside the keys and values of `sequences` sequences of
/// `context` tokens.
pub fn huge_pages(
    choice: HugePagesChoice,
    checkpoint: &Checkpoint,
    kv: KvType,
    [sequences, context]: [u32; 2],
) -> bool {
    // They are in memory of this process already, in huge pages where the system gives them.
    if checkpoint.is_packed() {
        return false;
    }
    let weights = checkpoint.file_bytes();
    let tokens = u64::from(sequences) * u64::from(context);
    let kv_bytes = tokens.saturating_mul(kv.token_bytes(checkpoint.config()) as u64);
    match choice {
        HugePagesChoice::On => true,
        HugePagesChoice::Off => false,
        HugePagesChoice::Auto => {
            let wanted = weights.saturating_add(kv_bytes).saturating_add(LEFT_TO_OTHERS);
            weights >= HUGE_PAGES_FROM
                && matches!(memory::huge_pages(), Some(HugePages::Always | HugePages::Madvise))
                && memory::available_bytes().is_some_and(|available| wanted <= available)
        }
    }
}

/// What encodes images for a model with a vision tower. It takes little until the first image comes.
pub fn vision(checkpoint: Arc<Checkpoint>, threads: usize) -> Result<Option<Box<dyn VisionExecutor>>, Error> {
    let Some(model) = VisionModel::bind(checkpoint) else { return Ok(None) };
    Ok(Some(Box::new(CpuVision::new(Arc::new(model), threads, Isa::detect())?)))
}

/// The context to run with: as asked for, else the model's up to [`CONTEXT_DEFAULT_MAX`].
pub fn context(config: &Config, asked: Option<u32>) -> Result<u32, Error> {
    let model = u32::try_from(config.context_max).unwrap_or(u32::MAX);
    match asked {
        Some(asked) if asked > model => Err(Error::refused(format!(
            "--max-model-len {asked} is more than the model's context of {model} tokens"
        ))),
        Some(asked) => Ok(asked),
        None => Ok(model.min(CONTEXT_DEFAULT_MAX)),
    }
}

/// One sequence at a time.
pub struct Session {
    engine: Engine,
    events: Vec<(undine_core::RequestId, Event)>,
}

/// Whether the reader of an answer wants more of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appetite {
    /// Yes.
    More,
    /// A stop string has appeared.
    Enough,
}

/// Why an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// As the engine says.
    Finished(FinishReason),
    /// A stop string.
    StopString,
    /// Ctrl-C.
    Interrupted,
}

impl End {
    /// OpenAI's word for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StopString | Self::Finished(FinishReason::Eos | FinishReason::StopToken(_)) => "stop",
            Self::Finished(FinishReason::MaxTokens | FinishReason::ContextFull) => "length",
            Self::Interrupted | Self::Finished(FinishReason::Cancelled) => "interrupted",
            Self::Finished(FinishReason::ConstraintFailed) => "error",
        }
    }
}

/// The numbers of one answer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Generated {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those that were still known from earlier answers and not computed again.
    pub cached_tokens: usize,
    /// Tokens of the answer, the one that ended it included.
    pub completion_tokens: usize,
    /// Why it ended.
    pub end: End,
    /// From the request to the first token; to the end if there was none.
    pub time_to_first_token: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
}

impl Generated {
    /// Tokens per second of the prompt, as far as it was computed.
    pub fn prefill_speed(&self) -> f64 {
        speed(self.prompt_tokens - self.cached_tokens, self.time_to_first_token)
    }

    /// Tokens per second after the first token; 0 if there were no more.
    pub fn decode_speed(&self) -> f64 {
        speed(self.completion_tokens.saturating_sub(1), self.decode_time)
    }
}

/// Tokens per second, 0 if no time has passed.
pub fn speed(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

impl Session {
    /// Reserves memory for one sequence of at most `context` tokens.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        context: u32,
        args: &ExecutorArgs,
        image_cache_bytes: u64,
    ) -> Result<Self, Error> {
        let threads = threads(args);
        let kv = kv_type(args, &checkpoint);
        let options = CpuOptions {
            threads,
            blocks: context.div_ceil(BLOCK_SIZE),
            slots: 1,
            snapshots: snapshots(1),
            rows: ROWS,
            outputs: 1,
            kv,
            huge_pages: huge_pages(args.huge_pages, &checkpoint, kv, [1, context]),
            isa: Isa::detect(),
        };
        let vision = vision(Arc::clone(&checkpoint), threads)?;
        let executor = CpuExecutor::new(Arc::new(Model::bind(checkpoint)), options)?;
        let config = EngineConfig {
            max_num_seqs: 1,
            max_num_batched_tokens: ROWS,
            max_model_len: context,
            max_waiting: 1,
            prefill_chunk: ROWS,
            prefix_caching: PrefixCaching::On,
            image_cache_bytes,
        };
        let mut engine = Engine::new(Box::new(executor), config)?;
        if let Some(vision) = vision {
            engine = engine.with_vision(vision)?;
        }
        Ok(Self { engine, events: Vec::new() })
    }

    /// Most tokens of prompt and answer.
    pub fn context(&self) -> u32 {
        self.engine.max_context()
    }

    /// Generates until the engine, the reader or Ctrl-C ends it.
    pub fn generate(
        &mut self,
        request: GenerateRequest,
        interrupted: &AtomicBool,
        mut on_token: impl FnMut(TokenId) -> Result<Appetite, Error>,
    ) -> Result<Generated, Error> {
        let prompt_tokens = request.prompt.len();
        let started = Instant::now();
        let id = self.engine.add(request)?;
        let mut first: Option<Instant> = None;
        let mut last = started;
        let (mut cached_tokens, mut completion_tokens) = (0, 0);
        let end = 'answer: loop {
            if interrupted.load(Ordering::Relaxed) {
                break End::Interrupted;
            }
            self.events.clear();
            self.engine.step(&mut self.events)?;
            for (_, event) in self.events.drain(..) {
                match event {
                    Event::Token(output) => {
                        last = Instant::now();
                        first.get_or_insert(last);
                        completion_tokens += 1;
                        match on_token(output.chosen.token) {
                            Ok(Appetite::More) => {}
                            Ok(Appetite::Enough) => break 'answer End::StopString,
                            Err(error) => {
                                self.engine.cancel(id);
                                return Err(error);
                            }
                        }
                    }
                    Event::Finished(reason) => break 'answer End::Finished(reason),
                    Event::Started { cached_tokens: tokens } => cached_tokens = tokens as usize,
                    Event::PromptScores(_) => {}
                }
            }
        };
        self.engine.cancel(id);
        let first = first.unwrap_or_else(Instant::now);
        Ok(Generated {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            end,
            time_to_first_token: first - started,
            decode_time: last.saturating_duration_since(first),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_do_not_divide_by_zero() {
        let numbers = Generated {
            prompt_tokens: 14,
            cached_tokens: 4,
            completion_tokens: 1,
            end: End::Finished(FinishReason::Eos),
            time_to_first_token: Duration::from_millis(500),
            decode_time: Duration::ZERO,
        };
        assert_eq!(numbers.prefill_speed(), 20.0);
        assert_eq!(numbers.decode_speed(), 0.0);
    }
}
