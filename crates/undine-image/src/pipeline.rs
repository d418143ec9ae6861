//! A picture to tiles: sized, cut, and its patches laid one after the other.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use undine_core::vision::CHANNELS;
use undine_core::{ImageKey, ImageSettings, Resample, Tile};

use crate::decode::{Picture, decode};
use crate::error::Error;
use crate::layout::{Grid, Layout, Size};
use crate::resize::resize;

/// An image ready for the tower.
#[derive(Clone, PartialEq, Debug)]
pub struct PreparedImage {
    /// How it is shown, and what stands for it in the prompt.
    pub layout: Layout,
    /// Its tiles, in the order of the prompt: one for each [`crate::Piece::Tokens`], of as many tokens.
    pub tiles: Vec<Tile>,
}

/// Prepares images under fixed settings. Cheap to make and to copy: one for each request with settings of its
/// own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ImagePipeline {
    settings: ImageSettings,
}

impl ImagePipeline {
    /// A pipeline under these settings.
    ///
    /// # Errors
    /// What [`ImageSettings::check`] says.
    pub fn new(settings: ImageSettings) -> Result<Self, String> {
        settings.check()?;
        Ok(Self { settings })
    }

    /// The settings.
    pub fn settings(&self) -> &ImageSettings {
        &self.settings
    }

    /// The key of an image, without decoding it.
    pub fn key(&self, bytes: &[u8]) -> ImageKey {
        let s = &self.settings;
        let mut hash = Sha256::new();
        for number in [s.patch, s.downsample, s.tile, s.min_tiles, s.max_tiles, s.min_tokens, s.max_tokens] {
            hash.update(number.to_le_bytes());
        }
        hash.update(s.tolerance.to_le_bytes());
        hash.update([u8::from(s.thumbnail), u8::from(s.resample == Resample::Bicubic)]);
        let [red, green, blue] = s.background.unwrap_or_default();
        hash.update([u8::from(s.background.is_some()), red, green, blue]);
        // All before has a fixed length, so the bytes need no length of their own.
        hash.update(bytes);
        ImageKey(hash.finalize().into())
    }

    /// Decodes an image and cuts it.
    ///
    /// # Errors
    /// If the bytes are no image, or one beyond the limits.
    pub fn prepare(&self, bytes: &[u8]) -> Result<PreparedImage, Error> {
        self.cut(&decode(bytes, self.settings.background)?)
    }

    /// Cuts a picture.
    ///
    /// # Errors
    /// If it is too narrow for the settings.
    pub fn cut(&self, picture: &Picture) -> Result<PreparedImage, Error> {
        let s = &self.settings;
        let size = Size { width: picture.width(), height: picture.height() };
        let layout = Layout::new(size, s)?;
        let mut tiles = Vec::new();
        if let Some(Grid { cols, rows }) = layout.grid {
            let size = Size { width: cols * s.tile, height: rows * s.tile };
            let pixels = resize(picture, size, s.resample);
            let side = Size { width: s.tile, height: s.tile };
            for tile in 0..rows * cols {
                let origin = [tile % cols * s.tile, tile / cols * s.tile];
                tiles.push(cut_tile(&pixels, size, origin, side, s.patch));
            }
        }
        if let Some(size) = layout.whole {
            let pixels = resize(picture, size, s.resample);
            tiles.push(cut_tile(&pixels, size, [0, 0], size, s.patch));
        }
        Ok(PreparedImage { layout, tiles })
    }
}

/// Part of a picture as patches. `origin` is the left upper corner, across and down.
fn cut_tile(pixels: &[u8], size: Size, origin: [u32; 2], part: Size, patch: u32) -> Tile {
    let (rows, cols) = (part.height / patch, part.width / patch);
    let row_bytes = patch as usize * CHANNELS;
    let mut patches = Vec::with_capacity((part.width * part.height) as usize * CHANNELS);
    for row in 0..rows {
        for col in 0..cols {
            for y in 0..patch {
                let pixel = (origin[1] + row * patch + y) as usize * size.width as usize
                    + (origin[0] + col * patch) as usize;
                patches.extend_from_slice(&pixels[pixel * CHANNELS..][..row_bytes]);
            }
        }
    }
    Tile { rows, cols, pixels: Arc::from(patches) }
}
