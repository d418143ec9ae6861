//! Any model file or folder as what a GGUF file of it holds: metadata, and tensors that can be written again
//! in other types.
//!
//! A GGUF file is taken as it is, with all its metadata and with tensors this program does not know; a
//! Hugging Face folder becomes up to two sources, because GGUF keeps a vision tower in a file of its own.

use std::path::Path;
use std::sync::Arc;

use undine_core::{DType, quant};

use crate::bind::weight;
use crate::checkpoint::Checkpoint;
use crate::config_gguf::{ARCHITECTURE_DENSE, ARCHITECTURE_MOE, Metadata};
use crate::gguf_open::{SPLIT_PREFIX, map, read_parts};
use crate::map::Bytes;
use crate::place::Place;
use crate::tensor::Tensor;
use crate::value::Value;
use crate::weight::{LayerWeight, VisionWeight, Weight, WeightName};
use crate::{Error, adapter, convert, names, vision};

const FILE_TYPE: &str = "general.file_type";
const VERSION: &str = "general.quantization_version";
/// `general.quantization_version` of today's block layouts.
const QUANTIZATION_VERSION: u32 = 2;
const ALIGNMENT: &str = "general.alignment";

/// What a tensor is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TensorRole {
    /// A weight of the language model; of experts, which share a tensor, the first.
    Text(WeightName),
    /// A weight of the vision tower.
    Vision(VisionWeight),
    /// Something this program does not compute with.
    Unknown,
}

/// A tensor of a [`Source`].
#[derive(Clone, PartialEq, Debug)]
pub struct SourceTensor {
    /// The name in GGUF.
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: TensorRole,
    /// Its rows in order: one piece, or one for each expert.
    pub(crate) parts: Vec<Weight>,
}

/// Metadata and tensors of one GGUF file, existing or to be written. Files must not be changed while it is
/// open.
pub struct Source {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<SourceTensor>,
    pub(crate) files: Vec<Arc<Bytes>>,
    /// What was mended in what it was made from, or is left out of it, one sentence each.
    pub(crate) notes: Vec<String>,
}

impl SourceTensor {
    /// The element type; of the first piece, if there are several.
    pub fn dtype(&self) -> DType {
        self.parts[0].dtype
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.parts[0].cols
    }

    /// Rows of all matrices.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Matrices in the tensor: experts, or one.
    pub fn matrices(&self) -> usize {
        match self.role {
            TensorRole::Text(WeightName::Expert { .. }) if self.shape.len() == 3 => self.shape[0],
            _ => 1,
        }
    }

    /// Whether the tensor is a matrix, or one for each expert, that may have any type. Norms, biases,
    /// convolution filters, routers, patch embeddings and position tables are read value by value and are F32
    /// in every file.
    pub fn is_matrix(&self) -> bool {
        match self.role {
            TensorRole::Text(WeightName::TokenEmbedding | WeightName::Head | WeightName::Expert { .. }) => {
                true
            }
            TensorRole::Text(WeightName::Layer(_, part)) => {
                part != LayerWeight::Router && !part.is_float_only()
            }
            TensorRole::Text(WeightName::FinalNorm) | TensorRole::Unknown => false,
            TensorRole::Vision(VisionWeight::PatchEmbedding | VisionWeight::Positions) => false,
            TensorRole::Vision(_) => self.shape.len() == 2,
        }
    }

    /// The type that a tensor which is no matrix is written in: F32 if it is known, else its own.
    pub fn kept_dtype(&self) -> DType {
        if self.role == TensorRole::Unknown { self.dtype() } else { DType::F32 }
    }

    /// Bytes of the tensor in type `dtype`, or `None` if its rows are not whole blocks.
    pub fn bytes_as(&self, dtype: DType) -> Option<u64> {
        (dtype.row_bytes(self.cols())? as u64).checked_mul(self.rows() as u64)
    }
}

impl Source {
    /// Opens a GGUF file (a model, any part of a split one, or an mmproj file), or a Hugging Face folder,
    /// whose vision tower is the second source.
    ///
    /// # Errors
    /// If the file or folder is damaged, no LFM2 model, or the system refuses.
    pub fn open(path: &Path) -> Result<(Self, Option<Self>), Error> {
        match Place::of(path)? {
            Place::Folder(folder) => {
                let checkpoint = Checkpoint::open(&folder)?;
                let language = Self { notes: checkpoint.repairs.clone(), ..Self::language(&checkpoint)? };
                Ok((language, Self::vision(&checkpoint)?))
            }
            Place::File(file) => Ok((Self::of_gguf(map(&file)?.1)?, None)),
        }
    }

    /// Opens a GGUF file that is part of the program.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_static_gguf(bytes: &'static [u8]) -> Result<Self, Error> {
        Self::of_gguf(vec![Bytes::Static(bytes)])
    }

    /// The language model of a checkpoint.
    ///
    /// # Errors
    /// If its vocabulary cannot be expressed in GGUF.
    pub fn language(checkpoint: &Checkpoint) -> Result<Self, Error> {
        Ok(Self {
            metadata: convert::metadata(checkpoint)?,
            tensors: convert::tensors(checkpoint),
            files: checkpoint.files.clone(),
            notes: Vec::new(),
        })
    }

    /// The vision tower of a checkpoint, if it has one.
    ///
    /// # Errors
    /// None today; kept beside [`Self::language`].
    pub fn vision(checkpoint: &Checkpoint) -> Result<Option<Self>, Error> {
        let Some(config) = checkpoint.vision_config() else { return Ok(None) };
        let mut files = checkpoint.files.clone();
        let (tensors, made) = vision::tensors(checkpoint, config, files.len());
        files.push(Arc::new(Bytes::Owned(made)));
        Ok(Some(Self { metadata: vision::metadata(checkpoint, config), tensors, files, notes: Vec::new() }))
    }

    fn of_gguf(files: Vec<Bytes>) -> Result<Self, Error> {
        let parts = read_parts(&files)?;
        let known = [ARCHITECTURE_DENSE, ARCHITECTURE_MOE, vision::ARCHITECTURE];
        let metadata = Metadata::new(&parts.metadata);
        adapter::refuse_gguf(&metadata, &parts.table)?;
        let found = metadata.text("general.architecture")?.unwrap_or("nothing");
        if !known.contains(&found) {
            let reason = format!("general.architecture {found:?}; expected one of {}", known.join(", "));
            return Err(Error::Unsupported(reason));
        }
        let is_vision = found == vision::ARCHITECTURE;
        let role = |name: &str| {
            let role = match is_vision {
                true => vision::from_gguf(name).map(TensorRole::Vision),
                false => names::from_gguf(name).map(TensorRole::Text),
            };
            role.unwrap_or(TensorRole::Unknown)
        };
        let own = |(key, _): &(String, Value)| {
            !key.starts_with(SPLIT_PREFIX) && ![FILE_TYPE, VERSION, ALIGNMENT].contains(&key.as_str())
        };
        let tensor = |tensor: Tensor| {
            let (&cols, outer) =
                tensor.shape.split_last().expect("the reader refuses tensors without dimensions");
            let whole = weight(&tensor, outer.iter().product(), cols, 0);
            SourceTensor {
                role: role(&tensor.name),
                parts: vec![whole],
                shape: tensor.shape,
                name: tensor.name,
            }
        };
        Ok(Self {
            metadata: parts.metadata.iter().filter(|entry| own(entry)).cloned().collect(),
            tensors: parts.table.tensors.into_iter().map(tensor).collect(),
            files: files.into_iter().map(Arc::new).collect(),
            notes: Vec::new(),
        })
    }

    /// See [`Checkpoint::check_files`].
    ///
    /// # Errors
    /// As there.
    pub fn check_files(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(|file| file.check())
    }

    /// What was mended in a folder, or has no place in the file that it becomes, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// See [`Checkpoint::is_packed`].
    pub fn is_packed(&self) -> bool {
        self.files.iter().any(|file| file.is_made())
    }

    /// The tensors in the order they are written.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// Metadata but for the type of the file and its splitting.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// Number of layers of the language model; 0 for a vision tower.
    pub fn layers(&self) -> usize {
        let layer = |tensor: &SourceTensor| match tensor.role {
            TensorRole::Text(WeightName::Layer(layer, _) | WeightName::Expert { layer, .. }) => {
                Some(layer + 1)
            }
            _ => None,
        };
        self.tensors.iter().filter_map(layer).max().unwrap_or(0)
    }

    /// All values of a tensor, `rows x cols`. For measurements: a large tensor takes much memory.
    pub fn values(&self, tensor: &SourceTensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.rows() * tensor.cols()];
        let mut left = values.as_mut_slice();
        for part in &tensor.parts {
            let (own, rest) = left.split_at_mut(part.rows * part.cols);
            quant::decode(part.dtype, &self.files[part.file].part(part.start..part.start + part.len), own);
            left = rest;
        }
        values
    }

    /// Metadata of a file of this type: with `general.file_type` and `general.quantization_version` after the
    /// other general keys.
    pub(crate) fn metadata_of(&self, file_type: u32) -> Vec<(String, Value)> {
        let mut metadata = self.metadata.clone();
        let at = metadata.iter().rposition(|(key, _)| key.starts_with("general.")).map_or(0, |last| last + 1);
        let types = [(FILE_TYPE, file_type), (VERSION, QUANTIZATION_VERSION)];
        metadata.splice(at..at, types.map(|(key, number)| (key.to_owned(), Value::U32(number))));
        metadata
    }
}
