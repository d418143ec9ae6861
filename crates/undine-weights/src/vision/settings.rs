//! How a Hugging Face folder says that images are sized and cut.

use serde_json::Value as Json;
use undine_core::{ImageSettings, Resample, vision::Normalization};

use super::config::Keys;
use crate::Error;

/// The reference's `image_mean` and `image_std` where a folder names none.
const CHANNEL_DEFAULT: f64 = 0.5;

/// Reads the settings from processor_config.json, which holds them since transformers 5, or
/// preprocessor_config.json. Absent keys mean the reference's defaults.
pub(crate) fn settings_hf(
    processor: Option<&Json>,
    preprocessor: Option<&Json>,
) -> Result<(ImageSettings, Normalization), Error> {
    let nested = processor.and_then(|processor| processor.get("image_processor")).and_then(Json::as_object);
    let empty = serde_json::Map::new();
    let keys = Keys(nested.or_else(|| preprocessor.and_then(Json::as_object)).unwrap_or(&empty));
    let d = ImageSettings::default();
    let number = |key: &str, default: u32| -> Result<u32, Error> {
        let found = keys.integer(key, default as usize)?;
        u32::try_from(found)
            .map_err(|_| Error::config(key, format!("expected a smaller number, found {found}")))
    };
    let splitting = keys.boolean("do_image_splitting", true)?;
    let tiles = |key: &str, default: u32| Ok::<u32, Error>(if splitting { number(key, default)? } else { 1 });
    let settings = ImageSettings {
        patch: number("encoder_patch_size", d.patch)?,
        downsample: number("downsample_factor", d.downsample)?,
        tile: number("tile_size", d.tile)?,
        min_tiles: tiles("min_tiles", d.min_tiles)?,
        max_tiles: tiles("max_tiles", d.max_tiles)?,
        min_tokens: number("min_image_tokens", d.min_tokens)?,
        max_tokens: number("max_image_tokens", d.max_tokens)?,
        tolerance: keys.number("max_pixels_tolerance", d.tolerance)?,
        thumbnail: keys.boolean("use_thumbnail", d.thumbnail)?,
        resample: match keys.integer("resample", 2)? {
            2 => Resample::Bilinear,
            3 => Resample::Bicubic,
            other => {
                return Err(Error::Unsupported(format!(
                    "resample {other}; expected 2 (bilinear) or 3 (bicubic)"
                )));
            }
        },
        background: d.background,
    };
    Ok((settings, normalization(&keys)?))
}

/// Rescaling and normalisation in one, as the reference computes them.
fn normalization(keys: &Keys<'_>) -> Result<Normalization, Error> {
    let scale = if keys.boolean("do_rescale", true)? {
        1.0 / keys.number("rescale_factor", 1.0 / 255.0)?
    } else {
        1.0
    };
    if !keys.boolean("do_normalize", true)? {
        return Ok(Normalization { mean: [0.0; 3], std: [scale as f32; 3] });
    }
    let scaled = |values: [f64; 3]| values.map(|value| value as f32 * scale as f32);
    Ok(Normalization {
        mean: scaled(keys.channels("image_mean", CHANNEL_DEFAULT)?),
        std: scaled(keys.channels("image_std", CHANNEL_DEFAULT)?),
    })
}
