//! Every bound on what an image from outside may ask for.

/// Bytes of an encoded image.
pub const IMAGE_BYTES_MAX: usize = 32 << 20;
/// Pixels of a decoded image: a phone's largest picture.
pub const PIXELS_MAX: u64 = 50_000_000;
/// Pixels along a side.
pub const SIDE_MAX: u32 = 32_768;
/// Pixels along a side at the least: a single row or column is no picture.
pub const SIDE_MIN: u32 = 2;
/// Bytes a decoder may allocate: eight a pixel, for 16-bit colour with opacity.
pub const DECODER_BYTES_MAX: u64 = 8 * PIXELS_MAX;
