//! Computes windows on the CPU, several together, in steps of bounded memory.

use std::ops::Range;
use std::sync::Arc;

use indicatif::ProgressBar;
use undine_core::{
    Batch, BatchSequence, BlockId, Executor, OutputKind, OutputRow, RowOutput, Slot, StateSource,
};
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;

use super::windows::Windows;
use crate::args::{ExecutorArgs, HugePagesChoice};
use crate::args_eval::WindowArgs;
use crate::error::Error;
use crate::progress::{self, Unit};
use crate::{interrupt, session};

/// Most rows of a step.
const ROWS_MAX: usize = 512;
/// Memory for the logits of a step. A model has them twice: in its own memory and as outputs.
const LOGITS_BYTES_MAX: usize = 32 << 20;

/// Consecutive positions of a window.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// Which window.
    pub window: usize,
    /// Its positions in this step; those of earlier steps are known.
    pub positions: Range<usize>,
}

/// How much is computed at once.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Windows computed together.
    pub windows: usize,
    /// Tokens of a window.
    pub context: usize,
    /// Most rows of a step.
    rows: usize,
    /// Most rows with an output in a step.
    outputs: usize,
}

impl Layout {
    /// For windows of `args`, at most `count` of them, of a model with `vocab` tokens.
    pub fn new(args: &WindowArgs, count: usize, vocab: usize) -> Self {
        let (windows, context) = ((args.batch as usize).min(count), args.context as usize);
        let rows = ROWS_MAX.min(windows * context);
        let outputs = (LOGITS_BYTES_MAX / (size_of::<f32>() * vocab)).clamp(1, rows);
        Self { windows, context, rows, outputs }
    }

    /// The steps of some windows. The last token of a window is not computed: what follows it is not known.
    /// Positions that count have an output.
    fn steps(&self, windows: &Windows, group: Range<usize>) -> Vec<Vec<Part>> {
        let mut steps = Vec::new();
        let mut step = Vec::new();
        let (mut rows, mut outputs) = (self.rows, self.outputs);
        for window in group {
            let (mut start, scored) = (0, windows.scored(window));
            while start + 1 < windows.len(window) {
                let first_output = scored.start.max(start);
                let end = scored.end.min(start + rows).min(first_output + outputs);
                if end == start {
                    steps.push(std::mem::take(&mut step));
                    (rows, outputs) = (self.rows, self.outputs);
                    continue;
                }
                step.push(Part { window, positions: start..end });
                rows -= end - start;
                outputs -= end.saturating_sub(first_output);
                start = end;
            }
        }
        // A window of one token has nothing to compute.
        steps.extend((!step.is_empty()).then_some(step));
        steps
    }

    /// Calls `each` with every step of a text, until Ctrl-C; `bar` counts windows.
    pub fn each_step(
        &self,
        windows: &Windows,
        bar: &ProgressBar,
        mut each: impl FnMut(&[Part]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for first in (0..windows.count()).step_by(self.windows) {
            let group = first..(first + self.windows).min(windows.count());
            for step in self.steps(windows, group.clone()) {
                if interrupt::is_requested() {
                    return Err(Error::Interrupted);
                }
                each(&step)?;
            }
            bar.set_position(group.end as u64);
        }
        Ok(())
    }
}

/// Progress over the windows of a text.
pub fn bar(windows: &Windows) -> ProgressBar {
    progress::bar(windows.count() as u64, Unit::Count("windows"))
}

/// Window and position of every output of a step, in order.
pub fn places<'a>(windows: &'a Windows, step: &'a [Part]) -> impl Iterator<Item = (usize, usize)> + 'a {
    step.iter().flat_map(|part| {
        let scored = windows.scored(part.window);
        let positions = part.positions.clone().filter(move |position| scored.contains(position));
        positions.map(|position| (part.window, position))
    })
}

/// A model with memory for some windows.
pub struct Scorer {
    executor: CpuExecutor,
    batch: Batch,
    layout: Layout,
}

impl Scorer {
    /// Reserves memory.
    pub fn new(model: Arc<Model>, layout: Layout, args: &ExecutorArgs, kv: KvType) -> Result<Self, Error> {
        let blocks = (layout.context as u32).div_ceil(BLOCK_SIZE).checked_mul(layout.windows as u32);
        let options = CpuOptions {
            threads: session::threads(args),
            blocks: blocks.ok_or_else(|| Error::refused("so many windows of such a length have no place"))?,
            slots: layout.windows as u32,
            snapshots: 0,
            rows: layout.rows as u32,
            outputs: layout.outputs as u32,
            kv,
            // Steps of many rows gain nothing by themselves.
            huge_pages: args.huge_pages == HugePagesChoice::On,
            isa: Isa::detect(),
        };
        Ok(Self { executor: CpuExecutor::new(model, options)?, batch: Batch::default(), layout })
    }

    /// The executor.
    pub fn executor(&mut self) -> &mut CpuExecutor {
        &mut self.executor
    }

    /// Computes a step and returns the output of every position that counts, in order; `kind` says what it
    /// is.
    pub fn compute(
        &mut self,
        windows: &Windows,
        step: &[Part],
        kind: impl Fn(usize, usize) -> OutputKind,
    ) -> Result<Vec<RowOutput>, Error> {
        let blocks_each = (self.layout.context as u32).div_ceil(BLOCK_SIZE);
        let batch = &mut self.batch;
        batch.clear();
        for Part { window, positions } in step {
            let slot = (window % self.layout.windows) as u32;
            let (row, table) = (batch.tokens.len() as u32, batch.block_tables.len() as u32);
            batch.tokens.extend(positions.clone().map(|position| windows.input(*window, position)));
            batch.block_tables.extend((slot * blocks_each..(slot + 1) * blocks_each).map(BlockId));
            batch.sequences.push(BatchSequence {
                rows: row..batch.tokens.len() as u32,
                start: positions.start as u32,
                slot: Slot(slot),
                state: StateSource::carried(positions.start as u32),
                cached_rows: 0,
                blocks: table..table + blocks_each,
            });
            let scored = windows.scored(*window);
            for (row, position) in (row..).zip(positions.clone()) {
                if scored.contains(&position) {
                    batch.outputs.push(OutputRow { row, kind: kind(*window, position) });
                }
            }
        }
        let ticket = self.executor.submit(batch)?;
        Ok(self.executor.try_collect(ticket)?.expect("the CPU computes when a step is submitted").rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::Scoring;
    use super::*;

    #[test]
    fn steps_keep_to_rows_and_outputs() {
        let sliding = |stride| Scoring::Sliding { stride };
        for (tokens, scoring, context, rows, outputs) in [
            (8, Scoring::SecondHalf, 8, 512, 512),
            (24, Scoring::SecondHalf, 8, 5, 2),
            (36, Scoring::SecondHalf, 9, 16, 1),
            (1200, Scoring::SecondHalf, 600, 512, 100),
            (24, Scoring::All, 8, 5, 2),
            (21, sliding(3), 8, 5, 2),
            (5, sliding(3), 8, 512, 512),
            (9, sliding(4), 4, 512, 3),
        ] {
            let windows = Windows::cut((0..tokens).collect(), context, scoring, None, None).expect("windows");
            let layout = Layout { windows: windows.count(), context, rows, outputs };
            let mut next = vec![0; windows.count()];
            let steps = layout.steps(&windows, 0..windows.count());
            for step in &steps {
                assert!(step.iter().map(|part| part.positions.len()).sum::<usize>() <= rows);
                assert!(places(&windows, step).count() <= outputs);
                for (i, part) in step.iter().enumerate() {
                    assert_eq!(part.positions.start, next[part.window], "{layout:?}");
                    assert!(step[..i].iter().all(|other| other.window != part.window));
                    next[part.window] = part.positions.end;
                }
            }
            for (window, &end) in next.iter().enumerate() {
                assert_eq!(end, windows.len(window) - 1, "{layout:?} {scoring:?}");
            }
            assert!(steps.iter().all(|step| !step.is_empty()));
            let counted: usize = steps.iter().map(|step| places(&windows, step).count()).sum();
            assert_eq!(counted, windows.scored_tokens());
        }
    }
}
