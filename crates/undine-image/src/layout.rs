//! How a picture is sized and cut, and which tokens stand for it.
//!
//! Every step is the reference's, with its order of operations in double precision, because a rounding
//! decides between whole rows of tokens.

use std::fmt;

use undine_core::ImageSettings;

use crate::error::Error;
use crate::grid::candidates;

/// Width and height in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// From left to right.
    pub width: u32,
    /// From top to bottom.
    pub height: u32,
}

/// Tiles of a split picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// From left to right.
    pub cols: u32,
    /// From top to bottom.
    pub rows: u32,
}

/// What becomes of a picture of one size.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Layout {
    /// Its tiles, if it is split.
    pub grid: Option<Grid>,
    /// The size of the picture as a whole, if it is shown so: it is not split, or has a thumbnail.
    pub whole: Option<Size>,
    tile: u32,
    token: u32,
}

/// A piece of text around image tokens; [`fmt::Display`] gives the special token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// Before everything.
    Start,
    /// Before the tokens of a tile; counted from 1.
    Tile {
        /// From the top.
        row: u32,
        /// From the left.
        col: u32,
    },
    /// Before the tokens of the whole picture, after those of its tiles.
    Thumbnail,
    /// After everything.
    End,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("<|image_start|>"),
            Self::Tile { row, col } => write!(f, "<|img_row_{row}_col_{col}|>"),
            Self::Thumbnail => f.write_str("<|img_thumbnail|>"),
            Self::End => f.write_str("<|image_end|>"),
        }
    }
}

/// A part of what stands for a picture in the prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// One special token.
    Marker(Marker),
    /// This many times the token `<image>`: one for each row that the tower gives for one tile.
    Tokens(u32),
}

impl Layout {
    /// The layout of a picture of this size. `settings` must have passed their check.
    ///
    /// # Errors
    /// If the picture is so narrow that a piece of it would have more patches than the settings allow.
    pub fn new(size: Size, settings: &ImageSettings) -> Result<Self, Error> {
        let s = settings;
        let grid = (s.splits() && is_large(size, s)).then(|| best_grid(size, s));
        let split = grid.is_some_and(|grid| grid.cols * grid.rows != 1);
        let token = s.patch * s.downsample;
        let whole = match grid {
            Some(_) if !(split && s.thumbnail) => None,
            _ => Some(smart_size(size, s)?),
        };
        Ok(Self { grid, whole, tile: s.tile, token })
    }

    /// Rows of the language model that the picture takes, markers not counted.
    pub fn image_tokens(&self) -> u32 {
        let of = |piece| if let Piece::Tokens(count) = piece { count } else { 0 };
        self.pieces().into_iter().map(of).sum()
    }

    /// The prompt's part for this picture, in order.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::Marker(Marker::Start)];
        if let Some(Grid { cols, rows }) = self.grid {
            let side = self.tile / self.token;
            for row in 1..=rows {
                for col in 1..=cols {
                    if cols * rows > 1 {
                        pieces.push(Piece::Marker(Marker::Tile { row, col }));
                    }
                    pieces.push(Piece::Tokens(side * side));
                }
            }
        }
        if let Some(whole) = self.whole {
            if self.grid.is_some() {
                pieces.push(Piece::Marker(Marker::Thumbnail));
            }
            pieces.push(Piece::Tokens((whole.width / self.token) * (whole.height / self.token)));
        }
        pieces.push(Piece::Marker(Marker::End));
        pieces
    }
}

/// The nearest multiple of `factor`; halfway, the even one.
fn round_to(value: u32, factor: u32) -> f64 {
    (f64::from(value) / f64::from(factor)).round_ties_even() * f64::from(factor)
}

fn pixels(tokens: u32, s: &ImageSettings) -> f64 {
    f64::from(tokens) * f64::from(s.patch * s.downsample).powi(2)
}

fn is_large(size: Size, s: &ImageSettings) -> bool {
    let side = |side| round_to(side, s.patch * s.downsample).max(f64::from(s.patch));
    side(size.height) * side(size.width) > pixels(s.max_tokens, s) * s.tolerance
}

/// The size near the picture's own, in whole tokens, whose number is within the limits.
fn smart_size(size: Size, s: &ImageSettings) -> Result<Size, Error> {
    let token = s.patch * s.downsample;
    let factor = f64::from(token);
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let mut to = [size.width, size.height].map(|side| round_to(side, token).max(factor));
    let (low, high) = (pixels(s.min_tokens, s), pixels(s.max_tokens, s));
    if to[0] * to[1] > high {
        let beta = (height * width / high).sqrt();
        to = [width, height].map(|side| ((side / beta / factor).floor() * factor).max(factor));
    } else if to[0] * to[1] < low {
        let beta = (low / (height * width)).sqrt();
        to = [width, height].map(|side| (side * beta / factor).ceil() * factor);
    }
    let [width, height] = to.map(|side| side as u32);
    let patches = u64::from(width / s.patch) * u64::from(height / s.patch);
    let patches_max = s.patches_max();
    if patches > u64::from(patches_max) {
        return Err(Error::Narrow { width: size.width, height: size.height, patches, patches_max });
    }
    Ok(Size { width, height })
}

/// The grid whose ratio of sides is nearest to the picture's. On a tie a later one replaces an earlier if the
/// picture has more than half its pixels.
fn best_grid(size: Size, s: &ImageSettings) -> Grid {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let ratio = width / height;
    let (mut best, mut nearest) = ((1, 1), f64::INFINITY);
    for (cols, rows) in candidates(s.min_tiles, s.max_tiles) {
        let distance = (ratio - f64::from(cols) / f64::from(rows)).abs();
        let area = f64::from(s.tile).powi(2) * f64::from(cols * rows);
        if distance < nearest || distance == nearest && width * height > 0.5 * area {
            (best, nearest) = ((cols, rows), distance);
        }
    }
    Grid { cols: best.0, rows: best.1 }
}
