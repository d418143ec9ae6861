//! Images from bytes to the tiles of a vision tower, equal to the reference implementation in transformers
//! (`lfm2_vl`: its image processor and its prompt).
//!
//! [`decode`] makes a checked picture of bytes from outside, [`Layout`] says how a picture of a size is cut
//! and which tokens stand for it, [`ImagePipeline`] does both and resizes, and [`prompt`] puts those tokens
//! into a prompt. Pixels stay bytes until the tower normalizes them. What comes in is hostile: every bound is
//! named in [`limits`], and bad input is an [`Error`].
#![forbid(unsafe_code)]

mod decode;
mod error;
mod grid;
mod layout;
pub mod limits;
mod pipeline;
pub mod prompt;
mod resize;

pub use decode::{Picture, decode};
pub use error::Error;
pub use layout::{Grid, Layout, Marker, Piece, Size};
pub use pipeline::{ImagePipeline, PreparedImage};
pub use undine_core::ImageKey;
