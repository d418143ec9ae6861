//! Matrix products against f64, for every format, number of input rows and instruction set, and how fast they
//! are.

use std::time::Instant;

use undine_core::DType;
use undine_core::dtype::QK;
use undine_core::quant::{RandomBlocks, decode, encode};

use super::activations::{ActivationKinds, Activations, GROUP, QuantizeRow, groups};
use super::matmul::MatMul;
use super::panels::Panel;
use super::rows::{Accumulate, Output};
use crate::simd::{Isa, LANES};

/// Input rows to try: what the kernels take at once, one more, one less.
const COUNTS: [usize; 10] = [1, 2, 3, 4, 7, 8, 9, 31, 33, 65];
/// Weight rows: two whole tiles of the widest kernel and a bit.
const ROWS: usize = 70;
/// Largest difference to f64, as a share of the sum of the magnitudes of the products.
const TOLERANCE: f64 = 1e-6;

struct Case {
    dtype: DType,
    rows: usize,
    cols: usize,
    weight: Vec<u8>,
    x: Activations,
}

impl Case {
    fn new(dtype: DType, rows: usize, cols: usize, inputs: usize, isa: Isa) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let values: Vec<f32> = (0..rows * cols).map(|_| random.f32() - 0.5).collect();
        let mut weight = vec![0; rows * dtype.row_bytes(cols).expect("whole blocks")];
        if dtype.is_written() {
            encode(dtype, &values, &mut weight);
        } else {
            let blocks = RandomBlocks::new(dtype, 0.3, |bytes| random.fill(bytes));
            random.fill(&mut weight);
            blocks.mend(&mut weight);
        }
        let kinds = ActivationKinds::of([dtype]);
        let x = Activations::new(inputs, cols, kinds, cols);
        // SAFETY: nobody else has the buffer.
        let values = unsafe { x.f32s.write(0..inputs * cols) };
        values.fill_with(|| random.f32() * 2.0 - 1.0);
        for (row, values) in values.chunks_exact(cols).enumerate() {
            isa.run(QuantizeRow { x: values, activations: &x, row, kinds });
        }
        Self { dtype, rows, cols, weight, x }
    }

    fn product(&self, isa: Isa, inputs: std::ops::Range<usize>, memory: &mut Panel) -> Vec<f32> {
        let mut out = vec![f32::NAN; inputs.end * self.rows];
        let matmul = MatMul {
            weight: &self.weight,
            dtype: self.dtype,
            cols: self.cols,
            rows: 0..self.rows,
            x: &self.x,
            inputs: inputs.clone(),
            bias: None,
            out: Output { start: out.as_mut_ptr(), stride: self.rows, accumulate: Accumulate::No },
        };
        matmul.run(isa, memory);
        out.split_off(inputs.start * self.rows)
    }

    /// The input of a row as the kernels see it.
    fn input(&self, t: usize) -> Vec<f64> {
        let at = t * groups(self.cols);
        // SAFETY: nobody writes.
        unsafe {
            if self.dtype.block_elems() == 1 {
                let x = self.x.f32s.read(t * self.cols..(t + 1) * self.cols);
                return x.iter().map(|&x| x.into()).collect();
            }
            let q = self.x.q.read(at * GROUP..(at + groups(self.cols)) * GROUP);
            let d = self.x.d.read(at * LANES..(at + groups(self.cols)) * LANES);
            (0..self.cols).map(|k| f64::from(q[k]) * f64::from(d[k / QK])).collect()
        }
    }
}

/// A width that is no multiple of a chunk, and for small blocks none of a group.
fn odd_width(dtype: DType) -> usize {
    match dtype.block_elems() {
        1 => 1301,
        QK => 41 * QK,
        block if block < GROUP => 21 * block,
        block => 5 * block,
    }
}

#[test]
fn products_are_right_for_every_type_and_instruction_set() {
    for &dtype in DType::ALL {
        for isa in Isa::available() {
            let case = Case::new(dtype, ROWS, odd_width(dtype), 5, isa);
            let mut weights = vec![0.0; ROWS * case.cols];
            decode(dtype, &case.weight, &mut weights);
            let y = case.product(isa, 0..5, &mut Panel::default());
            for t in 0..5 {
                let x = case.input(t);
                for (n, row) in weights.chunks_exact(case.cols).enumerate() {
                    let products = row.iter().zip(&x).map(|(&w, x)| f64::from(w) * x);
                    let (sum, size) = products.fold((0.0, 0.0), |(s, a), p| (s + p, a + p.abs()));
                    let found = f64::from(y[t * ROWS + n]);
                    let error = (found - sum).abs() / size;
                    assert!(error < TOLERANCE, "{dtype:?} {} [{t}][{n}]: {found} for {sum}", isa.name());
                }
            }
        }
    }
}

#[test]
fn products_are_equal_to_the_bit_for_every_number_of_rows() {
    for &dtype in DType::ALL {
        let case = Case::new(dtype, ROWS, odd_width(dtype), 65, Isa::detect());
        let mut memory = Panel::default();
        let mut alone = Vec::new();
        for t in 0..65 {
            alone.extend(case.product(Isa::detect(), t..t + 1, &mut memory));
        }
        for isa in Isa::available() {
            for count in COUNTS {
                let together = case.product(isa, 65 - count..65, &mut memory);
                assert!(together == alone[(65 - count) * ROWS..], "{dtype:?}, {count} rows, {}", isa.name());
            }
        }
    }
}

/// Prints 10^9 operations per second on one thread for numbers of input rows. `UNDINE_TYPES=Q4_K,Q8_0`
/// chooses types: `cargo test --release -p undine-cpu --lib -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement for people who change kernels; it has nothing to check"]
fn speed() {
    let wanted = std::env::var("UNDINE_TYPES").unwrap_or_else(|_| "Q4_0,Q4_K,Q6_K,Q8_0,F16".to_owned());
    let (rows, cols) = (2048, 2048);
    for &dtype in DType::ALL.iter().filter(|dtype| wanted.split(',').any(|name| name == dtype.name())) {
        for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
            let case = Case::new(dtype, rows, cols, 512, isa);
            let mut memory = Panel::default();
            print!("{:5} {:12}", dtype.name(), isa.name());
            for count in [1, 2, 3, 4, 6, 8, 16, 32, 64, 512] {
                let work = 2.0 * (rows * cols * count) as f64;
                let repeats = (3e9 / work / 10.0).max(1.0) as usize;
                let mut best = f64::INFINITY;
                for _ in 0..5 {
                    let start = Instant::now();
                    for _ in 0..repeats {
                        std::hint::black_box(case.product(isa, 0..count, &mut memory));
                    }
                    best = best.min(start.elapsed().as_secs_f64() / repeats as f64);
                }
                print!(" {count}:{:.0}", work / best / 1e9);
            }
            println!();
        }
    }
}

/// Prints what two threads read of weights that are in no cache, in 10^9 bytes per second, for numbers of
/// input rows: `cargo test --release -p undine-cpu --lib -- --ignored --nocapture from_memory`
#[test]
#[ignore = "a measurement for people who change kernels; it has nothing to check"]
fn from_memory() {
    const BYTES: usize = 600 << 20;
    let wanted = std::env::var("UNDINE_TYPES").unwrap_or_else(|_| "Q4_0,Q4_K,Q6_K,Q8_0,F16".to_owned());
    for &dtype in DType::ALL.iter().filter(|dtype| wanted.split(',').any(|name| name == dtype.name())) {
        for isa in Isa::available().into_iter().filter(|isa| isa.name() != "portable") {
            let mut case = Case::new(dtype, 64, 2048, 32, isa);
            case.rows *= BYTES / case.weight.len();
            case.weight = case.weight.repeat(BYTES / case.weight.len());
            print!("{:5} {:12}", dtype.name(), isa.name());
            for count in [1, 2, 3, 4, 6, 8, 16, 32] {
                let part = |rows: std::ops::Range<usize>| {
                    let (mut memory, mut out) = (Panel::default(), vec![0.0; 64 * count]);
                    for first in rows.step_by(64) {
                        let matmul = MatMul {
                            weight: &case.weight,
                            dtype,
                            cols: case.cols,
                            rows: first..first + 64,
                            x: &case.x,
                            inputs: 0..count,
                            bias: None,
                            out: Output {
                                start: out.as_mut_ptr().wrapping_sub(first),
                                stride: 64,
                                accumulate: Accumulate::No,
                            },
                        };
                        matmul.run(isa, &mut memory);
                    }
                };
                let mut best = f64::INFINITY;
                for _ in 0..2 {
                    let start = Instant::now();
                    std::thread::scope(|scope| {
                        scope.spawn(|| part(0..case.rows / 2 / 64 * 64));
                        part(case.rows / 2 / 64 * 64..case.rows);
                    });
                    best = best.min(start.elapsed().as_secs_f64());
                }
                print!(" {count}:{:.1}", case.weight.len() as f64 / best / 1e9);
            }
            println!();
        }
    }
}
