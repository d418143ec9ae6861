//! From tensors and wishes to the type of each tensor.

use std::collections::BTreeMap;

use undine_core::DType;
use undine_weights::{
    ExpertPart, Imatrix, LayerWeight, Recoding, Source, SourceTensor, TensorRole, WeightName,
};

use crate::error::Error;
use crate::mix::{Circumstances, Place, Role, fitting};
use crate::options::Options;

/// What each tensor of a source becomes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One for each tensor, in order.
    pub recodings: Vec<Recoding>,
    /// `general.file_type`.
    pub file_type: u32,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// Bytes of all tensors as planned.
    pub fn bytes(&self, source: &Source) -> u64 {
        let tensors = source.tensors().iter().zip(&self.recodings);
        tensors.map(|(tensor, recoding)| tensor.bytes_as(recoding.dtype).unwrap_or(0)).sum()
    }
}

/// Chooses the type of each tensor of `source`, and its importances if there are any.
///
/// # Errors
/// If a wish cannot be met, or the importance matrix is one of another model.
pub fn plan(source: &Source, options: &Options, imatrix: Option<&Imatrix>) -> Result<Plan, Error> {
    check_overrides(source, options)?;
    let chooser = Chooser::new(source, options, imatrix);
    let mut notes = Notes::default();
    let mut recodings = Vec::with_capacity(source.tensors().len());
    for tensor in source.tensors() {
        if !tensor.is_matrix() {
            recodings.push(Recoding::plain(tensor.kept_dtype()));
            continue;
        }
        let dtype = chooser.dtype(tensor, &mut notes)?;
        if !tensor.dtype().is_float() && dtype != tensor.dtype() {
            *notes.requantized.entry(tensor.dtype()).or_default() += 1;
        }
        let wanted = !dtype.is_float() && dtype != tensor.dtype();
        let entry = imatrix.filter(|_| wanted).map(|imatrix| imatrix.entries.get(&tensor.name));
        let mut recoding = Recoding::plain(dtype);
        match entry {
            None => (),
            Some(None) => notes.without_importance += 1,
            Some(Some(entry)) => {
                let means = entry.mean_squares(tensor.matrices(), tensor.cols());
                let means =
                    means.map_err(|source| Error::Importance { tensor: tensor.name.clone(), source })?;
                recoding.importance = Some(means);
                recoding.coefficients = entry.coefficients();
            }
        }
        if dtype == DType::IQ2_XXS && dtype != tensor.dtype() && recoding.importance.is_none() {
            return Err(Error::NeedsImatrix { tensor: tensor.name.clone(), dtype });
        }
        recodings.push(recoding);
    }
    if let Some(imatrix) = imatrix {
        check_model(source, imatrix)?;
    }
    Ok(Plan { recodings, file_type: options.mix.file_type(), notes: notes.sentences() })
}

/// Every pattern of the user must match something: a misspelt one would be lost silently.
fn check_overrides(source: &Source, options: &Options) -> Result<(), Error> {
    let matrices = || source.tensors().iter().filter(|tensor| tensor.is_matrix());
    match options.overrides.iter().find(|wish| !matrices().any(|tensor| wish.pattern.is_match(&tensor.name)))
    {
        Some(wish) => Err(Error::NoMatch { pattern: wish.pattern.as_str().to_owned() }),
        None => Ok(()),
    }
}

fn check_model(source: &Source, imatrix: &Imatrix) -> Result<(), Error> {
    let mut matrices = source.tensors().iter().filter(|tensor| tensor.is_matrix());
    let first = matrices.clone().next().map(|tensor| tensor.name.clone()).unwrap_or_default();
    match matrices.any(|tensor| imatrix.entries.contains_key(&tensor.name)) {
        true => Ok(()),
        false => Err(Error::OtherModel { found: imatrix.entries.len(), expected: first }),
    }
}

/// What is needed to choose a tensor's type.
struct Chooser<'a> {
    options: &'a Options,
    circumstances: Circumstances,
    layers: usize,
    /// Layers with attention, in order.
    attention: Vec<usize>,
    has_head: bool,
}

impl<'a> Chooser<'a> {
    fn new(source: &Source, options: &'a Options, imatrix: Option<&Imatrix>) -> Self {
        let attention = |tensor: &SourceTensor| match tensor.role {
            TensorRole::Text(WeightName::Layer(layer, LayerWeight::Value)) => Some(layer),
            _ => None,
        };
        let mut layers: Vec<usize> = source.tensors().iter().filter_map(attention).collect();
        layers.sort_unstable();
        Self {
            options,
            circumstances: Circumstances {
                imatrix: imatrix.is_some(),
                experts: source.tensors().iter().any(|tensor| tensor.matrices() > 1),
            },
            layers: source.layers(),
            attention: layers,
            has_head: source.tensors().iter().any(|tensor| tensor.role == TensorRole::Text(WeightName::Head)),
        }
    }

    fn dtype(&self, tensor: &SourceTensor, notes: &mut Notes) -> Result<DType, Error> {
        if let Some(dtype) = self.wished(tensor) {
            return match dtype.row_bytes(tensor.cols()) {
                Some(_) => Ok(dtype),
                None => Err(Error::Rows { tensor: tensor.name.clone(), cols: tensor.cols(), dtype }),
            };
        }
        let dtype = self.mixed(tensor);
        let fitting = fitting(dtype, tensor.cols());
        if fitting != dtype {
            *notes.fallbacks.entry((dtype, fitting)).or_default() += 1;
        }
        Ok(fitting)
    }

    /// What the user named for this tensor.
    fn wished(&self, tensor: &SourceTensor) -> Option<DType> {
        let Options { overrides, output_type, embedding_type, .. } = self.options;
        let by_name = overrides.iter().find(|wish| wish.pattern.is_match(&tensor.name));
        by_name.map(|wish| wish.dtype).or(match tensor.role {
            TensorRole::Text(WeightName::Head) => *output_type,
            TensorRole::Text(WeightName::TokenEmbedding) if self.has_head => *embedding_type,
            TensorRole::Text(WeightName::TokenEmbedding) => embedding_type.or(*output_type),
            _ => None,
        })
    }

    fn mixed(&self, tensor: &SourceTensor) -> DType {
        let Options { mix, pure, .. } = self.options;
        let TensorRole::Text(name) = tensor.role else { return mix.base() };
        if *pure {
            return mix.base();
        }
        let (role, place) = self.place(name);
        mix.dtype(role, place, self.circumstances)
    }

    fn place(&self, name: WeightName) -> (Role, Place) {
        let of_layer = |index| Place { index, count: self.layers };
        let first = Place { index: 0, count: 1 };
        match name {
            WeightName::TokenEmbedding if self.has_head => (Role::Embedding, first),
            WeightName::TokenEmbedding | WeightName::Head => (Role::Head, first),
            WeightName::Layer(layer, LayerWeight::Value) => {
                let index = self.attention.iter().position(|&other| other == layer).unwrap_or(0);
                (Role::Value, Place { index, count: self.attention.len() })
            }
            WeightName::Layer(layer, LayerWeight::AttentionOut) => (Role::AttentionOut, of_layer(layer)),
            WeightName::Layer(layer, LayerWeight::Down)
            | WeightName::Expert { layer, part: ExpertPart::Down, .. } => (Role::Down, of_layer(layer)),
            _ => (Role::Matrix, first),
        }
    }
}

/// Counts of what the user should know.
#[derive(Default)]
struct Notes {
    fallbacks: BTreeMap<(DType, DType), usize>,
    requantized: BTreeMap<DType, usize>,
    without_importance: usize,
}

impl Notes {
    fn sentences(self) -> Vec<String> {
        let plural = |count: usize| if count == 1 { "tensor" } else { "tensors" };
        let fallback = |((wanted, taken), count): ((DType, DType), usize)| {
            let block = wanted.block_elems();
            format!(
                "{count} {} with rows that are no multiple of {block} values become {taken} in place of {wanted}.",
                plural(count)
            )
        };
        let mut sentences: Vec<String> = self.fallbacks.into_iter().map(fallback).collect();
        if !self.requantized.is_empty() {
            let count: usize = self.requantized.values().sum();
            let types: Vec<_> = self.requantized.keys().map(|dtype| dtype.name()).collect();
            sentences.push(format!(
                "{count} {} in the source quantized already ({}); what that lost is not regained, so start from F32, F16 \
                 or BF16 where you can.",
                if count == 1 { "tensor is" } else { "tensors are" },
                types.join(", ")
            ));
        }
        if self.without_importance > 0 {
            let count = self.without_importance;
            sentences.push(format!(
                "{count} {} not in the importance matrix and quantized with all columns counting the same.",
                if count == 1 { "tensor is" } else { "tensors are" }
            ));
        }
        sentences
    }
}
