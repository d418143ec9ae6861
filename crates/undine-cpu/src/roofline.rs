//! The limits of this machine, measured: how fast memory is read, and how fast products are summed.
//!
//! A step cannot be faster than reading the bytes it needs, nor than its multiplications and additions at the
//! rate of the best instruction for them (Williams, Waterman and Patterson, "Roofline", 2009). These loops do
//! nothing else, so no kernel reaches them: a kernel also decodes weights, scales sums and waits at barriers.
//! They stand beside [`crate::simd`] on purpose and not on it: the limit is the machine's, not that of the
//! kernels as they are.
//!
//! One multiplication with its addition counts as two operations.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::memory::SharedSlice;
use crate::pool::Pool;

/// Bytes read to measure bandwidth: far more than the caches hold.
pub const READ_BYTES: usize = 1 << 30;
/// Bytes read for a quick answer: more than most caches hold.
const PROBE_BYTES: usize = 256 << 20;
/// How far ahead of reading to prefetch, in bytes; 0 leaves it to the processor. The best counts.
const PREFETCH_BYTES: [usize; 2] = [0, 1 << 12];
/// Words read in one round of the loop: four cache lines.
const WORDS: usize = 64;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Rounds of an arithmetic loop in the first try.
const ROUNDS_FIRST: u64 = 1 << 14;
/// Independent sums of an arithmetic loop: more than an instruction's latency times its units, fewer than
/// registers.
const CHAINS: usize = 12;

/// How thoroughly something is measured.
#[derive(Clone, Copy)]
struct Effort {
    /// Bytes read.
    bytes: usize,
    /// How often each measurement is made; the best counts.
    repetitions: usize,
    /// Shortest time an arithmetic loop is measured for.
    peak_time: Duration,
}

/// For a figure that others are compared with.
const THOROUGH: Effort = Effort { bytes: READ_BYTES, repetitions: 3, peak_time: Duration::from_millis(20) };
/// For an estimate, in less than a second.
const QUICK: Effort = Effort { bytes: PROBE_BYTES, repetitions: 2, peak_time: Duration::from_millis(4) };

/// What the machine can do with so many threads.
#[derive(Clone, PartialEq, Debug)]
pub struct Roofline {
    /// Threads that measured.
    pub threads: usize,
    /// Bytes read per second, linearly, all threads together.
    pub read_bytes_per_s: f64,
    /// One entry per family of instructions that the processor has, best first.
    pub peaks: Vec<Peaks>,
}

/// Operations per second with one family of instructions, all threads together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Peaks {
    /// Instructions, by the names of the vendor.
    pub instructions: &'static str,
    /// Products of unsigned with signed bytes, summed.
    pub int8_ops_per_s: f64,
    /// Products of f32, summed.
    pub f32_ops_per_s: f64,
    /// Products of bf16 summed in f32, if there is an instruction for it.
    pub bf16_ops_per_s: Option<f64>,
}

impl Roofline {
    /// Measures for two or three seconds, with [`READ_BYTES`] of memory.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn measure(threads: usize) -> std::io::Result<Self> {
        Self::with(threads, THOROUGH)
    }

    /// Measures in less than a second, with a quarter of the memory: some percent less sure.
    ///
    /// # Errors
    /// The system refuses threads.
    pub fn probe(threads: usize) -> std::io::Result<Self> {
        Self::with(threads, QUICK)
    }

    fn with(threads: usize, effort: Effort) -> std::io::Result<Self> {
        let mut pool = Pool::new(threads)?;
        let families = families();
        let read_bytes_per_s = read_bandwidth(&mut pool, &families, effort);
        let peaks = families.iter().map(|family| family.measure(&mut pool, effort)).collect();
        Ok(Self { threads, read_bytes_per_s, peaks })
    }

    /// The best rate for byte products.
    pub fn int8_ops_per_s(&self) -> f64 {
        self.best(|peaks| peaks.int8_ops_per_s)
    }

    /// The best rate for f32 products.
    pub fn f32_ops_per_s(&self) -> f64 {
        self.best(|peaks| peaks.f32_ops_per_s)
    }

    /// The best rate for bf16 products; they can always be computed as f32.
    pub fn bf16_ops_per_s(&self) -> f64 {
        self.best(|peaks| peaks.bf16_ops_per_s.unwrap_or(0.0).max(peaks.f32_ops_per_s))
    }

    fn best(&self, rate: impl Fn(&Peaks) -> f64) -> f64 {
        self.peaks.iter().map(rate).fold(0.0, f64::max)
    }
}

/// How fast memory is read, measured as [`Roofline::probe`] does, in half of its time.
///
/// # Errors
/// The system refuses threads.
pub fn read_bytes_per_s(threads: usize) -> std::io::Result<f64> {
    Ok(read_bandwidth(&mut Pool::new(threads)?, &families(), QUICK))
}

/// Loops over one family of instructions.
struct Family {
    instructions: &'static str,
    /// Reads everything; the second argument is how far ahead to prefetch, in bytes.
    read: fn(&[u32], usize) -> u32,
    int8: Loop,
    f32: Loop,
    bf16: Option<Loop>,
}

/// A loop of so many rounds over [`CHAINS`] independent sums.
#[derive(Clone, Copy)]
struct Loop {
    run: fn(u64),
    /// Operations of one instruction, and of what belongs to it.
    ops: u64,
}

impl Family {
    fn measure(&self, pool: &mut Pool, effort: Effort) -> Peaks {
        Peaks {
            instructions: self.instructions,
            int8_ops_per_s: peak(pool, self.int8, effort),
            f32_ops_per_s: peak(pool, self.f32, effort),
            bf16_ops_per_s: self.bf16.map(|bf16| peak(pool, bf16, effort)),
        }
    }
}

/// All this processor has, best first; the compiler's choice where nothing better is known.
fn families() -> Vec<Family> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    found.extend(x86::families());
    if found.is_empty() {
        found.push(portable());
    }
    found
}

fn portable() -> Family {
    let ops = 2 * PORTABLE_LANES as u64;
    Family {
        instructions: "portable",
        read,
        int8: Loop { run: int8_portable, ops },
        f32: Loop { run: f32_portable, ops },
        bf16: None,
    }
}

/// Bytes per second that the threads of a pool read from memory, each its own part.
fn read_bandwidth(pool: &mut Pool, families: &[Family], effort: Effort) -> f64 {
    let words = effort.bytes / size_of::<u32>();
    let memory = SharedSlice::<u32>::in_huge_pages(words).unwrap_or_else(|| SharedSlice::new(words));
    pool.run(&|worker| {
        // SAFETY: the workers' shares are apart.
        unsafe { memory.write(worker.share(words, WORDS)) }.fill(1);
    });
    let mut best = Duration::MAX;
    for _ in 0..effort.repetitions {
        for (family, prefetch) in families.iter().flat_map(|f| PREFETCH_BYTES.map(|bytes| (f, bytes))) {
            let started = Instant::now();
            pool.run(&|worker| {
                // SAFETY: nobody writes any more.
                let part = unsafe { memory.read(worker.share(words, WORDS)) };
                black_box((family.read)(part, prefetch));
            });
            best = best.min(started.elapsed());
        }
    }
    (words * size_of::<u32>()) as f64 / best.as_secs_f64()
}

/// Operations per second of a loop on all threads.
fn peak(pool: &mut Pool, work: Loop, effort: Effort) -> f64 {
    let mut time_of = |rounds: u64| {
        let started = Instant::now();
        pool.run(&|_| (work.run)(black_box(rounds)));
        started.elapsed()
    };
    let mut rounds = ROUNDS_FIRST;
    while time_of(rounds) < effort.peak_time {
        rounds *= 2;
    }
    let best = (0..effort.repetitions).map(|_| time_of(rounds)).min().expect("there are repetitions");
    (rounds * CHAINS as u64 * work.ops * pool.threads() as u64) as f64 / best.as_secs_f64()
}

/// Reads in vectors of whatever the compiler takes for the caller's features.
#[inline(always)]
fn read(memory: &[u32], prefetch: usize) -> u32 {
    let mut sums = [0u32; WORDS];
    for chunk in memory.chunks_exact(WORDS) {
        if prefetch > 0 {
            for line in 0..WORDS * size_of::<u32>() / LINE_BYTES {
                fetch_ahead(chunk.as_ptr().wrapping_byte_add(prefetch + LINE_BYTES * line));
            }
        }
        for k in 0..WORDS {
            sums[k] ^= chunk[k];
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[inline(always)]
fn fetch_ahead(place: *const u32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch may name any address, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Values in one round of a portable chain.
const PORTABLE_LANES: usize = 16;

fn int8_portable(rounds: u64) {
    let weights = black_box([[3_i8; PORTABLE_LANES]; CHAINS]);
    let start = black_box([1_i8; PORTABLE_LANES]);
    let mut sums = [[0_i32; PORTABLE_LANES]; CHAINS];
    for round in 0..rounds {
        // Another input each round, so that no product can be moved out of the loop.
        let input = start.map(|value| i16::from(value ^ round as i8));
        for (sum, weight) in sums.iter_mut().zip(&weights) {
            for k in 0..PORTABLE_LANES {
                sum[k] = sum[k].wrapping_add(i32::from(i16::from(weight[k]) * input[k]));
            }
        }
    }
    black_box(sums);
}

fn f32_portable(rounds: u64) {
    let (factor, term) = (black_box(0.5_f32), black_box(1.0_f32));
    let mut sums = [[1.0_f32; PORTABLE_LANES]; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for value in sum {
                *value = *value * factor + term;
            }
        }
    }
    black_box(sums);
}

/// The loops for x86-64. A chain takes its input from the sum beside it, so that no product can be moved out
/// of the loop.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, Family, Loop};

    /// What this processor has, best first.
    pub fn families() -> Vec<Family> {
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let bf16 = is_x86_feature_detected!("avx512bf16")
            // SAFETY: the processor has AVX-512 BF16, just looked up.
            .then_some(Loop { run: |rounds| unsafe { bf16_512(rounds) }, ops: 2 * 32 });
        let avx512 = Family {
            instructions: "AVX-512 VNNI",
            // SAFETY: the family is used only if the processor has AVX-512, looked up below.
            read: |memory, prefetch| unsafe { read_512(memory, prefetch) },
            // SAFETY: as above, with VNNI.
            int8: Loop { run: |rounds| unsafe { int8_512(rounds) }, ops: 2 * 64 },
            // SAFETY: as above.
            f32: Loop { run: |rounds| unsafe { f32_512(rounds) }, ops: 2 * 16 },
            bf16,
        };
        let avx2 = Family {
            instructions: "AVX2",
            // SAFETY: the family is used only if the processor has AVX2, looked up below.
            read: |memory, prefetch| unsafe { read_256(memory, prefetch) },
            // SAFETY: as above.
            int8: Loop { run: |rounds| unsafe { int8_256(rounds) }, ops: 2 * 32 },
            // SAFETY: as above, with FMA.
            f32: Loop { run: |rounds| unsafe { f32_256(rounds) }, ops: 2 * 8 },
            bf16: None,
        };
        let all = [has_avx512.then_some(avx512), has_avx2.then_some(avx2)];
        all.into_iter().flatten().collect()
    }

    #[target_feature(enable = "avx512f")]
    fn read_512(memory: &[u32], prefetch: usize) -> u32 {
        super::read(memory, prefetch)
    }

    #[target_feature(enable = "avx2")]
    fn read_256(memory: &[u32], prefetch: usize) -> u32 {
        super::read(memory, prefetch)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn int8_512(rounds: u64) {
        let weight = black_box(_mm512_set1_epi8(3));
        let mut sums = [_mm512_set1_epi32(1); CHAINS];
        for _ in 0..rounds {
            for k in 0..CHAINS {
                sums[k] = _mm512_dpbusd_epi32(sums[k], weight, sums[(k + 1) % CHAINS]);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn f32_512(rounds: u64) {
        let (factor, term) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.0)));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512(rounds: u64) {
        // 0x3e80 is a quarter: the sums stay at ordinary numbers.
        // SAFETY: both types are 512 bits without invalid patterns.
        let quarter: __m512bh = unsafe { std::mem::transmute(black_box(_mm512_set1_epi16(0x3e80))) };
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, quarter, quarter);
            }
        }
        black_box(sums);
    }

    /// Products of bytes summed in 16 bits: what AVX2 does best, while the sums have room.
    #[target_feature(enable = "avx2")]
    fn int8_256(rounds: u64) {
        let weight = black_box(_mm256_set1_epi8(3));
        let mut sums = [_mm256_set1_epi16(1); CHAINS];
        for _ in 0..rounds {
            for k in 0..CHAINS {
                let products = _mm256_maddubs_epi16(weight, sums[(k + 1) % CHAINS]);
                sums[k] = _mm256_add_epi16(sums[k], products);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_256(rounds: u64) {
        let (factor, term) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.0)));
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_measured() {
        let mut pool = Pool::new(2).expect("two threads");
        let families: Vec<Family> = families().into_iter().chain([portable()]).collect();
        // A loop that was optimised away would be above.
        let plausible = 1e7..1e14;
        assert!(plausible.contains(&read_bandwidth(
            &mut pool,
            &families,
            Effort { bytes: 1 << 22, ..QUICK }
        )));
        for family in &families {
            let Peaks { instructions, int8_ops_per_s, f32_ops_per_s, bf16_ops_per_s } =
                family.measure(&mut pool, QUICK);
            for rate in [Some(int8_ops_per_s), Some(f32_ops_per_s), bf16_ops_per_s].into_iter().flatten() {
                assert!(plausible.contains(&rate), "{instructions}: {rate}");
            }
        }
    }

    #[test]
    fn reading_reads_everything() {
        let mut memory = vec![1_u32; 4 * WORDS];
        for family in families() {
            for prefetch in PREFETCH_BYTES {
                assert_eq!((family.read)(&memory, prefetch), 0, "{}", family.instructions);
            }
        }
        memory[3 * WORDS + 5] = 7;
        assert!(families().iter().all(|family| (family.read)(&memory, 0) == 6));
    }
}
