//! How the formats spell the weights of a vision tower; `../names.rs` does so for the language model.

use crate::limits::LAYERS_MAX;
use crate::tensor::TensorTable;
use crate::weight::{VisionLayerWeight, VisionWeight};

/// Prefixes of the tower and of the projector in Hugging Face checkpoints.
const TOWER_PREFIXES: [&str; 4] = [
    "model.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.vision_model.",
    "vision_tower.",
];
const PROJECTOR_PREFIXES: [&str; 2] = ["model.multi_modal_projector.", "multi_modal_projector."];

/// The spelling of tensor names in one checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VisionNames {
    Gguf,
    HuggingFace { tower: &'static str, projector: &'static str },
}

impl VisionNames {
    /// The spelling that a Hugging Face checkpoint uses; `None` if it has no tower.
    pub(crate) fn hugging_face(table: &TensorTable) -> Option<Self> {
        let has = |name: String| table.contains(&name) || table.foreign.contains_key(&name);
        let tower = TOWER_PREFIXES
            .into_iter()
            .find(|prefix| has(format!("{prefix}embeddings.patch_embedding.weight")))?;
        let projector = PROJECTOR_PREFIXES.into_iter().find(|prefix| has(format!("{prefix}linear_1.weight")));
        Some(Self::HuggingFace { tower, projector: projector.unwrap_or(PROJECTOR_PREFIXES[0]) })
    }

    /// One more than the last layer that has a tensor.
    pub(crate) fn layers(self, table: &TensorTable) -> usize {
        let has = |&layer: &usize| {
            let name = VisionWeight::Layer(layer, VisionLayerWeight::Norm1);
            self.spellings(name).iter().any(|name| table.contains(name) || table.foreign.contains_key(name))
        };
        (0..=LAYERS_MAX).rev().find(has).map_or(0, |last| last + 1)
    }

    /// Accepted spellings of `name`, the format's own first. Never empty.
    pub(crate) fn spellings(self, name: VisionWeight) -> Vec<String> {
        match self {
            Self::Gguf => gguf(name),
            Self::HuggingFace { tower, projector } => vec![hugging_face(tower, projector, name)],
        }
    }
}

/// The weight that a tensor of an mmproj file holds.
pub(crate) fn from_gguf(name: &str) -> Option<VisionWeight> {
    let layer = name.strip_prefix("v.blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
    let in_layer = |layer: usize| VisionLayerWeight::ALL.map(|part| VisionWeight::Layer(layer, part));
    let candidates = VisionWeight::OUTER.into_iter().chain(layer.into_iter().flat_map(in_layer));
    candidates.into_iter().find(|&candidate| gguf(candidate).iter().any(|spelling| spelling == name))
}

fn gguf(name: VisionWeight) -> Vec<String> {
    use VisionLayerWeight as L;
    use VisionWeight as V;
    let one = |name: &str| vec![name.to_owned()];
    let (layer, part) = match name {
        V::PatchEmbedding => return one("v.patch_embd.weight"),
        V::PatchEmbeddingBias => return one("v.patch_embd.bias"),
        V::Positions => return one("v.position_embd.weight"),
        V::PostNorm => return one("v.post_ln.weight"),
        V::PostNormBias => return one("v.post_ln.bias"),
        // ollama's converter has a name of its own for the norm.
        V::ProjectorNorm => {
            return ["mm.input_norm.weight", "mm.layer_norm.weight"].map(str::to_owned).into();
        }
        V::ProjectorNormBias => {
            return ["mm.input_norm.bias", "mm.layer_norm.bias"].map(str::to_owned).into();
        }
        V::Projector1 => return one("mm.1.weight"),
        V::Projector1Bias => return one("mm.1.bias"),
        V::Projector2 => return one("mm.2.weight"),
        V::Projector2Bias => return one("mm.2.bias"),
        V::Layer(layer, part) => (layer, part),
    };
    let part = match part {
        L::Norm1 => "ln1.weight",
        L::Norm1Bias => "ln1.bias",
        L::Norm2 => "ln2.weight",
        L::Norm2Bias => "ln2.bias",
        L::Query => "attn_q.weight",
        L::QueryBias => "attn_q.bias",
        L::Key => "attn_k.weight",
        L::KeyBias => "attn_k.bias",
        L::Value => "attn_v.weight",
        L::ValueBias => "attn_v.bias",
        L::Out => "attn_out.weight",
        L::OutBias => "attn_out.bias",
        L::Up => "ffn_up.weight",
        L::UpBias => "ffn_up.bias",
        L::Down => "ffn_down.weight",
        L::DownBias => "ffn_down.bias",
    };
    vec![format!("v.blk.{layer}.{part}")]
}

fn hugging_face(tower: &str, projector: &str, name: VisionWeight) -> String {
    use VisionLayerWeight as L;
    use VisionWeight as V;
    let (layer, part) = match name {
        V::PatchEmbedding => return format!("{tower}embeddings.patch_embedding.weight"),
        V::PatchEmbeddingBias => return format!("{tower}embeddings.patch_embedding.bias"),
        V::Positions => return format!("{tower}embeddings.position_embedding.weight"),
        V::PostNorm => return format!("{tower}post_layernorm.weight"),
        V::PostNormBias => return format!("{tower}post_layernorm.bias"),
        V::ProjectorNorm => return format!("{projector}layer_norm.weight"),
        V::ProjectorNormBias => return format!("{projector}layer_norm.bias"),
        V::Projector1 => return format!("{projector}linear_1.weight"),
        V::Projector1Bias => return format!("{projector}linear_1.bias"),
        V::Projector2 => return format!("{projector}linear_2.weight"),
        V::Projector2Bias => return format!("{projector}linear_2.bias"),
        V::Layer(layer, part) => (layer, part),
    };
    let part = match part {
        L::Norm1 => "layer_norm1.weight",
        L::Norm1Bias => "layer_norm1.bias",
        L::Norm2 => "layer_norm2.weight",
        L::Norm2Bias => "layer_norm2.bias",
        L::Query => "self_attn.q_proj.weight",
        L::QueryBias => "self_attn.q_proj.bias",
        L::Key => "self_attn.k_proj.weight",
        L::KeyBias => "self_attn.k_proj.bias",
        L::Value => "self_attn.v_proj.weight",
        L::ValueBias => "self_attn.v_proj.bias",
        L::Out => "self_attn.out_proj.weight",
        L::OutBias => "self_attn.out_proj.bias",
        L::Up => "mlp.fc1.weight",
        L::UpBias => "mlp.fc1.bias",
        L::Down => "mlp.fc2.weight",
        L::DownBias => "mlp.fc2.bias",
    };
    format!("{tower}encoder.layers.{layer}.{part}")
}
