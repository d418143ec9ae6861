//! The CPU backend.
//!
//! [`plan`] records the model once as a list of operations over an arena; [`executor`] replays it for every
//! batch inside one parallel region of [`pool`]; [`ops`] does each operation with the [`kernels`], which are
//! written once against [`simd`] and compiled for every instruction set.

pub mod executor;
mod inputs;
pub mod kernels;
pub mod memory;
mod moe;
mod ops;
pub mod plan;
pub mod pool;
pub mod roofline;
mod seats;
pub mod simd;
pub mod vision;
mod weights;

pub use executor::{CpuExecutor, CpuOptions, Error, KvType, ReservedBytes, shared_attention_bytes};
pub use inputs::MatrixInputs;
pub use roofline::Roofline;
pub use simd::Isa;
pub use vision::{CpuVision, pass_bytes};

/// Positions in a page of the K/V cache.
pub const BLOCK_SIZE: u32 = kernels::attention::PAGE as u32;
