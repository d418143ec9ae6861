//! One step's work as plain data: ragged rows of tokens, block tables, state slots, rows to sample.
//!
//! The scheduler writes a [`Batch`], the backend reads it; both check it ([`Batch::check`]).

use std::ops::Range;

use crate::{Capacity, SamplingParams, TokenId, TokenMask};

/// A page of the K/V cache: `Capacity::block_size` consecutive positions of one sequence, all attention layers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// A place for the convolution states (all layers) and the last sampled token of one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// In [`Batch::tokens`]: the token most recently sampled for the sequence's slot, which the host may not know yet.
pub const TOKEN_FROM_SLOT: TokenId = TokenId::MAX;

/// The rows one sequence has in this step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchSequence {
    /// Its rows; rows of all sequences are consecutive and in order.
    pub rows: Range<u32>,
    /// Position of the first of these rows; position 0 starts from an empty convolution state.
    pub start: u32,
    /// Where its state lives.
    pub slot: Slot,
    /// Its part of [`Batch::block_tables`]; covers positions `0..start + rows.len()`.
    pub blocks: Range<u32>,
}

/// What is wanted of a row's logits.
#[derive(Clone, PartialEq, Debug)]
pub enum OutputKind {
    /// Sample the next token.
    Sample {
        /// How.
        params: SamplingParams,
        /// Index of the token to be sampled within the answer: with the seed it fixes the random number.
        output_index: u32,
        /// The sequence's tokens so far in [`Batch::history`], empty if no penalty needs them.
        history: Range<u32>,
        /// Tokens of `history` that are the prompt's.
        history_prompt: u32,
        /// Part of [`Batch::biases`] to add to the logits.
        biases: Range<u32>,
        /// Tokens that are allowed; all are without one. The backend waits for it when it samples.
        mask: Option<TokenMask>,
    },
    /// Log-probability and rank of a known next token (prompt log-probabilities), and the best `top`.
    Score {
        /// The token that really follows.
        target: TokenId,
        /// How many alternatives to return.
        top: u32,
    },
    /// The logits themselves.
    Logits,
}

/// A row whose logits are needed.
#[derive(Clone, PartialEq, Debug)]
pub struct OutputRow {
    /// Index into [`Batch::tokens`]; rows ascend, and a row may be asked for more than once.
    pub row: u32,
    /// What to do with its logits.
    pub kind: OutputKind,
}

/// One step. Vectors are reused from step to step.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Batch {
    /// One token per row.
    pub tokens: Vec<TokenId>,
    /// The sequences whose rows these are.
    pub sequences: Vec<BatchSequence>,
    /// Block tables of all sequences, one after the other.
    pub block_tables: Vec<BlockId>,
    /// Rows to put through the head.
    pub outputs: Vec<OutputRow>,
    /// Token histories for penalties.
    pub history: Vec<TokenId>,
    /// Additions to single logits; negative infinity forbids a token.
    pub biases: Vec<(TokenId, f32)>,
}

impl Batch {
    /// Empties every vector and keeps the memory.
    pub fn clear(&mut self) {
        let Self { tokens, sequences, block_tables, outputs, history, biases } = self;
        tokens.clear();
        sequences.clear();
        block_tables.clear();
        outputs.clear();
        history.clear();
        biases.clear();
    }

    /// Rows in this step.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Calls `store` with each sampled token and the slot of its sequence; `outputs` are this batch's.
    pub fn for_each_sampled(&self, outputs: &[RowOutput], mut store: impl FnMut(Slot, TokenId)) {
        for (output, row) in outputs.iter().zip(&self.outputs) {
            if matches!(row.kind, OutputKind::Sample { .. }) {
                let s = self.sequences.partition_point(|sequence| sequence.rows.end <= row.row);
                store(self.sequences[s].slot, output.chosen.token);
            }
        }
    }

    /// Panics if the batch breaks an invariant: a bug of the scheduler, never of a request.
    pub fn check(&self, capacity: &Capacity) {
        let mut row = 0;
        for sequence in &self.sequences {
            assert_eq!(sequence.rows.start, row, "rows of sequences must be consecutive");
            assert!(sequence.rows.end > row, "a sequence in a batch has at least one row");
            row = sequence.rows.end;
            assert!(sequence.slot.0 < capacity.slots, "{:?} of {} slots", sequence.slot, capacity.slots);
            let table = &self.block_tables[sequence.blocks.start as usize..sequence.blocks.end as usize];
            let positions = sequence.start as usize + sequence.rows.len();
            assert!(
                table.len() * capacity.block_size as usize >= positions,
                "block table does not cover {positions} positions"
            );
            for block in table {
                assert!(block.0 < capacity.blocks, "{block:?} of {} blocks", capacity.blocks);
            }
        }
        assert_eq!(row as usize, self.rows(), "every row belongs to a sequence");
        assert!(self.rows() <= capacity.rows as usize, "{} rows of at most {}", self.rows(), capacity.rows);
        assert!(
            self.outputs.len() <= capacity.outputs as usize,
            "{} outputs of at most {}",
            self.outputs.len(),
            capacity.outputs
        );
        assert!(self.outputs.iter().all(|output| (output.row as usize) < self.rows()));
        assert!(self.outputs.is_sorted_by_key(|output| output.row));
    }
}

/// A token with its log-probability under the model (natural logarithm, before penalties and temperature).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenScore {
    /// The token.
    pub token: TokenId,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What came out of one [`OutputRow`].
#[derive(Clone, PartialEq, Debug)]
pub struct RowOutput {
    /// The sampled token, or the target of a score; for `Logits` the best token.
    pub chosen: TokenScore,
    /// How many tokens are more likely than `chosen`, plus one.
    pub rank: u32,
    /// The most likely tokens, best first, as many as were asked for.
    pub top: Vec<TokenScore>,
    /// All logits, for [`OutputKind::Logits`] only.
    pub logits: Vec<f32>,
}

/// What a step returns, in the order of [`Batch::outputs`].
#[derive(Clone, Default, PartialEq, Debug)]
pub struct StepOutput {
    /// One entry per output row.
    pub rows: Vec<RowOutput>,
}
