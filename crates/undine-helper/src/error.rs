//! How a job can end without a result.

use crate::{Budget, STACK_BYTES};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Nobody wants it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// More processor time than there was for it.
    #[error("it takes more than {0} s of computing")]
    Cpu(u32),
    /// It waited too long for a processor.
    #[error("it was not done after {0} s; the machine is busy: try again later")]
    Wall(u64),
    /// More memory.
    #[error("it takes more than {0} MiB of memory")]
    Memory(u32),
    /// More stack.
    #[error("it nests too deeply: more than {} MiB of stack", STACK_BYTES >> 20)]
    Stack,
    /// The helper ended for a reason of its own.
    #[error("the helper process ended: {0}")]
    Died(String),
    /// No helper could be started or spoken to.
    #[error("a helper process could not be used: {0}")]
    Io(#[from] std::io::Error),
    /// This system has none.
    #[error("this system has no helper processes")]
    Unsupported,
}

impl JobError {
    /// Whether the job is to blame, and would end the same way again.
    pub fn is_of_job(&self) -> bool {
        matches!(self, Self::Cpu(_) | Self::Memory(_) | Self::Stack | Self::Died(_))
    }

    pub(crate) fn wall(budget: &Budget) -> Self {
        Self::Wall(budget.wall.as_secs())
    }
}
