//! Rounding that looks at the other columns: an error in one column is made up for in columns that carry the
//! same signal.
//!
//! What an error `e` of a weight row adds to the squared error of its product with the inputs `X` is `e G e`,
//! with `G = X^T X` over the tokens of a text. Scales are chosen with the diagonal of `G` alone (the
//! importances); given them, the codes of a run of columns are chosen under all of `G` within that run, in
//! two steps:
//!
//! 1. Columns in order, each rounded to where the errors so far would best be made up for, if all columns
//!    after it could still move freely. With `G = M^T M`, `M` lower triangular, `e G e` is the sum over
//!    columns `k` of `M[k][k]^2 (e[k] + sum over j < k of F[j][k] e[j])^2`, `F[j][k] = M[k][j] / M[k][k]`,
//!    and what is in brackets is brought near 0. This is the rounding of GPTQ (Frantar et al. 2022) as
//!    written in QuIP (Chee et al. 2023).
//! 2. Columns in order, each given the code that is best while the others stay, until none changes.
//!
//! Where a code stands for several values, the first step chooses it for all of them, and there is no second.
//!
//! The result is taken only where its `e G e` is below that of rounding each value by itself.

use super::codebook::GroupFormat;
use super::{BlockFormat, finite};
use crate::dtype::QK_K;

/// Columns that are rounded with regard to each other.
pub const CORRELATED_COLUMNS: usize = QK_K;
/// Added to the mean square of every column, as a part of their mean: a text says nothing certain about
/// directions it hardly drives.
const DAMPING: f64 = 0.01;
/// Tokens by which products of different columns are thought to be too strong by chance: they are taken times
/// `rows / (rows + this)`.
const CHANCE_ROWS: f64 = 256.0;
/// Rounds of the second step; most runs need two.
const SWEEPS_MAX: usize = 4;
/// Codes of the widest format.
const CODES_MAX: usize = 64;
/// Columns whose errors are carried to the columns after them together, so that sums are loaded and stored
/// once.
const TOGETHER: usize = 8;

/// How the input columns of one matrix go together, in runs of [`CORRELATED_COLUMNS`], prepared for encoding.
#[derive(Clone, Debug)]
pub struct Correlations {
    cols: usize,
    runs: Vec<Run>,
}

/// Of `n` columns, a multiple of [`TOGETHER`]; matrices are `n x n`, row-major.
#[derive(Clone, Debug)]
struct Run {
    /// `G`.
    products: Vec<f32>,
    /// `F` in the description of this file; 0 except where `k > j`.
    feedback: Vec<f32>,
    /// `M[k][k]^2`.
    pivots: Vec<f32>,
}

impl Correlations {
    /// Of a matrix with `mean_squares.len()` columns. `coefficients` is `columns x CORRELATED_COLUMNS`: in
    /// row `c` the mean product of column `c` with each column of its run, divided by the roots of both mean
    /// squares; in a last run that is shorter, the rest of a row is not read. `rows` inputs went into them.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn new(mean_squares: &[f32], coefficients: &[f32], rows: f32) -> Self {
        let cols = mean_squares.len();
        assert_eq!(coefficients.len(), cols * CORRELATED_COLUMNS, "coefficients of {cols} columns");
        let certain = f64::from(rows) / (f64::from(rows) + CHANCE_ROWS);
        let runs = mean_squares
            .chunks(CORRELATED_COLUMNS)
            .zip(coefficients.chunks(CORRELATED_COLUMNS * CORRELATED_COLUMNS))
            .map(|(squares, coefficients)| Run::new(squares, coefficients, certain))
            .collect();
        Self { cols, runs }
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Chooses the codes of one encoded row anew; its scales stay.
    #[inline(always)]
    pub(super) fn round<F: BlockFormat<BYTES, ELEMS>, const BYTES: usize, const ELEMS: usize>(
        &self,
        row: &[f32],
        blocks: &mut [u8],
    ) {
        let blocks = blocks.as_chunks_mut::<BYTES>().0.chunks_mut(CORRELATED_COLUMNS / ELEMS);
        for ((x, blocks), run) in row.chunks(CORRELATED_COLUMNS).zip(blocks).zip(&self.runs) {
            run.round::<F, BYTES, ELEMS>(x, blocks);
        }
    }
}

impl Correlations {
    /// As [`Self::round`], for formats whose codes stand for several values.
    pub(super) fn round_groups<F: GroupFormat<BYTES, D>, const BYTES: usize, const D: usize>(
        &self,
        row: &[f32],
        blocks: &mut [u8],
    ) {
        let blocks = blocks.as_chunks_mut::<BYTES>().0.iter_mut();
        for ((x, block), run) in row.as_chunks::<CORRELATED_COLUMNS>().0.iter().zip(blocks).zip(&self.runs) {
            let x = x.map(finite);
            let (mut alone, mut together) = ([0.0; CORRELATED_COLUMNS], *block);
            F::decode(block, &mut alone);
            let error = run.carry_groups::<D>(&x, |group, target, weights| {
                F::set_group(&mut together, group, target, weights)
            });
            if error < run.carry_groups::<D>(&x, |group, _, _| alone.as_chunks().0[group]) {
                *block = together;
            }
        }
    }
}

impl Run {
    /// The first step for groups of `D` columns: `choose` finds values for a group near a target. Returns `e
    /// G e`.
    fn carry_groups<const D: usize>(
        &self,
        x: &[f32; CORRELATED_COLUMNS],
        mut choose: impl FnMut(usize, &[f32; D], &[f32; D]) -> [f32; D],
    ) -> f32 {
        let mut carried = [0.0; CORRELATED_COLUMNS];
        let mut total = 0.0;
        for (group, (x, weights)) in
            x.as_chunks::<D>().0.iter().zip(self.pivots.as_chunks::<D>().0).enumerate()
        {
            let first = group * D;
            let target = std::array::from_fn(|i| x[i] - carried[first + i]);
            let y = choose(group, &target, weights);
            for i in 0..D {
                let (k, error) = (first + i, y[i] - x[i]);
                let left = error + carried[k];
                total += weights[i] * (left * left);
                let factors = &self.feedback[k * CORRELATED_COLUMNS..][k + 1..CORRELATED_COLUMNS];
                carried[k + 1..].iter_mut().zip(factors).for_each(|(sum, factor)| *sum += error * factor);
            }
        }
        total
    }

    fn new(squares: &[f32], coefficients: &[f32], certain: f64) -> Self {
        let n = squares.len();
        let mean = squares.iter().map(|&square| f64::from(square)).sum::<f64>() / n as f64;
        let mean = if mean > 0.0 { mean } else { 1.0 };
        let mut products = vec![0.0f64; n * n];
        for (i, row) in products.chunks_exact_mut(n).enumerate() {
            for (j, product) in row.iter_mut().enumerate() {
                // Either half would do; both, so that what is rounded in a file stays symmetric.
                let coefficient = 0.5
                    * (f64::from(coefficients[i * CORRELATED_COLUMNS + j])
                        + f64::from(coefficients[j * CORRELATED_COLUMNS + i]));
                let root = (f64::from(squares[i]) * f64::from(squares[j])).sqrt() / mean;
                *product = if i == j {
                    f64::from(squares[i]) / mean + DAMPING
                } else {
                    certain * coefficient.clamp(-1.0, 1.0) * root
                };
            }
        }
        let (feedback, pivots) = feedback(&products, n);
        Self { products: products.iter().map(|&x| x as f32).collect(), feedback, pivots }
    }

    fn round<F: BlockFormat<BYTES, ELEMS>, const BYTES: usize, const ELEMS: usize>(
        &self,
        x: &[f32],
        blocks: &mut [[u8; BYTES]],
    ) {
        let mut state = Rounding::new::<F, BYTES, ELEMS>(x, blocks);
        let (alone, alone_error) = (state.codes, state.carry(self, |rounding, k, _| rounding.codes[k]));
        let error = state.carry(self, |rounding, k, carried| rounding.nearest(k, rounding.x[k] - carried));
        if error > alone_error {
            state.codes = alone;
        }
        state.settle(&self.products);
        for (block, codes) in blocks.iter_mut().zip(state.codes.as_chunks().0) {
            F::set_codes(codes, block);
        }
    }
}

/// `F` and pivots of a positive definite `n x n` matrix. Where a file's numbers are not those of one, columns
/// before the place take no feedback.
fn feedback(products: &[f64], n: usize) -> (Vec<f32>, Vec<f32>) {
    let mut rest = products.to_vec();
    let (mut feedback, mut pivots) = (vec![0.0f32; n * n], vec![0.0f32; n]);
    for k in (0..n).rev() {
        let (before, row) = rest.split_at_mut(k * n);
        let pivot = row[k];
        // Damping is the least that a positive definite one leaves, but for rounding.
        if !(DAMPING / 2.0..f64::INFINITY).contains(&pivot) {
            continue;
        }
        pivots[k] = pivot as f32;
        for (i, before) in before.chunks_exact_mut(n).enumerate() {
            let factor = row[i] / pivot;
            feedback[i * n + k] = factor as f32;
            for (value, &other) in before[..=i].iter_mut().zip(&row[..=i]) {
                *value -= factor * other;
            }
        }
    }
    (feedback, pivots)
}

/// The codes of a run while they are chosen.
struct Rounding {
    n: usize,
    x: [f32; CORRELATED_COLUMNS],
    codes: [u8; CORRELATED_COLUMNS],
    code_max: u8,
    /// What each code stands for in each column.
    ladder: [[f32; CORRELATED_COLUMNS]; CODES_MAX],
}

impl Rounding {
    #[inline(always)]
    fn new<F: BlockFormat<BYTES, ELEMS>, const BYTES: usize, const ELEMS: usize>(
        row: &[f32],
        blocks: &[[u8; BYTES]],
    ) -> Self {
        const { assert!((F::CODE_MAX as usize) < CODES_MAX && CORRELATED_COLUMNS.is_multiple_of(ELEMS)) };
        let mut state = Self {
            n: row.len(),
            x: [0.0; CORRELATED_COLUMNS],
            codes: [0; CORRELATED_COLUMNS],
            code_max: F::CODE_MAX,
            ladder: [[0.0; CORRELATED_COLUMNS]; CODES_MAX],
        };
        for (x, &v) in state.x.iter_mut().zip(row) {
            *x = finite(v);
        }
        for (block, codes) in blocks.iter().zip(state.codes.as_chunks_mut().0) {
            *codes = F::codes(block);
        }
        for (code, values) in state.ladder[..=usize::from(F::CODE_MAX)].iter_mut().enumerate() {
            for (block, values) in blocks.iter().zip(values.as_chunks_mut().0) {
                F::values(block, &[code as u8; ELEMS], values);
            }
        }
        state
    }

    #[inline(always)]
    fn error(&self, k: usize) -> f32 {
        self.ladder[usize::from(self.codes[k])][k] - self.x[k]
    }

    /// The code nearest to `target` in column `k`, from the present one on: levels are in ascending or
    /// descending order.
    #[inline(always)]
    fn nearest(&self, k: usize, target: f32) -> u8 {
        let away = |code: u8| (self.ladder[usize::from(code)][k] - target).abs();
        let (mut code, mut least) = (self.codes[k], away(self.codes[k]));
        for step in [1, -1] {
            while let Some(next) = code.checked_add_signed(step).filter(|&next| next <= self.code_max) {
                let error = away(next);
                // In this form it ends also where a target is no number.
                if error < least {
                    (code, least) = (next, error);
                } else {
                    break;
                }
            }
        }
        code
    }

    /// The first step: gives each column in order the code that `choose` finds for it and for what earlier
    /// errors carry to it. Returns `e G e`.
    #[inline(always)]
    fn carry(&mut self, run: &Run, choose: impl Fn(&Self, usize, f32) -> u8) -> f32 {
        let mut carried = [0.0; CORRELATED_COLUMNS];
        let mut total = 0.0;
        for start in (0..self.n).step_by(TOGETHER) {
            let mut errors = [0.0; TOGETHER];
            for (i, k) in (start..start + TOGETHER).enumerate() {
                self.codes[k] = choose(self, k, carried[k]);
                errors[i] = self.error(k);
                let left = errors[i] + carried[k];
                total += run.pivots[k] * (left * left);
                let near = k + 1..start + TOGETHER;
                for (carried, factor) in
                    carried[near.clone()].iter_mut().zip(&run.feedback[k * self.n..][near])
                {
                    *carried += errors[i] * factor;
                }
            }
            let rows = &run.feedback[start * self.n..];
            add_rows(&mut carried[start + TOGETHER..self.n], &errors, rows, self.n, start + TOGETHER);
        }
        total
    }

    /// The second step.
    fn settle(&mut self, products: &[f32]) {
        let n = self.n;
        // G e
        let mut gradient = [0.0; CORRELATED_COLUMNS];
        for start in (0..n).step_by(TOGETHER) {
            let errors: [f32; TOGETHER] = std::array::from_fn(|i| self.error(start + i));
            add_rows(&mut gradient[..n], &errors, &products[start * n..], n, 0);
        }
        for _ in 0..SWEEPS_MAX {
            let mut changed = false;
            for k in 0..n {
                let products = &products[k * n..][..n];
                let error = self.error(k);
                let code = self.nearest(k, self.x[k] + error - gradient[k] / products[k]);
                if code != self.codes[k] {
                    self.codes[k] = code;
                    let change = self.error(k) - error;
                    gradient[..n]
                        .iter_mut()
                        .zip(products)
                        .for_each(|(sum, product)| *sum += change * product);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }
}

/// Adds to `sums` the rows of a matrix of `n` columns from its column `from` on, each times a factor.
#[inline(always)]
fn add_rows(sums: &mut [f32], factors: &[f32; TOGETHER], matrix: &[f32], n: usize, from: usize) {
    let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &matrix[i * n + from..][..sums.len()]);
    for (k, sum) in sums.iter_mut().enumerate() {
        let mut all = 0.0;
        for i in 0..TOGETHER {
            all += factors[i] * rows[i][k];
        }
        *sum += all;
    }
}
