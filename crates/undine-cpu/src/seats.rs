//! Which processor each thread of a pool computes on.
//!
//! A pool that is to use all processors binds each thread to one of its own. It gains nothing from being
//! moved, and is at times: threads that wake each other are put next to each other, and then share a
//! processor while another does work of little urgency. Only Linux allows it; elsewhere, and if the pool is
//! smaller than what it may use, the system decides.

/// A processor for each thread.
pub(crate) struct Seats {
    #[cfg(target_os = "linux")]
    inner: linux::Seats,
}

/// A thread on its processor, until this is dropped.
pub(crate) struct Seat<'a> {
    #[cfg(target_os = "linux")]
    seats: &'a Seats,
    #[cfg(not(target_os = "linux"))]
    seats: std::marker::PhantomData<&'a Seats>,
}

#[cfg(target_os = "linux")]
impl Seats {
    /// For so many threads, if that is as many as there are processors for the calling one, and more than
    /// one.
    pub fn of(threads: usize) -> Option<Self> {
        linux::Seats::of(threads).map(|inner| Self { inner })
    }

    /// Binds the calling thread.
    pub fn take(&self, index: usize) -> Seat<'_> {
        self.inner.bind(index);
        Seat { seats: self }
    }

    /// Binds the calling thread for good.
    pub fn keep(&self, index: usize) {
        self.inner.bind(index);
    }
}

#[cfg(target_os = "linux")]
impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.seats.inner.free();
    }
}

#[cfg(not(target_os = "linux"))]
impl Seats {
    pub fn of(_: usize) -> Option<Self> {
        None
    }

    pub fn take(&self, _: usize) -> Seat<'_> {
        Seat { seats: std::marker::PhantomData }
    }

    pub fn keep(&self, _: usize) {}
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub struct Seats {
        all: CpuSet,
        /// In the order of their numbers.
        each: Vec<CpuSet>,
    }

    impl Seats {
        pub fn of(threads: usize) -> Option<Self> {
            let all = sched_getaffinity(None).ok()?;
            if threads < 2 || all.count() as usize != threads {
                return None;
            }
            let only = |cpu| {
                let mut set = CpuSet::new();
                set.set(cpu);
                set
            };
            let each = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).map(only).collect();
            Some(Self { all, each })
        }

        /// A processor that has been taken away meanwhile is no error: the thread stays where it may be.
        pub fn bind(&self, index: usize) {
            let _ = sched_setaffinity(None, &self.each[index]);
        }

        pub fn free(&self) {
            let _ = sched_setaffinity(None, &self.all);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::Seats;
        use super::*;

        #[test]
        fn a_thread_is_bound_while_it_has_a_seat() {
            let all = sched_getaffinity(None).unwrap();
            let count = all.count() as usize;
            assert!(Seats::of(count + 1).is_none());
            let Some(seats) = Seats::of(count) else {
                assert_eq!(count, 1);
                return;
            };
            let seat = seats.take(1);
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            drop(seat);
            assert_eq!(sched_getaffinity(None).unwrap(), all);
        }
    }
}
