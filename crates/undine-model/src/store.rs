//! The weights that handles stand for.

use std::ops::Range;
use std::sync::Arc;

use undine_core::{DType, quant};
use undine_weights::{Checkpoint, Weight};

use crate::recorder::{MatrixId, VectorId};

/// Matrices, which stay in the mapped file, and vectors (norms, filters, biases), which are small and become
/// f32.
pub(crate) struct WeightStore {
    checkpoint: Arc<Checkpoint>,
    matrices: Vec<Matrix>,
    vectors: Vec<Vec<f32>>,
}

/// A matrix of the checkpoint, or what stands in its place.
struct Matrix {
    weight: Weight,
    replaced: Option<Arc<[u8]>>,
}

impl WeightStore {
    pub fn new(checkpoint: Arc<Checkpoint>) -> Self {
        Self { checkpoint, matrices: Vec::new(), vectors: Vec::new() }
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn add_matrix(&mut self, weight: Weight) -> MatrixId {
        self.matrices.push(Matrix { weight, replaced: None });
        MatrixId(self.matrices.len() as u32 - 1)
    }

    pub fn add_vector(&mut self, weight: Weight) -> VectorId {
        let mut values = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, self.checkpoint.bytes(&weight), &mut values);
        self.vectors.push(values);
        VectorId(self.vectors.len() as u32 - 1)
    }

    pub fn matrix(&self, id: MatrixId) -> &Weight {
        &self.matrices[id.0 as usize].weight
    }

    pub fn matrix_bytes(&self, id: MatrixId) -> &[u8] {
        let matrix = &self.matrices[id.0 as usize];
        matrix.replaced.as_deref().unwrap_or_else(|| self.checkpoint.bytes(&matrix.weight))
    }

    pub fn release_matrix(&self, id: MatrixId, range: Range<usize>) {
        let matrix = &self.matrices[id.0 as usize];
        if matrix.replaced.is_none() {
            self.checkpoint.release(&matrix.weight, range);
        }
    }

    pub fn replace_matrix(&mut self, id: MatrixId, dtype: DType, bytes: Arc<[u8]>) {
        let Matrix { weight, replaced } = &mut self.matrices[id.0 as usize];
        let row_bytes = dtype.row_bytes(weight.cols);
        assert_eq!(
            row_bytes.map(|row_bytes| row_bytes * weight.rows),
            Some(bytes.len()),
            "bytes of a matrix of {} x {} as {dtype}",
            weight.rows,
            weight.cols
        );
        weight.dtype = dtype;
        *replaced = Some(bytes);
    }

    pub fn matrix_count(&self) -> usize {
        self.matrices.len()
    }

    pub fn vector(&self, id: VectorId) -> &[f32] {
        &self.vectors[id.0 as usize]
    }
}
