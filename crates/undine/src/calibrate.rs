//! `undine calibrate`: an importance matrix from text.

mod built_in;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use undine_core::OutputKind;
use undine_cpu::{CpuExecutor, MatrixInputs};
use undine_model::{MatrixId, Model};
use undine_weights::{Imatrix, ImatrixEntry, gguf_name};

use crate::args::ExecutorArgs;
use crate::args_calibrate::CalibrateArgs;
use crate::args_eval::WindowArgs;
use crate::error::Error;
use crate::eval::measures::Mean;
use crate::eval::scorer::{Layout, Scorer, bar};
use crate::eval::text::Text;
use crate::eval::windows::{Scoring, Windows};
use crate::format::grouped;
use crate::interrupt;
use crate::open::{self, ModelText};
use crate::session;
use crate::shown::say;

/// Tokens and number of windows that are computed together unless a command says otherwise.
const WINDOWS_DEFAULT: WindowArgs = WindowArgs { context: 512, chunks: None, batch: 4 };

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> Result<(), Error> {
    let imatrix = collected(args.model.as_deref(), args.text.as_deref(), &args.windows, &args.executor)?;
    imatrix.write(&args.output)?;
    say!("wrote {} with {} tensors", args.output.display(), imatrix.entries.len());
    Ok(())
}

/// An importance matrix of a model from this text, or from the one in the program, as `undine calibrate`
/// makes it unless told otherwise.
pub fn automatic(model: &Path, text: Option<&Path>, threads: Option<u16>) -> Result<Imatrix, Error> {
    collected(Some(model), text, &WINDOWS_DEFAULT, &ExecutorArgs::with_threads(threads))
}

fn collected(
    model: Option<&Path>,
    text: Option<&Path>,
    args: &WindowArgs,
    executor: &ExecutorArgs,
) -> Result<Imatrix, Error> {
    let given = text.map(Text::read).transpose()?;
    let checkpoint = open::open(model)?;
    let ModelText { tokenizer, template, note, .. } = ModelText::new(&checkpoint)?;
    let text = given.unwrap_or_else(|| {
        note.iter().for_each(|note| say!("{note}"));
        built_in::text(template.as_ref())
    });
    let windows = Windows::new(&text, args, Scoring::All, &tokenizer, checkpoint.config())?;
    let layout = Layout::new(args, windows.count(), checkpoint.config().vocab);
    let kv = session::kv_type(executor, &checkpoint);
    let model = Arc::new(Model::bind(checkpoint));
    let mut scorer = Scorer::new(Arc::clone(&model), layout, executor, kv)?;
    interrupt::install()?;
    let perplexity = collect(&mut scorer, &windows, layout)?;
    say!(
        "calibrated with {} windows of {} tokens of {}; perplexity {:.4} +/- {:.4}",
        grouped(windows.count() as u64),
        windows.context(),
        text.name,
        perplexity.value,
        perplexity.error
    );
    Ok(Imatrix {
        datasets: vec![text.name],
        chunks: windows.count() as u32,
        chunk_tokens: args.context,
        entries: entries(&model, scorer.executor())?,
    })
}

/// Computes all windows while the executor collects, with the head of every row. Returns the perplexity of
/// all tokens.
pub fn collect(scorer: &mut Scorer, windows: &Windows, layout: Layout) -> Result<Mean, Error> {
    scorer.executor().collect_inputs();
    let mut losses = Vec::with_capacity(windows.scored_tokens());
    layout.each_step(windows, &bar(windows), |step| {
        let kind =
            |window, position| OutputKind::Score { target: windows.token(window, position + 1), top: 0 };
        let rows = scorer.compute(windows, step, kind)?;
        losses.extend(rows.iter().map(|row| -f64::from(row.chosen.logprob)));
        Ok(())
    })?;
    Ok(Mean::of(losses.into_iter()).exp())
}

/// What was collected, by tensor. Tensors that nothing went through are left out: an embedding table that is
/// no head, and the experts of a layer if none was chosen.
pub fn entries(model: &Model, executor: &CpuExecutor) -> Result<BTreeMap<String, ImatrixEntry>, Error> {
    let mut collected: BTreeMap<String, (Vec<f32>, Vec<f32>)> = BTreeMap::new();
    let inputs = |id| executor.inputs(id).expect("collecting was asked for before the first step");
    let mut entries = BTreeMap::new();
    for id in (0..model.matrix_count()).map(|i| MatrixId(i as u32)) {
        let MatrixInputs { rows, squares, products } = inputs(id);
        let name = gguf_name(model.matrix_name(id));
        let sums = squares.into_iter().map(|square| square as f32);
        if products.is_empty() {
            // Matrices of a layer's experts come in their order.
            let (counts, all) = collected.entry(name).or_default();
            counts.push(rows as f32);
            all.extend(sums);
        } else if rows > 0 {
            let entry = ImatrixEntry::new(vec![rows as f32], sums.collect())?;
            entries.insert(name, entry.with_products(&products));
        }
    }
    for (name, (counts, sums)) in collected {
        if counts.iter().any(|&count| count > 0.0) {
            entries.insert(name, ImatrixEntry::new(counts, sums)?);
        }
    }
    Ok(entries)
}
