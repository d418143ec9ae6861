//! One step's work as plain data: ragged rows of tokens, block tables, state slots, rows to sample.
//!
//! The scheduler writes a [`Batch`], the backend reads it; both check it ([`Batch::check`]).

use std::ops::Range;
use std::sync::Arc;

use crate::{Capacity, SamplingParams, TokenId, TokenMask};

/// A page of the K/V cache: `Capacity::block_size` consecutive positions of one sequence, all attention
/// layers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// A place for the convolution states (all layers) and the last sampled token of one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A place for a copy of the convolution states (all layers) of a sequence at some length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SnapshotId(pub u32);

/// In [`Batch::tokens`]: the token most recently sampled for the sequence's slot, which the host may not know
/// yet.
pub const TOKEN_FROM_SLOT: TokenId = TokenId::MAX;

/// Where a sequence's convolution states come from at the first of its rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateSource {
    /// Zeros: exact at position 0. Further on, each convolution layer is exact `taps - 1` rows after the one
    /// before it, and so all are after [`Capacity::replay`] rows. Rows before that are replayed over cached
    /// keys and values.
    Empty,
    /// What the slot holds: the rows before these were the same sequence's.
    Slot,
    /// A snapshot that an earlier step saved.
    Snapshot(SnapshotId),
}

impl StateSource {
    /// For a sequence computed from its beginning: empty at position 0, carried in the slot afterwards.
    pub fn carried(start: u32) -> Self {
        if start == 0 { Self::Empty } else { Self::Slot }
    }
}

/// The rows one sequence has in this step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchSequence {
    /// Its rows; rows of all sequences are consecutive and in order.
    pub rows: Range<u32>,
    /// Position of the first of these rows.
    pub start: u32,
    /// Where its state lives.
    pub slot: Slot,
    /// Where its state is taken from; the slot has it afterwards.
    pub state: StateSource,
    /// So many of these rows, from the first on, have their keys and values in the cache. They attend over
    /// those and must not write their own, which may be wrong (see [`StateSource::Empty`]) or another
    /// sequence's.
    pub cached_rows: u32,
    /// Its part of [`Batch::block_tables`]; covers positions `0..start + rows.len()`.
    pub blocks: Range<u32>,
}

/// A page to be copied, in all layers, before the rows of a step are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockCopy {
    /// The page.
    pub from: BlockId,
    /// Its copy, which nobody has used so far.
    pub to: BlockId,
}

/// A slot's state, saved before the rows of a step are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSave {
    /// Whose sequence has ended; another one may start in it in the same step.
    pub slot: Slot,
    /// Where to.
    pub snapshot: SnapshotId,
}

/// The state of a row's sequence after this row, saved on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowSave {
    /// Index into [`Batch::tokens`].
    pub row: u32,
    /// Where to; may be read from the next step on.
    pub snapshot: SnapshotId,
}

/// Rows of a step that begin with rows of an encoded image in place of their tokens' embeddings.
#[derive(Clone, PartialEq, Debug)]
pub struct ImageRows {
    /// Indices into [`Batch::tokens`], whose tokens are not looked at.
    pub rows: Range<u32>,
    /// The rows of a tile, `tokens x hidden`, as [`crate::VisionExecutor::encode`] gave them. A clone shares
    /// them.
    pub encoded: Arc<[f32]>,
    /// Which of them stands in the first of `rows`.
    pub first: u32,
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
///
/// Steps run in the order of submission. In a step `slot_saves` come first, then `block_copies`, then the
/// rows. What a step writes to the cache or to a snapshot is only read by others in later steps.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Batch {
    /// One token per row.
    pub tokens: Vec<TokenId>,
    /// Rows that are not tokens; ascending and apart.
    pub image_rows: Vec<ImageRows>,
    /// The sequences whose rows these are.
    pub sequences: Vec<BatchSequence>,
    /// Block tables of all sequences, one after the other.
    pub block_tables: Vec<BlockId>,
    /// States to keep before anything else.
    pub slot_saves: Vec<SlotSave>,
    /// Pages to copy before the rows.
    pub block_copies: Vec<BlockCopy>,
    /// States to keep on the way; rows ascend.
    pub row_saves: Vec<RowSave>,
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
        let Self {
            tokens,
            image_rows,
            sequences,
            block_tables,
            slot_saves,
            block_copies,
            row_saves,
            outputs,
            history,
            biases,
        } = self;
        tokens.clear();
        image_rows.clear();
        sequences.clear();
        block_tables.clear();
        slot_saves.clear();
        block_copies.clear();
        row_saves.clear();
        outputs.clear();
        history.clear();
        biases.clear();
    }

    /// Makes this a copy of another batch in the memory it has; `clone_from` of a derived `Clone` would take
    /// new memory.
    pub fn copy_from(&mut self, from: &Self) {
        let Self {
            tokens,
            image_rows,
            sequences,
            block_tables,
            slot_saves,
            block_copies,
            row_saves,
            outputs,
            history,
            biases,
        } = from;
        self.tokens.clone_from(tokens);
        self.image_rows.clone_from(image_rows);
        self.sequences.clone_from(sequences);
        self.block_tables.clone_from(block_tables);
        self.slot_saves.clone_from(slot_saves);
        self.block_copies.clone_from(block_copies);
        self.row_saves.clone_from(row_saves);
        self.outputs.clone_from(outputs);
        self.history.clone_from(history);
        self.biases.clone_from(biases);
    }

    /// The states to keep on the way through these rows.
    pub fn row_saves_of(&self, sequence: &BatchSequence) -> &[RowSave] {
        let first = self.row_saves.partition_point(|save| save.row < sequence.rows.start);
        let end = self.row_saves.partition_point(|save| save.row < sequence.rows.end);
        &self.row_saves[first..end]
    }

    /// What a row begins with in place of its token's embedding, if it is one of an image: `hidden` values.
    pub fn image_row(&self, row: u32, hidden: usize) -> Option<&[f32]> {
        let image = self.image_rows.get(self.image_rows.partition_point(|image| image.rows.end <= row))?;
        let at = (image.first + row.checked_sub(image.rows.start)?) as usize;
        Some(&image.encoded[at * hidden..(at + 1) * hidden])
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
            self.check_sequence(sequence, capacity);
        }
        assert_eq!(row as usize, self.rows(), "every row belongs to a sequence");
        assert!(self.rows() <= capacity.rows as usize, "{} rows of at most {}", self.rows(), capacity.rows);
        for &token in self.tokens.iter().chain(&self.history) {
            assert!(
                token < capacity.vocab || token == TOKEN_FROM_SLOT,
                "token {token} of {}",
                capacity.vocab
            );
        }
        self.check_images(capacity);
        self.check_cache(capacity);
        self.check_outputs(capacity);
    }

    fn check_images(&self, capacity: &Capacity) {
        let hidden = capacity.hidden as usize;
        let mut end = 0;
        for ImageRows { rows, encoded, first } in &self.image_rows {
            assert!(end <= rows.start && rows.start < rows.end, "rows of images ascend and are apart");
            end = rows.end;
            assert!(encoded.len().is_multiple_of(hidden), "{} values are no rows of {hidden}", encoded.len());
            let last = *first as usize + rows.len();
            assert!(last * hidden <= encoded.len(), "row {last} of {}", encoded.len() / hidden);
        }
        assert!(end as usize <= self.rows(), "row {end} of an image in a step of {}", self.rows());
    }

    fn check_sequence(&self, sequence: &BatchSequence, capacity: &Capacity) {
        assert!(sequence.slot.0 < capacity.slots, "{:?} of {} slots", sequence.slot, capacity.slots);
        assert!(sequence.cached_rows as usize <= sequence.rows.len(), "more cached rows than rows");
        match sequence.state {
            StateSource::Empty => {}
            StateSource::Slot => assert!(sequence.start > 0, "nothing is carried to position 0"),
            StateSource::Snapshot(id) => {
                assert!(sequence.start > 0, "no snapshot belongs to position 0");
                assert!(id.0 < capacity.snapshots, "{id:?} of {} snapshots", capacity.snapshots);
            }
        }
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

    /// Copies and snapshots: in range, and free of hazards whatever order a device does them in.
    fn check_cache(&self, capacity: &Capacity) {
        for (i, copy) in self.block_copies.iter().enumerate() {
            assert!(
                copy.from.0 < capacity.blocks && copy.to.0 < capacity.blocks,
                "{copy:?} outside the cache"
            );
            for (j, other) in self.block_copies.iter().enumerate() {
                assert_ne!(copy.to, other.from, "a copy of a copy");
                assert!(i == j || copy.to != other.to, "{:?} is written twice", copy.to);
            }
        }
        let saved = || {
            let slots = self.slot_saves.iter().map(|save| save.snapshot);
            slots.chain(self.row_saves.iter().map(|save| save.snapshot))
        };
        for (i, id) in saved().enumerate() {
            assert!(id.0 < capacity.snapshots, "{id:?} of {} snapshots", capacity.snapshots);
            assert!(saved().skip(i + 1).all(|other| other != id), "{id:?} is saved twice");
        }
        for sequence in &self.sequences {
            if let StateSource::Snapshot(id) = sequence.state {
                let overwritten = self.row_saves.iter().any(|save| save.snapshot == id);
                assert!(!overwritten, "{id:?} is read and saved in the same step");
            }
        }
        assert!(self.slot_saves.iter().all(|save| save.slot.0 < capacity.slots));
        assert!(self.row_saves.iter().all(|save| (save.row as usize) < self.rows()));
        assert!(self.row_saves.is_sorted_by_key(|save| save.row), "saved rows ascend");
    }

    fn check_outputs(&self, capacity: &Capacity) {
        let count = self.outputs.len();
        assert!(count <= capacity.outputs as usize, "{count} outputs of at most {}", capacity.outputs);
        assert!(self.outputs.iter().all(|output| (output.row as usize) < self.rows()));
        assert!(self.outputs.is_sorted_by_key(|output| output.row));
        for output in &self.outputs {
            match &output.kind {
                OutputKind::Sample { history, history_prompt, biases, .. } => {
                    assert!(history.start <= history.end && history.end as usize <= self.history.len());
                    assert!(*history_prompt as usize <= history.len(), "a prompt longer than its history");
                    assert!(biases.start <= biases.end && biases.end as usize <= self.biases.len());
                }
                OutputKind::Score { target, .. } => assert!(*target < capacity.vocab, "target {target}"),
                OutputKind::Logits => {}
            }
        }
        for (token, _) in &self.biases {
            assert!(*token < capacity.vocab, "a bias for token {token} of {}", capacity.vocab);
        }
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

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    const HIDDEN: usize = 2;

    fn capacity() -> Capacity {
        Capacity {
            blocks: 1,
            block_size: 8,
            slots: 1,
            snapshots: 0,
            replay: 0,
            rows: 8,
            outputs: 1,
            vocab: 10,
            hidden: HIDDEN as u32,
            steps_in_flight: 1,
        }
    }

    /// Six rows of one sequence; each image is its rows, its first one, and the values of its tile.
    fn batch(images: &[(Range<u32>, u32, usize)]) -> Batch {
        let values = |len: usize| (0..len).map(|i| i as f32).collect();
        let image = |(rows, first, len): &(Range<u32>, u32, usize)| ImageRows {
            rows: rows.clone(),
            encoded: values(*len),
            first: *first,
        };
        Batch {
            tokens: vec![1; 6],
            image_rows: images.iter().map(image).collect(),
            sequences: vec![BatchSequence {
                rows: 0..6,
                start: 0,
                slot: Slot(0),
                state: StateSource::Empty,
                cached_rows: 0,
                blocks: 0..1,
            }],
            block_tables: vec![BlockId(0)],
            ..Batch::default()
        }
    }

    #[test]
    fn rows_of_images_are_found() {
        let batch = batch(&[(1..3, 1, 8), (3..4, 0, 2), (5..6, 2, 6)]);
        batch.check(&capacity());
        let found: Vec<Option<&[f32]>> = (0..6).map(|row| batch.image_row(row, HIDDEN)).collect();
        let expected: [Option<&[f32]>; 6] =
            [None, Some(&[2.0, 3.0]), Some(&[4.0, 5.0]), Some(&[0.0, 1.0]), None, Some(&[4.0, 5.0])];
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_of_images_that_make_no_sense_are_noticed() {
        for (images, part) in [
            (&[(1..3, 0, 4), (2..4, 0, 4)][..], "are apart"),
            (&[(3..4, 0, 4), (1..2, 0, 4)], "are apart"),
            (&[(2..2, 0, 4)], "are apart"),
            (&[(1..3, 0, 3)], "are no rows of 2"),
            (&[(1..3, 1, 4)], "row 3 of 2"),
            (&[(5..7, 0, 4)], "row 7 of an image in a step of 6"),
        ] {
            let panic = catch_unwind(|| batch(images).check(&capacity())).unwrap_err();
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            assert!(message.as_ref().is_some_and(|message| message.contains(part)), "{message:?}, {part}");
        }
    }
}
