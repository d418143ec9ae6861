//! The vision tower of any opened checkpoint as part of a Hugging Face folder, as `lfm2_vl` of transformers
//! spells it.

use serde_json::{Value as Json, json};
use undine_core::{ImageSettings, PatchOrder, Resample, VisionConfig, vision::Normalization};

use super::names::VisionNames;
use super::write::{names, patch_embedding};
use crate::checkpoint::Checkpoint;
use crate::hf_write::short;
use crate::source::{SourceTensor, TensorRole};
use crate::weight::{VisionWeight, Weight};

const NAMES: VisionNames =
    VisionNames::HuggingFace { tower: "model.vision_tower.", projector: "model.multi_modal_projector." };
/// Largest value of a pixel.
const PIXEL_MAX: f32 = 255.0;

/// The tensors of the tower, and the bytes of the one that must be made: the patch embedding, which goes into
/// file `file`.
pub(crate) fn tensors_hf(
    checkpoint: &Checkpoint,
    config: &VisionConfig,
    file: usize,
) -> (Vec<SourceTensor>, Vec<u8>) {
    let mut made = Vec::new();
    let tensors = names(config).filter_map(|name| {
        let mut weight = checkpoint.vision_weight(name)?;
        if name == VisionWeight::PatchEmbedding {
            made = patch_embedding(checkpoint, config, &weight, PatchOrder::RowColumnChannel);
            weight = Weight { dtype: undine_core::DType::F32, file, start: 0, len: made.len(), ..weight };
        }
        let shape = if weight.rows == 1 { vec![weight.cols] } else { vec![weight.rows, weight.cols] };
        let spelling = NAMES.spellings(name).swap_remove(0);
        Some(SourceTensor { name: spelling, shape, role: TensorRole::Vision(name), parts: vec![weight] })
    });
    let tensors = tensors.collect();
    (tensors, made)
}

/// The `config.json` of a model with this tower, around the language model's.
pub(crate) fn config_hf(
    checkpoint: &Checkpoint,
    config: &VisionConfig,
    language: Json,
    image: Option<u32>,
) -> Json {
    let has = |name| checkpoint.vision_weight(name).is_some();
    let mut json = json!({
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "model_type": "lfm2_vl",
        "dtype": language["dtype"],
        "downsample_factor": config.downsample,
        "projector_bias": has(VisionWeight::Projector1Bias),
        "projector_hidden_act": "gelu",
        "projector_hidden_size": config.projector,
        "projector_use_layernorm": has(VisionWeight::ProjectorNorm),
        "tie_word_embeddings": language["tie_word_embeddings"],
        "vision_config": {
            "model_type": "siglip2_vision_model",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": config.width,
            "intermediate_size": config.feed_forward,
            "layer_norm_eps": short(config.norm_eps),
            "num_attention_heads": config.heads,
            "num_channels": undine_core::vision::CHANNELS,
            "num_hidden_layers": config.layers,
            "num_patches": config.grid * config.grid,
            "patch_size": config.patch,
            "vision_use_head": false,
        },
    });
    if let Some(image) = image {
        json["image_token_id"] = image.into();
    }
    json["text_config"] = language;
    json
}

/// How images are sized and cut.
pub(crate) fn preprocessor_hf(settings: &ImageSettings, normalization: &Normalization) -> Json {
    let channels = |values: [f32; 3]| values.map(|value| short(value / PIXEL_MAX));
    json!({
        "image_processor_type": "Lfm2VlImageProcessor",
        "processor_class": "Lfm2VlProcessor",
        "do_image_splitting": settings.max_tiles > 1,
        "do_normalize": true,
        "do_pad": true,
        "do_rescale": true,
        "do_resize": true,
        "downsample_factor": settings.downsample,
        "encoder_patch_size": settings.patch,
        "image_mean": channels(normalization.mean),
        "image_std": channels(normalization.std),
        "max_image_tokens": settings.max_tokens,
        "max_num_patches": settings.max_tokens * settings.downsample * settings.downsample,
        "max_pixels_tolerance": settings.tolerance,
        "max_tiles": settings.max_tiles,
        "min_image_tokens": settings.min_tokens,
        "min_tiles": settings.min_tiles,
        "resample": match settings.resample { Resample::Bilinear => 2, Resample::Bicubic => 3 },
        "rescale_factor": 1.0 / f64::from(PIXEL_MAX),
        "size": {"height": settings.tile, "width": settings.tile},
        "tile_size": settings.tile,
        "use_thumbnail": settings.thumbnail,
    })
}
