//! From logits to a token: the one definition that every backend follows.
//!
//! Order: log-probabilities of the raw logits are kept for reporting; then biases (unless they would forbid
//! all that the mask allows) and the mask, repetition penalty (prompt and answer), presence and frequency
//! penalties (answer only), temperature, min-p, top-k, top-p, draw. The random number depends only on the
//! seed and the index of the token, so the same request gives the same text however it is batched. Penalties
//! as in Keskar et al. 2019 (repetition) and the OpenAI API (presence, frequency); min-p as in Nguyen et al.
//! 2024.

use crate::TokenId;
use crate::batch::{Batch, OutputKind, OutputRow, RowOutput, TokenScore};

/// Below this temperature the best token is taken.
pub const GREEDY_TEMPERATURE: f32 = 1e-5;

/// How to choose the next token. The default is plain sampling from the model's distribution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SamplingParams {
    /// Divides the logits; below [`GREEDY_TEMPERATURE`] the best token is taken.
    pub temperature: f32,
    /// Keep the k best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of best tokens with at least this probability.
    pub top_p: f32,
    /// Keep tokens with at least this fraction of the best token's probability.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens seen in the answer.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the answer.
    pub frequency_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
    /// How many of the best tokens to report with each sampled one; `None` reports no log-probability.
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Always the best token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether the sampler needs the tokens so far.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Memory a sampler reuses from call to call.
#[derive(Default)]
pub struct SamplerScratch {
    counts: Vec<(TokenId, u32, bool)>,
    candidates: Vec<TokenScore>,
}

/// Applies `output` to the logits of its row. `logits` has one entry per vocabulary entry and is overwritten.
pub fn finish_row(
    batch: &Batch,
    output: &OutputRow,
    logits: &mut [f32],
    scratch: &mut SamplerScratch,
) -> RowOutput {
    match &output.kind {
        OutputKind::Logits => {
            let best = argmax(logits);
            let chosen = TokenScore { token: best, logprob: log_softmax_of(logits, best) };
            RowOutput { chosen, rank: 1, top: Vec::new(), logits: logits.to_vec() }
        }
        OutputKind::Score { target, top } => score(logits, *target, *top),
        OutputKind::Sample { params, output_index, history, history_prompt, biases, mask } => {
            let report = params.logprobs.map(|top| (log_sum_exp(logits), best_of(logits, top)));
            let raw = params.logprobs.map(|_| logits.to_vec());
            let biases = &batch.biases[biases.start as usize..biases.end as usize];
            let mask = mask.as_ref().map_or(&[][..], |mask| mask.wait());
            // A mask knows what can follow at all; biases are wishes.
            if mask.is_empty() || leaves_any(logits, biases, mask) {
                biases.iter().for_each(|&(token, bias)| logits[token as usize] += bias);
            }
            apply_mask(logits, mask);
            let history = &batch.history[history.start as usize..history.end as usize];
            penalize(logits, params, history, *history_prompt as usize, scratch);
            let token = choose(logits, params, *output_index, scratch);
            match (report, raw) {
                (Some((norm, mut top)), Some(raw)) => {
                    top.iter_mut().for_each(|score| score.logprob -= norm);
                    let value = raw[token as usize];
                    let rank = 1 + raw.iter().filter(|&&other| other > value).count() as u32;
                    RowOutput {
                        chosen: TokenScore { token, logprob: value - norm },
                        rank,
                        top,
                        logits: Vec::new(),
                    }
                }
                _ => RowOutput {
                    chosen: TokenScore { token, logprob: 0.0 },
                    rank: 0,
                    top: Vec::new(),
                    logits: Vec::new(),
                },
            }
        }
    }
}

fn score(logits: &[f32], target: TokenId, top: u32) -> RowOutput {
    let norm = log_sum_exp(logits);
    let value = logits[target as usize];
    let mut best = best_of(logits, top);
    best.iter_mut().for_each(|score| score.logprob -= norm);
    let rank = 1 + logits.iter().filter(|&&other| other > value).count() as u32;
    RowOutput {
        chosen: TokenScore { token: target, logprob: value - norm },
        rank,
        top: best,
        logits: Vec::new(),
    }
}

/// Whether a token is left that the mask allows and no bias forbids.
fn leaves_any(logits: &[f32], biases: &[(TokenId, f32)], mask: &[u32]) -> bool {
    let forbids = |token: usize| biases.contains(&(token as TokenId, f32::NEG_INFINITY));
    mask.iter().enumerate().any(|(i, &word)| {
        let mut left = word;
        while left != 0 {
            let token = 32 * i + left.trailing_zeros() as usize;
            if logits.get(token).is_some_and(|&logit| logit > f32::NEG_INFINITY) && !forbids(token) {
                return true;
            }
            left &= left - 1;
        }
        false
    })
}

/// Forbids every token without a bit; no words allow all.
fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    if mask.is_empty() {
        return;
    }
    // Some checkpoints have more rows than tokens; what no word is there for is not allowed either.
    let words = mask.iter().chain(std::iter::repeat(&0));
    for (chunk, &word) in logits.chunks_mut(32).zip(words) {
        for (bit, logit) in chunk.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

fn penalize(
    logits: &mut [f32],
    params: &SamplingParams,
    history: &[TokenId],
    prompt: usize,
    scratch: &mut SamplerScratch,
) {
    if !params.needs_history() {
        return;
    }
    // Sorting the history groups equal tokens without a table the size of the vocabulary.
    let counts = &mut scratch.counts;
    counts.clear();
    counts.extend(history.iter().enumerate().map(|(i, &token)| (token, u32::from(i >= prompt), false)));
    counts.sort_unstable_by_key(|&(token, ..)| token);
    for group in counts.chunk_by(|a, b| a.0 == b.0) {
        let logit = &mut logits[group[0].0 as usize];
        let in_answer: u32 = group.iter().map(|&(_, answer, _)| answer).sum();
        *logit = if *logit > 0.0 {
            *logit / params.repetition_penalty
        } else {
            *logit * params.repetition_penalty
        };
        if in_answer > 0 {
            *logit -= params.presence_penalty + params.frequency_penalty * in_answer as f32;
        }
    }
}

fn choose(
    logits: &[f32],
    params: &SamplingParams,
    output_index: u32,
    scratch: &mut SamplerScratch,
) -> TokenId {
    if params.temperature < GREEDY_TEMPERATURE {
        return argmax(logits);
    }
    let best = logits[argmax(logits) as usize];
    // A logit below this has less than min_p of the best token's probability.
    let floor =
        if params.min_p > 0.0 { best + params.min_p.ln() * params.temperature } else { f32::NEG_INFINITY };
    let candidates = &mut scratch.candidates;
    candidates.clear();
    candidates.extend(
        logits
            .iter()
            .enumerate()
            .filter(|&(_, &logit)| logit >= floor && logit > f32::NEG_INFINITY)
            .map(|(token, &logprob)| TokenScore { token: token as TokenId, logprob }),
    );
    if params.top_k > 0 && (params.top_k as usize) < candidates.len() {
        candidates.select_nth_unstable_by(params.top_k as usize - 1, better);
        candidates.truncate(params.top_k as usize);
    }
    if candidates.is_empty() {
        return argmax(logits);
    }
    let mut total = 0.0f64;
    for candidate in candidates.iter_mut() {
        candidate.logprob = ((candidate.logprob - best) / params.temperature).exp();
        total += f64::from(candidate.logprob);
    }
    if params.top_p < 1.0 {
        candidates.sort_unstable_by(better);
        let wanted = f64::from(params.top_p) * total;
        let mut sum = 0.0;
        let mut kept = 0;
        while kept < candidates.len() && (kept == 0 || sum < wanted) {
            sum += f64::from(candidates[kept].logprob);
            kept += 1;
        }
        candidates.truncate(kept);
        total = sum;
    }
    let mut left = uniform(params.seed, output_index) * total;
    for candidate in candidates.iter() {
        left -= f64::from(candidate.logprob);
        if left < 0.0 {
            return candidate.token;
        }
    }
    candidates.last().map_or(0, |candidate| candidate.token)
}

/// Better first: larger value, then smaller id, so that ties have one answer.
fn better(a: &TokenScore, b: &TokenScore) -> std::cmp::Ordering {
    b.logprob.total_cmp(&a.logprob).then(a.token.cmp(&b.token))
}

/// The best token; the smallest id among equals.
pub fn argmax(logits: &[f32]) -> TokenId {
    // Two passes of plain loops vectorise; one pass that carries the index does not.
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == max).unwrap_or(0) as TokenId
}

fn best_of(logits: &[f32], top: u32) -> Vec<TokenScore> {
    let top = (top as usize).min(logits.len());
    let mut best: Vec<TokenScore> = Vec::with_capacity(top + 1);
    if top == 0 {
        return best;
    }
    for (token, &logprob) in logits.iter().enumerate() {
        let score = TokenScore { token: token as TokenId, logprob };
        if best.len() < top || better(&score, &best[top - 1]).is_lt() {
            let place = best.partition_point(|other| better(other, &score).is_lt());
            best.insert(place, score);
            best.truncate(top);
        }
    }
    best
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let best = logits[argmax(logits) as usize];
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - best).exp())).sum();
    best + sum.ln() as f32
}

fn log_softmax_of(logits: &[f32], token: TokenId) -> f32 {
    logits[token as usize] - log_sum_exp(logits)
}

/// A number in `0..1` that depends only on its arguments (SplitMix64, Steele et al. 2014).
fn uniform(seed: u64, index: u32) -> f64 {
    let mut z = seed.wrapping_add((u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenMask;

    fn sample(
        logits: &[f32],
        params: SamplingParams,
        index: u32,
        history: &[TokenId],
        prompt: u32,
    ) -> TokenId {
        let batch = Batch { history: history.to_vec(), ..Batch::default() };
        let kind = OutputKind::Sample {
            params,
            output_index: index,
            history: 0..history.len() as u32,
            history_prompt: prompt,
            biases: 0..0,
            mask: None,
        };
        finish_row(&batch, &OutputRow { row: 0, kind }, &mut logits.to_vec(), &mut SamplerScratch::default())
            .chosen
            .token
    }

    fn support(logits: &[f32], params: SamplingParams) -> Vec<TokenId> {
        let mut seen: Vec<TokenId> = (0..2000).map(|i| sample(logits, params, i, &[], 0)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn filters_keep_the_tokens_they_should() {
        // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
        let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.0625, 0.0625].iter().map(|p| p.ln()).collect();
        let base = SamplingParams::default();
        assert_eq!(support(&logits, base), [0, 1, 2, 3, 4]);
        assert_eq!(support(&logits, SamplingParams { top_k: 2, ..base }), [0, 1]);
        assert_eq!(support(&logits, SamplingParams { top_p: 0.7, ..base }), [0, 1]);
        assert_eq!(support(&logits, SamplingParams { top_p: 0.0, ..base }), [0]);
        assert_eq!(support(&logits, SamplingParams { min_p: 0.24, ..base }), [0, 1, 2]);
        assert_eq!(support(&logits, SamplingParams { temperature: 0.0, ..base }), [0]);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let logits: Vec<f32> = [0.7f32, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let draws = 20_000;
        let mut counts = [0u32; 3];
        (0..draws).for_each(|i| counts[sample(&logits, SamplingParams::default(), i, &[], 0) as usize] += 1);
        for (count, p) in counts.iter().zip([0.7, 0.2, 0.1]) {
            assert!((f64::from(*count) / f64::from(draws) - p).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn penalties_hit_the_tokens_they_should() {
        let greedy = SamplingParams::greedy();
        let logits = [2.0, 1.9, -1.0];
        assert_eq!(sample(&logits, SamplingParams { repetition_penalty: 1.2, ..greedy }, 0, &[0], 1), 1);
        assert_eq!(
            sample(&logits, SamplingParams { presence_penalty: 0.5, ..greedy }, 0, &[0], 1),
            0,
            "prompt is exempt"
        );
        assert_eq!(sample(&logits, SamplingParams { presence_penalty: 0.5, ..greedy }, 0, &[0], 0), 1);
        assert_eq!(sample(&logits, SamplingParams { frequency_penalty: 0.06, ..greedy }, 0, &[0], 0), 0);
        assert_eq!(sample(&logits, SamplingParams { frequency_penalty: 0.06, ..greedy }, 0, &[0, 0], 0), 1);
    }

    #[test]
    fn a_mask_wins_over_biases_and_may_allow_nothing() {
        let forbid = |tokens: &[TokenId]| tokens.iter().map(|&token| (token, f32::NEG_INFINITY)).collect();
        type Case = (&'static str, Vec<u32>, Vec<(TokenId, f32)>, TokenId);
        let cases: [Case; 7] = [
            ("no words allow all", vec![], forbid(&[33]), 32),
            ("one of two is biased away", vec![1 << 2 | 1 << 3, 0], forbid(&[3]), 2),
            ("all that is allowed is biased away", vec![1 << 3, 1 << 2], forbid(&[3, 34]), 34),
            ("a wish among what is allowed", vec![1 << 3, 1 << 2], vec![(3, 100.0)], 3),
            (
                "no wish if it leaves nothing",
                vec![1 << 3, 1 << 2],
                [forbid(&[3, 34]), vec![(3, 9.0)]].concat(),
                34,
            ),
            ("logits beyond the mask", vec![1 << 3], vec![], 3),
            ("nothing at all", vec![0, 0], forbid(&[3]), 0),
        ];
        // Tokens from 32 on are better than the others, and small ones better than large ones.
        let raw: Vec<f32> =
            (0..35).map(|i| if i >= 32 { 2.0 } else { 0.0 } - (i as f32 - 1.0).abs() / 50.0).collect();
        for temperature in [0.0, 1e-4] {
            for (what, mask, biases, wanted) in &cases {
                let batch = Batch { biases: biases.clone(), ..Batch::default() };
                let kind = OutputKind::Sample {
                    params: SamplingParams {
                        temperature,
                        min_p: 0.01,
                        logprobs: Some(1),
                        ..SamplingParams::default()
                    },
                    output_index: 0,
                    history: 0..0,
                    history_prompt: 0,
                    biases: 0..biases.len() as u32,
                    mask: Some(TokenMask::ready(mask.clone())),
                };
                let output = OutputRow { row: 0, kind };
                let out = finish_row(&batch, &output, &mut raw.clone(), &mut SamplerScratch::default());
                assert_eq!(out.chosen.token, *wanted, "{what}");
                assert!(out.chosen.logprob.is_finite(), "{what}");
            }
        }
    }

    #[test]
    fn reported_logprobs_are_the_models_own() {
        let params = SamplingParams { logprobs: Some(2), ..SamplingParams::greedy() };
        let batch = Batch { biases: vec![(0, -100.0)], ..Batch::default() };
        let kind = OutputKind::Sample {
            params,
            output_index: 0,
            history: 0..0,
            history_prompt: 0,
            biases: 0..1,
            mask: Some(TokenMask::ready(vec![0b101])),
        };
        let mut logits = [0.5f32, 0.3, 0.2].map(f32::ln);
        let out =
            finish_row(&batch, &OutputRow { row: 0, kind }, &mut logits, &mut SamplerScratch::default());
        assert_eq!((out.chosen.token, out.rank), (2, 3), "token 0 is biased away and token 1 is masked");
        assert!((out.chosen.logprob - 0.2f32.ln()).abs() < 1e-6);
        assert_eq!(out.top.iter().map(|score| score.token).collect::<Vec<_>>(), [0, 1]);
    }
}
