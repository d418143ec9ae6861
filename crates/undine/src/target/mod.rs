//! `undine quantize --target-size` and `--target-kl`: a type for every tensor, by what it costs.
//!
//! Costs are mean KL divergences from the input over a text. A tensor's cost in a type is measured with that
//! tensor alone in the type, or predicted: in one tensor the cost of types goes with their squared error,
//! weighted by the importance matrix, so one measurement gives the factor. Costs of tensors are taken to add
//! up, which gives an order of choices ([`ladder`]). For a size the best choice that fits is taken; for a
//! divergence the choices are measured as a whole until the smallest that keeps to it is found.
//!
//! Memory holds one tensor in one other type at a time, and the reference's predictions. A choice as a whole
//! is a file, which is mapped as the input is.

mod judge;
mod ladder;
mod tensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;
use undine_core::DType;
use undine_model::Model;
use undine_quantize::{Mix, Options, plan};
use undine_weights::{Checkpoint, Imatrix, Source};

use crate::args::ExecutorArgs;
use crate::args_eval::WindowArgs;
use crate::args_target::{Sensitivity, Target, TargetArgs};
use crate::error::Error;
use crate::eval::measures::Mean;
use crate::eval::scorer::Layout;
use crate::eval::text::Text;
use crate::eval::windows::{Scoring, Windows};
use crate::format::Bytes;
use crate::open::{self, ModelText};
use crate::progress::{self, Unit};
use crate::recode::write_with;
use crate::session;
use judge::Judge;
use ladder::{Candidate, Ladder};
use tensors::{Tensor, candidates};

/// Types that a tensor may get, besides the one it has.
const TYPES: [DType; 8] =
    [DType::Q2_K, DType::Q3_K, DType::IQ4_XS, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_0, DType::F16];
/// Types for tensors whose rows are not whole super-blocks.
const TYPES_NARROW: [DType; 4] = [DType::IQ4_NL, DType::Q5_0, DType::Q8_0, DType::F16];
/// The type a tensor is measured in to learn how its error counts: an error large enough to stand out from
/// the rounding of activations, and small enough for costs to be in proportion.
const PROBES: [DType; 2] = [DType::Q3_K, DType::IQ4_NL];
/// The same for a tensor that has one of those already, and so costs nothing in it.
const PROBES_OTHER: [DType; 2] = [DType::Q4_K, DType::Q5_0];
/// Windows computed together.
const BATCH_MAX: u32 = 4;
/// Most choices that are quantized as a whole and measured.
const TRIES_MAX: usize = 8;
/// In the name of a file that is there while it is measured: more than a process writes files.
const SCRATCH: u32 = 1_000_000;

/// A file to be made.
#[derive(Clone, Copy)]
pub struct Goal<'a> {
    /// What it is to reach.
    pub target: Target,
    /// The model, as it was named.
    pub input: &'a Path,
    /// What is in it.
    pub source: &'a Source,
    /// What is wanted of types that are not chosen.
    pub options: &'a Options,
    /// Where the file will be, unless nothing is written.
    pub output: Option<&'a Path>,
}

/// Types by what they cost.
pub struct Chosen {
    /// What to quantize with.
    pub options: Options,
    /// As given, or made from the text.
    pub imatrix: Imatrix,
    judge: Judge,
}

/// The model, its tensors and the measure of other weights of it.
struct Search<'a> {
    goal: Goal<'a>,
    checkpoint: Arc<Checkpoint>,
    model: Arc<Model>,
    imatrix: Imatrix,
    tensors: Vec<Tensor>,
    judge: Judge,
    threads: usize,
}

/// Chooses.
///
/// # Errors
/// If the text cannot be used, or the target cannot be reached.
pub fn choose(args: &TargetArgs, goal: Goal, imatrix: Option<Imatrix>) -> Result<Chosen, Error> {
    let text = args.text.as_deref().ok_or_else(|| Error::usage("expected --text FILE to measure on"))?;
    let text = Text::read(text)?;
    let executor = ExecutorArgs::with_threads(args.threads);
    let checkpoint = open::open(Some(goal.input))?;
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
    let search = Search { goal, checkpoint, model, imatrix, tensors, judge, threads };
    let ladder = Ladder::new(search.costs(args.sensitivity)?);
    let choice = match goal.target {
        Target::Size(size) => search.within(&ladder, size, goal.source.fixed_bytes()?)?,
        Target::Kl(kl) => search.reaching(&ladder, kl)?,
    };
    let options = search.options(&choice);
    Ok(Chosen { options, imatrix: search.imatrix, judge: search.judge })
}

/// A place for a file that is there while it is measured, beside the one to be made. By this name the next
/// run that makes that file removes it, if this one is killed.
fn scratch(output: Option<&Path>) -> PathBuf {
    let process = std::process::id();
    match output.and_then(|output| Some((output, output.file_name()?.to_string_lossy()))) {
        Some((output, name)) => output.with_file_name(format!(".{name}.{process}-{SCRATCH}.partial")),
        None => std::env::temp_dir().join(format!("undine-{process}.gguf")),
    }
}

impl Chosen {
    /// The divergence of the file that was written.
    pub fn verify(&self, out: &Path) -> Result<Mean, Error> {
        self.judge.kl(Arc::new(Model::bind(open::open(Some(out))?)))
    }
}

impl Search<'_> {
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
        let bar = progress::bar(self.tensors.len() as u64, Unit::Count("tensors"));
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
        let mut model = Model::bind(Arc::clone(&self.checkpoint));
        for (id, bytes) in tensor.quantized(&self.model, dtype, self.threads) {
            model.replace_matrix(id, dtype, bytes);
        }
        Ok(self.judge.kl(Arc::new(model))?.value)
    }

    /// The divergence of a choice as a whole.
    fn whole(&self, choice: &[Candidate]) -> Result<f64, Error> {
        let path = scratch(self.goal.output);
        let made = plan(self.goal.source, &self.options(choice), Some(&self.imatrix))?;
        write_with(self.goal.source, (&made.recodings[..], made.file_type), &path, &ProgressBar::hidden())?;
        let checkpoint = Checkpoint::open(&path);
        // What is mapped stays without a name; where it cannot be removed yet, it is below.
        let is_removed = std::fs::remove_file(&path).is_ok();
        let kl = self.judge.kl(Arc::new(Model::bind(Arc::new(checkpoint?))));
        if !is_removed {
            std::fs::remove_file(&path).map_err(|source| Error::file(&path, source))?;
        }
        Ok(kl?.value)
    }

    /// What to quantize with to get the types of a choice.
    fn options(&self, choice: &[Candidate]) -> Options {
        let mut options = self.goal.options.clone();
        let mut totals: BTreeMap<DType, u64> = BTreeMap::new();
        for (tensor, candidate) in self.tensors.iter().zip(choice) {
            *totals.entry(candidate.dtype).or_default() += tensor.values();
            let pattern = format!("^{}$={}", tensor.name.replace('.', r"\."), candidate.dtype);
            options.overrides.push(pattern.parse().expect("a name with its dots escaped is a pattern"));
        }
        // The mix says what the file is called: the type that most values have.
        let most = totals.into_iter().max_by_key(|&(_, total)| total).map(|(dtype, _)| dtype);
        let mix = Mix::ALL.iter().copied().find(|mix| Some(mix.base()) == most);
        options.mix = mix.unwrap_or(options.mix);
        options
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
        // `enough` steps keep to the target, `few` do not; how much measured costs are above predicted ones
        // is learned.
        let (mut few, mut enough, mut factor) = (None, None, 1.0);
        let bar = progress::bar(TRIES_MAX as u64, Unit::Count("tries"));
        for _ in 0..TRIES_MAX {
            let (first, end) = (few.map_or(0, |few: usize| few + 1), enough.unwrap_or(ladder.len() + 1));
            if first >= end {
                break;
            }
            let guess = (first..end).find(|&steps| predicted(steps) * factor <= target).unwrap_or(end - 1);
            let kl = self.whole(&ladder.at(guess))?;
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
