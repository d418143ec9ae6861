//! Vision towers in GGUF files of their own.

use std::sync::Arc;

use undine_core::{ImageSettings, PatchOrder, vision};

use super::{DeclaredVision, VisionNames, bind_vision};
use crate::checkpoint::Checkpoint;
use crate::config_gguf::Metadata;
use crate::gguf::GgufHeader;
use crate::limits::TENSORS_MAX;
use crate::map::Bytes;
use crate::tensor::TensorTable;
use crate::value::Value;
use crate::{Error, adapter, left_out};

/// `general.architecture` of such files.
pub(crate) const ARCHITECTURE: &str = "clip";
/// `clip.projector_type` of this family.
pub(super) const PROJECTOR_TYPE: &str = "lfm2";

/// Adds the tower in `bytes` to a checkpoint of a language model.
///
/// # Errors
/// If it is not a tower for this model. The checkpoint is then as it was.
pub(crate) fn attach(checkpoint: &mut Checkpoint, bytes: Bytes) -> Result<(), Error> {
    let header = GgufHeader::read(&bytes)?;
    let metadata = Metadata::new(&header.metadata);
    let (declared, settings) = declare(&metadata)?;
    let (hidden, file) = (checkpoint.config.hidden, checkpoint.files.len());
    if let Some(found) = metadata.integer("clip.vision.projection_dim")?.filter(|&found| found != hidden) {
        let reason = format!("expected {hidden}, the width of the language model, found {found}");
        return Err(Error::config("clip.vision.projection_dim", reason));
    }
    let mut table = TensorTable::default();
    for mut tensor in header.tensors {
        tensor.file = file;
        table.add(tensor).map_err(|reason| Error::gguf("tensor table", reason))?;
    }
    if (table.tensors.len() + checkpoint.table.tensors.len()) as u64 > TENSORS_MAX {
        return Err(Error::gguf("tensor table", format!("more than {TENSORS_MAX} tensors")));
    }
    let mut repairs = Vec::new();
    let vision = bind_vision(&declared, settings, &table, VisionNames::Gguf, hidden, &mut repairs)?;
    adapter::refuse_tensors(&table)?;
    left_out::tell(&table, vision.weights.values(), None, &mut repairs);
    // From here on nothing can fail but a name that both files have, which is seen before anything is added.
    if let Some(tensor) = table.tensors.iter().find(|tensor| checkpoint.table.contains(&tensor.name)) {
        let reason = format!("tensor {} is in the model's file, too", tensor.name);
        return Err(Error::gguf("tensor table", reason));
    }
    for tensor in table.tensors {
        checkpoint.table.add(tensor).map_err(|reason| Error::gguf("tensor table", reason))?;
    }
    checkpoint.files.push(Arc::new(bytes));
    checkpoint.repairs.extend(repairs);
    let own = |(key, _): &(String, Value)| key.starts_with("clip.");
    checkpoint.metadata.extend(header.metadata.into_iter().filter(own));
    checkpoint.vision = Some(vision);
    Ok(())
}

/// Reads the metadata. The format has no keys for most of how images are cut: those mean the reference's
/// defaults.
fn declare(metadata: &Metadata<'_>) -> Result<(DeclaredVision, ImageSettings), Error> {
    for (key, expected) in [("general.architecture", ARCHITECTURE), ("clip.projector_type", PROJECTOR_TYPE)] {
        // Files for several senses name the projector by sense.
        let found = match metadata.text(key)? {
            None if key == "clip.projector_type" => metadata.text("clip.vision.projector_type")?,
            found => found,
        };
        if found != Some(expected) {
            let found = found.unwrap_or("nothing");
            return Err(Error::Unsupported(format!(
                "{key} {found:?} in an mmproj file; expected {expected:?}"
            )));
        }
    }
    if metadata.boolean("clip.use_gelu")? == Some(false) || metadata.boolean("clip.use_silu")? == Some(true) {
        return Err(Error::Unsupported("clip.use_gelu is not true; expected GELU".to_owned()));
    }
    let optional = |name: &str| metadata.integer(&format!("clip.vision.{name}"));
    let required = |name: &str| {
        optional(name)?
            .ok_or_else(|| Error::config(format!("clip.vision.{name}"), "the key is required and absent"))
    };
    let patch = required("patch_size")?;
    let image = required("image_size")?;
    let side = image.checked_div(patch).unwrap_or(0);
    let downsample = optional("projector.scale_factor")?.unwrap_or(2);
    let declared = DeclaredVision {
        width: required("embedding_length")?,
        layers: required("block_count")?,
        heads: required("attention.head_count")?,
        feed_forward: required("feed_forward_length")?,
        patch,
        positions: side.saturating_mul(side),
        norm_eps: metadata
            .number("clip.vision.attention.layer_norm_epsilon")?
            .ok_or_else(|| Error::config("clip.vision.attention.layer_norm_epsilon", "the key is absent"))?,
        downsample,
        patch_order: PatchOrder::ChannelRowColumn,
        normalization: vision::Normalization {
            mean: channels(metadata, "clip.vision.image_mean")?,
            std: channels(metadata, "clip.vision.image_std")?,
        },
    };
    Ok((declared, settings(metadata, patch, downsample)?))
}

fn settings(metadata: &Metadata<'_>, patch: usize, downsample: usize) -> Result<ImageSettings, Error> {
    let small = |key: &str, found: usize| {
        u32::try_from(found)
            .map_err(|_| Error::config(key, format!("expected a smaller number, found {found}")))
    };
    let d = ImageSettings::default();
    let given = |name: &str, default: u32| -> Result<u32, Error> {
        let key = format!("clip.vision.{name}");
        metadata.integer(&key)?.map_or(Ok(default), |found| small(&key, found))
    };
    let (patch, downsample) =
        (small("clip.vision.patch_size", patch)?, small("clip.vision.projector.scale_factor", downsample)?);
    let token = patch.saturating_mul(downsample).saturating_pow(2).max(1);
    let tokens =
        |name: &str, default: u32| Ok::<u32, Error>(given(name, default.saturating_mul(token))? / token);
    Ok(ImageSettings {
        patch,
        downsample,
        tile: given("preproc_image_size", d.tile)?,
        min_tiles: given("preproc_min_tiles", d.min_tiles)?,
        max_tiles: given("preproc_max_tiles", d.max_tiles)?,
        min_tokens: tokens("image_min_pixels", d.min_tokens)?,
        max_tokens: tokens("image_max_pixels", d.max_tokens)?,
        ..d
    })
}

/// Three numbers for pixels of 0 to 1, as numbers for pixels of 0 to 255; 0.5 if the key is absent.
fn channels(metadata: &Metadata<'_>, key: &str) -> Result<[f32; vision::CHANNELS], Error> {
    let values = match metadata.get(key) {
        None => return Ok([127.5; vision::CHANNELS]),
        Some(Value::Array(array)) if array.len() == vision::CHANNELS => {
            (0..vision::CHANNELS).map(|i| array.get(i)?.as_f64()).collect::<Option<Vec<f64>>>()
        }
        Some(_) => None,
    };
    let values = values.ok_or_else(|| Error::config(key, "expected three numbers"))?;
    Ok([0, 1, 2].map(|i| values[i] as f32 * 255.0))
}
