//! The tensors of a model whose type is to be chosen, and what they become in a type.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use undine_core::quant::Correlations;
use undine_core::{DType, quant};
use undine_model::{MatrixId, Model};
use undine_weights::{Coefficients, Imatrix, ImatrixEntry, LayerWeight, WeightName, gguf_name};

use super::ladder::Candidate;
use crate::error::Error;

/// Where the data of a tensor begins in a file: at a multiple of this.
const ALIGNMENT: u64 = 32;
/// Rows of a tensor that its error is estimated from, spread over all of it.
const SAMPLE_ROWS: usize = 256;

/// The matrices of a tensor in some type.
pub type Quantized = Vec<(MatrixId, Arc<[u8]>)>;

/// A tensor: one matrix, or the matrices of all experts of a layer.
pub struct Tensor {
    /// Its name in a GGUF file.
    pub name: String,
    matrices: Vec<MatrixId>,
    /// Rows of each matrix.
    rows: usize,
    cols: usize,
    /// `matrices x cols`: mean squares of inputs, if they are known.
    importance: Option<Vec<f32>>,
    /// How the columns of a single matrix go together, if that is known.
    coefficients: Option<Coefficients>,
}

impl Tensor {
    /// All tensors of a model that may be quantized: all matrices but the routers.
    ///
    /// # Errors
    /// If the importance matrix is of another model.
    pub fn all(model: &Model, imatrix: &Imatrix) -> Result<Vec<Self>, Error> {
        let mut matrices: BTreeMap<String, Vec<MatrixId>> = BTreeMap::new();
        for id in (0..model.matrix_count() as u32).map(MatrixId) {
            let name = model.matrix_name(id);
            if !matches!(name, WeightName::Layer(_, LayerWeight::Router)) {
                matrices.entry(gguf_name(name)).or_default().push(id);
            }
        }
        let tensor = |(name, matrices): (String, Vec<MatrixId>)| -> Result<Self, Error> {
            let weight = model.matrix(matrices[0]);
            let (rows, cols) = (weight.rows, weight.cols);
            let entry = imatrix.entries.get(&name);
            let importance = entry.map(|entry| entry.mean_squares(matrices.len(), cols)).transpose()?;
            let coefficients = entry.and_then(ImatrixEntry::coefficients);
            Ok(Self { name, matrices, rows, cols, importance, coefficients })
        };
        matrices.into_iter().map(tensor).collect()
    }

    /// Bytes in a file, with padding; `None` if rows are not whole blocks of this type.
    pub fn bytes(&self, dtype: DType) -> Option<u64> {
        let bytes = dtype.row_bytes(self.cols)? as u64 * (self.rows * self.matrices.len()) as u64;
        Some(bytes.next_multiple_of(ALIGNMENT))
    }

    /// Values in it.
    pub fn values(&self) -> u64 {
        (self.rows * self.cols * self.matrices.len()) as u64
    }

    /// Type that the model has it in.
    pub fn dtype(&self, model: &Model) -> DType {
        model.matrix(self.matrices[0]).dtype
    }

    /// Its matrices in another type, from their values in `model`: the same bytes as a file has.
    pub fn quantized(&self, model: &Model, dtype: DType, threads: usize) -> Quantized {
        let row_bytes = dtype.row_bytes(self.cols).expect("candidates have whole blocks");
        let rows_each = self.rows.div_ceil(threads);
        let correlations = &self.correlations();
        let quantize = |(matrix, &id): (usize, &MatrixId)| {
            let mut bytes = vec![0; self.rows * row_bytes];
            thread::scope(|scope| {
                for (part, out) in bytes.chunks_mut(rows_each * row_bytes).enumerate() {
                    scope.spawn(move || {
                        let mut values = vec![0.0; self.cols];
                        for (row, out) in (part * rows_each..).zip(out.chunks_exact_mut(row_bytes)) {
                            read_row(model, id, row, &mut values);
                            self.encode(matrix, dtype, &values, correlations.as_ref(), out);
                        }
                    });
                }
            });
            (id, bytes.into())
        };
        self.matrices.iter().enumerate().map(quantize).collect()
    }

    /// How the columns go together, prepared for encoding.
    fn correlations(&self) -> Option<Correlations> {
        let (coefficients, importance) = self.coefficients.as_ref().zip(self.importance.as_ref())?;
        Some(coefficients.correlations(importance))
    }

    /// Encodes a row of one of the matrices.
    fn encode(
        &self,
        matrix: usize,
        dtype: DType,
        values: &[f32],
        correlations: Option<&Correlations>,
        out: &mut [u8],
    ) {
        match &self.importance {
            Some(importance) if !dtype.is_float() => {
                let importance = &importance[matrix * self.cols..(matrix + 1) * self.cols];
                quant::encode_weighted(dtype, values, importance, correlations, out);
            }
            _ => quant::encode(dtype, values, out),
        }
    }

    /// The weighted squared error of a type, estimated from some rows: what it adds to the squares of the
    /// outputs of all rows, per token.
    fn error(&self, model: &Model, dtype: DType, correlations: Option<&Correlations>) -> f64 {
        let all = self.rows * self.matrices.len();
        let stride = all.div_ceil(SAMPLE_ROWS);
        let (mut values, mut decoded) = (vec![0.0; self.cols], vec![0.0; self.cols]);
        let mut blocks = vec![0; dtype.row_bytes(self.cols).expect("candidates have whole blocks")];
        let (mut error, mut sampled) = (0.0, 0);
        for row in (stride / 2..all).step_by(stride) {
            let matrix = row / self.rows;
            read_row(model, self.matrices[matrix], row % self.rows, &mut values);
            self.encode(matrix, dtype, &values, correlations, &mut blocks);
            quant::decode(dtype, &blocks, &mut decoded);
            for (column, (value, decoded)) in values.iter().zip(&decoded).enumerate() {
                let weight = self.importance.as_ref().map_or(1.0, |all| all[matrix * self.cols + column]);
                error += f64::from(weight) * f64::from(value - decoded).powi(2);
            }
            sampled += 1;
        }
        error * all as f64 / f64::from(sampled)
    }
}

fn read_row(model: &Model, id: MatrixId, row: usize, values: &mut [f32]) {
    let dtype = model.matrix(id).dtype;
    let row_bytes = dtype.row_bytes(values.len()).expect("validated at open");
    quant::decode(dtype, &model.matrix_bytes(id)[row * row_bytes..][..row_bytes], values);
}

/// Each tensor's candidates, with the weighted error as their loss; a type it has already costs nothing.
pub fn candidates(
    model: &Model,
    tensors: &[Tensor],
    dtypes: impl Sync + Fn(&Tensor) -> &'static [DType],
    threads: usize,
) -> Vec<Vec<Candidate>> {
    let of = |tensor: &Tensor| -> Vec<Candidate> {
        let own = tensor.dtype(model);
        let correlations = tensor.correlations();
        let dtypes = dtypes(tensor).iter().copied().filter(|&dtype| dtype != own).chain([own]);
        dtypes
            .filter_map(|dtype| {
                let bytes = tensor.bytes(dtype)?;
                let loss = if dtype == own { 0.0 } else { tensor.error(model, dtype, correlations.as_ref()) };
                Some(Candidate { dtype, bytes, loss })
            })
            .collect()
    };
    let mut all = vec![Vec::new(); tensors.len()];
    thread::scope(|scope| {
        // Every so many tensors, so that all threads have large and small ones.
        let work =
            |first: usize| move || tensors.iter().skip(first).step_by(threads).map(of).collect::<Vec<_>>();
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(work(first))).collect();
        for (first, part) in parts.into_iter().enumerate() {
            let found = part.join().expect("measuring errors does not panic");
            all.iter_mut().skip(first).step_by(threads).zip(found).for_each(|(place, found)| *place = found);
        }
    });
    all
}
