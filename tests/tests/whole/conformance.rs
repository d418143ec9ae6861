//! Verb by verb, the CPU backend against the oracle: every weight type, few and many rows, ragged batches,
//! sequences that go on. Then whole models of shapes that no published checkpoint has.
//!
//! `cargo test -p undine-tests --test conformance -- --nocapture` prints the measured errors.

use std::sync::Arc;

use undine_core::{
    Batch, DType, Executor, LayerKind, MoeConfig, OutputKind, OutputRow, SamplingParams, TOKEN_FROM_SLOT,
    TokenId,
};
use undine_cpu::{CpuExecutor, Isa, KvType};
use undine_model::{BoundFeedForward, Model, Operator, Oracle, Recorder, Rows};
use undine_tests::synthetic::{Has, Shape};
use undine_tests::{Part, batch, capacity, cpu_options, logits};

use LayerKind::{Conv, FullAttention};

/// How far a result is from the oracle's, in units of the root mean square of the oracle's.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Distance {
    /// Root mean square of the differences: a term that is wrong everywhere shows here.
    mean: f32,
    /// The largest difference, each in units of the root mean square plus the value's own magnitude (products
    /// of products, such as the gated convolution's, have values far beyond the mean): a single wrong value
    /// shows here.
    worst: f32,
}

impl Distance {
    const NONE: Self = Self { mean: 0.0, worst: 0.0 };

    fn between(found: &[f32], wanted: &[f32]) -> Self {
        assert_eq!(found.len(), wanted.len());
        let mean = |squares: f64| (squares / wanted.len() as f64).sqrt() as f32;
        let size = mean(wanted.iter().map(|&v| f64::from(v).powi(2)).sum());
        assert!(size > 0.0 && found.iter().all(|v| v.is_finite()), "there is something to compare");
        let pairs = || found.iter().zip(wanted);
        Self {
            mean: mean(pairs().map(|(&a, &b)| f64::from(a - b).powi(2)).sum()) / size,
            worst: pairs().map(|(a, b)| (a - b).abs() / (size + b.abs())).fold(0.0, f32::max),
        }
    }

    fn max(self, other: Self) -> Self {
        Self { mean: self.mean.max(other.mean), worst: self.worst.max(other.worst) }
    }

    fn within(self, bound: Self) -> bool {
        self.mean <= bound.mean && self.worst <= bound.worst
    }
}

/// Bounds for any verb. Quantized weights meet activations of 8 bits while the oracle's stay f32, and that is
/// nearly all of the difference. Measured, mean and worst:
const TOLERANCES: [(DType, Distance); 26] = [
    (DType::F32, Distance { mean: 6.5e-7, worst: 2.5e-6 }), // 3.8e-7, 1.5e-6
    (DType::F16, Distance { mean: 6.3e-7, worst: 5.7e-6 }), // 3.7e-7, 3.3e-6
    (DType::BF16, Distance { mean: 5.4e-7, worst: 2.6e-6 }), // 3.1e-7, 1.5e-6
    (DType::Q4_0, Distance { mean: 0.03, worst: 0.14 }),    // 0.0174, 0.0793
    (DType::Q4_1, Distance { mean: 0.025, worst: 0.2 }),    // 0.0146, 0.1173
    (DType::Q5_0, Distance { mean: 0.031, worst: 0.14 }),   // 0.0182, 0.0808
    (DType::Q5_1, Distance { mean: 0.025, worst: 0.12 }),   // 0.0145, 0.0700
    (DType::Q8_0, Distance { mean: 0.034, worst: 0.13 }),   // 0.0195, 0.0708
    (DType::Q2_K, Distance { mean: 0.027, worst: 0.145 }),  // 0.0158, 0.0831
    (DType::Q3_K, Distance { mean: 0.0245, worst: 0.55 }), // 0.0144, 0.3260: one gated product of a convolution, 0.0548 elsewhere
    (DType::Q4_K, Distance { mean: 0.024, worst: 0.097 }), // 0.0139, 0.0559
    (DType::Q5_K, Distance { mean: 0.028, worst: 0.19 }),  // 0.0162, 0.1098
    (DType::Q6_K, Distance { mean: 0.025, worst: 0.2 }),   // 0.0145, 0.1162
    (DType::IQ2_XXS, Distance { mean: 0.023, worst: 0.137 }), // 0.0133, 0.0804
    (DType::IQ2_XS, Distance { mean: 0.03, worst: 0.14 }),
    (DType::IQ2_S, Distance { mean: 0.029, worst: 0.27 }), // 0.0169, 0.1562: a gated product; 0.0717 elsewhere
    (DType::IQ3_XXS, Distance { mean: 0.03, worst: 0.14 }),
    (DType::IQ3_S, Distance { mean: 0.031, worst: 0.104 }), // 0.0179, 0.0608
    (DType::IQ4_NL, Distance { mean: 0.036, worst: 0.23 }), // 0.0227, 0.1526
    (DType::IQ4_XS, Distance { mean: 0.037, worst: 0.1 }),  // 0.0252, 0.0620
    (DType::IQ1_S, Distance { mean: 0.024, worst: 0.15 }),  // 0.0142, 0.0884
    (DType::IQ1_M, Distance { mean: 0.024, worst: 0.13 }),  // 0.0141, 0.0765
    (DType::TQ1_0, Distance { mean: 0.023, worst: 0.098 }), // 0.0135, 0.0575
    (DType::TQ2_0, Distance { mean: 0.0245, worst: 0.11 }), // 0.0143, 0.0641
    (DType::MXFP4, Distance { mean: 0.0245, worst: 0.365 }), // 0.0144, 0.2129: a gated product; 0.0647 elsewhere
    (DType::NVFP4, Distance { mean: 0.026, worst: 0.127 }),  // 0.0153, 0.0742
];
/// Attention over keys and values in f16; measured 3.4e-4 and 8.3e-4.
const TOLERANCE_KV_F16: Distance = Distance { mean: 5.8e-4, worst: 0.0015 };
/// Whole models of float weights; measured 8.7e-7 and 3.1e-6.
const TOLERANCE_FLOAT_MODEL: Distance = Distance { mean: 1.5e-6, worst: 5.3e-6 };
/// Whole models of quantized weights; measured 0.0634 and 0.1278.
const TOLERANCE_QUANTIZED_MODEL: Distance = Distance { mean: 0.11, worst: 0.22 };

/// Steps of a run: sequence, position of its first row, rows. A page of the cache has 32 positions.
const STEPS: &[&[(u32, u32, u32)]] = &[
    &[(0, 0, 1)],
    &[(1, 0, 2)],
    &[(2, 0, 3)],
    &[(3, 0, 5)],
    &[(4, 0, 9)],
    &[(5, 0, 33)],
    &[(7, 0, 7)],
    &[(8, 0, 8)],
    &[(9, 0, 31)],
    &[(10, 0, 65)],
    // One more token each.
    &[(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 5, 1), (4, 9, 1), (5, 33, 1)],
    // Chunks that go on, one that crosses a page, a fresh sequence, and a slot that starts anew.
    &[(4, 10, 23), (0, 2, 2), (6, 0, 7), (5, 34, 1), (1, 0, 3)],
];

/// What is recorded after `embed`, and the handle that is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Embed,
    NormShortConv,
    NormQkv,
    Attend,
    LinearAdd,
    NormSwiglu,
    FeedForward,
    NormMoeAdd,
    NormLogits,
}

const VERBS: [Verb; 9] = [
    Verb::Embed,
    Verb::NormShortConv,
    Verb::NormQkv,
    Verb::Attend,
    Verb::LinearAdd,
    Verb::NormSwiglu,
    Verb::FeedForward,
    Verb::NormMoeAdd,
    Verb::NormLogits,
];

/// Layer 0 of the models here is a dense convolution, layer 1 attention with experts.
fn record(verb: Verb, model: &Model, r: &mut impl Recorder) -> Rows {
    let x = r.embed(model.embedding);
    let [first, second] = [model.layers[0], model.layers[1]];
    let (Operator::ShortConv(conv), Operator::Attention(qkv)) = (first.operator, second.operator) else {
        panic!("a convolution, then attention");
    };
    let (BoundFeedForward::Dense { swiglu, down }, BoundFeedForward::Moe(moe)) =
        (first.feed_forward, second.feed_forward)
    else {
        panic!("dense, then experts");
    };
    match verb {
        Verb::Embed => x,
        Verb::NormShortConv => r.norm_short_conv(x, conv),
        Verb::NormQkv => r.norm_qkv(x, qkv),
        Verb::Attend => {
            let query = r.norm_qkv(x, qkv);
            r.attend(query, qkv.layer)
        }
        Verb::LinearAdd => {
            let residual = r.embed(model.embedding);
            r.linear_add(x, first.out, residual);
            residual
        }
        Verb::NormSwiglu => r.norm_swiglu(x, swiglu),
        Verb::FeedForward => {
            let h = r.norm_swiglu(x, swiglu);
            r.linear_add(h, down, x);
            x
        }
        Verb::NormMoeAdd => {
            r.norm_moe_add(x, moe);
            x
        }
        Verb::NormLogits => {
            let wanted = r.select_rows(x);
            r.norm_logits(wanted, model.final_norm, model.head)
        }
    }
}

fn token(sequence: u32, position: u32, vocab: u32) -> TokenId {
    (sequence * 31 + position * 7 + position * position * 3) % vocab
}

/// A step of [`STEPS`]: the logits of the first row of each three, those of the first row of all twice.
fn step(parts: &[(u32, u32, u32)], vocab: u32) -> Batch {
    let tokens: Vec<Vec<TokenId>> = parts
        .iter()
        .map(|&(sequence, start, rows)| {
            (start..start + rows).map(|position| token(sequence, position, vocab)).collect()
        })
        .collect();
    let parts =
        parts.iter().zip(&tokens).map(|(&(sequence, start, _), tokens)| Part { sequence, start, tokens });
    let mut batch = batch(&parts.collect::<Vec<_>>());
    batch.outputs.retain(|output| output.row.is_multiple_of(3));
    batch.outputs.insert(0, batch.outputs[0].clone());
    batch
}

fn worst_of_verb(model: &Arc<Model>, verb: Verb, threads: usize, kv: KvType) -> Distance {
    let options = cpu_options(Isa::detect(), threads, kv);
    let mut handle = None;
    let mut cpu = CpuExecutor::with_plan(Arc::clone(model), options, |model, recorder| {
        handle = Some(record(verb, model, recorder));
    })
    .unwrap();
    let mut oracle = Oracle::new(Arc::clone(model), capacity(model));
    let mut worst = Distance::NONE;
    for parts in STEPS {
        let batch = step(parts, model.config().vocab as u32);
        let ticket = cpu.submit(&batch).unwrap();
        assert!(cpu.try_collect(ticket).unwrap().is_some());
        oracle.begin(&batch);
        let rows = record(verb, model, &mut oracle);
        let count = if verb == Verb::NormLogits { batch.outputs.len() } else { batch.rows() };
        worst = worst.max(Distance::between(&cpu.read(handle.unwrap(), count), oracle.read(rows)));
    }
    worst
}

fn check_verbs(shape: &Shape, threads: usize) {
    let mut failed = Vec::new();
    for (dtype, tolerance) in
        TOLERANCES.into_iter().filter(|(dtype, _)| shape.hidden.is_multiple_of(dtype.block_elems()))
    {
        let model = Shape { dtype, ..shape.clone() }.model();
        let errors = VERBS.map(|verb| (verb, worst_of_verb(&model, verb, threads, KvType::F32)));
        let worst = errors.iter().fold(Distance::NONE, |worst, &(_, error)| worst.max(error));
        println!("{dtype:>6} {:>3}: {worst:?} of {tolerance:?}", shape.hidden);
        errors.iter().for_each(|(verb, error)| println!("       {verb:?} {error:?}"));
        assert_eq!(errors[0].1, Distance::NONE, "{dtype}: both decode embeddings with the same codec");
        failed.extend((!worst.within(tolerance)).then_some((dtype, errors)));
    }
    assert!(failed.is_empty(), "beyond the tolerance: {failed:?}");
}

/// Widths of whole 256-value blocks, so that every type fits. GQA 4, a head of its own.
fn wide() -> Shape {
    Shape {
        dtype: DType::F32,
        hidden: 256,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        width: 512,
        vocab: 101,
        taps: 3,
        layers: vec![Conv, FullAttention],
        conv_bias: Has::No,
        head: Has::Yes,
        moe: Some(MoeConfig {
            experts: 5,
            experts_active: 2,
            width: 256,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
        }),
        expert_bias: Has::Yes,
    }
}

/// Widths of few 32-value blocks. GQA 3, five taps, biases, a tied head, experts without norm or bias.
fn narrow() -> Shape {
    Shape {
        hidden: 96,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        width: 160,
        vocab: 67,
        taps: 5,
        conv_bias: Has::Yes,
        head: Has::No,
        moe: Some(MoeConfig {
            experts: 6,
            experts_active: 3,
            width: 96,
            norm_topk_prob: false,
            routed_scaling_factor: 2.5,
        }),
        expert_bias: Has::No,
        ..wide()
    }
}

/// No experts, two layers of each kind.
fn dense() -> Shape {
    Shape { layers: vec![Conv, FullAttention, Conv, FullAttention], moe: None, ..wide() }
}

#[test]
fn every_type_has_a_tolerance() {
    assert_eq!(TOLERANCES.map(|(dtype, _)| dtype), DType::ALL);
}

#[test]
fn verbs_of_wide_models() {
    check_verbs(&wide(), 1);
}

#[test]
fn verbs_of_narrow_models() {
    check_verbs(&narrow(), 2);
}

#[test]
fn attention_over_half_floats() {
    for shape in [wide(), narrow(), Shape { heads: 5, kv_heads: 1, head_dim: 10, ..wide() }] {
        let error = worst_of_verb(&shape.model(), Verb::Attend, 1, KvType::F16);
        println!("f16 keys and values: {error:?} of {TOLERANCE_KV_F16:?}");
        assert!(error.within(TOLERANCE_KV_F16), "{shape:?}: {error:?}");
    }
}

fn worst_of_model(model: &Arc<Model>, threads: usize) -> Distance {
    let mut cpu =
        CpuExecutor::new(Arc::clone(model), cpu_options(Isa::detect(), threads, KvType::F32)).unwrap();
    let mut oracle = Oracle::new(Arc::clone(model), capacity(model));
    let mut worst = Distance::NONE;
    for parts in STEPS {
        let batch = step(parts, model.config().vocab as u32);
        let [found, wanted] = [&mut cpu as &mut dyn Executor, &mut oracle].map(|executor| {
            let ticket = executor.submit(&batch).unwrap();
            executor.try_collect(ticket).unwrap().unwrap().rows
        });
        assert_eq!(found.len(), batch.outputs.len());
        assert_eq!(found[0], found[1], "a row that is asked for twice");
        let all = |rows: Vec<undine_core::RowOutput>| {
            rows.into_iter().flat_map(|row| row.logits).collect::<Vec<_>>()
        };
        worst = worst.max(Distance::between(&all(found), &all(wanted)));
    }
    worst
}

/// What is odd, the shape, threads of the backend.
fn odd_shapes() -> Vec<(&'static str, Shape, usize)> {
    let experts = MoeConfig {
        experts: 7,
        experts_active: 7,
        width: 38,
        norm_topk_prob: false,
        routed_scaling_factor: 2.5,
    };
    vec![
        (
            "no width is a multiple of 8",
            Shape { hidden: 36, heads: 6, kv_heads: 3, head_dim: 6, width: 50, ..dense() },
            2,
        ),
        (
            "the smallest head",
            Shape { hidden: 12, heads: 3, kv_heads: 3, head_dim: 2, width: 3, vocab: 5, ..dense() },
            1,
        ),
        ("five queries a key", Shape { hidden: 40, heads: 10, kv_heads: 2, head_dim: 12, ..dense() }, 1),
        (
            "heads wider than the model",
            Shape { hidden: 64, heads: 3, kv_heads: 1, head_dim: 64, ..dense() },
            2,
        ),
        ("one tap", Shape { hidden: 44, taps: 1, width: 60, ..dense() }, 1),
        ("two taps, biases", Shape { hidden: 44, taps: 2, width: 60, conv_bias: Has::Yes, ..dense() }, 2),
        ("nine taps, tied", Shape { hidden: 44, taps: 9, width: 60, head: Has::No, ..dense() }, 1),
        ("attention alone", Shape { hidden: 48, layers: vec![FullAttention; 3], ..dense() }, 1),
        ("convolution alone", Shape { hidden: 48, layers: vec![Conv; 3], ..dense() }, 1),
        (
            "more threads than heads and columns",
            Shape { hidden: 16, heads: 2, kv_heads: 1, head_dim: 8, width: 24, vocab: 9, ..dense() },
            5,
        ),
        (
            "all experts, odd widths",
            Shape { hidden: 44, moe: Some(experts), expert_bias: Has::No, ..wide() },
            3,
        ),
        (
            "one expert of many",
            Shape { hidden: 64, moe: Some(MoeConfig { experts_active: 1, width: 40, ..experts }), ..wide() },
            1,
        ),
        ("BF16", Shape { dtype: DType::BF16, hidden: 42, width: 70, ..dense() }, 1),
        ("F16", Shape { dtype: DType::F16, hidden: 42, width: 70, ..dense() }, 1),
        (
            "67 blocks of 32, more than a chunk",
            Shape { dtype: DType::Q5_1, hidden: 64, width: 67 * 32, ..dense() },
            1,
        ),
        (
            "types mixed by width",
            Shape {
                dtype: DType::Q8_0,
                hidden: 96,
                heads: 3,
                head_dim: 10,
                kv_heads: 1,
                width: 100,
                ..dense()
            },
            2,
        ),
        ("9 blocks of 256, more than a chunk", Shape { dtype: DType::Q5_K, width: 9 * 256, ..dense() }, 1),
        ("9 signed blocks of 256", Shape { dtype: DType::Q6_K, width: 9 * 256, ..dense() }, 1),
    ]
}

#[test]
fn whole_models_of_odd_shapes() {
    let mut failed = Vec::new();
    for (name, shape, threads) in odd_shapes() {
        let tolerance =
            if shape.dtype.is_float() { TOLERANCE_FLOAT_MODEL } else { TOLERANCE_QUANTIZED_MODEL };
        let error = worst_of_model(&shape.model(), threads);
        println!("{name}: {error:?} of {tolerance:?}");
        failed.extend((!error.within(tolerance)).then_some((name, error)));
    }
    assert!(failed.is_empty(), "beyond the tolerance: {failed:?}");
}

/// Both backends of a small model.
fn both(shape: &Shape) -> [Box<dyn Executor>; 2] {
    let model = shape.model();
    let cpu = CpuExecutor::new(Arc::clone(&model), cpu_options(Isa::detect(), 2, KvType::F32)).unwrap();
    [Box::new(cpu), Box::new(Oracle::new(Arc::clone(&model), capacity(&model)))]
}

fn run(executor: &mut dyn Executor, batch: &Batch) -> Vec<undine_core::RowOutput> {
    let ticket = executor.submit(batch).unwrap();
    executor.try_collect(ticket).unwrap().unwrap().rows
}

#[test]
fn steps_without_outputs_or_rows() {
    for mut executor in both(&narrow()) {
        let executor = executor.as_mut();
        let tokens: Vec<TokenId> = (0..9).map(|position| token(1, position, 67)).collect();
        let part = |sequence, start, end| Part { sequence, start, tokens: &tokens[start as usize..end] };
        let wanted = logits(executor, &[part(0, 0, 9)]);
        let silent = Batch { outputs: Vec::new(), ..batch(&[part(1, 0, 7)]) };
        assert_eq!(run(executor, &silent), []);
        assert_eq!(run(executor, &Batch::default()), []);
        assert_eq!(logits(executor, &[part(1, 7, 9)]), wanted[7..], "the state moved on without the head");
    }
}

#[test]
fn sampled_tokens_stay_with_their_slots() {
    let answers = both(&narrow()).map(|mut executor| {
        let mut answers = [Vec::new(), Vec::new(), Vec::new()];
        for step in 0..8u32 {
            let rows = if step == 0 { 4 } else { 1 };
            let tokens = [0u32, 1, 2].map(|sequence| match step {
                0 => (0..rows).map(|position| token(sequence, position, 67)).collect(),
                _ => vec![TOKEN_FROM_SLOT],
            });
            let start = if step == 0 { 0 } else { step + 3 };
            let parts: Vec<Part> =
                (0..3).map(|s| Part { sequence: s, start, tokens: &tokens[s as usize] }).collect();
            let mut batch = batch(&parts);
            let kind = OutputKind::Sample {
                params: SamplingParams::greedy(),
                output_index: step,
                history: 0..0,
                history_prompt: 0,
                biases: 0..0,
                mask: None,
            };
            batch.outputs =
                (0..3).map(|s| OutputRow { row: (s + 1) * rows - 1, kind: kind.clone() }).collect();
            let found = run(executor.as_mut(), &batch);
            answers.iter_mut().zip(found).for_each(|(answer, row)| answer.push(row.chosen.token));
        }
        answers
    });
    assert_eq!(answers[0], answers[1]);
    assert_ne!(answers[0][0], answers[0][1], "the sequences differ");
}
