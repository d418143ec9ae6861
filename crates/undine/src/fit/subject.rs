//! The MODEL of `undine fit`: its shape, and what its weights take in each quantization.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use undine_core::{Config, DType, FeedForward, LayerKind, MoeConfig, VisionConfig};
use undine_hub::ModelName;
use undine_model::{MatrixId, Model, VisionModel};
use undine_quantize::Mix;
use undine_weights::{Checkpoint, Weight};

use super::memory::Tower;
use super::named::Named;
use crate::error::Error;
use crate::synth::shapes::{MoeShape, Shape, SpecialLayout};
use crate::synth::{plan, tensor_bytes, tower_config, tower_tensors};
use crate::work::{self, Matrices, Part};
use crate::{inspect, open};

/// Quantization where neither the model nor the command line says one.
const MIX_DEFAULT: Mix = Mix::Q4_K_M;
/// Name of the embedding table among the tensors of a shape.
const EMBEDDING: &str = "token_embd.weight";

/// Weights in one quantization.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What the quantization is called.
    pub name: String,
    /// Bytes by type, a vision tower included.
    pub types: BTreeMap<DType, u64>,
    /// The matrices of the language model.
    pub matrices: Vec<Matrices>,
    /// Type of a vision tower's matrices.
    tower: Option<DType>,
}

/// A model to size.
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// Its shape.
    pub config: Config,
    /// Parameters, a vision tower included.
    pub parameters: u64,
    /// The quantization asked for.
    pub chosen: Variant,
    /// The checkpoint, if the chosen weights are there.
    pub model: Option<Arc<Model>>,
    /// What is not certain about the shape.
    pub note: Option<String>,
    /// The shape in the form that quantizations are planned for; some shapes have none.
    shape: Option<Shape>,
    /// The shape of the vision tower.
    tower: Option<VisionConfig>,
}

impl Variant {
    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.types.values().sum()
    }

    /// Whether all weights are float.
    pub fn is_float(&self) -> bool {
        self.types.keys().all(|dtype| dtype.is_float())
    }

    fn of_shape(name: &str, shape: &Shape, mix: Mix) -> Self {
        let language = plan::tensors(shape, mix);
        let tower = tower_tensors(name, shape, mix);
        let mut types: BTreeMap<DType, u64> = BTreeMap::new();
        for tensor in language.iter().chain(&tower) {
            *types.entry(tensor.declaration.dtype).or_default() += tensor_bytes(tensor);
        }
        let matrices = language.iter().flat_map(|tensor| matrices(shape, tensor)).collect();
        let sizes = tower.iter().map(|tensor| (tensor.declaration.dtype, tensor_bytes(tensor)));
        Self { name: mix.name().to_owned(), types, matrices, tower: most(sizes) }
    }

    fn of_model(model: &Model, checkpoint: &Arc<Checkpoint>) -> Self {
        let types: BTreeMap<DType, u64> = inspect::types(model.checkpoint())
            .into_iter()
            .map(|(dtype, total)| (dtype, total.bytes))
            .collect();
        let main =
            most(types.iter().map(|(dtype, bytes)| (*dtype, *bytes))).map_or("none", |dtype| dtype.name());
        let name = format!("the file's own types, mostly {main}");
        let tower = VisionModel::bind(Arc::clone(checkpoint)).and_then(|tower| {
            let matrix = |i: usize| *tower.matrix(MatrixId(i as u32));
            let values = |weight: Weight| (weight.dtype, (weight.rows * weight.cols) as u64);
            most((0..tower.matrix_count()).map(matrix).map(values))
        });
        Self { name, types, matrices: work::matrices(model), tower }
    }
}

/// The type that most bytes have.
fn most(sizes: impl Iterator<Item = (DType, u64)>) -> Option<DType> {
    let mut totals: BTreeMap<DType, u64> = BTreeMap::new();
    sizes.for_each(|(dtype, bytes)| *totals.entry(dtype).or_default() += bytes);
    totals.into_iter().max_by_key(|&(_, bytes)| bytes).map(|(dtype, _)| dtype)
}

/// The matrices in a tensor of a shape: none for norms and filters, two for the embedding, which is the head
/// too.
fn matrices(shape: &Shape, tensor: &plan::Tensor) -> Vec<Matrices> {
    let declaration = &tensor.declaration;
    let of = |part, count, rows, cols| Matrices { part, dtype: declaration.dtype, count, rows, cols };
    match declaration.shape[..] {
        [rows, cols] if declaration.name == EMBEDDING => {
            vec![of(Part::Head, 1, rows, cols), of(Part::Embedding, 1, rows, cols)]
        }
        [experts, rows, cols] => vec![of(Part::Expert, experts, rows, cols)],
        [rows, cols] if cols > shape.conv_taps => vec![of(Part::Layer, 1, rows, cols)],
        _ => Vec::new(),
    }
}

impl Subject {
    /// Finds the model: a path first, else a shape's name; without one the demo model.
    pub fn find(model: Option<&str>, mix: Option<Mix>) -> Result<Self, Error> {
        let Some(name) = model else { return Self::of_checkpoint(None, mix) };
        // `model.gguf:latest`, for who comes from Ollama.
        let plain = name.strip_suffix(":latest").filter(|plain| Path::new(plain).exists());
        let name = plain.unwrap_or(name);
        let path = Path::new(name);
        let is_folder_without_weights = path.join("config.json").is_file() && !has_weights(path);
        if path.is_file() && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
        {
            return Self::of_config(path, &path.canonicalize().unwrap_or_else(|_| path.to_owned()), mix);
        }
        if is_folder_without_weights {
            return Self::of_config(&path.join("config.json"), &path.join("config.json"), mix);
        }
        if path.exists() {
            return Self::of_checkpoint(Some(path), mix);
        }
        let unknown = || {
            Error::usage(format!(
                "MODEL {name}: expected a .gguf file, a checkpoint folder, a config.json or a name that \
                 `undine synth --list` has; found no such file and no such name"
            ))
        };
        let Some(named) = Named::read(name) else {
            // A path to nothing is told what is near.
            let error = ModelName::parse(path)
                .err()
                .filter(|error| matches!(error, undine_hub::Error::NoFileHere { .. }));
            return Err(error.map_or_else(unknown, Error::from));
        };
        let mix = named.mix(mix)?;
        let (shape, name) = (named.shape, named.checkpoint);
        let asked = name.rsplit('/').next().unwrap_or(&name);
        let known = shape.names.iter().find(|known| {
            known.eq_ignore_ascii_case(asked) || known.eq_ignore_ascii_case(&format!("LFM2-{asked}"))
        });
        let name = known.unwrap_or(&shape.names[0]).clone();
        Ok(Self::of_shape(name, shape, mix))
    }

    fn of_shape(name: String, shape: Shape, mix: Option<Mix>) -> Self {
        let config = config(&shape);
        let all =
            plan::tensors(&shape, MIX_DEFAULT).into_iter().chain(tower_tensors(&name, &shape, MIX_DEFAULT));
        let parameters = all.map(|tensor| tensor.declaration.shape.iter().product::<usize>() as u64).sum();
        let chosen = Variant::of_shape(&name, &shape, mix.unwrap_or(MIX_DEFAULT));
        let (note, tower) = (shape.note.clone(), tower_config(&name, &shape));
        Self { name, config, parameters, chosen, model: None, note, shape: Some(shape), tower }
    }

    fn of_config(path: &Path, shown: &Path, mix: Option<Mix>) -> Result<Self, Error> {
        let config = undine_weights::read_config(path)?;
        let shape = shape(&config).ok_or_else(|| {
            Error::refused(format!(
                "{}: {} heads of {} values in a width of {}; expected the heads to fill the width",
                path.display(),
                config.heads,
                config.head_dim,
                config.hidden
            ))
        })?;
        let name = shown.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let subject = Self::of_shape(name.unwrap_or_else(|| "model".to_owned()), shape, mix);
        Ok(Self { config, ..subject })
    }

    fn of_checkpoint(path: Option<&Path>, mix: Option<Mix>) -> Result<Self, Error> {
        let checkpoint: Arc<Checkpoint> = open::open(path)?;
        let name = open::display_name(path);
        let config = checkpoint.config().clone();
        let tower = checkpoint.vision_config().copied();
        let shape = shape(&config);
        let parameters = inspect::parameters(&checkpoint);
        let (chosen, model) = match (mix, &shape) {
            (None, _) => {
                let model = Arc::new(Model::bind(Arc::clone(&checkpoint)));
                (Variant::of_model(&model, &checkpoint), Some(model))
            }
            (Some(mix), Some(shape)) => (Variant::of_shape(&name, shape, mix), None),
            (Some(_), None) => {
                return Err(Error::refused("--type: this shape is not one whose quantizations are known"));
            }
        };
        Ok(Self { name, config, parameters, chosen, model, note: None, shape, tower })
    }

    /// The weights in another quantization.
    pub fn variant(&self, mix: Mix) -> Option<Variant> {
        self.shape.as_ref().map(|shape| Variant::of_shape(&self.name, shape, mix))
    }

    /// The vision tower as a quantization has it.
    pub fn tower(&self, variant: &Variant) -> Option<Tower> {
        let config = self.tower?;
        // A file whose shape has no name is asked about its own types only, and other ones are taken to have
        // as many bits.
        let dtype = variant.tower.or(self.chosen.tower)?;
        Some(Tower { config, dtype })
    }

    /// Parameters that one token is multiplied with, the head's included.
    pub fn active_parameters(&self) -> u64 {
        let active = |matrix: &Matrices| {
            let elems = (matrix.rows * matrix.cols) as f64 * matrix.count as f64;
            match (matrix.part, self.config.moe) {
                (Part::Embedding, _) => 0.0,
                (Part::Expert, Some(moe)) => elems * moe.experts_active as f64 / moe.experts as f64,
                _ => elems,
            }
        };
        self.chosen.matrices.iter().map(active).sum::<f64>() as u64
    }
}

/// Whether a folder has files of weights in it.
fn has_weights(folder: &Path) -> bool {
    let is_weights = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf")
            || path.ends_with("model.safetensors.index.json")
    };
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| is_weights(&entry.path()))
}

/// The configuration of a shape.
fn config(shape: &Shape) -> Config {
    let kind = |letter| if letter == 'a' { LayerKind::FullAttention } else { LayerKind::Conv };
    let dense_layers = shape.moe.map_or(shape.pattern.len(), |moe| moe.dense_layers);
    let feed_forward = |layer| {
        if layer < dense_layers { FeedForward::Dense { width: shape.feed_forward } } else { FeedForward::Moe }
    };
    Config {
        hidden: shape.hidden,
        vocab: shape.vocab,
        layers: shape.pattern.chars().map(kind).collect(),
        feed_forward: (0..shape.pattern.len()).map(feed_forward).collect(),
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim(),
        conv_taps: shape.conv_taps,
        norm_eps: shape.norm_eps,
        rope_theta: shape.rope_theta,
        context_max: shape.context as usize,
        moe: shape.moe.map(|moe| MoeConfig {
            experts: moe.experts,
            experts_active: moe.experts_active,
            width: moe.width,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
        }),
    }
}

/// The shape of a configuration, if quantizations can be planned for it.
fn shape(config: &Config) -> Option<Shape> {
    let widths = config.feed_forward.iter().filter_map(|feed_forward| match feed_forward {
        FeedForward::Dense { width } => Some(*width),
        FeedForward::Moe => None,
    });
    let dense_layers = widths.clone().count();
    let feed_forward = widths.clone().next().unwrap_or(config.hidden);
    let is_even = widths.into_iter().all(|width| width == feed_forward);
    (is_even && config.heads * config.head_dim == config.hidden).then(|| Shape {
        names: Vec::new(),
        hidden: config.hidden,
        pattern: config.layers.iter().map(|kind| if *kind == LayerKind::Conv { 'c' } else { 'a' }).collect(),
        heads: config.heads,
        kv_heads: config.kv_heads,
        feed_forward,
        conv_taps: config.conv_taps,
        vocab: config.vocab,
        rope_theta: config.rope_theta,
        norm_eps: config.norm_eps,
        context: u32::try_from(config.context_max).unwrap_or(u32::MAX),
        moe: config.moe.map(|moe| MoeShape {
            experts: moe.experts,
            experts_active: moe.experts_active,
            width: moe.width,
            dense_layers,
        }),
        special_ids: SpecialLayout::First,
        note: None,
        hidden_from_list: true,
    })
}
