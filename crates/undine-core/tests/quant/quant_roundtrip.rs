//! Encoding quality: error bounds, exact cases, idempotence, hostile input, and (ignored) speed.

use proptest::prelude::*;
use undine_core::dtype::QK_K;
use undine_core::quant::{CORRELATED_COLUMNS, Correlations};
use undine_core::{DType, quant};

/// Values in the Gaussian sample.
const SAMPLE: usize = 1 << 16;

/// SplitMix64: enough for test data, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn gaussian(&mut self) -> f32 {
        ((-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }
}

fn gaussian_sample() -> Vec<f32> {
    let mut random = Random(1);
    (0..SAMPLE).map(|_| random.gaussian()).collect()
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
    quant::encode(dtype, values, &mut blocks);
    blocks
}

fn decode(dtype: DType, blocks: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; blocks.len() / dtype.block_bytes() * dtype.block_elems()];
    quant::decode(dtype, blocks, &mut values);
    values
}

fn round_trip(dtype: DType, values: &[f32]) -> Vec<f32> {
    decode(dtype, &encode(dtype, values))
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    let square: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (square / a.len() as f64).sqrt()
}

fn written() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|dtype| dtype.is_written())
}

fn quantized() -> impl Iterator<Item = DType> {
    written().filter(|dtype| !dtype.is_float())
}

/// RMSE on N(0, 1) of plain round-to-nearest: `gguf.quants.quantize` where it has the format, else the
/// largest value of a (sub-)block at the outermost level, integer scales rounded. Our searches must stay
/// below.
const ROUND_TO_NEAREST: [(DType, f64); 12] = [
    (DType::Q4_0, 0.0858),
    (DType::Q4_1, 0.0781),
    (DType::Q5_0, 0.0426),
    (DType::Q5_1, 0.0378),
    (DType::Q8_0, 0.00534),
    (DType::Q2_K, 0.328),
    (DType::Q3_K, 0.154),
    (DType::Q4_K, 0.0783),
    (DType::Q5_K, 0.0381),
    (DType::Q6_K, 0.0187),
    (DType::IQ4_NL, 0.0799),
    (DType::IQ4_XS, 0.0800),
];

#[test]
fn error_on_gaussian_data_is_below_round_to_nearest() {
    let x = gaussian_sample();
    for (dtype, bound) in ROUND_TO_NEAREST {
        for scale in [1.0f32, 0.02, 300.0] {
            let x: Vec<f32> = x.iter().map(|v| v * scale).collect();
            let relative = rmse(&x, &round_trip(dtype, &x)) / f64::from(scale);
            assert!(relative < bound, "{dtype} at scale {scale}: rmse {relative} is not below {bound}");
        }
    }
}

#[test]
fn float_types_round_to_nearest_and_keep_special_values() {
    let x = [1.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 65504.0, 1e-7, 3.0e38, 0.1];
    let f16 =
        [1.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 65504.0, 1.192_092_9e-7, f32::INFINITY, 0.099_975_586];
    let bf16 =
        [1.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 65536.0, 1.001_171_8e-7, 3.004_055_3e38, 0.100_097_656];
    for (dtype, expected) in [(DType::F32, x), (DType::F16, f16), (DType::BF16, bf16)] {
        for n in [8, 3, 0] {
            assert_eq!(round_trip(dtype, &x[..n]), expected[..n], "{dtype}");
        }
        assert!(round_trip(dtype, &[f32::NAN])[0].is_nan(), "{dtype}");
    }
}

/// Values every block format can hold exactly come back exactly. K-quants with a minimum store the scale as
/// f16 / 63 (Q2_K: / 15), so for them a value is only as good as that; the codebook has no level for zero.
#[test]
fn simple_blocks_round_trip() {
    type Pattern = (&'static str, fn(usize) -> f32);
    let patterns: [Pattern; 6] = [
        ("zero", |_| 0.0),
        ("one", |_| 1.0),
        ("minus three quarters", |_| -0.75),
        ("ternary", |i| [0.5, -0.5, 0.0][i % 3]),
        ("alternating sub-blocks", |i| if i / 32 % 2 == 0 { 0.0 } else { 2.0 }),
        ("one non-zero", |i| if i == 100 { -0.125 } else { 0.0 }),
    ];
    for dtype in quantized() {
        let tolerance = match dtype {
            DType::Q2_K | DType::Q4_K | DType::Q5_K => 2e-3,
            DType::IQ4_NL | DType::IQ4_XS | DType::IQ3_S | DType::IQ2_XXS => 1e-2,
            _ => 0.0,
        };
        for (name, pattern) in patterns {
            // A codebook has no level for zero, and none of its points has one large value among small ones.
            let is_codebook = matches!(dtype, DType::IQ3_S | DType::IQ2_XXS);
            if is_codebook && ["ternary", "one non-zero", "alternating sub-blocks"].contains(&name) {
                continue;
            }
            // Ternary values need a level at zero between two that are equally far away under an f16 scale.
            let lacks_ternary =
                matches!(dtype, DType::IQ4_NL | DType::IQ4_XS | DType::Q2_K | DType::Q4_K | DType::Q5_K);
            if name == "ternary" && lacks_ternary {
                continue;
            }
            let x: Vec<f32> = (0..256).map(pattern).collect();
            let peak = x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
            for (i, (x, y)) in x.iter().zip(round_trip(dtype, &x)).enumerate() {
                assert!((x - y).abs() <= tolerance * peak, "{dtype} {name} value {i}: {y} is not {x}");
            }
        }
    }
}

/// Any block of these formats is found again, whatever its codes and (normal) scale.
#[test]
fn random_blocks_of_one_scale_round_trip_exactly() {
    let mut random = Random(2);
    for dtype in [DType::Q4_0, DType::Q5_0, DType::IQ4_NL] {
        for _ in 0..5000 {
            let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| random.next() as u8).collect();
            // Exponents 5..=24 of f16: normal, and far enough from the ends to be halved or doubled.
            block[1] = (block[1] & 0x83) | ((5 + random.next() % 20) as u8) << 2;
            let values = decode(dtype, &block);
            assert_eq!(round_trip(dtype, &values), values, "{dtype} {block:?}");
        }
    }
}

/// Encoding what was decoded changes nothing, or for formats with searched integer scales far less than the
/// first encoding did. The bound is the second RMSE over the first.
#[test]
fn encoding_is_idempotent() {
    let x = gaussian_sample();
    for dtype in written() {
        let once = round_trip(dtype, &x);
        let twice = round_trip(dtype, &once);
        let bound = if dtype.block_elems() == QK_K { 0.25 } else { 0.0 };
        let (first, second) = (rmse(&x, &once), rmse(&once, &twice));
        assert!(second <= bound * first, "{dtype}: first {first}, second {second}");
    }
}

#[test]
fn non_finite_values_are_zero_to_quantized_types() {
    let mut clean = gaussian_sample();
    clean.truncate(512);
    let mut dirty = clean.clone();
    for (i, bad) in [(3, f32::NAN), (77, f32::INFINITY), (300, f32::NEG_INFINITY), (301, -f32::NAN)] {
        clean[i] = 0.0;
        dirty[i] = bad;
    }
    for dtype in quantized() {
        assert_eq!(encode(dtype, &dirty), encode(dtype, &clean), "{dtype}");
    }
}

fn encode_weighted(dtype: DType, values: &[f32], importance: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
    quant::encode_weighted(dtype, values, importance, None, &mut blocks);
    blocks
}

/// Squared error, each value's weighted by the importance of its column.
fn weighted_error(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let columns = importance.iter().cycle();
    x.iter().zip(y).zip(columns).map(|((x, y), &w)| f64::from(w) * f64::from(x - y).powi(2)).sum()
}

#[test]
fn importances_lower_the_weighted_error() {
    let x = gaussian_sample();
    let mut random = Random(5);
    let spread: Vec<f32> = (0..512).map(|_| (1.5 * random.gaussian()).exp()).collect();
    // A few columns that count much more, as in real models.
    let peaks: Vec<f32> = (0..512).map(|i| if i % 37 == 0 { 1e4 } else { 1e-3 }).collect();
    for dtype in quantized() {
        for (name, importance) in [("spread", &spread), ("peaks", &peaks)] {
            let plain = weighted_error(&x, &round_trip(dtype, &x), importance);
            let weighted =
                weighted_error(&x, &decode(dtype, &encode_weighted(dtype, &x, importance)), importance);
            // Codes of eight bits leave little to choose.
            let bound = if matches!(dtype, DType::Q8_0 | DType::Q6_K) { 1.0 } else { 0.93 };
            assert!(weighted < bound * plain, "{dtype} {name}: {weighted} with importances, {plain} without");
        }
    }
}

#[test]
fn importances_that_say_nothing_change_nothing() {
    let x = &gaussian_sample()[..4096];
    for dtype in written() {
        for importance in [[1.0; 1024], [0.0; 1024], [3e-30; 1024], [2e30; 1024]] {
            assert_eq!(encode_weighted(dtype, x, &importance), encode(dtype, x), "{dtype} {}", importance[0]);
        }
    }
}

/// Inputs of `cols` columns that share a few signals, as those of a model do: `rows x cols`.
fn correlated_inputs(rows: usize, cols: usize) -> Vec<f32> {
    const SIGNALS: usize = 12;
    let mut random = Random(6);
    let mixing: Vec<f32> = (0..SIGNALS * cols).map(|_| random.gaussian()).collect();
    let mut inputs = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let signals: Vec<f32> = (0..SIGNALS).map(|_| random.gaussian()).collect();
        for column in 0..cols {
            let shared: f32 =
                signals.iter().zip(mixing[column..].iter().step_by(cols)).map(|(s, m)| s * m).sum();
            inputs.push(shared + random.gaussian());
        }
    }
    inputs
}

/// Mean squares, and the coefficients that [`Correlations::new`] takes.
fn statistics(inputs: &[f32], cols: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = inputs.len() / cols;
    let mean_product = |a: usize, b: usize| {
        inputs.chunks_exact(cols).map(|row| f64::from(row[a]) * f64::from(row[b])).sum::<f64>() / rows as f64
    };
    let squares: Vec<f64> = (0..cols).map(|column| mean_product(column, column)).collect();
    let mut coefficients = vec![0.0; cols * CORRELATED_COLUMNS];
    for a in 0..cols {
        let start = a - a % CORRELATED_COLUMNS;
        for b in start..cols.min(start + CORRELATED_COLUMNS) {
            let coefficient = mean_product(a, b) / (squares[a] * squares[b]).sqrt();
            coefficients[a * CORRELATED_COLUMNS + b - start] = coefficient as f32;
        }
    }
    (squares.into_iter().map(|square| square as f32).collect(), coefficients)
}

/// Squared error of the products of weight rows with inputs.
fn product_error(inputs: &[f32], x: &[f32], y: &[f32], cols: usize) -> f64 {
    let rows = x.chunks_exact(cols).zip(y.chunks_exact(cols));
    rows.flat_map(|(x, y)| {
        inputs.chunks_exact(cols).map(move |input| {
            let dot: f64 = input.iter().zip(x.iter().zip(y)).map(|(i, (x, y))| f64::from(i * (x - y))).sum();
            dot * dot
        })
    })
    .sum()
}

/// Types whose codes are chosen with regard to each other.
fn coded() -> impl Iterator<Item = DType> {
    quantized().filter(|&dtype| dtype != DType::Q8_0)
}

#[test]
fn correlations_lower_the_error_of_products() {
    // Whole runs of columns, and for blocks of 32 a last run that is shorter.
    for cols in [512, 288] {
        let inputs = correlated_inputs(1024, cols);
        let (squares, coefficients) = statistics(&inputs, cols);
        let correlations = Correlations::new(&squares, &coefficients, 1024.0);
        let x = &gaussian_sample()[..16 * cols];
        for dtype in coded().filter(|dtype| dtype.row_bytes(cols).is_some()) {
            let error = |correlations| {
                let mut blocks = vec![0; dtype.row_bytes(cols).expect("whole blocks") * 16];
                quant::encode_weighted(dtype, x, &squares, correlations, &mut blocks);
                product_error(&inputs[..64 * cols], x, &decode(dtype, &blocks), cols)
            };
            let (alone, together) = (error(None), error(Some(&correlations)));
            assert!(together < 0.5 * alone, "{dtype}, {cols} columns: {together} together, {alone} alone");
        }
    }
}

#[test]
fn columns_that_have_nothing_in_common_are_rounded_alone() {
    let x = &gaussian_sample()[..8 * 512];
    let squares: Vec<f32> = (0..512).map(|i| 1.0 + (i % 7) as f32).collect();
    let mut coefficients = vec![0.0; 512 * CORRELATED_COLUMNS];
    for (column, row) in coefficients.chunks_exact_mut(CORRELATED_COLUMNS).enumerate() {
        row[column % CORRELATED_COLUMNS] = 1.0;
    }
    let correlations = Correlations::new(&squares, &coefficients, 1e6);
    // Codes of several values are chosen with other weights than those that their scales were.
    let is_codebook = |dtype: &DType| matches!(dtype, DType::IQ3_S | DType::IQ2_XXS);
    for dtype in written().filter(|dtype| !is_codebook(dtype)) {
        let mut blocks = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
        quant::encode_weighted(dtype, x, &squares, Some(&correlations), &mut blocks);
        assert!(blocks == encode_weighted(dtype, x, &squares), "{dtype}");
    }
}

/// A file may say anything of its columns.
#[test]
fn coefficients_of_no_inputs_still_give_blocks() {
    let mut random = Random(7);
    let mut x = gaussian_sample()[..512].to_vec();
    (x[3], x[300]) = (f32::NAN, 3e38);
    let len = 256 * CORRELATED_COLUMNS;
    let cases: [(&str, Vec<f32>, f32); 6] = [
        ("all alike", vec![1.0; len], 1.0),
        ("all opposite", vec![-1.0; len], 1.0),
        ("large", vec![1e30; len], 1.0),
        ("at random", (0..len).map(|_| random.gaussian()).collect(), 1.0),
        ("not a number", vec![f32::NAN; len], 1.0),
        ("nothing went in", vec![0.0; len], 0.0),
    ];
    for (name, coefficients, square) in cases {
        let squares = vec![square; 256];
        for rows in [0.0, 1e9] {
            let correlations = Correlations::new(&squares, &coefficients, rows);
            for dtype in coded() {
                let mut blocks = vec![0; dtype.row_bytes(512).expect("whole blocks")];
                quant::encode_weighted(dtype, &x, &squares, Some(&correlations), &mut blocks);
                assert!(decode(dtype, &blocks).iter().all(|y| y.is_finite()), "{dtype} {name}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "as many columns")]
fn correlations_are_of_as_many_columns() {
    let correlations = Correlations::new(&[1.0; 256], &vec![0.0; 256 * CORRELATED_COLUMNS], 1.0);
    quant::encode_weighted(DType::Q4_0, &[0.0; 512], &[1.0; 512], Some(&correlations), &mut [0; 288]);
}

#[test]
#[should_panic(expected = "not whole blocks")]
fn importances_are_of_whole_blocks() {
    quant::encode_weighted(DType::Q4_K, &[0.0; 512], &[1.0; 128], None, &mut [0; 288]);
}

#[test]
#[should_panic(expected = "Q4_K")]
fn wrong_lengths_panic() {
    quant::decode(DType::Q4_K, &[0; 144], &mut [0.0; 255]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bits encode without a panic and decode to finite values no larger than the input by more than a
    /// step.
    #[test]
    fn any_input_gives_finite_blocks(bits in prop::collection::vec(any::<u32>(), 256), shift in 0u32..9) {
        // Small shifts cover every exponent, large ones values whose scales are subnormal f16.
        let x: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits) * 10f32.powi(-4 * shift as i32)).collect();
        let peak = x.iter().filter(|v| v.is_finite()).fold(0.0f32, |peak, v| peak.max(v.abs()));
        for dtype in quantized() {
            for y in round_trip(dtype, &x) {
                prop_assert!(y.is_finite() && y.abs() <= 1.5 * peak + 1e-4, "{}: {} from peak {}", dtype, y, peak);
            }
        }
    }
}

/// `cargo test --release -p undine-core --test quant_roundtrip -- --ignored --nocapture`
#[test]
#[ignore = "a measurement for people who change codecs; it has nothing to check"]
fn speed() {
    let x = gaussian_sample();
    for dtype in written() {
        let (mut blocks, mut y) = (encode(dtype, &x), x.clone());
        let (mut encode_s, mut decode_s) = (f64::MAX, f64::MAX);
        for _ in 0..30 {
            let start = std::time::Instant::now();
            quant::encode(dtype, &x, &mut blocks);
            encode_s = encode_s.min(start.elapsed().as_secs_f64());
            let start = std::time::Instant::now();
            quant::decode(dtype, &blocks, &mut y);
            decode_s = decode_s.min(start.elapsed().as_secs_f64());
        }
        let (rate, rmse) = (x.len() as f64 / 1e6, rmse(&x, &y));
        println!(
            "{dtype:7} rmse {rmse:.6}, encode {:6.0} M/s, decode {:6.0} M/s",
            rate / encode_s,
            rate / decode_s
        );
    }
}
