//! Changing a picture's size as torchvision does with `antialias=True` on bytes: first along rows, then along
//! columns, with a rounding to bytes between.
//!
//! The resizer is `fast_image_resize`. In one call it takes the other order and differs; in one call for each
//! direction it gives the same bytes as torchvision wherever that was tried (see `tests/image/reference.rs`).

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use undine_core::Resample;

use crate::decode::Picture;
use crate::layout::Size;

/// The picture at another size, `height x width x 3` bytes.
pub(crate) fn resize(picture: &Picture, to: Size, filter: Resample) -> Vec<u8> {
    let from = Size { width: picture.width, height: picture.height };
    let between = Size { width: to.width, height: from.height };
    let wide = (from != between).then(|| pass(&picture.pixels, from, between, filter));
    let wide = wide.as_ref().unwrap_or(&picture.pixels);
    if between == to { wide.clone() } else { pass(wide, between, to, filter) }
}

/// One direction. The call is made for the one type of pixels: the general one compiles the resizer for
/// thirteen, which took a tenth of the whole build.
fn pass(pixels: &[u8], from: Size, to: Size, filter: Resample) -> Vec<u8> {
    let filter = match filter {
        Resample::Bilinear => FilterType::Bilinear,
        Resample::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut resized = vec![0; to.width as usize * to.height as usize * 3];
    let source = TypedImageRef::<U8x3>::from_buffer(from.width, from.height, pixels);
    let source = source.expect("a picture has three bytes a pixel");
    let mut target = TypedImage::<U8x3>::from_buffer(to.width, to.height, &mut resized)
        .expect("three bytes a pixel were made");
    Resizer::new().resize_typed(&source, &mut target, &options).expect("all of both is used");
    resized
}
