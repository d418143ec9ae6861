//! The vision tower (SigLIP2, NaFlex) and the projector to the language model.
//!
//! ```text
//! x = W patch + b + positions                          the table resampled to the tile's patches
//! each layer:  x += out( attention( norm x ) )         every patch of a tile looks at every other
//!              x += down( gelu( up( norm x ) ) )
//! tokens = squares of neighbouring patches of norm x, one after the other
//! rows = linear( gelu( linear( norm tokens ) ) )       the norm where the checkpoint has one
//! ```
//! Norms are layer norms, every linear map has a bias. The tower's GELU is the tanh approximation, the
//! projector's is exact. Source: Tschannen et al., "SigLIP 2" (arXiv 2502.14786), Liquid AI, "LFM2 Technical
//! Report" (arXiv 2511.23404), and the reference implementation in transformers (models `siglip2` and
//! `lfm2_vl`).
//!
//! [`VisionRecorder`] is to the tower what [`crate::Recorder`] is to the decoder: a backend records its verbs
//! once and replays them for any tiles. `rows` are patches, and after [`VisionRecorder::norm_unshuffle`]
//! tokens.

use std::sync::Arc;

use undine_core::VisionConfig;
use undine_weights::{Checkpoint, VisionLayerWeight, VisionWeight, Weight};

use crate::recorder::{Linear, MatrixId, Rows, VectorId};
use crate::store::WeightStore;

/// Epsilon of the projector's layer norm; no configuration names it.
const PROJECTOR_NORM_EPS: f32 = 1e-5;

/// `(x - mean) / sqrt(variance + eps) * gain + bias` over a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LayerNorm {
    /// As wide as the row.
    pub gain: VectorId,
    /// As wide as the row.
    pub bias: VectorId,
    /// Added to the variance.
    pub eps: f32,
}

/// The projections of an attention layer, each `width x width`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct VisionQkv {
    /// Norm of the input.
    pub norm: LayerNorm,
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
}

/// `gelu(W norm(x) + b)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LinearGelu {
    /// Norm of the input, if there is one.
    pub norm: Option<LayerNorm>,
    /// The map.
    pub linear: Linear,
    /// Which function.
    pub gelu: Gelu,
}

/// A spelling of the Gaussian error linear unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gelu {
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x³)))`.
    Tanh,
    /// `x / 2 * (1 + erf(x / sqrt 2))`.
    Erf,
}

/// What a backend can do with patches.
pub trait VisionRecorder {
    /// `W patch + b` of every patch's normalized pixels, plus its position: `width` wide.
    fn embed_patches(&mut self, op: Linear, positions: MatrixId) -> Rows;
    /// Queries, keys and values, one after the other: `3 width` wide.
    fn norm_qkv(&mut self, x: Rows, op: VisionQkv) -> Rows;
    /// Attention of each patch over all patches of its tile, `width` wide.
    fn attend(&mut self, qkv: Rows) -> Rows;
    /// `residual += W x + b`.
    fn linear_add(&mut self, x: Rows, op: Linear, residual: Rows);
    /// The hidden values of a feed-forward or of the projector.
    fn linear_gelu(&mut self, x: Rows, op: LinearGelu) -> Rows;
    /// One row a token: the normed patches of its square, from left to right and top to bottom.
    fn norm_unshuffle(&mut self, x: Rows, norm: LayerNorm) -> Rows;
    /// `W x + b`: what the tower gives, `hidden` wide.
    fn project(&mut self, x: Rows, op: Linear);
}

/// Records one pass.
pub fn record(model: &VisionModel, r: &mut impl VisionRecorder) {
    let x = r.embed_patches(model.patch_embedding, model.positions);
    for layer in &model.layers {
        let qkv = r.norm_qkv(x, layer.qkv);
        let y = r.attend(qkv);
        r.linear_add(y, layer.out, x);
        let h = r.linear_gelu(x, layer.up);
        r.linear_add(h, layer.down, x);
    }
    let tokens = r.norm_unshuffle(x, model.post_norm);
    let h = r.linear_gelu(tokens, model.projector);
    r.project(h, model.project);
}

/// One layer's handles.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct VisionLayer {
    /// Norm and projections of the attention.
    pub qkv: VisionQkv,
    /// The attention's way back.
    pub out: Linear,
    /// Norm, first map and GELU of the feed-forward.
    pub up: LinearGelu,
    /// The feed-forward's way back.
    pub down: Linear,
}

/// A tower and projector ready to be recorded.
pub struct VisionModel {
    store: WeightStore,
    config: VisionConfig,
    /// `width x patch values`.
    pub patch_embedding: Linear,
    /// `grid² x width`.
    pub positions: MatrixId,
    /// The layers.
    pub layers: Vec<VisionLayer>,
    /// After the last layer.
    pub post_norm: LayerNorm,
    /// The projector's first map, `projector x token values`.
    pub projector: LinearGelu,
    /// The projector's second map, `hidden x projector`.
    pub project: Linear,
}

impl VisionModel {
    /// Binds the tower of a checkpoint; `None` if it has none.
    pub fn bind(checkpoint: Arc<Checkpoint>) -> Option<Self> {
        let config = *checkpoint.vision_config()?;
        let mut binder = Binder { store: WeightStore::new(checkpoint), eps: config.norm_eps };
        use VisionWeight as V;
        let patch_embedding = binder.linear(V::PatchEmbedding, V::PatchEmbeddingBias);
        let positions = binder.matrix(V::Positions);
        let layers = (0..config.layers).map(|layer| binder.layer(layer)).collect();
        let post_norm = binder.norm(V::PostNorm, V::PostNormBias, config.norm_eps);
        let norm = binder
            .store
            .checkpoint()
            .vision_weight(V::ProjectorNorm)
            .map(|_| binder.norm(V::ProjectorNorm, V::ProjectorNormBias, PROJECTOR_NORM_EPS));
        let linear = binder.linear(V::Projector1, V::Projector1Bias);
        let projector = LinearGelu { norm, linear, gelu: Gelu::Erf };
        let project = binder.linear(V::Projector2, V::Projector2Bias);
        let Binder { store, .. } = binder;
        Some(Self { store, config, patch_embedding, positions, layers, post_norm, projector, project })
    }

    /// Where the weights came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.store.checkpoint()
    }

    /// The shape.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Type and shape of a matrix.
    pub fn matrix(&self, id: MatrixId) -> &Weight {
        self.store.matrix(id)
    }

    /// Bytes of a matrix, row-major blocks of its type; any alignment.
    pub fn matrix_bytes(&self, id: MatrixId) -> &[u8] {
        self.store.matrix_bytes(id)
    }

    /// Number of matrices; ids are `0..count`.
    pub fn matrix_count(&self) -> usize {
        self.store.matrix_count()
    }

    /// A vector.
    pub fn vector(&self, id: VectorId) -> &[f32] {
        self.store.vector(id)
    }

    /// The position table as f32, `grid² x width`.
    pub fn position_table(&self) -> Vec<f32> {
        let mut table = vec![0.0; self.config.grid * self.config.grid * self.config.width];
        let weight = self.matrix(self.positions);
        undine_core::quant::decode(weight.dtype, self.matrix_bytes(self.positions), &mut table);
        table
    }
}

struct Binder {
    store: WeightStore,
    eps: f32,
}

impl Binder {
    fn weight(&self, name: VisionWeight) -> Weight {
        let weight = self.store.checkpoint().vision_weight(name);
        weight.unwrap_or_else(|| panic!("a validated checkpoint has {name:?}"))
    }

    fn matrix(&mut self, name: VisionWeight) -> MatrixId {
        self.store.add_matrix(self.weight(name))
    }

    fn vector(&mut self, name: VisionWeight) -> VectorId {
        self.store.add_vector(self.weight(name))
    }

    fn norm(&mut self, gain: VisionWeight, bias: VisionWeight, eps: f32) -> LayerNorm {
        LayerNorm { gain: self.vector(gain), bias: self.vector(bias), eps }
    }

    fn linear(&mut self, weight: VisionWeight, bias: VisionWeight) -> Linear {
        let has_bias = self.store.checkpoint().vision_weight(bias).is_some();
        Linear { weight: self.matrix(weight), bias: has_bias.then(|| self.vector(bias)) }
    }

    fn layer(&mut self, layer: usize) -> VisionLayer {
        use VisionLayerWeight as L;
        let name = |part| VisionWeight::Layer(layer, part);
        let qkv = VisionQkv {
            norm: self.norm(name(L::Norm1), name(L::Norm1Bias), self.eps),
            query: self.linear(name(L::Query), name(L::QueryBias)),
            key: self.linear(name(L::Key), name(L::KeyBias)),
            value: self.linear(name(L::Value), name(L::ValueBias)),
        };
        let out = self.linear(name(L::Out), name(L::OutBias));
        let up = LinearGelu {
            norm: Some(self.norm(name(L::Norm2), name(L::Norm2Bias), self.eps)),
            linear: self.linear(name(L::Up), name(L::UpBias)),
            gelu: Gelu::Tanh,
        };
        VisionLayer { qkv, out, up, down: self.linear(name(L::Down), name(L::DownBias)) }
    }
}

/// The position table for tiles of `rows x cols` patches: the square table of side `grid` resampled with a
/// triangle filter that widens where the table is made smaller, edges as they are (torch's `interpolate` with
/// `antialias=True`).
pub fn resample_positions(table: &[f32], grid: usize, rows: usize, cols: usize) -> Vec<f32> {
    let width = table.len() / (grid * grid);
    let (down, across) = (filters(grid, rows), filters(grid, cols));
    let mut wide = vec![0.0; grid * cols * width];
    for row in 0..grid {
        for (col, filter) in across.iter().enumerate() {
            let to = &mut wide[(row * cols + col) * width..][..width];
            for &(from, weight) in filter {
                let from = &table[(row * grid + from) * width..][..width];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
            }
        }
    }
    let mut result = vec![0.0; rows * cols * width];
    for (row, filter) in down.iter().enumerate() {
        let to = &mut result[row * cols * width..][..cols * width];
        for &(from, weight) in filter {
            let from = &wide[from * cols * width..][..cols * width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
    }
    result
}

/// For each of `to` places the entries of `from` that it is made of, and their weights.
fn filters(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = from as f32 / to as f32;
    let support = scale.max(1.0);
    let filter = |i: usize| {
        let center = scale * (i as f32 + 0.5);
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weight = |at: usize| (1.0 - ((at as f32 - center + 0.5) / support).abs()).max(0.0);
        let sum: f32 = (first..end).map(weight).sum();
        (first..end).map(|at| (at, weight(at) / sum)).collect()
    };
    (0..to).map(filter).collect()
}
