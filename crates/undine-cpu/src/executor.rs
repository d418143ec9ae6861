//! The CPU executor: memory for sequences, and the replay of the plan for each batch.

mod kv;
mod reserved;

use std::sync::Arc;

use undine_core::sampling::SamplerScratch;
use undine_core::{
    Batch, Capacity, Config, Executor, ExecutorError, RowOutput, StepOutput, TOKEN_FROM_SLOT, Ticket,
    TokenScore,
};
use undine_model::{MatrixId, Model, Rows, lfm2};

use crate::inputs::{Inputs, MatrixInputs};
use crate::kernels::activations::Activations;
use crate::kernels::attention::{HEAD_DIM_MAX, Scratch};
use crate::kernels::panels::Panel;
use crate::memory::SharedSlice;
use crate::moe::MoeMemory;
use crate::ops;
use crate::plan::{Plan, PlanRecorder};
use crate::pool::Pool;
use crate::simd::Isa;
use crate::weights::Weights;

pub(crate) use kv::{KvCache, PIECES_PER_THREAD};
pub use kv::{KvType, shared_attention_bytes};
pub use reserved::ReservedBytes;

/// How much to reserve and how to run.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads, the caller's included.
    pub threads: usize,
    /// Pages of the K/V cache. Memory is taken as pages are first used.
    pub blocks: u32,
    /// Sequences.
    pub slots: u32,
    /// Places for copies of a sequence's convolution states. Memory is taken as they are first used.
    pub snapshots: u32,
    /// Rows in a step.
    pub rows: u32,
    /// Rows through the head in a step.
    pub outputs: u32,
    /// Type of keys and values.
    pub kv: KvType,
    /// Whether to copy the matrices to huge pages, some before each step after the first, for a faster
    /// decode. The mapped file's own pages are given back meanwhile: this process holds the matrices once,
    /// and the system may keep the file.
    pub huge_pages: bool,
    /// Instruction set.
    pub isa: Isa,
}

/// Why a model cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shape beyond the kernels.
    #[error(
        "the model has {found} values per attention head; the CPU backend takes even numbers up to {HEAD_DIM_MAX}"
    )]
    HeadDim {
        /// What the model has.
        found: usize,
    },
    /// No thread could be started.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why not.
        source: std::io::Error,
    },
    /// More memory than the system gives.
    #[error(
        "the system does not give the {} MiB that keys, values and steps of this size need; take less memory for keys and values \
         (--kv-cache-memory-bytes, --max-model-len), fewer sequences at once or fewer tokens a step (--max-num-seqs, \
         --max-num-batched-tokens)",
        bytes.div_ceil(1 << 20)
    )]
    Memory {
        /// At least so much is needed in one piece, or in pieces that are used together.
        bytes: usize,
    },
}

/// Runs batches on the CPU.
pub struct CpuExecutor {
    pool: Pool,
    state: State,
    done: Option<StepOutput>,
    tickets: u64,
    last_token: Vec<u32>,
}

/// One row of the step.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    pub token: u32,
    pub position: u32,
    pub sequence: u32,
    /// Its keys and values are in the cache and stay as they are.
    pub cached: bool,
}

/// Everything the threads see during a step.
pub(crate) struct State {
    pub model: Arc<Model>,
    pub weights: Weights,
    pub plan: Plan,
    pub isa: Isa,
    pub capacity: Capacity,
    pub batch: Batch,
    pub rows: Vec<Row>,
    pub arena: SharedSlice<f32>,
    pub input: Activations,
    pub cos: SharedSlice<f32>,
    pub sin: SharedSlice<f32>,
    pub frequencies: Vec<f32>,
    pub kv: KvCache,
    /// Per convolution layer: `slots x (taps - 1) x hidden`.
    pub conv: Vec<SharedSlice<f32>>,
    /// Per convolution layer: `snapshots x (taps - 1) x hidden`.
    pub snapshots: Vec<SharedSlice<f32>>,
    /// Filters of the convolution layers, `taps x hidden`.
    pub filters: Vec<Vec<f32>>,
    pub moe: Option<MoeMemory>,
    pub threads: SharedSlice<ThreadMemory>,
    pub outputs: SharedSlice<RowOutput>,
    /// What goes into each matrix, if that is wanted.
    pub inputs: Option<Inputs>,
}

/// Memory of one thread.
#[derive(Default)]
pub(crate) struct ThreadMemory {
    pub panel: Panel,
    /// [`ops::UP_VALUES`].
    pub up: Vec<f32>,
    pub attention: Scratch,
    pub sampler: SamplerScratch,
}

impl ThreadMemory {
    fn new(config: &Config) -> Self {
        let attention = Scratch::new(config.head_dim, config.heads / config.kv_heads);
        Self { attention, up: vec![0.0; ops::UP_VALUES], ..Self::default() }
    }
}

impl CpuExecutor {
    /// Records `model` and reserves memory.
    pub fn new(model: Arc<Model>, options: CpuOptions) -> Result<Self, Error> {
        Self::with_plan(model, options, |model, recorder| lfm2::record(model, recorder))
    }

    /// The same for another sequence of verbs, as conformance tests record.
    pub fn with_plan(
        model: Arc<Model>,
        options: CpuOptions,
        record: impl FnOnce(&Model, &mut PlanRecorder),
    ) -> Result<Self, Error> {
        let config = model.config();
        if config.head_dim > HEAD_DIM_MAX || !config.head_dim.is_multiple_of(2) {
            return Err(Error::HeadDim { found: config.head_dim });
        }
        let threads = options.threads;
        let pool = Pool::new(threads).map_err(|source| Error::Threads { threads, source })?;
        let mut recorder = PlanRecorder::new(&model);
        record(&model, &mut recorder);
        let plan = recorder.finish(options.rows as usize, options.outputs as usize);
        reserved::try_out(config, &plan, &options)?;
        let last_token = vec![0; options.slots as usize];
        Ok(Self { pool, state: State::new(model, plan, &options), done: None, tickets: 0, last_token })
    }

    /// The values behind a handle after a step, `rows x width`; later operations may have reused its place.
    pub fn read(&self, rows: Rows, count: usize) -> Vec<f32> {
        let place = self.state.plan.place(rows);
        // SAFETY: no region is running, so nobody writes.
        unsafe { self.state.arena.read(place.start..place.start + count * place.width) }.to_vec()
    }

    /// From now on, sums the squares of what goes into each matrix; [`Self::inputs`] has them.
    pub fn collect_inputs(&mut self) {
        let state = &mut self.state;
        state.inputs = Some(Inputs::new(&state.model));
        // They are summed as f32.
        let (config, rows) = (state.model.config(), state.capacity.rows.max(state.capacity.outputs) as usize);
        state.input =
            Activations::new(rows, state.plan.input_width, state.plan.kinds, state.plan.input_width);
        state.moe = config.moe.map(|moe| {
            let width = config.hidden.max(moe.width);
            MoeMemory::new(config, &moe, state.capacity.rows as usize, state.plan.kinds, width)
        });
    }

    /// What has gone into a matrix since [`Self::collect_inputs`]; `None` if that was not called. A matrix
    /// that is the embedding table too counts what goes into it as the head.
    pub fn inputs(&self, id: MatrixId) -> Option<MatrixInputs> {
        self.state.inputs.as_ref().map(|inputs| inputs.of(id))
    }

    /// Copies all matrices to huge pages now, if that was asked for, and not some before each step.
    pub fn finish_copies(&mut self) {
        while self.copy_weights() {}
    }

    /// Copies some more matrices to huge pages. `false` if there were none left.
    fn copy_weights(&mut self) -> bool {
        let Some(range) = self.state.weights.next() else { return false };
        let weights = &self.state.weights;
        // SAFETY: one region, in which every thread copies its share.
        self.pool.run(&|worker| unsafe { weights.copy(range.clone(), worker) });
        // SAFETY: the region is over.
        unsafe { self.state.weights.finish(range) };
        true
    }

    /// Takes the outputs of the step.
    fn collect(&mut self) -> StepOutput {
        let count = self.state.batch.outputs.len();
        // SAFETY: no region is running.
        let outputs = unsafe { self.state.outputs.write(0..count) };
        StepOutput { rows: outputs.iter_mut().map(|output| std::mem::replace(output, no_output())).collect() }
    }
}

impl State {
    fn new(model: Arc<Model>, plan: Plan, options: &CpuOptions) -> Self {
        let config = model.config();
        let capacity = Capacity {
            blocks: options.blocks,
            block_size: crate::BLOCK_SIZE,
            slots: options.slots,
            snapshots: options.snapshots,
            replay: config.replay() as u32,
            rows: options.rows,
            outputs: options.outputs,
            vocab: config.vocab as u32,
            hidden: config.hidden as u32,
            steps_in_flight: 1,
        };
        let rows = options.rows as usize;
        let states = |count: u32| {
            let len = count as usize * (config.conv_taps - 1) * config.hidden;
            (0..config.conv_layers()).map(|_| SharedSlice::new(len)).collect()
        };
        let (conv, snapshots) = (states(options.slots), states(options.snapshots));
        let input_rows = rows.max(options.outputs as usize);
        let half = config.head_dim / 2;
        let frequency = |i: usize| f64::from(config.rope_theta).powf(-(i as f64) / half as f64) as f32;
        Self {
            input: Activations::new(input_rows, plan.input_width, plan.kinds, plan.float_width),
            arena: SharedSlice::new(plan.arena_len),
            cos: SharedSlice::new(rows * half),
            sin: SharedSlice::new(rows * half),
            frequencies: (0..half).map(frequency).collect(),
            kv: KvCache::new(config, options.kv, options.blocks as usize, options.threads),
            conv,
            snapshots,
            filters: transposed_filters(&model),
            moe: config
                .moe
                .map(|moe| MoeMemory::new(config, &moe, rows, plan.kinds, plan.expert_float_width)),
            threads: SharedSlice::from_vec((0..options.threads).map(|_| ThreadMemory::new(config)).collect()),
            outputs: SharedSlice::from_vec((0..options.outputs).map(|_| no_output()).collect()),
            inputs: None,
            isa: options.isa,
            batch: Batch::default(),
            rows: Vec::with_capacity(rows),
            capacity,
            plan,
            weights: Weights::new(Arc::clone(&model), options.huge_pages),
            model,
        }
    }

    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Copies the batch and works out each row's token, position and sequence.
    fn load(&mut self, batch: &Batch, last_token: &[u32]) {
        batch.check(&self.capacity);
        self.batch.copy_from(batch);
        self.rows.clear();
        for (s, sequence) in batch.sequences.iter().enumerate() {
            for (position, row) in (sequence.start..).zip(sequence.rows.clone()) {
                let token = match batch.tokens[row as usize] {
                    TOKEN_FROM_SLOT => last_token[sequence.slot.0 as usize],
                    token => token,
                };
                assert!(token < self.capacity.vocab, "token {token} of {}", self.capacity.vocab);
                let cached = row < sequence.rows.start + sequence.cached_rows;
                self.rows.push(Row { token, position, sequence: s as u32, cached });
            }
        }
    }
}

fn no_output() -> RowOutput {
    RowOutput { chosen: TokenScore { token: 0, logprob: 0.0 }, rank: 0, top: Vec::new(), logits: Vec::new() }
}

/// Filters with channels side by side, per convolution layer in order.
fn transposed_filters(model: &Model) -> Vec<Vec<f32>> {
    let (hidden, taps) = (model.config().hidden, model.config().conv_taps);
    let convs = model.layers.iter().filter_map(|layer| match layer.operator {
        undine_model::Operator::ShortConv(op) => Some(op),
        undine_model::Operator::Attention(_) => None,
    });
    convs
        .map(|op| {
            let filter = model.vector(op.filter);
            (0..taps * hidden).map(|i| filter[i % hidden * taps + i / hidden]).collect()
        })
        .collect()
}

impl Executor for CpuExecutor {
    fn capacity(&self) -> Capacity {
        self.state.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError> {
        self.state.load(batch, &self.last_token);
        // Whoever waits for the first step waits for no copy.
        if self.tickets > 0 {
            self.copy_weights();
        }
        let state = &self.state;
        self.pool.run(&|worker| {
            if !state.batch.block_copies.is_empty() {
                ops::copy_blocks(state, worker);
                worker.barrier();
            }
            for op in &state.plan.ops {
                ops::run(state, op, worker);
                worker.barrier();
            }
        });
        // Nobody may see what was computed with other weights than those that were opened.
        self.state.model.checkpoint().check_files().map_err(|error| ExecutorError(error.to_string()))?;
        let output = self.collect();
        batch.for_each_sampled(&output.rows, |slot, token| self.last_token[slot.0 as usize] = token);
        self.done = Some(output);
        self.tickets += 1;
        Ok(Ticket(self.tickets))
    }

    fn try_collect(&mut self, _: Ticket) -> Result<Option<StepOutput>, ExecutorError> {
        Ok(self.done.take())
    }
}
