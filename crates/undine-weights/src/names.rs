//! How the file formats spell the weights: the only file that knows tensor names.

use crate::tensor::TensorTable;
use crate::weight::{ExpertPart, LayerWeight, WeightName};

/// Prefixes of the language model's tensors in Hugging Face checkpoints: plain, bare, vision (new and old),
/// audio.
const HF_PREFIXES: [&str; 6] =
    ["model.", "", "model.language_model.", "language_model.model.", "language_model.", "lfm."];

/// Parts of names of tensors that no reader of these models uses: what the configuration says anyway, and the
/// pooling of a vision tower whose patches are all wanted.
const IDLE: [&str; 3] = ["rotary_emb.inv_freq", "position_ids", "vision_tower.head."];

/// Whether a tensor is one that every reader of these models passes over.
pub(crate) fn is_idle(name: &str) -> bool {
    let name = name.replace("vision_tower.vision_model.", "vision_tower.");
    IDLE.iter().any(|part| name.contains(part))
}

/// What training programs put around the names of a model's parts, anywhere in them.
const WRAPPERS: [&str; 4] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"];
/// What PEFT puts in front of them.
const PEFT_PREFIX: &str = "base_model.model.";
/// How the name of the token embedding ends.
const EMBEDDING: &str = "embed_tokens.weight";

/// A name without what programs that trained or compiled the model have put around it.
pub(crate) fn unwrapped(name: &str) -> String {
    let parts = |name: &str| {
        let own: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
        own.join(".")
    };
    let mut name = parts(name);
    while let Some(rest) = name.strip_prefix(PEFT_PREFIX) {
        name = rest.to_owned();
    }
    name
}

/// Whether a key is that of a matrix which is small and must be, or had better be, of floats: filters and
/// tables, which are read value by value, and routers, because a choice of experts should not depend on
/// rounded inputs.
pub(crate) fn is_read_as_floats(key: &str) -> bool {
    const ENDINGS: [&str; 4] = [
        "feed_forward.gate.weight",
        "conv.conv.weight",
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
    ];
    ENDINGS.iter().any(|ending| key.ends_with(ending))
}

/// Takes away a prefix of the language model that is none of the known ones, if its token embedding is the
/// only one there is.
pub(crate) fn unwrap_prefix(table: &mut TensorTable, repairs: &mut Vec<String>) -> Result<(), String> {
    let all = || table.keys().chain(table.foreign.keys().map(String::as_str));
    // Of a packed embedding the codes have another name.
    let endings = [EMBEDDING, "embed_tokens.qweight", "embed_tokens.weight_packed"];
    let prefix = |key: &str| endings.iter().find_map(|ending| key.strip_suffix(ending)).map(str::to_owned);
    let mut prefixes: Vec<String> = all().filter_map(prefix).collect();
    prefixes.dedup();
    let [prefix] = prefixes.as_slice() else { return Ok(()) };
    if HF_PREFIXES.contains(&prefix.as_str())
        || !all().any(|key| key.starts_with(&format!("{prefix}layers.0.")))
    {
        return Ok(());
    }
    let outer = prefix.strip_suffix("model.").unwrap_or(prefix);
    repairs.push(format!("The names of the tensors begin with {prefix} instead of model."));
    let rename = |key: &str| match (key.strip_prefix(prefix.as_str()), key.strip_prefix(outer)) {
        (Some(rest), _) if !rest.starts_with("lm_head.") => format!("model.{rest}"),
        (Some(rest), _) | (None, Some(rest)) => rest.to_owned(),
        (None, None) => key.to_owned(),
    };
    table.rename(rename)
}

/// The spelling of tensor names in one checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Names {
    Gguf,
    HuggingFace { prefix: &'static str },
}

/// Where an expert's matrix lies in a tensor that holds all experts of a layer.
pub(crate) struct PackedExpert {
    /// Accepted spellings.
    pub spellings: Vec<String>,
    /// Matrices of one expert in the tensor, one after the other.
    pub parts: usize,
    /// Which of them this is.
    pub part: usize,
}

impl Names {
    /// The spelling that a Hugging Face checkpoint uses; the plain one if no token embedding is found.
    pub(crate) fn hugging_face(table: &TensorTable) -> Self {
        let has = |prefix: &str| {
            let name = format!("{prefix}embed_tokens.weight");
            table.contains(&name) || table.foreign.contains_key(&name)
        };
        let prefix = HF_PREFIXES.into_iter().find(|prefix| has(prefix)).unwrap_or("model.");
        Self::HuggingFace { prefix }
    }

    /// Accepted spellings of `name`, the format's own first. Never empty.
    pub(crate) fn spellings(self, name: WeightName) -> Vec<String> {
        match self {
            Self::Gguf => gguf(name),
            Self::HuggingFace { prefix } => hugging_face(prefix, name),
        }
    }

    /// The tensors that would hold this expert matrix packed with the layer's others.
    pub(crate) fn packed_expert(self, layer: usize, part: ExpertPart) -> Vec<PackedExpert> {
        match self {
            Self::Gguf => vec![PackedExpert { spellings: vec![gguf_packed(layer, part)], parts: 1, part: 0 }],
            Self::HuggingFace { prefix } => {
                // As MLX has them.
                let own =
                    format!("{prefix}layers.{layer}.feed_forward.switch_mlp.{}.weight", projection(part));
                let own = PackedExpert { spellings: vec![own], parts: 1, part: 0 };
                let (tensor, parts, part) = match part {
                    ExpertPart::Gate => ("gate_up_proj", 2, 0),
                    ExpertPart::Up => ("gate_up_proj", 2, 1),
                    ExpertPart::Down => ("down_proj", 1, 0),
                };
                let name = format!("{prefix}layers.{layer}.feed_forward.experts.{tensor}");
                vec![PackedExpert { spellings: vec![name.clone(), name + ".weight"], parts, part }, own]
            }
        }
    }
}

/// What other programs, MLX among them, call a matrix of a feed-forward.
fn projection(part: ExpertPart) -> &'static str {
    match part {
        ExpertPart::Gate => "gate_proj",
        ExpertPart::Up => "up_proj",
        ExpertPart::Down => "down_proj",
    }
}

/// How GGUF spells a weight; for a matrix of an expert, the tensor that holds those of all experts of the
/// layer.
pub fn gguf_name(name: WeightName) -> String {
    Names::Gguf.spellings(name).swap_remove(0)
}

/// The GGUF name of the tensor that holds one matrix of all experts of a layer.
pub(crate) fn gguf_packed(layer: usize, part: ExpertPart) -> String {
    let part = match part {
        ExpertPart::Gate => "gate",
        ExpertPart::Up => "up",
        ExpertPart::Down => "down",
    };
    format!("blk.{layer}.ffn_{part}_exps.weight")
}

/// The weight that a tensor of a GGUF file holds; of the experts of a layer, which share a tensor, the first.
pub(crate) fn from_gguf(name: &str) -> Option<WeightName> {
    let outer = [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head];
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
    let in_layer = layer.into_iter().flat_map(|layer: usize| {
        let parts = LayerWeight::ALL.map(|part| WeightName::Layer(layer, part));
        let experts = ExpertPart::ALL.map(|part| WeightName::Expert { layer, expert: 0, part });
        parts.into_iter().chain(experts)
    });
    outer
        .into_iter()
        .chain(in_layer)
        .find(|&candidate| gguf(candidate).iter().any(|spelling| spelling == name))
}

/// The spelling of the final norm that only ollama's converter uses.
pub(crate) const GGUF_FINAL_NORM_OLLAMA: &str = "output_norm.weight";

fn gguf(name: WeightName) -> Vec<String> {
    use LayerWeight as L;
    let (layer, part) = match name {
        WeightName::TokenEmbedding => return vec!["token_embd.weight".to_owned()],
        WeightName::FinalNorm => {
            return vec!["token_embd_norm.weight".to_owned(), GGUF_FINAL_NORM_OLLAMA.to_owned()];
        }
        WeightName::Head => return vec!["output.weight".to_owned()],
        WeightName::Expert { layer, part, .. } => return vec![gguf_packed(layer, part)],
        WeightName::Layer(layer, part) => (layer, part),
    };
    let parts: &[&str] = match part {
        L::OperatorNorm => &["attn_norm.weight"],
        L::FfnNorm => &["ffn_norm.weight"],
        L::ConvIn => &["shortconv.in_proj.weight"],
        L::ConvInBias => &["shortconv.in_proj.bias"],
        L::Conv => &["shortconv.conv.weight"],
        L::ConvBias => &["shortconv.conv.bias"],
        L::ConvOut => &["shortconv.out_proj.weight"],
        L::ConvOutBias => &["shortconv.out_proj.bias"],
        L::Query => &["attn_q.weight"],
        L::Key => &["attn_k.weight"],
        L::Value => &["attn_v.weight"],
        L::AttentionOut => &["attn_output.weight"],
        L::QueryNorm => &["attn_q_norm.weight"],
        L::KeyNorm => &["attn_k_norm.weight"],
        L::Gate => &["ffn_gate.weight"],
        L::Up => &["ffn_up.weight"],
        L::Down => &["ffn_down.weight"],
        L::Router => &["ffn_gate_inp.weight"],
        L::ExpertBias => &["exp_probs_b.bias", "exp_probs_b.weight", "exp_probs_b"],
    };
    parts.iter().map(|part| format!("blk.{layer}.{part}")).collect()
}

fn hugging_face(prefix: &str, name: WeightName) -> Vec<String> {
    use LayerWeight as L;
    let (layer, part) = match name {
        WeightName::TokenEmbedding => return vec![format!("{prefix}embed_tokens.weight")],
        WeightName::FinalNorm => return vec![format!("{prefix}embedding_norm.weight")],
        WeightName::Head => {
            let outer = ["", "language_model.", "model."].map(|outer| format!("{outer}lm_head.weight"));
            return outer.into_iter().chain([format!("{prefix}lm_head.weight")]).collect();
        }
        WeightName::Expert { layer, expert, part } => {
            let own = match part {
                ExpertPart::Gate => "w1",
                ExpertPart::Up => "w3",
                ExpertPart::Down => "w2",
            };
            let name =
                |part: &str| format!("{prefix}layers.{layer}.feed_forward.experts.{expert}.{part}.weight");
            return vec![name(own), name(projection(part))];
        }
        WeightName::Layer(layer, part) => (layer, part),
    };
    let parts: &[&str] = match part {
        L::OperatorNorm => &["operator_norm.weight"],
        L::FfnNorm => &["ffn_norm.weight"],
        L::ConvIn => &["conv.in_proj.weight"],
        L::ConvInBias => &["conv.in_proj.bias"],
        L::Conv => &["conv.conv.weight"],
        L::ConvBias => &["conv.conv.bias"],
        L::ConvOut => &["conv.out_proj.weight"],
        L::ConvOutBias => &["conv.out_proj.bias"],
        L::Query => &["self_attn.q_proj.weight"],
        L::Key => &["self_attn.k_proj.weight"],
        L::Value => &["self_attn.v_proj.weight"],
        L::AttentionOut => &["self_attn.out_proj.weight"],
        L::QueryNorm => &["self_attn.q_layernorm.weight"],
        L::KeyNorm => &["self_attn.k_layernorm.weight"],
        L::Gate => &["feed_forward.w1.weight", "feed_forward.gate_proj.weight"],
        L::Up => &["feed_forward.w3.weight", "feed_forward.up_proj.weight"],
        L::Down => &["feed_forward.w2.weight", "feed_forward.down_proj.weight"],
        L::Router => &["feed_forward.gate.weight"],
        L::ExpertBias => {
            &["feed_forward.expert_bias", "feed_forward.expert_bias.weight", "feed_forward.expert_bias.bias"]
        }
    };
    parts.iter().map(|part| format!("{prefix}layers.{layer}.{part}")).collect()
}
