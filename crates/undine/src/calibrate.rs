//! `undine calibrate`: an importance matrix from text.

use std::collections::BTreeMap;
use std::sync::Arc;

use undine_core::OutputKind;
use undine_cpu::{CpuExecutor, MatrixInputs};
use undine_model::{MatrixId, Model};
use undine_weights::{Imatrix, ImatrixEntry, gguf_name};

use crate::args_calibrate::CalibrateArgs;
use crate::error::Error;
use crate::eval::measures::Mean;
use crate::eval::scorer::{Layout, Scorer, bar};
use crate::eval::windows::Windows;
use crate::format::grouped;
use crate::interrupt;
use crate::open::{self, ModelText};
use crate::session;

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> Result<(), Error> {
    let checkpoint = open::open(args.model.as_deref())?;
    let tokenizer = ModelText::new(&checkpoint)?.tokenizer;
    let windows = Windows::read(&args.windows, &tokenizer, checkpoint.config())?;
    let layout = Layout::new(&args.windows, windows.count(), checkpoint.config().vocab);
    let kv = session::kv_type(&args.executor, &checkpoint);
    let model = Arc::new(Model::bind(checkpoint));
    let mut scorer = Scorer::new(Arc::clone(&model), layout, &args.executor, kv)?;
    interrupt::install()?;
    let perplexity = collect(&mut scorer, &windows, layout)?;
    let text = args.windows.text.display().to_string();
    let imatrix = Imatrix {
        datasets: vec![text.clone()],
        chunks: windows.count() as u32,
        chunk_tokens: args.windows.context,
        entries: entries(&model, scorer.executor())?,
    };
    imatrix.write(&args.output)?;
    eprintln!(
        "{}: {} tensors from {} windows of {} tokens of {text}; perplexity {:.4} +/- {:.4}",
        args.output.display(),
        imatrix.entries.len(),
        grouped(windows.count() as u64),
        windows.context(),
        perplexity.value,
        perplexity.error
    );
    Ok(())
}

/// Computes all windows while the executor collects, with the head of every row. Returns the perplexity of all tokens.
pub fn collect(scorer: &mut Scorer, windows: &Windows, layout: Layout) -> Result<Mean, Error> {
    scorer.executor().collect_inputs();
    let wanted = 0..windows.context() - 1;
    let mut losses = Vec::with_capacity(windows.count() * wanted.len());
    layout.each_step(windows, &wanted, &bar(windows.count(), "windows"), |step| {
        let kind =
            |window, position| OutputKind::Score { target: windows.token(window, position + 1), top: 0 };
        let rows = scorer.compute(windows, step, &wanted, kind)?;
        losses.extend(rows.iter().map(|row| -f64::from(row.chosen.logprob)));
        Ok(())
    })?;
    Ok(Mean::of(losses.into_iter()).exp())
}

/// What was collected, by tensor. Tensors that nothing went through are left out: an embedding table that is no head,
/// and the experts of a layer if none was chosen.
pub fn entries(model: &Model, executor: &CpuExecutor) -> Result<BTreeMap<String, ImatrixEntry>, Error> {
    let mut collected: BTreeMap<String, (Vec<f32>, Vec<f32>)> = BTreeMap::new();
    for id in (0..model.matrix_count()).map(|i| MatrixId(i as u32)) {
        let MatrixInputs { rows, squares } =
            executor.inputs(id).expect("collecting was asked for before the first step");
        // Matrices of a layer's experts come in their order.
        let (counts, sums) = collected.entry(gguf_name(model.matrix_name(id))).or_default();
        counts.push(rows as f32);
        sums.extend(squares.into_iter().map(|square| square as f32));
    }
    collected
        .into_iter()
        .filter(|(_, (counts, _))| counts.iter().any(|&count| count > 0.0))
        .map(|(name, (counts, sums))| Ok::<_, Error>((name, ImatrixEntry::new(counts, sums)?)))
        .collect()
}
