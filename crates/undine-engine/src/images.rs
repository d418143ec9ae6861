//! Images: when their tiles are encoded, how long the rows are kept, and what they are called in the prefix
//! tree.
//!
//! A tile is asked for by the first sequence that comes to a row of it, and no earlier: whoever finds its
//! keys and values in the cache needs no rows. The tiles that are asked for in a step are encoded together,
//! few at a time ([`STEP_PATCHES`]), in slices between the steps that follow; meanwhile their sequences have
//! no rows there, and the others go on. Then everybody who has come to a tile holds its rows, until it is
//! past it; beyond that they are kept by image as long as there is room, for other requests and for rows that
//! are computed once more.
//!
//! In the prefix tree each position of an image is [`IMAGE_BIT`] and the image's number. A number is never
//! used twice, so positions are equal only where images are. What is kept of an image is kept for the
//! [`CacheRoot`] it was shown under: nobody else can find out that it was shown. A sequence keeps the numbers
//! it began with, also when they are forgotten here.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use undine_core::{
    BatchSequence, CacheRoot, ExecutorError, ImageKey, ImageRows, PromptImage, Tile, TokenId, VisionConfig,
    VisionExecutor,
};

use crate::tenants::TenantIndex;
use crate::{AddError, EngineStats};

/// Marks an image's number among the keys of the prefix tree. Tokens are below it.
pub(crate) const IMAGE_BIT: TokenId = 1 << 31;
/// Images whose numbers are known at once; the one that was used longest ago is forgotten.
const NUMBERS_MAX: usize = 1 << 14;
/// Patches that are encoded together, unless a single tile has more. One tile of a split image has as many.
pub const STEP_PATCHES: usize = 1024;

/// A tile of an image, which is known by its number.
pub(crate) type TileName = (TokenId, u32);

/// Tokens of a prompt whose place a tile takes.
pub(crate) struct PlacedTile {
    positions: Range<u32>,
    name: TileName,
    tile: Tile,
    /// Its rows, while they are needed.
    encoded: Option<Arc<[f32]>>,
}

/// The images of a sequence.
#[derive(Default)]
pub(crate) struct SequenceImages {
    /// In the order of the prompt.
    tiles: Vec<PlacedTile>,
    /// The sequence's tokens with numbers in place of image tokens; empty without images.
    pub keys: Vec<TokenId>,
}

impl SequenceImages {
    /// Takes what has been encoded, if it is theirs and `computed` positions do not go beyond it.
    pub fn receive(&mut self, encoded: &[(TileName, Arc<[f32]>)], computed: u32) {
        for tile in self.within(computed..u32::MAX) {
            if let Some((_, rows)) = encoded.iter().find(|(name, _)| *name == tile.name) {
                tile.encoded = Some(Arc::clone(rows));
            }
        }
    }

    /// Forgets what is encoded of them.
    pub fn release(&mut self) {
        self.tiles.iter_mut().for_each(|tile| tile.encoded = None);
    }

    /// The tiles with tokens in `positions`.
    fn within(&mut self, positions: Range<u32>) -> impl Iterator<Item = &mut PlacedTile> {
        let first = self.tiles.partition_point(|tile| tile.positions.end <= positions.start);
        self.tiles[first..].iter_mut().take_while(move |tile| tile.positions.start < positions.end)
    }
}

/// Entries in the order of their last use.
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// The entry, which is then the one used last.
    fn touch(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.entries.get_mut(key)?;
        let key = self.order.remove(used).expect("every entry has its place in the order");
        self.uses += 1;
        *used = self.uses;
        self.order.insert(self.uses, key);
        Some(value)
    }

    /// Adds an entry that is not there.
    fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        let before = self.entries.insert(key, (self.uses, value));
        debug_assert!(before.is_none(), "the caller has looked for the entry");
    }

    /// Takes out the entry that was used longest ago.
    fn pop(&mut self) -> Option<V> {
        let (_, key) = self.order.pop_first()?;
        self.entries.remove(&key).map(|(_, value)| value)
    }
}

/// A tile to encode.
pub(crate) struct Wanted {
    name: TileName,
    tile: Tile,
    /// Who pays for it.
    pub tenant: TenantIndex,
    /// As many rows as it has tokens.
    pub rows: u32,
}

/// A tile and its rows.
pub type EncodedTile = (TileName, Arc<[f32]>);

/// What the engine knows of images.
pub(crate) struct Images {
    numbers: Recent<(CacheRoot, ImageKey), TokenId>,
    /// How many images have had a number; one that is shown under two roots has two.
    numbered: TokenId,
    encoded: Recent<TileName, Arc<[f32]>>,
    /// Bytes of `encoded`.
    bytes: u64,
    bytes_max: u64,
    /// Tiles that are asked for in this step, and by whom first.
    wanted: Vec<Wanted>,
    /// Those that are being encoded.
    pass: Vec<Wanted>,
    images_total: u64,
    encoded_total: u64,
    reused_total: u64,
}

impl Images {
    /// None known; encoded rows may take so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            numbers: Recent::new(),
            numbered: 0,
            encoded: Recent::new(),
            bytes: 0,
            bytes_max,
            wanted: Vec::new(),
            pass: Vec::new(),
            images_total: 0,
            encoded_total: 0,
            reused_total: 0,
        }
    }

    /// Takes in the images of a prompt, which have been checked.
    pub fn place(
        &mut self,
        root: &CacheRoot,
        prompt: &[TokenId],
        images: Vec<PromptImage>,
        config: &VisionConfig,
    ) -> Result<SequenceImages, AddError> {
        let mut placed = SequenceImages { tiles: Vec::new(), keys: prompt.to_vec() };
        self.images_total += images.len() as u64;
        for PromptImage { key, spans } in images {
            let number = self.number(root, key).ok_or(AddError::TooManyImages { limit: IMAGE_BIT })?;
            for (index, span) in (0..).zip(spans) {
                let positions = span.first..span.first + span.tile.tokens(config.downsample) as u32;
                placed.keys[positions.start as usize..positions.end as usize].fill(IMAGE_BIT | number);
                placed.tiles.push(PlacedTile {
                    positions,
                    name: (number, index),
                    tile: span.tile,
                    encoded: None,
                });
            }
        }
        Ok(placed)
    }

    fn number(&mut self, root: &CacheRoot, key: ImageKey) -> Option<TokenId> {
        let key = (root.clone(), key);
        if let Some(&number) = self.numbers.touch(&key) {
            return Some(number);
        }
        if self.numbered == IMAGE_BIT {
            return None;
        }
        if self.numbers.entries.len() == NUMBERS_MAX {
            self.numbers.pop();
        }
        self.numbers.insert(key, self.numbered);
        self.numbered += 1;
        Some(self.numbered - 1)
    }

    /// A new step begins.
    pub fn begin_step(&mut self) {
        self.wanted.clear();
    }

    /// How many of the next `rows` rows, from position `start` on, this step can have: up to the first tile
    /// that is not encoded. Those that are not are asked for.
    pub fn rows_within(
        &mut self,
        tenant: TenantIndex,
        images: &mut SequenceImages,
        start: u32,
        rows: u32,
    ) -> u32 {
        let mut ready = rows;
        for tile in images.within(start..start + rows) {
            if !self.provide(tenant, tile) {
                ready = ready.min(tile.positions.start.saturating_sub(start));
            }
        }
        ready
    }

    /// Makes sure that the rows of a tile are there, or asks for them.
    fn provide(&mut self, tenant: TenantIndex, tile: &mut PlacedTile) -> bool {
        if tile.encoded.is_some() {
            return true;
        }
        if let Some(rows) = self.encoded.touch(&tile.name) {
            tile.encoded = Some(Arc::clone(rows));
            self.reused_total += 1;
            return true;
        }
        if self.pass.is_empty() && self.fits(tile) {
            let rows = tile.positions.len() as u32;
            self.wanted.push(Wanted { name: tile.name, tile: tile.tile.clone(), tenant, rows });
        }
        false
    }

    /// Whether a tile can be asked for in this step, and is not yet.
    fn fits(&self, tile: &PlacedTile) -> bool {
        let patches: usize = self.wanted.iter().map(|wanted| wanted.tile.patches()).sum();
        let fits = self.wanted.is_empty() || patches + tile.tile.patches() <= STEP_PATCHES;
        fits && self.wanted.iter().all(|wanted| wanted.name != tile.name)
    }

    /// Begins to encode what the step has asked for, unless others are being encoded. Returns what was begun.
    pub fn begin_pass(&mut self, vision: &mut dyn VisionExecutor) -> &[Wanted] {
        if self.wanted.is_empty() {
            return &[];
        }
        std::mem::swap(&mut self.pass, &mut self.wanted);
        let tiles: Vec<Tile> = self.pass.iter().map(|wanted| wanted.tile.clone()).collect();
        vision.begin(&tiles);
        &self.pass
    }

    /// Encodes a slice of what was begun. Returns the rows of the tiles when they are complete.
    pub fn encode(&mut self, vision: &mut dyn VisionExecutor) -> Result<Vec<EncodedTile>, ExecutorError> {
        if self.pass.is_empty() {
            return Ok(Vec::new());
        }
        let VisionConfig { hidden, downsample, .. } = *vision.config();
        let Some(all) = vision.advance()? else { return Ok(Vec::new()) };
        let mut left = &all[..];
        let mut encoded = Vec::with_capacity(self.pass.len());
        for Wanted { name, tile, .. } in std::mem::take(&mut self.pass) {
            let (rows, rest) = left.split_at(tile.tokens(downsample) * hidden);
            let rows: Arc<[f32]> = Arc::from(rows);
            self.keep(name, &rows);
            encoded.push((name, rows));
            left = rest;
        }
        assert!(left.is_empty(), "the executor returns one row for each token of each tile");
        self.encoded_total += encoded.len() as u64;
        Ok(encoded)
    }

    /// Gives up what is being encoded.
    pub fn give_up(&mut self) {
        self.pass.clear();
    }

    /// Keeps the rows of a tile at the cost of those that were used longest ago, unless they take all the
    /// room there is.
    fn keep(&mut self, name: TileName, rows: &Arc<[f32]>) {
        let bytes = size_of_val(&rows[..]) as u64;
        if bytes > self.bytes_max {
            return;
        }
        self.encoded.insert(name, Arc::clone(rows));
        self.bytes += bytes;
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.encoded.pop()
        {
            self.bytes -= size_of_val(&oldest[..]) as u64;
        }
    }

    /// Writes into the batch which rows of its sequence `sequence` show an image.
    pub fn show(&self, images: &mut SequenceImages, sequence: &BatchSequence, shown: &mut Vec<ImageRows>) {
        let end = sequence.start + sequence.rows.len() as u32;
        for tile in images.within(sequence.start..end) {
            let rows =
                tile.encoded.as_ref().expect("a sequence has rows up to the first tile that lacks them");
            let positions = tile.positions.start.max(sequence.start)..tile.positions.end.min(end);
            let row = |position: u32| sequence.rows.start + position - sequence.start;
            shown.push(ImageRows {
                rows: row(positions.start)..row(positions.end),
                encoded: Arc::clone(rows),
                first: positions.start - tile.positions.start,
            });
            if positions.end == tile.positions.end {
                tile.encoded = None;
            }
        }
    }

    /// Fills in the numbers about images.
    pub fn describe(&self, stats: &mut EngineStats) {
        stats.images_total = self.images_total;
        stats.image_tiles_encoded_total = self.encoded_total;
        stats.image_tiles_reused_total = self.reused_total;
        stats.image_cache_bytes = self.bytes;
    }

    /// Panics unless the numbers add up.
    pub fn check_integrity(&self) {
        let bytes: usize = self.encoded.entries.values().map(|(_, rows)| size_of_val(&rows[..])).sum();
        assert_eq!(bytes as u64, self.bytes, "bytes of encoded images");
        assert!(self.bytes <= self.bytes_max, "{} of {} bytes of encoded images", self.bytes, self.bytes_max);
        assert_eq!(self.encoded.entries.len(), self.encoded.order.len(), "the order of encoded tiles");
        assert_eq!(self.numbers.entries.len(), self.numbers.order.len(), "the order of images");
    }
}

/// Checks the images of a request against its prompt and the tower.
pub(crate) fn check_images(
    images: &[PromptImage],
    prompt: &[TokenId],
    vision: Option<&VisionConfig>,
) -> Result<(), AddError> {
    let Some(config) = vision else {
        return if images.is_empty() { Ok(()) } else { Err(AddError::NoVision) };
    };
    let mut end = 0;
    for (image, PromptImage { spans, .. }) in images.iter().enumerate() {
        let wrong = |reason: String| AddError::InvalidImage { image, reason };
        if spans.is_empty() {
            return Err(wrong("expected at least one tile, found none".to_owned()));
        }
        for span in spans {
            span.tile.check(config).map_err(wrong)?;
            let first = u64::from(span.first);
            if first < end {
                return Err(wrong(format!("expected tiles from token {end} on, found one at {first}")));
            }
            end = first + span.tile.tokens(config.downsample) as u64;
            if end > prompt.len() as u64 {
                let reason = format!("a tile ends at token {end} of a prompt of {}", prompt.len());
                return Err(wrong(reason));
            }
        }
    }
    Ok(())
}
