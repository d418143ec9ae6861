//! A model without weights: the logits depend on the last token only, and one token is far ahead.

use std::collections::HashMap;
use std::time::Duration;

use undine_core::batch::{Batch, StepOutput, TOKEN_FROM_SLOT};
use undine_core::executor::{Capacity, Executor, ExecutorError, Ticket};
use undine_core::sampling::{SamplerScratch, finish_row};
use undine_core::{OutputKind, Slot, TokenId};

pub const VOCAB: u32 = 1024;
/// Values of a row.
pub const HIDDEN: u32 = 4;
/// A prompt with this token makes the device fail.
pub const FAILING_TOKEN: TokenId = 5;
/// A prompt with this token makes the device's driver panic.
pub const PANICKING_TOKEN: TokenId = 4;
/// A token that cannot occur, like the two above.
pub const IMPOSSIBLE_TOKEN: TokenId = 3;
/// Ids from here on are text.
const FIRST_TEXT_TOKEN: u32 = 16;

#[derive(Clone, Default)]
pub struct MockExecutor {
    /// What a step costs.
    pub step_time: Duration,
    /// Rows of a replay; without it so many that no prompt is spared and usage never depends on earlier
    /// requests.
    pub replay: Option<u32>,
    /// Exceptions from [`next_token`].
    pub successors: HashMap<TokenId, TokenId>,
    /// What the answers say, one after the other, instead of following [`next_token`]; then the first again.
    pub scripts: Vec<Vec<TokenId>>,
    /// Answers begun.
    pub begun: usize,
    /// Which script a slot follows.
    pub following: HashMap<Slot, usize>,
    pub last_sampled: HashMap<Slot, TokenId>,
    pub done: HashMap<u64, StepOutput>,
    pub tickets: u64,
}

/// The most likely token after `last`.
pub fn next_token(last: TokenId) -> TokenId {
    FIRST_TEXT_TOKEN + (last * 5 + 77) % (VOCAB - FIRST_TEXT_TOKEN)
}

impl MockExecutor {
    /// The logits after `last`: noise in `0..2`, and the successor at 10.
    pub fn logits(&self, last: TokenId) -> Vec<f32> {
        let noise = |token: u32| ((token * 31 + last * 17) % 101) as f32 / 50.5;
        let mut logits: Vec<f32> = (0..VOCAB).map(noise).collect();
        let next = self.successors.get(&last).copied().unwrap_or_else(|| next_token(last));
        logits[next as usize] = 10.0;
        for token in [IMPOSSIBLE_TOKEN, PANICKING_TOKEN, FAILING_TOKEN] {
            logits[token as usize] = f32::NEG_INFINITY;
        }
        logits
    }

    /// The logits of token `index` of an answer.
    fn next_logits(&mut self, slot: Slot, last: TokenId, index: u32) -> Vec<f32> {
        let mut logits = self.logits(last);
        if self.scripts.is_empty() {
            return logits;
        }
        if index == 0 {
            self.following.insert(slot, self.begun % self.scripts.len());
            self.begun += 1;
        }
        let script = &self.scripts[self.following[&slot]];
        let token = script.get(index as usize).copied().unwrap_or(super::EOS);
        logits[token as usize] = 20.0;
        logits
    }

    fn run(&mut self, batch: &Batch) -> Result<StepOutput, ExecutorError> {
        std::thread::sleep(self.step_time);
        let mut output = StepOutput::default();
        let mut scratch = SamplerScratch::default();
        let mut outputs = batch.outputs.iter().peekable();
        for sequence in &batch.sequences {
            for row in sequence.rows.clone() {
                let token = match batch.tokens[row as usize] {
                    TOKEN_FROM_SLOT => self.last_sampled[&sequence.slot],
                    token => token,
                };
                match token {
                    FAILING_TOKEN => return Err(ExecutorError("out of ink".to_owned())),
                    PANICKING_TOKEN => panic!("the mock was told to panic"),
                    _ => {}
                }
                while let Some(wanted) = outputs.next_if(|wanted| wanted.row == row) {
                    let (samples, mut logits) = match wanted.kind {
                        OutputKind::Sample { output_index, .. } => {
                            (true, self.next_logits(sequence.slot, token, output_index))
                        }
                        OutputKind::Score { .. } | OutputKind::Logits => (false, self.logits(token)),
                    };
                    let result = finish_row(batch, wanted, &mut logits, &mut scratch);
                    if samples {
                        self.last_sampled.insert(sequence.slot, result.chosen.token);
                    }
                    output.rows.push(result);
                }
            }
        }
        Ok(output)
    }
}

impl Executor for MockExecutor {
    fn capacity(&self) -> Capacity {
        Capacity {
            blocks: 256,
            block_size: 16,
            slots: 4,
            snapshots: 0,
            replay: self.replay.unwrap_or(4096),
            rows: 32,
            outputs: 32,
            vocab: VOCAB,
            hidden: HIDDEN,
            steps_in_flight: 1,
        }
    }

    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError> {
        batch.check(&self.capacity());
        let output = self.run(batch)?;
        self.tickets += 1;
        self.done.insert(self.tickets, output);
        Ok(Ticket(self.tickets))
    }

    fn try_collect(&mut self, ticket: Ticket) -> Result<Option<StepOutput>, ExecutorError> {
        Ok(self.done.remove(&ticket.0))
    }
}
