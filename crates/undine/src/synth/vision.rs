//! The vision towers of the published LFM2-VL and LFM2.5-VL models, as mmproj files.
//!
//! Source: published configurations; layers and projectors of VL-1.6B and of the first VL-450M are not
//! confirmed.

use undine_core::{DType, Normalization, PatchOrder, VisionConfig};
use undine_quantize::{Mix, fitting};
use undine_weights::{Array, TensorDeclaration, Value};

use super::plan::{Fill, Tensor};

/// Pixels along the side of a patch.
const PATCH: usize = 16;
/// Entries along the side of the position table.
const GRID: usize = 16;
/// Patches along the side of the square that becomes one token.
const DOWNSAMPLE: usize = 2;
/// Epsilon of layer norms.
const NORM_EPS: f32 = 1e-6;
/// The pixel value that becomes 0, and the difference that becomes 1.
const PIXEL_MIDDLE: f32 = 127.5;
/// Standard deviation of biases: small beside what they are added to.
const BIAS_DEVIATION: f32 = 0.02;

/// A tower's shape. Widths are counts of values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Tower {
    /// Checkpoints that have it, by the end of their names.
    pub names: &'static [&'static str],
    width: usize,
    layers: usize,
    heads: usize,
    feed_forward: usize,
    projector: usize,
    has_projector_norm: bool,
}

const BASE: Tower = Tower {
    names: &["LFM2-VL-450M", "LFM2.5-VL-450M"],
    width: 768,
    layers: 12,
    heads: 12,
    feed_forward: 3072,
    projector: 2560,
    has_projector_norm: true,
};

const TOWERS: [Tower; 5] = [
    BASE,
    Tower { names: &["LFM2-VL-1.6B", "LFM2.5-VL-1.6B"], ..SO400M },
    Tower { names: &["LFM2-VL-3B"], projector: 2048, ..SO400M },
    Tower { names: &["LFM2.5-VL-3B"], projector: 2048, has_projector_norm: false, ..SO400M },
    Tower { names: &["tiny-vl"], width: 64, layers: 2, heads: 4, feed_forward: 128, projector: 96, ..BASE },
];

const SO400M: Tower = Tower {
    names: &[],
    width: 1152,
    layers: 27,
    heads: 16,
    feed_forward: 4304,
    projector: 2560,
    has_projector_norm: true,
};

/// The tower of a checkpoint by its name, in any case, with or without `LFM2-` in front.
pub fn find(name: &str) -> Option<Tower> {
    let wanted = name.rsplit('/').next().unwrap_or(name);
    let spellings = [wanted.to_owned(), format!("LFM2-{wanted}")];
    let matches = |known: &str| spellings.iter().any(|spelling| known.eq_ignore_ascii_case(spelling));
    TOWERS.into_iter().find(|tower| tower.names.iter().any(|known| matches(known)))
}

impl Tower {
    /// The same as a checkpoint of a language model of width `hidden` has it.
    pub fn config(&self, hidden: usize) -> VisionConfig {
        VisionConfig {
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            feed_forward: self.feed_forward,
            patch: PATCH,
            grid: GRID,
            norm_eps: NORM_EPS,
            downsample: DOWNSAMPLE,
            projector: self.projector,
            hidden,
            patch_order: PatchOrder::ChannelRowColumn,
            normalization: Normalization { mean: [PIXEL_MIDDLE; 3], std: [PIXEL_MIDDLE; 3] },
        }
    }
}

/// Every tensor of `tower` in a file of type `mix`, for a language model of width `hidden`.
pub fn tensors(tower: &Tower, mix: Mix, hidden: usize) -> Vec<Tensor> {
    let (width, wide) = (tower.width, tower.feed_forward);
    let token = width * DOWNSAMPLE * DOWNSAMPLE;
    let mut tensors = Vec::new();
    let mut add = |name: String, dtype: DType, shape: Vec<usize>, fill: Fill| {
        tensors.push(Tensor { declaration: TensorDeclaration { name, dtype, shape }, fill });
    };
    let spread = |cols: usize| Fill::Random { deviation: 1.0 / (cols as f32).sqrt() };
    let small = Fill::Random { deviation: BIAS_DEVIATION };
    add(
        "v.patch_embd.weight".to_owned(),
        DType::F32,
        vec![width, 3, PATCH, PATCH],
        spread(3 * PATCH * PATCH),
    );
    add("v.patch_embd.bias".to_owned(), DType::F32, vec![width], small);
    add("v.position_embd.weight".to_owned(), DType::F32, vec![GRID * GRID, width], small);
    let mut linear = |name: String, rows: usize, cols: usize| {
        add(format!("{name}.weight"), fitting(mix.base(), cols), vec![rows, cols], spread(cols));
        add(format!("{name}.bias"), DType::F32, vec![rows], small);
    };
    for layer in 0..tower.layers {
        for (part, rows, cols) in [
            ("attn_q", width, width),
            ("attn_k", width, width),
            ("attn_v", width, width),
            ("attn_out", width, width),
            ("ffn_up", wide, width),
            ("ffn_down", width, wide),
        ] {
            linear(format!("v.blk.{layer}.{part}"), rows, cols);
        }
    }
    linear("mm.1".to_owned(), tower.projector, token);
    linear("mm.2".to_owned(), hidden, tower.projector);
    let mut norm = |name: String, width: usize| {
        add(format!("{name}.weight"), DType::F32, vec![width], Fill::Ones);
        add(format!("{name}.bias"), DType::F32, vec![width], small);
    };
    for layer in 0..tower.layers {
        norm(format!("v.blk.{layer}.ln1"), width);
        norm(format!("v.blk.{layer}.ln2"), width);
    }
    norm("v.post_ln".to_owned(), width);
    if tower.has_projector_norm {
        norm("mm.input_norm".to_owned(), token);
    }
    tensors
}

/// The tower's metadata, for a language model of width `hidden`.
pub fn metadata(tower: &Tower, mix: Mix, hidden: usize) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let count = |n: usize| Value::U32(n as u32);
    let half = || Value::Array(Array::F32(vec![0.5; 3]));
    let name = format!("{} (random weights)", tower.names[0]);
    let pairs = [
        ("general.architecture", text("clip")),
        ("general.type", text("mmproj")),
        ("general.name", Value::String(name)),
        ("general.file_type", Value::U32(mix.file_type())),
        ("clip.has_vision_encoder", Value::Bool(true)),
        ("clip.projector_type", text("lfm2")),
        ("clip.use_gelu", Value::Bool(true)),
        ("clip.vision.image_size", count(GRID * PATCH)),
        ("clip.vision.patch_size", count(PATCH)),
        ("clip.vision.embedding_length", count(tower.width)),
        ("clip.vision.feed_forward_length", count(tower.feed_forward)),
        ("clip.vision.block_count", count(tower.layers)),
        ("clip.vision.attention.head_count", count(tower.heads)),
        ("clip.vision.attention.layer_norm_epsilon", Value::F32(NORM_EPS)),
        ("clip.vision.projection_dim", count(hidden)),
        ("clip.vision.projector.scale_factor", count(DOWNSAMPLE)),
        ("clip.vision.image_mean", half()),
        ("clip.vision.image_std", half()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::shapes;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        // The larger tower's own count and the projector's of LFM2.5-VL-3B are published.
        let tower = find("LFM2.5-VL-3B").expect("carried");
        let count = |part: &str| -> usize {
            let all = tensors(&tower, Mix::F16, 2048);
            let of_part = all.iter().filter(|tensor| tensor.declaration.name.starts_with(part));
            of_part.map(|tensor| tensor.declaration.shape.iter().product::<usize>()).sum()
        };
        assert_eq!((count("v."), count("mm.")), (412_649_712, 13_635_584));
    }

    #[test]
    fn every_tower_belongs_to_a_shape() {
        for tower in TOWERS {
            for name in tower.names {
                assert!(shapes::find(name).is_some(), "{name}");
                assert_eq!(find(name), Some(tower));
            }
        }
        assert_eq!(find("450m-vl"), None);
        assert_eq!(find("vl-450m"), Some(BASE));
        assert_eq!(find("LFM2-350M"), None);
    }
}
