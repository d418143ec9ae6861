//! The weights that handles stand for.

use std::sync::Arc;

use undine_core::quant;
use undine_weights::{Checkpoint, Weight};

use crate::recorder::{MatrixId, VectorId};

/// Matrices, which stay in the mapped file, and vectors (norms, filters, biases), which are small and become f32.
pub(crate) struct WeightStore {
    checkpoint: Arc<Checkpoint>,
    matrices: Vec<Weight>,
    vectors: Vec<Vec<f32>>,
}

impl WeightStore {
    pub fn new(checkpoint: Arc<Checkpoint>) -> Self {
        Self { checkpoint, matrices: Vec::new(), vectors: Vec::new() }
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn add_matrix(&mut self, weight: Weight) -> MatrixId {
        self.matrices.push(weight);
        MatrixId(self.matrices.len() as u32 - 1)
    }

    pub fn add_vector(&mut self, weight: Weight) -> VectorId {
        let mut values = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, self.checkpoint.bytes(&weight), &mut values);
        self.vectors.push(values);
        VectorId(self.vectors.len() as u32 - 1)
    }

    pub fn matrix(&self, id: MatrixId) -> &Weight {
        &self.matrices[id.0 as usize]
    }

    pub fn matrix_bytes(&self, id: MatrixId) -> &[u8] {
        self.checkpoint.bytes(self.matrix(id))
    }

    pub fn matrix_count(&self) -> usize {
        self.matrices.len()
    }

    pub fn vector(&self, id: VectorId) -> &[f32] {
        &self.vectors[id.0 as usize]
    }
}
