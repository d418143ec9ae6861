//! Bytes from outside to a picture of eight bits a channel.
//!
//! Transparent pixels show the background, mixed as PIL's `paste` with a mask does it. Without one opacity is
//! dropped, as the reference does with PIL's `convert("RGB")`: a black logo on nothing becomes black on
//! black. 16 bits are cut to the upper eight (of grey, too, where PIL makes everything above 255 white), grey
//! is repeated. The orientation that EXIF data asks for is applied.

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
    /// If a side or the number of pixels is beyond the limits. Panics if `pixels` is not `height x width x 3`
    /// long.
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

/// Decodes PNG, JPEG, WebP, GIF or BMP; what the bytes are is read from themselves. `background` is
/// [`undine_core::ImageSettings::background`].
///
/// # Errors
/// If the bytes are too many, of another format, damaged, or of a size beyond the limits. The size is checked
/// before memory is spent on pixels.
pub fn decode(bytes: &[u8], background: Option<[u8; 3]>) -> Result<Picture, Error> {
    if bytes.len() > IMAGE_BYTES_MAX {
        return Err(Error::Bytes { found: bytes.len() });
    }
    let format = image::guess_format(bytes).map_err(|_| Error::Format)?;
    if !FORMATS.contains(&format) {
        return Err(Error::Format);
    }
    if format == ImageFormat::Jpeg && !jpeg_has_end(bytes) {
        // The decoder makes grey of what is missing.
        return Err(Error::Damaged("it ends before its end: the file was cut short".to_owned()));
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
    let pixels = rgb(image, background)?;
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

/// Whether the data of a JPEG is followed by the mark of its end. Within the data the mark cannot be; in what
/// precedes it, such as a small picture in EXIF data, it can.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    while let Some([0xff, kind]) = bytes.get(at..at + 2) {
        let segment = match kind {
            // A filling byte, and marks without a length.
            0xff => 1,
            0x01 | 0xd0..=0xd8 => 2,
            _ => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        };
        at += segment;
        if *kind == START_OF_SCAN {
            return bytes.get(at..).is_some_and(|data| data.windows(2).any(|pair| pair == END));
        }
    }
    // Damaged in another way, which the decoder tells.
    true
}

fn rgb(image: DynamicImage, background: Option<[u8; 3]>) -> Result<Vec<u8>, Error> {
    let over = |[red, green, blue]: [u8; 3], opacity: u8| match background {
        None => [red, green, blue],
        Some([r, g, b]) => [mix(r, red, opacity), mix(g, green, opacity), mix(b, blue, opacity)],
    };
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => {
            pixels::<_, 4>(image.as_raw(), |&[r, g, b, opacity]| over([r, g, b], opacity))
        }
        DynamicImage::ImageLuma8(image) => pixels::<_, 1>(image.as_raw(), |&[v]| [v; 3]),
        DynamicImage::ImageLumaA8(image) => {
            pixels::<_, 2>(image.as_raw(), |&[v, opacity]| over([v; 3], opacity))
        }
        DynamicImage::ImageRgb16(image) => pixels::<_, 3>(image.as_raw(), |p| p.map(upper_half)),
        DynamicImage::ImageRgba16(image) => pixels::<_, 4>(image.as_raw(), |p| {
            let [r, g, b, opacity] = p.map(upper_half);
            over([r, g, b], opacity)
        }),
        DynamicImage::ImageLuma16(image) => pixels::<_, 1>(image.as_raw(), |&[v]| [upper_half(v); 3]),
        DynamicImage::ImageLumaA16(image) => pixels::<_, 2>(image.as_raw(), |p| {
            let [v, opacity] = p.map(upper_half);
            over([v; 3], opacity)
        }),
        other => return Err(Error::Damaged(format!("pixels of type {:?} are not read", other.color()))),
    })
}

/// A colour over another, rounded to the nearest.
fn mix(below: u8, above: u8, opacity: u8) -> u8 {
    let (below, above, opacity) = (u32::from(below), u32::from(above), u32::from(opacity));
    ((below * (255 - opacity) + above * opacity + 127) / 255) as u8
}

fn upper_half(value: u16) -> u8 {
    (value >> 8) as u8
}

/// A colour of the `N` channels of each pixel.
fn pixels<T, const N: usize>(channels: &[T], colour: impl Fn(&[T; N]) -> [u8; 3]) -> Vec<u8> {
    channels.as_chunks::<N>().0.iter().flat_map(colour).collect()
}
