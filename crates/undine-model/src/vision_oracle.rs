//! The plainest vision tower, against which every other one is checked: one tile at a time, f32 values, one
//! thread, dot products summed in f64.

use std::sync::Arc;

use undine_core::vision::CHANNELS;
use undine_core::{ExecutorError, PatchOrder, Tile, VisionConfig, VisionExecutor, quant};

use crate::oracle::dot;
use crate::recorder::{Linear, MatrixId, Rows};
use crate::vision::{
    Gelu, LayerNorm, LinearGelu, VisionModel, VisionQkv, VisionRecorder, record, resample_positions,
};

/// The reference tower.
pub struct VisionOracle {
    model: Arc<VisionModel>,
    /// What was begun: it is all done in one part.
    begun: Vec<Tile>,
}

impl VisionOracle {
    /// A tower for `model`.
    pub fn new(model: Arc<VisionModel>) -> Self {
        Self { model, begun: Vec::new() }
    }
}

impl VisionExecutor for VisionOracle {
    fn config(&self) -> &VisionConfig {
        self.model.config()
    }

    fn begin(&mut self, tiles: &[Tile]) {
        self.begun = tiles.to_vec();
    }

    fn advance(&mut self) -> Result<Option<Vec<f32>>, ExecutorError> {
        let mut rows = Vec::new();
        for tile in self.begun.drain(..) {
            let mut pass = Pass { model: &self.model, tile: &tile, arena: Vec::new(), rows: Vec::new() };
            record(&self.model, &mut pass);
            rows.extend(pass.rows);
        }
        Ok(Some(rows))
    }
}

/// One tile on its way; it executes while it "records".
struct Pass<'a> {
    model: &'a VisionModel,
    tile: &'a Tile,
    arena: Vec<Vec<f32>>,
    rows: Vec<f32>,
}

impl Pass<'_> {
    fn push(&mut self, values: Vec<f32>) -> Rows {
        self.arena.push(values);
        Rows(self.arena.len() as u32 - 1)
    }

    fn linear(&self, x: &[f32], op: Linear) -> Vec<f32> {
        let weight = self.model.matrix(op.weight);
        let mut w = vec![0.0; weight.rows * weight.cols];
        quant::decode(weight.dtype, self.model.matrix_bytes(op.weight), &mut w);
        let bias = op.bias.map(|bias| self.model.vector(bias));
        let row = |x: &[f32]| -> Vec<f32> {
            let outputs = w.chunks_exact(weight.cols).enumerate();
            outputs.map(|(o, w)| dot(w, x) + bias.map_or(0.0, |bias| bias[o])).collect()
        };
        x.chunks_exact(weight.cols).flat_map(row).collect()
    }

    fn norm(&self, x: &[f32], norm: LayerNorm) -> Vec<f32> {
        let (gain, bias) = (self.model.vector(norm.gain), self.model.vector(norm.bias));
        let row = |x: &[f32]| -> Vec<f32> {
            let len = x.len() as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / len;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len;
            let scale = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            let normed = |(i, &x): (usize, &f32)| ((f64::from(x) - mean) * scale) as f32 * gain[i] + bias[i];
            x.iter().enumerate().map(normed).collect()
        };
        x.chunks_exact(gain.len()).flat_map(row).collect()
    }
}

impl VisionRecorder for Pass<'_> {
    fn embed_patches(&mut self, op: Linear, positions: MatrixId) -> Rows {
        assert_eq!(positions, self.model.positions);
        let config = self.model.config();
        let (elems, area) = (config.patch_elems(), config.patch * config.patch);
        let normalized = |at: usize| {
            let (patch, at) = (at / elems, at % elems);
            let place = match config.patch_order {
                PatchOrder::RowColumnChannel => at,
                PatchOrder::ChannelRowColumn => at % area * CHANNELS + at / area,
            };
            let channel = place % CHANNELS;
            let pixel = f32::from(self.tile.pixels[patch * elems + place]);
            (pixel - config.normalization.mean[channel]) / config.normalization.std[channel]
        };
        let pixels: Vec<f32> = (0..self.tile.pixels.len()).map(normalized).collect();
        let mut x = self.linear(&pixels, op);
        let table = self.model.position_table();
        let positions =
            resample_positions(&table, config.grid, self.tile.rows as usize, self.tile.cols as usize);
        x.iter_mut().zip(positions).for_each(|(x, position)| *x += position);
        self.push(x)
    }

    fn norm_qkv(&mut self, x: Rows, op: VisionQkv) -> Rows {
        let normed = self.norm(&self.arena[x.0 as usize], op.norm);
        let width = self.model.config().width;
        let [q, k, v] = [op.query, op.key, op.value].map(|op| self.linear(&normed, op));
        let row = |patch: usize| [&q, &k, &v].map(|x| &x[patch * width..][..width]).concat();
        let qkv = (0..self.tile.patches()).flat_map(row).collect();
        self.push(qkv)
    }

    fn attend(&mut self, qkv: Rows) -> Rows {
        let (width, dim) = (self.model.config().width, self.model.config().head_dim());
        let (patches, qkv) = (self.tile.patches(), &self.arena[qkv.0 as usize]);
        let mut y = vec![0.0; patches * width];
        for head in 0..self.model.config().heads {
            let part = |patch: usize, which: usize| &qkv[(3 * patch + which) * width + head * dim..][..dim];
            for patch in 0..patches {
                let score = |other: usize| dot(part(patch, 0), part(other, 1)) / (dim as f32).sqrt();
                let scores: Vec<f32> = (0..patches).map(score).collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weights: Vec<f64> = scores.iter().map(|score| f64::from(score - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..dim {
                    let mixed = weights.iter().enumerate().map(|(other, w)| w * f64::from(part(other, 2)[d]));
                    y[patch * width + head * dim + d] = (mixed.sum::<f64>() / sum) as f32;
                }
            }
        }
        self.push(y)
    }

    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows) {
        let y = self.linear(&self.arena[x.0 as usize], op);
        self.arena[residual.0 as usize].iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }

    fn linear_gelu(&mut self, x: Rows, op: LinearGelu) -> Rows {
        let x = &self.arena[x.0 as usize];
        let mut y = match op.norm {
            Some(norm) => self.linear(&self.norm(x, norm), op.linear),
            None => self.linear(x, op.linear),
        };
        y.iter_mut().for_each(|y| *y = gelu(f64::from(*y), op.gelu) as f32);
        self.push(y)
    }

    fn norm_unshuffle(&mut self, x: Rows, norm: LayerNorm) -> Rows {
        let config = self.model.config();
        let (width, side) = (config.width, config.downsample);
        let normed = self.norm(&self.arena[x.0 as usize], norm);
        let (rows, cols) = (self.tile.rows as usize, self.tile.cols as usize);
        let mut tokens = Vec::with_capacity(normed.len());
        for (row, col) in (0..rows / side).flat_map(|row| (0..cols / side).map(move |col| (row, col))) {
            for (j, k) in (0..side).flat_map(|j| (0..side).map(move |k| (j, k))) {
                let patch = (row * side + j) * cols + col * side + k;
                tokens.extend_from_slice(&normed[patch * width..][..width]);
            }
        }
        self.push(tokens)
    }

    fn project(&mut self, x: Rows, op: Linear) {
        self.rows = self.linear(&self.arena[x.0 as usize], op);
    }
}

fn gelu(x: f64, kind: Gelu) -> f64 {
    match kind {
        Gelu::Tanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Gelu::Erf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// The error function by its power series, which converges for every x; beyond 6 it is 1 to every digit.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        // erf x = 2/sqrt(pi) e^(-x²) * sum of 2^n x^(2n+1) / (1 * 3 * ... * (2n+1)): all terms have one sign.
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_has_its_known_values() {
        for (kind, x, expected) in [
            (Gelu::Erf, 0.0, 0.0),
            (Gelu::Erf, 1.0, 0.841_344_746_068_542_9),
            (Gelu::Erf, -1.0, -0.158_655_253_931_457_05),
            (Gelu::Erf, 3.0, 2.995_950_305_905_11),
            (Gelu::Erf, 40.0, 40.0),
            (Gelu::Tanh, 1.0, 0.841_191_990_608_311_7),
            (Gelu::Tanh, -2.0, -0.045_402_305_912_224_5),
        ] {
            let found = gelu(x, kind);
            assert!((found - expected).abs() < 1e-12, "{kind:?} of {x}: {found}, expected {expected}");
        }
    }
}
