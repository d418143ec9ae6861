//! What a thread does about weights before their operation: it asks for them while it waits for the others, and maps their
//! pages before the first step.

use undine_model::MatrixId;

use super::grain;
use crate::executor::State;
use crate::kernels::panels::TILE_MAX;
use crate::kernels::rows::LINE;
use crate::plan::Op;
use crate::pool::Worker;
use crate::simd::{Isa, Kernel, Native};

/// Bytes asked for at the most, so that inputs stay in the second-level cache too.
const BYTES: usize = 256 * 1024;
/// Bytes asked for between two looks at the barrier.
const STEP: usize = 1024;

/// The largest page that is common.
const PAGE_MAX: usize = 64 * 1024;

/// Weights that this thread is going to read.
pub(crate) struct Ahead<'a> {
    isa: Isa,
    weights: &'a [u8],
}

impl<'a> Ahead<'a> {
    /// What it reads first in operation `i`, if there is one and that can be known.
    pub fn new(state: &'a State, i: usize, worker: Worker) -> Self {
        let ahead = |id: MatrixId, row: usize| {
            let bytes = state.model.matrix_bytes(id);
            let start = row * (bytes.len() / state.model.matrix(id).rows);
            &bytes[start..(start + BYTES).min(bytes.len())]
        };
        let portion =
            |id| ahead(id, worker.first_portion(state.model.matrix(id).rows, grain(state)).start);
        let config = state.config();
        let weights = match state.plan.ops.get(i) {
            Some(Op::NormShortConv { op, .. }) => {
                ahead(op.in_proj.weight, worker.share(config.hidden, TILE_MAX).start)
            }
            Some(Op::NormQkv { op, .. }) => {
                ahead(op.query.weight, worker.share(config.heads, 1).start * config.head_dim)
            }
            Some(Op::LinearAdd { op, .. }) => portion(op.weight),
            Some(Op::NormSwiglu { op, .. }) => portion(op.gate),
            Some(Op::NormLogits { head, .. }) => portion(*head),
            _ => &[],
        };
        Self { isa: state.isa, weights }
    }

    /// Asks for some more. `false` if that was all.
    pub fn step(&mut self) -> bool {
        let (now, later) = self.weights.split_at(STEP.min(self.weights.len()));
        self.isa.run(Ask(now));
        self.weights = later;
        !later.is_empty()
    }
}

/// Asks for memory.
struct Ask<'a>(&'a [u8]);

impl Kernel for Ask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, s: S) {
        self.0.iter().step_by(LINE).for_each(|byte| s.prefetch_far(byte));
    }
}

/// Maps this thread's share of an operation's matrices: one call instead of a fault for every few pages. What it cannot
/// map is mapped as it is read.
pub(crate) fn map(state: &State, op: &Op, worker: Worker) {
    let matrices = match op {
        Op::NormShortConv { op, .. } => [Some(op.in_proj.weight), None, None],
        Op::NormQkv { op, .. } => [op.query, op.key, op.value].map(|op| Some(op.weight)),
        Op::LinearAdd { op, .. } => [Some(op.weight), None, None],
        Op::NormSwiglu { op, .. } => [Some(op.gate), Some(op.up), None],
        Op::NormLogits { head, .. } => [Some(*head), None, None],
        Op::Embed { .. }
        | Op::Attend { .. }
        | Op::NormMoeAdd { .. }
        | Op::SelectRows { .. }
        | Op::Sample { .. } => return,
    };
    for id in matrices.into_iter().flatten() {
        let bytes = state.model.matrix_bytes(id);
        populate(&bytes[worker.share(bytes.len(), PAGE_MAX)]);
    }
}

#[cfg(target_os = "linux")]
fn populate(bytes: &[u8]) {
    use rustix::mm::{Advice, madvise};

    let inside = bytes.as_ptr().align_offset(PAGE_MAX);
    let Some(pages) = bytes.get(inside..) else { return };
    // SAFETY: the memory is mapped, and reading it into the page tables changes nothing that the program sees. Kernels before 5.14
    // refuse.
    let _ = unsafe { madvise(pages.as_ptr().cast_mut().cast(), pages.len(), Advice::LinuxPopulateRead) };
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &[u8]) {}
