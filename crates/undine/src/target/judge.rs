//! A reference's answers over a text, kept in memory, and how far other weights of the same model are from
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use indicatif::ProgressBar;
use undine_core::OutputKind;
use undine_cpu::KvType;
use undine_model::Model;
use undine_weights::ImatrixEntry;

use crate::args::ExecutorArgs;
use crate::calibrate;
use crate::error::Error;
use crate::eval::measures::{Mean, Reference, Scored, predictions};
use crate::eval::not_finite;
use crate::eval::scorer::{Layout, Scorer, bar, places};
use crate::eval::windows::Windows;
use crate::format::Bytes;
use crate::session;

/// Memory for the reference's logits.
const REFERENCE_BYTES_MAX: u64 = 2 << 30;

/// A reference's logits at every prediction that counts.
pub struct Judge {
    windows: Windows,
    layout: Layout,
    executor: ExecutorArgs,
    /// `predictions x vocab`.
    reference: Vec<f32>,
    vocab: usize,
}

impl Judge {
    /// Computes the reference; also returns what went into its matrices, for an importance matrix.
    ///
    /// # Errors
    /// If its logits need too much memory or are not finite, or on Ctrl-C.
    pub fn new(
        reference: &Arc<Model>,
        windows: Windows,
        layout: Layout,
        executor: ExecutorArgs,
    ) -> Result<(Self, BTreeMap<String, ImatrixEntry>), Error> {
        let vocab = reference.config().vocab;
        let bytes = windows.scored_tokens() as u64 * vocab as u64 * size_of::<f32>() as u64;
        if bytes > REFERENCE_BYTES_MAX {
            return Err(Error::refused(format!(
                "the logits of {} predictions take {}, the limit is {}: expected fewer --chunks or a smaller --context",
                windows.scored_tokens(),
                Bytes(bytes),
                Bytes(REFERENCE_BYTES_MAX)
            )));
        }
        let kv = session::kv_type(&executor, reference.checkpoint());
        let mut scorer = Scorer::new(Arc::clone(reference), layout, &executor, kv)?;
        scorer.executor().collect_inputs();
        let mut logits = Vec::with_capacity(windows.scored_tokens() * vocab);
        layout.each_step(&windows, &bar(&windows), |step| {
            let rows = scorer.compute(&windows, step, |_, _| OutputKind::Logits)?;
            rows.iter().for_each(|row| logits.extend_from_slice(&row.logits));
            Ok(())
        })?;
        let entries = calibrate::entries(reference, scorer.executor())?;
        Ok((Self { windows, layout, executor, reference: logits, vocab }, entries))
    }

    /// Mean KL(reference || model) in nats per token. Keys and values are in half precision, as a quantized
    /// file's.
    pub fn kl(&self, model: Arc<Model>) -> Result<Mean, Error> {
        let mut scorer = Scorer::new(model, self.layout, &self.executor, KvType::F16)?;
        let mut reference = self.reference.chunks_exact(self.vocab);
        let mut divergences = Vec::with_capacity(self.windows.scored_tokens());
        self.layout.each_step(&self.windows, &ProgressBar::hidden(), |step| {
            let rows = scorer.compute(&self.windows, step, |_, _| OutputKind::Logits)?;
            let scored: Vec<Scored> = rows
                .iter()
                .zip(places(&self.windows, step))
                .map(|(row, (window, position))| Scored {
                    logits: &row.logits,
                    reference: reference.next().map(Reference::Logits),
                    target: self.windows.token(window, position + 1),
                })
                .collect();
            let found = predictions(&scored, session::threads(&self.executor)).ok_or_else(not_finite)?;
            divergences.extend(found.iter().filter_map(|prediction| Some(prediction.against?.kl)));
            Ok(())
        })?;
        Ok(Mean::of(divergences.into_iter()))
    }
}
