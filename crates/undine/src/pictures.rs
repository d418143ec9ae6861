//! Picture files of a conversation: read, cut for the model, and put where their placeholders are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use undine_core::{ImageKey, ImageSettings, PromptImage, TokenId};
use undine_image::limits::IMAGE_BYTES_MAX;
use undine_image::prompt::{self, Placeholders};
use undine_image::{ImagePipeline, PreparedImage};
use undine_text::{Bos, Tokenizer};

use crate::error::Error;

/// The pictures that a conversation may show.
pub struct Pictures {
    pipeline: ImagePipeline,
    placeholders: Placeholders,
    /// A chat forgets none: an earlier message still shows it.
    prepared: RefCell<HashMap<ImageKey, Arc<PreparedImage>>>,
}

/// A picture that has been added.
pub struct Picture {
    /// What to write where it stands.
    pub placeholder: String,
    /// Tokens that it takes, without those around its tiles.
    pub tokens: u32,
}

impl Pictures {
    /// None yet, to be cut as the checkpoint says.
    pub fn new(settings: &ImageSettings) -> Result<Self, Error> {
        let wrong = |reason| Error::refused(format!("the settings of the image processor: {reason}"));
        Ok(Self {
            pipeline: ImagePipeline::new(*settings).map_err(wrong)?,
            placeholders: Placeholders::new(fastrand::u128(..)),
            prepared: RefCell::default(),
        })
    }

    /// Reads and cuts a picture.
    pub fn add(&self, path: &Path) -> Result<Picture, Error> {
        let bytes = read(path)?;
        let key = self.pipeline.key(&bytes);
        let mut prepared = self.prepared.borrow_mut();
        let tokens = match prepared.entry(key) {
            Entry::Occupied(known) => known.get().layout.image_tokens(),
            Entry::Vacant(place) => {
                let wrong = |error| Error::refused(format!("{}: {error}", path.display()));
                place.insert(Arc::new(self.pipeline.prepare(&bytes).map_err(wrong)?)).layout.image_tokens()
            }
        };
        Ok(Picture { placeholder: self.placeholders.text(key), tokens })
    }

    /// Tokens of a text, with those of pictures where their placeholders are.
    pub fn encode(
        &self,
        text: &str,
        tokenizer: &Tokenizer,
    ) -> Result<(Vec<TokenId>, Vec<PromptImage>), Error> {
        let mut bos = tokenizer.default_bos();
        let encode = |piece: &str| tokenizer.encode(piece, std::mem::replace(&mut bos, Bos::Omit));
        let encoded = self.placeholders.encode(text, encode);
        let prepared = self.prepared.borrow();
        let images: Vec<(ImageKey, &PreparedImage)> = encoded
            .images
            .iter()
            .map(|key| (*key, &**prepared.get(key).expect("nobody else can write a placeholder")))
            .collect();
        let expanded = prompt::expand(&encoded.tokens, &images, |marker| tokenizer.token_id(marker))
            .map_err(|error| Error::refused(error.to_string()))?;
        Ok((expanded.tokens, expanded.images))
    }
}

/// The bytes of a file, of not many more than a picture may have.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::file(path, source);
    if fs::metadata(path).map_err(fail)?.is_dir() {
        let message = format!("{}: expected a picture file, found a folder", path.display());
        return Err(Error::refused(message));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(IMAGE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}
