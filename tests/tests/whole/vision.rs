//! Images through the vision tower against the outputs transformers gave (float32, CPU): from the bytes of a
//! file to rows for the language model, on both backends and from every container.

use std::sync::Arc;

use undine_core::{DType, Tile, VisionExecutor};
use undine_cpu::{CpuVision, Isa};
use undine_image::{ImagePipeline, Piece, PreparedImage};
use undine_model::{VisionModel, VisionOracle};
use undine_tests::{Expected, data, max_difference};
use undine_weights::{Checkpoint, write_gguf, write_mmproj};

/// Absolute tolerance on features, whose standard deviation is about 1.
const TOLERANCE: f32 = 2e-3;
const IMAGES: [&str; 5] = ["256x256", "640x480", "333x517", "1600x900", "48x40"];
/// Images of few tiles: the oracle is slow.
const SMALL_IMAGES: [&str; 3] = ["256x256", "333x517", "48x40"];
/// `<image>` in the oracle's vocabulary.
const IMAGE_TOKEN: u32 = 16;

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&data("oracle/vl")).unwrap()
}

fn prepare(name: &str) -> PreparedImage {
    let pipeline = ImagePipeline::new(*checkpoint().image_settings().unwrap()).unwrap();
    pipeline.prepare(&std::fs::read(data("oracle/vl").join(format!("{name}.png"))).unwrap()).unwrap()
}

#[test]
fn images_are_cut_as_by_the_reference() {
    let expected = Expected::open(&data("oracle/vl"));
    for name in IMAGES {
        let prepared = prepare(name);
        let shapes: Vec<u32> = prepared.tiles.iter().flat_map(|tile| [tile.rows, tile.cols]).collect();
        assert_eq!(shapes, expected.tokens(&format!("{name}.spatial_shapes")), "{name}");
        let image_tokens =
            expected.tokens(&format!("{name}.input_ids")).iter().filter(|&&id| id == IMAGE_TOKEN).count();
        assert_eq!(prepared.layout.image_tokens() as usize, image_tokens, "{name}");
    }
    for name in ["333x517", "48x40"] {
        let found = &prepare(name).tiles[0].pixels;
        let expected = expected.bytes_of(&format!("{name}.pixels_first"));
        assert_eq!(found.len(), expected.len());
        let most = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(1), "{name}: pixels differ by {most:?}");
    }
}

/// What stands for each image, as the reference's prompt has it: markers are special tokens of their own.
#[test]
fn prompts_are_laid_out_as_by_the_reference() {
    let expected = Expected::open(&data("oracle/vl"));
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(data("oracle/vl/tokenizer.json")).unwrap()).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let id = |text: &str| {
        let token = added.iter().find(|token| token["content"] == text);
        token.unwrap_or_else(|| panic!("no token {text}"))["id"].as_u64().unwrap() as u32
    };
    for name in IMAGES {
        let tokens: Vec<u32> = prepare(name)
            .layout
            .pieces()
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Marker(marker) => vec![id(&marker.to_string())],
                Piece::Tokens(count) => vec![IMAGE_TOKEN; count as usize],
            })
            .collect();
        let prompt = expected.tokens(&format!("{name}.input_ids"));
        assert!(prompt.windows(tokens.len()).any(|window| window == tokens), "{name}: {:?}", &prompt[..20]);
    }
}

fn check(executor: &mut dyn VisionExecutor, names: &[&str], what: &str, tolerance: f32) {
    let expected = Expected::open(&data("oracle/vl"));
    for name in names {
        let found = executor.encode(&prepare(name).tiles).unwrap();
        let difference = max_difference(&found, &expected.floats(&format!("{name}.image_features")));
        println!("{what}, {name}: features differ by {difference}");
        assert!(difference < tolerance, "{what}, {name}: features differ by {difference}");
    }
}

fn model(checkpoint: Checkpoint) -> Arc<VisionModel> {
    Arc::new(VisionModel::bind(Arc::new(checkpoint)).unwrap())
}

#[test]
fn the_oracle_gives_the_reference_s_features() {
    check(&mut VisionOracle::new(model(checkpoint())), &SMALL_IMAGES, "the oracle", TOLERANCE);
}

fn cpu(model: &Arc<VisionModel>, threads: usize, isa: Isa) -> CpuVision {
    CpuVision::new(Arc::clone(model), threads, isa).unwrap()
}

#[test]
fn the_cpu_gives_the_reference_s_features() {
    let model = model(checkpoint());
    check(&mut cpu(&model, 2, Isa::detect()), &IMAGES, "the CPU", TOLERANCE);
}

/// The oracle's model as two GGUF files, the tower's matrices in `dtype`.
fn converted(dtype: DType) -> Arc<VisionModel> {
    let folder = tempfile::tempdir().unwrap();
    let (text, tower) = (folder.path().join("text.gguf"), folder.path().join("mmproj.gguf"));
    write_gguf(&checkpoint(), |_, _| DType::F32, &text).unwrap();
    write_mmproj(&checkpoint(), |_, _| dtype, &tower).unwrap();
    model(Checkpoint::open_with_mmproj(&text, &tower).unwrap())
}

/// Every weight is exact in BF16; F16 and the quantized types are compared with the oracle on the same file.
#[test]
fn towers_of_every_type_agree_with_the_oracle() {
    for dtype in [DType::F32, DType::BF16] {
        let what = format!("an mmproj file of {dtype}");
        check(&mut cpu(&converted(dtype), 2, Isa::detect()), &SMALL_IMAGES, &what, TOLERANCE);
    }
    let tiles = prepare("48x40").tiles;
    for (dtype, tolerance) in [(DType::F16, TOLERANCE), (DType::Q8_0, 0.06), (DType::Q4_0, 0.06)] {
        let model = converted(dtype);
        let expected = VisionOracle::new(Arc::clone(&model)).encode(&tiles).unwrap();
        let found = cpu(&model, 2, Isa::detect()).encode(&tiles).unwrap();
        let difference = max_difference(&found, &expected);
        println!("{dtype}: features differ by {difference}");
        // With quantized weights the inputs are rounded to bytes, too.
        assert!(difference < tolerance, "{dtype}: features differ by {difference}");
    }
}

/// A row depends on its own tile alone: not on other tiles, the number of threads or the instruction set.
#[test]
fn rows_do_not_depend_on_what_is_computed_with_them() {
    for model in [model(checkpoint()), converted(DType::Q8_0)] {
        let images: Vec<Vec<Tile>> = SMALL_IMAGES.iter().map(|name| prepare(name).tiles).collect();
        let alone: Vec<Vec<f32>> =
            images.iter().map(|tiles| cpu(&model, 1, Isa::detect()).encode(tiles).unwrap()).collect();
        let mut all: Vec<Tile> = images.concat();
        // More than one pass, and tiles of one token.
        let large = prepare("1600x900").tiles;
        all.extend(large.iter().cloned());
        let small = Tile { rows: 2, cols: 2, pixels: large[0].pixels[..4 * 768].into() };
        all.extend(vec![small; 3]);
        for isa in Isa::available() {
            // Plain Rust is slow.
            let tiles = if isa.name() == "portable" { &all[..1] } else { &all[..] };
            for threads in [1, 3] {
                let found = cpu(&model, threads, isa).encode(tiles).unwrap();
                let expected = &alone.concat();
                let len = found.len().min(expected.len());
                assert!(len > 0 && found[..len] == expected[..len], "{} with {threads} threads", isa.name());
                let last = found.chunks_exact(128).rev().take(3).collect::<Vec<_>>();
                assert!(tiles.len() == 1 || (last[0] == last[1] && last[1] == last[2]));
            }
        }
    }
}
