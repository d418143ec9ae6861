//! What goes into each matrix: sums of squares per column, of which importance matrices are made.
//!
//! Nothing is collected unless it was asked for; then each operation adds its input rows before they are replaced. A
//! column is summed by one thread, rows in order.

use std::ops::Range;

use undine_model::{MatrixId, Model};

use crate::kernels::activations::Activations;
use crate::memory::SharedSlice;
use crate::pool::Worker;
use crate::simd::LANES;

/// What has gone into one matrix.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MatrixInputs {
    /// Rows of input.
    pub rows: u64,
    /// Per column, the sum of the squares of its values.
    pub squares: Vec<f64>,
}

/// The same of all matrices, while threads add to it.
pub(crate) struct Inputs(Vec<Sums>);

struct Sums {
    squares: SharedSlice<f64>,
    /// One value.
    rows: SharedSlice<u64>,
}

impl Inputs {
    /// Nothing has gone into the matrices of `model`.
    pub fn new(model: &Model) -> Self {
        let sums = |i: usize| Sums {
            squares: SharedSlice::new(model.matrix(MatrixId(i as u32)).cols),
            rows: SharedSlice::new(1),
        };
        Self((0..model.matrix_count()).map(sums).collect())
    }

    /// Adds this thread's columns of some rows, which nobody writes before all threads have met again.
    pub fn add(&self, worker: Worker, id: MatrixId, input: &Activations, rows: Range<usize>) {
        let sums = &self.0[id.0 as usize];
        let width = sums.squares.len();
        let columns = worker.share(width, LANES);
        // SAFETY: these columns are this thread's, and so is the number of rows if it is the first.
        let squares = unsafe { sums.squares.write(columns.clone()) };
        for row in rows.clone() {
            // SAFETY: the rows are complete since the last barrier and stay until the next.
            let x = unsafe { input.f32s.read(row * width + columns.start..row * width + columns.end) };
            for (sum, &x) in squares.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        if worker.index == 0 {
            // SAFETY: as above.
            unsafe { sums.rows.write(0..1)[0] += rows.len() as u64 };
        }
    }

    /// What has gone into a matrix. No region may be running.
    pub fn of(&self, id: MatrixId) -> MatrixInputs {
        let sums = &self.0[id.0 as usize];
        // SAFETY: as the caller sees to, nobody writes.
        unsafe {
            MatrixInputs {
                rows: sums.rows.read(0..1)[0],
                squares: sums.squares.read(0..sums.squares.len()).to_vec(),
            }
        }
    }
}
