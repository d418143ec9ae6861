//! The LFM2 decoder: the model written once against the [`Recorder`] seam, the binding of a checkpoint's
//! weights to it, and the f32 oracle every backend is checked against.
#![forbid(unsafe_code)]

pub mod lfm2;
pub mod oracle;
pub mod recorder;
pub mod weights;

pub use oracle::Oracle;
pub use recorder::{Experts, Linear, MatrixId, Moe, Qkv, Recorder, Rows, ShortConv, Swiglu, VectorId};
pub use weights::{BoundFeedForward, BoundLayer, Model, Operator};
