//! What a file holds and nobody computes with: told, because a model without a part of it may be another
//! model.

use std::collections::BTreeSet;
use std::sync::Arc;

use undine_core::{DType, quant};

use crate::limits::LEFT_OUT_SHOWN_MAX;
use crate::map::Bytes;
use crate::names;
use crate::tensor::{Tensor, TensorTable};
use crate::weight::Weight;

/// Rows of a head that are compared with the embedding's.
const ROWS_COMPARED: usize = 64;
/// How far a value that was rounded to BF16 may be from itself, relative to it.
const ROUNDED: f32 = 1.0 / 128.0;

/// A sentence about the tensors that none of `weights` lies in, if there are any.
pub(crate) fn tell<'a>(
    table: &TensorTable,
    weights: impl Iterator<Item = &'a Weight>,
    known: Option<&Tensor>,
    repairs: &mut Vec<String>,
) {
    let used: BTreeSet<(usize, usize)> = weights.map(|weight| (weight.file, weight.start)).collect();
    let is_used = |tensor: &Tensor| {
        let (start, end) = ((tensor.file, tensor.bytes.start), (tensor.file, tensor.bytes.end));
        start == end || used.range(start..end).next().is_some()
    };
    let left: Vec<&str> = table
        .tensors
        .iter()
        .filter(|tensor| !is_used(tensor) && known.is_none_or(|known| known.name != tensor.name))
        .map(|tensor| tensor.name.as_str())
        .filter(|name| !names::is_idle(name))
        .collect();
    let shown = left[..left.len().min(LEFT_OUT_SHOWN_MAX)].join(", ");
    match (left.len(), left.len().saturating_sub(LEFT_OUT_SHOWN_MAX)) {
        (0, _) => {}
        (1, _) => repairs.push(format!("A tensor has no place in this model and is not used: {shown}.")),
        (count, 0) => {
            repairs.push(format!("{count} tensors have no place in this model and are not used: {shown}."))
        }
        (count, more) => repairs.push(format!(
            "{count} tensors have no place in this model and are not used: {shown} and {more} more."
        )),
    }
}

/// A sentence about a head that the configuration ties to the embedding, if it is not the same: it was
/// trained for nothing.
pub(crate) fn tell_tied_head(
    head: &Tensor,
    embedding: &Weight,
    files: &[Arc<Bytes>],
    repairs: &mut Vec<String>,
) {
    let (cols, step) = (embedding.cols, embedding.rows.div_ceil(ROWS_COMPARED).max(1));
    let row = |bytes: &[u8], dtype: DType, at: usize| -> Option<Vec<f32>> {
        let len = dtype.row_bytes(cols)?;
        let mut values = vec![0.0; cols];
        quant::decode(dtype, bytes.get(at * len..(at + 1) * len)?, &mut values);
        Some(values)
    };
    if files[head.file].is_made() || files[embedding.file].is_made() {
        // Packed ones are not unpacked for this.
        return;
    }
    let own = &files[head.file][head.bytes.clone()];
    let table = &files[embedding.file][embedding.start..embedding.start + embedding.len];
    // What was rounded to another type is the same.
    let tolerance = if head.dtype == embedding.dtype { 0.0 } else { ROUNDED };
    let is_same = |at: usize| {
        let (Some(a), Some(b)) = (row(own, head.dtype, at), row(table, embedding.dtype, at)) else {
            return false;
        };
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= tolerance * b.abs())
    };
    if !(0..embedding.rows).step_by(step).all(is_same) {
        repairs.push(format!(
            "{} is not the embedding, but the configuration ties the two, so it is not used; if it was trained, set \
             tie_word_embeddings to false.",
            head.name
        ));
    }
}
