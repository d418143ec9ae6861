//! The vision tower on the CPU: tiles in, rows for the language model out.
//!
//! [`plan`] records the tower once; each pass replays it inside one parallel region over as many tiles as fit
//! [`PASS_PATCHES`]. Float weights are multiplied by panels ([`gemm`]), quantized ones by the decoder's
//! kernels, attention runs tile by tile ([`attention`]). A pass is run in slices of some [`SLICE_PATCHES`]
//! each. A row depends on its own tile alone, to the bit: on no other tile of the pass, no number of threads
//! and no instruction set.
//!
//! Measured with `examples/vision_speed.rs` on random weights of the 450M shape (width 768, 12 layers),
//! Sapphire Rapids with two cores, AVX-512, one image of 512 x 512 (1024 patches, 219 * 10^9 operations),
//! best of four, against the f32 peak measured in the same run:
//!
//! | matrices | 1 thread | 2 threads | of the peak |
//! |---|---|---|---|
//! | F32 | 1474 ms, 149 * 10^9 operations/s | 816 ms, 269 | 77%, 68% |
//! | BF16 | 1623 ms, 135 | 855 ms, 257 | 75%, 72% |
//! | Q8_0 | 921 ms, 238 | 457 ms, 480 | 135%, 136% |
//!
//! An image of 1600 x 900 (nine tiles) takes two threads 7.9 s with BF16 and 4.4 s with Q8_0; cutting it
//! takes 12 ms.
#![allow(
    clippy::needless_range_loop,
    reason = "lanes and rows index several arrays at once, some of them by pointer; the kernels must not use closures"
)]

mod attention;
mod elementwise;
mod gemm;
mod ops;
mod plan;

use std::sync::Arc;

use undine_core::vision::CHANNELS;
use undine_core::{DType, ExecutorError, Tile, VisionConfig, VisionExecutor};
use undine_model::VisionModel;
use undine_model::vision::resample_positions;

use crate::executor::Error;
use crate::kernels::activations::{ActivationKinds, Activations};
use crate::kernels::panels::Panel;
use crate::memory::SharedSlice;
use crate::pool::Pool;
use crate::simd::Isa;
use attention::{keys_len, scores_len, values_len};
use gemm::{CHUNK, PANEL_ROWS_MAX, PanelMemory};
use plan::{Length, VisionPlan};

/// Patches of one pass, unless a single tile has more. Weights are read once a pass: with so many rows that
/// costs nothing.
pub const PASS_PATCHES: usize = 4096;
/// A slice of a pass is so much work as this many patches are: two threads with BF16 matrices take 0.2 s for
/// it. A part of a pass costs the same as that much of the whole.
const SLICE_PATCHES: usize = 256;
/// Resampled position tables that are kept: one for each shape of tile.
const GRIDS_MAX: usize = 32;

/// Runs the tower on the CPU.
pub struct CpuVision {
    pool: Pool,
    state: State,
    /// The checkpoint's position table, `grid² x width`.
    table: Vec<f32>,
    /// Tables for shapes of tiles, the newest last.
    grids: Vec<(u32, u32, Arc<[f32]>)>,
    /// Tiles that were begun and whose pass has not.
    left: Vec<Tile>,
    /// Operations of the pass that have been done; all of them when there is no pass.
    done: usize,
    /// Rows of the passes before.
    rows: Vec<f32>,
}

/// A tile of a pass.
struct PlacedTile {
    tile: Tile,
    /// Its first row among the patches of the pass.
    first_patch: usize,
    /// Its first row among the tokens of the pass.
    first_token: usize,
    /// Where its packed keys and values begin.
    first_key: usize,
    first_value: usize,
    /// The position table for its shape.
    positions: Arc<[f32]>,
}

/// Everything the threads see during a pass.
struct State {
    model: Arc<VisionModel>,
    plan: VisionPlan,
    isa: Isa,
    /// What each value of a pixel's channel becomes.
    normalized: [[f32; 256]; CHANNELS],
    tiles: Vec<PlacedTile>,
    patches: usize,
    tokens: usize,
    memory: PassMemory,
    threads: SharedSlice<ThreadMemory>,
}

/// Memory for a pass of up to so many patches; what is not touched takes none.
struct PassMemory {
    patches: usize,
    /// One for each handle of the plan.
    buffers: Vec<SharedSlice<f32>>,
    input: Activations,
    keys: SharedSlice<f32>,
    values: SharedSlice<f32>,
}

/// Memory of one thread.
#[derive(Default)]
struct ThreadMemory {
    panel: Panel,
    floats: PanelMemory,
    scores: PanelMemory,
}

impl PassMemory {
    fn new(plan: &VisionPlan, config: &VisionConfig, patches: usize) -> Self {
        let tokens = patches / (config.downsample * config.downsample);
        let rows = |length| if length == Length::Patches { patches } else { tokens };
        // Padding is by tile: even tiles of one token each would not need more than this.
        let (heads, dim) = (config.heads, config.head_dim());
        Self {
            patches,
            buffers: plan.buffers.iter().map(|b| SharedSlice::new(rows(b.length) * b.width)).collect(),
            input: Activations::new(patches, plan.input_width, plan.kinds, plan.input_width),
            keys: SharedSlice::new(heads * tokens * keys_len(config.downsample.pow(2), dim)),
            values: SharedSlice::new(heads * values_len(patches, dim)),
        }
    }
}

/// Bytes that a tower with matrices of these types works in for one tile of so many patches: what a pass
/// touches of the memory that is reserved for it, and the position tables.
pub fn pass_bytes(
    config: &VisionConfig,
    dtypes: impl IntoIterator<Item = DType>,
    patches: usize,
    threads: usize,
) -> usize {
    let tokens = patches / (config.downsample * config.downsample);
    let (width, wide, heads, dim) = (config.width, config.feed_forward, config.heads, config.head_dim());
    // Residual stream, queries with keys and values, what was attended to, the feed-forward; then tokens and
    // projector.
    let of_patches = patches * (width + 3 * width + width + wide);
    let of_tokens = tokens * (config.token_elems() + config.projector + config.hidden);
    let packed = heads * (keys_len(patches, dim) + values_len(patches, dim));
    let of_threads = threads * (scores_len(patches) + CHUNK * PANEL_ROWS_MAX);
    let tables = (config.grid * config.grid + patches) * width;
    let floats = of_patches + of_tokens + packed + of_threads + tables;
    let kinds = ActivationKinds::of(dtypes);
    let of_input = |rows, width| Activations::bytes_of(rows, width, kinds);
    let input = of_input(patches, wide.max(width).max(config.patch_elems()))
        .max(of_input(tokens, config.token_elems().max(config.projector)));
    floats * size_of::<f32>() + input
}

impl CpuVision {
    /// Records `model`. Memory is taken when the first image comes.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn new(model: Arc<VisionModel>, threads: usize, isa: Isa) -> Result<Self, Error> {
        let pool = Pool::new(threads).map_err(|source| Error::Threads { threads, source })?;
        let plan = VisionPlan::new(&model);
        let n = model.config().normalization;
        let normalized = [0, 1, 2].map(|c| {
            let mut values = [0.0; 256];
            (0..256).for_each(|pixel| values[pixel] = (pixel as f32 - n.mean[c]) / n.std[c]);
            values
        });
        let memory = PassMemory::new(&plan, model.config(), PASS_PATCHES);
        let table = model.position_table();
        let threads = SharedSlice::from_vec((0..threads).map(|_| ThreadMemory::default()).collect());
        let state =
            State { model, plan, isa, normalized, tiles: Vec::new(), patches: 0, tokens: 0, memory, threads };
        let done = state.plan.ops.len();
        Ok(Self { pool, state, table, grids: Vec::new(), left: Vec::new(), done, rows: Vec::new() })
    }

    /// The position table for a shape of tile.
    fn positions(&mut self, tile: &Tile) -> Arc<[f32]> {
        let (rows, cols) = (tile.rows, tile.cols);
        if let Some(at) = self.grids.iter().position(|grid| (grid.0, grid.1) == (rows, cols)) {
            let grid = self.grids.remove(at);
            self.grids.push(grid);
        } else {
            if self.grids.len() == GRIDS_MAX {
                self.grids.remove(0);
            }
            let grid = self.state.model.config().grid;
            let table = resample_positions(&self.table, grid, rows as usize, cols as usize);
            self.grids.push((rows, cols, Arc::from(table)));
        }
        Arc::clone(&self.grids[self.grids.len() - 1].2)
    }

    /// Places the tiles of a pass.
    fn load(&mut self, tiles: &[Tile]) {
        let config = *self.state.model.config();
        let (mut patches, mut tokens, mut keys, mut values) = (0, 0, 0, 0);
        self.state.tiles.clear();
        for tile in tiles {
            let positions = self.positions(tile);
            self.state.tiles.push(PlacedTile {
                tile: tile.clone(),
                first_patch: patches,
                first_token: tokens,
                first_key: keys,
                first_value: values,
                positions,
            });
            patches += tile.patches();
            tokens += tile.tokens(config.downsample);
            keys += config.heads * keys_len(tile.patches(), config.head_dim());
            values += config.heads * values_len(tile.patches(), config.head_dim());
        }
        (self.state.patches, self.state.tokens) = (patches, tokens);
        if patches > self.state.memory.patches {
            self.state.memory = PassMemory::new(&self.state.plan, &config, patches);
        }
    }

    /// Does the next part of the pass.
    fn run_slice(&mut self) {
        let state = &self.state;
        let slices = state.patches.div_ceil(SLICE_PATCHES).max(1);
        let end = state.plan.ops.len().min(self.done + state.plan.ops.len().div_ceil(slices));
        let ops = &state.plan.ops[self.done..end];
        self.pool.run(&|worker| {
            for op in ops {
                ops::run(state, op, worker);
                worker.barrier();
            }
        });
        self.done = end;
    }
}

/// How many of `tiles` make a pass.
fn pass_len(tiles: &[Tile]) -> usize {
    let mut patches = 0;
    let fits = tiles.iter().take_while(|tile| {
        patches += tile.patches();
        patches <= PASS_PATCHES
    });
    fits.count().max(1)
}

impl VisionExecutor for CpuVision {
    fn config(&self) -> &VisionConfig {
        self.state.model.config()
    }

    fn begin(&mut self, tiles: &[Tile]) {
        let config = *self.config();
        tiles.iter().for_each(|tile| tile.check(&config).unwrap_or_else(|reason| panic!("{reason}")));
        let tokens: usize = tiles.iter().map(|tile| tile.tokens(config.downsample)).sum();
        self.rows = Vec::with_capacity(tokens * config.hidden);
        self.left = tiles.to_vec();
        self.done = self.state.plan.ops.len();
    }

    fn advance(&mut self) -> Result<Option<Vec<f32>>, ExecutorError> {
        let all = self.state.plan.ops.len();
        if self.done == all && !self.left.is_empty() {
            let rest = self.left.split_off(pass_len(&self.left));
            let pass = std::mem::replace(&mut self.left, rest);
            self.load(&pass);
            self.done = 0;
        }
        if self.done < all {
            self.run_slice();
            if self.done < all {
                return Ok(None);
            }
            let result = &self.state.memory.buffers[self.state.plan.result.0 as usize];
            let values = self.state.tokens * self.state.model.config().hidden;
            // SAFETY: no region is running, so nobody writes.
            self.rows.extend_from_slice(unsafe { result.read(0..values) });
            self.state.tiles.clear();
        }
        if !self.left.is_empty() {
            return Ok(None);
        }
        // Nobody may see what was computed with other weights than those that were opened.
        self.state.model.checkpoint().check_files().map_err(|error| ExecutorError(error.to_string()))?;
        Ok(Some(std::mem::take(&mut self.rows)))
    }
}
