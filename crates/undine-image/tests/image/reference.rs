//! Sizes, grids, tokens, pixels and decoded files against transformers, torchvision and PIL
//! (`data/make_reference.py`).

use serde::Deserialize;
use undine_core::vision::WHITE;
use undine_core::{ImageSettings, Resample};
use undine_image::{Grid, ImagePipeline, Layout, Picture, Size, decode};

/// Largest difference of a resized byte from the reference's.
const RESIZED_DIFFERENCE_MAX: i32 = 1;
/// Largest difference of a byte from PIL's in formats with loss, whose decoders may round and smooth as they
/// like.
const LOSSY_DIFFERENCE_MAX: i32 = 4;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Given {
    min_tiles: Option<u32>,
    max_tiles: Option<u32>,
    tile_size: Option<u32>,
    min_image_tokens: Option<u32>,
    max_image_tokens: Option<u32>,
    use_thumbnail: Option<bool>,
    max_pixels_tolerance: Option<f64>,
    resample: Option<u32>,
}

impl Given {
    fn settings(&self) -> ImageSettings {
        let d = ImageSettings::default();
        ImageSettings {
            min_tiles: self.min_tiles.unwrap_or(d.min_tiles),
            max_tiles: self.max_tiles.unwrap_or(d.max_tiles),
            tile: self.tile_size.unwrap_or(d.tile),
            min_tokens: self.min_image_tokens.unwrap_or(d.min_tokens),
            max_tokens: self.max_image_tokens.unwrap_or(d.max_tokens),
            thumbnail: self.use_thumbnail.unwrap_or(d.thumbnail),
            tolerance: self.max_pixels_tolerance.unwrap_or(d.tolerance),
            resample: if self.resample == Some(3) { Resample::Bicubic } else { Resample::Bilinear },
            ..d
        }
    }
}

type LayoutCase = (u32, u32, Option<(u32, u32)>, Option<(u32, u32)>, u32);

#[derive(Deserialize)]
struct LayoutCases {
    settings: Given,
    cases: Vec<LayoutCase>,
}

#[test]
fn sizes_grids_and_tokens_are_the_reference_s() {
    let groups: Vec<LayoutCases> = serde_json::from_str(include_str!("../data/layouts.json")).unwrap();
    assert_eq!(groups.iter().map(|group| group.cases.len()).sum::<usize>(), 440);
    for group in &groups {
        let settings = group.settings.settings();
        for &(width, height, grid, whole, tokens) in &group.cases {
            let layout = Layout::new(Size { width, height }, &settings).unwrap();
            let case = format!("{width} x {height}, {settings:?}");
            assert_eq!(layout.grid, grid.map(|(cols, rows)| Grid { cols, rows }), "grid of {case}");
            assert_eq!(layout.whole, whole.map(|(width, height)| Size { width, height }), "size of {case}");
            assert_eq!(layout.image_tokens(), tokens, "tokens of {case}");
        }
    }
}

#[derive(Deserialize)]
struct PixelCase {
    settings: Given,
    width: u32,
    height: u32,
    /// Rows, columns, the sum of all bytes, and every so manieth of them.
    tiles: Vec<(u32, u32, u64, Vec<u8>)>,
}

/// The picture that `make_reference.py` draws.
fn picture(width: u32, height: u32) -> Picture {
    let value = |x: u32, y: u32, c: u32| ((x * 37 + y * 101 + c * 53 + x * y / 7) % 256) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c))));
    Picture::new(width, height, pixels.collect()).unwrap()
}

#[test]
fn pixels_are_the_reference_s() {
    let cases: Vec<PixelCase> = serde_json::from_str(include_str!("../data/pixels.json")).unwrap();
    let (mut different, mut all) = (0, 0);
    for case in &cases {
        let pipeline = ImagePipeline::new(case.settings.settings()).unwrap();
        let prepared = pipeline.cut(&picture(case.width, case.height)).unwrap();
        let name = format!("{} x {}, {:?}", case.width, case.height, pipeline.settings());
        assert_eq!(prepared.tiles.len(), case.tiles.len(), "{name}");
        for (i, (tile, (rows, cols, sum, samples))) in prepared.tiles.iter().zip(&case.tiles).enumerate() {
            assert_eq!((tile.rows, tile.cols), (*rows, *cols), "tile {i} of {name}");
            let step = (tile.pixels.len() / 64).max(1) | 1;
            let found: Vec<u8> = tile.pixels.iter().copied().step_by(step).collect();
            assert_eq!(found.len(), samples.len());
            for (at, (&found, &expected)) in found.iter().zip(samples).enumerate() {
                let difference = i32::from(found) - i32::from(expected);
                assert!(
                    difference.abs() <= RESIZED_DIFFERENCE_MAX,
                    "byte {} of tile {i} of {name}: {found}, expected {expected}",
                    at * step
                );
                different += usize::from(difference != 0);
                all += 1;
            }
            let found_sum: u64 = tile.pixels.iter().map(|&byte| u64::from(byte)).sum();
            let drift = found_sum.abs_diff(*sum) as f64 / tile.pixels.len() as f64;
            assert!(drift < 0.01, "tile {i} of {name} is {drift} brighter or darker a byte");
        }
    }
    println!("{different} of {all} bytes differ by one");
}

#[derive(Deserialize)]
struct DecodeCase {
    file: String,
    width: u32,
    height: u32,
    /// Every so manieth byte without opacity, and over white.
    samples: Vec<u8>,
    on_white: Vec<u8>,
}

#[test]
fn files_decode_as_with_pil() {
    let cases: Vec<DecodeCase> = serde_json::from_str(include_str!("../data/decode.json")).unwrap();
    assert!(cases.len() > 20);
    let mut transparent = 0;
    for case in cases {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/decode/").to_owned() + &case.file;
        let bytes = std::fs::read(&path).unwrap();
        let lossy = case.file.ends_with(".jpg") || case.file == "lossy.webp";
        let allowed = if lossy { LOSSY_DIFFERENCE_MAX } else { 0 };
        for (background, samples) in [(None, &case.samples), (Some(WHITE), &case.on_white)] {
            let picture = decode(&bytes, background).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!((picture.width(), picture.height()), (case.width, case.height), "{}", case.file);
            let found = picture.pixels().iter().step_by(37);
            let most = found.zip(samples).map(|(&a, &b)| (i32::from(a) - i32::from(b)).abs()).max();
            println!("{}, {background:?}: largest difference {most:?}", case.file);
            assert!(most.unwrap() <= allowed, "{}, {background:?}: {most:?}", case.file);
        }
        transparent += usize::from(case.on_white != case.samples);
    }
    assert!(transparent >= 4, "{transparent} transparent pictures");
}
