//! A step allocates nothing once it has run: what a step needs is kept from step to step.
//! The exception is the vector in which the outputs are handed over.
#![allow(clippy::unwrap_used, reason = "clippy does not count helpers of integration tests as tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use undine_core::{
    Batch, BatchSequence, BlockId, DType, Executor, ImageRows, OutputKind, OutputRow, SamplingParams, Slot,
    StateSource, TOKEN_FROM_SLOT,
};
use undine_cpu::{CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;
use undine_weights::{Checkpoint, write_gguf};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting calls on all threads.
struct Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(p, layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.realloc(p, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Steps before the one that is measured.
const WARM: u32 = 9;
/// Pages of each sequence.
const PAGES: u32 = 2;

/// One row of each of `sequences`, all sampled.
fn decode(sequences: u32, position: u32) -> Batch {
    let params = SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.9, ..SamplingParams::default() };
    let kind = OutputKind::Sample {
        params,
        output_index: position,
        history: 0..0,
        history_prompt: 0,
        biases: 0..0,
        mask: None,
    };
    Batch {
        tokens: vec![if position == 0 { 17 } else { TOKEN_FROM_SLOT }; sequences as usize],
        sequences: (0..sequences)
            .map(|s| BatchSequence {
                rows: s..s + 1,
                start: position,
                slot: Slot(s),
                state: StateSource::carried(position),
                cached_rows: 0,
                blocks: s * PAGES..(s + 1) * PAGES,
            })
            .collect(),
        block_tables: (0..sequences * PAGES).map(BlockId).collect(),
        outputs: (0..sequences).map(|row| OutputRow { row, kind: kind.clone() }).collect(),
        ..Batch::default()
    }
}

/// Allocations of the tenth step of decoding so many sequences.
fn allocations(executor: &mut CpuExecutor, sequences: u32) -> usize {
    for position in 0..WARM {
        let ticket = executor.submit(&decode(sequences, position)).unwrap();
        executor.try_collect(ticket).unwrap().unwrap();
    }
    let batch = decode(sequences, WARM);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let ticket = executor.submit(&batch).unwrap();
    let output = executor.try_collect(ticket).unwrap().unwrap();
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!(output.rows.len(), sequences as usize);
    after - before
}

// One test, so that no other runs while this one counts.
#[test]
fn a_step_allocates_its_output_alone() {
    for (case, dtype) in [("dense", DType::Q4_K), ("dense", DType::BF16), ("moe", DType::Q8_0)] {
        let folder =
            PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle")).join(case);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("model.gguf");
        write_gguf(&Checkpoint::open(&folder).unwrap(), |_, _| dtype, &file).unwrap();
        let model = Arc::new(Model::bind(Arc::new(Checkpoint::open(&file).unwrap())));
        let options = CpuOptions {
            threads: 2,
            blocks: 16 * PAGES,
            slots: 16,
            snapshots: 4,
            rows: 16,
            outputs: 16,
            kv: KvType::F16,
            huge_pages: true,
            isa: Isa::detect(),
        };
        let mut executor = CpuExecutor::new(model, options).unwrap();
        for sequences in [1, 2, 4, 7, 16, 3] {
            let found = allocations(&mut executor, sequences);
            assert!(found <= 1, "{case} {dtype}: {found} allocations in a step of {sequences} rows");
        }
        // A step without outputs has nothing to hand over.
        let silent = Batch { outputs: Vec::new(), tokens: vec![17; 3], ..decode(3, 0) };
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        executor.submit(&silent).unwrap();
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{case} {dtype}: no output, no allocation");
        // Rows of an image are shared, not copied.
        let hidden = executor.capacity().hidden as usize;
        let image = ImageRows { rows: 0..2, encoded: vec![0.5; 3 * hidden].into(), first: 1 };
        let seeing = Batch { image_rows: vec![image], ..silent };
        executor.submit(&seeing).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        executor.submit(&seeing).unwrap();
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{case} {dtype}: an image is copied");
    }
}
