//! A vision tower without a model: each row is a hash of its tile's pixels and its place. What it encodes is
//! written down.

use std::cell::RefCell;
use std::rc::Rc;

use undine_core::vision::{CHANNELS, Normalization};
use undine_core::{
    ExecutorError, GenerateRequest, ImageKey, ImageSpan, PatchOrder, PromptImage, Tile, TokenId,
    VisionConfig, VisionExecutor,
};
use undine_engine::STEP_PATCHES;

use super::device::mix;

/// Values of a row.
pub const HIDDEN: u32 = 2;
/// What stands in a prompt for a row of an image.
pub const IMAGE_TOKEN: TokenId = 5;
/// Patches along the side of a token: a tile of four tokens is all that a step encodes.
const DOWNSAMPLE: usize = 16;

/// Its shape.
pub const CONFIG: VisionConfig = VisionConfig {
    width: 1,
    layers: 1,
    heads: 1,
    feed_forward: 1,
    patch: 1,
    grid: 1,
    norm_eps: 1e-6,
    downsample: DOWNSAMPLE,
    projector: 1,
    hidden: HIDDEN as usize,
    patch_order: PatchOrder::RowColumnChannel,
    normalization: Normalization { mean: [0.0; 3], std: [1.0; 3] },
};

/// See the module's description.
pub struct Eye {
    /// Tiles of each pass.
    pub passes: Rc<RefCell<Vec<Vec<Tile>>>>,
    /// The pass that fails.
    pub fails_at: Option<usize>,
    /// Slices of a pass.
    pub slices: u32,
    /// Tiles that were begun, and slices of them that are done.
    pub begun: Option<(Vec<Tile>, u32)>,
}

impl VisionExecutor for Eye {
    fn config(&self) -> &VisionConfig {
        &CONFIG
    }

    fn begin(&mut self, tiles: &[Tile]) {
        let patches: usize = tiles.iter().map(Tile::patches).sum();
        assert!(!tiles.is_empty(), "a pass without tiles");
        assert!(tiles.len() == 1 || patches <= STEP_PATCHES, "{patches} patches in a pass");
        assert!(self.begun.is_none(), "another pass has not ended");
        self.begun = Some((tiles.to_vec(), 0));
    }

    fn advance(&mut self) -> Result<Option<Vec<f32>>, ExecutorError> {
        let mut passes = self.passes.borrow_mut();
        if self.fails_at == Some(passes.len()) {
            return Err(ExecutorError("it closed".to_owned()));
        }
        let (_, done) = self.begun.as_mut().expect("a pass was begun");
        *done += 1;
        let slices = self.slices;
        let Some((tiles, _)) = self.begun.take_if(|(_, done)| *done == slices) else { return Ok(None) };
        let rows = tiles
            .iter()
            .flat_map(|tile| (0..tile.tokens(DOWNSAMPLE)).flat_map(|row| seen(tile, row)))
            .collect();
        passes.push(tiles);
        Ok(Some(rows))
    }
}

/// A row of a tile.
fn seen(tile: &Tile, row: usize) -> [f32; HIDDEN as usize] {
    let hash = tile.pixels.iter().take(CHANNELS).fold(row as u64, |hash, &pixel| mix(hash, pixel.into()));
    [0, 1].map(|i| (mix(hash, i) % 1_000_000) as f32)
}

/// What the device makes of a row.
pub fn content(row: &[f32]) -> u64 {
    row.iter().fold(1 << 40, |hash, value| mix(hash, value.to_bits().into()))
}

/// What the device sees at each position of a prompt.
pub fn contents(request: &GenerateRequest) -> Vec<u64> {
    let mut contents: Vec<u64> = request.prompt.iter().map(|&token| token.into()).collect();
    for ImageSpan { first, tile } in request.images.iter().flat_map(|image| &image.spans) {
        for row in 0..tile.tokens(DOWNSAMPLE) {
            contents[*first as usize + row] = content(&seen(tile, row));
        }
    }
    contents
}

/// A tile of so many tokens, all of one colour.
pub fn tile(tokens: u32, colour: u8) -> Tile {
    let side = DOWNSAMPLE as u32;
    let (rows, cols) = (side, side * tokens);
    Tile { rows, cols, pixels: vec![colour; (rows * cols) as usize * CHANNELS].into() }
}

/// Puts an image at the end of a prompt: tiles of so many tokens, each after a token of its own.
pub fn show(request: &mut GenerateRequest, colour: u8, tiles: &[u32]) {
    let mut key = [colour; 32];
    tiles.iter().zip(&mut key[1..]).for_each(|(&tokens, byte)| *byte = tokens as u8);
    let mut spans = Vec::new();
    for &tokens in tiles {
        request.prompt.push(IMAGE_TOKEN + 1);
        spans.push(ImageSpan { first: request.prompt.len() as u32, tile: tile(tokens, colour) });
        request.prompt.extend(std::iter::repeat_n(IMAGE_TOKEN, tokens as usize));
    }
    request.images.push(PromptImage { key: ImageKey(key), spans });
}

/// Appends the prompt of one request to another.
pub fn append(request: &mut GenerateRequest, more: &GenerateRequest) {
    let start = request.prompt.len() as u32;
    request.prompt.extend_from_slice(&more.prompt);
    let shifted = |span: &ImageSpan| ImageSpan { first: start + span.first, tile: span.tile.clone() };
    request.images.extend(
        more.images
            .iter()
            .map(|image| PromptImage { key: image.key, spans: image.spans.iter().map(shifted).collect() }),
    );
}
