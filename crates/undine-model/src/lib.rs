//! The LFM2 decoder and the vision tower: each written once against a seam ([`Recorder`],
//! [`VisionRecorder`]), the binding of a checkpoint's weights to them, and the f32 oracles every backend is
//! checked against.
#![forbid(unsafe_code)]

pub mod lfm2;
pub mod oracle;
pub mod recorder;
mod store;
pub mod vision;
mod vision_oracle;
pub mod weights;

pub use oracle::Oracle;
pub use recorder::{Experts, Linear, MatrixId, Moe, Qkv, Recorder, Rows, ShortConv, Swiglu, VectorId};
pub use vision::{VisionModel, VisionRecorder};
pub use vision_oracle::VisionOracle;
pub use weights::{BoundFeedForward, BoundLayer, Model, Operator};
