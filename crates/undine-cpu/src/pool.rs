//! The thread pool: one parallel region a step, spin barriers inside it.
//!
//! A step of a small model has some hundred phases of a few tens of microseconds; waking threads for each
//! would cost more than the work. So the threads enter once, walk the list of operations together, and meet
//! at barriers made of two atomics. Between steps they spin shortly and then park.
//!
//! Who waits spins and then sleeps; it never yields. Where a core is wanted by work that comes after this (a
//! lower priority), a yield would give it away for a whole slice, and the others would wait for it at the
//! next barrier: work in the background got three quarters of the machine that way.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread, available_parallelism};

use crate::seats::Seats;

/// Spins before a thread sleeps that waits for others: some milliseconds, longer than phases differ where
/// nothing else runs.
const SPINS_BEFORE_SLEEP: u32 = 60_000;
/// The same if there are more threads than processors: some wait for others to be let on.
const SPINS_IF_CROWDED: u32 = 1_000;
/// Spins before an idle thread parks.
const SPINS_BEFORE_PARK: u32 = 10_000;
/// Threads at the most.
pub const THREADS_MAX: usize = 256;

/// One thread's view of a parallel region.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    /// Which thread this is, `0..count`; 0 is the caller's.
    pub index: usize,
    /// How many there are.
    pub count: usize,
    shared: &'a Shared,
}

impl Worker<'_> {
    /// Waits until every thread of the region is here. A call: what it does is too much to repeat in every
    /// loop of the kernels.
    #[inline(never)]
    pub fn barrier(self) {
        if self.count == 1 {
            return;
        }
        let generation = self.shared.generation.load(Ordering::Relaxed);
        if self.shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.shared.arrived.store(0, Ordering::Relaxed);
            self.shared.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            self.shared.wake();
        } else {
            self.shared.wait_until(|| self.shared.generation.load(Ordering::SeqCst) != generation);
        }
    }

    /// This thread's share of `items`, in multiples of `grain` but for the last.
    pub fn share(self, items: usize, grain: usize) -> std::ops::Range<usize> {
        let grains = items.div_ceil(grain);
        let at = |i: usize| (grains * i / self.count * grain).min(items);
        at(self.index)..at(self.index + 1)
    }
}

type Job = *const (dyn Fn(Worker) + Sync);

struct Shared {
    job: UnsafeCell<Option<Job>>,
    /// Counts regions started.
    epoch: AtomicUsize,
    running: AtomicUsize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    stop: AtomicBool,
    spins_before_sleep: u32,
    /// Threads of a region that have spun for long enough.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    woken: Condvar,
}

// SAFETY: `job` is written by the owner only while no region runs, and read by workers only after they
// acquire the epoch that was released after the write.
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only followed during `Pool::run`, which keeps the closure alive.
unsafe impl Send for Shared {}

/// Threads that run parallel regions.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    seats: Option<Arc<Seats>>,
}

impl Pool {
    /// A pool of `threads` threads, the caller of [`Self::run`] included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        assert!((1..=THREADS_MAX).contains(&threads), "{threads} threads of at most {THREADS_MAX}");
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            epoch: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            spins_before_sleep: match available_parallelism() {
                Ok(processors) if processors.get() < threads => SPINS_IF_CROWDED,
                _ => SPINS_BEFORE_SLEEP,
            },
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            woken: Condvar::new(),
        });
        // Dropping the pool stops the threads that have started, should one of them not.
        let seats = Seats::of(threads).map(Arc::new);
        let mut pool = Self { shared, threads: Vec::new(), handles: Vec::new(), seats };
        for index in 1..threads {
            let (shared, seats) = (Arc::clone(&pool.shared), pool.seats.clone());
            let thread =
                std::thread::Builder::new().name(format!("undine-cpu-{index}")).spawn(move || {
                    if let Some(seats) = seats {
                        seats.keep(index);
                    }
                    work(&shared, index, threads);
                })?;
            pool.handles.push(thread.thread().clone());
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Threads in a region.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job` once on every thread and returns when all are done.
    pub fn run(&mut self, job: &(dyn Fn(Worker) + Sync)) {
        // Not for longer: threads and processes that the caller starts would be bound as well.
        let _seat = self.seats.as_ref().map(|seats| seats.take(0));
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; nobody follows the pointer after this function returns.
        let job: Job = unsafe { std::mem::transmute::<*const (dyn Fn(Worker) + Sync + '_), Job>(job) };
        // SAFETY: no region is running (`&mut self`), so no worker reads the cell.
        unsafe { *shared.job.get() = Some(job) };
        shared.running.store(self.threads.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        self.handles.iter().for_each(Thread::unpark);
        // Workers may be using what `job` borrows: a panic here must not unwind past them.
        let guard = AbortOnUnwind;
        // SAFETY: the pointer comes from a reference that is alive.
        unsafe { (*job)(Worker { index: 0, count: self.threads.len() + 1, shared }) };
        shared.wait_until(|| shared.running.load(Ordering::SeqCst) == 0);
        std::mem::forget(guard);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A worker that panics aborts the process, so this cannot fail.
            let _ = thread.join();
        }
    }
}

struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        eprintln!("a panic inside a parallel region cannot be contained");
        std::process::abort();
    }
}

fn work(shared: &Shared, index: usize, count: usize) {
    let mut epoch = 0;
    loop {
        wait_for_epoch(shared, epoch);
        epoch = epoch.wrapping_add(1);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let guard = AbortOnUnwind;
        // SAFETY: the epoch was acquired after the owner wrote the job, and the owner waits for `running` to
        // become 0.
        let job = unsafe { (*shared.job.get()).expect("a region has a job") };
        // SAFETY: as above, the closure is alive until `running` is 0.
        unsafe { (*job)(Worker { index, count, shared }) };
        std::mem::forget(guard);
        if shared.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared.wake();
        }
    }
}

fn wait_for_epoch(shared: &Shared, seen: usize) {
    let begun = || shared.epoch.load(Ordering::Acquire) != seen;
    if spin(SPINS_BEFORE_PARK, begun) {
        return;
    }
    while !begun() {
        std::thread::park();
    }
}

impl Shared {
    /// Waits within a region. Whoever makes `done` true calls [`Self::wake`] afterwards; what both look at is
    /// sequentially consistent, so that either it finds a sleeper or the sleeper finds it done.
    fn wait_until(&self, done: impl Fn() -> bool) {
        if !spin(self.spins_before_sleep, &done) {
            self.sleep_until(done);
        }
    }

    #[cold]
    fn sleep_until(&self, done: impl Fn() -> bool) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        while !done() {
            bed = self.woken.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(bed);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Who has looked and does not sleep yet holds it.
            drop(self.bed.lock());
            self.woken.notify_all();
        }
    }
}

/// Whether it is done within so many spins.
#[inline]
fn spin(spins: u32, done: impl Fn() -> bool) -> bool {
    for _ in 0..spins {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_see_each_others_work() {
        let mut pool = Pool::new(4).unwrap();
        for round in 0..200 {
            let counts: Vec<AtomicUsize> = (0..4).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|worker| {
                for phase in 1..=10 {
                    counts[worker.index].fetch_add(1, Ordering::Relaxed);
                    worker.barrier();
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == phase), "round {round}");
                    worker.barrier();
                }
            });
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        let mut pool = Pool::new(3).unwrap();
        for items in [0, 1, 7, 8, 9, 100] {
            let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|worker| {
                let share = worker.share(items, 8);
                assert!(share.start % 8 == 0 || share.is_empty());
                for i in share {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}
