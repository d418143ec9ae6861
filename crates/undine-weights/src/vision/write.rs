//! The vision tower of any opened checkpoint as a GGUF file of its own.

use std::path::Path;

use undine_core::{DType, PatchOrder, VisionConfig, quant, vision::CHANNELS};

use super::mmproj::{ARCHITECTURE, PROJECTOR_TYPE};
use super::names::VisionNames;
use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::convert::{Scratch, convert};
use crate::gguf_write::{GgufWriter, TensorDeclaration};
use crate::value::{Array, Value};
use crate::weight::{VisionLayerWeight, VisionWeight, Weight};

/// Weights outside of layers, in the order they are used.
const OUTER: [VisionWeight; 11] = [
    VisionWeight::PatchEmbedding,
    VisionWeight::PatchEmbeddingBias,
    VisionWeight::Positions,
    VisionWeight::PostNorm,
    VisionWeight::PostNormBias,
    VisionWeight::ProjectorNorm,
    VisionWeight::ProjectorNormBias,
    VisionWeight::Projector1,
    VisionWeight::Projector1Bias,
    VisionWeight::Projector2,
    VisionWeight::Projector2Bias,
];

/// Writes the vision tower of `checkpoint` to a GGUF file at `out`, which appears when everything is written.
///
/// `dtype_of` chooses the type of each matrix from its GGUF name and its present form. Vectors, the patch embedding and the
/// position table are always F32.
///
/// # Errors
/// If there is no tower, rows are not whole blocks of the chosen type, or the system refuses.
pub fn write_mmproj(
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str, &Weight) -> DType,
    out: &Path,
) -> Result<(), Error> {
    let Some(config) = checkpoint.vision_config() else {
        return Err(Error::Write("the model has no vision tower".to_owned()));
    };
    let of_layer = |layer| VisionLayerWeight::ALL.map(|part| VisionWeight::Layer(layer, part));
    let names = OUTER.into_iter().chain((0..config.layers).flat_map(of_layer));
    let planned: Vec<(VisionWeight, Weight, TensorDeclaration)> = names
        .filter_map(|name| {
            let weight = checkpoint.vision_weight(name)?;
            let gguf_name = VisionNames::Gguf.spellings(name).swap_remove(0);
            let dtype = if always_f32(name, &weight) { DType::F32 } else { dtype_of(&gguf_name, &weight) };
            let shape = match name {
                VisionWeight::PatchEmbedding => vec![config.width, CHANNELS, config.patch, config.patch],
                _ if weight.rows == 1 => vec![weight.cols],
                _ => vec![weight.rows, weight.cols],
            };
            Some((name, weight, TensorDeclaration { name: gguf_name, dtype, shape }))
        })
        .collect();
    let declarations: Vec<_> = planned.iter().map(|(.., declaration)| declaration.clone()).collect();
    let mut writer = GgufWriter::create(out, &metadata(checkpoint, config), &declarations)?;
    let mut scratch = Scratch::default();
    for (name, weight, declaration) in &planned {
        if *name == VisionWeight::PatchEmbedding {
            writer.append(&patch_embedding(checkpoint, config, weight))?;
        } else {
            convert(checkpoint, weight, declaration.dtype, &mut scratch, &mut writer)?;
        }
    }
    writer.commit()
}

fn always_f32(name: VisionWeight, weight: &Weight) -> bool {
    weight.rows == 1 || matches!(name, VisionWeight::PatchEmbedding | VisionWeight::Positions)
}

/// The patch embedding as a convolution kernel: channel, row, column.
fn patch_embedding(checkpoint: &Checkpoint, config: &VisionConfig, weight: &Weight) -> Vec<u8> {
    let mut values = vec![0.0; weight.rows * weight.cols];
    quant::decode(weight.dtype, checkpoint.bytes(weight), &mut values);
    let area = config.patch * config.patch;
    let place = |at: usize| match config.patch_order {
        PatchOrder::RowColumnChannel => at % area * CHANNELS + at / area,
        PatchOrder::ChannelRowColumn => at,
    };
    let permuted =
        values.chunks_exact(weight.cols).flat_map(|row| (0..weight.cols).map(move |at| row[place(at)]));
    permuted.flat_map(f32::to_le_bytes).collect()
}

fn metadata(checkpoint: &Checkpoint, config: &VisionConfig) -> Vec<(String, Value)> {
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
