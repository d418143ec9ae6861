//! Runs tests on the executor, and computes their answers a second time in other steps.
//!
//! Every token is a function of its sequence and position, so a test can be repeated and computed in another
//! way. A sequence at depth `d` starts from keys and values of `d` computed tokens and from an empty
//! convolution state: unlike the state after `d` tokens, that one can be had again at any time, and it costs
//! the timed part nothing.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use undine_core::{
    Batch, BatchSequence, BlockId, Executor, OutputKind, OutputRow, SamplingParams, Slot, StateSource,
    StepOutput, TokenId,
};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;

use super::test::{Kind, Test};
use crate::error::Error;
use crate::progress::{self, Unit};

/// Seed of the random tokens: every run computes the same.
const TOKEN_SEED: u64 = 1;
/// Most tokens of a prefill to warm up with.
const WARMUP_PREFILL_TOKENS_MAX: u32 = 512;
/// Most tokens of a decode to warm up with.
const WARMUP_DECODE_TOKENS_MAX: u32 = 16;
/// Longest end of a test whose answers are computed a second time.
const CHECK_TOKENS_MAX: u32 = 512;
/// Most rows of a batched decode that are computed a second time; sequences in between are left out.
const CHECK_ROWS_MAX: u32 = 512;
/// Rows in a step when a decode is computed a second time, each with an output.
const CHECK_ROWS: u32 = 8;

/// What a step said about the next token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answer {
    /// The best token.
    pub token: TokenId,
    /// Its log-probability, where it was asked for; else 0.
    pub logprob: f32,
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads to compute with.
    pub threads: usize,
    /// Type of keys and values.
    pub kv: KvType,
    /// Whether weights are copied to huge pages, before anything is timed.
    pub huge_pages: bool,
    /// Instruction set.
    pub isa: Isa,
    /// Most rows of a prefill in one step.
    pub ubatch: u32,
}

/// The executor and the memory of all sequences of the tests.
pub struct Runner {
    executor: CpuExecutor,
    batch: Batch,
    vocab: TokenId,
    ubatch: u32,
    /// Per sequence its pages.
    pages: Vec<Range<u32>>,
    /// Per sequence how many positions from the first on have keys and values.
    filled: Vec<u32>,
}

impl Runner {
    /// Reserves memory for the largest of `tests`.
    pub fn new(model: Arc<Model>, settings: &Settings, tests: &[Test]) -> Result<Self, Error> {
        let sequences = tests.iter().map(|test| test.sequences).max().unwrap_or(1);
        let mut pages = Vec::new();
        let mut blocks = 0;
        for s in 0..sequences {
            let longest = tests.iter().filter(|test| s < test.sequences).map(|test| test.end()).max();
            let count = longest.unwrap_or(0).div_ceil(BLOCK_SIZE);
            let too_many = || Error::refused("so many sequences at such a depth have no place in memory");
            let end = count.checked_add(blocks).ok_or_else(too_many)?;
            pages.push(blocks..end);
            blocks = end;
        }
        let longest = tests.iter().map(|test| test.depth.max(test.tokens)).max().unwrap_or(1);
        let ubatch = settings.ubatch.min(longest);
        let options = CpuOptions {
            threads: settings.threads,
            blocks,
            slots: sequences,
            snapshots: 0,
            rows: ubatch.max(sequences).max(CHECK_ROWS),
            outputs: sequences.max(CHECK_ROWS),
            kv: settings.kv,
            huge_pages: settings.huge_pages,
            isa: settings.isa,
        };
        let vocab = model.config().vocab as TokenId;
        let mut executor = CpuExecutor::new(model, options)?;
        executor.finish_copies();
        let filled = vec![0; sequences as usize];
        Ok(Self { executor, batch: Batch::default(), vocab, ubatch, pages, filled })
    }

    /// Most rows of a prefill in one step.
    pub fn ubatch(&self) -> u32 {
        self.ubatch
    }

    /// Computes a test; the time is without what leads up to its depth. A prefill has one answer, a decode
    /// one per step and sequence; only the last step's have log-probabilities.
    pub fn run(&mut self, test: Test) -> Result<(Duration, Vec<Answer>), Error> {
        self.prepare(test, 0..test.sequences)?;
        let mut answers = Vec::with_capacity(test.total() as usize);
        let started = Instant::now();
        match test.kind {
            Kind::Prefill => {
                let mut position = test.depth;
                while position < test.end() {
                    let end = test.end().min(position.saturating_add(self.ubatch));
                    self.batch.clear();
                    self.push_rows(test, 0, position..end);
                    if end == test.end() {
                        self.push_output(end - position - 1, Report::Logprob);
                    }
                    self.step(&mut answers)?;
                    position = end;
                }
            }
            Kind::Decode => {
                for position in test.depth..test.end() {
                    let report = if position + 1 == test.end() { Report::Logprob } else { Report::Token };
                    self.batch.clear();
                    for s in 0..test.sequences {
                        self.push_rows(test, s, position..position + 1);
                        self.push_output(s, report);
                    }
                    self.step(&mut answers)?;
                }
            }
        }
        Ok((started.elapsed(), answers))
    }

    /// Computes the beginning of a test, so that weights and memory are where they will be.
    pub fn warm_up(&mut self, test: Test) -> Result<(), Error> {
        let tokens = match test.kind {
            Kind::Prefill => WARMUP_PREFILL_TOKENS_MAX,
            Kind::Decode => WARMUP_DECODE_TOKENS_MAX,
        };
        self.run(test.first(tokens)).map(|_| ())
    }

    /// Compares the answers of a run with those of the same tokens computed in other steps, to the bit. Of a
    /// long test its last `CHECK_TOKENS_MAX` tokens are computed twice more.
    pub fn check(&mut self, test: Test, answers: &[Answer]) -> Result<(), Error> {
        let window = test.last(CHECK_TOKENS_MAX);
        let again;
        let answers = if window == test {
            answers
        } else {
            again = self.run(window)?.1;
            &again
        };
        match window.kind {
            Kind::Prefill => {
                let expected = self.prefill_in_other_steps(window)?;
                compare(test, answers, &expected)
            }
            Kind::Decode => {
                let rows = window.tokens * window.sequences;
                let stride = rows.div_ceil(CHECK_ROWS_MAX) as usize;
                for s in (0..window.sequences).step_by(stride) {
                    let expected = self.decode_in_other_steps(window, s)?;
                    let steps = answers.iter().skip(s as usize).step_by(window.sequences as usize);
                    compare(test, &steps.copied().collect::<Vec<_>>(), &expected)?;
                }
                Ok(())
            }
        }
    }

    /// The answer of a prefill: most of its rows in steps of another size, the last ones one by one.
    fn prefill_in_other_steps(&mut self, test: Test) -> Result<Vec<Answer>, Error> {
        self.prepare(test, 0..1)?;
        let rows = (self.ubatch.min(test.tokens) * 3 / 4).max(1);
        let mut answers = Vec::new();
        let mut position = test.depth;
        while position < test.end() {
            let left = test.end() - position;
            let rows = if left <= CHECK_ROWS { 1 } else { rows.min(left - CHECK_ROWS) };
            self.batch.clear();
            self.push_rows(test, 0, position..position + rows);
            if rows == left {
                self.push_output(rows - 1, Report::Logprob);
            }
            self.step(&mut answers)?;
            position += rows;
        }
        Ok(answers)
    }

    /// The answers of one sequence of a decode: alone, several tokens in a step.
    fn decode_in_other_steps(&mut self, test: Test, s: u32) -> Result<Vec<Answer>, Error> {
        self.prepare(test, s..s + 1)?;
        let mut answers = Vec::with_capacity(test.tokens as usize);
        let mut position = test.depth;
        while position < test.end() {
            let end = test.end().min(position + CHECK_ROWS);
            self.batch.clear();
            self.push_rows(test, s, position..end);
            for row in 0..end - position {
                let is_last = position + row + 1 == test.end();
                self.push_output(row, if is_last { Report::Logprob } else { Report::Token });
            }
            self.step(&mut answers)?;
            position = end;
        }
        Ok(answers)
    }

    /// Brings sequences to the start of a test.
    fn prepare(&mut self, test: Test, sequences: Range<u32>) -> Result<(), Error> {
        for s in sequences {
            if self.filled[s as usize] < test.depth {
                self.fill(s, test.depth)?;
            }
            self.filled[s as usize] = self.filled[s as usize].max(test.end());
        }
        Ok(())
    }

    /// Computes keys and values of a sequence up to a depth, in large steps.
    fn fill(&mut self, s: u32, depth: u32) -> Result<(), Error> {
        let mut position = self.filled[s as usize];
        let progress = progress::bar(depth.into(), Unit::Count("tokens of context"));
        while position < depth {
            let end = depth.min(position + self.ubatch);
            self.batch.clear();
            self.push_sequence(s, position..end, StateSource::carried(position));
            self.step(&mut Vec::new())?;
            position = end;
            progress.set_position(position.into());
        }
        progress.finish_and_clear();
        Ok(())
    }

    /// Adds rows of a test's sequence to the batch.
    fn push_rows(&mut self, test: Test, s: u32, positions: Range<u32>) {
        let state = if positions.start == test.depth { StateSource::Empty } else { StateSource::Slot };
        self.push_sequence(s, positions, state);
    }

    fn push_sequence(&mut self, s: u32, positions: Range<u32>, state: StateSource) {
        let all = self.pages[s as usize].clone();
        let pages = all.start..all.start + positions.end.div_ceil(BLOCK_SIZE);
        debug_assert!(pages.end <= all.end, "positions {positions:?} are beyond the pages of the sequence");
        let Batch { tokens, sequences, block_tables, .. } = &mut self.batch;
        let (row, block) = (tokens.len() as u32, block_tables.len() as u32);
        let start = positions.start;
        tokens.extend(positions.map(|position| random_token(s, position, self.vocab)));
        block_tables.extend(pages.map(BlockId));
        let (rows, blocks) = (row..tokens.len() as u32, block..block_tables.len() as u32);
        sequences.push(BatchSequence { rows, start, slot: Slot(s), state, cached_rows: 0, blocks });
    }

    fn push_output(&mut self, row: u32, report: Report) {
        let logprobs = (report == Report::Logprob).then_some(0);
        let kind = OutputKind::Sample {
            params: SamplingParams { logprobs, ..SamplingParams::greedy() },
            output_index: 0,
            history: 0..0,
            history_prompt: 0,
            biases: 0..0,
            mask: None,
        };
        self.batch.outputs.push(OutputRow { row, kind });
    }

    /// Computes the batch and appends what it answers.
    fn step(&mut self, answers: &mut Vec<Answer>) -> Result<(), Error> {
        let ticket = self.executor.submit(&self.batch)?;
        let StepOutput { rows } = loop {
            match self.executor.try_collect(ticket)? {
                Some(output) => break output,
                None => std::thread::yield_now(),
            }
        };
        answers
            .extend(rows.iter().map(|row| Answer { token: row.chosen.token, logprob: row.chosen.logprob }));
        Ok(())
    }
}

/// What an output says of the best token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Report {
    /// Which it is.
    Token,
    /// Its log-probability too.
    Logprob,
}

fn random_token(s: u32, position: u32, vocab: TokenId) -> TokenId {
    let place = u64::from(s) << 32 | u64::from(position);
    fastrand::Rng::with_seed(TOKEN_SEED ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)).u32(..vocab)
}

/// Fails unless both lists are equal to the bit.
pub fn compare(test: Test, found: &[Answer], expected: &[Answer]) -> Result<(), Error> {
    assert_eq!(found.len(), expected.len(), "{test}: the same test has as many answers");
    let same = |a: &Answer, b: &Answer| a.token == b.token && a.logprob.to_bits() == b.logprob.to_bits();
    let Some(i) = found.iter().zip(expected).position(|(a, b)| !same(a, b)) else { return Ok(()) };
    let text = |answer: &Answer| format!("token {}, log-probability {:?}", answer.token, answer.logprob);
    Err(Error::refused(format!(
        "{test}: answer {i} of {} is {}, but computed in other steps it is {}; they must be equal to the bit: \
         this is a bug in Undine, and its speed counts for nothing",
        found.len(),
        text(&found[i]),
        text(&expected[i]),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_differ_in_one_bit_are_an_error() {
        let test = Test { kind: Kind::Prefill, depth: 0, tokens: 8, sequences: 1 };
        let answer = Answer { token: 7, logprob: -1.5 };
        compare(test, &[answer, answer], &[answer, answer]).expect("equal");
        let other_bit = Answer { logprob: f32::from_bits(answer.logprob.to_bits() ^ 1), ..answer };
        let other_token = Answer { token: 8, ..answer };
        for other in [other_bit, other_token] {
            let error = compare(test, &[answer, other], &[answer, answer]).expect_err("differs").to_string();
            assert!(error.contains("pp8: answer 1 of 2"), "{error}");
        }
    }

    #[test]
    fn tokens_are_random_and_the_same_every_time() {
        let line = |s| (0..1000).map(|position| random_token(s, position, 100)).collect::<Vec<_>>();
        assert_eq!(line(0), line(0));
        assert_ne!(line(0), line(1));
        assert!((0..100).all(|token| line(0).contains(&token)));
    }
}
