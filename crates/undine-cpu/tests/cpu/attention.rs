//! Attention over random rows, keys and values: close to an f64 reference, and the same bits however it is
//! cut.

use std::marker::PhantomData;

use undine_core::BlockId;
use undine_cpu::Isa;
use undine_cpu::kernels::attention::{
    Attend, Destination, HEAD_DIM_MAX, KvElement, KvF16, KvF32, KvQ8, MergeRanges, PAGE, RANGE, Scratch,
    StoreKv, page_head_bytes, state_len,
};

/// Queries, keys and values are uniform up to this size.
const SIZE: f32 = 2.0;
/// Largest error of a result, in units of [`SIZE`].
const TOLERANCE_F32: f64 = 2e-6;
/// As above; half of the last bit of f16 is 2.4e-4 of a value.
const TOLERANCE_F16: f64 = 1e-3;
/// As above; half a step of a signed byte is 3.9e-3 of the largest value, and errors of scores shift weights.
const TOLERANCE_Q8: f64 = 2e-2;

/// `head_dim, group`.
const SHAPES: [(usize, usize); 7] = [(64, 2), (64, 4), (64, 3), (32, 1), (80, 5), (128, 13), (10, 2)];
/// Positions of the first row: within a page, across pages, across ranges.
const STARTS: [usize; 6] = [0, 5, 31, RANGE - 20, RANGE, 2 * RANGE + 100];
/// As above, where plain Rust is compared.
const PORTABLE_STARTS: [usize; 2] = [5, RANGE - 20];
/// Rows computed together.
const COUNTS: [usize; 9] = [1, 2, 3, 7, 8, 9, 31, 33, 65];

/// One sequence and one key head of a cache.
struct Case {
    head_dim: usize,
    group: usize,
    start: usize,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    table: Vec<BlockId>,
}

impl Case {
    fn new(head_dim: usize, group: usize, start: usize) -> Self {
        let positions = start + COUNTS[COUNTS.len() - 1];
        let mut seed = (head_dim * 1_000_003 + group * 1009 + start) as u32;
        let mut random = |count: usize| -> Vec<f32> {
            let next = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            std::iter::repeat_with(next).take(count).map(|x| SIZE * x).collect()
        };
        let pages = positions.div_ceil(PAGE) as u32;
        Self {
            head_dim,
            group,
            start,
            queries: random(COUNTS[COUNTS.len() - 1] * group * head_dim),
            keys: random(positions * head_dim),
            values: random(positions * head_dim),
            // Backwards, so that a table that is read in the wrong order shows.
            table: (0..pages).rev().map(BlockId).collect(),
        }
    }

    /// All rows in f64.
    fn reference(&self) -> Vec<f64> {
        let dim = self.head_dim;
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut out = Vec::new();
        for (i, query) in self.queries.chunks(dim).enumerate() {
            let keys = self.keys.chunks(dim).take(self.start + i / self.group + 1);
            let scores: Vec<f64> = keys.map(|key| dot(query, key) / (dim as f64).sqrt()).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut y = vec![0.0; dim];
            for (value, weight) in self.values.chunks(dim).zip(&weights) {
                y.iter_mut().zip(value).for_each(|(y, value)| *y += weight / sum * f64::from(*value));
            }
            out.extend(y);
        }
        out
    }
}

/// The keys and values of a case in a page layout.
struct Cache<T> {
    keys: Vec<u8>,
    values: Vec<u8>,
    kind: PhantomData<T>,
}

impl<T: KvElement> Cache<T> {
    fn new(isa: Isa, case: &Case) -> Self {
        let page = page_head_bytes::<T>(case.head_dim);
        let mut cache = Self {
            keys: vec![0; page * case.table.len()],
            values: vec![0; page * case.table.len()],
            kind: PhantomData,
        };
        let dim = case.head_dim;
        for (position, (key, value)) in case.keys.chunks(dim).zip(case.values.chunks(dim)).enumerate() {
            let at = case.table[position / PAGE].0 as usize * page;
            isa.run(StoreKv::<T> {
                key,
                value,
                keys: cache.keys[at..at + page].as_mut_ptr(),
                values: cache.values[at..at + page].as_mut_ptr(),
                offset: position % PAGE,
                kind: PhantomData,
            });
        }
        cache
    }

    /// Rows `first .. first + count`.
    fn attend(&self, isa: Isa, case: &Case, first: usize, count: usize, to: Destination) {
        let mut scratch = Scratch::new(case.head_dim, case.group * count);
        isa.run(Attend::<T> {
            queries: case.queries[first * case.group * case.head_dim..].as_ptr(),
            stride: case.group * case.head_dim,
            rows: count,
            start: case.start + first,
            group: case.group,
            head_dim: case.head_dim,
            table: &case.table,
            keys: self.keys.as_ptr(),
            values: self.values.as_ptr(),
            page_stride: page_head_bytes::<T>(case.head_dim),
            scratch: &mut scratch,
            to,
            kind: PhantomData,
        });
    }

    fn whole(&self, isa: Isa, case: &Case, first: usize, count: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; count * case.group * case.head_dim];
        self.attend(isa, case, first, count, Destination::Rows(y.as_mut_ptr()));
        y
    }

    /// The same from ranges that are computed on their own, last first.
    fn merged(&self, isa: Isa, case: &Case, first: usize, count: usize) -> Vec<f32> {
        let (heads, dim) = (count * case.group, case.head_dim);
        let ranges = (case.start + first + count).div_ceil(RANGE);
        let stride = heads * state_len(dim);
        let mut states = vec![f32::NAN; ranges * stride];
        for range in (0..ranges).rev() {
            let to = states[range * stride..].as_mut_ptr();
            self.attend(isa, case, first, count, Destination::Range(range, to));
        }
        let mut y = vec![f32::NAN; heads * dim];
        for (i, y) in y.chunks_mut(dim).enumerate() {
            let ranges = (case.start + first + i / case.group + 1).div_ceil(RANGE);
            let states = states[i * state_len(dim)..].as_mut_ptr();
            isa.run(MergeRanges { states, stride, ranges, y });
        }
        y
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn check<T: KvElement>(case: &Case, reference: &[f64], tolerance: f64, name: &str) -> f64 {
    let what = format!("{name}, dim {}, group {}, start {}", case.head_dim, case.group, case.start);
    let row = case.group * case.head_dim;
    let best = Isa::available()[0];
    let cache = Cache::<T>::new(best, case);
    let alone: Vec<f32> = (0..COUNTS[COUNTS.len() - 1]).flat_map(|i| cache.whole(best, case, i, 1)).collect();
    let error = alone.iter().zip(reference).map(|(y, r)| (f64::from(*y) - r).abs()).fold(0.0, f64::max);
    let error = error / f64::from(SIZE);
    assert!(error <= tolerance, "{what}: {error:e}");
    for isa in Isa::available() {
        // Plain Rust is slow: the shorter contexts are enough for it.
        if matches!(isa, Isa::Portable(_)) && !PORTABLE_STARTS.contains(&case.start) {
            continue;
        }
        let cache = Cache::<T>::new(isa, case);
        for count in COUNTS {
            let y = cache.whole(isa, case, 0, count);
            assert!(bits(&y) == bits(&alone[..count * row]), "{what}: {count} rows on {}", isa.name());
        }
        // The last rows, which see most, and ranges on their own.
        for (first, count) in [(64, 1), (62, 3), (0, 65)] {
            let y = cache.merged(isa, case, first, count);
            let same = &alone[first * row..(first + count) * row];
            assert!(bits(&y) == bits(same), "{what}: rows {first} + {count} by range on {}", isa.name());
        }
    }
    error
}

#[test]
fn every_cut_gives_the_same_bits() {
    let mut worst = [0.0f64; 3];
    for (head_dim, group) in SHAPES {
        for start in STARTS {
            let case = Case::new(head_dim, group, start);
            let reference = case.reference();
            let errors = [
                check::<KvF32>(&case, &reference, TOLERANCE_F32, "f32"),
                check::<KvF16>(&case, &reference, TOLERANCE_F16, "f16"),
                check::<KvQ8>(&case, &reference, TOLERANCE_Q8, "q8_0"),
            ];
            worst.iter_mut().zip(errors).for_each(|(worst, error)| *worst = worst.max(error));
        }
    }
    println!("largest errors of f32, f16, q8_0: {:.1e} {:.1e} {:.1e}", worst[0], worst[1], worst[2]);
}

#[test]
fn extreme_scores_and_values() {
    let mut case = Case::new(64, 2, RANGE + 3);
    // One key far above all others; a value and a key beyond f16; a head of zeros.
    case.keys[7 * 64..8 * 64].fill(300.0);
    case.values[7 * 64] = 1e6;
    case.keys[9 * 64] = -1e6;
    case.values[11 * 64..12 * 64].fill(0.0);
    for isa in Isa::available() {
        for y in [
            Cache::<KvF32>::new(isa, &case).whole(isa, &case, 0, 65),
            Cache::<KvF16>::new(isa, &case).whole(isa, &case, 0, 65),
            Cache::<KvQ8>::new(isa, &case).whole(isa, &case, 0, 65),
        ] {
            assert!(y.iter().all(|y| y.is_finite()), "{}", isa.name());
        }
    }
}

#[test]
fn later_pages_do_not_reach_earlier_rows() {
    let case = Case::new(80, 3, RANGE - 1);
    let isa = Isa::detect();
    let mut cache = Cache::<KvF16>::new(isa, &case);
    let rows = cache.whole(isa, &case, 0, 2);
    // Not a number everywhere in the page after the two rows' last.
    let page = page_head_bytes::<KvF16>(case.head_dim);
    let after = case.table[(case.start + 2).div_ceil(PAGE)].0 as usize * page;
    cache.keys[after..after + page].fill(0xff);
    cache.values[after..after + page].fill(0xff);
    assert_eq!(bits(&cache.whole(isa, &case, 0, 2)), bits(&rows));
}

#[test]
fn sizes_of_pages() {
    for (dim, [f32, f16, q8]) in [(64, [256, 128, 68]), (128, [512, 256, 132]), (10, [64, 32, 20])] {
        assert!(dim <= HEAD_DIM_MAX);
        assert_eq!(page_head_bytes::<KvF32>(dim), PAGE * f32);
        assert_eq!(page_head_bytes::<KvF16>(dim), PAGE * f16);
        assert_eq!(page_head_bytes::<KvQ8>(dim), PAGE * q8);
    }
}
