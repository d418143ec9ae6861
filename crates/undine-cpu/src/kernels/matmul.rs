//! A thread's part of a matrix product: picks the kernel for the weight's format and the number of rows.

use std::marker::PhantomData;
use std::ops::Range;

use undine_core::DType;

use super::activations::Activations;
use super::expanded::{EXPANDED_ROWS, Wide, expanded_bytes, expander};
use super::floats::{self, FloatKernel};
use super::formats::{self, Format};
use super::panels::{Panel, PanelKernel};
use super::rows::{Output, Quantized, RowKernel};
use crate::simd::Isa;

/// Up to this many input rows, weights are read straight from the file's layout instead of being packed.
const ROW_KERNEL_INPUTS_MAX: usize = 3;
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
    pub fn run(self, isa: Isa, memory: &mut Panel) {
        if self.rows.is_empty() || self.inputs.is_empty() {
            return;
        }
        match self.dtype {
            DType::F32 => self.float(isa, PhantomData::<floats::F32>),
            DType::F16 => self.float(isa, PhantomData::<floats::F16>),
            DType::BF16 => self.float(isa, PhantomData::<floats::BF16>),
            DType::Q4_0 => self.quantized::<formats::Q4_0>(isa, memory),
            DType::Q4_1 => self.quantized::<formats::Q4_1>(isa, memory),
            DType::Q5_0 => self.quantized::<formats::Q5_0>(isa, memory),
            DType::Q5_1 => self.quantized::<formats::Q5_1>(isa, memory),
            DType::Q8_0 => self.quantized::<formats::Q8_0>(isa, memory),
            DType::IQ4_NL => self.quantized::<formats::IQ4_NL>(isa, memory),
            DType::Q2_K => self.quantized::<formats::Q2_K>(isa, memory),
            DType::Q3_K => self.quantized::<formats::Q3_K>(isa, memory),
            DType::Q4_K => self.quantized::<formats::Q4_K>(isa, memory),
            DType::Q5_K => self.quantized::<formats::Q5_K>(isa, memory),
            DType::Q6_K => self.quantized::<formats::Q6_K>(isa, memory),
            DType::IQ2_XXS => self.quantized::<formats::IQ2_XXS>(isa, memory),
            DType::IQ3_S => self.quantized::<formats::IQ3_S>(isa, memory),
            DType::IQ4_XS => self.quantized::<formats::IQ4_XS>(isa, memory),
            _ => self.expanded(isa, memory),
        }
    }

    fn float<W: floats::Float>(self, isa: Isa, float: PhantomData<W>) {
        let Self { weight, cols, rows, x, inputs, bias, out, .. } = self;
        let block = (FLOAT_INPUT_BYTES / (cols * 4)).max(1).next_multiple_of(6);
        for first in inputs.clone().step_by(block) {
            let inputs = first..(first + block).min(inputs.end);
            isa.run(FloatKernel { weight, cols, rows: rows.clone(), x, inputs, bias, out, float });
        }
    }

    /// Some rows after the other, which no output can tell.
    fn expanded(self, isa: Isa, memory: &mut Panel) {
        let expand = expander(self.dtype).expect("every type has kernels or is expanded");
        let from = self.dtype.row_bytes(self.cols).expect("matrices have whole blocks");
        let to = expanded_bytes(self.cols);
        let mut expanded = std::mem::take(&mut memory.expanded);
        expanded.resize(expanded.len().max(EXPANDED_ROWS * to), 0);
        for first in self.rows.clone().step_by(EXPANDED_ROWS) {
            let rows = first..(first + EXPANDED_ROWS).min(self.rows.end);
            for (row, out) in rows.clone().zip(expanded.chunks_exact_mut(to)) {
                expand(&self.weight[row * from..][..from], self.cols, out);
            }
            let part = MatMul {
                weight: &expanded,
                rows: 0..rows.len(),
                inputs: self.inputs.clone(),
                bias: self.bias.map(|bias| &bias[rows]),
                out: Output { start: self.out.start.wrapping_add(first), ..self.out },
                ..self
            };
            part.quantized::<Wide>(isa, memory);
        }
        memory.expanded = expanded;
    }

    fn quantized<F: Format>(self, isa: Isa, memory: &mut Panel) {
        let Self { weight, cols, rows, x, inputs, bias, out, .. } = self;
        let product = Quantized::<F> { weight, cols, rows, x, inputs, bias, out, format: PhantomData };
        match (isa, product.inputs.len()) {
            (_, 1) => isa.run(RowKernel::<F, 1>(product)),
            // The same bits without the kernels for more rows, which without vectors are no faster but were
            // half of this crate's code.
            (Isa::Portable(_), _) => {
                for input in product.inputs.clone() {
                    let one = Quantized { inputs: input..input + 1, ..product.clone() };
                    isa.run(RowKernel::<F, 1>(one));
                }
            }
            (_, 2) => isa.run_on_vectors(RowKernel::<F, 2>(product)),
            (_, ROW_KERNEL_INPUTS_MAX) => isa.run_on_vectors(RowKernel::<F, ROW_KERNEL_INPUTS_MAX>(product)),
            _ => isa.run_on_vectors(PanelKernel { product, memory }),
        }
    }
}
