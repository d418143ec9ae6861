//! The helpers of one kind of work: idle ones are kept, missing ones are started, spoilt ones are ended.

use std::ffi::OsString;
use std::path::PathBuf;
#[cfg(unix)]
use std::sync::{Mutex, PoisonError};

#[cfg(unix)]
use crate::process::Process;
use crate::{Budget, Cancel, JobError, Urgency};

/// Idle helpers that are kept.
#[cfg(unix)]
const IDLE_MAX: usize = 4;

/// What to start as a helper: a program that calls [`crate::serve`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// What tells it to serve.
    pub arguments: Vec<OsString>,
}

/// Helper processes that all know the same. How many work at once is up to the callers, each of whom waits
/// for one.
#[derive(Debug)]
pub struct Helpers {
    program: Program,
    urgency: Urgency,
    /// What each job may take.
    budget: Budget,
    /// A job that each one does first, and what it may take.
    setup: Option<(Vec<u8>, Budget)>,
    #[cfg(unix)]
    idle: Mutex<Vec<Process>>,
}

impl Helpers {
    /// Starts none yet.
    pub fn new(program: Program, urgency: Urgency, budget: Budget) -> Self {
        Self {
            program,
            urgency,
            budget,
            setup: None,
            #[cfg(unix)]
            idle: Mutex::default(),
        }
    }

    /// The same, where each helper does `job` before its first one; its result is not looked at.
    #[must_use]
    pub fn with_setup(self, job: Vec<u8>, budget: Budget) -> Self {
        Self { setup: Some((job, budget)), ..self }
    }

    /// What is started.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

#[cfg(unix)]
impl Helpers {
    /// Starts a helper, so that the next job finds one. Without a setup it need not have got ready when this
    /// returns.
    ///
    /// # Errors
    /// If none can be started.
    pub fn warm(&self) -> Result<(), JobError> {
        let process = self.start(&Cancel::default())?;
        self.keep(process);
        Ok(())
    }

    /// A helper that has been set up, which is as urgent as the rest whatever its jobs are.
    fn start(&self, cancel: &Cancel) -> Result<Process, JobError> {
        let mut process = Process::start(&self.program, self.urgency)?;
        if let Some((setup, budget)) = &self.setup {
            process.call(setup, budget, cancel)?;
        }
        process.begin();
        Ok(process)
    }

    /// Has a job done, on a helper of its own until it is. Blocks for at most the budget's time on the clock.
    ///
    /// # Errors
    /// If there is no result.
    pub fn call(&self, job: &[u8], cancel: &Cancel) -> Result<Vec<u8>, JobError> {
        let mut process = self.take(cancel)?;
        // After an error the process is dropped, which ends it.
        let result = process.call(job, &self.budget, cancel)?;
        self.keep(process);
        Ok(result)
    }

    /// An idle helper that is alive and fit, or a new one.
    fn take(&self, cancel: &Cancel) -> Result<Process, JobError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut process) = idle else { return self.start(cancel) };
            if process.is_alive() && process.is_fit() {
                return Ok(process);
            }
        }
    }

    fn keep(&self, process: Process) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && process.is_fit() {
            idle.push(process);
        }
    }
}

#[cfg(not(unix))]
impl Helpers {
    /// There are none to start.
    ///
    /// # Errors
    /// Always.
    pub fn warm(&self) -> Result<(), JobError> {
        Err(JobError::Unsupported)
    }

    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn call(&self, _: &[u8], _: &Cancel) -> Result<Vec<u8>, JobError> {
        let _ = (&self.setup, self.urgency, self.budget);
        Err(JobError::Unsupported)
    }
}
