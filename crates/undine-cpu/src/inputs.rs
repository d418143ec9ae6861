//! What goes into each matrix: sums of squares per column, of which importance matrices are made, and sums of
//! products of columns near each other.
//!
//! Nothing is collected unless it was asked for; then each operation adds its input rows before they are
//! replaced. A column is summed by one thread, rows in order. The experts of a layer have sums of squares
//! only: with products they would take more memory than their weights.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use undine_core::quant::CORRELATED_COLUMNS;
use undine_model::{MatrixId, Model};
use undine_weights::WeightName;

use crate::kernels::activations::Activations;
use crate::memory::SharedSlice;
use crate::pool::Worker;
use crate::simd::{Isa, Kernel, LANES, Native, WIDE};

/// What has gone into one matrix.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MatrixInputs {
    /// Rows of input.
    pub rows: u64,
    /// Per column, the sum of the squares of its values.
    pub squares: Vec<f64>,
    /// `columns x CORRELATED_COLUMNS`: in row `c` the sums of the products of column `c` with each column up
    /// to itself of its run of [`CORRELATED_COLUMNS`], then zeros. Nothing for the matrix of an expert.
    pub products: Vec<f32>,
}

/// The same of all matrices, while threads add to it.
pub(crate) struct Inputs {
    sums: Vec<Sums>,
    /// By matrix: whose sums are its own too, because the same inputs go into both.
    leader: Vec<AtomicU32>,
}

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
        let ids = 0..model.matrix_count() as u32;
        Self {
            sums: ids.clone().map(|i| sums(MatrixId(i))).collect(),
            leader: ids.map(AtomicU32::new).collect(),
        }
    }

    /// Adds this thread's columns of some rows that go into all of `matrices`, always the same together.
    /// Nobody writes the rows before all threads have met again.
    pub fn add(
        &self,
        isa: Isa,
        worker: Worker,
        matrices: &[MatrixId],
        input: &Activations,
        rows: Range<usize>,
    ) {
        let [first, others @ ..] = matrices else { return };
        others.iter().for_each(|id| self.leader[id.0 as usize].store(first.0, Ordering::Relaxed));
        let sums = &self.sums[first.0 as usize];
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
            // SAFETY: as above, of whole rows.
            let x = unsafe { input.f32s.read(rows.start * width..rows.end * width) };
            isa.run(AddProducts { x, width, columns, products: products.as_chunks_mut().0 });
        }
        if worker.index == 0 {
            // SAFETY: as above.
            unsafe { sums.rows.write(0..1)[0] += rows.len() as u64 };
        }
    }

    /// What has gone into a matrix. No region may be running.
    pub fn of(&self, id: MatrixId) -> MatrixInputs {
        let sums = &self.sums[self.leader[id.0 as usize].load(Ordering::Relaxed) as usize];
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

/// Rows whose products are added to a sum together.
const ROWS: usize = 4;

/// Adds the products of some columns with the columns before them in their runs, and with themselves. The
/// rows of a step are summed by themselves first, so that sums over a long text stay exact enough in 32 bits.
struct AddProducts<'a> {
    /// Rows of `width`.
    x: &'a [f32],
    width: usize,
    columns: Range<usize>,
    /// Of each of the columns.
    products: &'a mut [[f32; CORRELATED_COLUMNS]],
}

impl Kernel for AddProducts<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Native>(self, _: S) {
        let Self { x, width, columns, products } = self;
        for (column, products) in columns.zip(products) {
            let start = column - column % CORRELATED_COLUMNS;
            let before = column - start + 1;
            // Whole vectors, where the run has them: what lies behind the column is not kept.
            let count = before.next_multiple_of(WIDE).min(width - start);
            let mut step = [0.0; CORRELATED_COLUMNS];
            let step = &mut step[..count];
            let blocks = x.chunks_exact(ROWS * width);
            for row in blocks.remainder().chunks_exact(width) {
                let (x, others) = (row[column], &row[start..][..count]);
                step.iter_mut().zip(others).for_each(|(sum, other)| *sum += x * other);
            }
            for block in blocks {
                let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &block[r * width + start..][..count]);
                let x: [f32; ROWS] = std::array::from_fn(|r| rows[r][column - start]);
                for (i, sum) in step.iter_mut().enumerate() {
                    *sum += (x[0] * rows[0][i] + x[1] * rows[1][i]) + (x[2] * rows[2][i] + x[3] * rows[3][i]);
                }
            }
            products.iter_mut().zip(&step[..before]).for_each(|(sum, step)| *sum += step);
        }
    }
}
