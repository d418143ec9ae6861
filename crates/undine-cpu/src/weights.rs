//! Where the matrices are: in the mapped file, or copied to huge pages.
//!
//! A file is mapped in small pages, 4 KiB on most machines. Each costs a walk through the page tables, and
//! the processor's prefetching stops at its end. Two threads that only read got 27 GB/s from the mapped file
//! (22 to 32) and 34 from huge pages (30 to 41; Xeon, virtual, medians of 30); decoding is 15 to 25% faster
//! (350M, 1.2B, 8B-A1B in 4 bits, medians of two or three runs in turns on a busy host), a step of eight
//! sequences -5 to 18%, a prefill no different beyond noise.
//!
//! Nothing waits for the copy: the first step reads the file, and each step after it copies some more first.

use std::ops::Range;
use std::sync::Arc;

use undine_model::{MatrixId, Model};

use crate::memory::{HUGE_PAGE, SharedSlice};
use crate::pool::Worker;

/// Bytes that are copied before a step: some 10 ms of two threads.
const STEP_BYTES: usize = 32 * HUGE_PAGE;
/// Matrices begin at whole cache lines.
const ALIGNMENT: usize = 64;

/// The matrices of a model.
pub(crate) struct Weights {
    model: Arc<Model>,
    copies: Option<Copies>,
}

/// Copies of the matrices, in order.
struct Copies {
    memory: SharedSlice<u8>,
    /// Where each matrix begins, and where the last ends.
    starts: Vec<usize>,
    /// How many are complete.
    complete: usize,
}

impl Weights {
    /// All matrices where the model has them. With `huge_pages` they will be copied; a system that does not
    /// give the memory leaves them there.
    pub fn new(model: Arc<Model>, huge_pages: bool) -> Self {
        let copies = if huge_pages { Copies::new(&model) } else { None };
        Self { model, copies }
    }

    /// Bytes of a matrix: see [`Model::matrix_bytes`].
    #[inline]
    pub fn bytes(&self, id: MatrixId) -> &[u8] {
        let bytes = self.model.matrix_bytes(id);
        match &self.copies {
            Some(copies) if (id.0 as usize) < copies.complete => {
                let start = copies.starts[id.0 as usize];
                // SAFETY: a complete matrix is not written any more.
                unsafe { copies.memory.read(start..start + bytes.len()) }
            }
            _ => bytes,
        }
    }

    /// The matrices to copy before the next step, if there are some left.
    pub fn next(&self) -> Option<Range<usize>> {
        let Copies { starts, complete, .. } = self.copies.as_ref()?;
        let end =
            starts.partition_point(|start| *start < starts[*complete] + STEP_BYTES).min(starts.len() - 1);
        (*complete < end).then_some(*complete..end)
    }

    /// Copies this thread's share of what [`Self::next`] says.
    /// # Safety
    /// All threads of one region call this, once, with the same matrices; nobody else does meanwhile.
    pub unsafe fn copy(&self, matrices: Range<usize>, worker: Worker) {
        let Some(Copies { memory, starts, .. }) = &self.copies else { return };
        let (first, end) = (starts[matrices.start], starts[matrices.end]);
        // Page by page, so that what the file takes shrinks as the copies grow.
        for offset in worker.share(end - first, HUGE_PAGE).step_by(HUGE_PAGE) {
            let page = first + offset..end.min(first + offset + HUGE_PAGE);
            for i in matrices.clone() {
                let (start, id) = (starts[i], MatrixId(i as u32));
                let bytes = self.model.matrix_bytes(id);
                let part = page.start.saturating_sub(start)..bytes.len().min(page.end.saturating_sub(start));
                if !part.is_empty() {
                    // SAFETY: this part is this thread's, and nobody reads a matrix that is not complete.
                    unsafe { memory.write(start + part.start..start + part.end) }
                        .copy_from_slice(&bytes[part.clone()]);
                    self.model.release_matrix(id, part);
                }
            }
        }
    }

    /// Lets copies be read.
    /// # Safety
    /// All threads have copied their shares of `matrices`.
    pub unsafe fn finish(&mut self, matrices: Range<usize>) {
        if let Some(copies) = &mut self.copies {
            copies.complete = matrices.end;
            // A system maps some pages before and after the one that is read, so parts that were given back
            // are mapped again.
            for id in matrices.map(|i| MatrixId(i as u32)) {
                self.model.release_matrix(id, 0..self.model.matrix_bytes(id).len());
            }
        }
    }
}

impl Copies {
    /// Memory for all matrices, untouched. `None` if the system does not give it.
    fn new(model: &Model) -> Option<Self> {
        let lengths = (0..model.matrix_count()).map(|id| model.matrix_bytes(MatrixId(id as u32)).len());
        let mut starts = vec![0];
        for length in lengths {
            starts.push((starts[starts.len() - 1] + length).next_multiple_of(ALIGNMENT));
        }
        let memory = SharedSlice::in_huge_pages(starts[starts.len() - 1])?;
        Some(Self { memory, starts, complete: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use undine_weights::Checkpoint;

    use super::*;
    use crate::pool::Pool;

    #[test]
    fn copies_are_what_was_copied() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle/moe"));
        let model = Arc::new(Model::bind(Arc::new(Checkpoint::open(&folder).unwrap())));
        let mut pool = Pool::new(3).unwrap();
        let mut weights = Weights::new(Arc::clone(&model), true);
        let ids = || (0..model.matrix_count()).map(|i| MatrixId(i as u32));
        let is_copied = |weights: &Weights, id| weights.bytes(id).as_ptr() != model.matrix_bytes(id).as_ptr();
        // One matrix at a time, and the last ones together.
        let mut copied = 0;
        while let Some(next) = weights.next() {
            let step = next.start..if next.start < 9 { next.start + 1 } else { next.end };
            // SAFETY: all threads of one region copy their shares.
            pool.run(&|worker| unsafe { weights.copy(step.clone(), worker) });
            copied = step.end;
            // SAFETY: the region is over.
            unsafe { weights.finish(step) };
            for id in ids() {
                assert_eq!(weights.bytes(id), model.matrix_bytes(id), "matrix {id:?} after {copied}");
                assert_eq!(is_copied(&weights, id), (id.0 as usize) < copied, "matrix {id:?} after {copied}");
            }
        }
        assert_eq!(copied, model.matrix_count());
        let plain = Weights::new(Arc::clone(&model), false);
        assert!(plain.next().is_none());
        assert!(!ids().any(|id| is_copied(&plain, id)));
    }

    /// Kibibytes that this process holds of files in a folder.
    #[cfg(target_os = "linux")]
    fn resident(folder: &std::path::Path) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut ours = maps.lines().skip_while(|line| !line.contains(folder.to_str().unwrap()));
        let line = ours.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_file_is_given_back() {
        // A copy, which nobody else has mapped.
        let folder = tempfile::tempdir().unwrap();
        let oracle = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle/moe"));
        for file in std::fs::read_dir(oracle).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let model = Arc::new(Model::bind(Arc::new(Checkpoint::open(folder.path()).unwrap())));
        let bytes = |id: usize| model.matrix_bytes(MatrixId(id as u32));
        let sum: u64 = (0..model.matrix_count()).flat_map(&bytes).map(|&byte| u64::from(byte)).sum();
        let before = resident(folder.path());
        let kibibytes = (0..model.matrix_count()).map(|id| bytes(id).len()).sum::<usize>() / 1024;
        assert!(sum > 0 && before >= kibibytes, "{before} of {kibibytes} KiB");
        let mut weights = Weights::new(Arc::clone(&model), true);
        let mut pool = Pool::new(2).unwrap();
        while let Some(next) = weights.next() {
            // SAFETY: all threads of one region copy their shares.
            pool.run(&|worker| unsafe { weights.copy(next.clone(), worker) });
            // SAFETY: the region is over.
            unsafe { weights.finish(next) };
        }
        let after = resident(folder.path());
        assert!(after < kibibytes / 8, "{after} of {kibibytes} KiB are still held");
    }
}
