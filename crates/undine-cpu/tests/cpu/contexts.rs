//! Whole models over contexts of several ranges of keys: the same bits on any number of threads and however
//! the prompts are cut, and close to f32 for every type of keys and values.

use std::path::PathBuf;
use std::sync::Arc;

use undine_core::{Batch, BatchSequence, BlockId, Executor, OutputKind, OutputRow, Slot, StateSource};
use undine_cpu::kernels::attention::RANGE;
use undine_cpu::{BLOCK_SIZE, CpuExecutor, CpuOptions, Isa, KvType};
use undine_model::Model;
use undine_weights::Checkpoint;

/// Tokens of each sequence: across two ranges, up to the end of one, within a page.
const LENGTHS: [u32; 3] = [2 * RANGE as u32 + 37, RANGE as u32, 9];
/// Pages of each sequence.
const PAGES: u32 = LENGTHS[0].div_ceil(BLOCK_SIZE);
/// Rows of a step.
const ROWS: u32 = 1600;
/// Threads, and tokens of a sequence in a step. With few rows, several threads split the work by ranges of
/// keys.
const CUTS: [(usize, u32); 4] = [(1, 65), (2, 7), (2, 512), (3, 7)];
/// Largest difference from the logits with f32 keys and values, in units of their standard deviation.
const TOLERANCES: [(KvType, f32); 2] = [(KvType::F16, 0.002), (KvType::Q8_0, 0.04)];

fn model(name: &str) -> Arc<Model> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/oracle")).join(name);
    Arc::new(Model::bind(Arc::new(Checkpoint::open(&folder).unwrap())))
}

fn executor(model: &Arc<Model>, kv: KvType, threads: usize) -> CpuExecutor {
    let slots = LENGTHS.len() as u32;
    let options = CpuOptions {
        threads,
        blocks: slots * PAGES,
        slots,
        snapshots: 0,
        rows: ROWS,
        outputs: slots,
        kv,
        // Then the weights change places between steps.
        huge_pages: threads > 1,
        isa: Isa::detect(),
    };
    CpuExecutor::new(Arc::clone(model), options).unwrap()
}

/// Computes every sequence, `chunk` tokens of each to a step, and returns the logits of their last tokens.
fn last_logits(executor: &mut CpuExecutor, vocab: u32, chunk: u32) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); LENGTHS.len()];
    let mut start = 0;
    while start < LENGTHS[0] {
        let mut batch = Batch::default();
        let mut wanted = Vec::new();
        for (s, &length) in LENGTHS.iter().enumerate().filter(|&(_, &length)| length > start) {
            let (first, end) = (batch.tokens.len() as u32, length.min(start + chunk));
            batch.tokens.extend((start..end).map(|t| (t * 7919 + s as u32 * 131) % vocab));
            let rows = first..batch.tokens.len() as u32;
            if end == length {
                wanted.push(s);
                batch.outputs.push(OutputRow { row: rows.end - 1, kind: OutputKind::Logits });
            }
            let blocks = s as u32 * PAGES..(s as u32 + 1) * PAGES;
            batch.sequences.push(BatchSequence {
                rows,
                start,
                slot: Slot(s as u32),
                state: StateSource::carried(start),
                cached_rows: 0,
                blocks,
            });
        }
        // Backwards, so that a table that is read in the wrong order shows.
        batch.block_tables.extend((0..LENGTHS.len() as u32 * PAGES).rev().map(BlockId));
        let ticket = executor.submit(&batch).unwrap();
        let output = executor.try_collect(ticket).unwrap().unwrap();
        for (s, row) in wanted.into_iter().zip(output.rows) {
            logits[s] = row.logits;
        }
        start += chunk;
    }
    logits
}

fn bits(logits: &[Vec<f32>]) -> Vec<u32> {
    logits.iter().flatten().map(|v| v.to_bits()).collect()
}

#[test]
fn threads_and_cuts_do_not_change_bits() {
    let model = model("dense");
    let vocab = model.config().vocab as u32;
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let expected = last_logits(&mut executor(&model, kv, 1), vocab, LENGTHS[0]);
        for (threads, chunk) in CUTS {
            let found = last_logits(&mut executor(&model, kv, threads), vocab, chunk);
            assert!(bits(&found) == bits(&expected), "{kv:?}, {threads} threads, chunks of {chunk}");
        }
    }
}

#[test]
fn narrow_keys_and_values_stay_close() {
    for name in ["dense", "moe"] {
        let model = model(name);
        let vocab = model.config().vocab as u32;
        let expected = last_logits(&mut executor(&model, KvType::F32, 2), vocab, 512);
        for (kv, tolerance) in TOLERANCES {
            let found = last_logits(&mut executor(&model, kv, 2), vocab, 512);
            for (found, expected) in found.iter().zip(&expected) {
                let square: f32 = expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32;
                let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                let error = differences.fold(0.0f32, f32::max) / square.sqrt();
                println!("{name} {kv:?}: {error:.1e}");
                assert!(error <= tolerance, "{name} {kv:?}: {error:e}");
                assert!(error > 0.0, "{name} {kv:?} is not in use");
            }
        }
    }
}
