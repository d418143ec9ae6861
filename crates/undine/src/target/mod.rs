//! `undine quantize --target-size` and `--target-kl`: a type for every tensor, by what it costs.
//!
//! Costs are mean KL divergences from the input over a text. A tensor's cost in a type is measured with that tensor alone
//! in the type, or predicted: in one tensor the cost of types goes with their squared error, weighted by the importance
//! matrix, so one measurement gives the factor. Costs of tensors are taken to add up, which gives an order of choices
//! ([`ladder`]). For a size the best choice that fits is taken; for a divergence the choices are measured as a whole
//! until the smallest that keeps to it is found.

mod judge;
mod ladder;
mod tensors;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use undine_core::DType;
use undine_model::{MatrixId, Model};
use undine_weights::{Checkpoint, Imatrix};

use crate::args::{ComputeDtype, ExecutorArgs, KvCacheDtype};
use crate::args_eval::WindowArgs;
use crate::args_target::{Sensitivity, Target, TargetArgs};
use crate::error::Error;
use crate::eval::measures::Mean;
use crate::eval::scorer::{Layout, bar};
use crate::eval::text::Text;
use crate::eval::windows::{Scoring, Windows};
use crate::format::Bytes;
use crate::open::{self, ModelText};
use crate::session;
use judge::Judge;
use ladder::{Candidate, Ladder};
use tensors::{Quantized, Tensor, candidates};

/// Types that a tensor may get, besides the one it has.
const TYPES: [DType; 8] =
    [DType::Q2_K, DType::Q3_K, DType::IQ4_XS, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_0, DType::F16];
/// Types for tensors whose rows are not whole super-blocks.
const TYPES_NARROW: [DType; 4] = [DType::IQ4_NL, DType::Q5_0, DType::Q8_0, DType::F16];
/// The type a tensor is measured in to learn how its error counts: an error large enough to stand out from the rounding
/// of activations, and small enough for costs to be in proportion.
const PROBES: [DType; 2] = [DType::Q3_K, DType::IQ4_NL];
/// The same for a tensor that has one of those already, and so costs nothing in it.
const PROBES_OTHER: [DType; 2] = [DType::Q4_K, DType::Q5_0];
/// Windows computed together.
const BATCH_MAX: u32 = 4;
/// Most choices that are quantized as a whole and measured.
const TRIES_MAX: usize = 8;

/// A type for every tensor, and what it was chosen by.
pub struct Chosen {
    /// By GGUF name.
    pub types: BTreeMap<String, DType>,
    /// As given, or made from the text.
    pub imatrix: Imatrix,
    judge: Judge,
}

/// The model, its tensors and the measure of other weights of it.
struct Search {
    checkpoint: Arc<Checkpoint>,
    model: Arc<Model>,
    tensors: Vec<Tensor>,
    judge: Judge,
    threads: usize,
}

/// Chooses for the model at `input`. `fixed_bytes` are those of the file that have no choice: its header, and tensors that
/// stay as they are.
///
/// # Errors
/// If the text cannot be used, or the target cannot be reached.
pub fn choose(
    args: &TargetArgs,
    target: Target,
    input: &Path,
    imatrix: Option<Imatrix>,
    fixed_bytes: u64,
) -> Result<Chosen, Error> {
    let text = args.text.as_deref().ok_or_else(|| Error::usage("expected --text FILE to measure on"))?;
    let text = Text::read(text)?;
    let executor =
        ExecutorArgs { threads: args.threads, kv_cache_dtype: KvCacheDtype::Auto, dtype: ComputeDtype::Auto };
    let checkpoint = open::open(Some(input))?;
    let tokenizer = ModelText::new(&checkpoint)?.tokenizer;
    let windows =
        WindowArgs { context: args.context, chunks: Some(args.chunks), batch: args.chunks.min(BATCH_MAX) };
    let (windows, layout) = {
        let read = Windows::new(&text, &windows, Scoring::SecondHalf, &tokenizer, checkpoint.config())?;
        let layout = Layout::new(&windows, read.count(), checkpoint.config().vocab);
        (read, layout)
    };
    let (chunks, chunk_tokens) = (windows.count() as u32, args.context);
    let model = Arc::new(Model::bind(Arc::clone(&checkpoint)));
    let threads = session::threads(&executor);
    let (judge, entries) = Judge::new(&model, windows, layout, executor)?;
    let made = || Imatrix { datasets: vec![text.name], chunks, chunk_tokens, entries };
    let imatrix = imatrix.unwrap_or_else(made);
    let tensors = Tensor::all(&model, &imatrix)?;
    let search = Search { checkpoint, model, tensors, judge, threads };
    let ladder = Ladder::new(search.costs(args.sensitivity)?);
    let choice = match target {
        Target::Size(size) => search.within(&ladder, size, fixed_bytes)?,
        Target::Kl(kl) => search.reaching(&ladder, kl)?,
    };
    let names = search.tensors.iter().map(|tensor| tensor.name.clone());
    let types = names.zip(choice).map(|(name, candidate)| (name, candidate.dtype)).collect();
    Ok(Chosen { types, imatrix, judge: search.judge })
}

impl Chosen {
    /// The type that most values have.
    pub fn most(&self, values: impl Fn(&str) -> u64) -> DType {
        let mut totals: BTreeMap<DType, u64> = BTreeMap::new();
        self.types.iter().for_each(|(name, dtype)| *totals.entry(*dtype).or_default() += values(name));
        totals.into_iter().max_by_key(|&(_, total)| total).map_or(DType::F32, |(dtype, _)| dtype)
    }

    /// The divergence of the file that was written.
    pub fn verify(&self, out: &Path) -> Result<Mean, Error> {
        self.judge.kl(Arc::new(Model::bind(open::open(Some(out))?)))
    }
}

impl Search {
    /// What a tensor may become, and the type to measure it in.
    fn types(&self, tensor: &Tensor) -> (&'static [DType], DType) {
        let own = tensor.dtype(&self.model);
        let probe = |i: usize| if own == PROBES[i] { PROBES_OTHER[i] } else { PROBES[i] };
        match tensor.bytes(PROBES[0]) {
            Some(_) => (&TYPES, probe(0)),
            None => (&TYPES_NARROW, probe(1)),
        }
    }

    /// Candidates of every tensor with what they cost.
    fn costs(&self, sensitivity: Sensitivity) -> Result<Vec<Vec<Candidate>>, Error> {
        let types = |tensor: &Tensor| self.types(tensor).0;
        let mut all = candidates(&self.model, &self.tensors, types, self.threads);
        let own = |tensor: &Tensor| tensor.dtype(&self.model);
        let bar = bar(self.tensors.len(), "tensors");
        for (tensor, candidates) in self.tensors.iter().zip(&mut all) {
            let probe = self.types(tensor).1;
            match sensitivity {
                Sensitivity::Error => {}
                Sensitivity::Every => {
                    for candidate in candidates.iter_mut().filter(|candidate| candidate.dtype != own(tensor))
                    {
                        candidate.loss = self.alone(tensor, candidate.dtype)?;
                    }
                }
                Sensitivity::Probe => {
                    let error = candidates.iter().find(|candidate| candidate.dtype == probe);
                    let factor = match error.map(|candidate| candidate.loss) {
                        Some(error) if error > 0.0 => self.alone(tensor, probe)? / error,
                        // A tensor of zeros is the same in every type.
                        _ => 0.0,
                    };
                    candidates.iter_mut().for_each(|candidate| candidate.loss *= factor);
                }
            }
            bar.inc(1);
        }
        Ok(all)
    }

    /// The divergence with one tensor in another type.
    fn alone(&self, tensor: &Tensor, dtype: DType) -> Result<f64, Error> {
        self.measured(
            tensor
                .quantized(&self.model, dtype, self.threads)
                .into_iter()
                .map(|(id, bytes)| (id, dtype, bytes)),
        )
    }

    /// The divergence with some matrices replaced.
    fn measured(&self, replaced: impl Iterator<Item = (MatrixId, DType, Arc<[u8]>)>) -> Result<f64, Error> {
        let mut model = Model::bind(Arc::clone(&self.checkpoint));
        replaced.for_each(|(id, dtype, bytes)| model.replace_matrix(id, dtype, bytes));
        Ok(self.judge.kl(Arc::new(model))?.value)
    }

    fn within(&self, ladder: &Ladder, size: u64, fixed_bytes: u64) -> Result<Vec<Candidate>, Error> {
        let choice = size.checked_sub(fixed_bytes).and_then(|bytes| ladder.within(bytes));
        choice.ok_or_else(|| {
            let least: u64 = ladder.at(0).iter().map(|candidate| candidate.bytes).sum();
            Error::refused(format!(
                "--target-size {}: the smallest file that can be made has {}",
                Bytes(size),
                Bytes(least + fixed_bytes)
            ))
        })
    }

    /// The smallest choice whose measured divergence is at most `target`, as far as some tries tell.
    fn reaching(&self, ladder: &Ladder, target: f64) -> Result<Vec<Candidate>, Error> {
        let predicted =
            |steps: usize| -> f64 { ladder.at(steps).iter().map(|candidate| candidate.loss).sum() };
        let mut quantized = Known::default();
        // `enough` steps keep to the target, `few` do not; how much measured costs are above predicted ones is learned.
        let (mut few, mut enough, mut factor) = (None, None, 1.0);
        let bar = bar(TRIES_MAX, "tries");
        for _ in 0..TRIES_MAX {
            let (first, end) = (few.map_or(0, |few: usize| few + 1), enough.unwrap_or(ladder.len() + 1));
            if first >= end {
                break;
            }
            let guess = (first..end).find(|&steps| predicted(steps) * factor <= target).unwrap_or(end - 1);
            let kl = self.measured(quantized.choice(self, &ladder.at(guess)))?;
            if predicted(guess) > 0.0 && kl > 0.0 {
                factor = kl / predicted(guess);
            }
            if kl <= target {
                enough = Some(guess)
            } else {
                few = Some(guess)
            }
            bar.inc(1);
        }
        let Some(enough) = enough else {
            return Err(Error::refused(format!(
                "--target-kl {target} is not reached by any choice of types; expected a larger divergence"
            )));
        };
        Ok(ladder.at(enough))
    }
}

/// Tensors in the types of the last choice, so that the next one quantizes only what changes.
#[derive(Default)]
struct Known(BTreeMap<usize, (DType, Quantized)>);

impl Known {
    /// All matrices of a choice, those that change anew.
    fn choice(
        &mut self,
        search: &Search,
        choice: &[Candidate],
    ) -> impl Iterator<Item = (MatrixId, DType, Arc<[u8]>)> + '_ {
        for (i, (tensor, candidate)) in search.tensors.iter().zip(choice).enumerate() {
            let known = self.0.get(&i).is_some_and(|(dtype, _)| *dtype == candidate.dtype);
            if candidate.dtype == tensor.dtype(&search.model) {
                self.0.remove(&i);
            } else if !known {
                let matrices = tensor.quantized(&search.model, candidate.dtype, search.threads);
                self.0.insert(i, (candidate.dtype, matrices));
            }
        }
        let matrices = |(dtype, matrices): &(DType, Quantized)| {
            let dtype = *dtype;
            matrices.clone().into_iter().map(move |(id, bytes)| (id, dtype, bytes))
        };
        self.0.values().flat_map(matrices)
    }
}
