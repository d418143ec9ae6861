//! What can be wrong with an image.

use crate::limits::{IMAGE_BYTES_MAX, PIXELS_MAX, SIDE_MAX, SIDE_MIN};

/// Why an image cannot be used. Every case is the sender's, none is ours.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The encoded image is too long.
    #[error("the image has {found} bytes, the limit is {IMAGE_BYTES_MAX}; send a smaller one")]
    Bytes {
        /// Its length.
        found: usize,
    },
    /// The bytes are of no format that is read.
    #[error("the bytes are no PNG, JPEG, WebP, GIF or BMP image")]
    Format,
    /// A side is out of range.
    #[error("the image is {width} x {height} pixels; each side must have {SIDE_MIN} to {SIDE_MAX}")]
    Side {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
    },
    /// There are too many pixels.
    #[error("the image is {width} x {height} pixels, the limit is {PIXELS_MAX} in all; send a smaller one")]
    Pixels {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
    },
    /// The image is so narrow that the model's smallest unit of it would not fit its limit of tokens.
    #[error(
        "the image is {width} x {height} pixels: too narrow; it would need {patches} patches at once, \
         the model takes {patches_max}; crop it"
    )]
    Narrow {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
        /// Patches of the resized image.
        patches: u64,
        /// Patches that the settings allow.
        patches_max: u32,
    },
    /// The decoder gave up.
    #[error("the image cannot be decoded; it may be damaged or cut short: {0}")]
    Damaged(String),
}
