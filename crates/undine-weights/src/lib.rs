//! GGUF files and Hugging Face folders as one [`Checkpoint`] of validated, borrowed views.
//!
//! A file from outside is hostile until it has been checked completely. All checks happen in
//! [`Checkpoint::open`]; afterwards every weight the configuration requires is a slice that cannot fail.
//! `map.rs` holds the only `unsafe` of the crate, `names.rs` (and for vision towers `vision/names.rs`) is the
//! only file that knows tensor names, `limits.rs` names every limit.
#![deny(unsafe_code)]

mod adapter;
mod architecture;
mod beside;
mod bind;
mod chat_templates;
mod checkpoint;
mod config_gguf;
mod config_hf;
mod convert;
mod declared;
mod embedding;
mod error;
mod foresee;
mod gguf;
mod gguf_open;
mod gguf_write;
mod hf;
mod hf_write;
mod imatrix;
mod json;
mod left_out;
pub mod limits;
#[allow(unsafe_code)]
mod map;
mod names;
mod packed;
mod place;
mod recode;
mod safetensors;
mod sampling_defaults;
mod source;
mod special_tokens;
mod tensor;
mod text_files;
mod tokenizer_json;
mod value;
mod vision;
mod vocabulary;
mod weight;

pub use architecture::Architecture;
pub use chat_templates::ChatTemplates;
pub use checkpoint::{Checkpoint, TensorInfo};
pub use convert::write_gguf;
pub use error::Error;
pub use foresee::{FIRST_BYTES, Reach, gguf_reach, gguf_refusal, safetensors_reach};
pub use gguf_write::{GgufWriter, NewFile, TensorDeclaration};
pub use hf::read_config;
pub use hf_write::{FolderTypes, write_folder};
pub use imatrix::{Coefficients, Imatrix, ImatrixEntry};
pub use names::gguf_name;
pub use recode::Recoding;
pub use sampling_defaults::SamplingDefaults;
pub use source::{Source, SourceTensor, TensorRole};
pub use value::{Array, Value};
pub use vision::write_mmproj;
pub use weight::{ExpertPart, LayerWeight, VisionLayerWeight, VisionWeight, Weight, WeightName};
