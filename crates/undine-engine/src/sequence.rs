//! One request: its tokens, and what it says about them.

use std::ops::Range;

use undine_core::{
    Batch, Constraint, FinishReason, GenerateRequest, Origin, OutputKind, RequestId, RowOutput,
    SamplingParams, StopRules, Thought, TokenId,
};

use crate::images::SequenceImages;
use crate::tenants::TenantIndex;

/// Scores of the prompt's tokens, collected over its chunks.
pub(crate) struct PromptScores {
    /// Alternatives per token.
    pub top: u32,
    /// Scores asked for so far: those of tokens `1..=asked`.
    pub asked: u32,
    /// Scores received.
    pub rows: Vec<RowOutput>,
}

/// A request and the tokens known of it. This is all that survives a preemption.
pub(crate) struct Sequence {
    /// Its request. Ids ascend in order of arrival.
    pub id: RequestId,
    /// Whose it is.
    pub origin: Origin,
    /// Its tenant.
    pub tenant: TenantIndex,
    /// Its place in the order in which sequences began to run, which it keeps when it is preempted.
    pub begun: Option<u64>,
    /// The prompt, then the answer so far.
    pub tokens: Vec<TokenId>,
    /// What stands in the place of some of them.
    pub images: SequenceImages,
    /// Tokens of the prompt.
    pub prompt_len: u32,
    /// How to sample.
    pub sampling: SamplingParams,
    logit_bias: Vec<(TokenId, f32)>,
    /// When to stop.
    pub stop: StopRules,
    /// Present until the scores have been reported.
    pub scores: Option<PromptScores>,
    /// What restricts the answer; it has accepted all tokens of it.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Most tokens it may have.
    pub context: u32,
    /// Prompt tokens that were in the prefix cache when it started for the first time.
    pub cached: Option<u32>,
}

impl Sequence {
    /// A checked request that has not run yet, whose images have become `images`.
    pub fn new(
        id: RequestId,
        tenant: TenantIndex,
        request: GenerateRequest,
        images: SequenceImages,
        constraint: Option<Box<dyn Constraint>>,
        context: u32,
    ) -> Self {
        let GenerateRequest { prompt, images: _, sampling, logit_bias, stop, prompt_logprobs, origin } =
            request;
        let scores = prompt_logprobs.map(|top| PromptScores { top, asked: 0, rows: Vec::new() });
        let prompt_len = prompt.len() as u32;
        Self {
            id,
            origin,
            tenant,
            begun: None,
            tokens: prompt,
            images,
            prompt_len,
            sampling,
            logit_bias,
            stop,
            scores,
            constraint,
            context,
            cached: None,
        }
    }

    /// Its place in its tenant's queue: those that have run come first.
    pub fn order(&self) -> (bool, i64, u64) {
        match self.begun {
            Some(begun) => (false, 0, begun),
            None => (true, self.origin.priority, self.id.0),
        }
    }

    /// What the prefix tree knows its tokens by: a position of an image is known by the image.
    pub fn keys(&self) -> &[TokenId] {
        if self.images.keys.is_empty() { &self.tokens } else { &self.images.keys }
    }

    /// Takes the next token of the answer.
    pub fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
        if !self.images.keys.is_empty() {
            self.images.keys.push(token);
        }
    }

    /// Positions to reserve before it starts: every known token and, if it is to answer, the next one, so
    /// that it does not run out of blocks right after its prompt. Never more than `context`.
    pub fn positions_to_start(&self) -> u32 {
        self.tokens.len() as u32 + self.stop.max_tokens.min(1)
    }

    /// Tokens of the answer.
    pub fn generated(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_len
    }

    /// Rows of positions `start..end` whose logits score a prompt token. The last prompt row scores nothing.
    pub fn score_positions(&self, start: u32, end: u32) -> Range<u32> {
        match &self.scores {
            Some(scores) => {
                let first = start.max(scores.asked);
                first..end.min(self.prompt_len - 1).max(first)
            }
            None => 0..0,
        }
    }

    /// Whether `token`, the last one known, is within a thought. The tokens around it are not.
    fn is_thought(&self, token: TokenId) -> bool {
        let Some(Thought { start, end, begun }) = self.stop.thought else { return false };
        let is_mark = |&&other: &&TokenId| other == start || other == end;
        let before = &self.tokens[self.prompt_len as usize..self.tokens.len() - 1];
        !is_mark(&&token) && before.iter().rev().find(is_mark).map_or(begun, |&mark| mark == start)
    }

    /// Whether `token`, the last one known, ends the answer.
    pub fn finish_reason(&self, token: TokenId) -> Option<FinishReason> {
        if self.stop.eos_tokens.contains(&token) {
            Some(FinishReason::Eos)
        } else if self.stop.stop_tokens.contains(&token) && !self.is_thought(token) {
            Some(FinishReason::StopToken(token))
        } else if self.generated() >= self.stop.max_tokens {
            Some(FinishReason::MaxTokens)
        } else if self.tokens.len() as u32 >= self.context {
            Some(FinishReason::ContextFull)
        } else {
            None
        }
    }

    /// How to sample token number `output_index` of the answer. Its history must be known if a penalty needs
    /// it.
    pub fn sample_row(&mut self, output_index: u32, batch: &mut Batch) -> OutputKind {
        let history = batch.history.len() as u32;
        if self.sampling.needs_history() {
            assert_eq!(output_index, self.generated(), "a penalty needs the whole history");
            batch.history.extend_from_slice(&self.tokens);
        }
        let biases = batch.biases.len() as u32;
        batch.biases.extend_from_slice(&self.logit_bias);
        if output_index < self.stop.min_tokens {
            let stops = self.stop.eos_tokens.iter().chain(&self.stop.stop_tokens);
            batch.biases.extend(stops.map(|&token| (token, f32::NEG_INFINITY)));
        }
        OutputKind::Sample {
            params: self.sampling,
            output_index,
            history: history..batch.history.len() as u32,
            history_prompt: if self.sampling.needs_history() { self.prompt_len } else { 0 },
            biases: biases..batch.biases.len() as u32,
            mask: self.constraint.as_mut().and_then(|constraint| constraint.allowed()),
        }
    }
}
