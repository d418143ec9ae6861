//! A thread's part of a matrix product: picks the kernel for the weight's format and the number of rows.

use std::marker::PhantomData;
use std::ops::Range;

use undine_core::DType;
use undine_core::dtype::QK_K;

use super::activations::Activations;
use super::floats::{self, FloatKernel};
use super::formats;
use super::panels::{Group, GroupKernel, Panels32, Panels256, TILE};
use super::rows::{Output, RowKernel, Rows32, Rows256};
use crate::simd::{Isa, LANES};

/// Up to this many input rows, weight rows are read once per four inputs instead of being packed.
/// Packing a weight costs about half a cycle, a product of the row kernel an eighth: 4 rows are about even.
const ROW_KERNEL_INPUTS_MAX: usize = 4;
/// Packed weights of a group: half of a 512 KiB second-level cache goes to them and the inputs together.
const GROUP_BYTES: usize = 128 * 1024;
/// Inputs of a block, in bytes of the same cache.
const INPUT_BYTES: usize = 128 * 1024;
/// Input rows of f32 per pass over a float matrix.
const FLOAT_INPUT_BYTES: usize = 256 * 1024;

/// `out[t][n] = W[n] · x[t] + bias[n]` for a range of `n` and all `t`.
pub struct MatMul<'a> {
    /// The whole matrix, row-major blocks.
    pub weight: &'a [u8],
    /// Its type.
    pub dtype: DType,
    /// Its columns.
    pub cols: usize,
    /// Weight rows to do.
    pub rows: Range<usize>,
    /// The input, `cols` wide, in the kind `dtype` needs.
    pub x: &'a Activations,
    /// Input rows.
    pub inputs: Range<usize>,
    /// Added to each output.
    pub bias: Option<&'a [f32]>,
    /// Where to: row `t` of the activations gives row `t` of the output.
    pub out: Output,
}

impl MatMul<'_> {
    /// Computes on this thread.
    pub fn run(self, isa: Isa, memory: &mut Group) {
        if self.rows.is_empty() || self.inputs.is_empty() {
            return;
        }
        match self.dtype {
            DType::F32 => self.float(isa, PhantomData::<floats::F32>),
            DType::F16 => self.float(isa, PhantomData::<floats::F16>),
            DType::BF16 => self.float(isa, PhantomData::<floats::BF16>),
            DType::Q4_0 => self.blocks_32(isa, memory, PhantomData::<formats::Q4_0>),
            DType::Q4_1 => self.blocks_32(isa, memory, PhantomData::<formats::Q4_1>),
            DType::Q5_0 => self.blocks_32(isa, memory, PhantomData::<formats::Q5_0>),
            DType::Q5_1 => self.blocks_32(isa, memory, PhantomData::<formats::Q5_1>),
            DType::Q8_0 => self.blocks_32(isa, memory, PhantomData::<formats::Q8_0>),
            DType::IQ4_NL => self.blocks_32(isa, memory, PhantomData::<formats::IQ4_NL>),
            DType::Q2_K => self.blocks_256(isa, memory, PhantomData::<formats::Q2_K>),
            DType::Q3_K => self.blocks_256(isa, memory, PhantomData::<formats::Q3_K>),
            DType::Q4_K => self.blocks_256(isa, memory, PhantomData::<formats::Q4_K>),
            DType::Q5_K => self.blocks_256(isa, memory, PhantomData::<formats::Q5_K>),
            DType::Q6_K => self.blocks_256(isa, memory, PhantomData::<formats::Q6_K>),
            DType::IQ4_XS => self.blocks_256(isa, memory, PhantomData::<formats::IQ4_XS>),
        }
    }

    fn float<W: floats::Float>(self, isa: Isa, float: PhantomData<W>) {
        let Self { weight, cols, rows, x, inputs, bias, out, .. } = self;
        let block = (FLOAT_INPUT_BYTES / (cols * 4)).max(1).next_multiple_of(3);
        for first in inputs.clone().step_by(block) {
            let inputs = first..(first + block).min(inputs.end);
            isa.run(FloatKernel { weight, cols, rows: rows.clone(), x, inputs, bias, out, float });
        }
    }

    fn blocks_32<F: formats::Format32>(self, isa: Isa, memory: &mut Group, format: PhantomData<F>) {
        if self.inputs.len() > ROW_KERNEL_INPUTS_MAX {
            return self.groups(format, memory, |group| isa.run(Panels32(group)));
        }
        let mut first = self.inputs.start;
        while first < self.inputs.end {
            first += match self.inputs.end - first {
                4.. => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 4>| isa.run(Rows32(kernel))),
                2.. => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 2>| isa.run(Rows32(kernel))),
                _ => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 1>| isa.run(Rows32(kernel))),
            };
        }
    }

    fn blocks_256<F: formats::Format256>(self, isa: Isa, memory: &mut Group, format: PhantomData<F>) {
        if self.inputs.len() > ROW_KERNEL_INPUTS_MAX {
            return self.groups(format, memory, |group| isa.run(Panels256(group)));
        }
        let mut first = self.inputs.start;
        while first < self.inputs.end {
            first += match self.inputs.end - first {
                4.. => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 4>| isa.run(Rows256(kernel))),
                2.. => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 2>| isa.run(Rows256(kernel))),
                _ => self
                    .row_kernel(isa, first, format, |isa, kernel: RowKernel<F, 1>| isa.run(Rows256(kernel))),
            };
        }
    }

    /// Runs a row kernel and returns how many input rows it did.
    fn row_kernel<'s, F, const NT: usize>(
        &'s self,
        isa: Isa,
        first: usize,
        format: PhantomData<F>,
        run: impl FnOnce(Isa, RowKernel<'s, F, NT>),
    ) -> usize {
        let &Self { weight, cols, x, bias, out, .. } = self;
        run(isa, RowKernel { weight, cols, rows: self.rows.clone(), x, first, bias, out, format });
        NT
    }

    /// Runs a panel kernel over groups of tiles.
    fn groups<F>(self, format: PhantomData<F>, memory: &mut Group, mut run: impl FnMut(GroupKernel<F>)) {
        let Self { weight, cols, rows, x, inputs, bias, out, .. } = self;
        let group_rows = (GROUP_BYTES / cols / TILE).max(1) * TILE;
        let input_block = (INPUT_BYTES / cols.max(QK_K)).max(LANES) / 4 * 4;
        let input_block = input_block.min(inputs.len());
        for first in rows.clone().step_by(group_rows) {
            let rows = first..(first + group_rows).min(rows.end);
            let inputs = inputs.clone();
            run(GroupKernel { weight, cols, rows, x, inputs, input_block, bias, out, memory, format });
        }
    }
}
