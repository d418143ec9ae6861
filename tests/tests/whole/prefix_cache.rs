//! A prefix taken from the cache changes no bit: at every split point of a prompt, for every type of keys and
//! values, with replayed convolution states and with kept ones, in one step and in many.

use std::sync::Arc;

use undine_core::{
    Batch, BatchSequence, BlockCopy, BlockId, DType, Executor, GenerateRequest, LayerKind, Origin,
    OutputKind, OutputRow, RowOutput, RowSave, SamplingParams, Slot, SlotSave, SnapshotId, StateSource,
    StopRules, TokenId,
};
use undine_cpu::{CpuExecutor, CpuOptions, Isa, KvType};
use undine_engine::{Engine, EngineConfig, Event, PrefixCaching};
use undine_model::{Model, Oracle};
use undine_tests::synthetic::{Has, Shape};
use undine_tests::{capacity, cpu_options};

use LayerKind::{Conv, FullAttention};

/// Tokens of the prompt: more than nine pages, and no multiple.
const LENGTH: u32 = 300;
/// Positions in a page.
const PAGE: u32 = undine_cpu::BLOCK_SIZE;
/// Pages of a sequence; the prompt has the first ones, whoever shares it the next.
const PAGES: u32 = LENGTH.div_ceil(PAGE);
/// Rows that are compared after each split point: the state has left the convolutions by then.
const COMPARED: u32 = 12;
/// Convolution layers, and rows to replay, of the model.
const LAYERS: [LayerKind; 8] = [Conv, Conv, FullAttention, Conv, FullAttention, Conv, FullAttention, Conv];
const REPLAY: u32 = 2 * 5;

fn small(moe: Option<undine_core::MoeConfig>) -> Arc<Model> {
    Shape {
        dtype: DType::Q8_0,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        width: 96,
        vocab: 256,
        taps: 3,
        layers: LAYERS.to_vec(),
        conv_bias: Has::Yes,
        head: Has::No,
        moe,
        expert_bias: Has::No,
    }
    .model()
}

fn prompt() -> Vec<TokenId> {
    (0..LENGTH).map(|i| 16 + (i * i * 7 + i * 31) % 200).collect()
}

/// How to begin at a split point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begin {
    /// From an empty state, so many rows before.
    Replay(u32),
    /// From the state that was kept so many rows before.
    Snapshot(u32),
}

/// Rows of the prompt in a table of its own or a shared one, cut into steps, with the logits of those from
/// `from` on.
struct Run<'a> {
    begin: Begin,
    split: u32,
    end: u32,
    /// Rows of a step, in turn.
    steps: &'a [u32],
}

const SNAPSHOT: SnapshotId = SnapshotId(3);

/// Computes the whole prompt in slot 0; `keep` is a position whose state is kept. Returns every row's logits.
fn whole(executor: &mut dyn Executor, keep: Option<u32>) -> Vec<Vec<u32>> {
    let tokens = prompt();
    let batch = Batch {
        sequences: vec![BatchSequence {
            rows: 0..LENGTH,
            start: 0,
            slot: Slot(0),
            state: StateSource::Empty,
            cached_rows: 0,
            blocks: 0..PAGES,
        }],
        block_tables: (0..PAGES).map(BlockId).collect(),
        row_saves: keep
            .map(|position| RowSave { row: position - 1, snapshot: SNAPSHOT })
            .into_iter()
            .collect(),
        outputs: (0..LENGTH).map(|row| OutputRow { row, kind: OutputKind::Logits }).collect(),
        tokens,
        ..Batch::default()
    };
    step(executor, &batch)
}

fn step(executor: &mut dyn Executor, batch: &Batch) -> Vec<Vec<u32>> {
    let ticket = executor.submit(batch).unwrap();
    let output = executor.try_collect(ticket).unwrap().unwrap();
    output.rows.iter().map(|row| row.logits.iter().map(|v| v.to_bits()).collect()).collect()
}

/// Computes from a split point on in slot 1, over the pages of [`whole`] and a copy of the one that is split.
fn shared(executor: &mut dyn Executor, run: &Run) -> Vec<Vec<u32>> {
    let tokens = prompt();
    let (back, mut state) = match run.begin {
        Begin::Replay(back) => (back, StateSource::Empty),
        Begin::Snapshot(back) => (back, StateSource::Snapshot(SNAPSHOT)),
    };
    let first_own = run.split / PAGE;
    let table: Vec<BlockId> =
        (0..PAGES).map(|i| BlockId(if i < first_own { i } else { 2 * PAGES - i })).collect();
    let mut copies = Vec::new();
    if !run.split.is_multiple_of(PAGE) {
        copies.push(BlockCopy { from: BlockId(first_own), to: table[first_own as usize] });
    }
    let mut logits = Vec::new();
    let mut start = run.split.saturating_sub(back);
    for rows in run.steps.iter().cycle() {
        let end = run.end.min(start + rows);
        let batch = Batch {
            tokens: tokens[start as usize..end as usize].to_vec(),
            sequences: vec![BatchSequence {
                rows: 0..end - start,
                start,
                slot: Slot(1),
                state: std::mem::replace(&mut state, StateSource::Slot),
                cached_rows: run.split.saturating_sub(start).min(end - start),
                blocks: 0..PAGES,
            }],
            block_tables: table.clone(),
            block_copies: std::mem::take(&mut copies),
            outputs: (start.max(run.split)..end)
                .map(|position| OutputRow { row: position - start, kind: OutputKind::Logits })
                .collect(),
            ..Batch::default()
        };
        logits.extend(step(executor, &batch));
        start = end;
        if start == run.end {
            break;
        }
    }
    logits
}

fn check(executor: &mut dyn Executor, wanted: &[Vec<u32>], run: &Run, what: &str) {
    let found = shared(executor, run);
    let wanted = &wanted[run.split as usize..run.end as usize];
    assert_eq!(found.len(), wanted.len());
    assert!(found == wanted, "{what}: {:?} at {} in steps of {:?}", run.begin, run.split, run.steps);
}

#[test]
fn every_split_point_replayed() {
    let model = small(None);
    assert_eq!(model.config().replay() as u32, REPLAY);
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let mut cpu = CpuExecutor::new(Arc::clone(&model), cpu_options(Isa::detect(), 2, kv)).unwrap();
        let wanted = whole(&mut cpu, None);
        let mut too_few_differ = 0;
        for split in 1..LENGTH {
            let what = format!("{kv:?}");
            let end = LENGTH.min(split + COMPARED);
            let run = |begin, steps| Run { begin, split, end, steps };
            // All of the rest at once, and the first rows in steps that cut the replay.
            check(
                &mut cpu,
                &wanted,
                &Run { begin: Begin::Replay(REPLAY), split, end: LENGTH, steps: &[LENGTH] },
                &what,
            );
            check(&mut cpu, &wanted, &run(Begin::Replay(REPLAY), &[1]), &what);
            check(&mut cpu, &wanted, &run(Begin::Replay(REPLAY), &[3, 4, 7]), &what);
            check(&mut cpu, &wanted, &run(Begin::Replay(REPLAY + 5), &[9]), &what);
            let few = shared(&mut cpu, &run(Begin::Replay(REPLAY - 1), &[LENGTH]));
            too_few_differ += u32::from(few != wanted[split as usize..end as usize]);
        }
        // A replay that begins at position 0 is exact however short it is.
        assert_eq!(too_few_differ, LENGTH - REPLAY, "{kv:?}: one row fewer must not be enough");
        assert!(whole(&mut cpu, None) == wanted, "the shared pages are as they were");
    }
}

#[test]
fn every_split_point_from_a_snapshot() {
    let model = small(None);
    for kv in [KvType::F32, KvType::Q8_0] {
        let mut cpu = CpuExecutor::new(Arc::clone(&model), cpu_options(Isa::detect(), 2, kv)).unwrap();
        let wanted = whole(&mut cpu, None);
        for split in 1..LENGTH {
            let back = split % 4;
            if split > back {
                assert!(whole(&mut cpu, Some(split - back)) == wanted, "keeping a state changes nothing");
                let end = LENGTH.min(split + COMPARED);
                for steps in [&[LENGTH][..], &[1, 2]] {
                    let run = Run { begin: Begin::Snapshot(back), split, end, steps };
                    check(&mut cpu, &wanted, &run, &format!("{kv:?}"));
                }
            }
        }
    }
}

/// The state of a sequence that has ended is kept while its slot goes to another one in the same step.
#[test]
fn a_slot_is_kept_and_reused_in_one_step() {
    let model = small(None);
    let mut cpu = CpuExecutor::new(Arc::clone(&model), cpu_options(Isa::detect(), 2, KvType::F32)).unwrap();
    let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
    for executor in [&mut cpu as &mut dyn Executor, &mut oracle] {
        let tokens = prompt();
        let sequence = |start: u32, end: u32, slot, state| BatchSequence {
            rows: 0..end - start,
            start,
            slot: Slot(slot),
            state,
            cached_rows: 0,
            blocks: 0..2,
        };
        let batch = |start: u32, end: u32, sequence| Batch {
            tokens: tokens[start as usize..end as usize].to_vec(),
            sequences: vec![sequence],
            block_tables: vec![BlockId(0), BlockId(1)],
            outputs: vec![OutputRow { row: end - start - 1, kind: OutputKind::Logits }],
            ..Batch::default()
        };
        let wanted = step(executor, &batch(0, 50, sequence(0, 50, 0, StateSource::Empty)));
        step(executor, &batch(0, 40, sequence(0, 40, 0, StateSource::Empty)));
        // Another sequence takes slot 0 and pages of its own.
        let save = SlotSave { slot: Slot(0), snapshot: SNAPSHOT };
        let mut other = batch(0, 9, sequence(0, 9, 0, StateSource::Empty));
        (other.block_tables, other.slot_saves) = (vec![BlockId(7), BlockId(8)], vec![save]);
        step(executor, &other);
        let rest = batch(40, 50, sequence(40, 50, 2, StateSource::Snapshot(SNAPSHOT)));
        assert!(step(executor, &rest) == wanted);
    }
}

/// The slow twin obeys the same rules.
#[test]
fn the_oracle_at_some_split_points() {
    let model = small(None);
    let mut oracle = Oracle::new(Arc::clone(&model), capacity(&model));
    let wanted = whole(&mut oracle, None);
    for split in [1, 2, 9, 10, 11, 31, 32, 33, 64, 100, 255, 298, 299] {
        let end = LENGTH.min(split + 3);
        for (begin, steps) in [
            (Begin::Replay(REPLAY), &[LENGTH][..]),
            (Begin::Replay(REPLAY), &[3]),
            (Begin::Snapshot(0), &[2]),
        ] {
            if let Begin::Snapshot(back) = begin {
                whole(&mut oracle, Some(split - back));
            }
            check(&mut oracle, &wanted, &Run { begin, split, end, steps }, "oracle");
        }
    }
}

fn engine(model: &Arc<Model>, kv: KvType, rows: u32, prefix_caching: PrefixCaching) -> Engine {
    // Room for what every prompt leaves: here nothing is to be evicted.
    let options = CpuOptions { blocks: 4 * LENGTH, ..cpu_options(Isa::detect(), 2, kv) };
    let cpu = CpuExecutor::new(Arc::clone(model), options).unwrap();
    let config = EngineConfig {
        max_num_seqs: 4,
        max_num_batched_tokens: rows,
        max_model_len: 512,
        max_waiting: 8,
        prefill_chunk: rows,
        prefix_caching,
        image_cache_bytes: 0,
    };
    Engine::new(Box::new(cpu), config).unwrap()
}

/// The answer to a prompt, with the scores of each token as bits, and how much of the prompt was cached.
fn answer(engine: &mut Engine, prompt: Vec<TokenId>) -> (Vec<(TokenId, Vec<u32>)>, u32) {
    let request = GenerateRequest {
        prompt,
        images: Vec::new(),
        sampling: SamplingParams { logprobs: Some(8), seed: 5, ..SamplingParams::default() },
        logit_bias: Vec::new(),
        stop: StopRules::after(3),
        prompt_logprobs: None,
        origin: Origin::default(),
    };
    engine.add(request).unwrap();
    let (mut events, mut tokens, mut cached) = (Vec::new(), Vec::new(), 0);
    while engine.has_work() {
        engine.step(&mut events).unwrap();
        for (_, event) in events.drain(..) {
            match event {
                Event::Started { cached_tokens } => cached = cached_tokens,
                Event::Token(RowOutput { chosen, top, .. }) => {
                    let scores = std::iter::once(chosen).chain(top).map(|score| score.logprob.to_bits());
                    tokens.push((chosen.token, scores.collect()));
                }
                Event::PromptScores(_) | Event::Finished(_) => {}
            }
        }
    }
    engine.check_integrity();
    (tokens, cached)
}

/// Through the engine: prompts that leave a cached one at every position, each answered as without a cache.
#[test]
fn the_engine_at_every_split_point() {
    let moe = undine_core::MoeConfig {
        experts: 4,
        experts_active: 2,
        width: 32,
        norm_topk_prob: true,
        routed_scaling_factor: 1.0,
    };
    for (model, kv, rows) in
        [(small(None), KvType::F16, 512), (small(None), KvType::Q8_0, 7), (small(Some(moe)), KvType::F32, 64)]
    {
        let mut cached = engine(&model, kv, rows, PrefixCaching::On);
        let mut plain = engine(&model, kv, 512, PrefixCaching::Off);
        let prompt = prompt();
        answer(&mut cached, prompt.clone());
        for split in 1..=LENGTH {
            // Tokens below 16 are in no prompt.
            let mut other = prompt[..split as usize].to_vec();
            other.extend([split % 16, split / 16 % 16, 3]);
            let (wanted, none) = answer(&mut plain, other.clone());
            let (found, reused) = answer(&mut cached, other);
            assert_eq!(none, 0);
            assert!(reused + REPLAY >= split, "{kv:?}: {reused} of {split} reused");
            assert!(found == wanted, "{kv:?}: a prompt that shares {split} tokens");
        }
    }
}
