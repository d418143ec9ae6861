//! `undine eval`: perplexity of a model over a text, and how far it is from a reference.
//!
//! Both models compute the same steps side by side, and rows are measured as they come: memory does not grow with
//! the text.

pub mod measures;
mod report;
pub mod scorer;
pub mod windows;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use undine_core::{OutputKind, TokenId};
use undine_model::Model;
use undine_text::Tokenizer;
use undine_weights::Checkpoint;

use crate::args_eval::EvalArgs;
use crate::error::Error;
use crate::open::{self, ModelText};
use crate::{interrupt, session};
use measures::{Prediction, Scored, Summary, predictions};
use report::Subject;
use scorer::{Layout, Scorer, bar, places};
use windows::Windows;

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
    let model = Opened::new(args.model.as_deref())?;
    let windows = Windows::read(&args.windows, &model.tokenizer, model.checkpoint.config())?;
    let reference = match &args.against {
        None => None,
        Some(path) => {
            let reference = Opened::new(Some(path))?;
            check_same_tokens(args, &model, &reference, &windows)?;
            Some(reference)
        }
    };
    let layout = Layout::new(&args.windows, windows.count(), model.checkpoint.config().vocab);
    let mut sides = Sides {
        model: model.scorer(layout, args)?,
        reference: reference.map(|reference| reference.scorer(layout, args)).transpose()?,
        time: Duration::ZERO,
    };
    interrupt::install()?;
    let measured = sides.measure(&windows, layout, session::threads(&args.executor))?;
    let subject = Subject {
        model: open::display_name(args.model.as_deref()),
        reference: args.against.as_deref().map(|path| open::display_name(Some(path))),
        text: &args.windows.text,
        context: windows.context(),
        windows: windows.count(),
        computed: windows.count() * windows.context(),
        time: sides.time,
    };
    let summary = Summary::of(&measured);
    let text = match args.json {
        true => format!("{:#}\n", report::json(&subject, &summary)),
        false => report::table(&subject, &summary),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Both must read the text as the same tokens, and mean the same by each.
fn check_same_tokens(
    args: &EvalArgs,
    model: &Opened,
    reference: &Opened,
    windows: &Windows,
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
    let theirs = Windows::read(&args.windows, &reference.tokenizer, reference.checkpoint.config())?;
    if !windows.same_tokens(&theirs) {
        return refuse("they read this text as different tokens".to_owned());
    }
    Ok(())
}

/// The model and, if there is one, its reference.
struct Sides {
    model: Scorer,
    reference: Option<Scorer>,
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
        let wanted = windows.scored();
        let mut all = Vec::with_capacity(windows.scored_tokens());
        layout.each_step(windows, &wanted, &bar(windows.count(), "windows"), |step| {
            let logits = |_, _| OutputKind::Logits;
            let started = Instant::now();
            let rows = self.model.compute(windows, step, &wanted, logits)?;
            self.time += started.elapsed();
            let reference = match &mut self.reference {
                Some(reference) => reference.compute(windows, step, &wanted, logits)?,
                None => Vec::new(),
            };
            let scored = rows.iter().zip(places(step, &wanted)).enumerate();
            let scored: Vec<Scored> = scored
                .map(|(i, (row, (window, position)))| Scored {
                    logits: &row.logits,
                    reference: reference.get(i).map(|row| &row.logits[..]),
                    target: windows.token(window, position + 1),
                })
                .collect();
            all.extend(predictions(&scored, threads).ok_or_else(not_finite)?);
            Ok(())
        })?;
        Ok(all)
    }
}

pub fn not_finite() -> Error {
    Error::refused(
        "the model computes logits that are not finite numbers; the file is probably damaged or its weights overflow",
    )
}
