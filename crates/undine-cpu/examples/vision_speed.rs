//! How fast a vision tower runs on this machine: `vision_speed MODEL [TYPE]`, where MODEL is a folder or a
//! GGUF file with its mmproj file beside it, and TYPE is one that the tower's matrices are converted to
//! first.
#![allow(clippy::unwrap_used, reason = "an example for people who change kernels")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use undine_core::{DType, Tile, VisionConfig, VisionExecutor};
use undine_cpu::{CpuVision, Isa, Roofline};
use undine_image::{ImagePipeline, Picture};
use undine_model::VisionModel;
use undine_weights::{Checkpoint, write_gguf, write_mmproj};

/// Pictures and how often each is run; the best counts, for the machine may be shared.
const PICTURES: [(u32, u32, usize); 2] = [(512, 512, 4), (1600, 900, 1)];

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("usage: vision_speed MODEL [TYPE]");
    let mut checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    if let Some(name) = args.next() {
        let dtype = DType::parse(&name).expect("a type");
        let folder = tempfile::tempdir().unwrap();
        let (text, tower) = (folder.path().join("text.gguf"), folder.path().join("mmproj.gguf"));
        write_gguf(&checkpoint, |_, weight| weight.dtype, &text).unwrap();
        write_mmproj(&checkpoint, |_, _| dtype, &tower).unwrap();
        checkpoint = Checkpoint::open_with_mmproj(&text, &tower).unwrap();
    }
    let pipeline = ImagePipeline::new(*checkpoint.image_settings().unwrap()).unwrap();
    let model = Arc::new(VisionModel::bind(Arc::new(checkpoint)).unwrap());
    for threads in [1, 2] {
        let peak = Roofline::measure(threads).unwrap().peaks[0].f32_ops_per_s;
        let mut vision = CpuVision::new(Arc::clone(&model), threads, Isa::detect()).unwrap();
        for (width, height, runs) in PICTURES {
            let pixels = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
            let started = Instant::now();
            let tiles = pipeline.cut(&Picture::new(width, height, pixels).unwrap()).unwrap().tiles;
            let cutting = started.elapsed();
            let operations: f64 = tiles.iter().map(|tile| operations(vision.config(), tile)).sum();
            let best = (0..runs)
                .map(|_| {
                    let started = Instant::now();
                    vision.encode(&tiles).unwrap();
                    started.elapsed().as_secs_f64()
                })
                .fold(f64::INFINITY, f64::min);
            println!(
                "{threads} threads, {width} x {height}: {} tiles, cut in {:.1} ms, encoded in {:.1} ms, {:.1} GFLOP/s, \
                 {:.0}% of the f32 peak of {:.0}",
                tiles.len(),
                cutting.as_secs_f64() * 1e3,
                best * 1e3,
                operations / best / 1e9,
                100.0 * operations / best / peak,
                peak / 1e9
            );
        }
    }
}

/// Multiplications and additions of the matrix products and of attention.
fn operations(c: &VisionConfig, tile: &Tile) -> f64 {
    let (patches, tokens) = (tile.patches() as f64, tile.tokens(c.downsample) as f64);
    let (width, hidden) = (c.width as f64, c.feed_forward as f64);
    let layer = 4.0 * width * width + 2.0 * width * hidden + 2.0 * patches * width;
    let projector = c.projector as f64 * (c.token_elems() + c.hidden) as f64;
    2.0 * (patches * (c.patch_elems() as f64 * width + c.layers as f64 * layer) + tokens * projector)
}
