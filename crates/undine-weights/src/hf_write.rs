//! A model as a Hugging Face folder: what `hf.rs` reads.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use undine_core::{Config, DType, FeedForward, LayerKind, TokenId, VisionConfig, Vocabulary};

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::gguf_write::NewFile;
use crate::hf::{CONFIG, PREPROCESSOR, WEIGHTS};
use crate::map::Bytes;
use crate::names::Names;
use crate::recode::Recoding;
use crate::source::{Source, SourceTensor, TensorRole};
use crate::text_files::{GENERATION, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, template_path};
use crate::tokenizer_json::{gguf_vocabulary, tokenizer_json};
use crate::vision;
use crate::weight::{ExpertPart, LayerWeight, WeightName};

/// The spellings of published models, without and with a vision tower.
const NAMES: Names = Names::HuggingFace { prefix: "model." };
const NAMES_WITH_TOWER: Names = Names::HuggingFace { prefix: "model.language_model." };
/// The token that stands for a row of an image.
const IMAGE_TEXT: &str = "<image>";
/// The header of a safetensors file is padded to a multiple of this.
const HEADER_ALIGNMENT: usize = 8;

/// Float types of the matrices of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolderTypes {
    /// Of the language model.
    pub language: DType,
    /// Of the vision tower; without it the tower is left out.
    pub tower: Option<DType>,
}

/// Writes `checkpoint` into the folder `out`, which is made if it does not exist, weights last.
///
/// Matrices get their part's type, other tensors too where that loses nothing, else F32. `progress` gets the
/// bytes of each piece of the weights that was written and may end the writing.
///
/// # Errors
/// If the vocabulary splits text in another way than LFM2's, a value is too large for its type, the system
/// refuses, or `progress` says so. A folder that was empty before, or not there, is so again.
///
/// # Panics
/// If a type is not a float type.
pub fn write_folder(
    checkpoint: &Checkpoint,
    types: FolderTypes,
    out: &Path,
    progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), Error> {
    for dtype in [Some(types.language), types.tower].into_iter().flatten() {
        assert!(dtype.is_float(), "safetensors files hold floats, not {dtype}");
    }
    let tower = types.tower.and(checkpoint.vision_config());
    let tokenizer = tokenizer(checkpoint)?;
    let mut config = config(checkpoint, types.language);
    if let Some(tower) = tower {
        config = vision::config_hf(checkpoint, tower, config, image_token(checkpoint)?);
    }
    let was_there = out.is_dir();
    let was_empty = fs::read_dir(out).map_or(true, |mut entries| entries.next().is_none());
    fs::create_dir_all(out).map_err(|source| Error::io(out, source))?;
    let small = SmallFiles { config: pretty(&config), tokenizer };
    let written = write_files(checkpoint, &small, types, out, progress);
    if written.is_err() && was_empty {
        // What cannot be removed stays: the folder has no weights, and says so when it is opened.
        [CONFIG, GENERATION, PREPROCESSOR, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE]
            .iter()
            .for_each(|name| drop(fs::remove_file(out.join(name))));
        if !was_there {
            drop(fs::remove_dir(out));
        }
    }
    written
}

/// What may be refused before there is a folder.
struct SmallFiles {
    config: Vec<u8>,
    tokenizer: Option<Vec<u8>>,
}

fn write_files(
    checkpoint: &Checkpoint,
    small: &SmallFiles,
    types: FolderTypes,
    out: &Path,
    progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), Error> {
    let tower = types.tower.and(checkpoint.vision_config());
    put(out, CONFIG, &small.config)?;
    put(out, GENERATION, &pretty(&generation(checkpoint)))?;
    if let (Some(tower), Some(settings)) = (tower, checkpoint.image_settings()) {
        put(out, PREPROCESSOR, &pretty(&vision::preprocessor_hf(settings, &tower.normalization)))?;
    }
    if let Some(tokenizer) = &small.tokenizer {
        put(out, TOKENIZER, tokenizer)?;
        put(out, TOKENIZER_CONFIG, &pretty(&tokenizer_config(checkpoint)))?;
    }
    for (name, template) in checkpoint.chat_templates().iter() {
        let path = template_path(name);
        if let Some((folder, _)) = path.rsplit_once('/') {
            let folder = out.join(folder);
            fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        }
        put(out, &path, template.as_bytes())?;
    }
    weights(checkpoint, types, &out.join(WEIGHTS), progress)
}

/// The token that stands for a row of an image, if the vocabulary has it.
fn image_token(checkpoint: &Checkpoint) -> Result<Option<TokenId>, Error> {
    let vocabulary = match checkpoint.vocabulary() {
        Vocabulary::HuggingFace(bytes) => gguf_vocabulary(bytes, checkpoint.config().vocab)?,
        other => other.clone(),
    };
    let Vocabulary::Gguf { tokens, .. } = vocabulary else { return Ok(None) };
    Ok(tokens.iter().position(|token| token == IMAGE_TEXT).map(|id| id as TokenId))
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    let mut file = NewFile::create(&path)?;
    file.write_all(bytes).map_err(|source| Error::io(&path, source))?;
    file.commit()
}

fn pretty(value: &Json) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The weights under their Hugging Face names, with the tower if there is one to be written.
fn source(checkpoint: &Checkpoint, tower: Option<&VisionConfig>) -> Source {
    let names = if tower.is_some() { NAMES_WITH_TOWER } else { NAMES };
    let mut tensors = Vec::new();
    let mut add = |name: WeightName| {
        let Some(weight) = checkpoint.weight(name) else { return };
        let shape = match name {
            // A convolution over one channel at a time.
            WeightName::Layer(_, LayerWeight::Conv) => vec![weight.rows, 1, weight.cols],
            _ if weight.rows == 1 => vec![weight.cols],
            _ => vec![weight.rows, weight.cols],
        };
        let spelling = names.spellings(name).swap_remove(0);
        tensors.push(SourceTensor {
            name: spelling,
            shape,
            role: TensorRole::Text(name),
            parts: vec![weight],
        });
    };
    [WeightName::TokenEmbedding, WeightName::FinalNorm, WeightName::Head].into_iter().for_each(&mut add);
    let experts = checkpoint.config().moe.map_or(0, |moe| moe.experts);
    for layer in 0..checkpoint.config().layers.len() {
        LayerWeight::ALL.into_iter().for_each(|part| add(WeightName::Layer(layer, part)));
        for expert in 0..experts {
            ExpertPart::ALL.into_iter().for_each(|part| add(WeightName::Expert { layer, expert, part }));
        }
    }
    let mut files = checkpoint.files.clone();
    if let Some(tower) = tower {
        let (of_tower, made) = vision::tensors_hf(checkpoint, tower, files.len());
        tensors.extend(of_tower);
        files.push(Arc::new(Bytes::Owned(made)));
    }
    Source { metadata: Vec::new(), tensors, files, notes: Vec::new() }
}

fn weights(
    checkpoint: &Checkpoint,
    types: FolderTypes,
    path: &Path,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), Error> {
    let source = source(checkpoint, types.tower.and(checkpoint.vision_config()));
    let choose = |tensor: &SourceTensor| {
        let dtype = match tensor.role {
            TensorRole::Vision(_) => types.tower.unwrap_or(types.language),
            TensorRole::Text(_) | TensorRole::Unknown => types.language,
        };
        let holds = tensor.is_matrix() || holds(dtype, &source.values(tensor));
        Recoding::plain(if holds { dtype } else { DType::F32 })
    };
    let recodings: Vec<Recoding> = source.tensors.iter().map(choose).collect();
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for (tensor, recoding) in source.tensors.iter().zip(&recodings) {
        let bytes = tensor.bytes_as(recoding.dtype).expect("a value is a whole block of a float type");
        let entry =
            json!({"dtype": recoding.dtype.name(), "shape": tensor.shape, "data_offsets": [at, at + bytes]});
        header.insert(tensor.name.clone(), entry);
        at += bytes;
    }
    let mut text = Json::Object(header).to_string();
    let padding = text.len().next_multiple_of(HEADER_ALIGNMENT) - text.len();
    text.extend(std::iter::repeat_n(' ', padding));
    let mut file = NewFile::create(path)?;
    let fail = |source| Error::io(path, source);
    file.write_all(&(text.len() as u64).to_le_bytes()).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    source.recode(&recodings, |data| {
        file.write_all(data).map_err(fail)?;
        match progress(data.len() as u64) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped),
        }
    })?;
    file.commit()
}

/// Whether values come back as they were from type `dtype`.
fn holds(dtype: DType, values: &[f32]) -> bool {
    let mut bytes = vec![0; values.len() * dtype.block_bytes()];
    undine_core::quant::encode(dtype, values, &mut bytes);
    let mut back = vec![0.0; values.len()];
    undine_core::quant::decode(dtype, &bytes, &mut back);
    values.iter().zip(&back).all(|(value, back)| value.to_bits() == back.to_bits())
}

/// A number with the digits that it has as f32.
pub(crate) fn short(x: f32) -> Json {
    x.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// The language model's part of config.json.
fn config(checkpoint: &Checkpoint, dtype: DType) -> Json {
    let config: &Config = checkpoint.config();
    let has = |name| checkpoint.weight(name).is_some();
    let layer_type = |kind: &LayerKind| match kind {
        LayerKind::Conv => "conv",
        LayerKind::FullAttention => "full_attention",
    };
    let width = |feed_forward: &FeedForward| match feed_forward {
        FeedForward::Dense { width } => Some(*width),
        FeedForward::Moe => None,
    };
    let dense_width = config.feed_forward.iter().find_map(width);
    let (architecture, model_type) = match config.moe {
        Some(_) => ("Lfm2MoeForCausalLM", "lfm2_moe"),
        None => ("Lfm2ForCausalLM", "lfm2"),
    };
    let conv_bias = config
        .layers
        .iter()
        .enumerate()
        .any(|(layer, _)| has(WeightName::Layer(layer, LayerWeight::ConvBias)));
    let mut json = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "dtype": match dtype { DType::F16 => "float16", DType::BF16 => "bfloat16", _ => "float32" },
        "hidden_size": config.hidden,
        "vocab_size": config.vocab,
        "num_hidden_layers": config.layers.len(),
        "layer_types": config.layers.iter().map(layer_type).collect::<Vec<_>>(),
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": dense_width.or(config.moe.map(|moe| moe.width)),
        "block_auto_adjust_ff_dim": false,
        "conv_L_cache": config.conv_taps,
        "conv_bias": conv_bias,
        "norm_eps": short(config.norm_eps),
        "rope_parameters": {"rope_type": "default", "rope_theta": short(config.rope_theta)},
        "max_position_embeddings": config.context_max,
        "tie_word_embeddings": !has(WeightName::Head),
        "use_cache": true,
    });
    if config.head_dim * config.heads != config.hidden {
        json["head_dim"] = config.head_dim.into();
    }
    if let Some(moe) = config.moe {
        let dense = config.feed_forward.iter().take_while(|&layer| width(layer).is_some()).count();
        let bias = has(WeightName::Layer(dense, LayerWeight::ExpertBias));
        json["num_experts"] = moe.experts.into();
        json["num_experts_per_tok"] = moe.experts_active.into();
        json["num_dense_layers"] = dense.into();
        json["moe_intermediate_size"] = moe.width.into();
        json["norm_topk_prob"] = moe.norm_topk_prob.into();
        json["routed_scaling_factor"] = short(moe.routed_scaling_factor);
        json["use_expert_bias"] = bias.into();
    }
    put_special_ids(checkpoint, &mut json);
    json
}

/// Ids of special tokens, as config.json and generation_config.json have them.
fn put_special_ids(checkpoint: &Checkpoint, json: &mut Json) {
    let tokens = checkpoint.special_tokens();
    for (key, id) in [("bos_token_id", tokens.bos), ("pad_token_id", tokens.pad)] {
        if let Some(id) = id {
            json[key] = id.into();
        }
    }
    match tokens.eos.as_slice() {
        [] => {}
        [one] => json["eos_token_id"] = (*one).into(),
        several => json["eos_token_id"] = several.into(),
    }
}

fn generation(checkpoint: &Checkpoint) -> Json {
    let mut json = json!({});
    put_special_ids(checkpoint, &mut json);
    let sampling = checkpoint.sampling_defaults();
    for (key, value) in [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("repetition_penalty", sampling.repetition_penalty),
    ] {
        if let Some(value) = value {
            json[key] = short(value);
        }
    }
    if let Some(k) = sampling.top_k {
        json["top_k"] = k.into();
    }
    json
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Vec<u8>>, Error> {
    let special = checkpoint.special_tokens();
    let bos = special.bos.filter(|_| special.add_bos == Some(true));
    match checkpoint.vocabulary() {
        Vocabulary::None => Ok(None),
        Vocabulary::HuggingFace(bytes) => Ok(Some(bytes.clone())),
        Vocabulary::Gguf { tokens, kinds, merges, pre } => {
            tokenizer_json((tokens, kinds), merges, pre, bos).map(Some)
        }
    }
}

fn tokenizer_config(checkpoint: &Checkpoint) -> Json {
    let special = checkpoint.special_tokens();
    let mut json =
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    let Vocabulary::Gguf { tokens, .. } = checkpoint.vocabulary() else { return json };
    let text = |id: TokenId| tokens.get(id as usize).cloned();
    for (key, id) in
        [("bos_token", special.bos), ("eos_token", special.eos.first().copied()), ("pad_token", special.pad)]
    {
        if let Some(text) = id.and_then(text) {
            json[key] = text.into();
        }
    }
    if let Some(add_bos) = special.add_bos {
        json["add_bos_token"] = add_bos.into();
    }
    json
}
