//! From a checked request to what the engine takes: token ids, limits, seeds. Runs on a blocking thread,
//! because rendering and tokenizing a long prompt takes milliseconds.

use std::hash::{BuildHasher, Hasher, RandomState};

use undine_core::{GenerateRequest, Origin, PromptImage, StopRules, Thought, TokenId};
use undine_text::grammar::CompiledRules;
use undine_text::{Bos, Tokenizer};

use crate::engine_thread::Sequence;
use crate::generation::StartsIn;
use crate::options::SchedulingPolicy;
use crate::serve::ServerModel;
use crate::state::Ready;
use crate::turns::Place;
use crate::wire::common::Common;
use crate::wire::completion::PromptInput;
use crate::wire::error::{ApiError, ApiResult};

/// Odd, so that the seeds of all choices differ; another constant than the sampler's own (L'Ecuyer 1999).
const SEED_STEP: u64 = 0xd134_2543_de82_ef95;

/// Bytes of text without a place to cut. Text is encoded in slices, and a slice takes some 250 times its own
/// memory.
const RUN_BYTES_MAX: usize = 256 << 10;

/// A prompt as the engine takes it.
pub(crate) struct Prompt {
    /// At least one, each in the vocabulary.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) images: Vec<PromptImage>,
    /// How many of the tokens stand for them.
    pub(crate) image_tokens: usize,
    pub(crate) starts_in: StartsIn,
    /// Where the answer begins, if it may come back in a later turn.
    pub(crate) place: Option<Place>,
    /// Tokens that the answer may not have.
    pub(crate) forbidden: Vec<TokenId>,
}

/// What the sequences of one prompt have in common beside it.
pub(crate) struct Wanted<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) common: &'a Common,
    pub(crate) max_tokens: u32,
    pub(crate) logprobs: Option<u32>,
    pub(crate) prompt_logprobs: Option<u32>,
    pub(crate) rules: Option<&'a CompiledRules>,
}

/// Encodes one prompt of `/v1/completions`, found at `path`.
pub(crate) fn from_input(
    ready: &Ready,
    path: &str,
    input: &PromptInput,
    bos: Option<bool>,
) -> ApiResult<Prompt> {
    let tokens = match input {
        PromptInput::Text(text) => {
            let tokenizer = tokenizer(ready, path)?;
            check_bytes(ready, path, text)?;
            check_runs(tokenizer, path, text)?;
            encode(tokenizer, text, bos)
        }
        PromptInput::Tokens(tokens) => tokens.clone(),
    };
    check_tokens(path, &tokens, ready.vocab)?;
    Ok(Prompt {
        tokens,
        images: Vec::new(),
        image_tokens: 0,
        starts_in: StartsIn::Unsplit,
        place: None,
        forbidden: Vec::new(),
    })
}

/// The tokenizer, or advice for a model without one.
pub(crate) fn tokenizer<'a>(ready: &'a Ready, path: &str) -> ApiResult<&'a Tokenizer> {
    let missing = || ApiError::field(path, "this model has no tokenizer; send token ids to /v1/completions");
    ready.model.tokenizer.as_deref().ok_or_else(missing)
}

/// Encodes a text, however long.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str, add_special_tokens: Option<bool>) -> Vec<TokenId> {
    tokenizer.encode(text, bos(tokenizer, add_special_tokens))
}

/// Whether BOS comes first.
pub(crate) fn bos(tokenizer: &Tokenizer, add_special_tokens: Option<bool>) -> Bos {
    match add_special_tokens {
        Some(false) => Bos::Omit,
        Some(true) => Bos::Add,
        None => tokenizer.default_bos(),
    }
}

/// Refuses a text without a chance to fit: to tokenize megabytes would keep a core busy for seconds.
pub(crate) fn check_bytes(ready: &Ready, path: &str, text: &str) -> ApiResult<()> {
    if text.len() <= ready.prompt_bytes_max {
        return Ok(());
    }
    let asked = format!(
        "the prompt has {} bytes, and that many tokens hold at most {}; shorten it",
        text.len(),
        ready.prompt_bytes_max
    );
    Err(ApiError::context_length(path, ready.max_model_len, &asked))
}

/// Refuses a text that would have to be encoded in one large piece.
pub(crate) fn check_runs(tokenizer: &Tokenizer, path: &str, text: &str) -> ApiResult<()> {
    match tokenizer.longest_slice(text) {
        Some(longest) if longest > RUN_BYTES_MAX => {
            let message = format!(
                "the text has {longest} bytes in a row of one kind, without words, numbers or lines; expected at most \
                 {RUN_BYTES_MAX}; put spaces or line breaks into it"
            );
            Err(ApiError::field(path, message))
        }
        _ => Ok(()),
    }
}

/// Most bytes that so many tokens can stand for: each byte of a text is in one of its tokens.
pub(crate) fn text_bytes_max(model: &ServerModel, tokens: u32) -> usize {
    let Some(tokenizer) = &model.tokenizer else { return 0 };
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let longest = ids.map(|id| tokenizer.token_bytes(id).len()).max().unwrap_or_default();
    longest.saturating_mul(tokens as usize)
}

pub(crate) fn check_tokens(path: &str, tokens: &[TokenId], vocab: u32) -> ApiResult<()> {
    if tokens.is_empty() {
        return Err(ApiError::field(path, "expected at least one token, found an empty prompt"));
    }
    match tokens.iter().position(|&token| token >= vocab) {
        Some(i) => {
            let message = format!("expected token ids below {vocab}, found {} at place {i}", tokens[i]);
            Err(ApiError::field(path, message))
        }
        None => Ok(()),
    }
}

/// Refuses a request with more sequences than could ever be queued together.
pub(crate) fn check_sequences(ready: &Ready, prompts: usize, choices: u32) -> ApiResult<()> {
    let sequences = prompts * choices as usize;
    if sequences <= ready.sequences_max {
        return Ok(());
    }
    let param = if choices > 1 { "n" } else { "prompt" };
    let message = format!(
        "expected at most {} sequences (prompts times choices), found {sequences}; send several requests",
        ready.sequences_max
    );
    Err(ApiError::field(param, message))
}

/// How long the client wants an answer to be, and the field that says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) tokens: u32,
    pub(crate) path: &'a str,
}

/// How many tokens an answer may have: what was asked for, if it fits, else what is left of the context.
pub(crate) fn room_for_answer(
    ready: &Ready,
    path: &str,
    prompt: &Prompt,
    asked: Option<Asked<'_>>,
) -> ApiResult<u32> {
    let context = ready.max_model_len;
    let images = match prompt.image_tokens {
        0 => String::new(),
        count => format!(", {count} of them for images,"),
    };
    let prompt = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
    let left = context.saturating_sub(prompt);
    let asked_sum = u64::from(prompt) + u64::from(asked.map_or(1, |asked| asked.tokens));
    if asked_sum <= u64::from(context) {
        return Ok(asked.map_or(left, |asked| asked.tokens));
    }
    match asked {
        Some(Asked { tokens, path: field }) if left > 0 && tokens > 0 => {
            let message = format!(
                "you requested {asked_sum} tokens: the prompt has {prompt}{images} and {field} is {tokens}; \
                 ask for at most {left} or shorten the prompt"
            );
            // No prompt is short enough for some answers.
            let blamed = if tokens > context { field } else { path };
            Err(ApiError::context_length(blamed, context, &message))
        }
        _ => {
            let message = format!(
                "the prompt has {prompt} tokens{images}, which leaves no room for an answer; shorten it"
            );
            Err(ApiError::context_length(path, context, &message))
        }
    }
}

/// The sequences of all choices of a prompt, each with a seed of its own.
pub(crate) fn sequences(ready: &Ready, prompt: &Prompt, wanted: &Wanted<'_>) -> ApiResult<Vec<Sequence>> {
    let Wanted { origin, common, max_tokens, logprobs, prompt_logprobs, rules } = *wanted;
    check_priority(ready, origin.priority)?;
    ready.check_logprobs("logprobs", logprobs)?;
    ready.check_logprobs("prompt_logprobs", prompt_logprobs)?;
    let think = if prompt.starts_in == StartsIn::Unsplit { None } else { ready.think() };
    let begun = prompt.starts_in == StartsIn::Reasoning;
    let thought = think.map(|(start, end)| Thought { start, end, begun });
    let stop = stop_rules(ready, common, max_tokens, thought)?;
    if let Some((token, _)) = common.logit_bias.iter().find(|(token, _)| *token >= ready.vocab) {
        let message = format!("expected token ids below {}, found {token}", ready.vocab);
        return Err(ApiError::field("logit_bias", message));
    }
    let mut logit_bias = common.logit_bias.clone();
    logit_bias.extend(prompt.forbidden.iter().map(|&token| (token, f32::NEG_INFINITY)));
    let seed = common.sampling.seed.unwrap_or_else(|| ready.next_seed());
    let request = |choice: u32| GenerateRequest {
        prompt: prompt.tokens.clone(),
        sampling: common.sampling.resolve(
            &ready.model.sampling_defaults,
            seed.wrapping_add(u64::from(choice).wrapping_mul(SEED_STEP)),
            logprobs,
        ),
        logit_bias: logit_bias.clone(),
        stop: stop.clone(),
        prompt_logprobs,
        images: prompt.images.clone(),
        origin: origin.clone(),
    };
    let constraint = || rules.map(CompiledRules::constraint);
    let sequence = |choice| Sequence { request: request(choice), constraint: constraint() };
    Ok((0..common.choices).map(sequence).collect())
}

fn check_priority(ready: &Ready, priority: i64) -> ApiResult<()> {
    if priority == 0 || ready.model.requests.scheduling == SchedulingPolicy::Priority {
        return Ok(());
    }
    let message = format!(
        "expected 0, found {priority}: this server runs requests in the order of their arrival; remove the field, or \
         start the server with --scheduling-policy priority"
    );
    Err(ApiError::field("priority", message))
}

fn stop_rules(
    ready: &Ready,
    common: &Common,
    max_tokens: u32,
    thought: Option<Thought>,
) -> ApiResult<StopRules> {
    let stop = &common.stop;
    if stop.min_tokens > max_tokens {
        let message = format!(
            "expected at most {most}, which is {max_tokens} here, found {}; raise {most}",
            stop.min_tokens,
            most = common.sent.max_tokens
        );
        return Err(ApiError::field(&common.sent.min_tokens, message));
    }
    if let Some(token) = stop.tokens.iter().find(|&&token| token >= ready.vocab) {
        let message = format!("expected token ids below {}, found {token}", ready.vocab);
        return Err(ApiError::field("stop_token_ids", message));
    }
    if !stop.strings.is_empty() && ready.model.tokenizer.is_none() {
        return Err(ApiError::field("stop", "this model has no tokenizer; use `stop_token_ids`"));
    }
    let eos = ready.model.eos.iter().copied().filter(|&token| !stop.ignore_eos && token < ready.vocab);
    Ok(StopRules {
        max_tokens,
        min_tokens: stop.min_tokens,
        stop_tokens: stop.tokens.clone(),
        eos_tokens: eos.collect(),
        thought,
    })
}

/// A number nobody can foresee: the standard library seeds its hash maps from the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
