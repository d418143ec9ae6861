//! Vision as plain data: the shape of the tower, how images are cut into tiles, the tiles themselves, and the
//! seam ([`VisionExecutor`]) behind which a backend turns them into rows for the language model.
//!
//! Source: the reference implementation in transformers (`lfm2_vl`, `siglip2`).

use std::fmt;
use std::sync::Arc;

use crate::ExecutorError;

/// Colour channels of a pixel.
pub const CHANNELS: usize = 3;

/// In which order a checkpoint's patch embedding wants the values of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatchOrder {
    /// Row, column, channel: a linear layer over flattened patches (safetensors).
    RowColumnChannel,
    /// Channel, row, column: a convolution kernel (GGUF).
    ChannelRowColumn,
}

/// What turns pixels of 0 to 255 into the tower's input: `(pixel - mean) / std`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Normalization {
    /// The pixel value of each channel that becomes 0.
    pub mean: [f32; CHANNELS],
    /// The difference of pixel values that becomes 1.
    pub std: [f32; CHANNELS],
}

/// The shape of a vision tower and its projector.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct VisionConfig {
    /// Width of the tower's residual stream.
    pub width: usize,
    /// Layers that have weights.
    pub layers: usize,
    /// Attention heads; they divide `width`.
    pub heads: usize,
    /// Hidden values of the feed-forward.
    pub feed_forward: usize,
    /// Pixels along the side of a patch.
    pub patch: usize,
    /// Entries along the side of the square position table.
    pub grid: usize,
    /// Epsilon of the tower's layer norms.
    pub norm_eps: f32,
    /// Patches along the side of the square that becomes one token.
    pub downsample: usize,
    /// Hidden values of the projector.
    pub projector: usize,
    /// Width of the language model.
    pub hidden: usize,
    /// What the patch embedding wants.
    pub patch_order: PatchOrder,
    /// What the tower was trained on.
    pub normalization: Normalization,
}

impl VisionConfig {
    /// Values of a patch.
    pub fn patch_elems(&self) -> usize {
        self.patch * self.patch * CHANNELS
    }

    /// Values per head.
    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    /// Values that become one token, before the projector.
    pub fn token_elems(&self) -> usize {
        self.width * self.downsample * self.downsample
    }
}

/// How pixels are mixed when an image changes size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resample {
    /// Triangle filter (PIL's 2).
    Bilinear,
    /// Catmull-Rom filter (PIL's 3).
    Bicubic,
}

/// How images are sized and cut. Every number comes from the checkpoint or the request.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ImageSettings {
    /// Pixels along the side of a patch.
    pub patch: u32,
    /// Patches along the side of the square that becomes one token.
    pub downsample: u32,
    /// Pixels along the side of a tile of a split image.
    pub tile: u32,
    /// Tiles of a split image at the least.
    pub min_tiles: u32,
    /// Tiles of a split image at the most. An image is never split if this and `min_tiles` are 1.
    pub max_tiles: u32,
    /// Tokens that an image which is not split is enlarged to.
    pub min_tokens: u32,
    /// Tokens that an image which is not split is reduced to.
    pub max_tokens: u32,
    /// An image is split if it has more pixels than this times those of `max_tokens`.
    pub tolerance: f64,
    /// Whether a split image is followed by the whole one at low resolution.
    pub thumbnail: bool,
    /// The filter.
    pub resample: Resample,
    /// What is seen through transparent pixels, in red, green and blue; `None` drops opacity and shows the
    /// colours below, as the reference does.
    pub background: Option<[u8; 3]>,
}

/// The background of transparent pictures, as browsers and vLLM have it.
pub const WHITE: [u8; 3] = [255; 3];

/// The reference implementation's defaults, but for the background, for keys that a checkpoint leaves out.
impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            patch: 16,
            downsample: 2,
            tile: 512,
            min_tiles: 2,
            max_tiles: 10,
            min_tokens: 64,
            max_tokens: 256,
            tolerance: 2.0,
            thumbnail: true,
            resample: Resample::Bilinear,
            background: Some(WHITE),
        }
    }
}

/// Tiles of a split image at the most, whatever settings ask for.
pub const TILES_MAX: u32 = 64;
/// Patches of a tile, or of an image that is not split, at the most.
pub const TILE_PATCHES_MAX: u32 = 1 << 14;
/// How many times the patches of `max_tokens` an image that is not split may have: sides are whole tokens, so
/// that those of a long and narrow one can be rounded up to nearly twice their area. The reference fails
/// there.
pub const WHOLE_PATCHES_FACTOR: u32 = 2;
/// Pixels along the side of a patch at the most.
pub const PATCH_MAX: u32 = 64;
/// Patches along the side of a token's square at the most.
pub const DOWNSAMPLE_MAX: u32 = 8;

impl ImageSettings {
    /// Checks that settings can be computed with.
    ///
    /// # Errors
    /// A sentence that names the setting, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, found: u32, low: u32, high: u32| {
            if (low..=high).contains(&found) {
                return Ok(());
            }
            Err(format!("{what}: expected {low} to {high}, found {found}"))
        };
        within("encoder_patch_size", self.patch, 1, PATCH_MAX)?;
        within("downsample_factor", self.downsample, 1, DOWNSAMPLE_MAX)?;
        within("max_tiles", self.max_tiles, 1, TILES_MAX)?;
        within("min_tiles", self.min_tiles, 1, self.max_tiles)?;
        let tokens_max = TILE_PATCHES_MAX / WHOLE_PATCHES_FACTOR / (self.downsample * self.downsample);
        within("max_image_tokens", self.max_tokens, 1, tokens_max)?;
        within("min_image_tokens", self.min_tokens, 1, self.max_tokens)?;
        let side = self.patch * self.downsample;
        // The largest square of at most the patches allowed.
        within("tile_size", self.tile, side, TILE_PATCHES_MAX.isqrt() * self.patch)?;
        if !self.tile.is_multiple_of(side) {
            return Err(format!("tile_size: expected a multiple of {side}, found {}", self.tile));
        }
        if !(self.tolerance.is_finite() && self.tolerance > 0.0) {
            return Err(format!(
                "max_pixels_tolerance: expected a positive number, found {}",
                self.tolerance
            ));
        }
        Ok(())
    }

    /// Whether large images are split at all.
    pub fn splits(&self) -> bool {
        self.max_tiles > 1
    }

    /// Patches of the largest piece these settings allow.
    pub fn patches_max(&self) -> u32 {
        let whole = self.max_tokens * self.downsample * self.downsample * WHOLE_PATCHES_FACTOR;
        let tile = self.tile / self.patch;
        if self.splits() { whole.max(tile * tile) } else { whole }
    }
}

/// One piece of an image: an attention block of the tower.
#[derive(Clone, PartialEq, Eq)]
pub struct Tile {
    /// Patches from top to bottom; a multiple of the downsampling.
    pub rows: u32,
    /// Patches from left to right; a multiple of the downsampling.
    pub cols: u32,
    /// Patches in raster order, the values of each in the order row, column, channel.
    pub pixels: Arc<[u8]>,
}

/// Without its pixels, which are many.
impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tile({} x {} patches, {} bytes)", self.rows, self.cols, self.pixels.len())
    }
}

impl Tile {
    /// Its patches.
    pub fn patches(&self) -> usize {
        self.rows as usize * self.cols as usize
    }

    /// Checks that a tower of this shape can take it.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn check(&self, config: &VisionConfig) -> Result<(), String> {
        let (rows, cols, side) = (self.rows, self.cols, config.downsample);
        let is_whole = |count: u32| count > 0 && (count as usize).is_multiple_of(side);
        if !(is_whole(rows) && is_whole(cols)) {
            return Err(format!(
                "expected a tile of whole tokens of {side} x {side} patches, found {rows} x {cols}"
            ));
        }
        let patches = u64::from(rows) * u64::from(cols);
        if patches > u64::from(TILE_PATCHES_MAX) {
            return Err(format!(
                "expected a tile of at most {TILE_PATCHES_MAX} patches, found {rows} x {cols}"
            ));
        }
        let values = self.patches() * config.patch_elems();
        if self.pixels.len() != values {
            return Err(format!("expected {values} values in a tile, found {}", self.pixels.len()));
        }
        Ok(())
    }

    /// Its tokens.
    pub fn tokens(&self, downsample: usize) -> usize {
        self.patches() / (downsample * downsample)
    }
}

/// Names an encoded image together with what is done to it: equal keys mean equal tiles. It is a
/// cryptographic hash, which cannot be forged, so images of different clients may share a cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey(pub [u8; 32]);

/// Hexadecimal.
impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Turns tiles into rows that take the place of token embeddings. Object-safe.
pub trait VisionExecutor {
    /// The shape; constant.
    fn config(&self) -> &VisionConfig;

    /// Begins to encode tiles; what was begun before and has not ended is given up.
    /// Panics if a tile does not pass [`Tile::check`].
    fn begin(&mut self, tiles: &[Tile]);

    /// Goes on with the tiles that were begun, for a part of their work that is short beside that of a whole
    /// image, so that others get between. Returns the rows when they are complete: one row of `hidden` values
    /// for each token of each tile, in order. A row depends on its own tile alone, to the bit.
    ///
    /// # Errors
    /// If the device failed; then nothing is begun any more.
    fn advance(&mut self) -> Result<Option<Vec<f32>>, ExecutorError>;

    /// Encodes tiles at once.
    ///
    /// # Errors
    /// If the device failed.
    fn encode(&mut self, tiles: &[Tile]) -> Result<Vec<f32>, ExecutorError> {
        self.begin(tiles);
        loop {
            if let Some(rows) = self.advance()? {
                return Ok(rows);
            }
        }
    }
}

/// Makes a vision executor on the thread that will own it.
pub type VisionFactory = Box<dyn FnOnce() -> Result<Box<dyn VisionExecutor>, ExecutorError> + Send>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let good = ImageSettings::default();
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.patches_max(), 2048);
        let cases = [
            (ImageSettings { patch: 0, ..good }, "encoder_patch_size"),
            (ImageSettings { downsample: 0, ..good }, "downsample_factor"),
            (ImageSettings { max_tiles: 65, ..good }, "max_tiles"),
            (ImageSettings { min_tiles: 11, ..good }, "min_tiles"),
            (ImageSettings { max_tokens: 2049, ..good }, "max_image_tokens"),
            (ImageSettings { min_tokens: 257, ..good }, "min_image_tokens"),
            (ImageSettings { tile: 500, ..good }, "tile_size"),
            (ImageSettings { tile: u32::MAX, ..good }, "tile_size"),
            (ImageSettings { tolerance: f64::NAN, ..good }, "max_pixels_tolerance"),
        ];
        for (settings, name) in cases {
            let message = settings.check().expect_err(name);
            assert!(message.starts_with(name), "{message}");
        }
    }
}
