//! Bytes from outside to a picture of eight bits a channel.
//!
//! Colours become what PIL's `convert("RGB")` makes of them, as the reference does: opacity is dropped, 16 bits are cut to
//! the upper eight (of grey, too, where PIL makes everything above 255 white), grey is repeated. The orientation that EXIF data asks for is applied.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::Error;
use crate::limits::{DECODER_BYTES_MAX, IMAGE_BYTES_MAX, PIXELS_MAX, SIDE_MAX, SIDE_MIN};

/// The formats that are read; of an animation the first frame.
const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp];

/// A decoded image: `height x width x 3` bytes, within the limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixels: Vec<u8>,
}

impl Picture {
    /// A picture of pixels that are there already.
    ///
    /// # Errors
    /// If a side or the number of pixels is beyond the limits. Panics if `pixels` is not `height x width x 3` long.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, Error> {
        check_size(width, height)?;
        assert_eq!(pixels.len(), width as usize * height as usize * 3, "three bytes a pixel");
        Ok(Self { width, height, pixels })
    }

    /// Pixels from left to right.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Rows from the top, red, green and blue of each pixel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

/// Decodes PNG, JPEG, WebP, GIF or BMP; what the bytes are is read from themselves.
///
/// # Errors
/// If the bytes are too many, of another format, damaged, or of a size beyond the limits. The size is checked before
/// memory is spent on pixels.
pub fn decode(bytes: &[u8]) -> Result<Picture, Error> {
    if bytes.len() > IMAGE_BYTES_MAX {
        return Err(Error::Bytes { found: bytes.len() });
    }
    let format = image::guess_format(bytes).map_err(|_| Error::Format)?;
    if !FORMATS.contains(&format) {
        return Err(Error::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    // One more than is allowed: the decoder's own message would not say the limit.
    limits.max_image_width = Some(u32::MAX);
    limits.max_image_height = Some(u32::MAX);
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let damaged = |error: image::ImageError| Error::Damaged(error.to_string());
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    let pixels = rgb(image)?;
    Picture::new(width, height, pixels)
}

fn check_size(width: u32, height: u32) -> Result<(), Error> {
    let side = SIDE_MIN..=SIDE_MAX;
    if !side.contains(&width) || !side.contains(&height) {
        return Err(Error::Side { width, height });
    }
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Error::Pixels { width, height });
    }
    Ok(())
}

fn rgb(image: DynamicImage) -> Result<Vec<u8>, Error> {
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => first_three::<_, 4>(image.as_raw(), |v| v),
        DynamicImage::ImageLuma8(image) => repeat::<_, 1>(image.as_raw(), |v| v),
        DynamicImage::ImageLumaA8(image) => repeat::<_, 2>(image.as_raw(), |v| v),
        DynamicImage::ImageRgb16(image) => first_three::<_, 3>(image.as_raw(), upper_half),
        DynamicImage::ImageRgba16(image) => first_three::<_, 4>(image.as_raw(), upper_half),
        DynamicImage::ImageLuma16(image) => repeat::<_, 1>(image.as_raw(), upper_half),
        DynamicImage::ImageLumaA16(image) => repeat::<_, 2>(image.as_raw(), upper_half),
        other => return Err(Error::Damaged(format!("pixels of type {:?} are not read", other.color()))),
    })
}

fn upper_half(value: u16) -> u8 {
    (value >> 8) as u8
}

/// The first three of the `N` channels of each pixel.
fn first_three<T: Copy, const N: usize>(pixels: &[T], byte: impl Fn(T) -> u8) -> Vec<u8> {
    pixels.as_chunks::<N>().0.iter().flat_map(|p| [byte(p[0]), byte(p[1]), byte(p[2])]).collect()
}

/// The first of the `N` channels of each pixel, three times.
fn repeat<T: Copy, const N: usize>(pixels: &[T], byte: impl Fn(T) -> u8) -> Vec<u8> {
    pixels.as_chunks::<N>().0.iter().flat_map(|p| [byte(p[0]); 3]).collect()
}
