//! What kind of model a file or folder says it holds, without opening all of it.

use std::path::Path;

use crate::Error;
use crate::config_gguf::{ARCHITECTURE_DENSE, ARCHITECTURE_MOE, Metadata};
use crate::config_hf::MODEL_TYPES;
use crate::gguf::GgufHeader;
use crate::hf;
use crate::map::Bytes;
use crate::place::Place;

/// A kind of model, as the file calls it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// One that this program runs.
    Known(String),
    /// Another one.
    Foreign(String),
}

impl Architecture {
    /// Reads the header of a GGUF file, or `config.json` of a Hugging Face folder.
    ///
    /// # Errors
    /// If the system refuses, or the file is damaged or says nothing of what it holds.
    pub fn of(path: &Path) -> Result<Self, Error> {
        let (name, known) = match Place::of(path)? {
            Place::Folder(folder) => {
                let name = hf::model_type(&folder)?;
                let known = MODEL_TYPES.contains(&name.as_str());
                (name, known)
            }
            Place::File(file) => {
                let header = GgufHeader::read(&Bytes::map(&file)?)?;
                let found = Metadata::new(&header.metadata).text("general.architecture")?;
                let missing = || Error::config("general.architecture", "the key is required and absent");
                let name = found.ok_or_else(missing)?.to_owned();
                // Adapters and the like state what they are for.
                let kind = Metadata::new(&header.metadata).text("general.type").ok().flatten();
                if let Some(kind) = kind.filter(|&kind| kind != "model") {
                    return Ok(Self::Foreign(format!("{name}, {kind}")));
                }
                let known = [ARCHITECTURE_DENSE, ARCHITECTURE_MOE].contains(&name.as_str());
                (name, known)
            }
        };
        Ok(if known { Self::Known(name) } else { Self::Foreign(name) })
    }

    /// As the file calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(name) | Self::Foreign(name) => name,
        }
    }
}
