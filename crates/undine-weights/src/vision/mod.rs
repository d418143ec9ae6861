//! The vision tower and projector of a checkpoint: found, checked and bound like the language model's
//! weights.
//!
//! They lie in the same Hugging Face folder as the language model, or in a GGUF file of their own (`mmproj`).

mod beside;
mod config;
mod mmproj;
mod names;
mod settings;
mod write;
mod write_hf;

use std::collections::HashMap;

use undine_core::{ImageSettings, PatchOrder, VisionConfig, vision};

use crate::Error;
use crate::bind::{check_float, check_shape, weight};
use crate::declared::within;
use crate::limits::{HEADS_MAX, LAYERS_MAX, WIDTH_MAX};
use crate::tensor::{Tensor, TensorTable};
use crate::weight::{VisionLayerWeight, VisionWeight, Weight};

pub(crate) use beside::attach_beside;
pub(crate) use config::declare_hf;
pub(crate) use mmproj::{ARCHITECTURE, attach};
pub(crate) use names::{VisionNames, from_gguf};
pub(crate) use settings::settings_hf;
pub use write::write_mmproj;
pub(crate) use write::{metadata, tensors};
pub(crate) use write_hf::{config_hf, preprocessor_hf, tensors_hf};

/// A tower that has been checked completely.
pub(crate) struct Vision {
    pub config: VisionConfig,
    pub settings: ImageSettings,
    pub weights: HashMap<VisionWeight, Weight>,
}

/// The tower as a configuration describes it. What it leaves out is asked of the tensors.
pub(crate) struct DeclaredVision {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub feed_forward: usize,
    pub patch: usize,
    pub positions: usize,
    pub norm_eps: f64,
    pub downsample: usize,
    pub patch_order: PatchOrder,
    pub normalization: vision::Normalization,
}

impl DeclaredVision {
    /// Checks every value's range, so that later arithmetic cannot overflow.
    fn check(&self) -> Result<(), Error> {
        within("vision hidden size", self.width, WIDTH_MAX)?;
        within("vision layers", self.layers, LAYERS_MAX)?;
        within("vision attention heads", self.heads, HEADS_MAX)?;
        within("vision feed-forward width", self.feed_forward, WIDTH_MAX)?;
        within("vision patch size", self.patch, vision::PATCH_MAX as usize)?;
        within("vision positions", self.positions, vision::TILE_PATCHES_MAX as usize)?;
        within("vision downsample factor", self.downsample, vision::DOWNSAMPLE_MAX as usize)?;
        if !self.width.is_multiple_of(self.heads) {
            let reason = format!("expected a divisor of the width {}, found {}", self.width, self.heads);
            return Err(Error::config("vision attention heads", reason));
        }
        if self.positions.isqrt().pow(2) != self.positions {
            let reason = format!("expected a square number, found {}", self.positions);
            return Err(Error::config("vision positions", reason));
        }
        let eps = self.norm_eps as f32;
        if !(eps.is_finite() && eps > 0.0) {
            let reason = format!("expected a positive number, found {}", self.norm_eps);
            return Err(Error::config("vision layer norm epsilon", reason));
        }
        let vision::Normalization { mean, std } = self.normalization;
        if !mean.iter().chain(&std).all(|x| x.is_finite()) || std.contains(&0.0) {
            let reason = format!("expected finite numbers, none of std zero, found {mean:?} and {std:?}");
            return Err(Error::config("image_mean and image_std", reason));
        }
        Ok(())
    }
}

/// Binds the tower of `declared` to the tensors of `table`; `hidden` is the language model's width.
pub(crate) fn bind_vision(
    declared: &DeclaredVision,
    settings: ImageSettings,
    table: &TensorTable,
    names: VisionNames,
    hidden: usize,
    repairs: &mut Vec<String>,
) -> Result<Vision, Error> {
    declared.check()?;
    let layers = names.layers(table);
    if layers != declared.layers {
        repairs.push(format!(
            "The configuration says {} vision layers, but {layers} have tensors.",
            declared.layers
        ));
    }
    within("vision layers", layers, LAYERS_MAX)?;
    let mut binder = Binder { table, names, weights: HashMap::new() };
    binder.outer(declared)?;
    for layer in 0..layers {
        binder.layer(layer, declared)?;
    }
    let projector = binder.projector(declared, hidden)?;
    let config = VisionConfig {
        width: declared.width,
        layers,
        heads: declared.heads,
        feed_forward: declared.feed_forward,
        patch: declared.patch,
        grid: declared.positions.isqrt(),
        norm_eps: declared.norm_eps as f32,
        downsample: declared.downsample,
        projector,
        hidden,
        patch_order: declared.patch_order,
        normalization: declared.normalization,
    };
    check_settings(&settings, &config)?;
    Ok(Vision { config, settings, weights: binder.weights })
}

/// Settings can be computed with, and mean the tower's patches and tokens.
fn check_settings(settings: &ImageSettings, config: &VisionConfig) -> Result<(), Error> {
    settings.check().map_err(|reason| Error::config("image processor", reason))?;
    for (key, found, expected) in [
        ("encoder_patch_size", settings.patch, config.patch),
        ("downsample_factor", settings.downsample, config.downsample),
    ] {
        if found as usize != expected {
            let reason = format!("expected the tower's {expected}, found {found}");
            return Err(Error::config(key, reason));
        }
    }
    Ok(())
}

struct Binder<'a> {
    table: &'a TensorTable,
    names: VisionNames,
    weights: HashMap<VisionWeight, Weight>,
}

impl<'a> Binder<'a> {
    fn optional(&self, name: VisionWeight) -> Result<Option<&'a Tensor>, Error> {
        let index = self.table.find(&self.names.spellings(name))?;
        Ok(index.map(|index| &self.table.tensors[index]))
    }

    fn required(&self, name: VisionWeight) -> Result<&'a Tensor, Error> {
        self.optional(name)?.ok_or_else(|| Error::MissingTensor {
            name: self.names.spellings(name).swap_remove(0),
            hint: String::new(),
        })
    }

    fn matrix(&mut self, name: VisionWeight, rows: usize, cols: usize) -> Result<(), Error> {
        let tensor = self.required(name)?;
        check_shape(tensor, &[rows, cols])?;
        self.weights.insert(name, weight(tensor, rows, cols, 0));
        Ok(())
    }

    fn vector(&mut self, name: VisionWeight, len: usize) -> Result<(), Error> {
        let tensor = self.required(name)?;
        check_shape(tensor, &[len])?;
        check_float(tensor)?;
        self.weights.insert(name, weight(tensor, 1, len, 0));
        Ok(())
    }

    /// A vector that a checkpoint may leave out.
    fn optional_vector(&mut self, name: VisionWeight, len: usize) -> Result<(), Error> {
        if self.optional(name)?.is_some() { self.vector(name, len) } else { Ok(()) }
    }

    fn outer(&mut self, declared: &DeclaredVision) -> Result<(), Error> {
        use VisionWeight as V;
        let (width, patch) = (declared.width, declared.patch);
        let elems = patch * patch * vision::CHANNELS;
        let tensor = self.required(V::PatchEmbedding)?;
        // A convolution kernel has the same values in more dimensions.
        if declared.patch_order == PatchOrder::RowColumnChannel
            || tensor.shape != [width, vision::CHANNELS, patch, patch]
        {
            check_shape(tensor, &[width, elems])?;
        }
        check_float(tensor)?;
        self.weights.insert(V::PatchEmbedding, weight(tensor, width, elems, 0));
        self.vector(V::PatchEmbeddingBias, width)?;
        self.matrix(V::Positions, declared.positions, width)?;
        self.vector(V::PostNorm, width)?;
        self.vector(V::PostNormBias, width)
    }

    fn layer(&mut self, layer: usize, declared: &DeclaredVision) -> Result<(), Error> {
        use VisionLayerWeight as L;
        let (width, feed_forward) = (declared.width, declared.feed_forward);
        let name = |part| VisionWeight::Layer(layer, part);
        for part in [L::Norm1, L::Norm1Bias, L::Norm2, L::Norm2Bias] {
            self.vector(name(part), width)?;
        }
        for (matrix, bias, rows, cols) in [
            (L::Query, L::QueryBias, width, width),
            (L::Key, L::KeyBias, width, width),
            (L::Value, L::ValueBias, width, width),
            (L::Out, L::OutBias, width, width),
            (L::Up, L::UpBias, feed_forward, width),
            (L::Down, L::DownBias, width, feed_forward),
        ] {
            self.matrix(name(matrix), rows, cols)?;
            self.vector(name(bias), rows)?;
        }
        Ok(())
    }

    /// Binds the projector and returns its width, which is that of its tensors.
    fn projector(&mut self, declared: &DeclaredVision, hidden: usize) -> Result<usize, Error> {
        use VisionWeight as V;
        let token = declared.width * declared.downsample * declared.downsample;
        // Whether there is a norm is decided by the tensors: configurations are known to be wrong about it.
        if self.optional(V::ProjectorNorm)?.is_some() {
            self.vector(V::ProjectorNorm, token)?;
            self.vector(V::ProjectorNormBias, token)?;
        }
        let width = self.required(V::Projector1)?.shape_trimmed().first().copied().unwrap_or(0);
        within("projector width", width, WIDTH_MAX)?;
        self.matrix(V::Projector1, width, token)?;
        self.optional_vector(V::Projector1Bias, width)?;
        self.matrix(V::Projector2, hidden, width)?;
        self.optional_vector(V::Projector2Bias, hidden)?;
        Ok(width)
    }
}
