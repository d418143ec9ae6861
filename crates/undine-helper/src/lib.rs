//! Helper processes: where work runs that may take any time and memory, or bring its process down, because a
//! stranger wrote what it works on: chat templates, grammars.
//!
//! A helper is this program again, asked by its arguments to serve (`serve`). It takes one job at a time over
//! a socket that is its standard input: bytes in, bytes out; what they mean is the caller's. Each job has a
//! budget of processor time, memory, stack and waiting, and whatever exceeds it ends the helper and nothing
//! else ([`JobError`]).
//!
//! Invariant: a job's end, however it ends, leaves no process behind that still works on it.
#![forbid(unsafe_code)]

mod error;
#[cfg(unix)]
mod frame;
mod load;
mod pool;
#[cfg(unix)]
mod process;
mod serve;

pub use error::JobError;
pub use load::is_crowded;
pub use pool::{Helpers, Program};
pub use serve::serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Stack of the thread that does a helper's jobs. It is address space until it is used.
pub const STACK_BYTES: usize = 32 << 20;

/// How far connections come after computing.
const NICE_CONNECTIONS: i32 = 5;

/// What a job may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Processor time in whole seconds; a job ends within one second more.
    pub cpu_seconds: u32,
    /// Memory in MiB beyond what the helper has before the job. Enforced on Linux.
    pub memory_mib: u32,
    /// Time on the clock, for a machine that has none to spare.
    pub wall: Duration,
}

/// Ends a job early: whoever wanted its result has gone. Clones are one.
#[derive(Clone, Default, Debug)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the job.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How urgent a helper's work is, against everything else on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// As urgent as the rest, but for a job that takes longer than this: it is set back behind everything
    /// else. Its helper cannot be brought forward again, and is ended after it.
    Normal {
        /// On the clock.
        slow_after: Duration,
    },
    /// After the rest; with connections where other programs would leave nothing.
    Background,
}

/// Makes this thread come after those that compute, though before work in the background: that of
/// connections, where cores are few. A parallel region is as slow as the slowest of its threads.
pub fn come_after_computing() {
    set_back(NICE_CONNECTIONS);
}

/// Sets this thread back. A system that does not allow it, or knows only of processes, does without.
fn set_back(nice: i32) {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice);
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// Where work in the background stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
enum Standing {
    /// Among everything else.
    Normal,
    /// With connections: other programs would leave nothing to what comes last.
    After,
    /// After everything else on the machine. A core that does nothing else counts as free for those who
    /// compute; one with a merely polite thread does not, and they would share another one.
    Last,
}

impl Standing {
    /// That of work in the background which begins now.
    fn of_background() -> Self {
        if is_crowded() { Self::After } else { Self::Last }
    }

    /// Gives it to this thread, which can only be set back further.
    fn take(self) {
        match self {
            Self::Normal => {}
            Self::After => set_back(NICE_CONNECTIONS),
            Self::Last => come_last(),
        }
    }
}

fn come_last() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
            thread_native_id,
        };
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    }
}

/// Works that go on in the background of this process and of its helpers.
static BACKGROUND: AtomicUsize = AtomicUsize::new(0);

/// One of them, until it is dropped.
struct Background;

impl Background {
    fn begin() -> Self {
        BACKGROUND.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        BACKGROUND.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether this process waits for work in the background. It gets what others leave, which may be nothing:
/// whoever computes without a pause on all processors has to make one.
pub fn is_work_in_background() -> bool {
    // Elsewhere it is as urgent as the rest.
    cfg!(target_os = "linux") && BACKGROUND.load(Ordering::Acquire) > 0
}

/// Does work on a thread with a stack of its own choosing that comes after everything else on the machine, or
/// with connections where other programs leave nothing ([`is_crowded`]), and waits for it. The inner error is
/// a panic's.
///
/// # Errors
/// If no thread can be had.
pub fn in_background<T: Send>(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send,
) -> std::io::Result<std::thread::Result<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes);
    std::thread::scope(|scope| {
        let _counted = Background::begin();
        load::watch();
        let work = || {
            Standing::of_background().take();
            work()
        };
        Ok(thread.spawn_scoped(scope, work)?.join())
    })
}
