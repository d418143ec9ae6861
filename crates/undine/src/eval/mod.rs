//! `undine eval`: perplexity of a model over a text, and how far it is from a reference.
//!
//! Both models compute the same steps side by side, or the reference's predictions are read from a file; rows
//! are measured as they come: memory does not grow with the text.

pub mod measures;
mod report;
mod saved;
pub mod scorer;
pub mod text;
pub mod windows;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use undine_core::{OutputKind, RowOutput, TokenId};
use undine_model::Model;
use undine_text::Tokenizer;
use undine_weights::Checkpoint;

use crate::args_eval::EvalArgs;
use crate::error::Error;
use crate::open::{self, ModelText};
use crate::shown::{self, say};
use crate::{interrupt, session};
use measures::{Prediction, Reference, Scored, Summary, predictions};
use report::Subject;
pub use saved::Saved;
use saved::SavedRow;
use scorer::{Layout, Part, Scorer, bar, places};
use text::Text;
use windows::{Scoring, Windows};

/// A checkpoint that is measured, with its tokenizer.
struct Opened {
    checkpoint: Arc<Checkpoint>,
    tokenizer: Arc<Tokenizer>,
}

impl Opened {
    fn new(model: Option<&Path>) -> Result<Self, Error> {
        let checkpoint = open::open(model)?;
        let tokenizer = ModelText::new(&checkpoint)?.tokenizer;
        Ok(Self { checkpoint, tokenizer })
    }

    fn scorer(&self, layout: Layout, args: &EvalArgs) -> Result<Scorer, Error> {
        let kv = session::kv_type(&args.executor, &self.checkpoint);
        Scorer::new(Arc::new(Model::bind(Arc::clone(&self.checkpoint))), layout, &args.executor, kv)
    }
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<(), Error> {
    let text = Text::read(&args.text)?;
    let model = Opened::new(args.model.as_deref())?;
    let mut windows = cut(args, &text, &model)?;
    let vocab = model.checkpoint.config().vocab;
    let reference = match &args.against {
        None => None,
        Some(path) => {
            let reference = Opened::new(Some(path))?;
            check_same_tokens(&model, &reference, &windows, &cut(args, &text, &reference)?)?;
            Some(reference)
        }
    };
    let mut saved = args.logits.as_deref().map(Saved::open).transpose()?;
    if let Some(saved) = &mut saved {
        saved.check(&mut windows, vocab, args.windows.chunks)?;
    }
    let writer = |path: &Path| saved::Writer::create(path, &windows, vocab);
    let writer = args.save_logits.as_deref().map(writer).transpose()?;
    let layout = Layout::new(&args.windows, windows.count(), vocab);
    let reference = reference.map(|reference| reference.scorer(layout, args)).transpose()?;
    let mut sides = Sides {
        model: model.scorer(layout, args)?,
        other: reference.map(Box::new).map(Other::Computed).or(saved.map(Other::Saved)),
        writer,
        time: Duration::ZERO,
    };
    interrupt::install()?;
    let measured = sides.measure(&windows, layout, session::threads(&args.executor))?;
    let name = |path: &Path| open::display_name(Some(path));
    let subject = Subject {
        model: open::display_name(args.model.as_deref()),
        reference: args.against.as_deref().or(args.logits.as_deref()).map(name),
        text: &text.name,
        context: windows.context(),
        stride: args.stride,
        windows: windows.count(),
        computed: windows.computed_tokens(),
        time: sides.time,
    };
    if let (Some(writer), Some(path)) = (sides.writer.take(), &args.save_logits) {
        writer.commit()?;
        say!("wrote {}, for --logits", path.display());
    }
    let summary = Summary::of(&measured);
    let text = match args.json {
        true => format!("{:#}\n", report::json(&subject, &summary)),
        false => report::table(&subject, &summary),
    };
    let mut out = shown::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The windows of the text as a checkpoint reads it.
fn cut(args: &EvalArgs, text: &Text, opened: &Opened) -> Result<Windows, Error> {
    let scoring = match args.stride {
        Some(stride) => Scoring::Sliding { stride: stride as usize },
        None => Scoring::SecondHalf,
    };
    Windows::new(text, &args.windows, scoring, &opened.tokenizer, opened.checkpoint.config())
}

/// Both must read the text as the same tokens, and mean the same by each.
fn check_same_tokens(
    model: &Opened,
    reference: &Opened,
    windows: &Windows,
    reference_windows: &Windows,
) -> Result<(), Error> {
    let (ours, theirs) = (model.checkpoint.config().vocab, reference.checkpoint.config().vocab);
    let refuse = |found: String| {
        Err(Error::refused(format!(
            "the model and its reference must have the same tokenizer, but {found}; \
             compare checkpoints of the same model"
        )))
    };
    if ours != theirs {
        return refuse(format!("one has {ours} tokens and the other {theirs}"));
    }
    let differs = |&id: &TokenId| model.tokenizer.token_bytes(id) != reference.tokenizer.token_bytes(id);
    if let Some(id) = (0..ours as TokenId).find(differs) {
        return refuse(format!("token {id} is not the same text in both"));
    }
    if !windows.same_tokens(reference_windows) {
        return refuse("they read this text as different tokens".to_owned());
    }
    Ok(())
}

/// What a model is compared with.
enum Other {
    /// A checkpoint.
    Computed(Box<Scorer>),
    /// A file of its predictions.
    Saved(Saved),
}

/// Predictions of a reference in a step.
enum OtherRows {
    None,
    Computed(Vec<RowOutput>),
    Saved(Vec<SavedRow>),
}

impl OtherRows {
    fn get(&self, row: usize) -> Option<Reference<'_>> {
        match self {
            Self::None => None,
            Self::Computed(rows) => Some(Reference::Logits(&rows[row].logits)),
            Self::Saved(rows) => Some(Reference::Saved(&rows[row])),
        }
    }
}

/// The model and what it is compared with.
struct Sides {
    model: Scorer,
    other: Option<Other>,
    /// Where the model's predictions go.
    writer: Option<saved::Writer>,
    /// Spent in the model.
    time: Duration,
}

impl Sides {
    /// Computes all windows and measures every prediction that counts.
    fn measure(
        &mut self,
        windows: &Windows,
        layout: Layout,
        threads: usize,
    ) -> Result<Vec<Prediction>, Error> {
        let mut all = Vec::with_capacity(windows.scored_tokens());
        layout.each_step(windows, &bar(windows), |step| {
            let started = Instant::now();
            let rows = self.model.compute(windows, step, |_, _| OutputKind::Logits)?;
            self.time += started.elapsed();
            let other = self.other_rows(windows, step)?;
            let scored = rows.iter().zip(places(windows, step)).enumerate();
            let scored: Vec<Scored> = scored
                .map(|(i, (row, (window, position)))| Scored {
                    logits: &row.logits,
                    reference: other.get(i),
                    target: windows.token(window, position + 1),
                })
                .collect();
            all.extend(predictions(&scored, threads).ok_or_else(not_finite)?);
            match &mut self.writer {
                Some(writer) => rows.iter().try_for_each(|row| writer.append(&row.logits)),
                None => Ok(()),
            }
        })?;
        Ok(all)
    }

    fn other_rows(&mut self, windows: &Windows, step: &[Part]) -> Result<OtherRows, Error> {
        Ok(match &mut self.other {
            None => OtherRows::None,
            Some(Other::Computed(scorer)) => {
                OtherRows::Computed(scorer.compute(windows, step, |_, _| OutputKind::Logits)?)
            }
            Some(Other::Saved(saved)) => {
                OtherRows::Saved(places(windows, step).map(|_| saved.read()).collect::<Result<_, _>>()?)
            }
        })
    }
}

pub fn not_finite() -> Error {
    Error::refused(
        "the model computes logits that are not finite numbers; the file is probably damaged or its weights overflow",
    )
}
