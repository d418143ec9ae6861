//! A vision tower for a model: refused, or all of it is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use undine_weights::{Checkpoint, VisionLayerWeight, VisionWeight};

const MODEL: &[u8] = include_bytes!("../seeds/gguf/dense.gguf");

fuzz_target!(|bytes: &[u8]| {
    let mut checkpoint = Checkpoint::from_gguf_bytes(MODEL.to_vec()).expect("a seed is good");
    let is_attached = checkpoint.attach_mmproj_bytes(bytes.to_vec()).is_ok();
    assert_eq!(is_attached, checkpoint.vision_config().is_some());
    let Some(config) = checkpoint.vision_config() else { return };
    let layers = (0..config.layers).map(|layer| VisionWeight::Layer(layer, VisionLayerWeight::Query));
    let names = layers.chain([VisionWeight::Projector1, VisionWeight::Projector2]);
    for weight in names.map(|name| checkpoint.vision_weight(name).expect("required")) {
        let bytes = checkpoint.bytes(&weight);
        std::hint::black_box((bytes.first(), bytes.last()));
    }
});
