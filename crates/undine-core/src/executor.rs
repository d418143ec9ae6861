//! Seam 2: the engine above, a backend with its recorded model below.

use std::fmt;

use crate::{Batch, StepOutput};

/// What a backend has reserved. Fixed for its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Pages of the K/V cache.
    pub blocks: u32,
    /// Positions in a page.
    pub block_size: u32,
    /// State slots, which is the most sequences that can be running.
    pub slots: u32,
    /// Places for copies of a slot's convolution states.
    pub snapshots: u32,
    /// Rows after which convolution states that started empty are exact: `(taps - 1) x convolution layers`.
    pub replay: u32,
    /// Rows in one step.
    pub rows: u32,
    /// Rows through the head in one step.
    pub outputs: u32,
    /// Vocabulary entries.
    pub vocab: u32,
    /// Width of the residual stream: values of a row that stands in the place of a token.
    pub hidden: u32,
    /// Steps that may be in flight: 1 if `submit` computes, 2 if it only launches.
    pub steps_in_flight: u32,
}

/// Names a submitted step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(pub u64);

/// The device failed; every sequence on it is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecutorError(pub String);

impl fmt::Display for ExecutorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device failed: {}", self.0)
    }
}

impl std::error::Error for ExecutorError {}

/// Runs batches on a device. Object-safe and not `Send`: the engine's thread makes its own with an
/// [`ExecutorFactory`].
pub trait Executor {
    /// What is reserved; constant.
    fn capacity(&self) -> Capacity;

    /// Starts a step. The batch may be reused as soon as this returns. Panics if [`Batch::check`] does.
    fn submit(&mut self, batch: &Batch) -> Result<Ticket, ExecutorError>;

    /// The output of a step once it is there. Steps are collected in the order of submission, each once.
    fn try_collect(&mut self, ticket: Ticket) -> Result<Option<StepOutput>, ExecutorError>;
}

/// Makes an executor on the thread that will own it.
pub type ExecutorFactory = Box<dyn FnOnce() -> Result<Box<dyn Executor>, ExecutorError> + Send>;
