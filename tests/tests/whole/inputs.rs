//! What the CPU backend sums of each matrix's inputs, squares and products, against the same worked out
//! beside the oracle in 64 bits, for dense models and mixtures of experts.

use std::collections::HashMap;
use std::sync::Arc;

use undine_core::quant::CORRELATED_COLUMNS;
use undine_core::{Executor, quant};
use undine_cpu::{CpuExecutor, Isa, KvType, MatrixInputs};
use undine_model::{
    Linear, MatrixId, Model, Moe, Oracle, Qkv, Recorder, Rows, ShortConv, Swiglu, VectorId, lfm2,
};
use undine_tests::{Expected, Part, batch, capacity, cpu_options, data, model};
use undine_weights::WeightName;

/// The oracle with sums beside it. It reads what the oracle has computed and norms, routes and multiplies by
/// itself.
struct Tap<'a> {
    model: &'a Model,
    oracle: Oracle,
    inputs: HashMap<u32, (u64, Vec<f64>)>,
    /// By matrix: `cols x cols`, of all columns.
    products: HashMap<u32, Vec<f64>>,
}

impl Tap<'_> {
    fn add(&mut self, id: MatrixId, rows: &[Vec<f64>]) {
        let cols = self.model.matrix(id).cols;
        let (count, squares) = self.inputs.entry(id.0).or_insert_with(|| (0, vec![0.0; cols]));
        *count += rows.len() as u64;
        rows.iter().for_each(|row| squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x));
        let products = self.products.entry(id.0).or_insert_with(|| vec![0.0; cols * cols]);
        for row in rows {
            for (x, products) in row.iter().zip(products.chunks_exact_mut(cols)) {
                products.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
            }
        }
    }

    fn rows(&self, x: Rows, width: usize) -> Vec<Vec<f64>> {
        let values = self.oracle.read(x);
        values.chunks_exact(width).map(|row| row.iter().map(|&x| x.into()).collect()).collect()
    }

    fn normed(&self, x: Rows, norm: VectorId) -> Vec<Vec<f64>> {
        let gain = self.model.vector(norm);
        let mut rows = self.rows(x, gain.len());
        for row in &mut rows {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + f64::from(self.model.config().norm_eps)).sqrt();
            row.iter_mut().zip(gain).for_each(|(x, &gain)| *x *= scale * f64::from(gain));
        }
        rows
    }

    fn product(&self, id: MatrixId, x: &[f64]) -> Vec<f64> {
        let weight = self.model.matrix(id);
        let mut values = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, self.model.matrix_bytes(id), &mut values);
        let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
        values.chunks_exact(weight.cols).map(dot).collect()
    }

    fn experts(&mut self, op: Moe, row: &[f64]) {
        let active = self.model.config().moe.unwrap().experts_active;
        let scores = self.product(op.router, row).into_iter().map(|score| 1.0 / (1.0 + (-score).exp()));
        let bias = |e: usize| op.bias.map_or(0.0, |bias| f64::from(self.model.vector(bias)[e]));
        let mut order: Vec<(usize, f64)> =
            scores.enumerate().map(|(e, score)| (e, score + bias(e))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        for &(expert, _) in &order[..active] {
            let [gate, up, down] = op.experts.of(expert);
            let silu = |x: f64| x / (1.0 + (-x).exp());
            let hidden = self.product(gate, row).into_iter().zip(self.product(up, row));
            let hidden = hidden.map(|(gate, up)| silu(gate) * up).collect();
            self.add(gate, &[row.to_vec()]);
            self.add(up, &[row.to_vec()]);
            self.add(down, &[hidden]);
        }
    }
}

impl Recorder for Tap<'_> {
    fn embed(&mut self, table: MatrixId) -> Rows {
        self.oracle.embed(table)
    }

    fn norm_short_conv(&mut self, x: Rows, op: ShortConv) -> Rows {
        self.add(op.in_proj.weight, &self.normed(x, op.norm));
        self.oracle.norm_short_conv(x, op)
    }

    fn norm_qkv(&mut self, x: Rows, op: Qkv) -> Rows {
        for linear in [op.query, op.key, op.value] {
            self.add(linear.weight, &self.normed(x, op.norm));
        }
        self.oracle.norm_qkv(x, op)
    }

    fn attend(&mut self, query: Rows, layer: u32) -> Rows {
        self.oracle.attend(query, layer)
    }

    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows) {
        self.add(op.weight, &self.rows(x, self.model.matrix(op.weight).cols));
        self.oracle.linear_add(x, op, residual);
    }

    fn norm_swiglu(&mut self, x: Rows, op: Swiglu) -> Rows {
        for id in [op.gate, op.up] {
            self.add(id, &self.normed(x, op.norm));
        }
        self.oracle.norm_swiglu(x, op)
    }

    fn norm_moe_add(&mut self, x: Rows, op: Moe) {
        let rows = self.normed(x, op.norm);
        self.add(op.router, &rows);
        rows.iter().for_each(|row| self.experts(op, row));
        self.oracle.norm_moe_add(x, op);
    }

    fn select_rows(&mut self, x: Rows) -> Rows {
        self.oracle.select_rows(x)
    }

    fn norm_logits(&mut self, x: Rows, norm: VectorId, head: MatrixId) -> Rows {
        self.add(head, &self.normed(x, norm));
        self.oracle.norm_logits(x, norm, head)
    }

    fn sample(&mut self, logits: Rows) {
        self.oracle.sample(logits);
    }
}

#[test]
fn sums_are_those_beside_the_oracle() {
    for case in ["dense", "moe"] {
        let folder = data("oracle").join(case);
        let (expected, model) = (Expected::open(&folder), model(&folder));
        let tokens = expected.tokens("input_ids");
        let (first, second) = tokens.split_at(tokens.len() / 3);
        let steps = [
            // Two sequences, then more of the first: sums go on from step to step.
            batch(&[
                Part { sequence: 0, start: 0, tokens: first },
                Part { sequence: 1, start: 0, tokens: second },
            ]),
            batch(&[Part { sequence: 0, start: first.len() as u32, tokens: second }]),
        ];
        let oracle = Oracle::new(Arc::clone(&model), capacity(&model));
        let mut tap = Tap { model: &model, oracle, inputs: HashMap::new(), products: HashMap::new() };
        for step in &steps {
            tap.oracle.begin(step);
            lfm2::record(&model, &mut tap);
        }
        for threads in [1, 3] {
            let options = cpu_options(Isa::detect(), threads, KvType::F32);
            let mut cpu = CpuExecutor::new(Arc::clone(&model), options).unwrap();
            assert_eq!(cpu.inputs(MatrixId(0)), None, "nothing is collected unless asked for");
            cpu.collect_inputs();
            for step in &steps {
                cpu.submit(step).unwrap();
            }
            check(&tap, &cpu, &format!("{case} with {threads} threads"));
        }
    }
}

fn check(tap: &Tap, cpu: &CpuExecutor, what: &str) {
    for id in (0..tap.model.matrix_count() as u32).map(MatrixId) {
        let what = format!("{what}, {:?}", tap.model.matrix_name(id));
        let MatrixInputs { rows, squares, products } = cpu.inputs(id).unwrap();
        // An expert may have had no rows.
        let nothing = (0, vec![0.0; squares.len()]);
        let (expected_rows, expected) = tap.inputs.get(&id.0).unwrap_or(&nothing);
        assert_eq!(rows, *expected_rows, "{what}");
        let scale = expected.iter().sum::<f64>() / expected.len() as f64;
        for (column, (found, expected)) in squares.iter().zip(expected).enumerate() {
            let difference = (found - expected).abs();
            assert!(
                difference <= 1e-4 * expected + 1e-6 * scale,
                "{what}, column {column}: {found}, expected {expected}"
            );
        }
        if matches!(tap.model.matrix_name(id), WeightName::Expert { .. }) {
            assert!(products.is_empty(), "{what}");
            continue;
        }
        let cols = squares.len();
        assert_eq!(products.len(), cols * CORRELATED_COLUMNS, "{what}");
        for (column, products) in products.chunks_exact(CORRELATED_COLUMNS).enumerate() {
            let start = column - column % CORRELATED_COLUMNS;
            for (i, &found) in products.iter().enumerate() {
                let other = start + i;
                let all = tap.products.get(&id.0).filter(|_| other <= column);
                let expected = all.map_or(0.0, |all| all[column * cols + other]);
                let bound =
                    1e-4 * (squares[column] * squares.get(other).unwrap_or(&0.0)).sqrt() + 1e-6 * scale;
                let difference = (f64::from(found) - expected).abs();
                assert!(
                    difference <= bound,
                    "{what}, columns {column} and {other}: {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn a_replaced_matrix_is_what_the_model_computes_with() {
    let folder = data("oracle").join("dense");
    let tokens = Expected::open(&folder).tokens("input_ids");
    let logits = |model: Arc<Model>| {
        let mut cpu = undine_tests::cpu(&model, 2);
        undine_tests::logits(&mut cpu, &[Part { sequence: 0, start: 0, tokens: &tokens }])
    };
    let unchanged = logits(model(&folder));
    let mut changed = Arc::into_inner(model(&folder)).unwrap();
    for id in (0..changed.matrix_count() as u32).map(MatrixId) {
        let weight = *changed.matrix(id);
        let mut values = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, changed.matrix_bytes(id), &mut values);
        let mut bytes = vec![0; undine_core::DType::F32.row_bytes(values.len()).unwrap()];
        quant::encode(undine_core::DType::F32, &values, &mut bytes);
        changed.replace_matrix(id, undine_core::DType::F32, bytes.into());
        assert_eq!(changed.matrix(id).dtype, undine_core::DType::F32);
    }
    // The same values in another type: f32 products of both are equal.
    assert_eq!(logits(Arc::new(changed)), unchanged);
    let mut zeroed = Arc::into_inner(model(&folder)).unwrap();
    let (head, weight) = (zeroed.head, *zeroed.matrix(zeroed.head));
    let bytes = vec![0; weight.dtype.row_bytes(weight.cols).unwrap() * weight.rows];
    zeroed.replace_matrix(head, weight.dtype, bytes.into());
    assert!(logits(Arc::new(zeroed)).iter().flatten().all(|&logit| logit == 0.0));
}
