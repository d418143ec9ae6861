//! Any bytes as an image, decoded and cut: an error or tiles within the limits, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_core::ImageSettings;
use undine_image::{ImagePipeline, decode};

/// A picture takes up to twelve bytes a pixel while it is decoded.
const HEAP_BYTES_MAX: usize = 1 << 30;

/// Pixels above which only decoding is tried, so that inputs stay fast.
const CUT_PIXELS_MAX: usize = 1 << 20;

fuzz_target!(init: undine_fuzz::limit_heap(HEAP_BYTES_MAX), |bytes: &[u8]| {
    let pipeline = ImagePipeline::new(ImageSettings::default()).expect("the defaults pass their check");
    let Ok(picture) = decode(bytes, ImageSettings::default().background) else { return };
    if picture.pixels().len() / 3 > CUT_PIXELS_MAX {
        return;
    }
    if let Ok(prepared) = pipeline.cut(&picture) {
        let tokens: usize = prepared.tiles.iter().map(|tile| tile.tokens(2)).sum();
        assert_eq!(tokens, prepared.layout.image_tokens() as usize);
    }
});
