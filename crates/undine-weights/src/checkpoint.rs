//! An opened checkpoint.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value as Json};
use undine_core::{Config, DType, ImageSettings, SpecialTokens, VisionConfig, Vocabulary};

use crate::beside::adopt_text;
use crate::chat_templates::ChatTemplates;
use crate::map::Bytes;
use crate::place::Place;
use crate::sampling_defaults::SamplingDefaults;
use crate::tensor::TensorTable;
use crate::text_files::TextFiles;
use crate::value::Value;
use crate::vision::{Vision, attach, attach_beside};
use crate::vocabulary::TextData;
use crate::weight::{VisionWeight, Weight, WeightName};
use crate::{Error, gguf_open, hf, place};

/// Bytes that Linux maps when one of them is read.
const MAPPED_TOGETHER: usize = 64 * 1024;

/// A checkpoint that has been checked completely: everything its [`Config`] requires exists, has the exact
/// shape, and lies inside its file. Opening can fail; afterwards nothing can.
pub struct Checkpoint {
    pub(crate) name: String,
    pub(crate) file_name: String,
    pub(crate) format: String,
    pub(crate) files: Vec<Arc<Bytes>>,
    pub(crate) table: TensorTable,
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) repairs: Vec<String>,
    pub(crate) config: Config,
    pub(crate) weights: HashMap<WeightName, Weight>,
    pub(crate) text: TextData,
    pub(crate) vision: Option<Vision>,
}

/// A tensor as it stands in a file.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TensorInfo<'a> {
    /// The name as spelled in the file.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: &'a [usize],
    /// Size in the file.
    pub bytes: u64,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("name", &self.name)
            .field("format", &self.format)
            .field("config", &self.config)
            .field("tensors", &self.table.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split one), a Hugging Face folder, the folder of a `.safetensors` or
    /// `config.json` file, or the one GGUF file of a folder. A vision tower is part of a folder; one for a
    /// GGUF file is sought beside it, in files whose names contain `mmproj`, and left out unless it is this
    /// model's. A vocabulary and a chat template that a GGUF file lacks are taken from Hugging Face's files
    /// beside it, if those are of this model.
    ///
    /// Weights are mapped, not read: the files must not be changed while the checkpoint is open. Whether they
    /// were, [`Self::check_files`] says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = Place::of(path)?;
        let mut checkpoint = Self::open_model(&place)?;
        if let Place::File(file) = &place {
            attach_beside(&mut checkpoint, file);
        }
        Ok(checkpoint)
    }

    /// Opens a model as [`Self::open`] does, with the vision tower in the GGUF file `mmproj` in place of any
    /// other.
    ///
    /// # Errors
    /// As [`Self::open`], and if `mmproj` is not a tower for this model.
    pub fn open_with_mmproj(path: &Path, mmproj: &Path) -> Result<Self, Error> {
        let mut checkpoint = Self::open_model(&Place::of(path)?)?;
        checkpoint.vision = None;
        let bytes = Bytes::map(mmproj)?;
        place::check_head(mmproj, &bytes)?;
        attach(&mut checkpoint, bytes)?;
        Ok(checkpoint)
    }

    fn open_model(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Folder(folder) => hf::open(folder),
            Place::File(file) => {
                let mut checkpoint = gguf_open::open(file)?;
                adopt_text(&mut checkpoint, file);
                Ok(checkpoint)
            }
        }
    }

    /// Opens a GGUF file that is part of the program.
    pub fn from_static_gguf(bytes: &'static [u8]) -> Result<Self, Error> {
        gguf_open::assemble("model".to_owned(), vec![Bytes::Static(bytes)])
    }

    /// Opens a GGUF file in memory, for tests and fuzzing.
    #[doc(hidden)]
    pub fn from_gguf_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        gguf_open::assemble("model".to_owned(), vec![Bytes::Owned(bytes)])
    }

    /// Adds a vision tower in memory, for tests and fuzzing.
    #[doc(hidden)]
    pub fn attach_mmproj_bytes(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        attach(self, Bytes::Owned(bytes))
    }

    /// Opens the two essential files of a folder in memory, for tests and fuzzing.
    #[doc(hidden)]
    pub fn from_safetensors_bytes(config: Vec<u8>, weights: Vec<u8>) -> Result<Self, Error> {
        Self::from_folder_bytes(vec![(hf::CONFIG, config), (hf::WEIGHTS, weights)])
    }

    /// Opens the files of a folder in memory by their names, for tests and fuzzing. What is left out is not
    /// there.
    #[doc(hidden)]
    pub fn from_folder_bytes(files: Vec<(&str, Vec<u8>)>) -> Result<Self, Error> {
        let mut files: HashMap<&str, Vec<u8>> = files.into_iter().collect();
        hf::assemble(hf::Folder {
            name: "model".to_owned(),
            config: files.remove(hf::CONFIG).unwrap_or_default(),
            text: TextFiles::take(&mut files),
            preprocessor: files.remove(hf::PREPROCESSOR),
            weights: files
                .remove(hf::WEIGHTS)
                .map(|bytes| (hf::WEIGHTS.to_owned(), Bytes::Owned(bytes)))
                .into_iter()
                .collect(),
            index: None,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vocabulary as it stood in the file.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.text.vocabulary
    }

    /// Special ids, all below the vocabulary's size; end-of-sequence ids from every place that names one, and
    /// those of `<|im_end|>` and `<|endoftext|>`.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.text.special_tokens
    }

    /// The Jinja chat templates.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.text.chat_templates
    }

    /// The Jinja chat template for conversations without tools.
    pub fn chat_template(&self) -> Option<&str> {
        self.text.chat_templates.plain()
    }

    /// Texts of special tokens by the names that templates know them by, such as `bos_token`: as the
    /// tokenizer's configuration says.
    pub fn special_texts(&self) -> &Map<String, Json> {
        &self.text.special_texts
    }

    /// The sampling parameters the checkpoint recommends.
    pub fn sampling_defaults(&self) -> &SamplingDefaults {
        &self.text.sampling_defaults
    }

    /// The model's name: as the metadata states it, else the file's or folder's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's name without its ending, or the folder's; of a snapshot in the hub's cache the
    /// repository's.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// What was wrong in the file and could be mended, or has no place in the model, one sentence each.
    pub fn repairs(&self) -> &[String] {
        &self.repairs
    }

    /// The file format, such as `GGUF v3` or `safetensors, 4 files`.
    pub fn format(&self) -> &str {
        &self.format
    }

    /// Size of all weight files; of packed weights, of what they become.
    pub fn file_bytes(&self) -> u64 {
        if self.is_packed() {
            return self.tensors().map(|tensor| tensor.bytes).sum();
        }
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Whether matrices are made from another program's packing when they are read, in memory of this
    /// process.
    pub fn is_packed(&self) -> bool {
        self.files.iter().any(|file| file.is_made())
    }

    /// GGUF metadata, or the keys of config.json (nested ones dotted), in file order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// Every tensor of a type Undine can compute with, also those the language model does not use, in file
    /// order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.table.tensors.iter().map(|tensor| TensorInfo {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            bytes: tensor.bytes.len() as u64,
        })
    }

    /// Where a weight lies. `Some` for everything [`Self::config`] requires; `None` for a head shared with
    /// the token embedding, for biases the model does not have, and for weights of the other layer kind.
    pub fn weight(&self, name: WeightName) -> Option<Weight> {
        self.weights.get(&name).copied()
    }

    /// The shape of the vision tower, if there is one.
    pub fn vision_config(&self) -> Option<&VisionConfig> {
        self.vision.as_ref().map(|vision| &vision.config)
    }

    /// How images are to be sized and cut, if there is a vision tower. They have passed their check.
    pub fn image_settings(&self) -> Option<&ImageSettings> {
        self.vision.as_ref().map(|vision| &vision.settings)
    }

    /// Where a weight of the vision tower lies. `Some` for everything [`Self::vision_config`] requires;
    /// `None` for a norm or biases that the projector does not have.
    pub fn vision_weight(&self, name: VisionWeight) -> Option<Weight> {
        self.vision.as_ref()?.weights.get(&name).copied()
    }

    /// The bytes of a weight of this checkpoint: `rows` rows of whole blocks, little endian. They may lie at
    /// any address, because safetensors does not align them: do not cast them to wider types without
    /// checking.
    pub fn bytes(&self, weight: &Weight) -> &[u8] {
        &self.files[weight.file][weight.start..weight.start + weight.len]
    }

    /// Whether the files are still what they were when they were opened. To be asked after a computation and
    /// before its results are used; it costs a system call or two for each file.
    ///
    /// # Errors
    /// [`Error::Changed`] if another program wrote to one or cut it short, or if a part of it could not be
    /// read: zeros were computed with in its place.
    pub fn check_files(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(|file| file.check())
    }

    /// Paths at which another file stands now, or none. The files that were opened live on, unseen, until
    /// they are closed.
    pub fn replaced_files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter_map(|file| file.replaced())
    }

    /// Reads a byte here and there until `stop` is set or the files end, so that their pages are mapped, and
    /// in memory, when they are needed. For a thread beside whatever else has to be done first.
    pub fn map_ahead(&self, stop: &AtomicBool) {
        for byte in self.files.iter().flat_map(|file| file.iter().step_by(MAPPED_TOGETHER)) {
            std::hint::black_box(*byte);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Says that part of a weight's bytes will not be read again soon, so that this process holds no memory
    /// for them meanwhile. They stay as they are.
    ///
    /// # Panics
    /// If `range` is not within the weight.
    pub fn release(&self, weight: &Weight, range: Range<usize>) {
        assert!(range.end <= weight.len, "{range:?} of {} bytes", weight.len);
        self.files[weight.file].release(weight.start + range.start..weight.start + range.end);
    }
}
