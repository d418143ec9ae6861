//! One request on its way: its tokens, and, while it runs, its place on the device.

use std::ops::Range;

use undine_core::batch::TOKEN_FROM_SLOT;
use undine_core::{
    Batch, BatchSequence, BlockId, Constraint, FinishReason, GenerateRequest, OutputKind, OutputRow,
    RequestId,
};
use undine_core::{RowOutput, SamplingParams, Slot, StopRules, TokenId};

use crate::Event;

/// What a step still has room for.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    /// Rows.
    pub rows: u32,
    /// Rows through the head.
    pub outputs: u32,
    /// Rows of one sequence.
    pub chunk: u32,
}

/// One sequence's share of a submitted step: which of the step's outputs are its own.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Whose.
    pub id: RequestId,
    /// Prompt scores, which come first.
    pub scores: u32,
    /// Sampled tokens: 0 or 1.
    pub samples: u32,
    /// Tokens of the prompt, if these rows complete it for the first time.
    pub prompt_completed: u32,
}

/// Scores of the prompt's tokens, collected over its chunks.
struct PromptScores {
    /// Alternatives per token.
    top: u32,
    /// Scores asked for so far: those of tokens `1..=asked`.
    asked: u32,
    /// Scores received.
    rows: Vec<RowOutput>,
}

/// A request and the tokens known of it. This is all that survives a preemption.
pub(crate) struct Sequence {
    /// Whose it is. Ids ascend in order of arrival.
    pub id: RequestId,
    /// The prompt, then the answer so far.
    tokens: Vec<TokenId>,
    prompt_len: u32,
    sampling: SamplingParams,
    logit_bias: Vec<(TokenId, f32)>,
    stop: StopRules,
    /// Present until the scores have been reported.
    scores: Option<PromptScores>,
    /// What restricts the answer; it has accepted all tokens of it.
    constraint: Option<Box<dyn Constraint>>,
    /// Most tokens it may have.
    context: u32,
}

impl Sequence {
    /// A checked request that has not run yet.
    pub fn new(
        id: RequestId,
        request: GenerateRequest,
        constraint: Option<Box<dyn Constraint>>,
        context: u32,
    ) -> Self {
        let GenerateRequest { prompt, sampling, logit_bias, stop, prompt_logprobs } = request;
        let scores = prompt_logprobs.map(|top| PromptScores { top, asked: 0, rows: Vec::new() });
        let prompt_len = prompt.len() as u32;
        Self { id, tokens: prompt, prompt_len, sampling, logit_bias, stop, scores, constraint, context }
    }

    /// Positions to reserve before it starts: every known token and, if it is to answer, the next one, so that
    /// it does not run out of blocks right after its prompt. Never more than `context`.
    pub fn positions_to_start(&self) -> u32 {
        self.tokens.len() as u32 + self.stop.max_tokens.min(1)
    }

    /// Tokens of the answer.
    fn generated(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_len
    }

    /// Rows of positions `start..end` whose logits score a prompt token. The last prompt row scores nothing.
    fn score_positions(&self, start: u32, end: u32) -> Range<u32> {
        match &self.scores {
            Some(scores) => {
                let first = start.max(scores.asked);
                first..end.min(self.prompt_len - 1).max(first)
            }
            None => 0..0,
        }
    }

    /// Whether `token`, the last one known, ends the answer.
    fn finish_reason(&self, token: TokenId) -> Option<FinishReason> {
        if self.stop.eos_tokens.contains(&token) {
            Some(FinishReason::Eos)
        } else if self.stop.stop_tokens.contains(&token) {
            Some(FinishReason::StopToken(token))
        } else if self.generated() >= self.stop.max_tokens {
            Some(FinishReason::MaxTokens)
        } else if self.tokens.len() as u32 >= self.context {
            Some(FinishReason::ContextFull)
        } else {
            None
        }
    }

    /// How to sample token number `output_index` of the answer. Its history must be known if a penalty needs it.
    fn sample_row(&mut self, output_index: u32, batch: &mut Batch) -> OutputKind {
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

/// What a running sequence is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing: it may be scheduled.
    Active,
    /// To be preempted, once no step that uses its blocks is in flight.
    Evicting,
    /// Finished or cancelled; to be dropped once no step that uses its blocks is in flight.
    Ended,
}

/// A sequence with a slot and blocks.
pub(crate) struct Running {
    /// The request and its tokens.
    pub sequence: Sequence,
    /// Where its convolution state lives.
    pub slot: Slot,
    /// Its block table.
    pub blocks: Vec<BlockId>,
    /// Whether it may be scheduled.
    pub state: State,
    /// Submitted steps that use its blocks and are not collected yet.
    pub in_flight: u32,
    /// Positions computed, or submitted to be.
    computed: u32,
    /// Sampled tokens that are not collected yet; they follow `sequence.tokens`.
    pending: u32,
}

impl Running {
    /// Nothing computed yet.
    pub fn new(sequence: Sequence, slot: Slot, blocks: Vec<BlockId>) -> Self {
        Self { sequence, slot, blocks, state: State::Active, in_flight: 0, computed: 0, pending: 0 }
    }

    /// Known tokens, including sampled ones that only the device knows.
    fn known(&self) -> u32 {
        self.sequence.tokens.len() as u32 + self.pending
    }

    /// Positions computed, or submitted to be.
    pub fn computed(&self) -> u32 {
        self.computed
    }

    /// Rows it would run now if there were no budget.
    ///
    /// With a token in flight it runs ahead of the host, unless that token is the last one for certain, or the
    /// next one's penalties need it. A bias for `min_tokens` depends on the number of tokens alone and does not wait.
    pub fn gap(&self) -> u32 {
        let Sequence { sampling, stop, context, constraint, .. } = &self.sequence;
        let last_is_pending =
            self.known() >= *context || self.known() - self.sequence.prompt_len >= stop.max_tokens;
        let must_wait =
            self.pending > 0 && (last_is_pending || sampling.needs_history() || constraint.is_some());
        if self.state != State::Active || must_wait { 0 } else { self.known() - self.computed }
    }

    /// The part of its gap that fits the budget.
    pub fn rows_within(&self, budget: &Budget) -> u32 {
        let rows = self.gap().min(budget.rows).min(budget.chunk);
        let part = self.part(rows);
        let excess = (part.scores + part.samples).saturating_sub(budget.outputs);
        if excess == 0 {
            return rows;
        }
        // Rows that need no output may follow the last scored one; without its output they have to go as well.
        let end = self.computed + rows - part.samples;
        let scored_too_many = excess - part.samples;
        if scored_too_many == 0 {
            return end - self.computed;
        }
        self.sequence.score_positions(self.computed, end).end - scored_too_many - self.computed
    }

    /// The outputs of its next `rows` rows.
    fn part(&self, rows: u32) -> Part {
        let end = self.computed + rows;
        let answers = rows > 0 && end == self.known() && self.sequence.stop.max_tokens > 0;
        let scores = self.sequence.score_positions(self.computed, end).len() as u32;
        let prompt_len = self.sequence.prompt_len;
        let completes = self.computed < prompt_len && end >= prompt_len && self.sequence.generated() == 0;
        let prompt_completed = if completes { prompt_len } else { 0 };
        Part { id: self.sequence.id, scores, samples: u32::from(answers), prompt_completed }
    }

    /// Writes its next `rows` rows into the batch; they count as computed from now on.
    pub fn record(&mut self, rows: u32, block_size: u32, batch: &mut Batch) -> Part {
        let (start, end) = (self.computed, self.computed + rows);
        let part = self.part(rows);
        assert!(rows > 0 && end <= self.known(), "{rows} rows at {start} of {} tokens", self.known());
        let first_row = batch.tokens.len() as u32;
        let host_known = end.min(self.sequence.tokens.len() as u32);
        if start < host_known {
            batch.tokens.extend_from_slice(&self.sequence.tokens[start as usize..host_known as usize]);
        }
        if end > host_known {
            assert_eq!(rows, 1, "only the token sampled last can be read from the slot");
            batch.tokens.push(TOKEN_FROM_SLOT);
        }
        let first_block = batch.block_tables.len() as u32;
        batch.block_tables.extend_from_slice(&self.blocks[..end.div_ceil(block_size) as usize]);
        batch.sequences.push(BatchSequence {
            rows: first_row..first_row + rows,
            start,
            slot: self.slot,
            blocks: first_block..batch.block_tables.len() as u32,
        });
        let scored = self.sequence.score_positions(start, end);
        if let Some(scores) = &mut self.sequence.scores {
            for position in scored.clone() {
                let target = self.sequence.tokens[position as usize + 1];
                let kind = OutputKind::Score { target, top: scores.top };
                batch.outputs.push(OutputRow { row: first_row + position - start, kind });
            }
            scores.asked += scored.len() as u32;
        }
        if part.samples == 1 {
            let kind = self.sequence.sample_row(self.known() - self.sequence.prompt_len, batch);
            batch.outputs.push(OutputRow { row: first_row + rows - 1, kind });
        }
        self.computed = end;
        self.pending += part.samples;
        self.in_flight += 1;
        part
    }

    /// Takes its outputs of a collected step and reports what follows from them. After its end they are dropped.
    /// Returns how many tokens were reported.
    pub fn collect(
        &mut self,
        part: Part,
        outputs: &mut impl Iterator<Item = RowOutput>,
        events: &mut Vec<(RequestId, Event)>,
    ) -> u32 {
        self.in_flight -= 1;
        self.pending -= part.samples;
        let mut outputs = outputs.take((part.scores + part.samples) as usize);
        if self.state == State::Ended {
            outputs.for_each(drop);
            return 0;
        }
        let sequence = &mut self.sequence;
        if let Some(mut scores) = sequence.scores.take() {
            scores.rows.extend(outputs.by_ref().take(part.scores as usize));
            if scores.rows.len() as u32 == sequence.prompt_len - 1 {
                events.push((part.id, Event::PromptScores(scores.rows)));
            } else {
                sequence.scores = Some(scores);
            }
        }
        let reason = if let Some(output) = outputs.next() {
            let token = output.chosen.token;
            sequence.tokens.push(token);
            events.push((part.id, Event::Token(output)));
            let accepted =
                sequence.constraint.as_mut().is_none_or(|constraint| constraint.accept(token).is_ok());
            if accepted { sequence.finish_reason(token) } else { Some(FinishReason::ConstraintFailed) }
        } else {
            let prompt_is_all = sequence.stop.max_tokens == 0 && self.computed == sequence.prompt_len;
            (prompt_is_all && self.in_flight == 0).then_some(FinishReason::MaxTokens)
        };
        if let Some(reason) = reason {
            events.push((part.id, Event::Finished(reason)));
            self.state = State::Ended;
        }
        part.samples
    }
}
