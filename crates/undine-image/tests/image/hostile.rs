//! Images meant to hurt: each is an error or a picture within the limits, soon, and never a panic.

use proptest::prelude::*;
use undine_core::ImageSettings;
use undine_image::limits::{IMAGE_BYTES_MAX, PIXELS_MAX};
use undine_image::{Error, ImagePipeline, Layout, Picture, Piece, Size, decode};

const PNG: &[u8] = include_bytes!("../data/decode/rgb.png");
const JPEG: &[u8] = include_bytes!("../data/decode/progressive.jpg");
const WEBP: &[u8] = include_bytes!("../data/decode/lossy.webp");
const GIF: &[u8] = include_bytes!("../data/decode/two-frames.gif");
const BMP: &[u8] = include_bytes!("../data/decode/rgb.bmp");

/// `bytes` with the 32-bit number at `at` replaced; of a PNG's header the check sum, too.
fn with_sides(bytes: &[u8], at: usize, sides: [[u8; 4]; 2]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 8].copy_from_slice(&sides.concat());
    if bytes.starts_with(b"\x89PNG") {
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    }
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn png_of(width: u32, height: u32) -> Vec<u8> {
    with_sides(PNG, 16, [width.to_be_bytes(), height.to_be_bytes()])
}

fn bmp_of(width: u32, height: u32) -> Vec<u8> {
    with_sides(BMP, 18, [width.to_le_bytes(), height.to_le_bytes()])
}

#[test]
fn lying_and_damaged_files_are_errors() {
    let is_damaged = |error: &Error| matches!(error, Error::Damaged(_));
    let is_bytes = |error: &Error| matches!(error, Error::Bytes { .. });
    let is_side = |error: &Error| matches!(error, Error::Side { .. });
    let is_pixels = |error: &Error| matches!(error, Error::Pixels { .. });
    let is_side_or_damaged = |error: &Error| is_side(error) || is_damaged(error);
    let is_format = |error: &Error| *error == Error::Format;
    type Case<'a> = (&'a str, Vec<u8>, &'a dyn Fn(&Error) -> bool);
    let cases: Vec<Case> = vec![
        ("nothing", vec![], &is_format),
        ("text", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), &is_format),
        ("a TIFF", b"II*\0\x08\0\0\0".to_vec(), &is_format),
        ("a long file", vec![0x89; IMAGE_BYTES_MAX + 1], &is_bytes),
        ("a PNG of one pixel", png_of(1, 1), &is_side),
        ("a PNG of one column", png_of(1, 20_000), &is_side),
        ("a PNG of no pixels", png_of(0, 5), &is_side_or_damaged),
        ("a PNG that says it is huge", png_of(30_000, 30_000), &is_pixels),
        ("a PNG that says it is endless", png_of(0x7fff_ffff, 0x7fff_ffff), &is_side_or_damaged),
        ("a PNG that says it is larger", png_of(7000, 7000), &is_damaged),
        ("a BMP that says it is huge", bmp_of(30_000, 30_000), &is_pixels),
        ("a BMP that says it is larger", bmp_of(7000, 7000), &is_damaged),
    ];
    for (name, bytes, expected) in cases {
        let error = decode(&bytes, None).expect_err(name);
        assert!(expected(&error), "{name}: {error}");
    }
}

#[test]
fn files_cut_short_are_errors_or_whole() {
    for (name, bytes) in [("png", PNG), ("jpeg", JPEG), ("webp", WEBP), ("gif", GIF), ("bmp", BMP)] {
        let whole = decode(bytes, None).unwrap();
        for len in 0..bytes.len() {
            if let Ok(picture) = decode(&bytes[..len], None) {
                // A decoder may fill up what is missing at the end; the size is what the header says.
                assert_eq!(
                    (picture.width(), picture.height()),
                    (whole.width(), whole.height()),
                    "{name}, {len}"
                );
            }
        }
        assert!(decode(&bytes[..bytes.len() / 2], None).is_err(), "{name}");
    }
}

#[test]
fn narrow_pictures_are_errors() {
    let settings = ImageSettings::default();
    for (width, height) in [(2, 20_000), (20_000, 2), (32_768, 20)] {
        let error = Layout::new(Size { width, height }, &settings).unwrap_err();
        assert!(matches!(error, Error::Narrow { .. }), "{width} x {height}: {error}");
    }
}

/// Tiles, pieces and tokens of a picture agree with each other and stay within the settings.
fn check(pipeline: &ImagePipeline, picture: &Picture) {
    let Ok(prepared) = pipeline.cut(picture) else { return };
    let settings = pipeline.settings();
    let pieces = prepared.layout.pieces();
    let tokens: Vec<usize> = pieces
        .iter()
        .filter_map(|piece| if let Piece::Tokens(n) = piece { Some(*n as usize) } else { None })
        .collect();
    let of_tiles: Vec<usize> =
        prepared.tiles.iter().map(|tile| tile.tokens(settings.downsample as usize)).collect();
    assert_eq!(tokens, of_tiles);
    for tile in &prepared.tiles {
        assert!(tile.patches() <= settings.patches_max() as usize);
        assert_eq!(tile.pixels.len(), tile.patches() * settings.patch.pow(2) as usize * 3);
        assert!(
            tile.rows.is_multiple_of(settings.downsample) && tile.cols.is_multiple_of(settings.downsample)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_files_never_panic(
        file in 0..5usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = [PNG, JPEG, WEBP, GIF, BMP][file].to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(keep.index(bytes.len()).max(bytes.len() / 2));
        if let Ok(picture) = decode(&bytes, Some([9, 8, 7])) {
            prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= PIXELS_MAX);
            if picture.pixels().len() < 1 << 20 {
                check(&ImagePipeline::new(ImageSettings::default()).unwrap(), &picture);
            }
        }
    }

    #[test]
    fn pictures_of_all_sizes_are_cut_within_the_settings(
        width in 2..400u32, height in 2..400u32,
        patch in 1..20u32, downsample in 1..4u32, tile in 1..8u32,
        min_tiles in 1..6u32, more_tiles in 0..6u32,
        min_tokens in 1..40u32, more_tokens in 0..80u32,
        tolerance in 0.1..4.0f64, thumbnail: bool,
    ) {
        let settings = ImageSettings {
            patch, downsample, tile: tile * patch * downsample,
            min_tiles, max_tiles: min_tiles + more_tiles,
            min_tokens, max_tokens: min_tokens + more_tokens,
            tolerance, thumbnail, ..ImageSettings::default()
        };
        let picture = Picture::new(width, height, vec![7; (width * height * 3) as usize]).unwrap();
        check(&ImagePipeline::new(settings).unwrap(), &picture);
    }
}

#[test]
fn keys_name_bytes_and_settings() {
    let settings = ImageSettings::default();
    let key = |settings, bytes: &[u8]| ImagePipeline::new(settings).unwrap().key(bytes);
    let same = key(settings, PNG);
    assert_eq!(same, key(settings, PNG));
    let others = [
        key(settings, JPEG),
        key(settings, &PNG[1..]),
        key(ImageSettings { max_tokens: 128, ..settings }, PNG),
        key(ImageSettings { thumbnail: false, ..settings }, PNG),
        key(ImageSettings { tolerance: 1.5, ..settings }, PNG),
        key(ImageSettings { min_tiles: 1, ..settings }, PNG),
        key(ImageSettings { background: None, ..settings }, PNG),
        key(ImageSettings { background: Some([0; 3]), ..settings }, PNG),
    ];
    assert!(others.iter().all(|other| *other != same));
}

/// The end of a small picture inside the EXIF data is not the end of the picture.
#[test]
fn a_jpeg_that_stops_early_is_an_error_wherever_it_stops() {
    let thumbnail = [0xff, 0xe1, 0, 6, 9, 9, 0xff, 0xd9];
    let bytes: Vec<u8> = JPEG[..2].iter().chain(&thumbnail).chain(&JPEG[2..]).copied().collect();
    assert!(decode(&bytes, None).is_ok());
    let error = decode(&bytes[..bytes.len() - 2], None).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    // What follows the end is of no interest.
    let longer: Vec<u8> = bytes.iter().chain(b"more").copied().collect();
    assert!(decode(&longer, None).is_ok());
}
