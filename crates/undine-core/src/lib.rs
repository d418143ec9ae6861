//! Plain data every room of Undine shares.
//!
//! Nothing here does I/O, owns a thread or needs `unsafe`: data types and block formats, the model
//! configuration, the vocabulary as it stood in the file, the ragged [`Batch`] and its output, sampling,
//! and the [`Executor`] seam between the engine and the backends.
#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
pub mod constraint;
pub mod dtype;
pub mod executor;
pub mod quant;
pub mod request;
pub mod sampling;
pub mod vision;
pub mod vocabulary;

pub use batch::{
    Batch, BatchSequence, BlockCopy, BlockId, ImageRows, OutputKind, OutputRow, RowOutput, RowSave, Slot,
    SlotSave, SnapshotId, StateSource, StepOutput, TOKEN_FROM_SLOT, TokenScore,
};
pub use config::{Config, FeedForward, LayerKind, MoeConfig};
pub use constraint::{Constraint, ConstraintError, MaskPromise, TokenMask};
pub use dtype::DType;
pub use executor::{Capacity, Executor, ExecutorError, Ticket};
pub use request::{
    CacheRoot, FinishReason, GenerateRequest, ImageSpan, Origin, PromptImage, RequestId, StopRules, TenantId,
    Thought,
};
pub use sampling::SamplingParams;
pub use vision::{
    ImageKey, ImageSettings, Normalization, PatchOrder, Resample, Tile, VisionConfig, VisionExecutor,
};
pub use vocabulary::{SpecialTokens, Vocabulary};

/// A token id. Ids are only meaningful together with the vocabulary they come from.
pub type TokenId = u32;
