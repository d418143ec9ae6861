//! What goes into each matrix: sums of squares per column, of which importance matrices are made, and sums of products of
//! columns near each other.
//!
//! Nothing is collected unless it was asked for; then each operation adds its input rows before they are replaced. A
//! column is summed by one thread, rows in order. The experts of a layer have sums of squares only: with products they
//! would take more memory than their weights.

use std::ops::Range;

use undine_core::quant::CORRELATED_COLUMNS;
use undine_model::{MatrixId, Model};
use undine_weights::WeightName;

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
    /// `columns x CORRELATED_COLUMNS`: in row `c` the sums of the products of column `c` with each column up to itself of its
    /// run of [`CORRELATED_COLUMNS`], then zeros. Nothing for the matrix of an expert.
    pub products: Vec<f32>,
}

/// The same of all matrices, while threads add to it.
pub(crate) struct Inputs(Vec<Sums>);

struct Sums {
    squares: SharedSlice<f64>,
    products: SharedSlice<f32>,
    /// One value.
    rows: SharedSlice<u64>,
}

impl Inputs {
    /// Nothing has gone into the matrices of `model`.
    pub fn new(model: &Model) -> Self {
        let sums = |id: MatrixId| {
            let cols = model.matrix(id).cols;
            let is_expert = matches!(model.matrix_name(id), WeightName::Expert { .. });
            let width = if is_expert { 0 } else { CORRELATED_COLUMNS };
            Sums {
                squares: SharedSlice::new(cols),
                products: SharedSlice::new(cols * width),
                rows: SharedSlice::new(1),
            }
        };
        Self((0..model.matrix_count()).map(|i| sums(MatrixId(i as u32))).collect())
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
        if !sums.products.is_empty() {
            let range = columns.start * CORRELATED_COLUMNS..columns.end * CORRELATED_COLUMNS;
            // SAFETY: as the sums of squares.
            let products = unsafe { sums.products.write(range) };
            for (column, products) in columns.zip(products.as_chunks_mut().0) {
                // SAFETY: as above, of whole rows.
                let row = |row: usize| unsafe { input.f32s.read(row * width..(row + 1) * width) };
                add_products(products, column, rows.clone().map(row));
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
                products: sums.products.read(0..sums.products.len()).to_vec(),
            }
        }
    }
}

/// Adds the products of one column with the columns before it in its run, and with itself. The rows of a step are summed
/// by themselves first, so that sums over a long text stay exact enough in 32 bits.
fn add_products<'a>(
    products: &mut [f32; CORRELATED_COLUMNS],
    column: usize,
    rows: impl Iterator<Item = &'a [f32]>,
) {
    let start = column - column % CORRELATED_COLUMNS;
    let mut step = [0.0; CORRELATED_COLUMNS];
    for row in rows {
        let x = row[column];
        for (sum, &other) in step.iter_mut().zip(&row[start..=column]) {
            *sum += x * other;
        }
    }
    products.iter_mut().zip(&step).for_each(|(sum, step)| *sum += step);
}
