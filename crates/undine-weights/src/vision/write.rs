//! The vision tower of any opened checkpoint as a GGUF file of its own.

use std::path::Path;

use undine_core::{DType, PatchOrder, VisionConfig, quant, vision::CHANNELS};

use super::mmproj::{ARCHITECTURE, PROJECTOR_TYPE};
use super::names::VisionNames;
use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::source::{Source, SourceTensor, TensorRole};
use crate::value::{Array, Value};
use crate::weight::{VisionLayerWeight, VisionWeight, Weight};

/// Writes the vision tower of `checkpoint` to a GGUF file at `out`, which appears when everything is written.
///
/// `dtype_of` chooses the type of each matrix from its GGUF name and its present form. Vectors, the patch
/// embedding and the position table are always F32.
///
/// # Errors
/// If there is no tower, rows are not whole blocks of the chosen type, or the system refuses.
pub fn write_mmproj(
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str, &Weight) -> DType,
    out: &Path,
) -> Result<(), Error> {
    let source = Source::vision(checkpoint)?;
    source.ok_or_else(|| Error::Write("the model has no vision tower".to_owned()))?.write_as(dtype_of, out)
}

/// The tensors of the tower, and the bytes of the one that must be made: the patch embedding, which goes into
/// file `file`.
pub(crate) fn tensors(
    checkpoint: &Checkpoint,
    config: &VisionConfig,
    file: usize,
) -> (Vec<SourceTensor>, Vec<u8>) {
    let mut made = Vec::new();
    let tensors = names(config).filter_map(|name| {
        let mut weight = checkpoint.vision_weight(name)?;
        let shape = match name {
            VisionWeight::PatchEmbedding => {
                made = patch_embedding(checkpoint, config, &weight, PatchOrder::ChannelRowColumn);
                // Stored as rows of one line of a patch, because that is the innermost dimension of the
                // kernel.
                let (rows, cols) = (config.width * CHANNELS * config.patch, config.patch);
                weight = Weight { dtype: DType::F32, rows, cols, file, start: 0, len: made.len() };
                vec![config.width, CHANNELS, config.patch, config.patch]
            }
            _ if weight.rows == 1 => vec![weight.cols],
            _ => vec![weight.rows, weight.cols],
        };
        let gguf_name = VisionNames::Gguf.spellings(name).swap_remove(0);
        Some(SourceTensor { name: gguf_name, shape, role: TensorRole::Vision(name), parts: vec![weight] })
    });
    let tensors = tensors.collect();
    (tensors, made)
}

/// The weights that a tower may have, in the order they are written.
pub(super) fn names(config: &VisionConfig) -> impl Iterator<Item = VisionWeight> {
    let of_layer = |layer| VisionLayerWeight::ALL.map(|part| VisionWeight::Layer(layer, part));
    VisionWeight::OUTER.into_iter().chain((0..config.layers).flat_map(of_layer))
}

/// The patch embedding in F32, the values of each patch in another order.
pub(super) fn patch_embedding(
    checkpoint: &Checkpoint,
    config: &VisionConfig,
    weight: &Weight,
    order: PatchOrder,
) -> Vec<u8> {
    let mut values = vec![0.0; weight.rows * weight.cols];
    quant::decode(weight.dtype, checkpoint.bytes(weight), &mut values);
    let area = config.patch * config.patch;
    let place = |at: usize| match (config.patch_order, order) {
        (PatchOrder::RowColumnChannel, PatchOrder::ChannelRowColumn) => at % area * CHANNELS + at / area,
        (PatchOrder::ChannelRowColumn, PatchOrder::RowColumnChannel) => at % CHANNELS * area + at / CHANNELS,
        _ => at,
    };
    let permuted =
        values.chunks_exact(weight.cols).flat_map(|row| (0..weight.cols).map(move |at| row[place(at)]));
    permuted.flat_map(f32::to_le_bytes).collect()
}

pub(crate) fn metadata(checkpoint: &Checkpoint, config: &VisionConfig) -> Vec<(String, Value)> {
    // Limits checked at open keep every count far below 2^32.
    let count = |n: usize| Value::U32(n as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let channels = |values: [f32; 3]| Value::Array(Array::F32(values.map(|x| x / 255.0).to_vec()));
    let mut entries = vec![
        ("general.architecture", text(ARCHITECTURE)),
        ("general.type", text("mmproj")),
        ("general.name", text(checkpoint.name())),
        ("clip.has_vision_encoder", Value::Bool(true)),
        ("clip.projector_type", text(PROJECTOR_TYPE)),
        ("clip.use_gelu", Value::Bool(true)),
        ("clip.vision.image_size", count(config.grid * config.patch)),
        ("clip.vision.patch_size", count(config.patch)),
        ("clip.vision.embedding_length", count(config.width)),
        ("clip.vision.feed_forward_length", count(config.feed_forward)),
        ("clip.vision.block_count", count(config.layers)),
        ("clip.vision.attention.head_count", count(config.heads)),
        ("clip.vision.attention.layer_norm_epsilon", Value::F32(config.norm_eps)),
        ("clip.vision.projection_dim", count(config.hidden)),
        ("clip.vision.projector.scale_factor", count(config.downsample)),
        ("clip.vision.image_mean", channels(config.normalization.mean)),
        ("clip.vision.image_std", channels(config.normalization.std)),
    ];
    if let Some(settings) = checkpoint.image_settings() {
        let token = (config.patch * config.downsample).pow(2);
        entries.extend([
            ("clip.vision.preproc_image_size", count(settings.tile as usize)),
            ("clip.vision.preproc_min_tiles", count(settings.min_tiles as usize)),
            ("clip.vision.preproc_max_tiles", count(settings.max_tiles as usize)),
            ("clip.vision.image_min_pixels", count(settings.min_tokens as usize * token)),
            ("clip.vision.image_max_pixels", count(settings.max_tokens as usize * token)),
        ]);
    }
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
