//! The bytes of a matrix that is made from another packing: whole when they are first read, or a few rows at
//! a time.

use std::num::NonZero;
use std::ops::Range;
use std::sync::{Mutex, OnceLock};
use std::thread::{Builder, available_parallelism, scope};

use memmap2::MmapMut;

use super::matrix::Packed;

/// Bytes that a thread makes at a time.
const SHARE_BYTES: usize = 1 << 20;

/// A matrix of the checkpoint.
pub(crate) struct Made {
    packed: Packed,
    whole: OnceLock<Memory>,
}

/// Where the bytes are once they are made.
enum Memory {
    Mapped(MmapMut),
    Heap(Vec<u8>),
}

impl Memory {
    /// Zeros, in huge pages if the system likes: weights are then read faster.
    fn new(len: usize) -> Self {
        match MmapMut::map_anon(len) {
            Ok(map) => {
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Self::Mapped(map)
            }
            Err(_) => Self::Heap(vec![0; len]),
        }
    }
}

impl Made {
    pub(crate) fn new(packed: Packed) -> Self {
        Self { packed, whole: OnceLock::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.packed.rows * self.packed.row_bytes()
    }

    /// All bytes, which stay in memory from the first call on.
    pub(crate) fn whole(&self) -> &[u8] {
        let memory = self.whole.get_or_init(|| {
            let mut memory = Memory::new(self.len());
            match &mut memory {
                Memory::Mapped(map) => self.make_all(map),
                Memory::Heap(bytes) => self.make_all(bytes),
            }
            self.packed.release(0..self.packed.rows);
            memory
        });
        match memory {
            Memory::Mapped(map) => map,
            Memory::Heap(bytes) => bytes,
        }
    }

    /// All bytes, if they are in memory.
    pub(crate) fn made(&self) -> Option<&[u8]> {
        self.whole.get().is_some().then(|| self.whole())
    }

    /// The bytes in `range`, which is whole rows, made for this call alone.
    pub(crate) fn part(&self, range: Range<usize>) -> Vec<u8> {
        let row_bytes = self.packed.row_bytes();
        debug_assert!(range.start.is_multiple_of(row_bytes) && range.end.is_multiple_of(row_bytes));
        let mut bytes = vec![0; range.len()];
        self.packed.make(range.start / row_bytes..range.end / row_bytes, &mut bytes);
        bytes
    }

    /// Says that the bytes of whole rows will not be read again soon: what they are made of need not stay in
    /// memory.
    pub(crate) fn release(&self, range: &Range<usize>) {
        if self.made().is_none() {
            let row_bytes = self.packed.row_bytes();
            self.packed.release(range.start / row_bytes..range.end / row_bytes);
        }
    }

    /// On as many threads as there are processors and shares, this one among them.
    fn make_all(&self, out: &mut [u8]) {
        let row_bytes = self.packed.row_bytes();
        let rows = (SHARE_BYTES / row_bytes).max(1);
        let shares = out.len().div_ceil(rows * row_bytes);
        let queue = Mutex::new(out.chunks_mut(rows * row_bytes).enumerate());
        let work = || {
            loop {
                let next = queue.lock().expect("no thread panics with the lock").next();
                let Some((number, out)) = next else { return };
                let first = number * rows;
                self.packed.make(first..first + out.len() / row_bytes, out);
            }
        };
        let threads = available_parallelism().map_or(1, NonZero::get).min(shares);
        scope(|scope| {
            for _ in 1..threads {
                // Those there are do it.
                if Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
}
