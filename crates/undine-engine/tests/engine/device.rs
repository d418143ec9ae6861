//! A device without a model. Its "logits" are a hash of the whole token history, read back through the block
//! table and the state slot: a wrong table, a mixed-up slot, a stale state or a lost token changes the
//! answer. Its state is a finite filter like a model's: started empty it is inexact, and it becomes exact
//! after `Capacity::replay` rows over cached positions. An inexact state must not write to the cache, be
//! sampled from or kept; nobody may read what was never written, and nobody write what others read.
//! [`expected`] computes the same answer without an engine. The simulator of undine-server runs on it too.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use undine_core::batch::TOKEN_FROM_SLOT;
use undine_core::{
    Batch, BatchSequence, BlockId, Capacity, Constraint, Executor, ExecutorError, FinishReason,
    GenerateRequest, OutputKind, RowOutput, SamplingParams, Slot, StateSource, StepOutput, Ticket, TokenId,
    TokenScore,
};
use undine_engine::Event;

use super::eye::{content, contents};

/// What the device saw, for tests that look at the schedule itself.
#[derive(Default)]
pub struct Log {
    /// Every submitted batch.
    pub batches: Vec<Batch>,
}

/// A place of the K/V cache: the token, its position, and a hash of everything up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    position: u32,
    chain: u64,
    token: TokenId,
}

/// What a sequence carries from row to row.
#[derive(Clone, Copy, Default)]
struct State {
    /// Hash of all tokens so far, as a filter would have it; right only if it is exact.
    chain: u64,
    /// How many these are.
    positions: u32,
    /// Rows to go until it is exact.
    inexact: u32,
}

struct Flight {
    ticket: Ticket,
    output: StepOutput,
    uses: Vec<(Slot, Vec<BlockId>)>,
}

/// A row on its way through the device.
#[derive(Clone, Copy)]
struct Row<'a> {
    slot: Slot,
    table: &'a [BlockId],
    position: u32,
    token: TokenId,
    /// What it begins with in place of its token.
    image: Option<u64>,
    /// Its cell is written already.
    cached: bool,
}

/// See the module's description.
pub struct Device {
    capacity: Capacity,
    cells: Vec<Option<Cell>>,
    slots: Vec<State>,
    last_sampled: Vec<Option<TokenId>>,
    snapshots: Vec<Option<State>>,
    flights: VecDeque<Flight>,
    tickets: u64,
    /// How often `try_collect` says "not yet" before each step.
    delay: u32,
    delay_left: u32,
    /// The submission that fails.
    fails_at: Option<u64>,
    log: Rc<RefCell<Log>>,
}

impl Device {
    pub fn new(capacity: Capacity, log: Rc<RefCell<Log>>) -> Self {
        Self {
            cells: vec![None; (capacity.blocks * capacity.block_size) as usize],
            slots: vec![State::default(); capacity.slots as usize],
            last_sampled: vec![None; capacity.slots as usize],
            snapshots: vec![None; capacity.snapshots as usize],
            capacity,
            flights: VecDeque::new(),
            tickets: 0,
            delay: 0,
            delay_left: 0,
            fails_at: None,
            log,
        }
    }

    pub fn with_delay(self, delay: u32) -> Self {
        Self { delay, delay_left: delay, ..self }
    }

    pub fn failing_at(self, submission: u64) -> Self {
        Self { fails_at: Some(submission), ..self }
    }

    /// A block or slot must not change hands while a step that uses it is in flight.
    fn check_in_flight(&self, batch: &Batch) {
        assert!(self.flights.len() < self.capacity.steps_in_flight as usize, "too many steps in flight");
        for sequence in &batch.sequences {
            let written = self.written(batch, sequence);
            for (slot, blocks) in self.flights.iter().flat_map(|flight| &flight.uses) {
                if *slot == sequence.slot {
                    assert_eq!(sequence.state, StateSource::Slot, "{slot:?} was given away while in flight");
                } else {
                    assert!(
                        !written.iter().any(|block| blocks.contains(block)),
                        "a block that others use in flight is written"
                    );
                }
            }
        }
    }

    /// Nobody reads or copies in this step what another sequence writes in it.
    fn check_apart(&self, batch: &Batch) {
        for (i, sequence) in batch.sequences.iter().enumerate() {
            let written = self.written(batch, sequence);
            for (_, other) in batch.sequences.iter().enumerate().filter(|(j, _)| *j != i) {
                let table = table(batch, other);
                assert!(
                    !table.iter().any(|block| written.contains(block)),
                    "a block is shared while it is written"
                );
                assert_ne!(other.slot, sequence.slot, "two sequences in a slot");
            }
        }
    }

    /// The blocks to which a sequence writes.
    fn written<'a>(&self, batch: &'a Batch, sequence: &BatchSequence) -> &'a [BlockId] {
        let first = (sequence.start + sequence.cached_rows) / self.capacity.block_size;
        let table = table(batch, sequence);
        if sequence.cached_rows as usize == sequence.rows.len() { &[] } else { &table[first as usize..] }
    }

    /// What comes before the rows.
    fn prepare(&mut self, batch: &Batch) {
        for save in &batch.slot_saves {
            let state = self.slots[save.slot.0 as usize];
            assert!(state.inexact == 0 && state.positions > 0, "an inexact state is kept");
            self.snapshots[save.snapshot.0 as usize] = Some(state);
        }
        let size = self.capacity.block_size as usize;
        for copy in &batch.block_copies {
            let from = copy.from.0 as usize * size;
            self.cells.copy_within(from..from + size, copy.to.0 as usize * size);
        }
    }

    /// The state a sequence begins its rows with.
    fn begin(&mut self, sequence: &BatchSequence, table: &[BlockId]) {
        let state = match sequence.state {
            StateSource::Slot => {
                return assert_eq!(
                    self.slots[sequence.slot.0 as usize].positions, sequence.start,
                    "{:?} holds another state",
                    sequence.slot
                );
            }
            StateSource::Snapshot(id) => self.snapshots[id.0 as usize].expect("the snapshot was saved"),
            StateSource::Empty => {
                // Without a filter there is no state, so nothing to rebuild.
                let chain = match sequence.start {
                    0 => 0,
                    start => self.read(table, start - 1).chain,
                };
                let inexact = if sequence.start == 0 { 0 } else { self.capacity.replay };
                State { chain, positions: sequence.start, inexact }
            }
        };
        assert_eq!(state.positions, sequence.start, "a state of another length");
        self.slots[sequence.slot.0 as usize] = state;
        self.last_sampled[sequence.slot.0 as usize] = None;
    }

    fn cell(&self, table: &[BlockId], position: u32) -> usize {
        let block = table[(position / self.capacity.block_size) as usize];
        (block.0 * self.capacity.block_size + position % self.capacity.block_size) as usize
    }

    /// Puts a token into state and cache.
    fn write(&mut self, row: Row) {
        let Row { slot, table, position, cached, .. } = row;
        let token = match row.token {
            TOKEN_FROM_SLOT => {
                self.last_sampled[slot.0 as usize].expect("a token has been sampled for the slot")
            }
            token => token,
        };
        let content = row.image.unwrap_or(token.into());
        let cell = self.cell(table, position);
        // What a real device would find in its cache, whatever its state.
        let known = if position == 0 { 0 } else { self.read(table, position - 1).chain };
        let state = &mut self.slots[slot.0 as usize];
        assert_eq!(state.positions, position, "{slot:?} holds another state");
        if state.inexact == 0 {
            assert_eq!(state.chain, known, "{slot:?} has a state of another sequence");
            state.chain = mix(state.chain, content);
        } else {
            state.inexact -= 1;
            state.chain = mix(known, content);
            assert!(cached, "a replayed row writes");
        }
        state.positions += 1;
        let new = Cell { position, chain: state.chain, token };
        if cached {
            assert_eq!(self.cells[cell], Some(new), "the cache holds something else");
        } else {
            self.cells[cell] = Some(new);
        }
    }

    /// A cell that has been written for this position.
    fn read(&self, table: &[BlockId], position: u32) -> Cell {
        let cell = self.cells[self.cell(table, position)].expect("nobody has written this position");
        assert_eq!(cell.position, position, "the block table mixes positions");
        cell
    }

    fn output(&mut self, row: Row, exact: bool, kind: &OutputKind, batch: &Batch) -> RowOutput {
        let Row { slot, table, position, .. } = row;
        assert!(exact, "an output of a row that is not exact");
        let cells: Vec<Cell> = (0..=position).map(|position| self.read(table, position)).collect();
        let hash = cells.iter().fold(0, |hash, cell| mix(hash, cell.chain));
        let vocab = self.capacity.vocab;
        match kind {
            OutputKind::Score { target, top } => score(hash, *target, *top, vocab),
            OutputKind::Sample { params, output_index, history, history_prompt, biases, mask } => {
                // Later chunk rows of the same step come after this one only if the scheduler is wrong.
                assert_eq!(
                    self.slots[slot.0 as usize].positions,
                    position + 1,
                    "sampled from a row that is not last"
                );
                let history = &batch.history[history.start as usize..history.end as usize];
                if params.needs_history() {
                    assert!(
                        history.iter().eq(cells.iter().map(|cell| &cell.token)),
                        "the history is another's"
                    );
                }
                let biases = &batch.biases[biases.start as usize..biases.end as usize];
                let mask = mask.as_ref().map_or(&[][..], |mask| mask.wait());
                let wishes = Wishes { biases, mask };
                let output = sample(hash, params, *output_index, *history_prompt, wishes, vocab);
                self.last_sampled[slot.0 as usize] = Some(output.chosen.token);
                output
            }
            OutputKind::Logits => unreachable!("the engine never asks for logits"),
        }
    }
}

fn table<'a>(batch: &'a Batch, sequence: &BatchSequence) -> &'a [BlockId] {
    &batch.block_tables[sequence.blocks.start as usize..sequence.blocks.end as usize]
}

impl Executor for Device {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError> {
        if self.fails_at == Some(self.tickets) {
            return Err(ExecutorError("it was unplugged".to_owned()));
        }
        batch.check(&self.capacity);
        assert!(batch.rows() > 0, "an empty step");
        self.check_in_flight(batch);
        self.check_apart(batch);
        self.log.borrow_mut().batches.push(batch.clone());
        self.prepare(batch);
        let (mut rows, mut uses) = (Vec::new(), Vec::new());
        let mut outputs = batch.outputs.iter().peekable();
        for sequence in &batch.sequences {
            let table = table(batch, sequence);
            let positions = sequence.start + sequence.rows.len() as u32;
            assert_eq!(
                table.len() as u32,
                positions.div_ceil(self.capacity.block_size),
                "table of another length"
            );
            self.begin(sequence, table);
            for (i, position) in sequence.rows.clone().zip(sequence.start..) {
                let cached = i < sequence.rows.start + sequence.cached_rows;
                let token = batch.tokens[i as usize];
                let image = batch.image_row(i, self.capacity.hidden as usize).map(content);
                let row = Row { slot: sequence.slot, table, position, token, image, cached };
                let exact = self.slots[sequence.slot.0 as usize].inexact == 0;
                self.write(row);
                for save in batch.row_saves.iter().filter(|save| save.row == i) {
                    let state = self.slots[sequence.slot.0 as usize];
                    assert_eq!(state.inexact, 0, "an inexact state is kept");
                    self.snapshots[save.snapshot.0 as usize] = Some(state);
                }
                while let Some(output) = outputs.next_if(|output| output.row == i) {
                    rows.push(self.output(row, exact, &output.kind, batch));
                }
            }
            uses.push((sequence.slot, table.to_vec()));
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.flights.push_back(Flight { ticket, output: StepOutput { rows }, uses });
        Ok(ticket)
    }

    fn try_collect(&mut self, ticket: Ticket) -> Result<Option<StepOutput>, ExecutorError> {
        assert_eq!(self.flights.front().map(|flight| flight.ticket), Some(ticket), "collected out of order");
        if self.delay_left > 0 {
            self.delay_left -= 1;
            return Ok(None);
        }
        self.delay_left = self.delay;
        Ok(self.flights.pop_front().map(|flight| flight.output))
    }
}

/// SplitMix64's finisher over both.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(23).wrapping_add((b + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn score(hash: u64, target: TokenId, top: u32, vocab: u32) -> RowOutput {
    let logprob = |i: u64| -((mix(hash, i) % 1000) as f32);
    let top =
        (0..top).map(|i| TokenScore { token: (hash % u64::from(vocab)) as u32, logprob: logprob(i.into()) });
    let chosen = TokenScore { token: target, logprob: logprob(u64::from(target) + 1000) };
    RowOutput { chosen, rank: (hash % 7) as u32, top: top.collect(), logits: Vec::new() }
}

/// What is wanted of a token.
#[derive(Clone, Copy)]
struct Wishes<'a> {
    biases: &'a [(TokenId, f32)],
    /// As in [`undine_core::TokenMask`].
    mask: &'a [u32],
}

/// A bias of at least 100 forces its token; negative infinity forbids it. What the mask excludes is never
/// drawn.
fn sample(
    hash: u64,
    params: &SamplingParams,
    output_index: u32,
    history_prompt: u32,
    Wishes { biases, mask }: Wishes,
    vocab: u32,
) -> RowOutput {
    let hash = mix(mix(mix(hash, params.seed), u64::from(output_index)), u64::from(history_prompt));
    let forbidden = |token: u32| biases.contains(&(token, f32::NEG_INFINITY));
    let excluded = |token: u32| !mask.is_empty() && mask[token as usize / 32] & (1 << (token % 32)) == 0;
    let possible = |token: u32| !forbidden(token) && !excluded(token);
    let forced = biases.iter().find(|(token, bias)| *bias >= 100.0 && possible(*token));
    let mut drawn = (0..vocab).map(|i| (hash % u64::from(vocab) + u64::from(i)) as u32 % vocab);
    let token = match forced {
        Some(&(token, _)) => Some(token),
        None => {
            drawn.clone().find(|&token| possible(token)).or_else(|| drawn.find(|&token| !excluded(token)))
        }
    };
    let token = token.expect("a mask allows a token");
    score(hash, token, params.logprobs.unwrap_or(0), vocab)
}

/// The events of a request on this device, by the definition: one token after the other, no cache, no engine.
pub fn expected(request: &GenerateRequest, context: u32, vocab: u32) -> Vec<Event> {
    expected_within(request, None, context, vocab)
}

/// The same for an answer that is restricted by a constraint, whose masks are there when it is asked for
/// them.
pub fn expected_within(
    request: &GenerateRequest,
    mut constraint: Option<&mut dyn Constraint>,
    context: u32,
    vocab: u32,
) -> Vec<Event> {
    let GenerateRequest { prompt, images: _, sampling, logit_bias, stop, prompt_logprobs, origin: _ } =
        request;
    let logits = |contents: &[u64]| {
        let chains = contents.iter().scan(0, |chain, &content| {
            *chain = mix(*chain, content);
            Some(*chain)
        });
        chains.fold(0, mix)
    };
    let mut events = Vec::new();
    let mut contents = contents(request);
    if let Some(top) = *prompt_logprobs {
        let rows = (1..prompt.len()).map(|i| score(logits(&contents[..i]), prompt[i], top, vocab));
        events.push(Event::PromptScores(rows.collect()));
    }
    let mut tokens = prompt.clone();
    let mut is_thought = stop.thought.is_some_and(|thought| thought.begun);
    let mut reason = (stop.max_tokens == 0).then_some(FinishReason::MaxTokens);
    while reason.is_none() {
        let index = (tokens.len() - prompt.len()) as u32;
        let mut biases = logit_bias.clone();
        if index < stop.min_tokens {
            biases.extend(
                stop.eos_tokens.iter().chain(&stop.stop_tokens).map(|&token| (token, f32::NEG_INFINITY)),
            );
        }
        let history_prompt = if sampling.needs_history() { prompt.len() as u32 } else { 0 };
        let mask = constraint.as_mut().and_then(|constraint| constraint.allowed());
        let mask = mask.as_ref().map_or(&[][..], |mask| mask.wait());
        let wishes = Wishes { biases: &biases, mask };
        let output = sample(logits(&contents), sampling, index, history_prompt, wishes, vocab);
        let token = output.chosen.token;
        tokens.push(token);
        contents.push(token.into());
        events.push(Event::Token(output));
        let is_accepted = constraint.as_mut().is_none_or(|constraint| constraint.accept(token).is_ok());
        let mark = stop.thought.filter(|thought| token == thought.start || token == thought.end);
        let may_stop = !is_thought || mark.is_some();
        is_thought = mark.map_or(is_thought, |thought| token == thought.start);
        reason = match token {
            _ if !is_accepted => Some(FinishReason::ConstraintFailed),
            _ if stop.eos_tokens.contains(&token) => Some(FinishReason::Eos),
            _ if may_stop && stop.stop_tokens.contains(&token) => Some(FinishReason::StopToken(token)),
            _ if index + 1 == stop.max_tokens => Some(FinishReason::MaxTokens),
            _ if tokens.len() as u32 == context => Some(FinishReason::ContextFull),
            _ => None,
        };
    }
    events.extend(reason.map(Event::Finished));
    events
}
